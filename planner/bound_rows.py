"""The table of a bound report: a row per scheduler, and which of them is the plan's own and the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.contest import Served
from planner.objective import Objective
from planner.schedulers import Contender
from profiles.plan import EngineSettings
from simulator.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One scheduler of the table, simulated.

    ``value`` is None where it rejects requests: a bound counts every request as served. ``ratio``: value over
    bound, None without one of them. ``kv_peak``: most KV blocks in use, as a share. ``same_as``: the name of
    another one whose every token came at the same time.
    """

    contender: Contender
    same_as: str | None = None
    value: float | None
    ratio: float | None
    preemptions: int
    recomputed_tokens: int
    kv_peak: float
    iterations: int
    rejected: int

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def engine(self) -> EngineSettings:
        return self.contender.engine


def swaps(served: Served) -> bool:
    """Whether anybody swaps, which one of the bounds on energy rules out."""
    return any(each.engine.preemption == "swap" for each, _, _ in served)


def rows_of(served: Served, bound: float, own: EngineSettings) -> list[Scheduler]:
    """A row each, the bound being known. Of schedulers that do the same the plan's own speaks for all."""

    def schedule(outcome: Outcome) -> bytes:
        ends = outcome.first_token_ps.tobytes() + outcome.finish_ps.tobytes()
        return ends + str(outcome.energy_nj).encode()

    first: dict[bytes, str] = {}
    for each, outcome, _ in sorted(served, key=lambda one: not _is(one[0], own)):
        first.setdefault(schedule(outcome), each.name)
    return [
        row(each, outcome, value, bound, same_as=None if same == each.name else same)
        for each, outcome, value in served
        for same in [first[schedule(outcome)]]
    ]


def _is(contender: Contender, own: EngineSettings) -> bool:
    """Whether this is the plan's own scheduler."""
    engine = contender.engine
    return contender.rules is None and (engine.policy, engine.queue) == (own.policy, own.queue)


def row(
    contender: Contender, outcome: Outcome, value: float | None, bound: float, *, same_as: str | None = None
) -> Scheduler:
    """A line of the table."""
    return Scheduler(
        contender=contender,
        same_as=same_as,
        value=value,
        ratio=value / bound if value is not None and bound > 0 else None,
        preemptions=int(outcome.preemptions.sum()),
        recomputed_tokens=outcome.recomputed_tokens,
        kv_peak=outcome.peak_blocks / outcome.kv_blocks if outcome.kv_blocks else 0.0,
        iterations=outcome.iterations,
        rejected=len(outcome.rejected),
    )


def own_row(rows: Sequence[Scheduler], own: EngineSettings) -> int | None:
    """The plan's own scheduler, or the nearest to it that serves every request."""
    valued = [i for i, each in enumerate(rows) if each.value is not None and each.contender.rules is None]
    for alike in (
        lambda e: (e.policy, e.queue, e.preemption) == (own.policy, own.queue, own.preemption),
        lambda e: (e.policy, e.queue) == (own.policy, own.queue),
        lambda e: e.policy == own.policy,
    ):
        if found := [i for i in valued if alike(rows[i].engine)]:
            return found[0]
    return None


def best_row(rows: Sequence[Scheduler], goal: Objective, *, engines: bool = False) -> int | None:
    """The first of the best, named as the table names it: by the one that speaks for all that do the same.
    ``engines``: of the policies of ``simulator.batching`` alone."""
    valued = [
        (goal.score(each.value), i)
        for i, each in enumerate(rows)
        if each.value is not None and each.same_as is None and not (engines and each.contender.rules)
    ]
    return min(valued)[1] if valued else None
