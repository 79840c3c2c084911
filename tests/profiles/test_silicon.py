"""Measured tables: points come back, curves rise, borrowed shapes are exact where utilisation is constant."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import silicon_tables
from profiles.device import load_device
from profiles.errors import InputError
from profiles.ops import EXTRAPOLATED, INTERPOLATED, MEASURED, MODELLED, Cost, Link
from profiles.plan import FORMAT_BYTES
from profiles.roofline import Roofline
from profiles.silicon import Silicon, coverage, silicon_available, silicon_systems
from profiles.silicon_curves import Curve, isotonic, isotonic2
from profiles.silicon_shapes import (
    Neighbour,
    borrowed,
    borrowed_surface,
    fastest,
    gemm_curve,
    roof_of,
    site_surface,
    whole,
)
from profiles.silicon_tables import Table

LAWS = settings(deadline=None, max_examples=40, derandomize=True)
measured = pytest.mark.skipif(not silicon_available(), reason="measured tables (extra silicon) not installed")
NODE = Link(
    ranks=8, nodes=1, intra_bandwidth=450e9, inter_bandwidth=50e9, intra_latency_s=1e-6, inter_latency_s=5e-6
)


class Roof:
    """The plainest roofline: max(FLOPs / peak, bytes / bandwidth) of an H100."""

    @staticmethod
    def _cost(flops, moved):
        flops, moved = np.broadcast_arrays(np.asarray(flops, float), np.asarray(moved, float))
        seconds = np.maximum(flops / 989e12, moved / 3.35e12)
        return Cost(
            seconds=seconds, flops=flops, bytes=moved, provenance=np.full(seconds.shape, MODELLED, np.int8)
        )

    def gemm(self, m, *, n, k, weight, activation):
        return self._cost(
            2.0 * m * n * k, (m > 0) * n * k * FORMAT_BYTES[weight] + m * (n + k) * FORMAT_BYTES[activation]
        )

    def prefill_attention(self, tokens, *, q_heads, kv_heads, head_dim, value_dim, window, causal, kv):
        reach = np.minimum(tokens, window or tokens)
        pairs = tokens * reach - reach * reach / 2 if causal else tokens * tokens
        width = head_dim + value_dim
        return self._cost(
            2 * q_heads * width * pairs, tokens * width * (2 * q_heads + kv_heads * FORMAT_BYTES[kv])
        )

    def decode_attention(self, batch, context, *, q_heads, kv_heads, head_dim, value_dim, window, kv):
        read = batch * np.minimum(context, window or context)
        width = head_dim + value_dim
        return self._cost(2 * read * q_heads * width, read * kv_heads * width * FORMAT_BYTES[kv])

    def mixed_attention(self, batch, context, **heads):
        nothing = np.zeros(np.broadcast_shapes(np.shape(batch), np.shape(context)))
        return nothing, nothing

    knows_mixing = False

    def mla_prefill(self, tokens, *, heads, head_dim, value_dim, kv_rank, rope_dim, kv):
        width = heads * (head_dim + value_dim)
        return self._cost(width * tokens * tokens, 4.0 * width * tokens)

    def mla_decode(self, batch, context, *, heads, head_dim, value_dim, kv_rank, rope_dim, kv):
        read = batch * context
        return self._cost(
            2 * read * heads * (2 * kv_rank + rope_dim), read * (kv_rank + rope_dim) * FORMAT_BYTES[kv]
        )

    def moe(self, tokens, *, hidden, inner, experts, top_k, tp, ep, gated, weight, activation):
        parameters = hidden * inner / tp * (3 if gated else 2)
        active = experts / ep * (1 - (1 - top_k / experts) ** tokens)
        return self._cost(
            2 * tokens * top_k / ep * parameters,
            active * parameters * FORMAT_BYTES[weight] + 4 * tokens * hidden,
        )

    def stream(self, read_bytes):
        return self._cost(0, read_bytes)

    def collective(self, kind, payload_bytes, link):
        hops = (link.ranks - 1) / link.ranks * (2 if kind == "all_reduce" else 1)
        seconds = 5e-6 + hops * payload_bytes / link.intra_bandwidth
        return replace(
            self._cost(0, 0 * payload_bytes), seconds=seconds, provenance=np.full(seconds.shape, 3, np.int8)
        )


BF16 = {"weight": "bf16", "activation": "bf16"}
HEADS = {"head_dim": 128, "value_dim": 128, "window": 0, "kv": "bf16"}
GQA, GQA_8 = {"q_heads": 64, "kv_heads": 8}, {"q_heads": 8, "kv_heads": 1}  # Llama-3-70B, 1/8 of it
MLA = {"head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}
MIXTRAL = {"hidden": 4096, "inner": 14336, "experts": 8, "top_k": 2, "gated": True}


def one(cost):
    return float(cost.seconds[0]) * 1e6, int(cost.provenance[0])


@pytest.fixture(scope="module")
def h100():
    return Silicon("h100_sxm", fallback=Roof())


# --- monotone regression -------------------------------------------------------------------------


def slow_isotonic(values):
    """min-max formula of isotonic regression: max over starts of min over ends of the mean."""
    logs = np.log(values)
    size = len(logs)
    return np.exp(
        [max(min(logs[a : b + 1].mean() for b in range(i, size)) for a in range(i + 1)) for i in range(size)]
    )


@LAWS
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12))
def test_isotonic_equals_the_min_max_formula(values):
    result = isotonic(np.array(values))
    assert (np.diff(result) >= 0).all()
    assert np.allclose(result, slow_isotonic(np.array(values)), rtol=1e-9)


@LAWS
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_isotonic_surface_rises_along_both_axes(rows, columns, seed):
    values = np.exp(np.random.default_rng(seed).normal(size=(rows, columns)))
    result = isotonic2(values)
    assert (np.diff(result, axis=0) >= 0).all()
    assert (np.diff(result, axis=1) >= 0).all()


def test_rising_points_are_left_alone():
    values = np.array([1.0, 1.0, 2.0, 7.0])
    assert isotonic(values) is values


# --- borrowed shapes: a machine of constant utilisation is reproduced exactly --------------------

SHARE = 0.7


def constant_gemm_table():
    roof = Roof()
    sites = np.array([(n, k) for n in (128, 512, 4096) for k in (256, 1024)])
    m = np.array([1.0, 16, 128, 1024])
    seconds = np.stack([roof.gemm(m, n=n, k=k, **BF16).seconds / SHARE for n, k in sites])
    return Table(sites=sites, axes=(m,), seconds=seconds, source="test")


@LAWS
@given(n=st.integers(64, 9000), k=st.integers(100, 3000), m=st.sampled_from([1, 16, 128, 1024, 5000]))
def test_unseen_gemm_is_exact_at_constant_utilisation(n, k, m):
    roof = Roof()
    curve = gemm_curve(
        constant_gemm_table(), n, k, lambda n, k: lambda m: roof.gemm(m, n=n, k=k, **BF16).seconds
    )
    x = np.array([float(m)])
    seconds, grade = curve.at(x, lambda m: roof.gemm(m, n=n, k=k, **BF16).seconds)
    assert seconds == pytest.approx(roof.gemm(x, n=n, k=k, **BF16).seconds / SHARE)
    inside = 128 <= n <= 4096 and 256 <= k <= 1024
    on_site = n in (128, 512, 4096) and k in (256, 1024)
    expected = MEASURED if on_site else INTERPOLATED if inside else EXTRAPOLATED
    assert grade[0] == (max(expected, EXTRAPOLATED) if m > 1024 else expected)


@LAWS
@given(
    inner=st.integers(200, 9000), experts=st.sampled_from([8, 60, 128]), top_k=st.sampled_from([1, 2, 6]),
    fmt=st.sampled_from(["bf16", "int4"]), stretch=st.sampled_from([0.25, 1.0, 3.0]),
)  # fmt: skip
def test_borrowed_experts_are_exact_at_constant_utilisation(inner, experts, top_k, fmt, stretch):
    def roof(**shape):
        return lambda t: Roof().moe(t, **(MIXTRAL | {"tp": 2, "ep": 1} | BF16 | shape)).seconds

    knots = np.array([1.0, 16, 256, 4096])
    neighbours = [
        Neighbour(weight, Curve(knots=knots, seconds=theirs(knots) / SHARE, grade=MEASURED), theirs, stretch)
        for weight, theirs in ((0.3, roof()), (2.0, roof(inner=1024, experts=64)))
    ]
    ours = roof(inner=inner, experts=experts, top_k=top_k, weight=fmt)
    x = np.unique(whole(knots * stretch)).astype(float)
    if stretch == 1.0:  # else neighbours' points fall between their knots, where lines cut corners
        assert borrowed(neighbours, ours, EXTRAPOLATED).at(x, ours)[0] == pytest.approx(ours(x) / SHARE)
    assert (borrowed(neighbours, ours, EXTRAPOLATED).at(x, ours)[0] >= ours(x)).all()


def decode_roof(q, h):
    def seconds(batch, context):
        return Roof().decode_attention(batch, context, q_heads=q, kv_heads=h, **HEADS).seconds

    return seconds


def constant_decode_table():
    batch, context = np.array([1.0, 2, 4, 8, 16]), np.array([2.0, 64, 512, 4096])
    seconds = decode_roof(8, 2)(batch[:, None], context[None, :]) / SHARE
    seconds[batch[:, None] * context[None, :] > 8000] = np.nan  # would not fit
    return Table(
        sites=np.array([(8, 2, 128, 0)]), axes=(batch, context), seconds=seconds[None], source="test"
    )


def test_what_did_not_fit_continues_at_the_share_of_the_last_that_did():
    surface = site_surface(constant_decode_table(), 0, decode_roof(8, 2))
    assert surface.seconds == pytest.approx(
        decode_roof(8, 2)(surface.batch[:, None], surface.context[None, :]) / SHARE
    )
    assert surface.grades[0, -1] == MEASURED
    assert surface.grades[-1, -1] == EXTRAPOLATED


@LAWS
@given(
    batch=st.integers(1, 40), context=st.integers(2, 9000), kv_heads=st.sampled_from([1, 2, 4, 6, 16]),
    group=st.sampled_from([4, 8]),
)  # fmt: skip
def test_kv_heads_and_sequences_are_exchanged(batch, context, kv_heads, group):
    theirs, ours = decode_roof(4 * kv_heads, kv_heads), decode_roof(group * kv_heads, kv_heads)
    surface = site_surface(constant_decode_table(), 0, decode_roof(8, 2))
    surface = borrowed_surface(surface, theirs, ours, INTERPOLATED, share=kv_heads / 2)
    b, x = np.array([float(batch)]), np.array([float(context)])
    if kv_heads >= 2:  # fewer heads: a batch below the least measured keeps that one's time
        assert surface.at(b, x, ours)[0] == pytest.approx(ours(b, x) / SHARE)
    assert surface.at(b, x, ours)[0] >= ours(b, x)


def test_fastest_is_the_lower_envelope():
    a = Curve(knots=np.array([1.0, 2, 4]), seconds=np.array([1.0, 2, 9]), grade=MEASURED)
    b = Curve(knots=np.array([2.0, 4, 8]), seconds=np.array([3.0, 4, 5]), grade=MEASURED)
    both = fastest([a, b])
    assert both.knots.tolist() == [1, 2, 4, 8]
    assert both.seconds.tolist() == [1, 2, 4, 5]
    assert fastest([]) is None


# --- the installed tables ------------------------------------------------------------------------


@measured
def test_gemm_points_are_those_of_the_file(h100):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = silicon_tables._data() / "h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    filters = [("gemm_dtype", "=", "bfloat16"), ("n", "=", 10240), ("k", "=", 8192)]
    rows = parquet.read_table(path, filters=filters, columns=["m", "latency"]).to_pandas().sort_values("m")
    cost = h100.gemm(rows.m.to_numpy(), n=10240, k=8192, **BF16)
    assert np.allclose(cost.seconds, isotonic(rows.latency.to_numpy() * 1e-3))
    assert (cost.provenance == MEASURED).all()
    assert np.median(np.abs(cost.seconds / (rows.latency.to_numpy() * 1e-3) - 1)) < 0.01


@measured
@pytest.mark.parametrize(
    ("microseconds", "operation"),
    # Answers of AIConfigurator 0.12 to the same questions. It smooths nothing and interpolates some
    # points that were measured, hence a few per cent.
    [
        (697.8, lambda s: s.gemm(np.array([4096]), n=8192, k=8192, **BF16)),
        (496.1, lambda s: s.gemm(np.array([4096]), n=8192, k=8192, weight="fp8", activation="fp8")),
        (60.8, lambda s: s.gemm(np.array([1]), n=10240, k=8192, **BF16)),
        (499.0, lambda s: s.prefill_attention(np.array([4096]), **GQA, causal=True, **HEADS)),
        (36.6, lambda s: s.decode_attention(np.array([32]), np.array([4096]), **GQA_8, **HEADS)),
        (5.3, lambda s: s.collective("all_reduce", np.array([16384.0]), NODE)),
        (344.0, lambda s: s.collective("all_reduce", np.array([2.0**26]), NODE)),
    ],
)  # fmt: skip
def test_answers_of_aiconfigurator_are_reproduced(h100, microseconds, operation):
    value, provenance = one(operation(h100))
    assert value == pytest.approx(microseconds, rel=0.06)
    assert provenance == MEASURED


@measured
def test_mixtral_experts_of_aiconfigurator_are_reproduced():
    silicon = Silicon("h100_sxm", fallback=Roof(), moe_distribution="balanced")
    assert one(silicon.moe(np.array([256]), tp=8, ep=1, **MIXTRAL, **BF16)) == pytest.approx(
        (167.6, MEASURED), 0.01
    )


@measured
def test_decode_of_llama_70b_reads_its_weights(h100):
    """70e9 bf16 parameters over 8 devices at 3.35 TB/s: 5.2 ms at least; measured near 84 % of that."""
    layer = [(1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584)]
    seconds = 80 * sum(h100.gemm(np.array([1]), n=n, k=k, **BF16).seconds[0] for n, k in layer)
    assert 5.1e-3 < seconds < 7.2e-3


OPERATIONS = (
    "gemm", "prefill", "encoder", "decode-batch", "decode-context", "mla_prefill", "mla_decode", "moe",
    "collective",
)  # fmt: skip
SHAPES = st.fixed_dictionaries(
    {
        "operation": st.sampled_from(OPERATIONS),
        "width": st.sampled_from([1, 2, 4, 7, 8, 16, 28, 64, 100]),
        "format": st.sampled_from(["bf16", "fp8", "int8", "int4", "fp4", "mxfp4"]),
        "kind": st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"]),
        "window": st.sampled_from([0, 128, 4096]),
        "seed": st.integers(0, 2**31),
    }
)  # fmt: skip


def along(silicon, operation, width, format, kind, window, seed):
    """Cost along its load, for a shape drawn at random; the load rises from 0 to beyond what was measured."""
    rng = np.random.default_rng(seed)
    load = np.unique(np.concatenate([[0, 1, 2], np.exp(rng.uniform(0, 13, 200)).astype(np.int64)]))
    kv = "bf16" if "4" in format else format
    activation = "fp8" if format == "fp8" else "bf16"
    heads = HEADS | {"window": window, "kv": kv}
    if operation == "gemm":
        n, k = rng.integers(16, 150_000), rng.integers(16, 70_000)
        return silicon.gemm(load, n=int(n), k=int(k), weight=format, activation=activation)
    if operation in ("prefill", "encoder"):
        causal = operation == "prefill"
        return silicon.prefill_attention(load, q_heads=8 * width, kv_heads=width, causal=causal, **heads)
    if operation == "decode-batch":
        return silicon.decode_attention(load, np.array(777), q_heads=4 * width, kv_heads=width, **heads)
    if operation == "decode-context":
        return silicon.decode_attention(np.array(33), load, q_heads=4 * width, kv_heads=width, **heads)
    if operation == "mla_prefill":
        return silicon.mla_prefill(load, heads=width, **(MLA | {"kv": kv}))
    if operation == "mla_decode":
        return silicon.mla_decode(load, np.array(500), heads=width, **(MLA | {"kv": kv}))
    if operation == "moe":
        return silicon.moe(
            load, hidden=2048, inner=64 * width, experts=64, top_k=6, tp=2, ep=4, gated=bool(seed % 2),
            weight=format, activation=activation,
        )  # fmt: skip
    link = replace(NODE, ranks=1 + width % 9)
    return silicon.collective(kind, load.astype(float) * 1e4, link)


@measured
@LAWS
@given(SHAPES)
def test_no_time_falls_when_the_load_grows(h100, shape):
    cost = along(h100, **shape)
    assert np.isfinite(cost.seconds).all()
    assert (np.diff(cost.seconds) >= -1e-12 * cost.seconds[1:]).all()
    assert (cost.seconds[1:] > 0).all()
    assert cost.provenance.min() >= MEASURED
    assert cost.provenance.max() <= MODELLED


@measured
def test_four_bits_are_those_that_were_measured():
    b200 = Silicon("b200_sxm", fallback=Roofline(load_device("b200")))
    rows = np.array([1, 4096])
    shape = {"n": 8192, "k": 8192}
    wide, narrow = (b200.gemm(rows, **shape, weight=f, activation=f) for f in ("fp8", "fp4"))
    assert (narrow.provenance == MEASURED).all()
    assert (narrow.seconds < wide.seconds).all()
    experts = {"hidden": 2880, "inner": 2880, "experts": 128, "top_k": 4, "tp": 1, "ep": 1, "gated": True}
    for activation in ("bf16", "fp8"):
        cost = b200.moe(rows, **experts, weight="mxfp4", activation=activation)
        assert (cost.provenance < MODELLED).all()


@measured
def test_scales_of_fp8_are_those_of_the_checkpoint():
    rows = np.array([1, 64, 4096])
    fp8 = {"n": 8192, "k": 7168, "weight": "fp8", "activation": "fp8"}
    roof = Roofline(load_device("h100"))
    tensor, static, block = (
        Silicon("h100_sxm", engine="trtllm", fallback=roof, fp8_scales=scales)
        for scales in ("tensor", "static", "block")
    )
    assert (static.gemm(rows, **fp8).seconds < tensor.gemm(rows, **fp8).seconds).all()
    exact = static.gemm(rows, **fp8)
    assert (exact.seconds > exact.flops / 2e15).all()
    assert (block.gemm(rows, **fp8).provenance == MEASURED).all()
    vllm = Silicon("h100_sxm", fallback=roof, fp8_scales="block")
    assert vllm.gemm(rows, **fp8).seconds[0] < 40e-6  # not the launches of vLLM's table
    with pytest.raises(InputError, match="did you mean 'block'"):
        Silicon("h100_sxm", fallback=roof, fp8_scales="blocks")


@measured
def test_provenance_says_how_a_number_came_about(h100):
    m = np.array([1, 300, 40_000])
    assert h100.gemm(m, n=8192, k=8192, **BF16).provenance.tolist() == [MEASURED, INTERPOLATED, EXTRAPOLATED]
    assert h100.gemm(m, n=9000, k=8192, **BF16).provenance.tolist() == [
        INTERPOLATED,
        INTERPOLATED,
        EXTRAPOLATED,
    ]
    assert (h100.gemm(m, n=200_000, k=8192, **BF16).provenance == EXTRAPOLATED).all()
    assert (h100.gemm(m, n=8192, k=8192, weight="int4", activation="bf16").provenance == MODELLED).all()
    assert (h100.stream(np.array([1e6])).provenance == MODELLED).all()
    two_nodes = replace(NODE, ranks=16, nodes=2)
    assert (h100.collective("all_reduce", np.array([1e6]), two_nodes).provenance == MODELLED).all()


@measured
def test_flops_and_bytes_are_the_fallbacks(h100):
    m = np.arange(0, 5000, 7)
    cost, roof = h100.gemm(m, n=8192, k=1024, **BF16), Roof().gemm(m, n=8192, k=1024, **BF16)
    assert (cost.flops == roof.flops).all()
    assert (cost.bytes == roof.bytes).all()


@measured
def test_other_engines_stand_in_and_are_named(h100):
    h100.mla_decode(np.array([8]), np.array([1024]), heads=16, **MLA)
    assert h100.sources["mla_decode"].startswith("sglang")
    lines = {line.operation: line for line in coverage("h100_sxm", "vllm")}
    assert lines["mla_decode"].engine == "sglang"
    assert lines["gemm"].engine == "vllm"
    assert lines["gemm"].rows > 100_000
    assert "fp8" in lines["gemm"].formats


@measured
def test_many_kv_heads_are_many_sequences(h100):
    """vLLM's decode table ends at 8 KV heads: 64 heads of their own are 8 times as many sequences of 8."""
    batch, context = np.array([1, 3, 4, 16]), np.array([1000, 1024, 4096, 100])
    many = h100.decode_attention(batch, context, q_heads=64, kv_heads=64, **HEADS)
    few = h100.decode_attention(8 * batch, context, q_heads=8, kv_heads=8, **HEADS)
    assert many.seconds == pytest.approx(few.seconds)
    assert (many.provenance == INTERPOLATED).all()


@measured
def test_a_version_with_one_model_does_not_hide_the_full_sweep():
    silicon = Silicon("h100_sxm", engine="trtllm", fallback=Roof())
    assert one(silicon.moe(np.array([256]), tp=8, ep=1, **MIXTRAL, **BF16))[1] == MEASURED
    assert silicon.sources["moe"] == "trtllm 1.3.0rc20"  # 1.3.0rc23 has two shapes only


def test_of_repeated_points_the_fastest_counts():
    columns = {
        "num_heads": np.array([8, 8, 8]), "isl": np.array([16, 32, 16]), "latency": np.array([0.3, 0.5, 0.2])
    }  # fmt: skip
    table = silicon_tables._tabulate(columns, silicon_tables.SPECS["mla_prefill"], "test")
    assert table.axes[0].tolist() == [16, 32]
    assert table.seconds == pytest.approx(np.array([[2e-4, 5e-4]]))


@measured
@pytest.mark.parametrize("system", ["a100_sxm", "l40s", "b60"])
def test_systems_with_gaps_answer_everything(system):
    silicon = Silicon(system, engine="vllm", fallback=Roof())
    for operation in ("gemm", "prefill", "encoder", "decode-batch", "mla_prefill", "mla_decode", "moe"):
        cost = along(silicon, operation, 8, "fp8", "all_reduce", 0, 1)
        assert (cost.seconds[1:] > 0).all()


@measured
def test_mistakes_name_the_nearest_choice():
    with pytest.raises(InputError, match="did you mean 'h100_sxm'"):
        Silicon("h100_sx", fallback=Roof())
    with pytest.raises(InputError, match="did you mean 'vllm'"):
        Silicon("h100_sxm", engine="vlm", fallback=Roof())
    with pytest.raises(InputError, match="balanced"):
        Silicon("h100_sxm", fallback=Roof(), moe_distribution="balance")


def test_without_the_package_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(silicon_tables, "_data", lambda: None)
    silicon_tables._measured_systems.cache_clear()
    try:
        assert not silicon_available()
        assert silicon_systems() == []
        with pytest.raises(InputError, match="not installed"):
            Silicon("h100_sxm", fallback=Roof())
    finally:
        silicon_tables._measured_systems.cache_clear()


def test_roofs_count_whole_loads():
    seen = []
    roof_of(lambda load: seen.append(load) or Roof().stream(load))(np.array([0.0, 0.2, 1.6]))
    assert seen[0].tolist() == [0, 1, 2]
