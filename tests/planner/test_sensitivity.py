"""What a step is worth is the difference of two answers; draws are the same every time; overthrows are real."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import referencing
from click.testing import CliRunner

from cli import main
from planner import sensitivity_text
from planner.nearest import Nearest
from planner.pipeline import Evaluator, candidates_of, fitted, optimize
from planner.printable import WIDTH
from planner.question import Question, parse_axes, parse_pairs, parse_slo
from planner.ranking import rank
from planner.redrawn import Redrawn
from planner.sensitivity import sensitivity
from planner.stability import MOST, stability
from planner.steps import STEP, grown, steps
from planner.store import Store
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from profiles.moved import Moved
from traces.synth import synthesize

SCHEMAS = Path(__file__).parents[2] / "planner"


def question(**changes):
    asked = {
        "model": load_model("llama-3.1-8b"),
        "fleet": homogeneous("l40s", gpus=2),
        "trace": synthesize(requests=25, rate=2.0, prompt_mean=300, output_mean=60),
        "token_budgets": (512, 2048),
    }
    return Question(**(asked | changes))


@pytest.fixture(scope="module")
def found():
    asked = question(
        slos=(parse_slo("tpot_p95<=60ms"), parse_slo("power_mean<=2kW")), fix=parse_axes("pp=1"),
        forbid=parse_pairs("dp=2"),
    )  # fmt: skip
    return sensitivity(asked, draws=12, silicon=False)


# ------------------------------------------------------------------------------------------- steps


def test_every_constraint_is_moved_once(found):
    names = [worth.step.name for worth in found.worth]
    assert names == [
        "devices", "HBM capacity", "HBM bandwidth", "compute", "interconnect", "host overhead",
        "SLO tpot_p95<=60ms", "SLO power_mean<=2kW", "sequences", "token budget", "--fix pp=1", "--forbid dp=2",
    ]  # fmt: skip
    asked = {worth.step.name: worth.step.question for worth in found.worth}
    slos = [[s.limit for s in asked[name].slos] for name in names[6:8]]
    assert slos == [[pytest.approx(0.066), 2000], [0.06, pytest.approx(2200)]]
    assert asked["sequences"].max_seqs == (256, 512) and asked["token budget"].token_budgets == (
        512,
        2048,
        1024,
        4096,
    )
    assert not asked["--fix pp=1"].fix and not asked["--forbid dp=2"].forbid
    bytes_of = [q.fleet.pools[0].device.memory_bytes for q in (found.question, asked["HBM capacity"])]
    assert bytes_of[1] == int(bytes_of[0] * STEP)


def test_worth_is_the_difference_of_two_answers(found):
    """Solved from scratch, without the shared store."""
    base = optimize(found.question, silicon=False)
    assert base == found.answer
    for worth in found.worth:
        alone = optimize(worth.step.question, silicon=False, moved=worth.step.moved)
        assert alone == worth.answer
        change = alone.results[0].value / base.results[0].value - 1
        assert worth.change == pytest.approx(change, abs=1e-9) and worth.gain == pytest.approx(
            -change, abs=1e-9
        )


def test_more_of_anything_never_hurts_where_both_are_proven(found):
    """Dropping a rule, relaxing a limit or searching more keeps the old winner; faster machines beat it alone."""
    for worth in found.worth:
        assert worth.answer.certificate.gap == 0 and worth.gain >= -1e-9, worth.step.name


def test_gains_of_maximized_objectives_are_above_zero():
    found = sensitivity(question(objective="throughput", trace=synthesize(requests=25, arrivals="at-once",
                        prompt_mean=300, output_mean=60)), draws=0, silicon=False)  # fmt: skip
    gains = {worth.step.name: worth.gain for worth in found.worth}
    assert gains["HBM bandwidth"] > 0.02 and found.worth[2].change > 0
    assert found.stability is None


@pytest.mark.parametrize(("gpus", "fix", "words"), [(4, "tp=4,pp=1", "4 -> 8"), (2, "", "2 -> 3"),
                                                     (2, "dp=1,tp=2,pp=1", "more than 2")])  # fmt: skip
def test_the_next_devices_are_those_that_a_plan_can_use(gpus, fix, words):
    asked = question(fleet=homogeneous("l40s", gpus=gpus), fix=parse_axes(fix) if fix else {})
    step = next(steps(asked, Store()))
    assert step.words == words
    if step.question is None:
        assert step.reason == f"no plan uses {gpus + 1} to {2 * gpus}"
        return
    pool = step.question.fleet.pools[0]
    plans = [c.plan for c in candidates_of(step.question)]
    assert max(plan.devices for plan in plans) == pool.devices
    for fewer in range(1, pool.devices - gpus):
        between = Fleet(pools=(grown(asked.fleet.pools[0], fewer),))
        assert max(c.plan.devices for c in candidates_of(replace(asked, fleet=between))) <= gpus


def test_limits_on_devices_are_moved_where_they_are_given():
    fleet = homogeneous("l40s", gpus=4)
    pool = replace(fleet.pools[0], power_cap_w=340.0)
    price = pool.price_usd_per_device_hour
    asked = question(
        fleet=Fleet(pools=(pool,)), max_gpus=2, max_usd_per_hour=4 * price, fix=parse_axes("pp=1")
    )
    moved = {step.name: step for step in steps(asked, Store())}
    assert moved["--max-gpus"].words == "2 -> 3" and not moved["--max-gpus"].reason
    assert (
        moved["--max-gpus"].question.max_gpus == 3
        and moved["--max-gpus"].question.max_usd_per_hour == 4 * price
    )
    assert moved["--max-cost-per-hour"].question.max_usd_per_hour == pytest.approx(4.4 * price)
    assert moved["power cap of l40s"].question.fleet.pools[0].power_cap_w == min(374.0, pool.device.tdp_w)
    assert moved["devices"].question is None, "the limit is in the way"
    alone = {step.name for step in steps(question(), Store())}
    assert not alone & {"--max-gpus", "--max-cost-per-hour", "power cap of l40s"}


@pytest.mark.parametrize("more", [1, 2, 3, 9, 20])
def test_a_grown_pool_has_that_many_more(more):
    pool = homogeneous("h100", gpus=6).pools[0]
    after = grown(pool, more)
    assert after.devices == pool.devices + more and after.nodes == len(after.free)
    assert all(new >= old for new, old in zip(after.free, pool.free, strict=False))


def test_an_engine_without_overheads_has_none_to_move():
    found = sensitivity(question(engine="none"), draws=0, silicon=False)
    (host,) = [worth for worth in found.worth if worth.step.name == "host overhead"]
    assert host.answer is None and host.reason == "engine none has none" and host.change is None


def test_a_limit_that_nobody_meets_is_worth_what_lets_them():
    asked = question(slos=(parse_slo("tpot_mean<=20ms"),))
    near = min(r.metrics["tpot_mean_s"] for r in optimize(asked, silicon=False, everything=True).results)
    asked = question(slos=(parse_slo(f"tpot_mean<={near * 0.95 * 1e3:.6f}ms"),))
    found = sensitivity(asked, draws=5, silicon=False)
    assert not found.answer.results[0].acceptable and found.stability is None
    (slo,) = [worth for worth in found.worth if worth.step.name.startswith("SLO")]
    assert slo.best.acceptable and slo.change is None and "meets every SLO" in slo.plan
    assert "breaks an SLO" in sensitivity_text.to_text(found)


# ---------------------------------------------------------------------------------------- stability


def again(asked, draws, **changes):
    asked = fitted(asked)[0]
    store = Store()
    answer = optimize(asked, silicon=False, store=store)
    evaluator = Evaluator(asked, silicon=False, store=store)
    return (
        stability(evaluator, candidates_of(asked, store), answer, draws=draws, **changes),
        evaluator,
        answer,
    )


def test_the_same_seed_draws_the_same_profiles_whatever_the_workers():
    one, *_ = again(question(), 6)
    two, *_ = again(question(), 6, workers=2)
    assert one == two
    other, *_ = again(question(seed=1), 6)
    assert (other.low, other.high) != (one.low, one.high)


def test_draws_count_up(found):
    stable = found.stability
    assert stable.draws == 12 == stable.wins + sum(count for _, count in stable.others) + stable.none_holds
    assert stable.wins <= stable.layout_wins and 0 < stable.low < stable.high
    assert len(stable.contenders) <= MOST
    assert len(stable.contenders) + stable.left_out == found.answer.certificate.feasible - 1


def test_without_errors_the_winner_always_wins(monkeypatch):
    monkeypatch.setattr("planner.stability.spreads", lambda device: ())
    stable, _, answer = again(question(engine="none"), 3)
    assert stable.wins == 3 and stable.low == stable.high == answer.results[0].value


def rivals_close():
    """tp=2 against two replicas under a load at which they are near each other, so that a number decides."""
    return question(
        trace=synthesize(requests=60, rate=40.0, prompt_mean=300, output_mean=60), fix=parse_axes("pp=1"),
        token_budgets=(2048,),
    )  # fmt: skip


def test_an_overthrow_is_one_and_nothing_nearer_is():
    stable, evaluator, answer = again(rivals_close(), 2)
    real = [each for each in stable.overthrows if math.isfinite(each.nearest)]
    assert real, "some number decides"
    winner = answer.results[0].plan.label
    candidates = candidates_of(evaluator.question)
    for each in real:
        for factor, label in ((each.below, each.below_winner), (each.above, each.above_winner)):
            if factor is None:
                continue
            redrawn = Redrawn(evaluator)

            def best(factor, number=each.number, redrawn=redrawn):
                results = redrawn.results(candidates, Moved(factors=((number, factor),)))
                return rank(results, evaluator.objective)[0].plan.label

            assert 0.5 <= factor <= 2 and best(factor) == label != winner
            assert best(factor * (1.02 if factor < 1 else 1 / 1.02)) == winner


def test_plans_that_break_an_slo_by_far_are_not_near_however_good_else():
    """One device draws least, and is slow."""
    free = optimize(question(objective="energy"), silicon=False, everything=True).results
    fast = min(r.metrics["tpot_mean_s"] for r in free)
    assert free[0].plan.devices == 1 and free[0].metrics["tpot_mean_s"] > 1.5 * fast
    limit = parse_slo(f"tpot_mean<={fast * 1.05 * 1e3:.6f}ms")
    stable, evaluator, answer = again(question(objective="energy", slos=(limit,)), 4)
    assert answer.results[0].plan.devices == 2
    candidates = candidates_of(evaluator.question)
    everything = optimize(evaluator.question, silicon=False, everything=True)
    for known in (answer, everything):  # by bounds, and by what was simulated
        near = Nearest(evaluator, candidates, known, evaluator.candidate(known.results[0], candidates))
        slow = [near.behind(i) for i, c in enumerate(candidates) if c.plan.devices == 1]
        assert min(slow) > 1.4
    assert stable.wins + stable.none_holds + sum(count for _, count in stable.others) == 4


def test_what_is_left_out_is_out_of_reach():
    stable, evaluator, answer = again(question(), 8)
    assert stable.nearest > stable.reach or len(stable.contenders) == MOST or not stable.left_out
    best = answer.results[0].value
    candidates = candidates_of(evaluator.question)
    behind = sorted(evaluator.simulated(c)[2].value / best - 1 for c in candidates)[1:]
    left = behind[len(stable.contenders) :]
    assert not left or stable.nearest <= left[0] + 1e-9, "a bound at most"


# ------------------------------------------------------------------------------------------- forms


def test_text_fits_a_terminal_and_has_every_number(found):
    text = sensitivity_text.to_text(found)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    for worth in found.worth:
        assert worth.step.name in text and worth.step.words in text
    for each in found.stability.constants:
        assert each.name in text
    assert f"in {found.stability.wins} of 12" in text
    assert "\x1b[1m" in sensitivity_text.to_text(found, colour=True)


def check(document):
    """Against the published schemas."""
    load = {
        name: json.loads((SCHEMAS / f"{name}.schema.json").read_text()) for name in ("answer", "sensitivity")
    }
    answer = referencing.Resource.from_contents(load["answer"])
    registry = referencing.Registry().with_resource("answer.schema.json", answer)
    jsonschema.Draft202012Validator(load["sensitivity"], registry=registry).validate(document)


def test_what_has_no_plan_or_no_draws_is_in_the_schema_too():
    found = sensitivity(question(engine="none", fix=parse_axes("dp=1,tp=2,pp=1")), draws=0, silicon=False)
    check(json.loads(sensitivity_text.to_json(found)))


def test_json_and_csv_say_the_same(found):
    document = json.loads(sensitivity_text.to_json(found))
    rows = list(csv.DictReader(io.StringIO(sensitivity_text.to_csv(found))))
    assert [row["constraint"] for row in rows] == [worth["constraint"] for worth in document["worth"]]
    for row, worth in zip(rows, document["worth"], strict=True):
        assert float(row["value"]) == worth["value"] and float(row["change"]) == worth["change"]
    check(document)
    assert document["stability"]["wins"] == found.stability.wins


def test_the_command_is_deterministic():
    words = ["sensitivity", "--model", "opt-125m", "--device", "l40s", "--gpus", "1", "--trace",
             "traces/samples/chat.csv", "--draws", "3", "--no-silicon"]  # fmt: skip
    one, two = (CliRunner().invoke(main, words) for _ in range(2))
    assert one.exit_code == 0 and one.stdout == two.stdout
    assert CliRunner().invoke(main, [*words, "--draws", "-1"]).exit_code == 2
