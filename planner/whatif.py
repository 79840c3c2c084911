"""What if: every combination of values of some axes, each answered with its own certificate.

Answers share one store, so that a plan is compiled once for all rates, SLOs and objectives, and simulated
once for all SLOs and objectives. Scenarios are answered in threads: what takes long runs compiled, without the
interpreter's lock, and threads share the store as it is.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from planner.errors import NoFeasiblePlan, NoPlanInTime
from planner.pipeline import Answer, Evaluator, bound_name, candidates_of, fitted, optimize
from planner.printable import quantity
from planner.question import Question
from planner.ranking import PlanResult, split_latency, why_lost
from planner.store import Store
from planner.validate import complaints
from planner.vary import LIMITS, SLO, Axis, apply, combinations, words
from profiles.errors import InputError
from profiles.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

LATENCIES = ("latency", "p99-e2e", "ttft", "tpot")
FIGURES = ("e2e_mean_s", "ttft_mean_s", "tpot_mean_s", "makespan_s", "energy_j", "cost_usd")
SAME = 1e-9
"""Relative difference of values that are the same but for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One combination: ``values`` by axis, the question it makes, and its answer, or the reason why there is
    none (``proven`` says whether none can exist). ``change``: what differs from the first scenario, and why.
    """

    values: dict[str, str]
    question: Question
    answer: Answer | None
    reason: str = ""
    proven: bool = True
    change: str = ""

    @property
    def words(self) -> str:
        return ", ".join(words(name, value) for name, value in self.values.items()) or "as asked"

    @property
    def best(self) -> PlanResult | None:
        """The plan shown: the winner, or the nearest where none meets the SLOs."""
        return self.answer.results[0] if self.answer and self.answer.results else None

    @property
    def holds(self) -> bool:
        """Whether a plan serves every request within every SLO."""
        return self.best is not None and self.best.acceptable


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Scenarios in order, the last axis fastest; ``breaks``: pairs (i, j) where scenario j is no harder than
    scenario i, yet has the worse objective.

    Of the command that asked: ``rate`` at which its question file plays the workload, and ``replaced``, words whose
    place the axes take.
    """

    axes: tuple[Axis, ...]
    scenarios: list[Scenario]
    breaks: list[tuple[int, int]]
    rate: tuple[str, float] | None = None
    replaced: tuple[str, ...] = ()

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import sweep_frame

        return sweep_frame(self)


def sweep(
    question: Question, axes: Sequence[Axis], *, max_simulations: int | None = None,
    time_limit_s: float | None = None, everything: bool = False, workers: int = 1,
    tables: Path | None = None, silicon: bool = True, store: Store | None = None,
    progress: Callable[[int, int, str], None] = lambda done, of, words: None,
) -> Sweep:  # fmt: skip
    """Answer every combination, ``workers`` at once; their number changes no answer.

    Parameters
    ----------
    store
        To share work with other calls; None makes one for this call. What it keeps on disk a sweep that was
        ended early need not do again.
    max_simulations, time_limit_s, everything, tables, silicon
        Of each scenario, as in ``planner.pipeline.optimize``.
    progress
        Called with (scenarios done, of all, words of the last), in order. What it raises ends the sweep.

    Raises
    ------
    InputError
        When a combination contradicts itself; says which. Found before anything is solved.

    Examples
    --------
    >>> from planner.vary import parse_axes
    >>> from profiles.fleet import homogeneous
    >>> from profiles.huggingface import load_model
    >>> from traces.synth import synthesize
    >>> asked = Question(model=load_model("opt-125m"), fleet=homogeneous("l40s", gpus=2),
    ...                  trace=synthesize(requests=20, rate=2.0))
    >>> found = sweep(asked, parse_axes(["objective=latency,cost"]), silicon=False)
    >>> [(scenario.words, scenario.best.plan.devices) for scenario in found.scenarios]
    [('latency', 2), ('cost', 1)]
    """
    store = Store() if store is None else store
    asked = [(values, _asked(question, values)) for values in combinations(axes)]
    at_once = min(workers, len(asked))
    ended = Event()

    def alive(text: str) -> None:
        if ended.is_set():
            raise CancelledError

    def solved(values: dict[str, str], asks: Question) -> Scenario:
        answer, reason, proven = None, "", True
        try:
            answer = optimize(
                asks, max_simulations=max_simulations, time_limit_s=time_limit_s, everything=everything,
                workers=workers // at_once, tables=tables, silicon=silicon, progress=alive, store=store,
            )  # fmt: skip
        except (NoFeasiblePlan, NoPlanInTime) as error:
            reason, proven = str(error), isinstance(error, NoFeasiblePlan)
        return Scenario(values=values, question=asks, answer=answer, reason=reason, proven=proven)

    scenarios: list[Scenario] = []
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for future in [pool.submit(solved, values, asks) for values, asks in asked]:
                scenarios.append(future.result())
                progress(len(scenarios), len(asked), scenarios[-1].words)
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for i, this in enumerate(scenarios[1:], start=1):
        evaluator = Evaluator(fitted(this.question)[0], tables=tables, silicon=silicon, store=store)
        scenarios[i] = replace(this, change=change_of(scenarios[0], this, evaluator))
    return Sweep(axes=tuple(axes), scenarios=scenarios, breaks=_breaks(axes, scenarios))


def _asked(question: Question, values: dict[str, str]) -> Question:
    try:
        return apply(question, values)
    except InputError as error:
        named = " ".join(f"--vary {name}={value}" for name, value in values.items())
        text = str(error)
        raise InputError(text if text.startswith("--vary") else f"{named}: {text}") from None


def change_of(first: Scenario, this: Scenario, evaluator: Evaluator) -> str:
    """What differs from the first scenario, and why, in one sentence; ``evaluator`` is of this one."""
    old, new = first.best, this.best
    if new is None or this.answer is None:
        return this.reason
    if old is None:
        return f"{new.plan.label}; the first scenario has no plan"
    shift = _shift(first, this)
    if not new.acceptable:
        return f"no plan holds, the nearest {'' if old.acceptable else 'still '}{_lacks(new)}"
    several = len(this.question.fleet.pools) > 1
    if new.plan == old.plan:
        moved = f" on {new.pool} instead of {old.pool}" if several and new.pool != old.pool else ""
        return f"same plan{moved}{shift}"
    return f"{differences(old.plan, new.plan)}{shift}; {_fate(old, this, evaluator)}"


def differences(old: Plan, new: Plan) -> str:
    """The new plan, and in which words the old one differed.

    Examples
    --------
    >>> differences(Plan(layers_per_stage=(2,)), Plan(layers_per_stage=(2,), replicas=2, kv_format="fp8"))
    'dp=2 tp=1, KV fp8 instead of tp=1, KV bf16'
    """
    pairs = [
        (f"weights {plan.weight_format}", f"activations {plan.activation_format}", f"KV {plan.kv_format}",
         f"{plan.clock_mhz} MHz" if plan.clock_mhz else "full clock", plan.engine.policy,
         f"budget {plan.engine.token_budget}", f"{plan.engine.max_seqs} sequences")
        for plan in (new, old)
    ]  # fmt: skip
    different = [i for i in range(len(pairs[0])) if pairs[0][i] != pairs[1][i]]
    labels = [new.label, old.label]
    if new.label == old.label and new.layers_per_stage != old.layers_per_stage:
        labels = [f"{p.label} of {'/'.join(map(str, p.layers_per_stage))} layers" for p in (new, old)]
    ours, theirs = (", ".join([label, *(side[i] for i in different)])
                    for label, side in zip(labels, pairs, strict=True))  # fmt: skip
    return f"{ours} instead of {theirs}"


def _lacks(result: PlanResult) -> str:
    """What makes a simulated plan not acceptable."""
    broken = ", ".join(f"{slo.text}: {quantity(slo.value, slo.unit)}" for slo in result.slos if not slo.met)
    return f"breaks {broken}" if broken else f"rejects {result.metrics['rejected']:.0f} requests"


def _shift(first: Scenario, this: Scenario) -> str:
    """How far the objective moved, and which part of it, where both have the same one."""
    old, new = first.best, this.best
    assert old is not None and new is not None and this.answer is not None
    if first.question.objective != this.question.objective or not old.value:
        return ""
    if abs(new.value - old.value) <= SAME * abs(old.value):
        same = all(new.metrics[key] == value for key, value in old.metrics.items() if key in FIGURES)
        return ", same figures" if same else ", same objective"
    moved = f", {this.answer.objective.name} {new.value / old.value - 1:+.1%}"
    if this.question.objective not in ("latency", "p99-e2e"):
        spans = [quantity(best.metrics["makespan_s"], "s") for best in (new, old)]
        other = first.question.trace.arrival_s[-1] != this.question.trace.arrival_s[-1]
        return moved + (
            f" (all served in {spans[0]} instead of {spans[1]})" if other and len(set(spans)) > 1 else ""
        )
    ours, theirs = split_latency(new), split_latency(old)
    part = max(ours, key=lambda name: abs(ours[name] - theirs[name]))
    shift = ours[part] - theirs[part]
    return f"{moved} ({part} {'+' if shift > 0 else ''}{quantity(shift, 's')})"


def _fate(old: PlanResult, this: Scenario, evaluator: Evaluator) -> str:
    """Why the first scenario's plan does not win here: simulated, excluded by proof, or not in the space."""
    assert this.answer is not None and this.best is not None
    label, question = old.plan.label, evaluator.question
    pools = [pool.name for pool in question.fleet.pools]
    home = pools.index(old.pool) if old.pool in pools else 0
    here = next((r for r in this.answer.results if (r.plan, r.pool) == (old.plan, pools[home])), None)
    if here is not None:
        if not here.acceptable:
            return f"{label} {_lacks(here)}"
        return f"{label}: {why_lost(here, this.best, this.answer.objective)}"
    for candidate in candidates_of(question, evaluator.store):
        if (candidate.plan, candidate.pool) == (old.plan, home):
            for slo in question.slos:
                name = bound_name(slo)
                if name and (least := evaluator.bound(candidate, name).value) > slo.limit:
                    return f"{label}: no scheduler gets {slo.name} below {quantity(least, slo.unit)}"
            bound = evaluator.objective_bound(candidate).value
            if evaluator.objective.score(bound) >= evaluator.objective.score(this.best.value):
                return f"{label}: its bound cannot win"
            return f"{label} was not examined"
    clash = next(iter(complaints(question, question.fleet.pools[home], old.plan)), "")
    return f"{label}: {clash}" if clash else f"{label} is not searched here"


def _breaks(axes: Sequence[Axis], scenarios: Sequence[Scenario]) -> list[tuple[int, int]]:
    """Pairs that differ along one axis, the second no harder than the first and yet worse."""
    found = []
    for axis in axes:
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, scenario in enumerate(scenarios):
            others = tuple(value for name, value in scenario.values.items() if name != axis.name)
            groups.setdefault(others, []).append(i)
        for i, j in (pair for group in groups.values() for pair in permutations(group, 2)):
            if _relaxes(axis.name, scenarios[i], scenarios[j]) and _worse(scenarios[i], scenarios[j]):
                found.append((i, j))
    return found


def _relaxes(name: str, hard: Scenario, easy: Scenario) -> bool:
    """Whether one expects ``easy`` to be no worse. With fewer arrivals that is so of latencies alone."""
    before, after = hard.values[name], easy.values[name]
    if name in ("gpus", "nodes"):
        return int(after) > int(before) and not hard.question.use_all_devices
    if name in LIMITS:
        old, new = (getattr(sc.question, LIMITS[name]) or math.inf for sc in (hard, easy))
        return bool(new > old)
    if name == "rate":
        latency = hard.question.objective in LATENCIES
        return latency and easy.question.trace.arrival_s[-1] > hard.question.trace.arrival_s[-1]
    if not name.startswith(SLO) or hard.question.objective == "goodput":
        return False
    limits = [
        next((s.limit for s in sc.question.slos if s.name == name[len(SLO) :]), float("inf"))
        for sc in (hard, easy)
    ]
    return limits[1] > limits[0]


def _worse(hard: Scenario, easy: Scenario) -> bool:
    if not hard.holds:
        return False
    if not easy.holds:
        return True
    assert hard.best is not None and easy.best is not None and hard.answer is not None
    score = hard.answer.objective.score
    old, new = score(hard.best.value), score(easy.best.value)
    return new > old + SAME * abs(old)
