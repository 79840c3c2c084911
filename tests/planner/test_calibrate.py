"""Constants that were planted are found again; what the runs do not tell is not fitted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cli import main
from planner.calibrate import Problem, calibrate, changed, select
from planner.calibrate_text import content, to_text, to_yaml
from planner.fidelity import Servers
from planner.least_squares import Fit, condition, half_widths, robust_fit, student
from planner.measured import Run
from profiles.engine import CONSTANTS, Residual, load_engine
from profiles.errors import InputError
from profiles.plan import EngineSettings
from profiles.profile_file import read_profile
from simulator import metrics
from traces.synth import synthesize

CAMPAIGN = Path(__file__).parents[2] / "traces" / "samples" / "campaign"
MEASURED = ("ttft", "itl", "e2e")


def server(tp=1, *, rate=2.0, prompt=200, engine="vllm-v1", seed=0, measured=MEASURED):
    """A run of a small model whose measurements are still to be filled in."""
    trace = synthesize(
        requests=120, rate=rate, prompt_mean=prompt, output_mean=40, output_sd=30, seed=seed
    )  # fmt: skip
    return Run(
        name=f"{tp}TP {seed}", group=f"p{prompt} {rate}/s", label=f"{tp}TP", model="llama-3.2-1b", device="l40s",
        engine=engine, axes={"attn_tp": tp}, settings=EngineSettings(max_seqs=32),
        trace=replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0]),
        mean_s=dict.fromkeys(measured, 1.0),
    )  # fmt: skip


def as_measured(runs, noise=0.0, seed=0, **constants):
    """The runs as a machine with these constants serves them, each mean off by noise."""
    engine, rng = changed(load_engine(runs[0].engine), constants), np.random.default_rng(seed)
    servers, found = Servers(runs, silicon=False, engine=engine), []
    for run in runs:
        outcome = servers.replay(run)
        means = {
            name: metrics.slo_value(outcome, name, None) * float(np.exp(noise * rng.standard_normal()))
            for name in run.mean_s
        }
        found.append(replace(run, mean_s=means))
    return found


def mixed(widths=(1,)):
    loads = [(1.0, 200), (1.0, 1500), (30.0, 200), (12.0, 700)]
    return [
        server(tp, rate=rate, prompt=prompt, seed=i)
        for tp in widths
        for i, (rate, prompt) in enumerate(loads)
    ]


PLANTED = {"iteration_s": 0.0035, "sequence_s": 0.0002, "prefill_s": 0.012}


@pytest.fixture(scope="module")
def one_gpu():
    runs = as_measured(mixed(), **PLANTED)
    return runs, calibrate(runs, silicon=False)


def test_planted_overheads_are_found(one_gpu):
    found = one_gpu[1]
    assert set(PLANTED) <= set(found.fitted)
    for name, value in PLANTED.items():
        assert found.constants[name].value == pytest.approx(value, rel=0.1)
    assert found.errors["before"]["itl"].median_abs_error > 0.3
    assert all(part.median_abs_error < 0.01 for part in found.errors["after"].values())
    assert all(part.worst_abs_error < 0.05 for part in found.errors["left_out"].values())


def test_what_no_run_depends_on_keeps_its_default(one_gpu):
    constant = one_gpu[1].constants["collective_scale"]
    assert constant.value == 1.0 and constant.half_width is None
    assert constant.reason == "no run depends on it"


def test_of_constants_that_stand_in_for_each_other_one_keeps_its_default(one_gpu):
    """On one width, bytes per iteration hardly differ: bandwidth is as good as a time per iteration."""
    constant = one_gpu[1].constants["memory_scale"]
    assert constant.value == 1.0 and constant.half_width is None
    assert "stand in" in constant.reason or "known only" in constant.reason


def test_scales_are_found_where_widths_differ():
    runs = as_measured(mixed((1, 4)), **PLANTED, memory_scale=1.2, collective_scale=1.6)
    found = calibrate(runs, silicon=False)
    assert found.constants["iteration_s"].value == pytest.approx(0.0035, rel=0.05)
    assert found.constants["memory_scale"].value == pytest.approx(1.2, abs=0.03)
    assert found.constants["collective_scale"].value == pytest.approx(1.6, abs=0.05)
    assert {"without 1 device", "without 4 devices"} <= set(found.errors)


def test_most_intervals_hold_what_was_planted_in_noise():
    held = []
    for seed in (1, 2):
        constants = calibrate(as_measured(mixed(), noise=0.02, seed=seed, **PLANTED), silicon=False).constants
        for name, value in PLANTED.items():
            held.append(abs(constants[name].value - value) <= constants[name].half_width)
            assert constants[name].value == pytest.approx(value, rel=0.1)
    assert sum(held) >= 5


def test_single_sequences_do_not_tell_a_sequence_from_an_iteration():
    runs = as_measured([server(rate=0.05, prompt=p, seed=p) for p in (100, 800, 3000)], noise=0.01, **PLANTED)
    found = calibrate(runs, silicon=False)
    told = {"iteration_s", "sequence_s"} & set(found.fitted)
    assert len(told) == 1
    (kept,) = {"iteration_s", "sequence_s"} - told
    assert found.constants[kept].value == getattr(load_engine("vllm-v1"), kept)


def test_fewer_measurements_than_constants_fit_fewer():
    (run,) = as_measured([server(measured=("e2e",))], **PLANTED)
    found = calibrate([run], silicon=False)
    assert found.fitted == () and "1 measurements tell fewer" in found.constants["prefill_s"].reason
    assert set(found.errors) == {"before", "after"} and found.errors["before"] == found.errors["after"]


def test_groups_are_judged_by_fits_that_did_not_see_them(monkeypatch):
    runs = as_measured([run for run in mixed((1, 2)) if "p1500" not in run.group], **PLANTED)
    spoiled = runs[0].group
    runs = [
        replace(r, mean_s={n: v * (3.0 if r.group == spoiled else 1.0) for n, v in r.mean_s.items()})
        for r in runs
    ]
    seen = []
    real = Problem.refit
    monkeypatch.setattr(
        Problem,
        "refit",
        lambda self, part, *rest: seen.append({r.group for r in part}) or real(self, part, *rest),
    )
    found = calibrate(runs, silicon=False)
    groups = {r.group for r in runs}
    assert [groups - each for each in seen] == [
        set(),
        set(),
        *({g} for g in dict.fromkeys(r.group for r in runs)),
    ]
    assert found.errors[f"without {spoiled}"]["itl"].median_abs_error > 0.5
    assert found.fitted_on["runs"] == 6
    counts = [part["itl"].runs for name, part in found.errors.items() if name.startswith("without")]
    assert found.errors["left_out"]["itl"].runs == sum(counts) == 2 * len(runs)


def test_runs_that_do_not_match_are_judged_alone():
    runs = as_measured(mixed(), **PLANTED)
    bad = [
        replace(r, mean_s={n: 2 * v for n, v in r.mean_s.items()}) if "p1500" in r.group else r for r in runs
    ]
    found = calibrate(bad, patterns=["p200", "p700*"], silicon=False)
    assert found.fitted_on["runs"] == 3
    assert found.errors["after"]["itl"].worst_abs_error < 0.03
    assert found.errors["not_fitted"]["itl"].runs == 1
    assert found.errors["not_fitted"]["itl"].bias == pytest.approx(-0.5, abs=0.02)


def test_selection_is_by_traffic_or_plan():
    runs = [server(1, prompt=100), server(2, prompt=100), server(1, prompt=300)]
    assert select(runs, []) == runs
    assert select(runs, ["2TP"]) == [runs[1]]
    assert select(runs, ["p300*"]) == [runs[2]]
    assert select(runs, ["p100"]) == runs[:2]
    with pytest.raises(InputError, match=r"p30.*p300"):
        select(runs, ["p30"])
    with pytest.raises(InputError, match="no measured run"):
        select([], [])


def test_runs_of_two_engines_are_refused():
    with pytest.raises(InputError, match="vllm-v0 and vllm-v1"):
        calibrate([server(), server(engine="vllm-v0")], silicon=False)


# --------------------------------------------------------------------------------------- least squares


def line(x, y, **more):
    low, high = np.full(2, -100.0), np.full(2, 100.0)
    return robust_fit(
        lambda p: p[0] * x + p[1] - y, np.zeros(2), more.get("low", low), more.get("high", high),
        step=np.full(2, 0.01), knee=more.get("knee", 1e6),
    )  # fmt: skip


def test_without_outliers_the_fit_is_ordinary_least_squares():
    x, rng = np.arange(20.0), np.random.default_rng(0)
    y = 3 * x - 2 + rng.standard_normal(20)
    fit = line(x, y)
    expected = np.polyfit(x, y, 1)
    assert fit.x == pytest.approx(expected, rel=1e-4)
    _, cov = np.polyfit(x, y, 1, cov=True)
    assert half_widths(fit, []) == pytest.approx(student(18) * np.sqrt(np.diag(cov)), rel=1e-3)


def test_bounds_hold_and_the_other_constant_makes_up():
    x = np.arange(10.0)
    fit = line(x, 3 * x, low=np.array([-9.0, -9.0]), high=np.array([2.0, 9.0]))
    assert fit.x[0] == 2.0
    assert fit.x[1] == pytest.approx(x.mean(), rel=1e-3)


def test_alike_residuals_of_a_cluster_widen_the_interval():
    ids = np.repeat(np.arange(5), 8)
    shift = np.array([2.0, -1.0, 0.5, -2.0, 1.0])[ids]
    fit = Fit(x=np.zeros(1), residual=shift, jacobian=np.ones((40, 1)), weight=np.ones(40))
    # The mean of 40 numbers that are really 5.
    by_hand = student(4) * np.sqrt(np.sum((8 * np.array([2.0, -1.0, 0.5, -2.0, 1.0])) ** 2) / 40**2 * 5 / 4)
    assert half_widths(fit, [ids])[0] == pytest.approx(by_hand)
    assert half_widths(fit, [ids])[0] > 2 * half_widths(fit, [])[0]
    assert half_widths(fit, [np.zeros(40, int)])[0] == half_widths(fit, [])[0]


def test_constants_that_cannot_be_told_apart_have_no_interval():
    column = np.arange(1.0, 9.0)
    jacobian = np.stack([column, 2 * column], axis=1)
    fit = Fit(x=np.zeros(2), residual=np.ones(8), jacobian=jacobian, weight=np.ones(8))
    assert np.isinf(half_widths(fit, [])).all() and condition(fit) > 1e8
    apart = replace(fit, jacobian=np.stack([column, np.cos(column)], axis=1))
    assert np.isfinite(half_widths(apart, [])).all() and condition(apart) < 3


# --------------------------------------------------------------------------------------------- the file


def test_the_file_is_read_as_it_was_fitted_and_always_the_same(one_gpu, tmp_path):
    runs, found = one_gpu
    path = tmp_path / "p.yaml"
    path.write_text(to_yaml(found))
    read = read_profile(path)
    assert read.base == "vllm-v1" and read == load_engine(str(path))
    assert read.residuals == found.residuals and set(found.residuals) == {"ttft", "itl", "e2e"}
    for name, constant in found.constants.items():
        assert getattr(read, name) == constant.value
    assert to_yaml(calibrate(runs, silicon=False)) == path.read_text()
    assert yaml.safe_load(path.read_text()) == content(found)
    entry = content(found)["constants"]["iteration_s"]
    assert entry["interval_95"][0] <= entry["value"] <= entry["interval_95"][1] and entry["unit"] == "s"
    text = to_text(found)
    assert "no run depends on it" in text and max(map(len, text.splitlines())) <= 80


GOOD = "engine: vllm-v0\nconstants:\n  iteration_s:\n    value: 0.004\n"


def test_what_a_file_leaves_out_is_the_engines(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    assert read_profile(path).iteration_s == 0.004
    assert read_profile(path).sequence_s == load_engine("vllm-v0").sequence_s
    path.write_text("engine: vllm-v0\n")
    assert read_profile(path).iteration_s == load_engine("vllm-v0").iteration_s


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("engine: [", "p.yaml:1: not YAML"),
        ("- 1", "expected the keys engine and constants"),
        ("", "expected the keys engine and constants"),
        ("constants: {}", "expected the keys engine and constants"),
        ("engine: vllm-v2", "p.yaml:1: engine: 'vllm-v2'"),
        ("engine: [a]", "p.yaml:1: engine"),
        ("engine: vllm-v0\nconstant: {}", "p.yaml:2: unknown key 'constant'"),
        (GOOD + "engine: none", "p.yaml:5: key 'engine' is there twice"),
        ("engine: vllm-v0\nconstants: 3", "p.yaml:2: constants: expected names"),
        (GOOD.replace("iteration_s", "iterations_s"), "p.yaml:3: unknown key 'iterations_s'"),
        (GOOD + "    valu: 3", "p.yaml:5: unknown key 'valu'"),
        (GOOD.replace("0.004", "4.5"), "p.yaml:4: iteration_s: value 4.5: expected a number from 0 to 0.02 (s)"),
        (GOOD.replace("0.004", "-0.001"), "iteration_s: value -0.001"),
        ("engine: none\nconstants: {memory_scale: {value: 0.5}}", "value 0.5: expected a number from 0.75"),
        (GOOD.replace("0.004", ".nan"), "iteration_s: value nan"),
        (GOOD.replace("0.004", "yes"), "iteration_s: value True"),
        (GOOD.replace("0.004", "'1'"), "iteration_s: value '1'"),
        ("engine: vllm-v0\nconstants:\n  prefill_s: 0.01", "p.yaml:3: prefill_s: 0.01: expected {value: NUMBER}"),
        ("engine: none\nresiduals: 3", "p.yaml:2: residuals: expected metrics"),
        ("engine: none\nresiduals:\n  gap: {}", "p.yaml:3: unknown key 'gap'"),
        ("engine: none\nresiduals:\n  itl: {low: 0}", "p.yaml:3: residuals of itl: {'low': 0}: expected {low"),
        ("engine: none\nresiduals: {itl: {low: 0.1, high: -0.1}}", "0.1 to -0.1: expected numbers above -1, low"),
        ("engine: none\nresiduals: {itl: {low: -1, high: 0}}", "-1 to 0: expected numbers above -1"),
        ("engine: none\nresiduals: {itl: {low: 0, high: .inf}}", "0 to inf: expected numbers"),
        ("engine: none\nresiduals: {itl: {low: 0, high: yes}}", "0 to True: expected numbers"),
        ("engine: !!python/name:os.system x", "not YAML"),
        ("[" * 5000, "p.yaml"),
        ("\x00", "not YAML"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path, text, says):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_profile(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_one_line(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match=r"p\.yaml"):
        read_profile(path)


def test_residuals_are_those_of_runs_left_out(one_gpu):
    found = one_gpu[1]
    left = [part["itl"] for name, part in found.errors.items() if name.startswith("without")]
    residual = found.residuals["itl"]
    assert max(part.worst_abs_error for part in left) >= max(-residual.low, residual.high)
    assert residual.low <= np.median([part.bias for part in left]) <= residual.high


def test_of_a_file_without_residuals_those_of_its_engine_hold(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("engine: vllm-v0\n")
    assert read_profile(path).residuals == load_engine("vllm-v0").residuals != {}
    path.write_text("engine: vllm-v0\nresiduals: {itl: {low: -0.1, high: 0.2}}\n")
    assert read_profile(path).residuals == {"itl": Residual(low=-0.1, high=0.2)}


def test_nine_of_ten_lie_in_the_interval():
    measured = np.random.default_rng(0).lognormal(0, 0.2, 1001)
    errors = 1.3 / measured - 1
    low, high = Residual(low=np.quantile(errors, 0.05), high=np.quantile(errors, 0.95)).interval(1.3)
    assert np.mean((low <= measured) & (measured <= high)) == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("ends", [(-1, 0), (0.1, 0), (0, float("inf")), (float("nan"), 0)])
def test_quantiles_are_in_order(ends):
    with pytest.raises(ValueError, match="lower one first"):
        Residual(low=ends[0], high=ends[1])


def test_ranges_hold_every_engine_that_ships():
    for engine in ("vllm-v0", "vllm-v1", "none"):
        for name, constant in CONSTANTS.items():
            assert constant.low <= getattr(load_engine(engine), name) <= constant.high


# ------------------------------------------------------------------------------------------ the command


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


WHAT = ["--model", "opt-125m", "--device", "l40s", "--gpus", "1", "--no-silicon"]
ASK = [*WHAT, "--trace", "traces/samples/chat.csv"]


def test_the_command_writes_what_validate_then_finds(tmp_path, monkeypatch):
    path = tmp_path / "p.yaml"
    about = CAMPAIGN, "--device", "l40s", "--no-silicon", "--json"
    done = run("calibrate", *about, "-o", path)
    assert done.exit_code == 0, done.stderr
    written = json.loads(done.stdout)
    assert yaml.safe_load(path.read_text()) == written
    judged = json.loads(run("validate", *about, "--profile", path).stdout)
    for metric, part in written["errors"]["after"].items():
        assert judged["summary"][metric]["median_abs_error"] == pytest.approx(
            part["median_abs_error"], abs=1e-4
        )
    again = run("calibrate", *about, "-o", tmp_path / "q.yaml", "--profile", path)
    assert again.exit_code == 0, again.stderr
    first = json.loads(again.stdout)
    assert first["errors"]["before"] == written["errors"]["after"] and first["engine"] == written["engine"]
    monkeypatch.chdir(CAMPAIGN.parents[2])
    written["constants"]["iteration_s"]["value"] = 0.02
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(written))
    answers = [
        json.loads(run("simulate", *ASK, "--plan", "tp=1", "--json", *more).stdout)
        for more in ([], ["--profile", tmp_path / "slow.yaml"])
    ]
    itl = [answer["plans"][0]["metrics"]["itl_mean_s"] for answer in answers]
    assert itl[1] > 0.02 > itl[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["calibrate", CAMPAIGN, "--device", "l40s", "-o", "{}/p.json"], "ends in .yaml"),
        (["calibrate", CAMPAIGN, "--device", "l40s", "-o", "{}/p.yaml", "--fit", "nothing"], "no run has such"),
        (["calibrate", CAMPAIGN, "-o", "{}/p.yaml"], "--device"),
        (["validate", CAMPAIGN, "--device", "l40s", "--profile", CAMPAIGN / "runs.csv"], "ends in .yaml"),
        (["validate", CAMPAIGN, "--device", "l40s", "--profile", "{}/good.yaml", "--engine", "none"], "one of them"),
        (["simulate", *ASK, "--plan", "tp=1", "--profile", "{}/bad.yaml"], "bad.yaml:1: engine: 'x'"),
        (["optimize", *ASK, "--profile", "{}/bad.yaml"], "bad.yaml:1: engine: 'x'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(CAMPAIGN.parents[2])
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("engine: x\n")
    before = sorted(tmp_path.iterdir())
    done = run(*(str(word).replace("{}", str(tmp_path)) for word in words))
    assert done.exit_code == 2 and says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or done.stderr.startswith("fitting")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def kernels(tmp_path):
    """Kernel times of llama-3.2-1b in which a batch of both takes 300 us a layer more."""
    alone, prompts = {(1, 16): 8, (1, 4096): 20, (32, 16): 10, (32, 4096): 90}, {16: 8, 2048: 200}
    rows = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    rows += [f"{chunk},0,0,0,{time}" for chunk, time in prompts.items()]
    rows += [f"0,0,{n},{context},{time}" for (n, context), time in alone.items()]
    rows += [
        f"{chunk},0,{n},{context},{prompt + time + 300}"
        for chunk, prompt in prompts.items()
        for (n, context), time in alone.items()
    ]
    files = {"attention.csv": rows, "dense.csv": ["layer,tokens,time_us", "qkv_proj,1,5"],
             "per_sequence.csv": ["layer,sequences,time_us", "lm_head,1,50"]}  # fmt: skip
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_constants_that_hold_mixing_do_not_come_back_beside_kernels_that_know_it(kernels, tmp_path):
    runs = as_measured([replace(run, tables=kernels) for run in mixed()[:2]])
    found = calibrate(runs, silicon=False)
    assert max(part.worst_abs_error for part in found.errors["before"].values()) < 1e-9
    assert max(part.worst_abs_error for part in found.errors["after"].values()) < 0.02
    path = tmp_path / "fitted.yaml"
    path.write_text(to_yaml(found), encoding="utf-8")
    fitted = read_profile(path)
    assert fitted.base == "vllm-v1" and not fitted.holds_mixing and fitted.iteration_s < 1e-4
    for part in Problem(fitted, {"silicon": False}).errors(runs, fitted).values():
        assert part.worst_abs_error < 0.02


def test_constants_fitted_without_mixing_say_so(one_gpu, kernels, tmp_path):
    path = tmp_path / "fitted.yaml"
    path.write_text(to_yaml(one_gpu[1]), encoding="utf-8")
    fitted = read_profile(path)
    assert fitted.holds_mixing and fitted.iteration_s > 0.003
    run = replace(mixed()[0], tables=kernels)
    beside, bare = (Servers([run], silicon=False, engine=each).step(run) for each in (
        fitted, replace(fitted, iteration_s=0.0, prefill_s=0.0)))  # fmt: skip
    assert np.array_equal(beside.local_ps, bare.local_ps)
    path.write_text("engine: vllm-v1\nconstants: {iteration_s: {value: 0.004}}\n", encoding="utf-8")
    assert not read_profile(path).holds_mixing
    path.write_text("engine: vllm-v1\n", encoding="utf-8")
    assert read_profile(path).holds_mixing
    path.write_text("engine: vllm-v1\nholds_mixing: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"fitted\.yaml:2: holds_mixing: 1: expected true or false"):
        read_profile(path)
