"""``zenith profile``: a device, a folder and a time to spend; what was measured, in words."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from planner import units
from planner.printable import printable
from profiles.errors import InputError, nearest
from profiles.own_rows import FACTS, OPERATIONS, TABLES, read_facts
from profiles.profiler import POINT_S, Bench, Summary, profile, sweeps_of


def parse_budget(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1.5h`` or a number of seconds.

    Examples
    --------
    >>> parse_budget("10m"), parse_budget("90")
    (600.0, 90.0)
    """
    try:
        return units.read(text, units.SPAN)
    except InputError as error:
        raise InputError(f"--budget {error}") from None


def parse_operations(text: str) -> tuple[str, ...]:
    """Names of ``gemm,decode``; all that are tables where there are none."""
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in OPERATIONS:
            raise InputError(f"--ops {name!r}: not an operation; {nearest(name, OPERATIONS)}")
    return names or TABLES


def check_folder(directory: Path) -> None:
    """Raise InputError where rows could not be written, before any work: the folder, or the one in which it would be
    made, is none or is not ours to write in."""
    there = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"--output {directory}: {'it' if there == directory else there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--output {directory}: {there} is a folder that cannot be written to")


def plan(directory: Path, operations: Sequence[str], gpus: int = 8) -> str:
    """The coarse grid, what a folder already has of it, and about how long the rest takes; needs no device.

    Raises
    ------
    InputError
        When the folder could not be written.
    """
    check_folder(directory)
    lines = [
        f"{'operation':<11}{'sites':>6}{'coarse points':>15}{'measured':>10}{'to measure':>12}{'about':>9}"
    ]
    left = 0
    sweeps = sweeps_of(directory, operations, gpus)
    for name in operations:
        ours = [sweep for sweep in sweeps if sweep.operation == name]
        coarse = sum(len(list(product(*sweep.coarse))) for sweep in ours)
        rows, missing = sum(len(s.seconds) for s in ours), sum(len(s.missing()) for s in ours)
        left += missing
        lines.append(
            f"{name:<11}{len(ours):>6}{coarse:>15}{rows:>10}{missing:>12}{_span(missing * POINT_S):>9}"
        )
    if "collective" in operations:
        lines.append(f"collective: for {gpus} devices; there is none with one.")
    lines.append(
        f"The coarse grid takes about {_span(left * POINT_S)} at {POINT_S:g} s a point (a guess); what is"
    )
    lines.append("left of --budget goes where interpolation is expected to be furthest off.")
    return "\n".join(lines)


def run(
    directory: Path, *, operations: Sequence[str], budget_s: float, progress: Callable[[str], None],
    bench: Bench | None = None, clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> str:  # fmt: skip
    """Measure into ``directory``, which is made where it does not exist; what is there of this device is kept.

    Parameters
    ----------
    bench
        The device; the first that PyTorch sees unless one is given.
    clock, now
        Seconds that the budget counts, and the date of rows.

    Raises
    ------
    InputError
        When there is no device or no PyTorch, or the folder is of another device or cannot be written.
    """
    check_folder(directory)
    if bench is None:
        from profiles.torch_device import TorchBench

        bench = TorchBench()
    try:
        facts = dict(bench.facts())
        known = read_facts(directory)
        if known and known["device"] != facts["device"]:
            raise InputError(f"{directory}: measured on {known['device']}, this is {facts['device']}")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{directory}: {error.strerror}") from error
        runs = known.get("runs", []) if isinstance(known.get("runs", []), list) else []
        this = {
            "date": now().isoformat(timespec="seconds"),
            "operations": list(operations),
            "budget_s": budget_s,
        }
        this |= facts
        _write(directory, str(facts["device"]), [*runs, this])
        progress(f"{facts['device']}: {_span(budget_s)} for {', '.join(operations)}")
        try:
            found = profile(
                bench, directory, operations=operations, budget_s=budget_s, clock=clock, progress=progress,
                today=lambda: now().date().isoformat(),
            )  # fmt: skip
        except KeyboardInterrupt:
            progress(f"interrupted; {directory} keeps what was measured, the same command goes on")
            raise
        this |= {
            "spent_s": round(found.spent_s, 1),
            "measured": dict(found.measured),
            "expected_error": {name: round(error, 4) for name, error in found.worst.items()},
            "given_up": dict(found.failures),
        }
        _write(directory, str(facts["device"]), [*runs, this])
    finally:
        bench.close()
    return to_text(found, directory)


def _write(directory: Path, device: str, runs: list[dict[str, object]]) -> None:
    import json

    from traces.write import write_whole

    settings = {
        "median_s": "median of samples", "spread_s": "interquartile range", "power_w": "of the whole board",
        "routing": "experts of moe are chosen uniformly at random", "cache": "operands come from memory",
    }  # fmt: skip
    text = json.dumps({"device": device, "settings": settings, "runs": runs}, indent=2)
    write_whole(directory / FACTS, (text + "\n").encode())


def to_text(found: Summary, directory: Path) -> str:
    """A table for people: rows before and now, and the error expected between them."""
    lines = [f"{'operation':<11}{'before':>8}{'measured':>10}{'expected error':>16}"]
    for name, count in found.measured.items():
        total = found.before[name] + count
        worst = f"{found.worst[name]:.1%}" if total and name in TABLES else "-"
        lines.append(f"{name:<11}{found.before[name]:>8}{count:>10}{worst:>16}")
    lines.append("Expected error: of an interpolated time where it is worst.")
    for reason, count in found.failures.items():
        lines.append(f"given up, {count} and what is larger: {printable(reason)}")
    if found.missing:
        lines.append(f"{found.missing} points of the grid are missing: run the same command again to go on.")
    tables = any(found.before[name] + found.measured[name] for name in found.measured if name in TABLES)
    use = (
        f"zenith optimize --tables {directory} ..." if tables else f"zenith profile -o {directory} --compare"
    )
    lines.append(f"{_span(found.spent_s)} spent. Use it: {use}")
    return "\n".join(lines)


def _span(seconds: float) -> str:
    """A time for people.

    Examples
    --------
    >>> _span(42.4), _span(600)
    ('42 s', '10 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
