"""What is printed is what was found: figures, units, marks, shares, and no more proof than there is."""

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import report
from planner.deploy import Server, command
from planner.objective import OBJECTIVES
from planner.pipeline import optimize, simulate_plan
from planner.printable import quantity
from planner.question import Question, parse_slo
from profiles.device import load_device
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.memory import Longest, footprint
from profiles.plan import Plan
from traces.trace import Trace

LAWFUL = settings(deadline=None, max_examples=100, derandomize=True)
SCALE = {"ms": 1e-3, "s": 1.0, "J": 1.0, "kJ": 1e3, "MJ": 1e6, "USD": 1.0, "tokens/s": 1.0, "requests/s": 1.0}
SCALE["generated tokens/s"] = 1.0


def question(**changes):
    trace = Trace(
        arrival_s=np.arange(30) ** 2 * 1e-4,
        prompt_tokens=np.arange(30) * 9 + 20,
        output_tokens=np.full(30, 40),
        name="thirty",
    )
    asked = {
        "engine": "none",
        "model": load_model("opt-125m"),
        "fleet": homogeneous("l40s", gpus=2),
        "trace": trace,
    }
    return Question(**{**asked, **changes})


def answer(changes=(), **limits):
    return optimize(question(**dict(changes)), silicon=False, **limits)


@pytest.fixture(scope="module")
def found():
    slos = (parse_slo("ttft_p95<=300ms"), parse_slo("e2e_mean<=3s"))
    return answer({"slos": slos}, everything=True)


@pytest.fixture(scope="module")
def broken():
    """A limit that every plan breaks, though no bound proves it."""
    return answer({"slos": (parse_slo("itl_p99<=1us"),)}, everything=True)


def row(text, name):
    """The words beside a name, its lines joined."""
    lines = text.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line[:14].rstrip() == name]
    words = [lines[at][len(name) :].strip()]
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 14):
            break
        words.append(line.strip())
    return " ".join(words)


def measure(text):
    """``37.2 ms`` as 0.0372 and half a unit of its last digit."""
    number, unit = text.split(" ", 1)
    digits = len(number.partition(".")[2])
    return float(number.replace(",", "")) * SCALE[unit], 0.5001 * 10**-digits * SCALE[unit]


def same(text, value):
    shown, half = measure(text)
    assert shown == pytest.approx(value, abs=half, rel=0), text


# -------------------------------------------------------------------------------------------- figures


def test_latencies_in_the_text_are_those_of_the_answer(found):
    text, metrics = report.to_text(found), found.results[0].metrics
    for name, key in (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2e")):
        shown = dict(part.split(" ", 1) for part in row(text, name).split(", "))
        assert list(shown) == ["mean", "p50", "p95", "p99"]
        for statistic, value in shown.items():
            same(value, metrics[f"{key}_{statistic}_s"])


def test_the_other_figures_are_those_of_the_answer(found):
    text, best = report.to_text(found), found.results[0]
    m = best.metrics
    assert row(text, "best plan").startswith(f"{best.plan.label}  ({best.plan.devices} x l40s)")
    value, bound = re.match(r"(\S+ \S+), proven .* below (\S+ \S+) \(", row(text, "objective")).groups()
    same(value, best.value)
    same(bound, best.bound)
    energy = row(text, "energy")
    same(energy.split(",")[0], m["energy_j"])
    same(re.search(r"(\S+ J) per generated token", energy)[1], m["energy_per_generated_token_j"])
    assert f"mean {m['mean_power_w']:.0f} W" in energy
    cost = row(text, "cost")
    same(cost.split(";")[0], m["cost_usd"])
    price = question().fleet.pools[0].price_usd_per_device_hour
    same(re.search(r"(\S+ USD) per hour", cost)[1], price * best.plan.devices)
    same(re.search(r"(\S+ USD) per million", cost)[1], m["cost_usd"] / (30 * 40) * 1e6)
    throughput = row(text, "throughput")
    same(throughput.split(", ")[0], m["generated_tokens_per_s"])
    for name in ("MBU", "MFU", "KV peak"):
        value = m[{"KV peak": "kv_peak_share"}.get(name, name.lower())]
        shown, digits = re.search(rf"{name} (\d+(?:\.(\d))?)%", throughput).groups()
        assert float(shown) == pytest.approx(value * 100, abs=0.051 if digits else 0.51)


def test_figures_of_the_answer_are_in_their_unit(found):
    """J = W x s, USD = USD/h x h x devices, tokens/s x s = tokens: one wrong unit breaks one of them."""
    for result in found.results:
        m, plan = result.metrics, result.plan
        makespan = m["energy_j"] / m["mean_power_w"]
        assert m["generated_tokens_per_s"] * makespan == pytest.approx(30 * 40, rel=1e-6)
        assert m["energy_per_generated_token_j"] * 30 * 40 == pytest.approx(m["energy_j"])
        price = question().fleet.pools[0].price_usd_per_device_hour
        assert m["cost_usd"] == pytest.approx(price * plan.devices * makespan / 3600, rel=1e-6)


def test_the_table_lists_the_plans_in_order_with_their_figures(found):
    text = report.to_text(found, top=None)
    lines = text.split("─\n", 1)[1].splitlines()[: len(found.results)]
    for rank, (line, result) in enumerate(zip(lines, found.results, strict=True), start=1):
        cells = re.split(r"\s{2,}", line.strip())
        assert cells[0].split()[0].rstrip("*") == str(rank)
        same(cells[-5], result.metrics["e2e_mean_s"])
        same(cells[-4], result.metrics["ttft_mean_s"])
        same(cells[-3], result.metrics["tpot_mean_s"])
        same(cells[-2], result.metrics["energy_j"])
        same(cells[-1], result.bound)


def test_text_json_and_csv_list_the_same_plans(found):
    document = json.loads(report.to_json(found))
    rows = list(csv.DictReader(io.StringIO(report.to_csv(found))))
    assert len(document["plans"]) == len(rows) == len(found.results)
    for plan, line, result in zip(document["plans"], rows, found.results, strict=True):
        assert plan["plan"]["name"] == line["name"] == result.plan.label
        assert plan["metrics"] == {k: v for k, v in result.metrics.items()}
        for key, value in plan["metrics"].items():
            assert line[key] == ("" if value is None else repr(value)) or float(line[key]) == value


@LAWFUL
@given(st.floats(1e-9, 1e12), st.sampled_from(["s", "J", "USD", "tokens/s", "requests/s"]))
def test_a_quantity_reads_back_within_its_last_digit(value, unit):
    shown, half = measure(quantity(value, unit))
    assert abs(shown - value) <= max(half, 0.006 * value)
    if value > 1e-3:
        assert "e" not in quantity(value, unit).split()[0], "no exponents for people"


def test_a_quantity_that_rounds_up_to_the_next_unit_has_no_exponent():
    assert quantity(0.99951, "s") == "1.00 s" and quantity(0.9994, "s") == "999 ms"
    assert quantity(9999.7, "tokens/s") == "10,000 tokens/s"


def test_a_quantity_that_is_not_known_has_no_number():
    assert quantity(None, "s") == "n/a" and quantity(math.inf, "s") == "none"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_shown_with_its_value_and_unit(name):
    slos = (parse_slo("ttft_p95<=300ms"),)
    ours = answer({"objective": name, "slos": slos})
    best, text = ours.results[0], report.to_text(ours)
    assert OBJECTIVES[name].words in text
    shown = re.match(r"(\S+ \S+?)[,;]", row(text, "objective"))[1]
    assert measure(shown)[0] == pytest.approx(best.metrics[OBJECTIVES[name].metric], rel=0.01, abs=0.005)
    side = "above" if OBJECTIVES[name].maximize else "below"
    assert f"gets this plan {side}" in row(text, "objective")


# ---------------------------------------------------------------------------------- limits and proof


def test_slos_that_are_met_are_said_to_be(found):
    text = report.to_text(found)
    assert [line.split(": ")[0].split()[-1] for line in text.splitlines() if line.startswith("SLO")] == [
        "ttft_p95<=300ms",
        "e2e_mean<=3s",
    ]
    assert text.count(", met\n") == 2 and "NOT met" not in text and "(!)" not in text


def test_a_plan_that_breaks_an_slo_is_marked_wherever_it_is_listed(broken):
    text = report.to_text(broken, top=None)
    assert "breaks itl_p99<=1us; no feasible plan meets every SLO" in text
    assert "NOT met" in row(text, "SLO") and "proven best" not in text
    assert text.count(" (!) ") == len(broken.results) + 1, "each plan, and the legend"
    document = json.loads(report.to_json(broken))
    assert not any(plan["meets_slos"] or plan["slos"][0]["met"] for plan in document["plans"])
    assert document["certificate"]["best"] is None
    assert "none serves every request within every SLO" in row(text, "certificate")


def counts(text):
    """Plans feasible, and the sum of what became of them, as printed."""
    words = row(text, "certificate")
    feasible, rest = words.split(" feasible plans: ")
    return int(feasible), sum(int(part.split()[0]) for part in rest.split(";")[0].split(", "))


@pytest.mark.parametrize(
    ("slo", "limits"),
    [(None, {}), (None, {"max_simulations": 1}), (None, {"everything": True}), ("ttft_mean<=1us", {}),
     ("ttft_mean<=6ms", {}), ("itl_p99<=1us", {"max_simulations": 1})],
)  # fmt: skip
def test_the_certificate_counts_every_plan_once(slo, limits):
    ours = answer({"slos": (parse_slo(slo),) if slo else ()}, **limits)
    text, c = report.to_text(ours), ours.certificate
    feasible, accounted = counts(text)
    assert feasible == accounted == c.feasible
    assert len(ours.results) == c.simulated
    assert ("not examined" in text) == bool(c.unexamined)
    assert json.loads(report.to_json(ours))["certificate"]["simulated"] == c.simulated


def test_a_search_cut_short_states_the_true_gap_and_claims_no_proof():
    whole = answer({"objective": "energy"}, everything=True)
    cut = answer({"objective": "energy"}, max_simulations=1)
    c, text = cut.certificate, report.to_text(cut)
    assert c.unexamined and c.gap > 0
    assert f"proven gap {c.gap:.2%}" in row(text, "certificate")
    assert "proven best" not in text and f"within {c.gap:.1%} of the best possible" in row(text, "objective")
    best = min(result.value for result in whole.results)
    assert c.proven <= best <= c.best and (c.best - best) / c.best <= c.gap
    document = json.loads(report.to_json(cut))["certificate"]
    assert document["gap"] == pytest.approx((document["best"] - document["proven"]) / document["best"])


def test_nothing_is_claimed_of_plans_that_were_not_examined():
    cut = answer({"slos": (parse_slo("itl_p99<=1us"),)}, max_simulations=1)
    text = report.to_text(cut)
    assert "none of the simulated plans meets every SLO" in text
    assert "no feasible plan" not in text and "proven" not in text
    assert "none simulated serves every request within every SLO" in row(text, "certificate")


def test_a_plan_that_rejects_requests_is_not_proven_best(found):
    results = [replace(r, metrics={**r.metrics, "rejected": 2}) for r in found.results]
    unfit = replace(found, results=results, certificate=replace(found.certificate, best=None, proven=None))
    text = " ".join(report.to_text(unfit).split())
    assert "proven" not in text and "(!) breaks an SLO or rejects requests" in text


def test_more_is_better_is_shown_the_right_way_round():
    ours = answer({"objective": "throughput"}, everything=True)
    document = json.loads(report.to_json(ours))
    most = max(plan["value"] for plan in document["plans"])
    assert document["certificate"]["best"] == document["plans"][0]["value"] == most > 0
    assert all(plan["bound"] >= plan["value"] * (1 - 1e-9) for plan in document["plans"])


# -------------------------------------------------------------------------------------------- shares


@LAWFUL
@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e9), min_size=1, max_size=8))
def test_percentages_add_up_to_100_and_are_within_one(parts):
    shown, total = report.percentages(parts), sum(parts.values())
    assert list(shown) == list(parts)
    assert sum(shown.values()) == (100 if total else 0)
    assert all(abs(shown[name] - 100 * parts[name] / total) < 1 for name in parts if total)


def test_sources_of_the_times_and_parts_of_the_latency_sum_to_100_percent(found):
    mixed = dict(zip(("measured", "interpolated", "modelled"), (1 / 3, 1 / 3, 1 / 3), strict=True))
    shown = replace(found, results=[replace(r, provenance=mixed) for r in found.results])
    for text in (report.to_text(found), report.to_text(shown)):
        for name, end in (("profile", " ("), ("latency is", None)):
            words = row(text, name).split(end)[0] if end else row(text, name)
            assert sum(int(n) for n in re.findall(r"(\d+)%", words)) == 100
    for result in found.results:
        assert sum(result.provenance.values()) == pytest.approx(1)


# ------------------------------------------------------------------------------- words of the user

EVIL = "a\x1b[2J\x07\rb\u202e[red]:smile:\x9b1mc"


def test_words_of_the_user_stay_words(found):
    named = question(trace=replace(question().trace, name=EVIL))
    text = report.to_text(optimize(named, silicon=False, max_simulations=1))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "[red]:smile:" in text, "neither markup nor emoji"
    noted = report.to_text(replace(found, notes=[EVIL, "two\nlines"]))
    assert all(char.isprintable() or char == "\n" for char in noted) and "note: two\\nlines" in noted
    assert json.loads(report.to_json(replace(found, notes=[EVIL])))["notes"] == [EVIL]


def test_colour_is_there_only_when_asked_for_and_changes_no_word(found):
    plain, coloured = report.to_text(found), report.to_text(found, colour=True)
    assert "\x1b" not in plain and "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()


@pytest.mark.parametrize("top", [1, 3, None])
def test_no_line_is_wider_than_80(found, broken, top):
    for ours in (found, broken):
        assert max(map(len, report.to_text(ours, top=top).splitlines())) <= report.WIDTH


# ------------------------------------------------------------------------- one plan, its requests, its launch


def test_one_named_plan_claims_no_search():
    ours, outcome = simulate_plan(question(), Plan(layers_per_stage=(12,)), silicon=False)
    text = report.to_text(ours)
    assert "proven" not in text and "certificate" not in text and "best plan" not in text
    rows = list(csv.DictReader(io.StringIO(report.records_csv(outcome))))
    for i, line in enumerate(rows):
        times = [float(line[k]) for k in ("arrival_s", "scheduled_s", "first_token_s", "last_token_s")]
        assert times == sorted(times) and int(line["request"]) == i and line["rejected"] == ""
    first = [float(line["first_token_s"]) - float(line["arrival_s"]) for line in rows]
    assert sum(first) / len(first) == pytest.approx(ours.results[0].metrics["ttft_mean_s"], rel=1e-6)


def test_placement_reads_as_devices():
    here = (((0, (0, 1, 2, 5)),), ((1, (0,)), (2, (3, 4))))
    own = {"pool": "l40s", "device": "l40s"}
    result = type("Placed", (), {"placement": (here,), **own})()
    assert report.placement_text(result) == "node 0 GPU 0-2,5 -> node 1 GPU 0 + node 2 GPU 3-4"
    many = type("Placed", (), {"placement": (here[:1],) * 6, **own})()
    assert report.placement_text(many).endswith("| ... (6 replicas)")
    named = type("Placed", (), {"placement": (here[:1],), **own, "pool": "leftovers"})()
    assert report.placement_text(named) == "leftovers: node 0 GPU 0-2,5"


def test_the_plan_in_words_says_what_its_limits_count():
    staged = Plan(layers_per_stage=(16, 16), attn_tp=2, attn_dp=2, ffn_ep=4)
    assert "at most 256 sequences per micro-batch and attention rank;" in report.describe_plan(staged)
    assert "at most 256 sequences;" in report.describe_plan(Plan(layers_per_stage=(32,), attn_tp=2, ffn_tp=2))


@pytest.mark.parametrize("engine", ["vLLM", "SGLang", "TensorRT-LLM"])
def test_launch_commands_carry_what_the_plan_says_or_say_that_they_do_not(engine):
    model = load_model("mixtral-8x7b")
    plan = Plan(layers_per_stage=(16, 16), attn_tp=2, attn_dp=2, ffn_ep=4, kv_format="fp8", clock_mhz=1200)
    server = Server(
        model=model,
        plan=plan,
        device=load_device("h100"),
        memory=footprint(model, plan, 9000, Longest(prompt=90, request=100)),
        longest=Longest(prompt=50, request=100),
    )
    made = command(server, engine)
    said = " ".join([made.text, str(made.options), *made.notes])
    assert "\n" not in made.text and re.search(r" (8192|16384)\b", made.text)  # a rank, both
    assert re.search(r"pipeline-parallel-size 2|pp-size 2|pp_size 2", made.text)
    assert re.search(r"expert-parallel|ep-size 4|ep_size 4", made.text)
    assert "fp8" in said and "1200" in said
