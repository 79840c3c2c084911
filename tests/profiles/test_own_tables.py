"""What zenith profile wrote, read back: near the law it was measured from, graded, and borrowed with reason."""

import json

import numpy as np
import pytest

from planner.pipeline import operations_of
from profiles.device import load_device
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.ops import EXTRAPOLATED, INTERPOLATED, MEASURED, MODELLED, Link
from profiles.own_rows import TABLES, append_row, read_rows
from profiles.own_tables import OwnTables
from profiles.profiler import Reading, profile, row_of
from profiles.roofline import Roofline
from tests.profiles.fake_bench import LINK, FakeBench
from tests.profiles.handmade import LLAMA_8B

BF16 = {"weight": "bf16", "activation": "bf16"}
HEADS = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "value_dim": 128, "window": 0, "kv": "bf16"}
EXPERTS = {"hidden": 4096, "inner": 14336, "experts": 8, "top_k": 2, "tp": 1, "ep": 1, "gated": True, **BF16}
H100 = load_device("h100")
LOADS = np.unique(np.geomspace(1, 8192, 40).astype(np.int64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of a device that follows a law, measured with noise; no fp8 kernels, four devices."""
    directory = tmp_path_factory.mktemp("h100")
    bench = FakeBench(noise=0.005, gpus=4, formats=("bf16",))
    profile(
        bench,
        directory,
        operations=TABLES,
        budget_s=240.0,
        today=lambda: "2026-01-02",
        clock=bench.clock,
    )
    (directory / "profile.json").write_text(json.dumps(bench.facts()))
    return directory


@pytest.fixture(scope="module")
def tables(folder):
    return OwnTables(folder, device=H100, fallback=Roofline(H100))


@pytest.fixture(scope="module")
def law():
    return FakeBench().operations


def near(ours, theirs, typical, worst):
    off = np.abs(np.log(ours.seconds / theirs.seconds))
    assert np.median(off) < typical and off.max() < worst, (np.median(off), off.max())


def test_every_measured_point_comes_back(folder, tables):
    """But for noise along the last axis: times never fall there."""
    assert tables.operations == TABLES
    for (weight, activation), found in read_rows(folder, "gemm").items():
        for n, k in np.unique(found.points[:, :2], axis=0).tolist()[::5]:
            mine = (found.points[:, :2] == (n, k)).all(axis=1)
            cost = tables.gemm(found.points[mine, 2], n=n, k=k, weight=weight, activation=activation)
            assert cost.seconds == pytest.approx(found.median_s[mine], rel=0.02)
            assert (cost.provenance == MEASURED).all()


def test_products_follow_the_law(tables, law):
    for n, k in ((6144, 4096), (4096, 14336), (28672, 4096), (128256, 4096), (1280, 8192)):
        cost = tables.gemm(LOADS, n=n, k=k, **BF16)
        near(cost, law.gemm(LOADS, n=n, k=k, **BF16), 0.05, 0.25)
        assert set(cost.provenance.tolist()) == {INTERPOLATED}
        model = Roofline(H100).gemm(LOADS, n=n, k=k, **BF16)
        assert (cost.flops == model.flops).all() and (cost.bytes == model.bytes).all()


def test_attention_follows_the_law(tables, law):
    batch, context = np.meshgrid([1, 5, 30, 200], [200, 1500, 6000, 30000])
    for kv in (1, 4, 8):
        shape = HEADS | {"kv_heads": kv, "q_heads": 4 * kv}
        cost = tables.decode_attention(batch, context, **shape)
        theirs = law.decode_attention(batch, context, **shape)
        assert cost.seconds.shape == (4, 4)
        near(cost, theirs, 0.08, 0.3)
        tokens = np.array([16, 100, 1000, 5000, 30000])
        prefill = tables.prefill_attention(tokens, causal=True, **shape)
        near(prefill, law.prefill_attention(tokens, causal=True, **shape), 0.08, 0.3)
        assert (prefill.provenance <= INTERPOLATED).all()


def test_experts_streams_and_collectives_follow_the_law(tables, law):
    near(tables.moe(LOADS, **EXPERTS), law.moe(LOADS, **EXPERTS), 0.05, 0.2)
    moved = np.geomspace(1e4, 4e9, 30)
    near(tables.stream(moved), law.stream(moved), 0.05, 0.2)
    link = Link(ranks=4, **{**LINK, "intra_bandwidth": 5e10})
    measured = Link(ranks=4, **LINK)
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        near(tables.collective(kind, moved[:-6], link), law.collective(kind, moved[:-6], measured), 0.05, 0.2)


def test_nothing_takes_no_time(tables):
    for cost in (
        tables.gemm(np.array([0, 1]), n=4096, k=4096, **BF16),
        tables.moe(np.array([0, 1]), **EXPERTS),
        tables.stream(np.array([0.0, 1e3])),
        tables.decode_attention(np.array([0, 1]), np.array([100, 100]), **HEADS),
        tables.prefill_attention(np.array([0, 100]), causal=True, **HEADS),
    ):
        assert cost.seconds[0] == 0 < cost.seconds[1]


def test_times_never_fall_as_loads_grow_within_a_measured_shape(folder, tables):
    n, k = read_rows(folder, "gemm")["bf16", "bf16"].points[0, :2].tolist()
    assert (np.diff(tables.gemm(np.arange(1, 20000), n=n, k=k, **BF16).seconds) >= 0).all()
    assert (np.diff(tables.stream(np.geomspace(1, 1e11, 999)).seconds) >= 0).all()


def test_beyond_the_tables_the_share_of_the_roofline_is_held(tables):
    roof = Roofline(H100)
    m = np.array([8192, 65536])
    for n in (8192, 500_000):
        ours, model = (source.gemm(m, n=n, k=8192, **BF16) for source in (tables, roof))
        assert ours.provenance[1] == EXTRAPOLATED
        ratio = ours.seconds / model.seconds
        assert ratio[1] == pytest.approx(ratio[0], rel=1e-6)
    small = tables.gemm(np.array([4096]), n=64, k=4096, **BF16)
    assert small.provenance == EXTRAPOLATED
    assert small.seconds < tables.gemm(np.array([4096]), n=512, k=4096, **BF16).seconds


def test_what_was_not_measured_is_borrowed_and_says_so(tables, law):
    batch, context = np.array([16]), np.array([4000])
    fp8 = tables.gemm(np.array([64]), n=8192, k=8192, weight="fp8", activation="fp8")
    roof = Roofline(H100)
    ratio = [
        (tables.gemm(np.array([64]), n=8192, k=8192, weight=f, activation=f).seconds
         / roof.gemm(np.array([64]), n=8192, k=8192, weight=f, activation=f).seconds)[0]
        for f in ("fp8", "bf16")
    ]  # fmt: skip
    assert fp8.provenance == MODELLED and ratio[0] == pytest.approx(ratio[1])
    assert tables.decode_attention(batch, context, **(HEADS | {"kv": "fp8"})).provenance == MODELLED
    for change in ({"head_dim": 96, "value_dim": 96}, {"q_heads": 40}, {"value_dim": 64}):
        cost = tables.decode_attention(batch, context, **(HEADS | change))
        assert cost.provenance == EXTRAPOLATED
        assert 0.5 < cost.seconds / law.decode_attention(batch, context, **(HEADS | change)).seconds < 2
    moe = tables.moe(np.array([64]), **(EXPERTS | {"hidden": 5120, "top_k": 1, "experts": 16}))
    assert moe.provenance == EXTRAPOLATED


def test_windows_are_read_no_further_than_they_reach(tables):
    windowed = HEADS | {"window": 1000}
    batch = np.array([4, 4])
    cost = tables.decode_attention(batch, np.array([500, 50000]), **windowed)
    full = tables.decode_attention(batch, np.array([500, 1000]), **HEADS)
    assert (cost.seconds == full.seconds).all() and (cost.provenance >= INTERPOLATED).all()
    prompt = tables.prefill_attention(np.array([1000, 8000]), causal=True, **windowed)
    whole = tables.prefill_attention(np.array([1000, 8000]), causal=True, **HEADS)
    assert prompt.seconds[0] == whole.seconds[0] and prompt.seconds[1] < whole.seconds[1]
    assert prompt.provenance[0] <= INTERPOLATED and prompt.provenance[1] == EXTRAPOLATED


def test_experts_of_a_group_are_the_part_of_one_device(tables):
    """Four of 32 experts and a quarter of the width, as 8 measured of the same shape at an eighth of the tokens."""
    one = tables.moe(np.array([100]), **EXPERTS)
    group = EXPERTS | {"experts": 32, "inner": 4 * 14336, "tp": 4, "ep": 4}
    part = tables.moe(np.array([400]), **group)
    assert part.provenance == one.provenance
    roof = Roofline(H100)
    expected = (
        one.seconds
        * roof.moe(np.array([400]), **group).seconds
        / roof.moe(np.array([100]), **EXPERTS).seconds
    )
    assert part.seconds == pytest.approx(expected)


def test_small_all_reduces_are_the_engines_own_where_links_are_fast(tables):
    link, payload = homogeneous("h100").pools[0].link(4, 1), np.array([2e4, 1e9])
    model, ours = (source.collective("all_reduce", payload, link) for source in (Roofline(H100), tables))
    assert ours.seconds[0] == min(model.seconds[0], ours.seconds[0]) and ours.provenance[1] <= INTERPOLATED


def test_the_rest_is_the_fallbacks(tables):
    roof, one = Roofline(H100), np.array([64])
    mla = {"heads": 16, "head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}
    pool = homogeneous("h100", nodes=2, gpus_per_node=8).pools[0]
    asked = {
        "mla": lambda ops: ops.mla_prefill(one, **mla),
        "mla decode": lambda ops: ops.mla_decode(one, one, **mla),
        "encoder": lambda ops: ops.prefill_attention(one, causal=False, **HEADS),
        "ranks": lambda ops: ops.collective("all_reduce", one * 1e3, pool.link(8, 1)),
        "nodes": lambda ops: ops.collective("all_reduce", one * 1e3, pool.link(4, 2)),
        "p2p": lambda ops: ops.collective("p2p", one * 1e3, pool.link(2, 1)),
    }
    for name, ask in asked.items():
        ours, theirs = ask(tables), ask(roof)
        assert (ours.seconds == theirs.seconds).all() and (ours.provenance == MODELLED).all(), name


def test_a_folder_with_one_operation_leaves_the_others_to_the_fallback(tmp_path):
    append_row(tmp_path, row_of("stream", (), (4096,), Reading(samples_s=(5e-6,)), "2026-01-02"))
    (tmp_path / "profile.json").write_text('{"device": "NVIDIA H100 80GB HBM3"}')
    tables, roof = OwnTables(tmp_path, device=H100, fallback=Roofline(H100)), Roofline(H100)
    assert tables.operations == ("stream",) and tables.stream(np.array([4096.0])).seconds == pytest.approx(
        5e-6
    )
    one = np.array([64])
    for ask in (
        lambda ops: ops.gemm(one, n=64, k=64, **BF16),
        lambda ops: ops.decode_attention(one, one, **(HEADS | {"window": 16})),
        lambda ops: ops.moe(one, **EXPERTS),
    ):
        assert (ask(tables).seconds == ask(roof).seconds).all()


def test_mistakes_are_one_line(tmp_path, folder):
    def read(device=H100):
        return OwnTables(tmp_path, device=device, fallback=Roofline(device))

    facts = tmp_path / "profile.json"
    with pytest.raises(InputError, match="measured on NVIDIA H100 80GB HBM3, not on l40s"):
        OwnTables(folder, device=load_device("l40s"), fallback=Roofline(load_device("l40s")))
    for text in ("{", "[]", '{"device": 3}', "[" * 9999):
        facts.write_text(text)
        with pytest.raises(InputError, match=r"profile\.json: ") as caught:
            read()
        assert "\n" not in str(caught.value)
    facts.write_text('{"device": "NVIDIA H100 80GB HBM3"}')
    with pytest.raises(InputError, match="but no rows"):
        read()
    (tmp_path / "stream.csv").write_text("bytes,median_s,spread_s,samples\n1,0,0,1\n")
    with pytest.raises(InputError, match=r"stream\.csv:2: column 'median_s': 0 is not a number above 0"):
        read()
    (tmp_path / "stream.csv").write_text("bytes,median_s,spread_s,samples\n1,1e-6,-1,1\n")
    with pytest.raises(InputError, match=r"stream\.csv:2: column 'spread_s': -1 is not a number from 0"):
        read()


def test_the_planner_takes_the_folder(folder, law):
    pool = homogeneous("h100").pools[0]
    operations, words = operations_of(pool, LLAMA_8B, tables=folder, silicon=False)
    assert isinstance(operations, OwnTables) and folder.name in words
    near(operations.gemm(LOADS, n=4096, k=4096, **BF16), law.gemm(LOADS, n=4096, k=4096, **BF16), 0.06, 0.25)
