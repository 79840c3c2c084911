"""Constraints of a question moved one step: the questions to solve again.

====================  ======================================================================================
devices of a pool     the next number that some plan can use: the fewest that a plan with more than all has, up to
                      twice as many; of pools above ``MANY`` a node more
HBM capacity          memory of every device +10 %
HBM bandwidth         the time that bytes take at the peak of memory / 1.1, launches and the like as they are
compute               the time that FLOPs take at the peak / 1.1, likewise
interconnect          the time of collectives and transfers / 1.1
host overhead         the engine's constants -10 %
an SLO                its limit +10 %
sequences, budget     twice as many at once, and tokens of an iteration, are searched as well (fixed ones: instead)
a rule                one of ``--fix`` or ``--forbid`` dropped
--max-gpus            raised to what the next larger plan takes, up to twice as many
--max-cost-per-hour   +10 %
a power cap           of the boards of a pool +10 %, at most to the limit as shipped
====================  ======================================================================================
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.errors import NoFeasiblePlan, NoPlanInTime
from planner.question import Question
from planner.rules import flag_of, rules_of, without
from planner.slo import parse_slo
from profiles.engine import load_engine
from profiles.errors import InputError
from profiles.fleet import MOST_DEVICES, Fleet, Pool
from profiles.moved import AS_IT_IS, Moved

if TYPE_CHECKING:
    from planner.store import Store

STEP = 1.1
"""What memory, rates, limits are multiplied by."""

MANY = 64
"""Devices of a pool up to which every larger number is looked at: plans of twice as many are enumerated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One constraint moved. ``question`` is None where it cannot be, and ``reason`` says why."""

    name: str
    words: str
    question: Question | None
    moved: Moved = AS_IT_IS
    reason: str = ""


def steps(question: Question, store: "Store") -> Iterator[Step]:
    """Every constraint that can be moved, one at a time; plan spaces are enumerated in ``store``."""
    for i, pool in enumerate(question.fleet.pools):
        yield _more_devices(question, i, pool, store)
    yield _on_devices(question)
    yield _of_profile(question, "HBM bandwidth", "memory_scale")
    yield _of_profile(question, "compute", "compute_scale")
    yield _of_profile(question, "interconnect", "collective_scale")
    yield _host(question)
    for i, slo in enumerate(question.slos):
        unit = {"s": "ms", "W": "W"}[slo.unit]
        wider = parse_slo(f"{slo.name}<={slo.limit * STEP * (1e3 if unit == 'ms' else 1):.12g}{unit}")
        slos = (*question.slos[:i], wider, *question.slos[i + 1 :])
        yield Step(name=f"SLO {slo.text}", words="+10%", question=replace(question, slos=slos))
    yield _doubled(question, "sequences", "seqs", "max_seqs")
    yield _doubled(question, "token budget", "budget", "token_budgets")
    yield from _limits(question, store)
    for rule in rules_of(question):
        try:
            yield Step(name=flag_of(rule), words="dropped", question=without(question, rule))
        except InputError as error:
            yield Step(name=flag_of(rule), words="dropped", question=None, reason=str(error))


def grown(pool: Pool, more: int) -> Pool:
    """The pool with so many more devices: on its nodes first, then on new ones.

    Examples
    --------
    >>> from profiles.fleet import homogeneous
    >>> grown(homogeneous("h100", gpus=6).pools[0], 4).free
    (8, 2)
    """
    free = list(pool.free)
    for i, used in enumerate(free):
        free[i] += min(more, pool.devices_per_node - used)
        more -= free[i] - used
    while more > 0:
        free.append(min(more, pool.devices_per_node))
        more -= free[-1]
    return replace(pool, nodes=len(free), free=tuple(free))


def _more_devices(question: Question, i: int, pool: Pool, store: "Store") -> Step:
    pools = question.fleet.pools
    name = f"devices of {pool.name}" if len(pools) > 1 else "devices"

    def asked(more: int) -> Question:
        fleet = Fleet(pools=(*pools[:i], grown(pool, more), *pools[i + 1 :]))
        return replace(question, fleet=fleet)

    have = pool.devices
    then: int | None = have + pool.devices_per_node
    if have <= MANY:
        then = _smallest_beyond(replace(asked(have), use_all_devices=False), have, store, i)
    if then is None or then > MOST_DEVICES:
        reason = f"no plan uses {have + 1} to {2 * have}"
        return Step(name=name, words=f"more than {have}", question=None, reason=reason)
    return Step(name=name, words=f"{have} -> {then}", question=asked(then - have))


def _smallest_beyond(question: Question, most: int, store: "Store", pool: int | None = None) -> int | None:
    """Devices of the smallest plan (of one pool) that takes more than so many; None where none does."""
    from planner.pipeline import candidates_of

    try:
        found = candidates_of(question, store, ways_out=False)
    except (NoFeasiblePlan, NoPlanInTime):
        return None
    beyond = [c.plan.devices for c in found if c.plan.devices > most and pool in (None, c.pool)]
    return min(beyond, default=None)


def _limits(question: Question, store: "Store") -> Iterator[Step]:
    """On the devices of a plan: how many, their price, their power."""
    most, usd = question.max_gpus, question.max_usd_per_hour
    if most is not None:
        wider = _smallest_beyond(replace(question, max_gpus=2 * most, use_all_devices=False), most, store)
        if wider is None:
            reason = f"no plan takes {most + 1} to {2 * most}"
            yield Step(name="--max-gpus", words=f"more than {most}", question=None, reason=reason)
        else:
            yield Step(
                name="--max-gpus", words=f"{most} -> {wider}", question=replace(question, max_gpus=wider)
            )
    if usd is not None:
        moved = replace(question, max_usd_per_hour=usd * STEP)
        yield Step(name="--max-cost-per-hour", words="+10%", question=moved)
    for i, pool in enumerate(question.fleet.pools):
        if pool.power_cap_w is not None:
            cap = min(pool.power_cap_w * STEP, pool.device.tdp_w)
            pools = question.fleet.pools
            fleet = Fleet(pools=(*pools[:i], replace(pool, power_cap_w=cap), *pools[i + 1 :]))
            words = f"{pool.power_cap_w:g} -> {cap:g} W"
            yield Step(name=f"power cap of {pool.name}", words=words, question=replace(question, fleet=fleet))


def _on_devices(question: Question) -> Step:
    pools = []
    for pool in question.fleet.pools:
        device = replace(pool.device, memory_bytes=int(pool.device.memory_bytes * STEP))
        pools.append(replace(pool, device=device))
    moved = replace(question, fleet=Fleet(pools=tuple(pools)))
    return Step(name="HBM capacity", words="+10%", question=moved)


def _of_profile(question: Question, name: str, constant: str) -> Step:
    return Step(
        name=name, words="+10%", question=question, moved=Moved(factors=((constant, 1 / STEP),))
    )  # fmt: skip


def _host(question: Question) -> Step:
    engine = load_engine(question.engine)
    if not (engine.iteration_s or engine.sequence_s or engine.prefill_s):
        reason = f"engine {question.engine} has none"
        return Step(name="host overhead", words="-10%", question=None, reason=reason)
    factors = tuple((name, 0.9) for name in ("iteration_s", "sequence_s", "prefill_s"))
    return Step(name="host overhead", words="-10%", question=question, moved=Moved(factors=factors))


def _doubled(question: Question, name: str, axis: str, field: str) -> Step:
    values = [int(str(value)) for value in question.options(axis)]
    twice = [2 * value for value in values if 2 * value not in values]
    words = f"also {', '.join(map(str, twice))}"
    try:
        if axis in question.fix:
            words = f"{values[0]} -> {twice[0]}"
            moved = replace(question, fix={**question.fix, axis: twice[0]})
        else:
            moved = replace(question, **{field: (*values, *twice)})  # type: ignore[arg-type]
    except InputError as error:
        return Step(name=name, words=words, question=None, reason=str(error))
    return Step(name=name, words=words, question=moved)
