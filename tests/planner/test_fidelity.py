"""Replays: our own simulation is off by nothing, a shifted measurement by exactly its shift."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from planner import fidelity
from planner.fidelity import RunFidelity, Servers, order_of, summary_of, validate
from planner.fidelity_html import to_html
from planner.fidelity_text import to_json, to_text
from planner.measured import METRICS, Run
from profiles.errors import InputError
from profiles.plan import EngineSettings
from profiles.stepcost import PS
from simulator import metrics
from traces.synth import synthesize

CAMPAIGN = Path(__file__).parents[2] / "traces" / "samples" / "campaign"


def fake(label="1TP", *, seed=0, **changes):
    """A run whose measurements are still to be filled in."""
    trace = synthesize(requests=30, rate=100.0, prompt_mean=200, output_mean=20, output_sd=30, seed=seed)
    fields = {
        "name": label, "group": "chat 2/s", "label": label, "model": "opt-125m", "device": "l40s",
        "engine": "vllm-v1", "axes": {"attn_tp": int(label[0])}, "settings": EngineSettings(max_seqs=4),
        "trace": replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0]),
        "mean_s": {name: 1.0 for name in METRICS},
    }  # fmt: skip
    return Run(**(fields | changes))


def measured(run, **factors):
    """The run as our own simulator serves it, times a factor for each metric."""
    outcome = Servers([run], silicon=False).replay(run)
    means = {name: metrics.slo_value(outcome, name, None) * factors.get(name, 1.0) for name in METRICS}
    output = outcome.output_tokens
    tpot = np.full(len(output), np.nan)
    waited = (outcome.finish_ps - outcome.first_token_ps) / PS
    tpot[output > 1] = waited[output > 1] / (output[output > 1] - 1)
    each = {
        "ttft": (outcome.first_token_ps - outcome.arrival_ps) / PS,
        "e2e": (outcome.finish_ps - outcome.arrival_ps) / PS,
        "tpot": tpot,
        "scheduled": (outcome.scheduled_ps - outcome.arrival_ps[0]) / PS,
    }
    times = {name: values * factors.get(name, 1.0) for name, values in each.items()}
    return replace(run, mean_s=means, request_s=times)


def test_our_own_simulation_is_predicted_without_error():
    run = measured(fake())
    assert (run.request_s["scheduled"] > run.trace.arrival_s + 1e-9).any(), "some wait"
    (found,) = validate([run], silicon=False).runs
    assert found.error == dict.fromkeys(METRICS, 0.0)
    assert found.request_error == dict.fromkeys(("ttft", "e2e", "tpot", "scheduled"), 0.0)
    assert found.requests == 30 and found.rejected == 0


def test_a_shifted_measurement_is_off_by_its_shift():
    run = measured(fake(), ttft=1.25, itl=0.8, e2e=2.0)
    result = validate([run], silicon=False)
    expected = {"ttft": -0.2, "itl": 0.25, "tpot": 0.0, "e2e": -0.5}
    assert result.runs[0].error == pytest.approx(expected)
    assert result.runs[0].request_error["ttft"] == pytest.approx(0.2)
    for name, error in expected.items():
        part = result.summary[name]
        assert part.bias == pytest.approx(error)
        assert part.median_abs_error == part.worst_abs_error == pytest.approx(abs(error))


def test_only_what_was_measured_is_compared():
    run = replace(measured(fake()), mean_s={"e2e": 1.0}, request_s={})
    result = validate([run], silicon=False)
    assert set(result.summary) == set(result.runs[0].error) == {"e2e"} and not result.runs[0].request_error
    assert "-      -      -" in to_text(result)


def test_a_distinct_server_is_compiled_once(monkeypatch):
    compiled = []
    real = fidelity.Evaluator.step
    monkeypatch.setattr(fidelity.Evaluator, "step", lambda *args: compiled.append(args) or real(*args))
    runs = [fake(seed=1), fake(seed=2), fake("2TP"), fake(settings=EngineSettings(max_seqs=8))]
    validate(runs, silicon=False)
    assert len(compiled) == 3


def test_replicas_behind_one_router_are_one_run():
    run = measured(fake(axes={"attn_tp": 1, "dp": 2}))
    assert validate([run], silicon=False).runs[0].error["e2e"] == 0.0


def test_a_plan_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match=r"8TP.*divide"):
        validate([fake("8TP")], silicon=False)
    with pytest.raises(InputError, match="KV blocks"):
        validate([fake(model="llama-3.1-70b")], silicon=False)
    with pytest.raises(InputError, match="no measured run"):
        validate([])


# ---------------------------------------------------------------------------------- summaries and orders


def record(label, measured_s, predicted_s, requests=1, group="g"):
    return RunFidelity(
        name=label, group=group, label=label, requests=requests, measured_s={"e2e": measured_s},
        predicted_s={"e2e": predicted_s}, error={"e2e": predicted_s / measured_s - 1}, request_error={},
        rejected=0,
    )  # fmt: skip


def test_summaries_are_medians_worst_cases_and_means_of_signed_errors():
    part = summary_of([record("a", 1.0, 1.1), record("a", 1.0, 0.7), record("b", 1.0, 1.2)])["e2e"]
    assert (part.runs, part.median_abs_error, part.worst_abs_error, part.bias) == pytest.approx(
        (3, 0.2, 0.3, 0.0)
    )


def test_orders_weigh_replicas_by_their_requests():
    order = order_of("g", [record("2DP", 1.0, 1.0, 3), record("2DP", 2.0, 2.0, 1), record("1", 1.3, 1.2)])
    assert list(order.measured_s) == ["2DP", "1"]
    assert order.measured_s["2DP"] == order.predicted_s["2DP"] == 1.25
    assert order.wrong == (("2DP", "1"),) and not order.agrees


def test_every_pair_that_is_the_other_way_round_is_named():
    order = order_of("g", [record("a", 1.0, 3.0), record("b", 2.0, 2.0), record("c", 3.0, 4.0)])
    assert order.wrong == (("a", "b"),)
    tie = order_of("g", [record("a", 1.0, 2.0), record("b", 2.0, 2.0)])
    assert tie.wrong == (("a", "b"),), "what is told apart must be predicted apart"
    assert order_of("g", [record("a", 2.0, 1.0), record("b", 2.0, 2.0)]).agrees


def test_an_order_needs_two_plans_of_one_group():
    runs = [measured(fake()), measured(fake("2TP")), replace(measured(fake()), group="other")]
    result = validate(runs, silicon=False)
    assert [order.group for order in result.order] == ["chat 2/s"]
    assert result.order[0].agrees
    slow = replace(runs[0], mean_s=runs[1].mean_s), replace(runs[1], mean_s=runs[0].mean_s)
    assert not validate(slow, silicon=False).order[0].agrees


# ------------------------------------------------------------------------------------------------ output


@pytest.fixture(scope="module")
def evil():
    name = '<script>alert("1")</script>\x1b[2J'
    runs = [replace(measured(fake(), ttft=1.2), group=name, label=f"{at}{name}", name=name, notes=(name,))
            for at in range(16)]  # fmt: skip
    return validate(runs, silicon=False)


def test_the_page_is_one_file_of_escaped_text(evil):
    page = to_html(evil)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page and "url(#" in page
    body = page[page.index("<body>") : page.index("</html>")].replace("\x1b", "")
    tree = ET.fromstring(body)
    assert len(tree.findall(".//section")) == len(METRICS)
    assert len(tree.findall(".//section//title")) == 16 * len(METRICS)
    assert any("measured" in (title.text or "") for title in tree.iter("title"))


def test_marks_lie_where_the_axes_say(evil):
    page = to_html(validate([measured(fake())], silicon=False))
    tree = ET.fromstring(page[page.index("<body>") : page.index("</html>")])
    marks = tree.findall(".//section//circle")
    assert len(marks) == len(METRICS)
    for mark in marks:  # no error: on the diagonal of a square of 300 at (56, 8)
        assert float(mark.get("cx")) - 56 == pytest.approx(8 + 300 - float(mark.get("cy")), abs=0.11)


def test_text_fits_a_terminal_and_moves_no_cursor(evil):
    text = to_text(evil)
    assert "\x1b" not in text and all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b[1m" in to_text(evil, colour=True)


def test_json_says_all_of_it(evil):
    content = json.loads(to_json(evil))
    assert set(content["summary"]) == set(METRICS)
    assert content["summary"]["ttft"]["median_abs_error"] == pytest.approx(1 / 6)
    assert len(content["runs"]) == 16 and content["runs"][0]["error"]["e2e"] == 0
    assert content["order"][0]["agrees"] is True and content["order_agrees"] is True
    assert sum(content["provenance"].values()) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------- command


def command(*words):
    return CliRunner().invoke(main, ["validate", *map(str, words)])


def test_the_sample_is_close_to_what_the_roofline_says(tmp_path):
    """It was made with the roofline of its day."""
    page = tmp_path / "page.html"
    result = command(CAMPAIGN, "--device", "l40s", "--no-silicon", "--html", page)
    assert result.exit_code == 0 and "predicted in the same order" in result.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")
    content = json.loads(command(CAMPAIGN, "--device", "l40s", "--no-silicon", "--json").stdout)
    assert all(0 < part["worst_abs_error"] < 0.05 for part in content["summary"].values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--device"),
        (["--device", "l40z"], "l40s"),
        (["--device", "l40s", "--engine", "vllm-v3"], "vllm-v1"),
        (["--device", "l40s", "--plan", "tq=1"], "tq"),
        (["--device", "l40s", "--model", "opt-125n"], "opt-125m"),
        (["--device", "l40s", "--plan", "policy=sarathi,budget=8"], "token budget 8"),
        (["--device", "l40s", "--html", "/nowhere/page.html"], "no folder"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    result = command(CAMPAIGN, *words)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 or "Usage" in result.stderr
