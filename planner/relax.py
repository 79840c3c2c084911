"""What would do where no plan exists: single changes to the question, each verified by solving.

A change is tried where a member of the core says that it may help:

==========================  ============================================================
change                      where the core has
==========================  ============================================================
drop a rule of the user     that rule
a higher --max-gpus, ...    that limit
--cross-node-tensor         ``groups``, ``nodes``
without --use-all-devices   ``devices``
--no-deployable             ``deployable``
another policy, budget      ``memory``, ``deployable``, ``settings``
memory utilization, format  ``memory``, ``settings``
more devices                ``memory``, ``devices``, ``nodes``, ``groups``, or rules alone
shorter requests            ``memory``
==========================  ============================================================
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from planner.errors import NoFeasiblePlan
from planner.question import Question
from planner.reasons import rule_of
from planner.rules import LIMITS, flag_of, limits_of, raised, without
from planner.space import possible
from profiles.errors import InputError
from profiles.fleet import MOST_DEVICES, Pool
from profiles.plan import FORMAT_BYTES
from traces.trace import Trace

MOST = 4
"""Relaxations in an answer."""

UTILIZATION = 0.95
"""Highest share of device memory proposed: what else runs on the device is not known here."""

SMALL_BUDGET = 2048
"""Tokens of an iteration: vLLM's default of a server on devices with less than 70 GiB (its ``arg_utils``)."""

_GROWTH = 16
"""Times the devices at hand that are looked at."""

_FORMATS = (
    ("weights", "weight_formats", ("bf16", "fp8", "int4")),
    ("kv", "kv_formats", ("bf16", "fp8")),
)
"""Axis, field of the question, formats from wide to narrow."""

Change = tuple[str, Question, Pool]
"""Its words, and what is asked then, of which devices."""


def relaxations(question: Question, errors: Sequence[tuple[Pool, NoFeasiblePlan]]) -> list[str]:
    """Changes that leave a plan in some pool, each alone: at most ``MOST``, most useful first.

    Parameters
    ----------
    errors
        Why each pool has none.
    """
    found = [(words, pool) for pool, error in errors for words in _of_pool(question, pool, error)]
    if len(errors) > 1:  # each pool's first, then each pool's second
        ranks = {pool.name: iter(range(MOST)) for pool, _ in errors}
        found.sort(key=lambda entry: next(ranks[entry[1].name]))
    several = len(question.fleet.pools) > 1
    words = (f"{words} in pool {pool.name}" if several else words for words, pool in found)
    return list(dict.fromkeys(words))[:MOST]


def _of_pool(question: Question, pool: Pool, error: NoFeasiblePlan) -> list[str]:
    """At most two are the user's own rules, as long as there is something else."""
    core = [clash.constraint for clash in error.core]
    rules = _verified(chain(_higher_limits(question, pool, core), _without_rules(question, pool, core)))
    first = _take(rules, 2)
    others = _take(_verified(_others(question, pool, core)), MOST - len(first))
    if len(others) < MOST - len(first) and "memory" in core and question.model.kind != "encoder":
        others += _shorter(question, pool)
    return first + others + _take(rules, MOST - len(first) - len(others))


def _take(words: Iterator[str], most: int) -> list[str]:
    return [word for _, word in zip(range(most), words, strict=False)]


def _verified(changes: Iterable[Change]) -> Iterator[str]:
    return (words for words, question, pool in changes if possible(question, pool))


def _without_rules(question: Question, pool: Pool, core: Sequence[str]) -> Iterator[Change]:
    """Rules of the core: a rule that alone keeps plans out is in every core."""
    for rule in [rule for name in core if (rule := rule_of(question, name))]:
        try:
            yield f"drop {flag_of(rule)}", without(question, rule), pool
        except InputError:  # what is left contradicts itself
            continue


def _higher_limits(question: Question, pool: Pool, core: Sequence[str]) -> Iterator[Change]:
    """The least that does, of the devices at hand. More devices at the same limit are none."""
    for name in core:
        if name in LIMITS:
            devices = range(limits_of(question, pool)[name] + 1, pool.devices + 1)
            fewest = bisect_left(
                devices, True, key=lambda most: possible(raised(question, name, pool, most)[1], pool)
            )
            if fewest < len(devices):
                yield *raised(question, name, pool, devices[fewest]), pool


def _others(question: Question, pool: Pool, core: Sequence[str]) -> Iterator[Change]:
    def asked(words: str, **changes: Any) -> Iterator[Change]:
        try:
            yield words, dataclasses.replace(question, **changes), pool
        except InputError:
            return

    of_settings = not {"memory", "deployable", "settings"}.isdisjoint(core)
    if not question.cross_node_tensor and not {"groups", "nodes"}.isdisjoint(core):
        yield from asked("--cross-node-tensor", cross_node_tensor=True)
    if question.use_all_devices and "devices" in core:
        yield from asked("without --use-all-devices", use_all_devices=False)
    if question.deployable_on and "deployable" in core:
        yield from asked("any engine, without --deployable-on", deployable_on=())
    if of_settings and "policy" not in question.fix and "vllm-v1" not in question.policies:
        yield from asked("--policy vllm-v1", policies=(*question.policies, "vllm-v1"))
    if "memory" in core and question.gpu_memory_utilization < UTILIZATION:
        yield from asked(f"--gpu-memory-utilization {UTILIZATION:g}", gpu_memory_utilization=UTILIZATION)
    budgets = [int(str(value)) for value in question.options("budget")]
    if "memory" in core and "budget" not in question.fix and min(budgets) > SMALL_BUDGET:
        yield from asked(f"--token-budget {SMALL_BUDGET}", token_budgets=(*budgets, SMALL_BUDGET))
    if of_settings:
        for axis, field, names in _FORMATS:
            yield from _narrower(question, pool, axis, field, names)
    if "deployable" in core:
        yield from asked("--no-deployable", deployable=False, deployable_on=())
    yield from _more_devices(question, pool, core)


def _narrower(
    question: Question, pool: Pool, axis: str, field: str, names: tuple[str, ...]
) -> Iterator[Change]:
    """The widest format that does, besides those asked for; activations beside weights are as engines have them."""
    if axis in question.fix:
        return
    options = question.options(axis)
    own: dict[str, Any] = {"activation_formats": ()} if axis == "weights" else {}
    for name in names:
        if FORMAT_BYTES[name] < min(FORMAT_BYTES[str(option)] for option in options):
            fewer = dataclasses.replace(question, **{**own, field: (*options, name)})
            if possible(fewer, pool):
                yield f"{name} {'KV cache' if axis == 'kv' else axis}", fewer, pool
                return


def _more_devices(question: Question, pool: Pool, core: Sequence[str]) -> Iterator[Change]:
    """The fewest that do, to a sixteenth: doubled until there is a plan, then bisected."""
    if not LIMITS.keys().isdisjoint(core):
        return
    families = {name for name in core if rule_of(question, name) is None}
    if families and families.isdisjoint({"memory", "devices", "nodes", "groups"}):
        return
    few, many = pool.devices, max(pool.devices, 1)
    while not possible(question, grown(pool, many)):
        few, many = many, 2 * many
        if many > min(_GROWTH * max(pool.devices, 1), MOST_DEVICES):
            return
    while many - few > max(1, many // 16):
        middle = (few + many) // 2
        if possible(question, grown(pool, middle)):
            many = middle
        else:
            few = middle
    more = grown(pool, many)
    nodes = sum(room > 0 for room in more.free)
    where = f" on {nodes} nodes" if nodes > 1 else ""
    yield f"{many} such device{'s' * (many > 1)}{where}", question, more


def grown(pool: Pool, devices: int) -> Pool:
    """The pool with more free devices: its own nodes fill up first, then there are more of them.

    Examples
    --------
    >>> from profiles.fleet import homogeneous
    >>> grown(homogeneous("h100", gpus=3).pools[0], 20).free
    (8, 8, 4)
    """
    free, left = list(pool.free), devices - pool.devices
    for node, room in enumerate(pool.free):
        more = min(left, pool.devices_per_node - room)
        free[node] += more
        left -= more
    while left > 0:
        free.append(min(left, pool.devices_per_node))
        left -= free[-1]
    return dataclasses.replace(pool, nodes=len(free), free=tuple(free))


def _shorter(question: Question, pool: Pool) -> list[str]:
    """The longest request, to two digits, that leaves a plan."""
    trace = question.trace
    lengths = trace.prompt_tokens + trace.output_tokens
    longest = int(lengths.max())
    limits = [d * 10**k for k in range(len(str(longest)) - 1) for d in range(10, 100) if d * 10**k < longest]
    limits = sorted(set(limits))
    fitting = bisect_left(limits, True, key=lambda most: not possible(cut(question, most), pool))
    if not fitting:
        return []
    longer = int((lengths > limits[fitting - 1]).sum())
    return [
        f"a longest request of at most {limits[fitting - 1]} tokens"
        f" ({longer} of {len(trace)} {'is' if longer == 1 else 'are'} longer)"
    ]


def cut(question: Question, most: int) -> Question:
    """With no request of more than ``most`` tokens, >= 2: output is cut first, then the prompt."""
    trace = question.trace
    prompt = np.minimum(trace.prompt_tokens, most - 1)
    lengths = {"prompt_tokens": prompt, "output_tokens": np.minimum(trace.output_tokens, most - prompt)}
    return dataclasses.replace(question, trace=Trace(arrival_s=trace.arrival_s, **lengths))
