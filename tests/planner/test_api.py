"""The Python interface: what it names exists, what its page shows is so, and the commands go through it."""

import ast
import csv
import doctest
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import planner
from cli import main
from planner import frames, report, whatif_text

ROOT = Path(__file__).parents[2]
SMALL = """
model: opt-125m
fleet: {device: l40s, gpus: 2}
workload: {synthetic: {requests: 20, rate: 4/s, prompt_mean: 60, output_mean: 20}}
slos: {ttft_p95: 1s}
costs: {silicon: false}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "question.yaml").write_text(SMALL)


@pytest.fixture
def question():
    return planner.load_question("question.yaml")


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_shows_what_happens():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False)
    assert tried > 10 and not failed


def test_names_are_the_same_for_people_and_for_type_checkers():
    tree = ast.parse((ROOT / "planner" / "__init__.py").read_text())
    typed = {
        name.name
        for branch in tree.body
        if isinstance(branch, ast.If)
        for statement in branch.body
        for name in statement.names
    }
    assert typed == set(planner.__all__) == set(planner._HOME) <= set(dir(planner))
    assert list(planner.__all__) == sorted(planner.__all__, key=str.swapcase) or len(
        set(planner.__all__)
    ) == len(planner.__all__)
    for name in planner.__all__:
        assert getattr(planner, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = planner.optimise


def test_no_name_is_also_a_module_which_an_import_would_put_in_its_place():
    modules = {file.stem for file in (ROOT / "planner").glob("*.py")}
    assert not modules & set(planner.__all__)


def test_the_page_names_everything():
    page = (ROOT / "docs" / "api.md").read_text()
    functions = [name for name in planner.__all__ if name.islower()]
    results = ("Answer", "Simulation", "Sweep", "Capacity", "Minimum", "Sensitivity", "BoundReport")
    assert all(f"`{name}" in page for name in (*functions, *results))


def test_importing_the_planner_imports_nothing():
    code = (
        "import sys; before = set(sys.modules); import planner;"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith(('planner', 'importlib', 'typing'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert not {"numpy", "pandas", "ortools", "numba", "click", "yaml"} & set(loaded), loaded


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["optimize"], "optimize"),
        (["whatif", "--vary", "tp=1,2"], "what_if"),
        (["minimum"], "find_minimum"),
        (["capacity"], "find_capacity"),
        (["sensitivity", "--draws", "0"], "find_sensitivity"),
        (["simulate", "--plan", "tp=1"], "simulate"),
        (["deploy", "--plan", "tp=1"], "simulate"),
        (["deploy"], "optimize"),
        (["bound", "--plan", "tp=1"], "bound"),
    ],
)
def test_a_command_goes_through_the_interface(words, name, monkeypatch):
    seen = []
    real = getattr(planner, name)

    def spy(*args, **kwargs):
        seen.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(planner, name, spy)
    run(words[0], "question.yaml", *words[1:])
    assert seen == [name]


def test_an_answer_is_that_of_the_command(question):
    answer = planner.optimize(question, **planner.load_limits("question.yaml"))
    assert report.to_json(answer) + "\n" == run("optimize", "question.yaml", "--json")


# --------------------------------------------------------------------------------------------- tables


def same(frame, text):
    """Row by row, to the last bit, whatever a column is called."""
    header, *rows = csv.reader(io.StringIO(text))
    assert len(frame) == len(rows) and len(frame.columns) == len(header)
    for column, name in zip(frame.columns, header, strict=True):
        for value, field in zip(frame[column], (row[header.index(name)] for row in rows), strict=True):
            if field == "":
                assert value != value or value is None
            elif isinstance(value, (bool, np.bool_, str)):
                assert str(value) == field
            else:
                assert float(value) == float(field)


def test_a_table_has_the_rows_of_the_csv(question):
    answer = planner.optimize(question, silicon=False, everything=True)
    same(answer.to_frame(), report.to_csv(answer))
    assert [float(v) for v in answer.to_frame()["e2e_mean_s"]] == [
        result.metrics["e2e_mean_s"] for result in answer.results
    ]
    sweep = planner.what_if(question, {"gpus": [1, 2], "slo.ttft_p95": ["1us", "1s"]}, silicon=False)
    same(sweep.to_frame(), whatif_text.to_csv(sweep))
    assert list(sweep.to_frame()["holds"]) == [False, True, False, True]


def test_every_amount_of_an_answer_has_a_unit_in_its_column(question):
    """Else it is a count, a share, a ratio, or a word of the plan."""
    plain = {"requests", "rejected", "iterations", "preemptions", "recomputed_tokens", "sequences_per_iteration",
             "kv_peak_share", "idle_share", "mfu", "mbu", "slo_attainment", "rank", "devices", "block_size",
             "max_seqs", "token_budget", "gpu_memory_utilization", "watermark", "dp", "pp", "tp", "attn_dp", "ffn_tp",
             "ep", "ffn_dp", "meets_slos", "deployable"}  # fmt: skip
    units = (
        "_s",
        "_j",
        "_w",
        "_usd",
        "_mhz",
        "_per_s",
        "_bytes",
        "_tokens",
        "usd_per_million_generated_tokens",
    )
    frame = planner.simulate(question, "tp=1", silicon=False).to_frame()
    numbers = frame.select_dtypes("number").columns
    assert len(numbers) > 40 and all(name in plain or name.endswith(units) for name in numbers)
    assert "bound_e2e_mean_s" in numbers


def test_tables_of_the_other_results(question):
    capacity = planner.find_capacity(question, "tp=1", silicon=False, max_simulations=3)
    assert list(capacity.to_frame()["plan"]) == ["tp=1"]
    found = planner.find_minimum(question, "power", silicon=False)
    assert found.to_frame()["mean_power_w"].iloc[0] == found.least
    sensitivity = planner.find_sensitivity(question, draws=0, silicon=False)
    assert len(sensitivity.to_frame()) == len(sensitivity.worth)
    bound = planner.bound(question, "tp=1", "latency", silicon=False, explain=False)
    frame = bound.to_frame()
    assert list(frame["scheduler"]) == [row.name for row in bound.schedulers]
    known = frame.dropna(subset=["e2e_mean_s"])
    assert (known["bound_e2e_mean_s"] <= known["e2e_mean_s"]).all()
    records = planner.simulate(question, planner.plan_named(question, "tp=2"), silicon=False).requests_frame()
    assert len(records) == 20 and (records["first_token_s"] >= records["arrival_s"]).all()
    assert frames.of_csv("").empty
