"""Roofline: physical laws of every operation, MoE against a simulated router, clocks, measured shares."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.collectives import collective_s, nccl_s
from profiles.device import known_devices, load_device
from profiles.efficiency import Work
from profiles.fleet import homogeneous
from profiles.ops import MODELLED, Cost
from profiles.plan import FORMAT_BYTES
from profiles.roofline import Roofline, at_clock, attended_pairs, busiest_pairs, experts_hit
from profiles.silicon_tables import load_table, silicon_available

LAWS = settings(deadline=None, max_examples=40, derandomize=True)
HEADS = {"q_heads": 8, "kv_heads": 2, "head_dim": 128, "value_dim": 128, "window": 0, "kv": "bf16"}
MLA = {"heads": 16, "head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}
EXPERTS = {"hidden": 4096, "inner": 1536, "experts": 64, "top_k": 4, "tp": 1, "ep": 4, "gated": True}
BF16 = {"weight": "bf16", "activation": "bf16"}
LOADS = np.unique(np.geomspace(1, 200_000, 80).astype(np.int64))


def roofline(name="h100", **more):
    return Roofline(load_device(name), **more)


def operations(roof):
    """Every operation as a function of one load."""
    link = homogeneous(roof.device.name).pools[0].link(2, 1)
    return {
        "gemm": lambda x: roof.gemm(x, n=4096, k=2048, **BF16),
        "gemm fp8": lambda x: roof.gemm(x, n=4096, k=2048, weight="fp8", activation="fp8"),
        "gemm int4": lambda x: roof.gemm(x, n=4096, k=2048, weight="int4", activation="bf16"),
        "prefill": lambda x: roof.prefill_attention(x, causal=True, **HEADS),
        "window": lambda x: roof.prefill_attention(x, causal=True, **(HEADS | {"window": 128})),
        "encoder": lambda x: roof.prefill_attention(x, causal=False, **HEADS),
        "decode": lambda x: roof.decode_attention(x, np.array(500), **HEADS),
        "context": lambda x: roof.decode_attention(np.array(7), x, **HEADS),
        "mla prefill": lambda x: roof.mla_prefill(x, **MLA),
        "mla decode": lambda x: roof.mla_decode(x, np.array(500), **MLA),
        "moe": lambda x: roof.moe(x, **EXPERTS, **BF16),
        "stream": lambda x: roof.stream(x * 1e3),
        "all_reduce": lambda x: roof.collective("all_reduce", x * 1e3, link),
    }


@pytest.mark.parametrize("name", known_devices())
@pytest.mark.parametrize("operation", operations(roofline()))
def test_costs_keep_the_laws(name, operation):
    device = load_device(name)
    cost = operations(Roofline(device))[operation](LOADS)
    for array in (cost.seconds, cost.flops, cost.bytes, cost.provenance):
        assert array.shape == LOADS.shape
    assert (cost.seconds > 0).all() and (cost.provenance == MODELLED).all()
    for array in (cost.seconds, cost.flops, cost.bytes):
        assert (np.diff(array) >= 0).all()
    if operation != "all_reduce":  # its bytes go by at the pace of the link
        peak = max(device.dense_flops.values())
        assert (cost.seconds >= cost.flops / peak).all()
        assert (cost.seconds >= cost.bytes / device.bandwidth).all()


@pytest.mark.parametrize("operation", operations(roofline()))
def test_no_work_takes_no_time(operation):
    cost = operations(roofline())[operation](np.array([0, 3]))
    if operation != "context":  # a launch that finds nothing in the cache
        assert cost.seconds[0] == cost.flops[0] == cost.bytes[0] == 0
    assert cost.seconds[1] > 0


@LAWS
@given(m=st.integers(1, 10**5), n=st.integers(1, 20000), k=st.integers(1, 20000))
def test_gemm_counts_what_it_does(m, n, k):
    cost = roofline().gemm(np.array([m]), n=n, k=k, **BF16)
    assert cost.flops == 2 * m * n * k
    assert cost.bytes == 2 * (n * k + m * k + m * n)


@LAWS
@given(n=st.integers(1, 300), window=st.integers(0, 300), causal=st.booleans())
def test_attended_pairs_equal_counting(n, window, causal):
    if causal:
        count = sum(1 for q in range(n) for k in range(q + 1) if not window or q - k < window)
    else:
        count = sum(min(n, window or n) for _ in range(n))
    assert attended_pairs(np.array(float(n)), window, causal) == count


def test_formats_change_bytes_and_the_rate_of_the_wider_one_computes():
    one, many = np.array([1]), np.array([65536])

    def seconds(m, weight, activation, name="h100"):
        return roofline(name).gemm(m, n=8192, k=8192, weight=weight, activation=activation).seconds.item()

    assert seconds(one, "int4", "bf16") < seconds(one, "int8", "bf16") < seconds(one, "bf16", "bf16")
    assert seconds(many, "int4", "bf16") == pytest.approx(seconds(many, "bf16", "bf16"), rel=1e-3)
    assert seconds(many, "fp8", "fp8") < 0.8 * seconds(many, "bf16", "bf16")
    assert seconds(many, "fp8", "fp8", "a100") >= seconds(many, "bf16", "bf16", "a100")  # has no fp8
    assert seconds(many, "int8", "int8", "a100") < 0.7 * seconds(many, "bf16", "bf16", "a100")


def test_kv_format_and_window_change_what_decode_reads():
    batch, context = np.array([64]), np.array([4096])

    def cost(**change):
        return roofline().decode_attention(batch, context, **(HEADS | change))

    read = 64 * 4096 * 2 * 256
    queries = 64 * 8 * 256 * 2
    assert cost().bytes == read * 2 + queries and cost(kv="fp8").bytes == read + queries
    windowed = roofline().decode_attention(batch, np.array([512]), **HEADS)
    assert cost(window=512).seconds == windowed.seconds
    assert cost(kv="fp8").seconds < cost().seconds


def test_mla_reads_the_compressed_cache_once_for_all_heads():
    one, context = np.array([1]), np.array([10_000])
    small, large = (roofline().mla_decode(one, context, **(MLA | {"heads": h})).bytes for h in (1, 128))
    assert large < 1.05 * small + 128 * 1088 * 2
    assert small > 10_000 * 576 * 2


def simulated_router(rng, tokens, top_k, experts):
    """Pairs of each expert when every token picks ``top_k`` different ones."""
    picks = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k]
    return np.bincount(picks.ravel(), minlength=experts)


@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(1, 2, 8), (16, 2, 8), (8, 8, 256), (200, 8, 256)])
def test_experts_hit_equals_a_simulated_router(tokens, top_k, experts):
    rng = np.random.default_rng(0)
    hit = np.mean([(simulated_router(rng, tokens, top_k, experts) > 0).sum() for _ in range(300)])
    assert experts_hit(np.array(float(tokens)), top_k, experts) == pytest.approx(hit, rel=0.02)


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "ep"), [(64, 8, 256, 8), (1000, 8, 256, 32), (4096, 2, 8, 8)]
)
def test_the_busiest_device_is_near_a_simulated_router(tokens, top_k, experts, ep):
    rng = np.random.default_rng(0)
    loads = [simulated_router(rng, tokens, top_k, experts).reshape(ep, -1).sum(1).max() for _ in range(60)]
    modelled = float(busiest_pairs(np.array(float(tokens)), top_k, experts, ep))
    assert 0.97 * np.mean(loads) < modelled < 1.15 * np.mean(loads)


@LAWS
@given(tokens=st.floats(0, 1e7), top_k=st.integers(1, 8), local=st.integers(1, 64), ep=st.integers(1, 64))
def test_the_busiest_device_has_between_its_share_and_all_it_can_take(tokens, top_k, local, ep):
    experts = max(local * ep, top_k)
    pairs = busiest_pairs(np.array(tokens), top_k, experts, ep)
    assert tokens * top_k / ep * (1 - 1e-12) <= pairs or pairs == tokens * min(top_k, experts / ep)
    assert pairs <= tokens * min(top_k, experts / ep) * (1 + 1e-12)
    if ep == 1:
        assert pairs == pytest.approx(tokens * min(top_k, experts))


def test_imbalance_costs_and_fades_with_tokens():
    tokens = np.array([32, 200_000])
    random = roofline().moe(tokens, **EXPERTS, **BF16).seconds
    even = roofline(routing="balanced").moe(tokens, **EXPERTS, **BF16).seconds
    excess = random / even - 1
    assert excess[0] > 0.04 and 0 < excess[1] < 0.02


def test_splitting_experts_spreads_weights_and_work():
    alone, tp, ep = (
        roofline(routing="balanced").moe(np.array([4096]), **(EXPERTS | {"tp": t, "ep": e}), **BF16)
        for t, e in ((1, 1), (4, 1), (1, 4))
    )
    assert tp.flops == ep.flops == alone.flops / 4
    assert tp.bytes < alone.bytes and ep.bytes < alone.bytes


@LAWS
@given(
    clock=st.integers(200, 1980), flops=st.floats(0, 1e15), moved=st.floats(1, 1e11), slack=st.floats(1, 5)
)
def test_a_lower_clock_slows_compute_and_not_memory(clock, flops, moved, slack):
    h100 = load_device("h100")
    need = max(flops / h100.flops("bf16"), moved / h100.bandwidth)
    cost = Cost(
        seconds=np.array([need * slack]), flops=np.array([flops]), bytes=np.array([moved]),
        provenance=np.zeros(1, np.int8),
    )  # fmt: skip
    slower = at_clock(cost, h100, clock)
    ratio = (slower.seconds / cost.seconds).item()
    share = flops / h100.flops("bf16") / need
    assert ratio == pytest.approx(max(1.0, share * 1980 / clock))
    assert 1.0 <= ratio <= 1980 / clock * (1 + 1e-12)
    assert at_clock(cost, h100, 0) is cost and at_clock(cost, h100, 1980) is cost


def test_both_ways_to_lower_a_clock_agree_where_one_resource_binds():
    fast, slow = roofline(), roofline(clock_mhz=990)
    work = {"n": 8192, "k": 8192, **BF16}
    for m in (1, 32768):
        direct = slow.gemm(np.array([m]), **work).seconds
        scaled = at_clock(fast.gemm(np.array([m]), **work), fast.device, 990).seconds
        assert direct == pytest.approx(scaled, rel=0.01)
    with pytest.raises(ValueError, match="clock_mhz"):
        roofline(clock_mhz=5000)


@pytest.mark.skipif(not silicon_available(), reason="measured tables (extra silicon) not installed")
@pytest.mark.parametrize(
    ("system", "name"),
    [("h100_sxm", "h100"), ("h200_sxm", "h200"), ("b200_sxm", "b200"), ("a100_sxm", "a100"),
     ("rtx_pro_6000_server", "rtx-pro-6000")],
)  # fmt: skip
def test_bf16_products_are_near_the_measured_tables(system, name):
    """Medians over all shapes of 16M weights or more, per range of rows, within 25 %."""
    table = load_table(system, "vllm", "gemm", (("gemm_dtype", "bfloat16"),), False)
    rows, ratios = table.axes[0], []
    for (n, k), measured in zip(table.sites.tolist(), table.seconds, strict=True):
        if n * k >= 2**24:
            modelled = roofline(name).gemm(rows.astype(np.int64), n=n, k=k, **BF16).seconds
            ratios.append(modelled / measured)
    for low, high in ((1, 16), (64, 512), (1024, 32768)):
        inside = np.array(ratios)[:, (rows >= low) & (rows <= high)]
        assert 0.75 < np.nanmedian(inside) < 1.25, (low, high)


class Counted(Roofline):
    """A roofline that keeps what it counts."""

    def _cost(self, operation, form, work, there):
        self.law, self.work = f"{operation} {form}", work
        return super()._cost(operation, form, work, there)


SMS = load_device("h100").sm_count
TEN, FOUR = np.array([10]), np.array([4])


@pytest.mark.parametrize(
    ("ask", "law", "expected"),
    [
        (lambda r: r.gemm(TEN, n=30, k=20, weight="bf16", activation="bf16"), "gemm bf16",
         {"flops": 12000, "moved": 2 * (600 + 200 + 300), "idle_flops": 40 * 128**2 * SMS, "steps": 20}),
        (lambda r: r.gemm(TEN, n=30, k=20, weight="fp8", activation="fp8"), "gemm fp8",
         {"form": "fp8", "flops": 12000, "moved": 600 + 200 + 600, "idle_flops": 40 * 128**2 * SMS,
          "steps": 20, "rows": 10, "streamed": 200 * 3}),
        (lambda r: r.gemm(TEN, n=30, k=20, weight="int4", activation="bf16"), "gemm bf16",
         {"flops": 12000, "moved": 300 + 400 + 600, "idle_flops": 40 * 128**2 * SMS, "steps": 20}),
        (lambda r: r.gemm(TEN, n=30, k=20, weight="fp8", activation="bf16"), "gemm bf16",
         {"flops": 12000, "moved": 600 + 400 + 600, "idle_flops": 40 * 128**2 * SMS, "steps": 20}),
        (lambda r: r.prefill_attention(TEN, causal=True, **HEADS), "prefill bf16",
         {"flops": 2 * 55 * 8 * 256, "moved": 10 * 256 * (16 + 4), "idle_flops": 20 * 128 * 256 * SMS,
          "pad_flops": 2 * 55 * 8 * 128, "steps": 10}),
        (lambda r: r.prefill_attention(TEN, causal=True, **(HEADS | {"kv": "fp8", "window": 4})),
         "prefill fp8",
         {"flops": 2 * 34 * 8 * 256, "moved": 10 * 256 * (16 + 2), "idle_flops": 8 * 128 * 256 * SMS,
          "pad_flops": 2 * 34 * 8 * 128, "steps": 4}),
        (lambda r: r.prefill_attention(TEN, causal=False, **(HEADS | {"kv": "fp8"})), "encoder bf16",
         {"flops": 2 * 100 * 8 * 256, "moved": 10 * 256 * (16 + 2), "idle_flops": 20 * 128 * 256 * SMS,
          "pad_flops": 2 * 100 * 8 * 128, "steps": 10}),
        (lambda r: r.decode_attention(FOUR, TEN, **HEADS), "decode bf16",
         {"flops": 2 * 40 * 8 * 256, "moved": 40 * 2 * 256 * 2 + 4 * 8 * 256 * 2,
          "idle_flops": 2 * 10 * 8 * 256 * SMS, "steps": 10 / 16, "rows": 8}),
        (lambda r: r.mla_prefill(TEN, **MLA), "mla_prefill bf16",
         {"flops": 2 * 55 * 16 * 320, "moved": 10 * (4 * 16 * 320 + 2 * 576),
          "idle_flops": 20 * 128 * 320 * SMS, "pad_flops": 2 * 55 * 16 * 128, "steps": 10}),
        (lambda r: r.mla_decode(FOUR, TEN, **(MLA | {"kv": "fp8"})), "mla_decode fp8",
         {"flops": 2 * 40 * 16 * 1088, "moved": 40 * 576 + 4 * 16 * 1088 * 2,
          "idle_flops": 2 * 10 * 16 * 1088 * SMS, "pad_flops": 2 * 40 * 1088, "steps": 10, "rows": 4}),
        # Of 8 experts 2 are here; 10 tokens of 2 pairs each send 5 pairs here and hit all but 0.75^10 of the 2.
        (lambda r: r.moe(TEN, hidden=16, inner=24, experts=8, top_k=2, tp=3, ep=4, gated=True,
                         weight="int4", activation="bf16"), "moe int4",
         {"flops": 2 * 5 * 384, "moved": 2 * (1 - 0.75**10) * 384 / 2 + 5 * 16 * 4,
          "idle_flops": 32 * 128**2 * SMS, "pad_flops": 2 * 2 * (1 - 0.75**10) * 384, "steps": 2,
          "streamed": 20 * (24 + 16) * 2}),
        (lambda r: r.moe(TEN, hidden=16, inner=24, experts=8, top_k=2, tp=1, ep=4, gated=False,
                         weight="fp8", activation="fp8"), "moe fp8",
         {"form": "fp8", "flops": 2 * 5 * 768, "moved": 2 * (1 - 0.75**10) * 768 + 5 * 16 * 3,
          "idle_flops": 32 * 128**2 * SMS, "pad_flops": 2 * 2 * (1 - 0.75**10) * 768, "steps": 2,
          "streamed": 20 * (48 + 16) * 2}),
    ],
)  # fmt: skip
def test_what_is_counted(ask, law, expected):
    """By hand; heads of 128 + 128, two KV heads of 8 queries, see ``HEADS``; MLA 512 + 64 and 512 wide."""
    roof = Counted(load_device("h100"), routing="balanced")
    cost = ask(roof)
    assert roof.law == law
    for field in fields(Work):
        value, there = expected.get(field.name, field.default), getattr(roof.work, field.name)
        assert there == value if field.name == "form" else there == pytest.approx(value), field.name
    assert cost.flops == pytest.approx(expected["flops"])
    assert cost.bytes == pytest.approx(expected["moved"] + expected.get("streamed", 0.0))


def test_streams_and_collectives_are_counted_exactly():
    device, pool = load_device("h100"), homogeneous("h100", nodes=2).pools[0]
    cost = roofline().stream(np.array([1e6]))
    assert cost.seconds == pytest.approx(3e-6 + 1e6 / device.sustained_bandwidth) and cost.bytes == 1e6
    payload, one, two = np.array([0.0, 1e5, 1e8]), pool.link(8, 1), pool.link(16, 2)
    for kind, turns in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1), ("all_to_all", 1)):
        law = roofline().efficiency.collectives[kind]
        expected = law.seconds(8, payload, turns * payload * 7 / 8, one.intra_bandwidth)
        alone = roofline().collective(kind, payload, one)
        assert alone.seconds == pytest.approx([0, *expected[1:]]) and (alone.bytes == 2 * payload).all()
        if kind == "all_to_all":  # most of it leaves the node, which no law knows of
            expected = collective_s(kind, payload, two)
        else:
            expected = expected + nccl_s(kind, payload, two) - nccl_s(kind, payload, one)
        apart = roofline().collective(kind, payload, two).seconds
        assert apart == pytest.approx([0, *expected[1:]])


def test_extremes_stay_finite_and_ordered():
    """From nothing to 10^9 tokens; windows beyond the prompt; groups with less than an expert each."""
    loads = np.array([0, 1, 1000, 10**6, 10**9])
    wide, full = (
        roofline().prefill_attention(loads, causal=True, **(HEADS | {"window": window}))
        for window in (10**12, 0)
    )
    assert (wide.seconds == full.seconds).all()
    for clock in (0, 345):
        for routing in ("random", "balanced"):
            roof = roofline(clock_mhz=clock, routing=routing)
            moe = roof.moe(loads, **(EXPERTS | {"experts": 8, "ep": 16, "tp": 8}), **BF16)
            for cost in (moe, *(ask(loads) for ask in operations(roof).values())):
                assert np.isfinite(cost.seconds).all() and (np.diff(cost.seconds) > 0).all()


@pytest.mark.parametrize("name", known_devices())
@pytest.mark.parametrize("operation", operations(roofline()))
def test_a_lower_clock_never_shortens(name, operation):
    device = load_device(name)
    fast, slow = (
        operations(Roofline(device, clock))[operation](LOADS).seconds for clock in (0, device.clocks_mhz[0])
    )
    assert (slow >= fast).all()
    if operation in ("gemm", "prefill"):  # nearly all of it is bound by compute
        assert slow[-1] / fast[-1] > 0.75 * device.max_clock_mhz / device.clocks_mhz[0]


def test_bytes_per_format_are_those_of_plans():
    for form, size in FORMAT_BYTES.items():
        cost = roofline().gemm(np.array([1]), n=1024, k=1024, weight=form, activation="bf16")
        assert cost.bytes == 1024 * 1024 * size + 2 * 2 * 1024
