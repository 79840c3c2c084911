"""What is kept on disk changes no answer, survives whatever happens to it, and spares the work."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from planner import cache as cache_module
from planner import capacity_text, minimum_text, relax, whatif, whatif_text
from planner.cache import SUFFIX, Cache, folder_content, program_content, usual_folder
from planner.capacity import capacity
from planner.errors import NoFeasiblePlan
from planner.minimum import minimum
from planner.pipeline import Evaluator, candidates_of, optimize
from planner.question import Question, parse_slo
from planner.relax import relaxations
from planner.store import Store, without_tables
from planner.vary import parse_axes
from planner.whatif import sweep
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from simulator import metrics
from traces.trace import Trace
from traces.transform import scale_rate
from traces.write import write_trace

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(5)
TRACE = Trace(
    arrival_s=np.cumsum(RNG.exponential(0.05, 25)) - 0.0,
    prompt_tokens=RNG.integers(5, 300, 25),
    output_tokens=RNG.integers(1, 40, 25),
    name="random",
)
AXES = ("gpus=1,2", "rate=x1,x2", "slo.ttft_p95=1us,5ms,none")
COMPUTED = ("bound", "simulation", "plan space", "binding")


def question(**changes):
    base = {"model": load_model("opt-125m"), "fleet": homogeneous("l40s", gpus=2), "trace": TRACE}
    return Question(**(base | changes))


def swept(store=None, workers=1, **more):
    found = sweep(question(), parse_axes(AXES), silicon=False, store=store, workers=workers, **more)
    return [whatif_text.to_text(found), whatif_text.to_csv(found), whatif_text.to_json(found)]


def files(folder):
    return sorted(folder.glob(f"*{SUFFIX}"))


# ---------------------------------------------------------------------------------------------- answers


def test_answers_are_the_same_without_a_cache_with_one_and_from_one(tmp_path):
    for change in (
        {},
        {"objective": "cost", "slos": (parse_slo("power_mean<=400W"),)},
        {"objective": "goodput", "slos": (parse_slo("ttft_p95<=20ms"),)},
        {"slos": (parse_slo("ttft_mean<=1us"),)},
        {"trace": scale_rate(TRACE, 4.0)},
        {"trace": dataclasses.replace(TRACE, prompt_tokens=TRACE.prompt_tokens + 1700)},
        {"engine": "none"},
        {"model": load_model("opt-350m")},
    ):
        asked = question(**change)
        plain = optimize(asked, silicon=False)
        for _ in range(2):
            store = Store(cache=Cache(tmp_path / "kept"))
            assert optimize(asked, silicon=False, store=store) == plain
        assert not any(store.made[kind] for kind in COMPUTED) and store.loaded["bound"]
        assert not store.made["cost tables"], "what is only looked up needs no tables"


def test_questions_after_the_best_plan_are_answered_from_it_too(tmp_path):
    asked = question(slos=(parse_slo("e2e_p95<=250ms"),))
    calls = [
        lambda store: capacity_text.to_json(capacity(asked, silicon=False, store=store)),
        lambda store: minimum_text.to_json(minimum(asked, "gpus", silicon=False, store=store)),
        lambda store: minimum_text.to_json(minimum(asked, "power", silicon=False, store=store)),
        lambda store: swept(store),
    ]
    for call in calls:
        plain = call(None)
        assert call(Store(cache=Cache(tmp_path))) == plain
        again = Store(cache=Cache(tmp_path))
        assert call(again) == plain
        assert not any(again.made[kind] for kind in (*COMPUTED, "limit"))


@pytest.mark.parametrize("workers", [2, 5, 40])
def test_the_number_of_workers_changes_no_byte(workers, tmp_path):
    plain = swept()
    assert swept(workers=workers) == plain
    assert swept(workers=workers, store=Store(cache=Cache(tmp_path))) == plain


def test_twelve_limits_simulate_and_compile_what_one_does():
    asked, limits = question(), ",".join(f"{n}ms" for n in range(5, 17))
    one, twelve = Store(), Store()
    sweep(asked, parse_axes(["slo.ttft_p95=5ms"]), silicon=False, store=one, everything=True)
    sweep(
        asked, parse_axes([f"slo.ttft_p95={limits}"]), silicon=False, store=twelve, everything=True, workers=4
    )
    for kind in (*COMPUTED, "cost tables", "profile"):
        assert twelve.made[kind] == one.made[kind] > 0


def test_twelve_limits_explain_once_why_there_is_no_plan(tmp_path, monkeypatch):
    asked = question(model=load_model("llama-3.1-70b"))
    with pytest.raises(NoFeasiblePlan) as alone:
        candidates_of(asked)
    seen = []
    monkeypatch.setattr(relax, "relaxations", lambda *words: seen.append(words) or relaxations(*words))
    for times in (1, 1):
        store, limits = Store(cache=Cache(tmp_path)), ",".join(f"{n}ms" for n in range(5, 17))
        axes = parse_axes([f"slo.ttft_p95={limits}", "rate=x1,x2"])
        found = sweep(asked, axes, silicon=False, store=store, workers=4)
        assert {s.reason for s in found.scenarios} == {str(alone.value)} and len(seen) == times
        with pytest.raises(NoFeasiblePlan) as again:
            candidates_of(asked, store)
        assert (again.value.core, again.value.relaxations) == (alone.value.core, alone.value.relaxations)
    longer = dataclasses.replace(TRACE, prompt_tokens=TRACE.prompt_tokens + 1)
    with pytest.raises(NoFeasiblePlan):
        candidates_of(dataclasses.replace(asked, trace=longer), store)
    with pytest.raises(NoFeasiblePlan) as terse:
        candidates_of(asked, store, ways_out=False)
    assert len(seen) == 2 and not terse.value.relaxations


def test_reports_take_no_table_from_cost_tables():
    asked = question(model=load_model("opt-350m"))
    evaluator = Evaluator(asked, silicon=False)
    for candidate in candidates_of(asked)[:4]:
        step = evaluator.step(candidate)
        facts, outcome = evaluator.outcome(candidate)
        assert all(getattr(facts, f.name).size == 0 for f in dataclasses.fields(facts)
                   if isinstance(getattr(facts, f.name), np.ndarray))  # fmt: skip
        assert repr(facts) == repr(without_tables(step))
        figures = [metrics.summary(outcome, s, devices=2, usd_per_device_hour=1.5) for s in (step, facts)]
        assert figures[0] == figures[1]


# ------------------------------------------------------------------------------------------ what decides


def test_whatever_decides_a_simulation_decides_its_file(tmp_path):
    """Each change is computed anew; then each is found, and none is taken for another."""
    changes = [
        {},
        {"trace": dataclasses.replace(TRACE, output_tokens=TRACE.output_tokens + 1)},
        {"trace": scale_rate(TRACE, 1.0001)},
        {"model": dataclasses.replace(load_model("opt-125m"), vocab=50_000)},
        {"fleet": homogeneous("a100-sxm-80gb", gpus=2)},
        {"fleet": _capped(homogeneous("l40s", gpus=2), 200.0)},
        {"engine": "none"},
        {"token_budgets": (1024,)},
        {"max_seqs": (64,)},
        {"gpu_memory_utilization": 0.5},
        {"queue": "sjf"},
        {"routing": "least-outstanding"},
        {"policies": ("sarathi",)},
    ]
    for computed in (True, False):
        seen = set()
        for change in changes:
            asked, store = question(**change), Store(cache=Cache(tmp_path))
            candidate = candidates_of(asked)[0]
            facts, outcome = Evaluator(asked, silicon=False, store=store).outcome(candidate)
            assert bool(store.made["simulation"]) is computed, change
            seen.add((repr(facts), outcome.finish_ps.tobytes(), outcome.energy_nj, outcome.kv_blocks))
        assert len(seen) >= len(changes) - 3, "most of them change what happens, too"


def _capped(fleet, watts):
    return dataclasses.replace(
        fleet, pools=tuple(dataclasses.replace(p, power_cap_w=watts) for p in fleet.pools)
    )


def test_other_tables_of_the_same_name_are_other_content(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "a.csv").write_text("1\n")
    names = {folder_content(folder)}
    (folder / "a.csv").write_text("2\n")
    names.add(folder_content(folder))
    (folder / "a.csv").rename(folder / "b.csv")
    names.add(folder_content(folder))
    (folder / "b.csv").write_text("")
    (folder / "c.csv").write_text("2\n")
    names.add(folder_content(folder))
    assert len(names) == 4


def test_a_profile_file_counts_by_its_constants(tmp_path):
    """The same name with other constants is another engine."""
    file = tmp_path / "mine.yaml"
    keys = []
    for iteration_s in (0.001, 0.002, 0.001):
        constants = {"iteration_s": {"value": iteration_s}}
        file.write_text(json.dumps({"engine": "none", "constants": constants}))
        keys.append(Evaluator(question(engine=str(file)), silicon=False).profiles)
    assert keys[0] == keys[2] != keys[1]


def test_another_program_reads_nothing_of_this_one(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.write("one", 1, 2.5)
    assert cache.read("one", 1) == (True, 2.5) and cache.read("two", 1) == (False, None)
    monkeypatch.setattr(cache_module, "program_content", lambda: "another")
    assert cache.read("one", 1) == (False, None)


def test_every_file_of_ours_and_every_library_is_in_the_name_of_the_program(tmp_path, monkeypatch):
    names = set()
    root = tmp_path / "site"
    for package in cache_module._PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "one.py").write_text("x = 1\n")
    (root / "profiles" / "device.json").write_text("{}")
    monkeypatch.setattr(cache_module, "__file__", str(root / "planner" / "cache.py"))

    def name():
        program_content.cache_clear()
        return program_content()

    try:
        names.add(name())
        assert name() in names
        for path in [*root.rglob("*.py"), root / "profiles" / "device.json"]:
            path.write_text("x = 2\n")
            names.add(name())
        versions = dict.fromkeys(cache_module._LIBRARIES, "1")
        monkeypatch.setattr(cache_module.metadata, "version", lambda library: versions[library])
        names.add(name())
        for library in versions:
            versions[library] = "2"
            names.add(name())
        assert len(names) == 1 + 6 + 1 + len(versions)
        (root / "planner" / "__pycache__").mkdir()
        (root / "planner" / "__pycache__" / "one.nbi").write_text("compiled")
        assert name() in names
    finally:
        monkeypatch.undo()
        program_content.cache_clear()


# -------------------------------------------------------------------------------------------- accidents


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: b"something else altogether\n" * 9,
        lambda data: data + b"more",
    ],
)
def test_a_torn_or_foreign_file_counts_as_absent_and_is_written_anew(tmp_path, spoil):
    plain = swept(Store(cache=Cache(tmp_path)))
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    for path, data in whole.items():
        path.write_bytes(spoil(data))
    store = Store(cache=Cache(tmp_path))
    assert swept(store) == plain
    assert not store.loaded and {path: path.read_bytes() for path in files(tmp_path)} == whole


def test_a_sum_that_fits_what_is_no_value_is_refused_as_well(tmp_path):
    cache = Cache(tmp_path)
    cache.write("one", 1, 2.5)
    (path,) = files(tmp_path)
    for data in (b"{", b"PK of no zip", b'{"record": "Question", "of": {}}', b'{"odd": 1}'):
        path.write_bytes(cache_module._head(path, data) + data)
        assert cache.read("one", 1) == (False, None)


def test_the_value_of_another_key_is_refused(tmp_path):
    plain = swept(Store(cache=Cache(tmp_path)))
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    for path, data in zip(whole, [*list(whole.values())[1:], next(iter(whole.values()))], strict=True):
        path.write_bytes(data)
    store = Store(cache=Cache(tmp_path))
    assert swept(store) == plain and not store.loaded


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 3, 7])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_that_was_killed_goes_on_where_it_was(tmp_path, after, workers):
    plain, whole = swept(), Store()
    swept(whole)

    def kill(done, of, words):
        if done == after:
            raise _Killed

    first, second = Store(cache=Cache(tmp_path)), Store(cache=Cache(tmp_path))
    with pytest.raises(_Killed):
        swept(first, workers, progress=kill)
    assert swept(second, workers) == plain
    for kind in COMPUTED:
        assert first.made[kind] + second.made[kind] == whole.made[kind]
        assert second.loaded[kind] == first.made[kind] > 0
    third = Store(cache=Cache(tmp_path))
    assert swept(third) == plain and not any(third.made[kind] for kind in COMPUTED)


def test_what_is_under_way_ends_when_a_sweep_does(monkeypatch):
    """At its next report: no answer is waited for that no one will see."""
    begun, ended = [], []

    def endless(asked, *, progress, **limits):
        if asked.fleet.pools[0].devices == 1:
            return optimize(asked, silicon=False)
        begun.append(asked)
        for _ in range(5_000):
            try:
                progress("still at it")
            except CancelledError:
                ended.append(asked)
                raise
            threading.Event().wait(0.001)
        return optimize(asked, silicon=False)

    def kill(done, of, words):
        raise _Killed

    monkeypatch.setattr(whatif, "optimize", endless)
    with pytest.raises(_Killed):
        sweep(question(), parse_axes(["gpus=1,2,3,4"]), silicon=False, workers=2, progress=kill)
    assert len(ended) == len(begun) < 3


def words(folder, *more):
    return [sys.executable, str(ROOT / "cli.py"), "whatif", "--model", "opt-125m", "--device", "l40s", "--no-silicon",
            "--trace", str(folder / "few.csv"), "--vary", "gpus=1,2", "--vary", "slo.ttft_p95=1us,1s", "--json",
            *more]  # fmt: skip


def test_two_processes_at_once_and_one_that_was_killed_print_what_one_alone_does(tmp_path):
    write_trace(TRACE, tmp_path / "few.csv")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user"), "PYTHONPATH": str(ROOT)}

    def start(*more):
        return subprocess.Popen(
            words(tmp_path, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    alone, _ = start("--no-cache").communicate()
    assert alone and not (tmp_path / "user").exists()
    shared = str(tmp_path / "shared")
    killed = start("--cache", shared)
    while killed.poll() is None and not files(Path(shared)):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    both = [start("--cache", shared) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [alone, alone]
    last, log = start("--cache", shared).communicate()
    assert last == alone and b"simulations: 0 made" in log and not (tmp_path / "user").exists()


# ------------------------------------------------------------------------------------------ room on disk


def filled(folder, count, *, most_bytes):
    cache = Cache(folder, most_bytes=most_bytes)
    for i in range(count):
        cache.write("one", i, "x" * 1000)
    return cache


def test_files_together_stay_below_the_limit_and_those_used_last_stay(tmp_path):
    cache = filled(tmp_path, 1, most_bytes=20_000)
    old = files(tmp_path)[0]
    for i in range(1, 200):
        cache.write("one", i, "x" * 1000)
        for age, path in enumerate(sorted(files(tmp_path), key=lambda p: p.stat().st_mtime_ns)):
            if path.stat().st_mtime > time.time() - 1e6:
                os.utime(path, (1e9 + i * 100 + age,) * 2)  # a clock that no two writes share
        assert cache.read("one", 0)[0] and old.exists()
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 20_000
    assert len(files(tmp_path)) > 10


def test_a_value_that_would_fill_the_cache_is_not_kept(tmp_path):
    cache = filled(tmp_path, 3, most_bytes=20_000)
    cache.write("large", 1, "x" * 6000)
    assert cache.read("large", 1) == (False, None) and len(files(tmp_path)) == 3


def test_what_killed_writers_left_goes_and_what_is_not_ours_stays(tmp_path):
    filled(tmp_path, 1, most_bytes=20_000)
    stale, fresh, foreign = (tmp_path / name for name in (f".a{SUFFIX}", f".b{SUFFIX}", "thesis.txt"))
    for path in (stale, fresh, foreign):
        path.write_text("x")
    os.utime(stale, (1e9, 1e9))
    os.utime(foreign, (1e9, 1e9))
    Cache(tmp_path, most_bytes=16).prune()
    assert not stale.exists() and fresh.exists() and foreign.exists()
    assert files(tmp_path) == [fresh]


@pytest.mark.parametrize("place", ["file/cache", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_said_once_and_the_answer_comes(tmp_path, place):
    (tmp_path / "file").write_text("")
    said = []
    store = Store(cache=Cache(tmp_path / place, warn=said.append))
    assert swept(store) == swept()
    assert len(said) == 1 and "\n" not in said[0] and "--no-cache" in said[0]


def test_the_usual_folder_follows_the_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert usual_folder() == Path("/a/zenith")
    for odd in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", odd)
        assert usual_folder() == tmp_path / ".cache/zenith"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert usual_folder() == tmp_path / ".cache/zenith"


# ----------------------------------------------------------------------------------------- command line


def test_options_say_where_and_whether(tmp_path):
    write_trace(TRACE, tmp_path / "few.csv")
    asked = ["--model", "opt-125m", "--device", "l40s", "--gpus", "2", "--no-silicon",
             "--trace", str(tmp_path / "few.csv"), "--slo", "e2e_p95<=300ms"]  # fmt: skip

    def run(command, *more):
        return CliRunner().invoke(main, [command, *asked, *more])

    for command, more in (
        ("optimize", []),
        ("capacity", []),
        ("minimum", []),
        ("whatif", ["--vary", "tp=1,2"]),
    ):
        kept, usual = tmp_path / command, usual_folder()
        plain = run(command, "--no-cache", *more)
        assert plain.exit_code == 0 and not kept.exists() and not usual.exists(), plain.output
        first, again = (run(command, "--cache", str(kept), *more) for _ in range(2))
        assert first.stdout == again.stdout == plain.stdout and files(kept) and not usual.exists()
        if command != "optimize":
            assert "simulations: 0 made" in again.stderr
    assert run("optimize").exit_code == 0 and files(usual_folder())
    clash = run("optimize", "--cache", str(tmp_path), "--no-cache")
    assert clash.exit_code == 2 and "give one of them" in clash.stderr
    (tmp_path / "file").write_text("")
    odd = run("optimize", "--cache", str(tmp_path / "file" / "below"))
    assert odd.exit_code == 0 and odd.stdout == run("optimize", "--no-cache").stdout
    assert odd.stderr.count("results are not kept") == 1
