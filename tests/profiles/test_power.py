"""Power: idle <= watts <= cap, monotone, lower clocks save what they should; fits recover constants."""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.device import known_devices, load_device
from profiles.power import ROOT, PowerFit, PowerModel

LAWS = settings(deadline=None, max_examples=80, derandomize=True)
SHARE = st.floats(0, 1)
SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared"))
MEASURED = SHARED / "reference" / "energy_measured.csv"


@LAWS
@given(name=st.sampled_from(known_devices()), u_mem=SHARE, u_comp=SHARE, clock=st.integers(0, 4000))
def test_between_idle_and_cap(name, u_mem, u_comp, clock):
    power = PowerModel(load_device(name))
    assert power.idle_w <= power.watts(u_mem, u_comp, clock) <= power.cap_w


@LAWS
@given(u_mem=SHARE, u_comp=SHARE, more=SHARE, clock=st.integers(100, 1980), faster=st.integers(100, 1980))
def test_more_use_and_higher_clocks_never_draw_less(u_mem, u_comp, more, clock, faster):
    power = PowerModel(load_device("h100"))
    base = power.watts(u_mem, u_comp, clock) - 1e-9
    assert power.watts(max(u_mem, more), u_comp, clock) >= base
    assert power.watts(u_mem, max(u_comp, more), clock) >= base
    assert power.watts(u_mem, u_comp, max(clock, faster)) >= base


def test_at_full_clock_it_is_the_stated_form():
    power, u = PowerModel(load_device("h100")), np.linspace(0, 1, 11)
    fit = power.fit
    expected = 75 + 625 * np.minimum(1, fit.alpha * u**ROOT + fit.beta * u[::-1])
    assert power.watts(u, u[::-1]) == pytest.approx(expected)
    assert (power.watts(u, u) == power.watts(u, u, 1980)).all()


def test_at_half_clock_both_parts_share_what_full_clock_would_draw():
    """Cores at half the clock and at the voltage floor of 0.6 draw 0.18, memory 0.6 + 0.4 x 0.18."""
    power = PowerModel(load_device("h100"))
    moving = power.fit.alpha
    expected = 75 + 625 * (moving * 0.672 + (1 - moving) * 0.18)
    assert float(power.watts(1, 1, 990)) == pytest.approx(expected)


@LAWS
@given(name=st.sampled_from(known_devices()), clock=st.integers(0, 4000))
def test_nothing_done_draws_idle_power_whatever_the_clock(name, clock):
    device = load_device(name)
    assert float(PowerModel(device).watts(0, 0, clock)) == device.idle_w


def test_an_idle_device_takes_idle_power_times_time():
    """Two requests an hour apart take what they take together, and idle power in between."""
    from planner.pipeline import Candidate, Evaluator
    from planner.placement import place
    from planner.question import Question, parse_axes, plan_from_axes
    from profiles.fleet import homogeneous
    from profiles.huggingface import load_model
    from simulator.engine import simulate
    from traces.trace import Trace

    def energy_and_end(gap_s):
        two = np.array([16, 16])
        trace = Trace(arrival_s=np.array([0.0, gap_s]), prompt_tokens=two, output_tokens=two)
        asked = Question(model=load_model("llama-3.1-8b"), fleet=homogeneous("h100", gpus=1), trace=trace)
        plan = plan_from_axes(asked.model, parse_axes("tp=1"))
        candidate = Candidate(plan=plan, pool=0, placement=place(plan, asked.fleet.pools[0]))
        outcome = simulate(trace, Evaluator(asked, silicon=False).step(candidate), plan.engine)
        return outcome.energy_j, outcome.end_ps * 1e-12

    near, far = energy_and_end(10.0), energy_and_end(3610.0)
    assert far[1] - near[1] == pytest.approx(3600)
    assert far[0] - near[0] == pytest.approx(75 * 3600, rel=1e-9)


def test_a_cap_cuts_and_does_not_change_what_is_below():
    h100 = load_device("h100")
    whole, capped = PowerModel(h100), PowerModel(h100, cap_w=400)
    u = np.linspace(0, 1, 21)
    assert (capped.watts(u, 0 * u) == np.minimum(whole.watts(u, 0 * u), 400)).all()
    for wrong in (60, 800):
        with pytest.raises(ValueError, match="cap_w"):
            PowerModel(h100, cap_w=wrong)


def energy(power, clock, u_mem, u_comp):
    """Joules of one second's work at full clock: time and shares change with the clock."""
    share = u_comp / max(u_comp, u_mem)
    slower = max(1.0, share * power.max_clock_mhz / clock)
    return float(power.watts(u_mem / slower, u_comp / slower, clock)) * slower


def test_clocks_that_save_energy_are_where_they_were_measured():
    """Prefill: an optimum inside, at 0.55 to 0.8 of the highest clock. Decode: the lowest that costs no
    time, with 20 to 40 % saved (up to 32 % on H200, arXiv 2605.11999)."""
    power = PowerModel(load_device("h200"))
    clocks = np.arange(400, 1981, 20)
    prefill = [energy(power, c, 0.2, 0.75) for c in clocks]
    best = clocks[int(np.argmin(prefill))] / 1980
    assert 0.55 < best < 0.8 and prefill[0] > min(prefill) < prefill[-1]
    decode = energy(power, 780, 0.7, 0.03) / energy(power, 1980, 0.7, 0.03)
    assert 0.6 < decode < 0.8


def test_devices_without_a_fit_say_whose_they_borrow():
    assert PowerModel(load_device("b200")).fitted_on == "b200-sxm-180gb"
    l4 = PowerModel(load_device("l4"))
    assert l4.fitted_on == "h100-sxm-80gb" and l4.fit.source.startswith("borrowed from h100")
    assert (l4.idle_w, l4.cap_w) == (8, 72)
    own = PowerModel(load_device("l4"), PowerFit(alpha=1, beta=2, source="me", error="none"))
    assert own.fitted_on == "l4" and own.fit.source == "me"
    with pytest.raises(ValueError, match="negative"):
        PowerFit(alpha=-1, beta=0, source="", error="")


needs_data = pytest.mark.skipif(not MEASURED.exists(), reason=f"no measured power at {MEASURED}")


@cache
def fit_here():
    from profiles.silicon import silicon_available
    from tests.benchmarks.fit_power import Fit, Replays, read_runs

    if not silicon_available():
        pytest.skip("constants were fitted with the extra silicon")
    return Fit(Replays(), read_runs(MEASURED))


def shipped(device):
    fit = PowerModel(load_device(device)).fit
    return fit.alpha, fit.beta


@needs_data
def test_shipped_constants_explain_measured_watts_best():
    from tests.benchmarks.fit_power import neighbours

    fit, at = fit_here(), shipped("h100")
    rows = np.ones(len(fit.runs), bool)
    for other in neighbours(at, (0.02, 0.1)):
        assert fit.loss(at, rows) < fit.loss(other, rows), other


def stated(label):
    """Numbers of a row of the error table in docs/energy.md."""
    text = (Path(__file__).parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
    return [float(number) for number in re.findall(r"[-+]?[0-9.]+(?= [W%])", row)]


def numbers(errors):
    return [errors.mean_w, errors.median_w, *(100 * x for x in (*errors.watts, *errors.joules))]


@needs_data
def test_stated_errors_are_those_of_the_shipped_constants():
    fit, at = fit_here(), shipped("h100")
    assert stated("H100, fitted") == pytest.approx(numbers(fit.errors(at)), abs=1.5)
    assert "49 W, 8.8 %" in PowerModel(load_device("h100")).fit.error


@needs_data
def test_stated_errors_of_models_left_out():
    assert stated("H100, model left out") == pytest.approx(
        numbers(fit_here().left_out(shipped("h100"))), abs=2
    )


@needs_data
def test_stated_errors_on_b200():
    from tests.benchmarks.fit_power import Replays, errors, quoted_runs

    fit_here()
    runs = [run for run in quoted_runs() if run.device == "b200-sxm-180gb" and run.experts == 1]
    found = errors(runs, *Replays()(runs, *shipped("b200")))
    assert stated("B200, fitted") == pytest.approx(numbers(found), abs=1.5)


def test_constants_ship_with_source_and_error():
    path = Path(__file__).parents[2] / "profiles" / "power.json"
    for name, fit in json.loads(path.read_text(encoding="utf-8")).items():
        assert name in known_devices() and len(fit["source"]) > 20 and "%" in fit["error"]
