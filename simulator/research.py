"""Schedulers for research: admission, order, victims and caps combined freely, stepped one iteration at a time.

What engines run is in ``simulator.kernel``; here are schedulers to compare it with, many of which know the length
of every answer beforehand and so run on no engine. One stage, one attention rank, replicas take turns. An iteration
costs what it costs in the kernel, and the rules of an engine (``ENGINE_RULES``) give the kernel's times to the
picosecond; only stepping is slower, O(batch) an iteration.

A step finds room for the next token of every decoding sequence, evicting while there is none; then come chunks of
prompts under way; then admission from the head of the queue, which blocks those behind it, unless somebody was
evicted. Where prompts and decodes are not mixed, admission comes first and decodes wait for it. Admission asks for

=========  ==========================================================================================
prompt     KV blocks of the prompt
longest    as many as the longest request of the trace could ever need, kept to the end (Orca)
peak       as many as the request itself will ever need, kept to the end: nobody is evicted
ahead      blocks of the prompt, and that no later iteration runs out of them if all that run decode in
           every iteration (MC-SF of Jaillet et al. 2025, arXiv 2502.07115, who check where requests
           end, as use is highest there). A prompt in several chunks ends later than that counts on;
           where memory then runs out after all, sequences are evicted as with ``prompt``
=========  ==========================================================================================

What is evicted is computed again: its prompt and the tokens generated so far are then one prompt.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from profiles.plan import EngineSettings
from profiles.stepcost import StepCost
from simulator import engine as engines
from simulator import research_kernel as k
from simulator.outcome import IntArray, Outcome
from simulator.research_cost import OWN, Work
from traces.trace import Trace

_ADMISSIONS = {"prompt": k.PROMPT, "longest": k.LONGEST, "peak": k.PEAK, "ahead": k.AHEAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What makes a scheduler.

    Parameters
    ----------
    mixed
        Prompts and decodes share iterations.
    chunked
        Prompts are cut at the token budget; needs ``mixed``.
    order
        Of the queue: by ``arrival``, fewest ``prompt`` tokens, fewest ``output`` tokens to come, most of them
        (``longest``), or least ``weight``, which the caller gives.
    admission
        See the module.
    watermark
        Whether admission keeps the engine's watermark free; for ``prompt``.
    victim
        Who is evicted first: the ``last`` admitted, or the one with the ``fewest`` tokens in the cache
        (shortest request first of INFERMAX, arXiv 2411.07447).
    pauses
        Whoever is ready but has no place in an iteration keeps its memory and waits for one: prompts are computed
        as memory allows, first in every iteration, and of all that are ready the first in the order of the queue
        decode. So each iteration is full as long as enough requests are there. Needs ``mixed`` and an admission
        that reserves, and does not go with ``worth`` and ``refill``.
    cap
        Most sequences that run, or with ``pauses`` that are in an iteration, where fewer than the engine's.
    worth
        If above 0, a request is admitted while fewer than sqrt(worth * here * mean / prompt) run: ``here`` are all
        requests here, waiting ones counted, ``mean`` the mean of prompts and ``prompt`` its own, in tokens. Let n
        alike requests be here, b of which run, and iterations take F + s b, with what each token adds, its part of
        a prompt included. The mean of their ends is (F + s b) (n / b + 1) times a constant, least at
        b = sqrt(n F / s). So ``worth`` is F / s, the time of an iteration before its tokens over that of one token
        and what comes with it. Most of s are prompts, which all that run wait for: short ones may join more.
    refill
        Once as many run as may, nobody joins until no more than this part of them is left. A prompt delays all that
        run: of alike requests that come in groups, and so end together, each is delayed by the prompts of its group;
        of those that join one by one, by as many before its own as after it.

    Raises
    ------
    ValueError
        When they contradict each other.
    """

    mixed: bool = True
    chunked: bool = True
    order: Literal["arrival", "prompt", "output", "longest", "weight"] = "arrival"
    admission: Literal["prompt", "longest", "peak", "ahead"] = "prompt"
    watermark: bool = False
    victim: Literal["last", "fewest"] = "last"
    pauses: bool = False
    cap: int | None = None
    worth: float = 0.0
    refill: float = 1.0

    def __post_init__(self) -> None:
        if self.chunked and not self.mixed:
            raise ValueError("Chunks need mixed iterations.")
        if self.pauses and not (self.mixed and self.admission in ("longest", "peak")):
            raise ValueError("Pausing needs mixed iterations and memory reserved to the end.")
        if self.pauses and (self.worth or self.refill < 1):
            raise ValueError("Pausing goes with no worth and no refill.")
        if self.cap is not None and self.cap < 1:
            raise ValueError("cap must be at least 1.")
        if not 0 <= self.worth < float("inf"):
            raise ValueError("worth must not be negative.")
        if not 0 <= self.refill <= 1:
            raise ValueError("refill must be from 0 to 1.")

    @property
    def clairvoyant(self) -> bool:
        """Whether it needs to know how long answers become, or for ``worth`` how long all prompts are."""
        return (
            self.worth > 0
            or self.order in ("output", "longest", "weight")
            or self.admission in ("peak", "ahead")
        )


ENGINE_RULES = {
    "orca": Rules(chunked=False, admission="longest"),
    "vllm-v0": Rules(mixed=False, chunked=False, watermark=True),
    "sarathi": Rules(watermark=True),
    "vllm-v1": Rules(),
}
"""Policies of ``simulator.batching``, without swapping."""


def simulate(
    trace: Trace, step: StepCost, engine: EngineSettings, rules: Rules, *, replicas: int = 1,
    weight: IntArray | None = None,
) -> Outcome:  # fmt: skip
    """Serve the whole trace by these rules.

    Parameters
    ----------
    engine
        Its token budget, sequences, blocks and watermark; its policy, queue and preemption do not matter.
    weight
        For ``order="weight"``: of each request, 0 to 2**31 - 1.

    Raises
    ------
    ValueError
        When the plan has several stages or attention ranks, or requests do not go to replicas in turns.
    """
    if step.stages > 1 or step.ranks > 1:
        raise ValueError("Research schedulers serve one stage and one attention rank.")
    if replicas > 1 and engine.routing != "round-robin":
        raise ValueError("Research schedulers route round-robin.")
    if (rules.order == "weight") != (weight is not None):
        raise ValueError("The order by weight needs weights, and no other does.")
    engines.check(trace, step, engine, chunks=rules.chunked, mixes=rules.mixed)
    size, blocks = engine.block_size, step.kv_blocks
    watermark = int(engine.watermark * blocks) if rules.watermark else 0
    most_need = -(-(trace.prompt_tokens + trace.output_tokens - 1) // size)
    reserved = int(most_need.max())
    need = np.full_like(most_need, reserved) if rules.admission == "longest" else most_need + watermark
    order = np.flatnonzero(need <= blocks)
    arrival, requests = engines.records(trace)
    totals = engines.no_totals(step, replicas)
    base, each = keys(rules, trace, weight)
    cfg = k.Settings(
        mixed=rules.mixed,
        chunked=rules.chunked and step.chunkable,
        admission=_ADMISSIONS[rules.admission],
        fewest=rules.victim == "fewest",
        pauses=rules.pauses,
        most=min(engine.max_seqs, rules.cap or engine.max_seqs),
        worth=float(rules.worth) * float(trace.prompt_tokens.mean()),
        refill=float(rules.refill),
        budget=engine.token_budget,
        block_size=size,
        blocks=blocks,
        watermark=watermark,
        reserve_blocks=reserved,
    )
    own = np.zeros((replicas, len(OWN.names or ())), np.int64).view(OWN)[..., 0].view(np.recarray)
    own["free"] = blocks
    replica = np.full(len(trace), -1, np.int64)
    replica[order] = np.arange(len(order)) % replicas
    for rep in range(replicas):
        mine = order[rep::replicas]
        here = len(mine) if rules.pauses else engine.max_seqs
        rows = (len(mine), here, engine.max_seqs + 1, here, here, engine.max_seqs, engine.max_seqs)
        waiting, running, by_end, ready, spare, requested, tokens = (np.zeros(n, np.int64) for n in rows)
        work = Work(own, waiting, running, by_end, ready, spare, requested, tokens, base, each)
        k.serve(cfg, engines.costs(step), requests, work, totals, rep, mine)
    rejected = engines.rejections(need, step, size) | engines.unserved(requests, order)
    return engines.outcome_of(arrival, requests, replica, rejected, own["free"][:, None].copy(), totals, step)


def keys(rules: Rules, trace: Trace, weight: IntArray | None) -> tuple[IntArray, IntArray]:
    """Of each request ``base`` and ``each``: it waits behind those with less ``base - each * generated``."""
    nothing = np.zeros(len(trace), np.int64)
    if rules.order == "prompt":
        return trace.prompt_tokens.astype(np.int64), nothing
    if rules.order == "output":
        return trace.output_tokens.astype(np.int64), nothing + 1
    if rules.order == "longest":
        return (trace.output_tokens.max() - trace.output_tokens).astype(np.int64), nothing - 1
    if weight is None:
        return nothing, nothing
    if weight.min() < 0 or weight.max() > k.MOST_WEIGHT:
        raise ValueError(f"Weights must be from 0 to {k.MOST_WEIGHT}.")
    return weight.astype(np.int64), nothing
