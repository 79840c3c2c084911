"""Measure the operations of a device on a grid that grows where interpolation is worst.

First a coarse grid, spaced by factors: ``sites_of`` says which. Then, until time is spent or no expected error
is above ``TOLERANCE``: the interval whose middle is expected to be furthest off (``profiles.ragged.doubts``) is
halved, in logarithms. In a row of the last axis that is one point; on an outer axis it is a row, which starts
with the coarse points of the axes below. What fails at a point (memory, no kernel) is not tried at points that
are at least as large on every axis.

Every row is written when it is measured. A later run reads them, completes what is missing and goes on.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from profiles.own_rows import OPERATIONS, Point, Row, Site, append_row, read_rows
from profiles.ragged import Doubt, doubts, grid_of

TOLERANCE = 0.02
"""Expected error of a log time at which an interval is left alone: what two runs of a kernel differ by."""

NARROWEST = 1.06
"""Ratio of neighbouring keys that are not parted further: a step of a kernel's tiles would be halved for ever."""

POINT_S = 0.35
"""Expected for a point before the first is measured: making operands, warming up, ``torch_device.WINDOW_S``."""

_REPORT_S = 10.0
_WHOLE = {"ranks", "sequences", "each"}
"""Axes that are not parted: a group of three devices is nobody's plan, and no iteration is interpolated."""

Shape = Mapping[str, int | str]


class Unmeasurable(Exception):
    """This point cannot be measured here: says why. Larger ones are not tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Samples of one kernel's seconds, > 0, at least one; board power and clock meanwhile; the kernel's name."""

    samples_s: tuple[float, ...]
    power_w: float | None = None
    clock_mhz: float | None = None
    kernel: str = ""


class Bench(Protocol):
    """A device under measurement. ``gpus`` counts it and its peers on this node."""

    gpus: int

    def facts(self) -> Mapping[str, str | int]:
        """``device`` (its name) and whatever else identifies what was measured: driver, versions."""
        ...

    def measure(self, operation: str, shape: Shape) -> Reading:
        """Time an operation of ``profiles.own_rows``; ``shape`` has every column of site and axes.

        Raises
        ------
        Unmeasurable
            When it cannot be done here.
        """
        ...

    def close(self) -> None:
        """Ends whatever measuring started."""
        ...


@dataclass(slots=True, kw_only=True)
class Sweep:
    """One site: its coarse keys by axis, what is measured, what was tried in vain."""

    operation: str
    site: Site
    coarse: tuple[tuple[int, ...], ...]
    seconds: dict[Point, float] = field(default_factory=dict)
    noise: dict[Point, float] = field(default_factory=dict)
    failed: list[Point] = field(default_factory=list)
    worst: Doubt | None = None

    def shape(self, point: Point) -> Shape:
        columns = OPERATIONS[self.operation]
        return dict(zip((*columns.site, *columns.axes), (*self.site, *point), strict=True))

    def open(self, point: Point) -> bool:
        """Whether this point is neither measured nor hopeless."""
        if point in self.seconds:
            return False
        return not any(all(f <= p for f, p in zip(failed, point, strict=True)) for failed in self.failed)

    def missing(self) -> list[Point]:
        """Open points of the coarse grid and of rows begun between its keys, small ones first."""
        wanted = set(itertools.product(*self.coarse))
        depth = len(self.coarse)
        for point in self.seconds:
            for axis in range(depth - 1):
                wanted.update(
                    itertools.product(*((key,) for key in point[: axis + 1]), *self.coarse[axis + 1 :])
                )
        return sorted(filter(self.open, wanted))

    def doubt(self) -> Doubt | None:
        """The interval of the greatest expected error that can still be parted."""
        if not self.seconds:
            return None
        points = np.array(list(self.seconds), dtype=np.int64)
        noise = np.array([self.noise[point] for point in self.seconds])
        found = doubts(grid_of(points, np.array(list(self.seconds.values())), noise))
        return max((d for d in found if self.parts(d)), key=lambda d: d.error, default=None)

    def parts(self, doubt: Doubt) -> list[Point]:
        """The open points in the middle of an interval; none where it is too narrow."""
        if OPERATIONS[self.operation].axes[len(doubt.prefix)] in _WHOLE:
            return []
        middle = _middle(doubt.low, doubt.high)
        if middle is None:
            return []
        head = (*doubt.prefix, middle)
        return [
            p for p in (head + tail for tail in itertools.product(*self.coarse[len(head) :])) if self.open(p)
        ]


def _middle(low: int, high: int) -> int | None:
    """The whole key nearest to the geometric mean, on multiples of 64 from 512 on (engines pad matrices)."""
    if high < NARROWEST * NARROWEST * low:
        return None
    step = 64 if low >= 512 else 1
    middle = step * round(np.sqrt(float(low) * high) / step)
    return middle if low < middle < high else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did.

    ``before``, ``measured``: rows by operation. ``worst``: expected error left, by operation. ``missing``: points
    of the coarse grid and of rows begun that time did not reach. ``failures``: reason -> points given up.
    """

    before: Mapping[str, int]
    measured: Mapping[str, int]
    worst: Mapping[str, float]
    missing: int
    failures: Mapping[str, int]
    spent_s: float


def sweeps_of(directory: Path, operations: Sequence[str], gpus: int) -> list[Sweep]:
    """The sites to measure, with the rows that the folder has of them; other rows it has are left alone."""
    sweeps = []
    for operation in operations:
        rows = read_rows(directory, operation)
        for site, coarse in sites_of(operation, gpus):
            sweep = Sweep(operation=operation, site=site, coarse=coarse)
            if site in rows:
                found = rows[site]
                for point, median, noise in zip(
                    map(tuple, found.points.tolist()),
                    found.median_s.tolist(),
                    found.noise.tolist(),
                    strict=True,
                ):
                    sweep.seconds[point], sweep.noise[point] = median, noise
            sweeps.append(sweep)
    return sweeps


def profile(
    bench: Bench, directory: Path, *, operations: Sequence[str], budget_s: float, today: Callable[[], str],
    clock: Callable[[], float] = time.monotonic, progress: Callable[[str], None] = lambda text: None,
) -> Summary:  # fmt: skip
    """Measure for at most ``budget_s`` seconds of ``clock``; rows are appended to the files of ``directory``.

    Parameters
    ----------
    operations
        Keys of ``profiles.own_rows.OPERATIONS``.
    today
        Date of a row.
    """
    started = clock()
    sweeps = sweeps_of(directory, operations, bench.gpus)
    before = {name: sum(len(s.seconds) for s in sweeps if s.operation == name) for name in operations}
    done = dict.fromkeys(operations, 0)
    failures: dict[str, int] = {}
    reported = started

    def measure(sweep: Sweep, point: Point) -> bool:
        """Measure a point; False when the time left does not suffice."""
        nonlocal reported
        spent, count = clock() - started, sum(done.values())
        if spent + (spent / count if count else POINT_S) > budget_s:
            return False
        if clock() - reported >= _REPORT_S:
            reported = clock()
            progress(f"{count} points in {spent:.0f} s of {budget_s:.0f} s, now {sweep.operation}")
        try:
            reading = bench.measure(sweep.operation, sweep.shape(point))
        except Unmeasurable as reason:
            sweep.failed.append(point)
            failures[str(reason)] = failures.get(str(reason), 0) + 1
            return True
        row = row_of(sweep.operation, sweep.site, point, reading, today())
        append_row(directory, row)
        sweep.seconds[point] = row.median_s
        sweep.noise[point] = row.spread_s / row.median_s / np.sqrt(row.samples)
        done[sweep.operation] += 1
        return True

    in_time = all(measure(sweep, point) for sweep, point in _in_turn(sweeps) if sweep.open(point))
    for sweep in sweeps:
        sweep.worst = sweep.doubt()
    while in_time:
        sweep = max(sweeps, key=lambda s: s.worst.error if s.worst else 0.0)
        if sweep.worst is None or sweep.worst.error <= TOLERANCE:
            break
        in_time = all(measure(sweep, point) for point in sweep.parts(sweep.worst) if sweep.open(point))
        sweep.worst = sweep.doubt()
    worst = {
        name: max((s.worst.error for s in sweeps if s.operation == name and s.worst), default=0.0)
        for name in operations
    }
    return Summary(
        before=before, measured=done, worst=worst, missing=sum(len(s.missing()) for s in sweeps),
        failures=failures, spent_s=clock() - started,
    )  # fmt: skip


def row_of(operation: str, site: Site, point: Point, reading: Reading, date: str) -> Row:
    """Median and interquartile range of a reading."""
    low, median, high = np.percentile(reading.samples_s, (25, 50, 75)).tolist()
    return Row(
        operation=operation, site=site, point=point, median_s=median, spread_s=high - low,
        power_w=reading.power_w, clock_mhz=reading.clock_mhz, kernel=reading.kernel, date=date,
        samples=len(reading.samples_s),
    )  # fmt: skip


def _in_turn(sweeps: Sequence[Sweep]) -> Iterator[tuple[Sweep, Point]]:
    """Missing points, one of each site in turn: a short run knows a little of everything."""
    for points in itertools.zip_longest(*(sweep.missing() for sweep in sweeps)):
        yield from ((sweep, point) for sweep, point in zip(sweeps, points, strict=True) if point is not None)


def sites_of(operation: str, gpus: int) -> list[tuple[Site, tuple[tuple[int, ...], ...]]]:
    """Sites of an operation and the coarse keys of each of its axes. Collectives need two devices."""
    if operation == "gemm":
        widths, rows = (512, 2048, 8192, 32768), (1, 8, 64, 512, 8192)
        return [((form, form), ((*widths, 131072), widths, rows)) for form in ("bf16", "fp8")]
    if operation in ("prefill", "decode"):
        loads = {
            "prefill": ((16, 128, 1024, 8192, 32768),),
            "decode": ((1, 8, 64, 512), (128, 1024, 8192, 65536)),
        }
        heads = {1: (1, 8, 32), 4: (1, 2, 8), 8: (1, 2, 8)}  # one KV head each; as GQA models shard them
        return [
            ((width, group, "bf16"), (heads[group], *loads[operation]))
            for width, group in itertools.product((128, 64), heads)
        ]
    if operation == "moe":
        shapes = _EXPERTS.values()
        return [((*shape, "bf16", "bf16"), ((1, 4, 16, 64, 256, 1024, 4096, 16384),)) for shape in shapes]
    if operation == "stream":
        return [((), (tuple(2**power for power in range(12, 33, 4)),))]
    if operation == "iteration":
        phases = {"decode": ((1, 8, 32, 128), (128, 1024, 8192)), "prefill": ((1,), (16, 128, 1024, 8192))}
        return [
            ((ITERATES, launch, phase), coarse)
            for phase, coarse in phases.items()
            for launch in ("graph", "eager")
        ]
    ranks = tuple(n for n in (2, 4, 8, 16) if n <= gpus)
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all") if ranks else ()
    return [((kind,), (ranks, tuple(2**power for power in range(10, 31, 4)))) for kind in kinds]


ITERATES = "llama-3.1-8b"
"""The model whose iterations are measured: dense, and small enough for most devices."""

_EXPERTS = {  # hidden, inner, experts, experts per token, as in their published config.json
    "Mixtral-8x7B": (4096, 14336, 8, 2),
    "Qwen3-30B-A3B": (2048, 768, 128, 8),
    "gpt-oss-20b": (2880, 2880, 32, 4),
    "DeepSeek-V3 on eight ranks": (7168, 2048, 32, 8),
}
