"""The schedulers of a bound report: policies of engines, and research schedulers that know more than an engine can.

==================  =====================================================================================
name                what it does (``simulator.batching``, ``simulator.research``)
==================  =====================================================================================
POLICY QUEUE        the policy as engines have it; ``swap`` moves what is evicted instead of recomputing it
... reserve         the same, but whoever is admitted has room to its end: nobody is evicted
... srf             the same, but the one with the fewest tokens in the cache is evicted first (INFERMAX)
... cap N           the same with the best of a few caps on the batch (vLLM's ``--max-num-seqs``)
shortest output     vllm-v1, fewest output tokens first
least work          vllm-v1, least machine time first: the request's share of the bound's own relaxation
mc-sf               fewest output tokens first, admitted where all future memory suffices (Jaillet et al.)
longest ahead       as mc-sf, most output tokens first
longest remaining   most output tokens first; who has no place in an iteration pauses and keeps its memory, so that
                    prompts are computed as memory allows, and those with most tokens to come decode
work ahead          as mc-sf, least machine time first, with the best of a few caps on the batch
priced              as work ahead, with a cap that follows the price of machine time, higher for short prompts
                    (``Rules.worth``), and requests that join in groups (``Rules.refill``); the best of a few
                    factors of the cap and parts left when a group joins
searched            the best of all these for mean E2E or TTFT, its order, cap and groups moved by local search over
                    whole simulations (``planner.searched``), where that is better
==================  =====================================================================================

A scheduler that needs output lengths is *clairvoyant*, and no engine runs it. ``reserve`` is what TensorRT-LLM's
GUARANTEED_NO_EVICT does where each request's limit on its answer is the length that it comes to.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.deployable import ENGINES
from planner.deployable import POLICIES as POLICIES_OF
from profiles.plan import EngineSettings, Policy
from simulator.research import ENGINE_RULES, Rules
from simulator.research_kernel import MOST_WEIGHT

PRIORITIES = frozenset({"vLLM", "SGLang"})
"""Engines whose waiting queue can go by priorities that clients send (``--scheduling-policy priority``,
``--enable-priority-scheduling``), here the prompt's length."""

RESERVING = frozenset({"TensorRT-LLM"})
"""Engines that can reserve a request's memory to its end (``capacity_scheduler_policy: GUARANTEED_NO_EVICT``)."""

CAPS = (32, 64, 96, 128, 192)
FACTORS = (1.0, 1.4, 2.0, 2.8)
REFILLS = (0.2, 0.6, 0.8)
QUEUES = ("fcfs", "sjf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One scheduler. ``rules`` None: the policy, queue and preemption of ``engine``, in ``simulator.engine``;
    otherwise ``engine`` only says budgets and which cost tables. ``runs_on``: engines that have it."""

    name: str
    engine: EngineSettings
    rules: Rules | None = None
    runs_on: tuple[str, ...] = ()


def policy(base: EngineSettings, name: Policy, queue: str, *, swap: bool = False) -> Contender:
    """A policy as engines have it.

    Examples
    --------
    >>> found = policy(EngineSettings(), "vllm-v1", "sjf")
    >>> found.name, found.runs_on
    ('vllm-v1 sjf', ('vLLM', 'SGLang'))
    """
    engine = replace(base, policy=name, queue=queue, preemption="swap" if swap else "recompute")  # type: ignore[arg-type]
    runs_on = tuple(
        each
        for each in ENGINES
        if name in POLICIES_OF[each] and not swap and (queue == "fcfs" or each in PRIORITIES)
    )
    return Contender(name=f"{name} {queue}" + " swap" * swap, engine=engine, runs_on=runs_on)


def rules_of(engine: EngineSettings) -> Rules:
    """The rules of its policy and queue.

    Raises
    ------
    KeyError
        When no rules give that policy.

    Examples
    --------
    >>> rules_of(EngineSettings(policy="vllm-v1", queue="sjf")).order
    'prompt'
    """
    return replace(ENGINE_RULES[engine.policy], order="arrival" if engine.queue == "fcfs" else "prompt")


def _changed(found: Contender, words: str, runs_on: tuple[str, ...] = (), **changes: object) -> Contender:
    rules = replace(rules_of(found.engine), **changes)  # type: ignore[arg-type]
    return replace(found, name=f"{found.name} {words}", rules=rules, runs_on=runs_on)


def reserving(base: EngineSettings) -> Iterator[Contender]:
    """Policies that evict, without evicting."""
    names: tuple[Policy, ...] = ("vllm-v0", "vllm-v1", "sarathi")
    for name in names:
        for queue in QUEUES:
            found = policy(base, name, queue)
            runs_on = tuple(each for each in found.runs_on if each in RESERVING)
            yield _changed(found, "reserve", runs_on, admission="peak", watermark=False)


def shortest_evicted(base: EngineSettings, name: Policy, queue: str) -> Contender:
    """A policy that evicts, with another victim."""
    return _changed(policy(base, name, queue), "srf", victim="fewest")


def clairvoyant(base: EngineSettings) -> Iterator[Contender]:
    """Those that know output lengths, without a choice to make."""
    engine = replace(base, policy="vllm-v1", queue="fcfs", preemption="recompute")
    for name, rules in (
        ("shortest output", Rules(order="output")),
        ("least work", Rules(order="weight")),
        ("mc-sf", Rules(order="output", admission="ahead")),
        ("longest ahead", Rules(order="longest", admission="ahead")),
        ("longest remaining", Rules(order="longest", admission="peak", pauses=True)),
    ):
        yield Contender(name=name, engine=engine, rules=rules)


def capped(base: EngineSettings) -> list[Contender]:
    """Work-sorted look-ahead by cap, of which a report keeps the best."""
    engine = replace(base, policy="vllm-v1", queue="fcfs", preemption="recompute")
    caps = [cap for cap in CAPS if cap < base.max_seqs]
    return [
        Contender(
            name="work ahead" + (f" cap {cap}" if cap else ""),
            engine=engine,
            rules=Rules(order="weight", admission="ahead", cap=cap),
        )
        for cap in [None, *caps]
    ]


def fewer_places(base: EngineSettings, queue: str) -> list[Contender]:
    """vllm-v1 with fewer sequences at once, of which a report keeps the best: engines have this as a setting."""
    found = policy(base, "vllm-v1", queue)
    return [_changed(found, f"cap {cap}", found.runs_on, cap=cap) for cap in CAPS if cap < base.max_seqs]


def priced(base: EngineSettings, worth: float) -> list[Contender]:
    """Caps by the price of machine time, and groups, of which a report keeps the best."""
    engine = replace(base, policy="vllm-v1", queue="fcfs", preemption="recompute")
    return [
        Contender(
            name=f"priced x{factor:g} left {refill:g}",
            engine=engine,
            rules=Rules(order="weight", admission="ahead", worth=worth * factor**2, refill=refill),
        )
        for factor in FACTORS
        for refill in REFILLS
    ]


__all__ = [
    "MOST_WEIGHT",
    "Contender",
    "capped",
    "clairvoyant",
    "fewer_places",
    "policy",
    "priced",
    "reserving",
    "rules_of",
    "shortest_evicted",
]
