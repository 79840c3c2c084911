"""SLOs that no plan meets: the best of all simulations, bounds below it, limits that a plan meets when asked again."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main
from planner.axes import axis_of, parse_axes
from planner.errors import NoFeasiblePlan
from planner.objective import OBJECTIVES
from planner.pipeline import Evaluator, candidates_of, optimize
from planner.question import Question, parse_slo
from planner.ranking import rank
from planner.reach import MOST, loosened
from planner.report import answer_dict, none_dict, to_text
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from tests.planner.test_ranking import result
from traces.synth import synthesize

ROOT = Path(__file__).parents[2]
ASKED = Question(
    model=load_model("llama-3.1-8b"), fleet=homogeneous("l40s", gpus=4), max_seqs=(16,), token_budgets=(512, 2048),
    trace=synthesize(requests=60, rate=20.0), deployable=False,
)  # fmt: skip

TIGHT = [
    ["ttft_p99<=1us"],
    ["itl_p99<=1us"],
    ["itl_mean<=1us", "e2e_mean<=100s"],
    ["ttft_p50<=1us", "tpot_p90<=1us"],
    ["e2e_p99<=1ms", "itl_p50<=1us", "ttft_mean<=1us"],
]


def asked(limits, **changes):
    return dataclasses.replace(ASKED, slos=tuple(map(parse_slo, limits)), **changes)


def found_by(words, results):
    """The simulated plan that words name."""
    axes = parse_axes(" ".join(words))
    return [r for r in results if all(axis_of(r.plan, axis) == value for axis, value in axes.items())]


@pytest.mark.parametrize("limits", TIGHT, ids=" ".join)
def test_the_best_is_between_the_bound_and_every_simulation(limits):
    whole = optimize(asked(limits), silicon=False, everything=True)
    certified = optimize(asked(limits), silicon=False)
    assert certified.certificate.simulated == len(certified.results) <= whole.certificate.feasible
    assert certified.certificate.excluded_by_slo == certified.certificate.feasible - len(certified.results)
    near = Evaluator(asked(limits), silicon=False).lowest(candidates_of(asked(limits)))
    hopeless = any(entry and entry[0] > 1e-3 for entry in near)
    assert not hopeless or {entry[1].plan for entry in near if entry} <= {r.plan for r in certified.results}
    assert [entry and entry[0] for entry in near] == [reach.bound for reach in whole.shortfall.slos]
    for i, (all_of, some) in enumerate(zip(whole.shortfall.slos, certified.shortfall.slos, strict=True)):
        best = min(r.slos[i].value for r in whole.results)
        assert all_of.value == best <= some.value and all_of.text == limits[i]
        assert all_of.bound == some.bound
        assert (some.bound is None) == bool(re.match(r"itl_p", limits[i]))
        assert some.bound is None or 0 < some.bound <= best
        assert some.value in [r.slos[i].value for r in found_by(some.plan.split(), certified.results)]


@pytest.mark.parametrize("limits", TIGHT, ids=" ".join)
def test_a_relaxation_is_met_when_it_is_asked(limits):
    missed = optimize(asked(limits), silicon=False).shortfall
    assert 1 <= len(missed.relaxations) <= MOST
    for words in missed.relaxations:
        relaxed, plan = re.fullmatch(r"(.*) \((.*)\)", words).groups()
        looser = [parse_slo(text) for text in relaxed.split(" and ")]
        kept = [s for s in map(parse_slo, limits) if s.key not in [loose.key for loose in looser]]
        again = optimize(dataclasses.replace(ASKED, slos=(*looser, *kept)), silicon=False, everything=True)
        assert again.shortfall is None
        assert any(r.acceptable for r in found_by(plan.split(), again.results)), words


def test_one_slo_alone_is_relaxed_where_a_plan_meets_the_others():
    alone = optimize(asked(["itl_p99<=1us", "e2e_mean<=100s"]), silicon=False).shortfall
    (words,) = alone.relaxations
    assert words.startswith("itl_p99<=") and " and " not in words
    both = optimize(asked(["itl_p99<=1us", "e2e_mean<=1us"]), silicon=False).shortfall
    assert both.relaxations[0].count("<=") == 2


def test_an_slo_that_is_met_has_no_shortfall():
    answer = optimize(asked(["ttft_p99<=10s"]), silicon=False)
    assert answer.shortfall is None and "infeasible" not in answer_dict(answer)
    assert "at best" not in to_text(answer)


def test_a_search_cut_short_simulates_no_more():
    limits = ["itl_p99<=1us", "ttft_p99<=100s"]
    answer = optimize(asked(limits, objective="energy"), silicon=False, max_simulations=1)
    assert answer.certificate.simulated == 1 < answer.certificate.feasible
    assert answer.shortfall.slos[0].value == answer.results[0].slos[0].value


def test_the_nearest_comes_first_where_none_holds():
    near, far, rejects = result(9.0, slo_s=2.0), result(1.0, slo_s=3.0), result(0.5, rejected=3)
    assert rank([rejects, far, near], OBJECTIVES["latency"]) == [near, far, rejects]
    good = result(20.0)
    assert rank([rejects, far, near, good], OBJECTIVES["latency"]) == [good, rejects, far, near]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(value=st.floats(1e-7, 1e5))
def test_a_loosened_limit_is_met_and_has_two_digits(value):
    slo = parse_slo(loosened(parse_slo("tpot_p99.9<=1ms"), value))
    assert slo.key == "tpot_p99.9_s"
    assert value <= slo.limit <= value * 1.1001
    digits = re.search(r"<=([0-9.]+)", slo.text)[1].replace(".", "").strip("0")
    assert len(digits) <= 2


@pytest.mark.parametrize(
    "value, text", [(0.83, "830ms"), (0.0995, "100ms"), (0.99999, "1000ms"), (12.01, "13s")]
)
def test_loosened_examples(value, text):
    assert loosened(parse_slo("e2e_mean<=1ms"), value) == f"e2e_mean<={text}"


def valid(document):
    import jsonschema

    schema = json.loads((ROOT / "planner" / "answer.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def test_programs_read_what_clashes_and_what_would_do(tmp_path):
    asks = "optimize --model llama-3.1-70b --device h100 --gpus 2 --no-silicon --fix dp=2 --trace"
    words = [*asks.split(), str(ROOT / "traces" / "samples" / "chat.csv")]
    plain = CliRunner().invoke(main, words)
    assert plain.exit_code == 3 and plain.stdout == ""
    file = tmp_path / "answer.json"
    found = CliRunner().invoke(main, [*words, "--json", "-o", str(file)])
    assert found.exit_code == 3 and found.stderr == plain.stderr
    assert file.read_text() == found.stdout
    infeasible = valid(json.loads(found.stdout))["infeasible"]
    assert [member["constraint"] for member in infeasible["core"]] == ["fix dp=2", "memory"]
    assert infeasible["relaxations"] == ["drop --fix dp=2", "fp8 weights", "4 such devices"]
    last = plain.stderr.splitlines()[-1]
    assert all(word in last for word in (*infeasible["relaxations"], infeasible["core"][1]["words"]))


def test_programs_read_how_near_plans_get():
    answer = optimize(asked(["ttft_p99<=1us", "itl_p99<=1us"]), silicon=False)
    document = valid(json.loads(json.dumps(answer_dict(answer))))
    first, second = document["infeasible"]["slos"]
    assert first["bound_s"] and second["bound_s"] is None and document["infeasible"]["core"] == []
    text = to_text(answer)
    assert text.count("at best") == 2 and "no bound known" in text and "would do" in text
    assert valid(none_dict(NoFeasiblePlan("none")))["infeasible"]["relaxations"] == []
