"""How far from optimal: the schedulers people run beside the best that any scheduler could do.

One plan, one trace, one objective. The bound is that of ``planner.bounds``, taken so wide that every scheduler
of the table (``planner.schedulers``) is in its class; ``planner.gap`` says where the difference comes from,
``planner.bound_text`` prints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from formulations.problem import Limits
from planner import units
from planner.bar import Counted
from planner.bound_curve import Point, Vary, check_vary, point, point_of
from planner.bound_rows import Scheduler, best_row, own_row, rows_of, swaps
from planner.bounds import PlanBound
from planner.contest import Served, contest
from planner.errors import NoFeasiblePlan
from planner.exact import MOST_REQUESTS, Exact, exact, why_not
from planner.gap import Gap, gap_of
from planner.intervals import Interval
from planner.objective import Objective
from planner.pipeline import Candidate, Evaluator, fitted, goodput_limits
from planner.placement import place
from planner.question import Question, check_clocks, check_engine
from planner.searched import searched
from planner.setting import BOUNDED, Setting
from planner.validate import complaints
from profiles.errors import InputError
from profiles.plan import EngineSettings, Plan, Policy
from simulator import metrics
from traces.transform import window

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Whoever has a mean E2E as low as a scheduler's has no lower mean TTFT than ``ttft_s``. Alone TTFT is bounded
    loosely under load: a scheduler that never decodes would reach it."""

    scheduler: str
    e2e_s: float
    ttft_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReport:
    """What ``zenith bound`` found.

    ``bound`` holds for ``class_words``, and ``proof`` names the section of the documentation that proves it.
    ``exact``: what CP-SAT proves of a narrower class, where it was asked and could. ``curve``: the same where
    memory or load is another. ``joint``: for TTFT, of the plan's own scheduler and the best. ``own``: the
    plan's own scheduler; of its time ``provenance`` (seconds by source), and between what its value is expected,
    None where no error is known. ``sources``: of operation times and overheads, in words.
    """

    headline: str
    plan: Plan
    requests: int
    objective: Objective
    bound: PlanBound
    class_words: str
    proof: str
    schedulers: tuple[Scheduler, ...]
    gaps: tuple[Gap, ...]
    exact: Exact | None
    notes: tuple[str, ...]
    curve: tuple[Point, ...] = ()
    joint: tuple[Joint, ...] = ()
    own: str = ""
    provenance: dict[str, float] = field(default_factory=dict)
    expected: Interval | None = None
    sources: str = ""

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import bound_frame

        return bound_frame(self)


def bound_report(
    question: Question, plan: Plan, objective: str, *, window_s: float | None = None,
    limits: Limits | None = None, unit: int = 1, explain: bool = True, vary: Sequence[Vary] = (),
    tables: Path | None = None, silicon: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> BoundReport:  # fmt: skip
    """Every scheduler on one plan, its bound, and the gap of the plan's own scheduler and of the best.

    Parameters
    ----------
    objective
        Of ``BOUNDED``; that of the question does not matter here.
    window_s
        Only requests that arrive this long after the first.
    limits
        Those of CP-SAT, which is then asked for the best schedule; None: it is not.
    unit
        Above 1: the best schedule in units of so many tokens is asked for, too.
    explain
        Whether to say what schedulers lose.
    vary
        Axes along which the comparison is repeated.

    Raises
    ------
    InputError
        When no iteration could hold a token of every sequence, or the objective is unknown.
    NoFeasiblePlan
        When the plan does not fit the fleet or the memory of its devices.
    """
    check_engine(replace(plan.engine, policy="vllm-v1"), ["plan"])
    question, notes = fitted(question)
    if window_s is not None:
        question = replace(question, trace=window(question.trace, 0.0, window_s))
    goal = BOUNDED[objective]
    progress("compiling cost tables")
    evaluator = Evaluator(question, tables=tables, silicon=silicon)
    pool, setting = _setting(question, evaluator, plan)
    check_vary(setting, vary)
    if objective == "goodput" and not setting.slo_s:
        raise InputError("goodput counts requests that meet SLOs: give --slo of ttft, tpot or e2e")
    served, left_out = contest(setting, goal, progress)
    notes += left_out
    progress("bounding")
    bound = setting.bound(objective, swaps=swaps(served), priced=True)
    served += searched(setting, goal, served, bound=bound.value, progress=progress)
    rows = rows_of(served, bound.value, setting.plan.engine)
    gaps: list[Gap] = []
    explained = _explained(rows, plan.engine, goal) if explain else []
    for i in explained:
        progress(Counted(f"simulating what {rows[i].name} loses", len(gaps), len(explained)))
        gaps.append(gap_of(setting, rows[i], served[i][1], goal, bound))
    curve: list[Point] = []
    points = [(each.axis, factor) for each in vary for factor in each.factors]
    for axis, factor in points:
        progress(Counted(f"simulating {axis} x{factor:g}", len(curve), len(points)))
        known = factor == 1.0
        curve.append(
            point_of(setting, rows, bound, goal, axis, factor)
            if known
            else point(setting, goal, axis, factor)
        )
    trace, best = question.trace, None
    if limits is not None:
        if reason := why_not(plan, objective, chunkable=setting.whole.chunkable):
            notes.append(f"not solved exactly: {reason}")
        else:
            progress("solving exactly")
            outcomes = [outcome for _, outcome, _ in served]
            step = setting.roomy(setting.whole)
            best = exact(step, plan, trace, objective, limits, floor_s=bound.value, known=outcomes, unit=unit)
            if unit > 1 and best.coarse is None:
                notes.append(f"not solved in units of {unit} tokens: more than {MOST_REQUESTS} requests")
    mine = own_row(rows, plan.engine)
    provenance = {} if mine is None else dict(served[mine][1].provenance)
    expected = None
    if mine is not None:
        found = evaluator.intervals(pool, plan, {goal.metric: rows[mine].value}, provenance)
        expected = found.of.get(goal.metric)
    return BoundReport(
        headline=f"{question.model.name} on {plan.devices} x {evaluator.sources[0].split(':')[0]}, {plan.label}\n"
        f"trace {trace.name}: {len(trace):,} requests in {trace.duration_s:.4g} s, prompt "
        f"{trace.prompt_tokens.mean():.0f} and output {trace.output_tokens.mean():.0f} tokens on average",
        plan=plan,
        requests=len(trace),
        objective=goal,
        bound=bound,
        class_words=class_words(setting, bound.name),
        proof=proof_of(bound.name),
        schedulers=tuple(rows),
        gaps=tuple(gaps),
        exact=best,
        notes=tuple(notes),
        curve=tuple(curve),
        joint=tuple(_joint(setting, rows, served, goal)),
        own="" if mine is None else rows[mine].name,
        provenance=provenance,
        expected=expected,
        sources="; ".join([*evaluator.sources, *evaluator.overheads]),
    )


def _setting(question: Question, evaluator: Evaluator, plan: Plan) -> tuple[int, Setting]:
    """On the first pool that takes the plan."""
    reasons = []
    for i, pool in enumerate(question.fleet.pools):
        check_clocks(pool, [plan.clock_mhz], ["plan"])
        if found := complaints(question, pool, plan):
            reasons += [f"{pool.name}: {reason}" for reason in found]
            continue
        steps = []
        own = plan.engine
        kinds: tuple[Policy, ...] = ("vllm-v1", "orca" if own.chunks_prefill else own.policy)
        for name in kinds:
            engine = replace(own, policy=name)
            candidate = Candidate(plan=replace(plan, engine=engine), pool=i, placement=place(plan, pool))
            steps.append(evaluator.step(candidate))
        return i, Setting(
            trace=question.trace, plan=plan, chunked=steps[0], whole=steps[1],
            slo_s=goodput_limits(question.slos),
        )  # fmt: skip
    raise NoFeasiblePlan(f"{plan.label}: " + "; ".join(reasons))


def _joint(setting: Setting, rows: Sequence[Scheduler], served: Served, goal: Objective) -> list[Joint]:
    """For TTFT: the plan's own scheduler and the best, by their mean E2E."""
    mine, best = own_row(rows, setting.plan.engine), best_row(rows, goal)
    both = list(dict.fromkeys(i for i in (mine, best) if i is not None))
    if goal.name != "ttft" or not both:
        return []
    e2e_s = [float(metrics.e2e_s(served[i][1]).mean()) for i in both]
    return [
        Joint(scheduler=rows[i].name, e2e_s=limit, ttft_s=least)
        for i, limit, least in zip(both, e2e_s, setting.ttft_within(e2e_s), strict=True)
    ]


def _explained(rows: Sequence[Scheduler], own: EngineSettings, goal: Objective) -> list[int]:
    """The plan's own scheduler and the best policy of an engine, where they serve every request."""
    mine, best = own_row(rows, own), best_row(rows, goal, engines=True)
    if mine is not None and best is not None and rows[best].value == rows[mine].value:
        best = mine
    return list(dict.fromkeys(i for i in (mine, best) if i is not None))


def class_words(setting: Setting, name: str) -> str:
    """The class of schedules that a bound holds for."""
    plan, engine = setting.plan, setting.plan.engine
    each = " a rank" if plan.attn_dp > 1 else ""
    room = setting.chunked.kv_blocks * engine.block_size
    words = (
        f"any order, batching, stalling, chunking and preemption (recompute or swap), output lengths known; "
        f"iterations of at most {engine.token_budget:,} new tokens (more where prompts stay whole) and "
        f"{engine.max_seqs:,} sequences{each}, {room:,} KV tokens{each}"
    )
    if "while busy" in name:  # see planner.busy_energy
        return "work-conserving, preempting only a full cache, without swapping: " + words.replace(
            "stalling, chunking and preemption (recompute or swap)", "stalling, chunks that fill iterations"
        )
    return words


def proof_of(name: str) -> str:
    """Section of ``docs/bounds.md`` that proves a relaxation.

    Examples
    --------
    >>> proof_of("unloaded"), proof_of("KV memory x time")
    ('docs/bounds.md#a-request-alone', 'docs/bounds.md#the-trace')
    """
    return "docs/bounds.md#" + ("a-request-alone" if name == "unloaded" else "the-trace")


def parse_window(text: str) -> float:
    """Seconds of ``60s``, ``500ms``, ``5min`` or ``1h``.

    Raises
    ------
    InputError
        When it is not a number above 0 with a unit.

    Examples
    --------
    >>> parse_window("60s"), parse_window("1.5min")
    (60.0, 90.0)
    """
    try:
        return units.read(text, units.TIME)
    except InputError as error:
        raise InputError(f"--window {error}") from None
