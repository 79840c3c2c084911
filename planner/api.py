"""What a program asks: the functions behind the commands, where they take more than the command's own module does.

``planner`` has these names, and those of the modules that need no more (docs/api.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.axes import WIDTHS, AxisValue, parse_axes, plan_from_axes, together
from planner.bound_report import BoundReport, bound_report
from planner.capacity import Capacity, capacity
from planner.minimum import Minimum, minimum
from planner.pipeline import Answer, simulate_plan
from planner.question import Question, activations_for, check_engine
from planner.sensitivity import Sensitivity, sensitivity
from planner.vary import parse_axes as parse_vary
from planner.whatif import Sweep, sweep
from profiles.errors import about
from profiles.plan import Plan
from simulator.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from planner.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """One plan, simulated: what is said of it, and the records of its requests."""

    answer: Answer
    outcome: Outcome

    def to_frame(self) -> "pd.DataFrame":
        """One row, as of ``Answer.to_frame``."""
        return self.answer.to_frame()

    def requests_frame(self) -> "pd.DataFrame":
        """One row per request: tokens, replica, and when it was scheduled, had its first and its last token; empty
        where it was rejected, with the reason."""
        from planner.frames import of_csv
        from planner.report import records_csv

        return of_csv(records_csv(self.outcome))


def plan_named(question: Question, text: str) -> Plan:
    """The plan that ``--plan`` names; what it does not name is as the question has it: formats, settings, and axes
    that it fixes.

    Raises
    ------
    InputError
        When the axes contradict each other or the model.
    """
    with about("plan"):
        said = parse_axes(text)
        axes = _left_open(question, said) | said
        if "weights" in axes and "activations" not in axes:
            device = question.fleet.pools[0].device
            axes = {**axes, "activations": activations_for(str(axes["weights"]), device)}
        clock = int(str(question.options("clock")[0]))
        defaults = replace(plan_from_axes(question.model, {}), engine=question.settings(), clock_mhz=clock)
        return plan_from_axes(question.model, axes, defaults)


def _left_open(question: Question, said: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """Of axes that a plan does not name what the question fixes, and the first formats that it allows."""
    found = {
        axis: value
        for axis, value in question.fix.items()
        if axis in (*WIDTHS, "layers") and not said.keys() & together(axis)
    }
    found["kv"] = question.options("kv")[0]
    if (
        question.weight_formats
        or question.activation_formats
        or {"weights", "activations"} & question.fix.keys()
    ):
        pairs = (pair for pool in question.fleet.pools for pair in question.pairs_of_formats(pool.device))
        for weights, activations in pairs:
            if (
                said.get("weights", weights) == weights
                and said.get("activations", activations) == activations
            ):
                return found | {"weights": weights, "activations": activations}
    return found


def _plan(question: Question, plan: Plan | str) -> Plan:
    found = plan_named(question, plan) if isinstance(plan, str) else plan
    check_engine(found.engine, ["plan"])
    return found


def simulate(
    question: Question, plan: Plan | str, *, tables: Path | None = None, silicon: bool = True
) -> Simulation:
    """One plan, as in ``"tp=2,dp=2"``, simulated and bounded.

    Raises
    ------
    InputError
        When there is no such plan.
    NoFeasiblePlan
        When it does not fit the fleet or the memory of its devices.
    """
    answer, outcome = simulate_plan(question, _plan(question, plan), tables=tables, silicon=silicon)
    return Simulation(answer=answer, outcome=outcome)


def what_if(
    question: Question, vary: Mapping[str, Sequence[object]], *, max_simulations: int | None = None,
    time_limit_s: float | None = None, everything: bool = False, workers: int = 1,
    tables: Path | None = None, silicon: bool = True, store: "Store | None" = None,
    progress: Callable[[int, int, str], None] = lambda done, of, words: None,
) -> Sweep:  # fmt: skip
    """Every combination of values of axes, as in ``{"gpus": [2, 4], "slo.tpot_p95": ["20ms", "30ms"]}``; axes and
    values are those of ``--vary``, limits those of ``planner.whatif.sweep``.

    Raises
    ------
    InputError
        When an axis is unknown, or a combination contradicts itself.
    """
    axes = parse_vary([f"{name}={','.join(map(str, values))}" for name, values in vary.items()])
    return sweep(
        question, axes, max_simulations=max_simulations, time_limit_s=time_limit_s, everything=everything,
        workers=workers, tables=tables, silicon=silicon, store=store, progress=progress,
    )  # fmt: skip


def find_capacity(question: Question, plan: Plan | str | None = None, **limits: Any) -> Capacity:
    """The highest rate that a plan, or the best one, sustains within the SLOs; limits are those of
    ``planner.capacity.capacity``."""
    return capacity(question, None if plan is None else _plan(question, plan), **limits)


def find_minimum(question: Question, of: str = "gpus", **limits: Any) -> Minimum:
    """The least ``gpus``, ``cost`` per hour or ``power`` that serves the trace within the SLOs; limits are those of
    ``planner.minimum.minimum``."""
    return minimum(question, of, **limits)


def find_sensitivity(question: Question, **limits: Any) -> Sensitivity:
    """What binds the best plan, what a step more of each constraint is worth, and how stable the ranking is; limits
    are those of ``planner.sensitivity.sensitivity``."""
    return sensitivity(question, **limits)


def bound(question: Question, plan: Plan | str, objective: str = "latency", **limits: Any) -> BoundReport:
    """Every scheduler on one plan beside what none can beat; limits are those of
    ``planner.bound_report.bound_report``."""
    named = plan_named(question, plan) if isinstance(plan, str) else plan
    return bound_report(question, named, objective, **limits)


__all__ = [
    "Simulation", "bound", "find_capacity", "find_minimum", "find_sensitivity", "plan_named", "simulate", "what_if",
]  # fmt: skip
