"""What binds the winner, what one more unit of each constraint is worth, and how stable the ranking is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.bar import Counted
from planner.errors import NoFeasiblePlan, NoPlanInTime
from planner.pipeline import Answer, Evaluator, candidates_of, fitted, optimize
from planner.question import Question
from planner.ranking import PlanResult
from planner.stability import Stability, stability
from planner.steps import Step, steps
from planner.store import Store
from planner.whatif import differences

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-9
"""Relative difference of values that are the same but for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One constraint moved a step and the question solved again.

    ``answer`` is None where it was not moved, or no plan was found: ``reason`` says why. ``change`` is relative,
    of the objective, None without two values to compare; ``gain`` its part that makes the objective better.
    ``plan`` says what the winner is.
    """

    step: Step
    answer: Answer | None
    reason: str
    change: float | None
    gain: float | None
    plan: str

    @property
    def best(self) -> PlanResult | None:
        return self.answer.results[0] if self.answer and self.answer.results else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The answer, with what it hangs on. ``stability`` is None where no draws were asked for, or no plan holds."""

    question: Question
    answer: Answer
    worth: list[Worth]
    stability: Stability | None

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import sensitivity_frame

        return sensitivity_frame(self)


def sensitivity(
    question: Question, *, draws: int = 100, max_simulations: int | None = None,
    time_limit_s: float | None = None, workers: int = 1, tables: Path | None = None, silicon: bool = True,
    store: Store | None = None, progress: Callable[[str], None] = lambda text: None,
) -> Sensitivity:  # fmt: skip
    """Answer a question, and the same with each constraint moved one step, and with the profile perturbed.

    Parameters
    ----------
    draws
        Perturbed profiles; 0 leaves the stability out. Their errors follow from ``question.seed``.
    max_simulations, time_limit_s, workers, tables, silicon, store
        Of each question, as in ``planner.pipeline.optimize``.

    Raises
    ------
    NoFeasiblePlan, NoPlanInTime
        Of the question itself; where a moved one has no plan, its ``reason`` says so.

    Examples
    --------
    >>> from profiles.fleet import homogeneous
    >>> from profiles.huggingface import load_model
    >>> from traces.synth import synthesize
    >>> asked = Question(model=load_model("opt-125m"), fleet=homogeneous("l40s", gpus=1),
    ...                  trace=synthesize(requests=20, rate=2.0), token_budgets=(2048,))
    >>> found = sensitivity(asked, draws=0, silicon=False)
    >>> max(found.worth, key=lambda worth: worth.gain or 0.0).step.name
    'host overhead'
    """
    store = Store() if store is None else store
    limits: dict[str, Any] = {
        "max_simulations": max_simulations, "time_limit_s": time_limit_s, "workers": workers, "tables": tables,
        "silicon": silicon, "store": store,
    }  # fmt: skip
    answer = optimize(question, progress=progress, **limits)
    worth = []
    moved = list(steps(question, store))
    for i, step in enumerate(moved):
        progress(Counted(f"{step.name} {step.words}", i, len(moved)))
        worth.append(_worth(step, answer, limits))
    stable = None
    if draws and answer.results and answer.results[0].acceptable:
        asked, _ = fitted(question)
        evaluator = Evaluator(asked, tables=tables, silicon=silicon, store=store)
        stable = stability(
            evaluator, candidates_of(asked, store), answer, draws=draws, workers=workers, progress=progress
        )  # fmt: skip
    return Sensitivity(question=question, answer=answer, worth=worth, stability=stable)


def _worth(step: Step, answer: Answer, limits: dict[str, Any]) -> Worth:
    found, reason = None, step.reason
    if step.question is not None:
        try:
            found = optimize(step.question, moved=step.moved, **limits)
        except (NoFeasiblePlan, NoPlanInTime) as error:
            reason = str(error)
    old = answer.results[0]
    new = found.results[0] if found else None
    if found is None or new is None:
        return Worth(step=step, answer=None, reason=reason, change=None, gain=None, plan="")
    change = gain = None
    if new.acceptable and old.acceptable and old.value:
        change = new.value / old.value - 1
        change = 0.0 if abs(change) < SAME else change
        score = answer.objective.score
        gain = (score(old.value) - score(new.value)) / abs(old.value) if change else 0.0
    words = "same plan" if new.plan == old.plan else differences(old.plan, new.plan)
    if not new.acceptable:
        words = "no plan meets every SLO"
    elif not old.acceptable:
        words = f"{new.plan.label}, which meets every SLO"
    return Worth(step=step, answer=found, reason=reason, change=change, gain=gain, plan=words)
