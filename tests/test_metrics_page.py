"""The page of metrics: every metric and objective is on it, and its example is what the command says."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from planner.objective import OBJECTIVES
from planner.slo import LATENCIES
from simulator.metrics import PERCENTILES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "metrics.md").read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traces").symlink_to(ROOT / "traces")


def ask(*words):
    small = ["--model", "opt-125m", "--device", "l40s", "--gpus", "1", "--no-silicon"]
    return CliRunner().invoke(
        main, ["optimize", *small, "--trace", "traces/samples/chat.csv", "--max-simulations", "1", *words]
    )


def test_every_metric_objective_and_part_of_a_certificate_is_explained():
    answer = json.loads(ask("--objective", "goodput", "--slo", "ttft_p95<=1s", "--json").stdout)
    families = {f"{name}_{s}_s" for name in LATENCIES for s in ("mean", *(f"p{q}" for q in PERCENTILES))}
    for key in answer["plans"][0]["metrics"].keys() - families:
        assert f"`{key}`" in PAGE, key
    for statistic in ("mean", *(f"p{q}" for q in PERCENTILES)):
        assert f"`_{statistic}_s`" in PAGE
    for objective in OBJECTIVES.values():
        assert f"`{objective.name}`" in PAGE and f"`{objective.metric}`" in PAGE
    for key in answer["certificate"]:
        assert f"`{key}`" in PAGE, key


def test_the_example_is_what_the_command_says():
    command, *shown = PAGE.split("## Reading a certificate")[1].split("```")[1:6:2]
    words = shlex.split(command.replace("\\\n", " "))
    text = CliRunner().invoke(main, [*words[1:], "--no-cache"]).stdout
    assert [block.split()[0] for block in shown] == ["objective", "certificate"]
    assert all(block.strip("\n") in text for block in shown), text
