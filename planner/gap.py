"""Where a scheduler loses what separates it from the bound: its obstacles are taken away one after another.

Each part is a difference of two simulations of the same scheduler, in this order:

recompute     preempted sequences come back for free, instead of being computed again or moved
memory        a KV cache without end, so nobody waits for room or is preempted
head of line  the shortest prompt first, instead of the first that came
fixed cost    iterations cost nothing but what their tokens cost. The bound pays fixed costs as well, so this part
              is what the simulation saves less what the bound does
waiting       of what is left (latency and TTFT): from arrival to the first iteration
the rest      beside whom a request runs, in what order, and what the bound does not see

The parts add up to value - bound (bound - value where more is better). A negative one says that the obstacle helps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from formulations.hulls import IntArray
from planner.bound_rows import Scheduler
from planner.bounds import PlanBound
from planner.objective import Objective
from planner.setting import Setting, fixed_ps
from profiles.plan import EngineSettings
from profiles.stepcost import PS, StepCost
from simulator.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPart:
    """Units of the objective that a scheduler loses, and to what."""

    name: str
    value: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Parts add up to the scheduler's value less the bound."""

    scheduler: str
    parts: tuple[GapPart, ...]


def gap_of(
    setting: Setting, row: Scheduler, outcome: Outcome, objective: Objective, bound: PlanBound
) -> Gap:  # fmt: skip
    """What ``row``, which serves every request with ``outcome``, loses to the bound, and to what."""
    assert row.value is not None
    parts: list[GapPart] = []
    engine, value = row.engine, objective.score(row.value)

    def without(name: str, words: str, setting: Setting, engine: EngineSettings) -> Outcome:
        """Simulates with one obstacle less; what that gains is a part of its own."""
        nonlocal value
        outcome = setting.simulate(engine)
        found = setting.value(engine, outcome, objective)
        assert found is not None, "an obstacle less rejects nobody"
        easier = objective.score(found)
        parts.append(GapPart(name=name, value=value - easier, words=words))
        value = easier
        return outcome

    if row.preemptions:
        engine = replace(engine, preemption="swap")
        setting = _with(setting, lambda step: replace(step, swap_block_ps=0))
        moved = (
            f"{row.recomputed_tokens:,} tokens computed again after" if row.recomputed_tokens else "moves of"
        )
        words = f"{moved} {row.preemptions:,} preemptions"
        outcome = without("recompute", words, setting, engine)
    else:
        parts.append(GapPart(name="recompute", value=0.0, words="nobody is preempted"))

    room = _endless(setting)
    setting = _with(setting, lambda step: replace(step, kv_blocks=max(step.kv_blocks, room)))
    engine = replace(engine, watermark=0.0)
    words = f"waiting for room in a KV cache that is {row.kv_peak:.0%} full at most"
    outcome = without("memory", words, setting, engine)

    if engine.queue == "fcfs":
        engine = replace(engine, queue="sjf")
        outcome = without(
            "head of line", "the first that came, instead of the shortest prompt", setting, engine
        )

    fixed_ms = fixed_ps(setting.step(engine)) / PS * 1e3
    words = f"{fixed_ms:.3g} ms of each of {outcome.iterations:,} iterations, more than the bound counts"
    floor = objective.score(bound.value)
    swaps = "while busy" not in bound.name
    with_fixed = objective.score(setting.bound(objective.name, swaps=swaps).value)
    setting = _with(setting, _without_fixed)
    outcome = without("fixed cost", words, setting, engine)
    paid = with_fixed - objective.score(setting.bound(objective.name, swaps=swaps).value)
    parts[-1] = replace(parts[-1], value=parts[-1].value - paid)
    rest = value - (floor - paid)
    if objective.name in ("latency", "ttft"):
        waiting = float((outcome.scheduled_ps - outcome.arrival_ps).mean() / PS)
        parts.append(GapPart(name="waiting", value=waiting, words="for a first iteration, all else removed"))
        rest -= waiting
    words = "iterations shared with others, order, and what the bound does not see"
    parts.append(GapPart(name="the rest", value=rest, words=words))
    return Gap(scheduler=row.name, parts=tuple(parts))


def _with(setting: Setting, change: Callable[[StepCost], StepCost]) -> Setting:
    return replace(setting, chunked=change(setting.chunked), whole=change(setting.whole))


def _endless(setting: Setting) -> int:
    """KV blocks of a rank that hold the longest request in every place."""
    longest = int((setting.trace.prompt_tokens + setting.trace.output_tokens).max())
    engine = setting.plan.engine
    return -(-longest // engine.block_size) * engine.max_seqs * setting.plan.stages


def _without_fixed(step: StepCost) -> StepCost:
    """The tables less their first token's entry; a unit is left so that time goes on."""

    def lowered(table: IntArray) -> IntArray:
        result: IntArray = np.maximum(table - table[..., 1:2], 0)
        result[..., 1:] += 1
        return result

    names = [f"{name}_{unit}" for name in ("local", "shared", "send", "head") for unit in ("ps", "nj")]
    tables: dict[str, Any] = {name: lowered(getattr(step, name)) for name in names}
    return replace(step, **tables, local_parts={}, shared_parts={}, head_parts={},
                   local_provenance=None, shared_provenance=None, head_provenance=None)  # fmt: skip
