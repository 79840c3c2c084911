"""The least is what simulation of every plan finds, and one step less has no plan that holds."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest

from planner import minimum_text
from planner.errors import NoFeasiblePlan
from planner.minimum import QUANTITIES, minimum
from planner.pipeline import optimize
from planner.question import Question, parse_slo
from planner.store import Store
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from traces.trace import Trace

RNG = np.random.default_rng(0)
TRACE = Trace(
    arrival_s=np.cumsum(RNG.exponential(0.1, 30)),
    prompt_tokens=RNG.integers(5, 400, 30),
    output_tokens=RNG.integers(1, 60, 30),
    name="random",
)
SHARED = Store()


def question(*slos, **changes):
    base = {
        "model": load_model("llama-3.1-8b"),
        "fleet": homogeneous("l40s", gpus=4),
        "trace": TRACE,
        "token_budgets": (512, 2048),
        "slos": tuple(map(parse_slo, slos)),
    }
    return Question(**(base | changes))


def least(asked, of="gpus", **limits):
    return minimum(asked, of, silicon=False, store=SHARED, **limits)


def taken(result, of, price):
    devices = float(result.plan.devices)
    return {"gpus": devices, "cost": devices * price, "power": result.metrics["mean_power_w"]}[of]


@pytest.mark.parametrize("of", sorted(QUANTITIES))
@pytest.mark.parametrize("statistic", ["ttft_p95", "tpot_p95", "itl_p99", "e2e_mean"])
def test_the_least_is_what_simulating_every_plan_finds(of, statistic):
    everything = optimize(question(), silicon=False, everything=True, store=SHARED).results
    price = question().fleet.pools[0].price_usd_per_device_hour
    reached = sorted({r.metrics[f"{statistic}_s"] for r in everything})
    for limit in (reached[0] / 2, reached[0], reached[len(reached) // 3], reached[-1]):
        limit *= 1 + 1e-9
        found = least(question(f"{statistic}<={limit!r}s"), of)
        fine = [taken(r, of, price) for r in everything if r.metrics[f"{statistic}_s"] <= limit]
        assert found.certificate.unexamined == 0
        if not fine:
            assert found.least is None and found.proven is None and not found.answer.results[0].acceptable
            continue
        assert found.least == found.proven == min(fine)
        best = found.answer.results[0]
        assert best.acceptable and taken(best, of, price) == found.least
        ties = [
            r for r in everything if r.metrics[f"{statistic}_s"] <= limit and taken(r, of, price) == min(fine)
        ]
        assert best.value == min(r.value for r in ties)
        less = sum(taken(r, of, price) < min(fine) for r in everything)
        assert sum(step.feasible for step in found.below) >= less
        for step in found.below:
            assert step.feasible == step.hopeless + step.failed + step.more + step.unexamined
            assert step.unexamined == 0 and (of == "power" or step.more == 0)
            assert step.takes < found.least
        broken = [r for r in everything if r.metrics[f"{statistic}_s"] > limit]
        assert sum(step.failed for step in found.below) <= len(broken)
        if of == "power":
            assert sum(step.more for step in found.below) <= len(everything) - len(broken) - 1


def test_one_device_less_has_no_plan_that_holds():
    """By the other road: the certified optimizer, asked for every smaller fleet."""
    every = optimize(question(), silicon=False, everything=True, store=SHARED).results
    reached = sorted(r.metrics["tpot_p95_s"] * 1.0001 for r in every)
    for limit in (f"{reached[i]}s" for i in (0, len(reached) // 2, -1)):
        found = least(question(f"tpot_p95<={limit}"))
        assert [s.takes for s in found.below] == [float(n) for n in range(1, int(found.least))]
        for gpus in range(1, int(found.least)):
            fewer = question(f"tpot_p95<={limit}", fleet=homogeneous("l40s", gpus=gpus))
            assert not optimize(fewer, silicon=False, store=SHARED).results[0].acceptable
        enough = question(f"tpot_p95<={limit}", fleet=homogeneous("l40s", gpus=int(found.least)))
        best = optimize(enough, silicon=False, store=SHARED).results[0]
        assert best.acceptable and best.value == found.answer.results[0].value


@pytest.mark.parametrize("of", sorted(QUANTITIES))
def test_a_tighter_limit_never_lowers_the_least(of):
    values = [least(question(f"tpot_p95<={ms}ms"), of).least for ms in (1, 8, 10, 14, 20, 40)]
    assert values[0] is None
    taken = [math.inf if value is None else value for value in values]
    assert taken == sorted(taken, reverse=True)


def test_a_search_cut_short_brackets_the_least():
    asked = question("itl_p99<=1s")
    whole, cut = least(asked, "power"), least(asked, "power", max_simulations=1)
    assert cut.certificate.simulated == 1 and cut.certificate.unexamined
    assert cut.proven <= whole.least
    assert cut.least is None or cut.least >= whole.least
    text = " ".join(minimum_text.to_text(cut).split())
    assert "not examined" in text and "proven:" not in text.split("best plan")[0].replace("not proven:", "")


def test_fewer_devices_than_any_plan_needs_are_explained_by_memory():
    asked = question(model=load_model("llama-3.1-70b"), fleet=homogeneous("l40s", gpus=8))
    found = least(asked)
    assert found.least == 4 and found.below == []
    assert "on 3 x l40s" in found.unfit and "weights of" in found.unfit
    with pytest.raises(NoFeasiblePlan):
        least(dataclasses.replace(asked, fleet=homogeneous("l40s", gpus=3)))


def test_devices_of_several_pools_are_counted_together():
    fleet = dataclasses.replace(
        homogeneous("l40s", gpus=4),
        pools=(*homogeneous("l40s", gpus=4).pools, *homogeneous("h100", gpus=4).pools),
    )
    found = least(question("tpot_p95<=14ms", fleet=fleet))
    assert found.least == 1 and found.answer.results[0].device == "h100-sxm-80gb"
    cheap = least(question("tpot_p95<=14ms", fleet=fleet), "cost")
    prices = {pool.device.name: pool.price_usd_per_device_hour for pool in fleet.pools}
    best = cheap.answer.results[0]
    assert cheap.least == prices[best.device] * best.plan.devices == cheap.proven


def test_mistakes_are_one_line():
    with pytest.raises(InputError, match=r"'watts'.*known: cost, gpus, power"):
        least(question(), "watts")
    with pytest.raises(InputError, match="--use-all-devices"):
        least(question(use_all_devices=True))
    pool = dataclasses.replace(homogeneous("l40s", gpus=1).pools[0], price_usd_per_device_hour=None)
    unpriced = dataclasses.replace(homogeneous("l40s", gpus=1), pools=(pool,))
    with pytest.raises(InputError, match="l40s has none"):
        least(question(fleet=unpriced), "cost")


@pytest.mark.parametrize("of", sorted(QUANTITIES))
@pytest.mark.parametrize("slo", ["tpot_p95<=14ms", "tpot_p95<=1ms", "itl_p99<=1us"])
def test_text_json_and_csv_say_the_same(of, slo):
    found = least(question(slo), of)
    text = minimum_text.to_text(found)
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    document = json.loads(minimum_text.to_json(found))
    assert document["least"] == found.least and document["of"] == of
    assert len(document["below"]) == len(found.below)
    rows = list(csv.DictReader(io.StringIO(minimum_text.to_csv(found))))
    assert [row["name"] for row in rows] == [p["plan"]["name"] for p in document["answer"]["plans"]]
    words = " ".join(text.split())
    if found.least is None:
        assert "no plan of the fleet holds, proven" in words
    else:
        assert f"{minimum_text.amount(found.least, found.quantity)}, proven" in words
