"""zenith profile --compare: errors of a device that follows a law, and iterations as the simulator has them."""

import json
import re
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from planner.profile_compare import _iteration_s, _step, compare, device_of, to_json, to_text
from planner.profile_run import run
from profiles.compile import compile_plan
from profiles.engine import load_engine
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.ops import Link
from profiles.own_rows import OPERATIONS, TABLES, read_rows
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerModel
from simulator import metrics
from simulator.engine import simulate
from tests.profiles.fake_bench import LINK, FakeBench
from traces.trace import Trace

FLEET = homogeneous("h100-sxm-80gb", gpus=1)


def shape(phase, sequences, each):
    return {
        "model": "llama-3.1-8b", "launch": "graph", "phase": phase, "sequences": sequences, "each": each
    }  # fmt: skip


def test_an_iteration_takes_what_the_simulator_says():
    rows = [(shape("prefill", 3, 40), 1.0), (shape("decode", 3, 2000), 1.0)]
    step = _step("llama-3.1-8b", rows, FLEET, None, False)
    settings = EngineSettings(token_budget=120, max_seqs=3)
    for sequences, each in ((1, 8), (3, 40)):
        same = Trace(
            arrival_s=np.zeros(sequences), prompt_tokens=np.full(sequences, each),
            output_tokens=np.full(sequences, 2),
        )  # fmt: skip
        outcome = simulate(same, step, settings)
        assert metrics.ttft_s(outcome) == pytest.approx(_iteration_s(step, shape("prefill", sequences, each)))
        assert metrics.tpot_s(outcome) == pytest.approx(
            _iteration_s(step, shape("decode", sequences, each + 1))
        )


@cache
def law_step():
    """Tables of the fake device's operations."""
    device, link = FLEET.pools[0].device, Link(ranks=1, **LINK)
    plan = Plan(layers_per_stage=(32,), engine=EngineSettings(token_budget=8192, max_seqs=128))
    return compile_plan(
        load_model("llama-3.1-8b"), plan, device, FakeBench().operations, link_tensor=link, link_ffn=link,
        stage_links=(), engine=load_engine("none"), power=PowerModel(device), max_length=8193,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compare") / "h100"
    for operations, noise in ((TABLES, 0.005), (("iteration",), 0.0)):
        bench = FakeBench(noise=noise, iteration_s=lambda shape: _iteration_s(law_step(), shape))
        run(directory, operations=operations, budget_s=240.0, progress=str, bench=bench, clock=bench.clock)
    return directory


def test_own_tables_predict_iterations_that_others_do_not(folder):
    found = compare(folder, device="h100-sxm-80gb", silicon=False)
    assert [each.operation for each in found.operations] == [name for name in TABLES if name != "collective"]
    assert len(found.iterations) == 32
    for row in found.iterations:
        assert abs(row.with_s / row.measured_s - 1) < 0.03, row
        assert row.without_s < 0.95 * row.measured_s, "the law is a slower device"


def test_errors_are_those_of_the_rows(folder):
    (stream,) = (
        e
        for e in compare(folder, device="h100-sxm-80gb", silicon=False).operations
        if e.operation == "stream"
    )
    rows = read_rows(folder, "stream")[()]
    from profiles.roofline import Roofline

    model = Roofline(FLEET.pools[0].device).stream(rows.points[:, 0].astype(float)).seconds
    error = model / rows.median_s - 1
    assert stream.points == len(error) and stream.median == pytest.approx(np.median(np.abs(error)))
    assert stream.ninetieth == pytest.approx(np.percentile(np.abs(error), 90))
    assert stream.worst == pytest.approx(np.abs(error).max()) and stream.bias == pytest.approx(error.mean())
    assert stream.worst_at == {"bytes": int(rows.points[np.abs(error).argmax(), 0])}
    assert stream.provenance["modelled"] == 1


def test_the_command_prints_it(folder):
    asked = ["profile", "-o", str(folder), "--compare", "--no-silicon", "--device", "h100-sxm-80gb"]
    result = CliRunner().invoke(main, asked)
    found = compare(folder, device="h100-sxm-80gb", silicon=False)
    assert result.exit_code == 0 and result.stdout.rstrip("\n") == to_text(found)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    as_json = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert as_json == json.loads(to_json(found)) and as_json["iterations"][0]["measured_s"] > 0


def test_mistakes_get_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"--device: h100-nvl-94gb, h100-pcie-80gb, h100-sxm-80gb"):
        device_of(folder)
    with pytest.raises(InputError, match=r"--device l40s: .* was measured on NVIDIA H100"):
        device_of(folder, "l40s")
    with pytest.raises(InputError, match=r"no profile\.json"):
        compare(tmp_path)
    (tmp_path / "profile.json").write_text('{"device": "NVIDIA H200"}')
    with pytest.raises(InputError, match="no rows to compare"):
        compare(tmp_path)
    for words in (
        ["--json"], ["--device", "h200"], ["--compare", "--dry-run"], ["--compare", "--budget", "3m"]
    ):  # fmt: skip
        result = CliRunner().invoke(main, ["profile", "-o", str(folder), *words])
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "--compare" in result.stderr


def test_without_tables_of_its_own_a_folder_has_one_prediction(folder, tmp_path):
    for name in ("profile.json", "iteration.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = compare(tmp_path, device="h100-sxm-80gb", silicon=False)
    assert found.operations == () and all(row.with_s is None for row in found.iterations)
    alike = compare(folder, operations=("iteration",), device="h100-sxm-80gb", silicon=False).iterations
    assert [row.without_s for row in found.iterations] == [row.without_s for row in alike]
    assert "roofline" in to_text(found) and to_text(found).endswith("       -")


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("gemm", "int9,bf16,8,8,8", "gemm.csv:2: column 'weight': 'int9' is unknown, did you mean 'int8'"),
        ("collective", "all_recude,2,8", "collective.csv:2: column 'kind': 'all_recude' is unknown, did you mean"),
        ("iteration", "llama-3.1-8b,graph,foo,1,8", "iteration.csv:2: column 'phase': 'foo' is unknown"),
        ("iteration", "llama-3.1-8b,graph,decode,100000000,8", "of 100000000 tokens, at most 1048576"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_one_line(tmp_path, name, row, said):
    (tmp_path / "profile.json").write_text('{"device": "NVIDIA L40S"}')
    columns = (*OPERATIONS[name].site, *OPERATIONS[name].axes, "median_s", "spread_s", "samples")
    (tmp_path / f"{name}.csv").write_text(f"{','.join(columns)}\n{row},1,0,5\n")
    with pytest.raises(InputError, match=re.escape(said)):
        compare(tmp_path, silicon=False)


@pytest.mark.parametrize(
    ("measured", "ours"),
    [("NVIDIA L40S", "l40s"), ("NVIDIA H200", "h200-sxm-141gb"), ("NVIDIA H200 NVL", None),
     ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA RTX 6000 Ada Generation", None),
     ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-96gb")],
)  # fmt: skip
def test_a_device_is_taken_only_where_it_is_meant(tmp_path, measured, ours):
    (tmp_path / "profile.json").write_text(json.dumps({"device": measured}))
    if ours is None:
        with pytest.raises(InputError, match="say which with --device"):
            device_of(tmp_path)
    else:
        assert device_of(tmp_path).name == ours
