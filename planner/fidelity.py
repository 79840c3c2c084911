"""How far the simulator is off measured runs: replay what was really sent, compare what was measured.

Every run is one server, simulated with its own requests, plan, engine settings and engine overheads. Means
are defined as they were measured (``simulator.metrics``): TTFT and E2E count every request once and include
queueing, ITL counts every gap between tokens once, TPOT every request of two tokens or more once.
Errors are relative and signed: predicted / measured - 1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from planner.measured import METRICS, FloatArray, Run, model_of
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from planner.validate import complaints
from profiles.engine import EngineProfile
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.model import Model
from profiles.plan import Plan
from profiles.stepcost import PS, StepCost
from simulator import metrics
from simulator.engine import simulate
from simulator.outcome import Outcome
from traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFidelity:
    """One run, predicted and measured.

    Parameters
    ----------
    predicted_s, measured_s, error
        By metric, of those that were measured: means in seconds, and predicted / measured - 1.
    request_error
        Median over requests of the absolute relative error, by metric, where every request was measured.
    rejected
        Requests that the simulated server never serves; the machine served them.
    """

    name: str
    group: str
    label: str
    requests: int
    predicted_s: Mapping[str, float]
    measured_s: Mapping[str, float]
    error: Mapping[str, float]
    request_error: Mapping[str, float]
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Of one metric over several runs: median and largest absolute error, mean signed error."""

    runs: int
    median_abs_error: float
    worst_abs_error: float
    bias: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Plans of one group by mean E2E over all requests of all their replicas, seconds, best first as measured.

    ``wrong`` holds the pairs (measured to be better, measured to be worse) that the simulator does not order so.
    """

    group: str
    measured_s: Mapping[str, float]
    predicted_s: Mapping[str, float]
    wrong: tuple[tuple[str, str], ...]

    @property
    def agrees(self) -> bool:
        return not self.wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """All runs, and what they say together.

    Parameters
    ----------
    summary, by_plan, by_group
        By metric; by plan and metric; by group and metric.
    order
        Groups in which two plans or more were measured.
    sources
        Operation times and engine overheads that were used.
    provenance
        Share of the simulated busy time by where its operation times come from.
    notes
        What was assumed or left out.
    """

    runs: tuple[RunFidelity, ...]
    summary: Mapping[str, ErrorSummary]
    by_plan: Mapping[str, Mapping[str, ErrorSummary]]
    by_group: Mapping[str, Mapping[str, ErrorSummary]]
    order: tuple[Order, ...]
    sources: tuple[str, ...]
    provenance: Mapping[str, float]
    notes: tuple[str, ...]


def validate(
    runs: Sequence[Run], *, model: str | None = None, tables: Path | None = None, silicon: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Fidelity:  # fmt: skip
    """Replay all runs and compare.

    Parameters
    ----------
    model
        Instead of the models that the runs name.
    tables, silicon
        Operation times, as for ``planner.pipeline.Evaluator``; a run's own tables count unless some are given.

    Raises
    ------
    InputError
        When a plan does not fit its model or device.
    """
    if not runs:
        raise InputError("no measured run to compare with")
    servers = Servers(runs, model=model, tables=tables, silicon=silicon)
    compared, outcomes = [], []
    progress(f"replaying {len(runs)} runs")
    for run in runs:
        outcomes.append(servers.replay(run))
        compared.append(compare(run, outcomes[-1]))
    return Fidelity(
        runs=tuple(compared),
        summary=summary_of(compared),
        by_plan={key: summary_of(part) for key, part in _by(compared, lambda run: run.label)},
        by_group={key: summary_of(part) for key, part in _by(compared, lambda run: run.group)},
        order=tuple(
            order_of(group, part) for group, part in _by(compared, lambda run: run.group) if _plans(part) > 1
        ),
        sources=servers.sources,
        provenance=_provenance(outcomes),
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
    )


class Servers:
    """The servers of all runs; what they share is computed once, a distinct server compiled once.

    ``engine``: constants instead of those that the runs name.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        model: str | None = None,
        tables: Path | None = None,
        silicon: bool = True,
        engine: EngineProfile | None = None,
    ) -> None:
        self._tables, self._silicon, self._model, self._engine = tables, silicon, model, engine
        self._longest: dict[tuple[object, ...], Trace] = {}
        self._widest: dict[tuple[object, ...], int] = {}
        self._plans: dict[int, tuple[Model, Plan]] = {}
        self._evaluators: dict[tuple[object, ...], Evaluator] = {}
        self._steps: dict[tuple[object, ...], StepCost] = {}
        for run in runs:
            found = model_of(model or run.model)
            plan = run.plan(found)
            key, most = (
                self._key(run, found),
                int(np.argmax(run.trace.prompt_tokens + run.trace.output_tokens)),
            )
            self._plans[id(run)] = found, plan
            self._widest[key] = max(plan.devices, self._widest.get(key, 1))
            longest = Trace(
                arrival_s=np.zeros(1),
                prompt_tokens=run.trace.prompt_tokens[most : most + 1],
                output_tokens=run.trace.output_tokens[most : most + 1],
                name=run.trace.name,
            )
            if key not in self._longest or _length(longest) > _length(self._longest[key]):
                self._longest[key] = longest

    def _key(self, run: Run, model: Model) -> tuple[object, ...]:
        return model.name, run.device, run.engine, self._tables or run.tables

    def replay(self, run: Run) -> Outcome:
        """What the simulator makes of the run's own requests."""
        plan = self._plans[id(run)][1]
        return simulate(run.trace, self.step(run), plan.engine, replicas=plan.replicas)

    def step(self, run: Run) -> StepCost:
        """Cost tables of the run's server."""
        model, plan = self._plans[id(run)]
        key = self._key(run, model)
        if key not in self._evaluators:
            fleet = homogeneous(run.device, gpus=self._widest[key])
            question = Question(model=model, fleet=fleet, trace=self._longest[key], engine=run.engine)
            made = Evaluator(question, tables=self._tables or run.tables, silicon=self._silicon)
            if self._engine is not None:
                made.compilers = [compiler.with_engine(self._engine) for compiler in made.compilers]
            self._evaluators[key] = made
        evaluator = self._evaluators[key]
        server = (*key, plan)
        if server not in self._steps:
            pool = evaluator.question.fleet.pools[0]
            found = complaints(evaluator.question, pool, plan)
            if found:
                raise InputError(f"{run.group}, {run.name}: {plan.label} on {pool.name}: {'; '.join(found)}")
            self._steps[server] = evaluator.step(Candidate(plan=plan, pool=0, placement=place(plan, pool)))
        return self._steps[server]

    @property
    def sources(self) -> tuple[str, ...]:
        words = (
            f"{source}; {compiler.overhead_words}"
            for evaluator in self._evaluators.values()
            for source, compiler in zip(evaluator.sources, evaluator.compilers, strict=True)
        )
        return tuple(dict.fromkeys(words))


def _length(trace: Trace) -> int:
    return int((trace.prompt_tokens + trace.output_tokens).max())


def compare(run: Run, outcome: Outcome) -> RunFidelity:
    """Errors of one run, of what was measured of it."""
    if not outcome.served.any():
        reason = next(iter(outcome.rejected.values()), "")
        raise InputError(f"{run.group}, {run.name}: no request can be served: {reason}")
    means = {name: metrics.slo_value(_served(outcome), name, None) for name in METRICS if name in run.mean_s}
    return RunFidelity(
        name=run.name,
        group=run.group,
        label=run.label,
        requests=len(run.trace),
        predicted_s=means,
        measured_s={name: run.mean_s[name] for name in means},
        error={name: value / run.mean_s[name] - 1 for name, value in means.items()},
        request_error=_request_errors(run, outcome),
        rejected=len(outcome.rejected),
    )


def _served(outcome: Outcome) -> Outcome:
    """Without rejections, which would make means infinite; ``RunFidelity.rejected`` tells of them."""
    return replace(outcome, rejected={})


def _request_errors(run: Run, outcome: Outcome) -> dict[str, float]:
    predicted: dict[str, FloatArray] = {
        "scheduled": (outcome.scheduled_ps - outcome.arrival_ps[0]) / PS,
        "ttft": (outcome.first_token_ps - outcome.arrival_ps) / PS,
        "e2e": (outcome.finish_ps - outcome.arrival_ps) / PS,
        "tpot": (outcome.finish_ps - outcome.first_token_ps) / PS / np.maximum(outcome.output_tokens - 1, 1),
    }
    errors = {}
    for name, measured in run.request_s.items():
        known = outcome.served & (measured > 0)  # NaN where a request has none
        if known.any():
            errors[name] = float(np.median(np.abs(predicted[name][known] / measured[known] - 1)))
    return errors


def summary_of(runs: Iterable[RunFidelity]) -> dict[str, ErrorSummary]:
    """Errors by metric, each over the runs in which it was measured.

    Examples
    --------
    >>> run = RunFidelity(name="a", group="g", label="8TP", requests=1, predicted_s={"itl": 0.9},
    ...                   measured_s={"itl": 1.0}, error={"itl": -0.1}, request_error={}, rejected=0)
    >>> summary_of([run, run])["itl"]
    ErrorSummary(runs=2, median_abs_error=0.1, worst_abs_error=0.1, bias=-0.1)
    """
    runs, found = list(runs), {}
    for name in METRICS:
        errors = np.array([run.error[name] for run in runs if name in run.error])
        if len(errors):
            found[name] = ErrorSummary(
                runs=len(errors),
                median_abs_error=float(np.median(np.abs(errors))),
                worst_abs_error=float(np.abs(errors).max()),
                bias=float(errors.mean()),
            )
    return found


def order_of(group: str, runs: Sequence[RunFidelity]) -> Order:
    """Plans of one group in measured order, and the pairs that are predicted the other way round."""
    means: dict[str, tuple[float, float]] = {}
    for label, part in _by([run for run in runs if "e2e" in run.error], lambda run: run.label):
        requests = sum(run.requests for run in part)
        measured = sum(run.measured_s["e2e"] * run.requests for run in part) / requests
        predicted = sum(run.predicted_s["e2e"] * run.requests for run in part) / requests
        means[label] = measured, predicted
    labels = sorted(means, key=lambda label: means[label])
    return Order(
        group=group,
        measured_s={label: means[label][0] for label in labels},
        predicted_s={label: means[label][1] for label in labels},
        wrong=tuple(
            (a, b)
            for a, b in combinations(labels, 2)
            if means[a][0] < means[b][0] and means[a][1] >= means[b][1]
        ),
    )


def _plans(runs: Iterable[RunFidelity]) -> int:
    return len({run.label for run in runs if "e2e" in run.error})


def _by(
    runs: Iterable[RunFidelity], key: Callable[[RunFidelity], str]
) -> list[tuple[str, list[RunFidelity]]]:
    """Runs by key, in the order of first appearance."""
    groups: dict[str, list[RunFidelity]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.items())


def _provenance(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares over all runs, by their busy time."""
    busy = sum(outcome.busy_ps for outcome in outcomes)
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.provenance)
    return {
        name: sum(outcome.provenance.get(name, 0.0) * outcome.busy_ps for outcome in outcomes) / busy
        for name in names
    }
