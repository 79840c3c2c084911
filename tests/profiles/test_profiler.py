"""zenith profile against a device that answers by a law: the grid, the rows, the budget, interruptions."""

import csv
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.profile_run import parse_budget, parse_operations, plan, run
from profiles.errors import InputError
from profiles.own_rows import OPERATIONS, TABLES, append_row, read_facts, read_rows
from profiles.profiler import TOLERANCE, Reading, Unmeasurable, profile, row_of, sites_of, sweeps_of
from profiles.ragged import doubts, grid_of
from tests.profiles.fake_bench import FakeBench

ONE_DEVICE = ("gemm", "prefill", "decode", "moe", "stream")
SOME = ("prefill", "moe", "stream")


def measured(folder, bench, operations=ONE_DEVICE, budget_s=100.0):
    return profile(
        bench, folder, operations=operations, budget_s=budget_s, today=lambda: "2026-01-02", clock=bench.clock
    )


def lines(folder, operation):
    return (folder / f"{operation}.csv").read_text().splitlines()


# ------------------------------------------------------------------------------------------------ refinement


def test_keys_on_a_power_law_leave_no_doubt_and_a_bend_leaves_the_most_beside_it():
    keys = np.array([[4**i] for i in range(8)])
    power = 1e-9 * keys[:, 0] ** 1.5
    assert max(doubt.error for doubt in doubts(grid_of(keys, power))) < 1e-12
    bent = np.maximum(1e-3, 1e-5 * keys[:, 0] ** 1.0)  # at 100, between 64 and 256
    worst = max(doubts(grid_of(keys, bent)), key=lambda doubt: doubt.error)
    assert (worst.low, worst.high) in ((16, 64), (64, 256), (256, 1024)) and worst.error > 0.05


@settings(deadline=None, max_examples=40, derandomize=True)
@given(bend=st.floats(0.02, 0.2), width=st.floats(0.5, 2.0))
def test_the_expected_error_of_a_parabola_in_logarithms_is_its_error(bend, width):
    x = width * np.arange(1, 5)
    keys = np.rint(np.exp(x) * 1e4).astype(np.int64)
    logs = bend * np.log(keys) ** 2
    grid = grid_of(keys[:, None], np.exp(logs))
    for doubt in doubts(grid):
        middle = np.sqrt(float(doubt.low) * doubt.high)
        found, _ = grid.at(np.array([[middle]]))
        assert doubt.error == pytest.approx(float(found[0]) - bend * np.log(middle) ** 2, rel=1e-6)


def test_noise_that_explains_a_deviation_is_no_doubt():
    keys = np.array([[2**i] for i in range(10)])
    seconds = 1e-6 * keys[:, 0] * np.exp(0.03 * np.random.default_rng(1).standard_normal(10))
    sure = max(d.error for d in doubts(grid_of(keys, seconds)))
    unsure = max(d.error for d in doubts(grid_of(keys, seconds, np.full(10, 0.03))))
    assert unsure < 0.3 * sure


def test_a_row_that_ends_before_a_later_one_is_left_out_and_one_cut_by_memory_stays():
    points = [(b, x) for b in (1, 8, 64) for x in (10, 100, 1000)][:8]  # (64, 1000) does not fit
    grid = grid_of(np.array([*points, (3, 10)]), np.ones(9))
    assert grid.keys.tolist() == [1, 8, 64]


def test_points_come_where_the_law_bends(tmp_path):
    """A stream is flat until 2e6 bytes and then grows: keys are closest around that size."""
    bench = FakeBench(noise=0.0)
    summary = measured(tmp_path, bench, ["stream"], 1e3)
    assert summary.worst["stream"] <= TOLERANCE and bench.now_s < 10
    keys = read_rows(tmp_path, "stream")[()].points[:, 0]
    keys.sort()
    gaps = np.log(keys[1:] / keys[:-1])
    bend = bench.operations.device.bandwidth * 1e-6
    nearest = int(np.searchsorted(keys, bend))
    assert gaps[max(nearest - 2, 0) : nearest + 1].min() == gaps.min() < gaps.max() / 3


def test_more_time_lowers_the_real_error(tmp_path):
    bench = FakeBench(noise=0.005)
    errors = []
    for budget in (50.0, 100.0):
        summary = measured(tmp_path, bench, SOME, budget)
        errors.append(_real_errors(tmp_path, FakeBench()))
    for operation in SOME:
        first, last = (error[operation] for error in errors)
        assert last < 0.05 and last <= first * 1.05
    assert sum(summary.before.values()) > 200 and summary.spent_s <= 100


def _real_errors(folder, oracle):
    """90th percentile of |log(read back / law)| at random points inside the grid of every operation."""
    random, errors = np.random.default_rng(3), {}
    for operation in SOME:
        off = []
        for site, found in read_rows(folder, operation).items():
            grid = grid_of(found.points, found.median_s)
            low, high = found.points.min(axis=0), found.points.max(axis=0)
            x = np.rint(np.exp(random.uniform(np.log(low), np.log(high), (60, len(low)))))
            logs, grades = grid.at(x)
            names = (*OPERATIONS[operation].site, *OPERATIONS[operation].axes)
            for point, log, grade in zip(x.astype(int).tolist(), logs, grades, strict=True):
                if grade < 2:
                    shape = dict(zip(names, (*site, *point), strict=True))
                    off.append(abs(log - np.log(oracle.cost(operation, shape).seconds[0])))
        errors[operation] = float(np.percentile(off, 90))
    return errors


# ------------------------------------------------------------------------------------------------------ rows


def test_a_row_has_the_median_and_the_interquartile_range():
    reading = Reading(samples_s=(5.0, 1.0, 2.0, 4.0, 3.0), power_w=300.4, clock_mhz=None, kernel="k")
    row = row_of("stream", (), (64,), reading, "2026-01-02")
    assert (row.median_s, row.spread_s, row.samples) == (3.0, 2.0, 5)


def test_the_files_say_what_was_measured(tmp_path):
    measured(tmp_path, FakeBench(), budget_s=30.0)
    assert lines(tmp_path, "gemm")[0] == (
        "weight,activation,n,k,m,median_s,spread_s,power_w,clock_mhz,kernel,date,samples"
    )
    with (tmp_path / "gemm.csv").open() as file:
        first = next(csv.DictReader(file))
    assert [first[name] for name in ("weight", "n", "k", "m")] == ["bf16", "512", "512", "1"]
    assert [first[name] for name in ("power_w", "clock_mhz", "kernel", "date", "samples")] == [
        "400", "1980", "law; fake", "2026-01-02", "15",
    ]  # fmt: skip
    law = FakeBench().cost("gemm", {"weight": "bf16", "activation": "bf16", "n": 512, "k": 512, "m": 1})
    assert float(first["median_s"]) == pytest.approx(law.seconds[0], rel=0.02)
    assert 0 < float(first["spread_s"]) < 0.05 * float(first["median_s"])


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        measured(tmp_path / name, FakeBench(seed=4), budget_s=80.0)
    for operation in ONE_DEVICE:
        assert lines(tmp_path / "a", operation) == lines(tmp_path / "b", operation)


def test_collectives_wait_for_several_devices(tmp_path):
    assert sites_of("collective", 1) == []
    bench = FakeBench(gpus=4)
    assert measured(tmp_path, bench, ["collective"], 60.0).measured["collective"] > 40
    rows = read_rows(tmp_path, "collective")
    assert set(rows) == {("all_reduce",), ("all_gather",), ("reduce_scatter",), ("all_to_all",)}
    assert set(rows["all_reduce",].points[:, 0].tolist()) == {2, 4}


# -------------------------------------------------------------------------------- budget, failures, resuming


@settings(deadline=None, max_examples=10, derandomize=True)
@given(budget_s=st.floats(0.5, 40.0))
def test_the_budget_is_kept_and_used(tmp_path_factory, budget_s):
    bench = FakeBench()
    summary = measured(tmp_path_factory.mktemp("p"), bench, budget_s=budget_s)
    assert budget_s - 2 * bench.point_s - 0.2 < bench.now_s <= budget_s
    assert summary.missing > 0 and summary.spent_s == bench.now_s


def test_a_short_run_knows_a_little_of_everything(tmp_path):
    summary = measured(tmp_path, FakeBench(), budget_s=10.0)
    assert min(summary.measured.values()) >= 2


def test_what_fails_is_not_tried_where_it_is_larger(tmp_path):
    bench = FakeBench(formats=("bf16",), memory_bytes=1e9)
    summary = measured(tmp_path, bench, ["gemm", "decode"], 90.0)
    assert set(summary.failures) == {"no kernel multiplies fp8", "out of memory"}
    assert sum(shape[0] == "fp8" for _, shape in bench.asked) == 1
    failed = [p[3:] for o, p in bench.asked if o == "decode" and p[:3] == (128, 1, "bf16")]
    refused = [p for p in failed if p[0] * p[1] * p[2] * 512 > 1e9]
    for later, point in enumerate(refused):
        assert not any(all(a <= b for a, b in zip(e, point, strict=True)) for e in refused[:later])


@settings(deadline=None, max_examples=8, derandomize=True)
@given(stop=st.integers(1, 150), cut=st.integers(0, 30))
def test_a_run_that_is_interrupted_goes_on(tmp_path_factory, stop, cut):
    """Ctrl-C after ``stop`` points, power lost while writing the next row: nothing is measured twice."""
    folder = tmp_path_factory.mktemp("p")

    class Interrupted(FakeBench):
        def measure(self, operation, shape):
            if len(self.asked) == stop:
                raise KeyboardInterrupt
            return super().measure(operation, shape)

    with pytest.raises(KeyboardInterrupt):
        measured(folder, Interrupted(), ["decode", "stream"], 1e4)
    before = {o: lines(folder, o) for o in ("decode", "stream") if (folder / f"{o}.csv").exists()}
    torn = folder / "decode.csv"
    torn.write_text(torn.read_text() + "128,1,bf16,8,64,1024,0.000123,1e-6,400,1980"[:cut])
    if cut:
        append_row(
            folder, row_of("decode", (128, 1, "bf16"), (3, 3, 3), Reading(samples_s=(1.0,)), "2026-01-03")
        )
        torn.write_text("\n".join(before["decode"]) + "\n")
    bench = FakeBench()
    summary = measured(folder, bench, ["decode", "stream"], 60.0)
    assert sum(summary.before.values()) == stop == sum(len(rows) - 1 for rows in before.values())
    for operation, rows in before.items():
        after = lines(folder, operation)
        assert after[: len(rows)] == rows
        shapes = [line.rsplit(",", 7)[0] for line in after]
        assert len(set(shapes)) == len(shapes)


def test_a_torn_last_line_is_an_error_to_a_reader_and_dropped_by_a_writer(tmp_path):
    row = row_of("stream", (), (64,), Reading(samples_s=(1.0, 2.0)), "2026-01-02")
    append_row(tmp_path, row)
    whole = (tmp_path / "stream.csv").read_text()
    for torn in ("4096", "4096,0.01,0.0", "4096,0.01,0,400,1980,k,2026-01-02,"):
        (tmp_path / "stream.csv").write_text(whole + torn)
        with pytest.raises(InputError, match=r"stream\.csv:3: column"):
            read_rows(tmp_path, "stream")
        append_row(tmp_path, row)
        assert (tmp_path / "stream.csv").read_text() == whole + whole.splitlines()[1] + "\n"
    (tmp_path / "stream.csv").write_text("byt")
    append_row(tmp_path, row)
    assert (tmp_path / "stream.csv").read_text() == whole


def test_an_unfinished_row_is_finished_first(tmp_path):
    for point in [(1, b, x) for b in (1, 8) for x in (128, 65536)] + [(1, 3, 128)]:
        append_row(tmp_path, row_of("decode", (128, 4, "bf16"), point, Reading(samples_s=(1e-3,)), "d"))
    (sweep,) = (s for s in sweeps_of(tmp_path, ["decode"], 1) if s.site == (128, 4, "bf16"))
    missing = sweep.missing()
    assert {(1, 3, 1024), (1, 3, 8192), (1, 3, 65536), (1, 8, 1024), (2, 512, 128)} < set(missing)
    assert not set(missing) & set(sweep.seconds)


# ----------------------------------------------------------------------------------------------- the command


def ran(folder, bench, **chosen):
    settings = {"operations": ("stream", "moe"), "budget_s": 20.0, "progress": lambda text: None} | chosen
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return run(folder, bench=bench, clock=bench.clock, now=lambda: now, **settings)


def test_a_run_says_what_it_did_and_writes_facts(tmp_path):
    bench = FakeBench()
    text = ran(tmp_path / "new" / "h100", bench)
    assert all(len(line) <= 80 for line in text.splitlines() if "--tables" not in line)
    assert "stream" in text and " s spent. Use it" in text and bench.closed
    facts = read_facts(tmp_path / "new" / "h100")
    assert facts["device"] == "NVIDIA H100 80GB HBM3"
    (this,) = facts["runs"]
    assert this["date"] == "2026-01-02T03:04:05+00:00" and this["torch"] == "2.8" and this["spent_s"] <= 20
    assert "2026-01-02" in lines(tmp_path / "new" / "h100", "moe")[1]
    ran(tmp_path / "new" / "h100", FakeBench())
    assert len(read_facts(tmp_path / "new" / "h100")["runs"]) == 2


def test_an_interruption_keeps_facts_and_says_how_to_go_on(tmp_path):
    class Interrupted(FakeBench):
        def measure(self, operation, shape):
            raise KeyboardInterrupt

    said = []
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, Interrupted(), progress=said.append)
    assert "goes on" in said[-1] and read_facts(tmp_path)["device"]


def test_reasons_of_failures_are_told(tmp_path):
    class Broken(FakeBench):
        def measure(self, operation, shape):
            raise Unmeasurable("no kernel\x1b[31m")

    text = ran(tmp_path, Broken())
    assert "given up, 5 and what is larger: no kernel" in text and "\x1b" not in text


def test_another_device_and_unwritable_folders_are_refused(tmp_path):
    ran(tmp_path, FakeBench())

    class Other(FakeBench):
        def facts(self):
            return {"device": "NVIDIA L40S"}

    with pytest.raises(InputError, match="measured on NVIDIA H100 80GB HBM3, this is NVIDIA L40S"):
        ran(tmp_path, Other())
    with pytest.raises(InputError, match=r"stream\.csv: it is no folder"):
        ran(tmp_path / "stream.csv", FakeBench())


def test_a_plan_counts_what_is_left(tmp_path):
    coarse = plan(tmp_path / "none", ("stream", "collective"))
    assert ["stream", "1", "6", "0", "6", "2", "s"] in [line.split() for line in coarse.splitlines()]
    assert "for 8 devices" in coarse and not (tmp_path / "none").exists()
    measured(tmp_path, FakeBench(), ["stream"], 0.75)
    assert ["stream", "1", "6", "3", "3", "1", "s"] in [
        line.split() for line in plan(tmp_path, ("stream",)).splitlines()
    ]


def test_words_of_options():
    assert parse_budget("1.5h") == 5400 and parse_operations("decode, gemm,decode") == ("decode", "gemm")
    assert parse_operations("") == TABLES and "iteration" not in TABLES
    for text in ("", "m", "0", "-1m", "ten", "inf", "nan", "5d"):
        with pytest.raises(InputError, match=r"--budget .*(expected a time|unknown unit)"):
            parse_budget(text)
    with pytest.raises(InputError, match="'gem': not an operation; did you mean 'gemm'"):
        parse_operations("gem")
