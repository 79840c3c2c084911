"""What ``zenith profile`` measured against what is predicted without it: op by op, and whole iterations.

Every row of the folder is asked of the operations that count where there is no ``--tables`` (the silicon tables,
the roofline elsewhere). An iteration is predicted twice: from those, and from the folder's own tables where it has
some; host overheads count in neither, as the loop that was measured schedules nothing.
Errors are predicted / measured - 1.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from planner.pipeline import Candidate, Evaluator, operations_of
from planner.placement import place
from planner.printable import WIDTH, quantity
from planner.question import Question
from profiles.device import Device, known_devices, load_device
from profiles.errors import InputError, nearest
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from profiles.ops import Link, Operations
from profiles.own_rows import OPERATIONS, TABLES, Point, Site, read_facts, read_rows
from profiles.own_tables import cost_of_row, is_device, words_of
from profiles.plan import EngineSettings, Plan
from profiles.profiler import ITERATES
from profiles.stepcost import PROVENANCE, PS, StepCost
from traces.trace import Trace

VARIANTS = {"pcie", "nvl", "laptop", "sxm", "sxm2", "sxm3", "sxm4", "sxm5", "ada", "max"}
"""Words of a driver's name for a device that tell it from another of its number."""

MOST_TOKENS = 2**20
"""New ones of an iteration that is predicted: the tables have an entry for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationErrors:
    """Of one operation over its measured points: absolute errors, the mean of signed ones, where it is worst.

    ``provenance``: share of points by where their predictions come from.
    """

    operation: str
    points: int
    median: float
    ninetieth: float
    worst: float
    bias: float
    worst_at: Mapping[str, int | str]
    provenance: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationErrors:
    """One measured iteration in seconds, and what is predicted without and with the folder's tables (None without
    any)."""

    model: str
    launch: str
    phase: str
    sequences: int
    each: int
    measured_s: float
    without_s: float
    with_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``source``: in words, what predicts where there is no ``--tables``."""

    device: str
    source: str
    operations: tuple[OperationErrors, ...]
    iterations: tuple[IterationErrors, ...]


def compare(
    directory: Path, *, operations: Sequence[str] = (), device: str = "", silicon: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:  # fmt: skip
    """Compare all that a folder of ``zenith profile`` holds; needs no GPU.

    Parameters
    ----------
    operations
        Of those alone; all unless given.
    device
        Its name among ``zenith devices``; the one that the folder's ``profile.json`` can mean unless given.
    silicon
        Whether the tables of aiconfigurator-core predict.

    Raises
    ------
    InputError
        When the folder holds no rows or a wrong one, or its device is not known.
    """
    kind = device_of(directory, device)
    fleet = homogeneous(kind.name, gpus=1)
    pool = fleet.pools[0]
    rows = {name: _rows(directory, name) for name in operations or OPERATIONS}
    if not any(rows.values()):
        raise InputError(f"{directory}: no rows to compare; zenith profile -o {directory} measures some")
    known, source = operations_of(pool, load_model(ITERATES), tables=None, silicon=silicon)
    errors = []
    for name, mine in rows.items():
        if mine and name in TABLES:
            progress(f"{name}: {len(mine)} points")
            errors.append(_operation(name, mine, known, lambda ranks: pool.link(ranks, 1)))
    has_tables = any((directory / f"{name}.csv").exists() for name in TABLES)
    iterations: list[IterationErrors] = []
    measured = rows.get("iteration", [])
    for model in dict.fromkeys(str(shape["model"]) for shape, _ in measured):
        mine = [(shape, seconds) for shape, seconds in measured if shape["model"] == model]
        progress(f"iterations of {model}: {len(mine)}")
        longest = max(_tokens(shape) for shape, _ in mine)
        if longest > MOST_TOKENS:
            raise InputError(
                f"{directory / 'iteration.csv'}: an iteration of {longest} tokens, at most {MOST_TOKENS}"
            )
        without = _step(model, mine, fleet, None, silicon)
        own = _step(model, mine, fleet, directory, silicon) if has_tables else None
        iterations += [
            IterationErrors(
                **shape,
                measured_s=seconds,
                without_s=_iteration_s(without, shape),
                with_s=None if own is None else _iteration_s(own, shape),
            )
            for shape, seconds in mine
        ]
    return Comparison(device=kind.name, source=source, operations=tuple(errors), iterations=tuple(iterations))


def device_of(directory: Path, name: str = "") -> Device:
    """The known device that a folder was measured on.

    Raises
    ------
    InputError
        When the folder names none, or none or several of ours may be meant.
    """
    measured = str(read_facts(directory).get("device", ""))
    if not measured:
        raise InputError(f"{directory}: no profile.json; expected a folder that zenith profile -o wrote")
    if name:
        device = load_device(name)
        if not is_device(measured, device):
            raise InputError(f"--device {name}: {directory} was measured on {measured}")
        return device
    devices = [device for device in map(load_device, known_devices()) if is_device(measured, device)]
    if len(devices) != 1 or VARIANTS & set(words_of(measured)) - set(words_of(devices[0].name)):
        words = ", ".join(device.name for device in devices) or nearest(measured.lower(), known_devices())
        raise InputError(f"{directory}: measured on {measured}; say which with --device: {words}")
    return devices[0]


def _rows(directory: Path, operation: str) -> list[tuple[dict[str, Any], float]]:
    """(every column of site and axes, median seconds) of each row."""
    names = (*OPERATIONS[operation].site, *OPERATIONS[operation].axes)

    def shape(site: Site, point: Point) -> dict[str, Any]:
        return dict(zip(names, (*site, *point), strict=True))

    return [
        (shape(site, tuple(point)), seconds)
        for site, found in read_rows(directory, operation).items()
        for point, seconds in zip(found.points.tolist(), found.median_s.tolist(), strict=True)
    ]


def _operation(
    name: str, rows: list[tuple[dict[str, Any], float]], known: Operations, link: Callable[[int], Link]
) -> OperationErrors:
    costs = [cost_of_row(known, name, shape, link) for shape, _ in rows]
    error = np.array([cost.seconds[0] / seconds - 1 for cost, (_, seconds) in zip(costs, rows, strict=True)])
    grades = np.bincount([cost.provenance[0] for cost in costs], minlength=len(PROVENANCE)) / len(costs)
    absolute = np.abs(error)
    return OperationErrors(
        operation=name, points=len(rows), median=float(np.median(absolute)),
        ninetieth=float(np.percentile(absolute, 90)), worst=float(absolute.max()), bias=float(error.mean()),
        worst_at=rows[int(absolute.argmax())][0],
        provenance=dict(zip(PROVENANCE, grades.tolist(), strict=True)),
    )  # fmt: skip


def _step(
    model: str, rows: list[tuple[dict[str, Any], float]], fleet: Fleet, tables: Path | None, silicon: bool
) -> StepCost:
    """Tables of one device that cover all these iterations."""
    longest = max(shape["each"] for shape, _ in rows)
    served = load_model(model)
    trace = Trace(arrival_s=np.zeros(1), prompt_tokens=np.array([longest]), output_tokens=np.array([1]))
    asked = Question(model=served, fleet=fleet, trace=trace, engine="none")
    plan = Plan(
        layers_per_stage=(len(served.decoder.layers),),
        engine=EngineSettings(
            token_budget=max(_tokens(shape) for shape, _ in rows),
            max_seqs=max(shape["sequences"] for shape, _ in rows),
        ),
    )
    evaluator = Evaluator(asked, tables=tables, silicon=silicon)
    return evaluator.step(Candidate(plan=plan, pool=0, placement=place(plan, fleet.pools[0])))


def _tokens(shape: Mapping[str, Any]) -> int:
    """New tokens of an iteration."""
    return int(shape["sequences"]) * (1 if shape["phase"] == "decode" else int(shape["each"]))


def _iteration_s(step: StepCost, shape: Mapping[str, Any]) -> float:
    """Seconds of an iteration by the tables of one stage and rank (``profiles.stepcost``)."""
    rows, each, tokens = int(shape["sequences"]), int(shape["each"]), _tokens(shape)
    time = step.local_ps[0, tokens] + step.shared_ps[0, tokens] + step.head_ps[rows]
    if shape["phase"] == "decode":
        j = int(np.searchsorted(step.knots, each, side="right")) - 1
        time += step.decode_value_ps[0, rows, j]
        time += step.decode_slope_ps[0, rows, j] * rows * (each - step.knots[j])
    else:
        time += step.prefill_launch_ps[0] + rows * step.prefill_ps[0, each]
    return float(time) / PS


def to_json(found: Comparison) -> str:
    """The fields of ``Comparison``, seconds and shares."""
    return json.dumps(asdict(found), indent=2, allow_nan=False)


def to_text(found: Comparison) -> str:
    """A line per operation and per iteration."""
    lines = wrap(f"{found.device}: measured against {found.source}", WIDTH, subsequent_indent="  ")
    if found.operations:
        lines += ["", "operation points median    90 %   worst    bias  worst at"]
    for each in found.operations:
        at = " ".join(f"{axis}={each.worst_at[axis]}" for axis in OPERATIONS[each.operation].axes)
        absolute = f"{each.median:>7.1%}{each.ninetieth:>8.1%}{each.worst:>8.1%}"
        lines.append(f"{each.operation:<10}{each.points:>6}{absolute}{each.bias:>+8.1%}  {at}")
    if found.operations:
        lines.append("median, 90 %, worst: absolute errors; bias: mean of signed ones")
    if found.iterations:
        lines += ["", "iteration     launch phase   seqs  each  measured  without    with these tables"]
    for row in found.iterations:
        own = "-" if row.with_s is None else f"{row.with_s / row.measured_s - 1:+.1%}"
        lines.append(
            f"{row.model:<14.13}{row.launch:<7}{row.phase:<8}{row.sequences:>4}{row.each:>6}"
            f"{quantity(row.measured_s, 's'):>10}{row.without_s / row.measured_s - 1:>+9.1%}{own:>8}"
        )
    return "\n".join(lines)
