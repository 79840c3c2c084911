"""CSV tables in the format of APEX+: points come back, the rest is graded, mistakes name line and column."""

import itertools

import numpy as np
import pytest

from profiles.apex_tables import ApexTables
from profiles.device import load_device
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.ops import EXTRAPOLATED, INTERPOLATED, MEASURED, MODELLED
from profiles.roofline import Roofline

BF16 = {"weight": "bf16", "activation": "bf16"}
HEADS = {"q_heads": 8, "kv_heads": 8, "head_dim": 128, "value_dim": 128, "window": 0, "kv": "bf16"}
GEMM = "gpu,dtype,m,k,n,time(us)"
MHA = "gpu,dtype,num_heads,head_size,batch_size,seq_len,time(us)"
COMM = "gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)"
GPU = "H100-SXM-80GB"


def write(directory, name, header, *rows):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


@pytest.fixture
def directory(tmp_path):
    sizes = itertools.product((1024, 4096), (1024, 4096), (1, 64, 1024))
    gemm = [f"{GPU},half,{m},{k},{n},{5 + m * k * n // 4**14}" for m, k, n in sizes]
    write(tmp_path, f"comp/{GPU}/gemm_0.csv", GEMM, *gemm, "V100-PCIE-16GB,half,1024,1024,1,999")
    write(tmp_path, f"comp/{GPU}/gemm_810.csv", GEMM, f"{GPU},half,1024,1024,1,777")
    sizes = itertools.product((4, 8), (1, 2), (16, 1024, 4096))
    mha = [f"{GPU},half,{h},128,{b},{s},{10 + h * b * s * s // 10**6}" for h, b, s in sizes]
    write(tmp_path, f"comp/{GPU}/mha_0.csv", MHA, *mha, f"{GPU},half,8,128,2,2048,5")
    points = ((8, 0, 14), (8, 1024, 34), (8, 131072, 597), (2, 0, 8), (2, 131072, 465))
    reduce = [f"{GPU},1,{ranks},half,{kib},{us}" for ranks, kib, us in points]
    write(tmp_path, f"comm/{GPU}/all_reduce.csv", COMM, *reduce)
    return tmp_path


def tables(directory, device="h100"):
    kind = load_device(device)
    return ApexTables(directory, device=kind, fallback=Roofline(kind))


def test_points_come_back_as_measured(directory):
    apex = tables(directory)
    assert apex.operations == ("all_reduce bf16", "gemm bf16", "mha bf16")
    cost = apex.gemm(np.array([0, 1, 64, 1024]), n=4096, k=4096, **BF16)
    assert (cost.seconds * 1e6).tolist() == pytest.approx([0, 5, 9, 69])
    assert cost.provenance.tolist() == [MEASURED] * 4
    model = Roofline(apex.device).gemm(np.array([0, 1, 64, 1024]), n=4096, k=4096, **BF16)
    assert (cost.flops == model.flops).all() and (cost.bytes == model.bytes).all()
    prefill = apex.prefill_attention(np.array([1024]), causal=True, **HEADS)
    assert prefill.seconds == pytest.approx(18e-6) and prefill.provenance == MEASURED
    link = homogeneous("h100").pools[0].link(8, 1)
    reduce = apex.collective("all_reduce", np.array([1024.0 * 1024]), link)
    assert reduce.seconds == pytest.approx(34e-6) and reduce.provenance == MEASURED


def test_between_points_and_beyond_them_is_graded(directory):
    apex = tables(directory)
    cost = apex.gemm(np.array([32, 544, 4096]), n=4096, k=4096, **BF16)
    assert cost.provenance.tolist() == [INTERPOLATED, INTERPOLATED, EXTRAPOLATED]
    assert cost.seconds[1] * 1e6 == pytest.approx((9 + 69) / 2)
    assert 3 < cost.seconds[2] / 69e-6 < 5  # the share of the roofline is held
    shape = apex.gemm(np.array([1024]), n=2048, k=2048, **BF16)
    assert shape.provenance == INTERPOLATED
    sides = [apex.gemm(np.array([1024]), n=n, k=n, **BF16).seconds for n in (1024, 4096)]
    assert sides[0] < shape.seconds < sides[1]
    fewer = apex.prefill_attention(np.array([1024]), causal=True, **(HEADS | {"kv_heads": 2}))
    assert fewer.provenance == INTERPOLATED
    batched = apex.prefill_attention(np.array([2048]), causal=True, **HEADS)  # measured for two prompts only
    assert batched.provenance == INTERPOLATED and batched.seconds > 18e-6


def test_what_is_absent_is_the_fallbacks(directory):
    apex, model = tables(directory), Roofline(load_device("h100"))
    batch, context = np.array([4]), np.array([100])
    link2, link4 = (homogeneous("h100").pools[0].link(n, 1) for n in (2, 4))
    mla = {"heads": 16, "head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}
    moe = {"hidden": 64, "inner": 64, "experts": 8, "top_k": 2, "tp": 1, "ep": 1, "gated": True, **BF16}
    asked = {
        "int4": lambda ops: ops.gemm(batch, n=64, k=64, weight="int4", activation="bf16"),
        "decode": lambda ops: ops.decode_attention(batch, context, **HEADS),
        "window": lambda ops: ops.prefill_attention(batch, causal=True, **(HEADS | {"window": 16})),
        "encoder": lambda ops: ops.prefill_attention(batch, causal=False, **HEADS),
        "width": lambda ops: ops.prefill_attention(batch, causal=True, **(HEADS | {"head_dim": 64})),
        "mla": lambda ops: ops.mla_prefill(batch, **mla),
        "mla decode": lambda ops: ops.mla_decode(batch, context, **mla),
        "moe": lambda ops: ops.moe(batch, **moe),
        "stream": lambda ops: ops.stream(batch * 1e3),
        "ranks": lambda ops: ops.collective("all_reduce", batch * 1e3, link4),
        "p2p": lambda ops: ops.collective("p2p", batch * 1e3, link2),
    }
    for name, ask in asked.items():
        ours, theirs = ask(apex), ask(model)
        assert (ours.seconds == theirs.seconds).all() and (ours.provenance == MODELLED).all(), name


def test_locked_clocks_count_only_where_nothing_else_is_there(directory):
    assert tables(directory).gemm(np.array([1]), n=1024, k=1024, **BF16).seconds == pytest.approx(5e-6)
    (directory / f"comp/{GPU}/gemm_0.csv").unlink()
    assert tables(directory).gemm(np.array([1]), n=1024, k=1024, **BF16).seconds == pytest.approx(777e-6)


def test_other_devices_are_skipped_or_named(directory):
    v100 = tables(directory, "v100-pcie")
    assert v100.gemm(np.array([1]), n=1024, k=1024, **BF16).seconds == pytest.approx(999e-6)
    with pytest.raises(InputError, match="no rows of l4, only of H100-SXM-80GB, V100-PCIE-16GB"):
        tables(directory, "l4")


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("gpu,dtype,m,k,n,time", ["H,half,1,1,1,1"], r"gemm\.csv:1: column 'time\(us\)' is missing, did"),
        (GEMM, [f"{GPU},half,1,1,1,5", f"{GPU},half,1,x,1,5"], r"gemm\.csv:3: column 'k': x is not a"),
        (GEMM, [f"{GPU},half,1,1,0,5"], r"gemm\.csv:2: column 'n': 0 is not a whole number above 0"),
        (GEMM, [f"{GPU},half,1.5,1,1,5"], r"gemm\.csv:2: column 'm': 1.5 is not a whole"),
        (GEMM, ["", f"{GPU},half,1,1,1,-5"], r"gemm\.csv:3: column 'time\(us\)': -5.* is not a number"),
        (GEMM, [f"{GPU},half,1,1,1,inf"], r"gemm\.csv:2: column 'time\(us\)'"),
        (GEMM, [f"{GPU},half,1,1"], r"gemm\.csv:2: column 'n': nan"),
        (GEMM, [f"{GPU},half,1,1,1,5", f"{GPU},half,1,1,1,5,6,7"], r"gemm\.csv: .*line 3"),
        (GEMM, [f"{GPU},half,1,1,1,5,6"], r"gemm\.csv: Length of header"),
    ],
)  # fmt: skip
def test_mistakes_name_file_line_and_column(tmp_path, header, rows, expected):
    write(tmp_path, "gemm.csv", header, *rows)
    with pytest.raises(InputError, match=expected) as caught:
        tables(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_directory_says_what_belongs_there(tmp_path):
    with pytest.raises(InputError, match=r"expected any of gemm\.csv, mha\.csv"):
        tables(tmp_path)
    (tmp_path / "gemm.csv").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"gemm\.csv: No columns"):
        tables(tmp_path)
