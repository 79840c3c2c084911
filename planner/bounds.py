"""Lower bounds on what a plan can achieve on a trace, valid for every batching policy.

What every policy of ``simulator.batching`` obeys, whatever it chunks, mixes, stalls or preempts:

F1  Token k of a request ends one iteration: the one that completes its prompt (k = 1), or a decode that
    reads c = prompt + k - 1 tokens, or, after a preemption, the end of a recomputation of c tokens. The
    iterations of a request do not overlap, and each passes all stages.
F2  During that iteration the request holds KV for c tokens; a rank holds M = kv_blocks * block_size.
F3  An iteration has at most N new tokens and max_seqs sequences per rank.
F4  A stage works on one iteration at a time.

So each token (an *event*) needs time of its own, bounded from below by F1 and the cost tables
(``PlanBounds.prompt_ps``, ``decode_ps``), and each iteration can be paid for by its events
(``planner.shares``). ``formulations.relaxations`` turns both into bounds for the trace. ``docs/bounds.md``
has the proofs in one piece.

A bound speaks of outcomes in which every request of the trace is served. Its objectives are those of
``simulator.metrics``, with the makespan counted from the first arrival to the last token:

latency, ttft   mean over requests of last, first token - arrival, seconds
tpot            mean over requests with more than one token of (last - first) / (tokens - 1), seconds
itl             mean over all gaps between tokens, seconds
p99-e2e, ...    percentile of a request metric (e2e, ttft, tpot), as ``numpy.percentile``, seconds
makespan        seconds
throughput      output tokens / makespan; the bound is an upper one
goodput         requests within their SLO / makespan; upper
energy          joules: idle power * (time from 0 to the last token) + what iterations draw above it
cost            dollars: price per device second * devices * makespan
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from formulations import relaxations as rx
from formulations.relaxations import FloatArray, IntArray
from planner.shares import Limits, ShareMaker, Shares, Tables, TraceStats
from profiles.plan import Plan
from profiles.stepcost import PS, StepCost
from traces.trace import Trace

OBJECTIVES = ("latency", "ttft", "tpot", "itl", "makespan", "throughput", "energy", "goodput", "cost")
"""Besides percentiles: ``p99-e2e``, ``p50-ttft``, ..."""

MAXIMIZED = ("throughput", "goodput")
"""Objectives whose bound is an upper one."""

SAFE = 1.0 - 1e-9
"""Against the roundings of sums over a trace; the work itself is in integer picoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBound:
    """No scheduler serves the trace with this plan better than ``value``.

    ``name`` says which relaxation proves it, ``others`` what each of them proves.
    """

    objective: str
    value: float
    name: str
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine:
    """A one-machine relaxation: request i has ``work[i]`` ps (``prompts[i]`` of it for its first token), can
    start ``lead`` after its arrival, and its last token leaves ``tail`` after the end of its work."""

    name: str
    work: IntArray
    prompts: IntArray
    lead: int = 0
    tail: int = 0
    stage: int = -1
    shares: Shares | None = None


class PlanBounds:
    """All bounds of one plan on one trace; each part is computed when first asked for.

    Parameters
    ----------
    step
        Cost tables of one replica of ``plan``; they must cover the trace.
    stats
        ``TraceStats(trace)``, shared between plans.

    Raises
    ------
    ValueError
        When the tables end before the longest sequence of the trace.
    """

    def __init__(self, step: StepCost, plan: Plan, stats: TraceStats) -> None:
        if stats.longest > step.max_length:
            raise ValueError(
                f"The cost tables end at {step.max_length} tokens, the trace has {stats.longest}."
            )
        self.step, self.plan, self.stats = step, plan, stats
        self.limits = Limits(
            ranks=step.ranks,
            kv=max(step.kv_blocks * plan.engine.block_size, stats.longest),
            tokens=step.max_tokens,
            sequences=min(plan.engine.max_seqs, step.max_seqs),
        )

    # ------------------------------------------------------------ a request alone

    @cached_property
    def _chunk_ps(self) -> IntArray:
        """[c] least time of an iteration with c tokens of a prompt through all stages, its pairs left out."""
        step, n = self.step, self.step.max_tokens + 1
        through = step.local_ps.sum(0) + step.shared_ps[:, :n].sum(0) + step.send_ps[:, :n].sum(0)
        result: IntArray = through + int(step.prefill_launch_ps.sum()) + int(step.head_ps[1])
        return result

    @cached_property
    def prompt_ps(self) -> IntArray:
        """[x] least time from the start of a prompt of x tokens to the first token.

        Proof: an iteration with c tokens of the prompt takes at least local[c] + shared[c] + launch + the
        chunk in every stage. A chunk costs at least G[x + c] - G[x], which telescopes to G[x] over the
        prompt; the rest is ``relaxations.prompt_floor``.
        """
        longest = self.stats.longest
        own = self.step.prefill_ps[:, : longest + 1].sum(0)
        result: IntArray = rx.prompt_floor(self._chunk_ps, longest, self.step.chunkable) + own - own[0]
        return result

    @cached_property
    def decode_ps(self) -> IntArray:
        """[c] least time of a decode that reads c tokens, through all stages."""
        step = self.step
        most = min(self.limits.sequences, self.limits.tokens) + 1
        alone = step.local_ps.sum(0)[:most] + step.shared_ps.sum(0)[:most] + step.head_ps[:most]
        alone += step.send_ps.sum(0)[:most]
        return self._decode_floor(alone, step.decode_value_ps.sum(0), step.decode_slope_ps.sum(0))

    def _decode_floor(self, alone: IntArray, value: IntArray, slope: IntArray) -> IntArray:
        smallest, longest = self.stats.smallest, self.stats.longest
        result: IntArray = rx.decode_floor(alone, value, slope, self.step.knots, smallest, longest)
        return result

    @cached_property
    def _event_ps(self) -> IntArray:
        """[c] cumulated: least time of later tokens that read up to c, each decoded or recomputed."""
        return np.cumsum(np.minimum(self.decode_ps, self.prompt_ps))

    @cached_property
    def ttft_ps(self) -> IntArray:
        """Least time from arrival to first token of each request."""
        result: IntArray = self.prompt_ps[self.stats.prompt]
        return result

    @cached_property
    def decoding_ps(self) -> IntArray:
        """Least time from first to last token of each request."""
        result: IntArray = self._event_ps[self.stats.last] - self._event_ps[self.stats.prompt]
        return result

    @cached_property
    def e2e_ps(self) -> IntArray:
        """Least time from arrival to last token of each request."""
        return self.ttft_ps + self.decoding_ps

    # ------------------------------------------------------------ the trace on one machine

    @cached_property
    def _stages(self) -> list[tuple[int, int, int]]:
        """Stages that differ, each with the least time of an iteration before and after it."""
        step = self.step
        shortest = [int(v) for v in step.local_ps[:, 1] + step.shared_ps[:, 1]]
        shortest[-1] += int(step.head_ps[1])
        sends = [int(v) for v in step.send_ps[:, 1]]
        tables = (step.local_ps, step.shared_ps, step.prefill_ps, step.prefill_launch_ps,
                  step.decode_value_ps, step.decode_slope_ps)  # fmt: skip
        kept: list[int] = []
        for p in range(step.stages):
            if p == step.stages - 1 or not any(all(np.array_equal(t[p], t[q]) for t in tables) for q in kept):
                kept.append(p)
        return [
            (p, sum(shortest[:p]) + sum(sends[:p]), sum(shortest[p + 1 :]) + sum(sends[p:])) for p in kept
        ]

    def _stage_shares(self, p: int) -> ShareMaker:
        step = self.step
        own = step.prefill_ps[p, : self.stats.longest + 1]
        tables = Tables(
            scale=1 / step.ranks,
            local=step.local_ps[p],
            shared=step.shared_ps[p],
            head=step.head_ps if p == step.stages - 1 else np.zeros(2, np.int64),
            value=step.decode_value_ps[p],
            slope=step.decode_slope_ps[p],
            knots=step.knots,
            launch=int(step.prefill_launch_ps[p]),
            prompt=(own - own[0]).astype(np.float64),
        )
        return ShareMaker(tables, self.limits, self.stats)

    @cached_property
    def machines(self) -> list[Machine]:
        """Relaxations of the whole trace.

        Per stage (F4) four ways to split constants. Two more hold for all iterations in flight together:
        KV memory x time, and places for sequences x time, of which a request fills one for as long as its
        iterations last, out of stages * ranks * max_seqs.
        """
        step, stats, limits = self.step, self.stats, self.limits
        found = []
        for p, lead, tail in self._stages:
            maker = self._stage_shares(p)
            for by in ShareMaker.SPLITS:
                shares = maker.split(by)
                found.append(
                    Machine(
                        name=f"work of stage {p + 1}, iterations counted by {by}",
                        work=shares.work(stats),
                        prompts=shares.prompt[stats.prompt],
                        lead=lead,
                        tail=tail,
                        stage=p,
                        shares=shares,
                    )
                )
        area = self._area
        found.append(
            Machine(name="KV memory x time", work=area.work(stats), prompts=area.prompt[stats.prompt])
        )
        places = step.stages * limits.ranks * limits.sequences
        found.append(
            Machine(name="places x time", work=self.e2e_ps // places, prompts=self.ttft_ps // places)
        )
        return found

    @cached_property
    def _area(self) -> Shares:
        """KV tokens x time over capacity, per event.

        Proof: a decode holds c tokens for its whole iteration. A prompt or recomputation of c tokens holds
        them in its last iteration, and what it has so far while each chunk c_j runs, at least rho c_j long
        with rho the least time per token: together at least rho c^2 / 2.
        """
        c = np.arange(self.stats.longest + 1, dtype=np.float64)
        capacity = float(self.limits.kv * self.limits.ranks)
        rho = float((self._chunk_ps[1:] / np.arange(1, len(self._chunk_ps))).min())
        prompt = c * np.maximum(float(self._chunk_ps[1]), rho * c / 2)
        decode = np.minimum(c * self.decode_ps, prompt)
        return Shares(
            prompt=rx.floor_int(prompt / capacity), decode=rx.floor_int(decode / capacity), constant=0
        )

    @cached_property
    def ends_s(self) -> dict[str, float]:
        """Least time from 0 to the last token by relaxation, seconds."""
        stats = self.stats
        result = {"unloaded": int((stats.arrival + self.e2e_ps).max())}
        for machine in self.machines:
            constant = machine.shares.constant if machine.shares else 0
            result[machine.name] = machine.tail + rx.latest_end(
                stats.arrival + machine.lead, machine.work, self.plan.replicas, constant * stats.most_output
            )
        return {name: end * SAFE / PS for name, end in result.items()}

    @cached_property
    def makespans_s(self) -> dict[str, float]:
        """Least time from the first arrival to the last token by relaxation, seconds."""
        first = int(self.stats.arrival[0]) / PS
        return {name: max(0.0, end - first) for name, end in self.ends_s.items()}

    def flows_s(self, prompts: bool) -> dict[str, float]:
        """Least mean time from arrival to last token (``prompts``: to first token) by relaxation, seconds."""
        stats, n = self.stats, len(self.stats)
        result = {"unloaded": float((self.ttft_ps if prompts else self.e2e_ps).mean())}
        jobs = [(m, m.prompts if prompts else m.work) for m in self.machines]
        jobs.sort(key=lambda job: -float(job[1].sum()))
        for machine, work in jobs[:2]:
            flow = rx.srpt_flow(stats.arrival + machine.lead, work // self.plan.replicas)
            result[f"{machine.name}, shortest remaining first"] = flow / n + machine.lead + machine.tail
        machine, work = next(job for job in jobs if job[0].shares)
        busy = rx.mean_busy_flow(stats.arrival + machine.lead, work // self.plan.replicas)
        lag = self._lag(machine, work, prompts)
        result[f"{machine.name}, mean busy time"] = (busy + lag) / n + machine.lead
        return {name: value * SAFE / PS for name, value in result.items()}

    def _lag(self, machine: Machine, work: IntArray, prompts: bool) -> float:
        """Least sum over requests of (last or first token) - (mean time of its work on the stage), in ps.

        Proof: spread each share evenly over its iteration in the stage: the total rate stays at or below 1.
        Its mean time is then half that iteration, and ``tail``, before the event's token, and all later
        events follow one another (F1). A recomputation's share, spread over its chunks, is on average at
        least half of that share before its end, because no chunk is shorter than its share.
        """
        shares, stats, step, p = machine.shares, self.stats, self.step, machine.stage
        assert shares is not None
        first = shares.prompt[stats.prompt].astype(np.float64)
        if prompts:
            return float((first / 2 + machine.tail).sum())
        most = min(self.limits.sequences, self.limits.tokens) + 1
        alone = step.local_ps[p, :most] + step.shared_ps[p, :most]
        if p == step.stages - 1:
            alone = alone + step.head_ps[:most]
        own = self._decode_floor(alone, step.decode_value_ps[p], step.decode_slope_ps[p])
        until_token = np.minimum(own, shares.prompt) / 2 + machine.tail

        done = self._event_ps.astype(np.float64)
        share = shares.decode.astype(np.float64)
        amount, moment = np.cumsum(share), np.cumsum(share * (until_token - done))
        begin, end = stats.prompt, stats.last
        total = (amount[end] - amount[begin]) * done[end] + moment[end] - moment[begin]
        total += first * (first / 2 + machine.tail + done[end] - done[begin])
        # Prefix sums over the contexts lose at most this much to rounding.
        total -= (
            4 * np.finfo(np.float64).eps * len(share) * float(np.cumsum(share * (until_token + done))[-1])
        )
        return float((np.maximum(total, 0) / np.maximum(work, 1)).sum())

    # ------------------------------------------------------------ energy

    @cached_property
    def energy_j(self) -> dict[str, float]:
        """Least joules by how the constants of iterations are split, idle power until the end included."""
        step, stats = self.step, self.stats
        tables = Tables(
            scale=1.0,
            local=step.local_nj.sum(0),
            shared=_add(step.shared_nj.sum(0), step.send_nj.sum(0)),
            head=step.head_nj,
            value=step.decode_value_nj.sum(0),
            slope=step.decode_slope_nj.sum(0),
            knots=step.knots,
            launch=int(step.prefill_launch_nj.sum()),
            prompt=self._prompt_nj,
        )
        maker = ShareMaker(tables, self.limits, stats)
        idle = step.idle_w * self.plan.replicas * max(self.ends_s.values())
        result = {}
        for by in ShareMaker.SPLITS:
            shares = maker.split(by)
            extra = float(shares.work(stats).sum()) + shares.constant * float(stats.most_output[0])
            result[f"idle power and work, iterations counted by {by}"] = idle + extra * SAFE * 1e-9
        return result

    @cached_property
    def _prompt_nj(self) -> FloatArray:
        """[x] least energy of the chunks of a prompt of x tokens, above launch and dense work.

        Proof: a chunk of c after x costs E[c] where G[c] >= G[x + c] - G[x], else E[x + c] - E[x]. With kappa
        the least energy per time of any token, both are at least kappa (G[x + c] - G[x]), which
        telescopes; with epsilon the least energy of any token, both are at least epsilon c.
        """
        longest = self.stats.longest
        total = np.zeros(longest + 1)
        for time, energy in zip(self.step.prefill_ps, self.step.prefill_nj, strict=True):
            ps, nj = np.diff(time[: longest + 1]), np.diff(energy[: longest + 1])
            kappa = float((nj[ps > 0] / ps[ps > 0]).min()) if (ps > 0).any() else 0.0
            by_time = kappa * (time[: longest + 1] - time[0])
            total += np.maximum(by_time, float(nj.min()) * np.arange(longest + 1))
        return total

    # ------------------------------------------------------------ objectives

    def bound(
        self, objective: str, *, slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0
    ) -> PlanBound:
        """The best bound on ``objective``; see ``plan_bound``."""
        upper = objective in MAXIMIZED
        values = self._values(objective, slo_s or {}, device_usd_per_s)
        name = (min if upper else max)(values, key=values.__getitem__)
        return PlanBound(objective=objective, value=values[name], name=name, others=values)

    def _values(
        self, objective: str, slo_s: Mapping[str, float], device_usd_per_s: float
    ) -> dict[str, float]:
        stats = self.stats
        if objective in ("latency", "ttft"):
            return self.flows_s(prompts=objective == "ttft")
        if objective == "itl":
            return {"unloaded": float(self.decoding_ps.sum()) / max(1, stats.decodes) * SAFE / PS}
        if objective == "makespan":
            return self.makespans_s
        if objective == "energy":
            return self.energy_j
        if objective == "cost":
            rate = device_usd_per_s * self.plan.devices
            return {name: rate * seconds for name, seconds in self.makespans_s.items()}
        if objective in MAXIMIZED:
            served = stats.events if objective == "throughput" else self._within(slo_s)
            return {name: served / max(s, 1 / PS) / SAFE for name, s in self.makespans_s.items()}
        if objective == "tpot":
            values = self._metric_s("tpot")
            return {"unloaded": float(values.mean()) * SAFE if len(values) else 0.0}
        percentile = re.fullmatch(r"p(\d+(?:\.\d+)?)-(ttft|tpot|e2e)", objective)
        if percentile is None:
            raise ValueError(f"Unknown objective {objective!r}.")
        values = self._metric_s(percentile[2])
        return {"unloaded": float(np.percentile(values, float(percentile[1]))) * SAFE if len(values) else 0.0}

    def _metric_s(self, metric: str) -> FloatArray:
        """Least value of a request metric, of the requests that have it."""
        if metric == "tpot":
            several = self.stats.several
            return self.decoding_ps[several] / (self.stats.output[several] - 1) / PS
        return (self.ttft_ps if metric == "ttft" else self.e2e_ps) / PS

    def _within(self, slo_s: Mapping[str, float]) -> int:
        """Requests that can be within every limit; one that cannot when it is alone never can."""
        fine = np.ones(len(self.stats), bool)
        for metric, limit in slo_s.items():
            rows = self.stats.several if metric == "tpot" else slice(None)
            fine[rows] &= self._metric_s(metric) * SAFE <= limit
        return int(fine.sum())


def _add(a: IntArray, b: IntArray) -> IntArray:
    """Sum of two tables of which the second may be empty."""
    return a + b if len(b) else a


def plan_bounds(
    step: StepCost, plan: Plan, trace: Trace | TraceStats, objectives: Iterable[str], *,
    slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0,
) -> dict[str, PlanBound]:  # fmt: skip
    """Bounds of one plan on several objectives, what they share computed once.

    Parameters
    ----------
    objectives
        Of ``OBJECTIVES``, or a percentile such as ``p99-e2e``.
    slo_s
        For goodput: most seconds by request metric (``ttft``, ``tpot``, ``e2e``).
    device_usd_per_s
        For cost: price of one device second.
    """
    stats = trace if isinstance(trace, TraceStats) else TraceStats(trace)
    bounds = PlanBounds(step, plan, stats)
    return {o: bounds.bound(o, slo_s=slo_s, device_usd_per_s=device_usd_per_s) for o in objectives}


def plan_bound(
    step: StepCost, plan: Plan, trace: Trace | TraceStats, objective: str, *,
    slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0,
) -> PlanBound:  # fmt: skip
    """Bound of one plan on one objective; arguments as in ``plan_bounds``."""
    return plan_bounds(
        step, plan, trace, (objective,), slo_s=slo_s, device_usd_per_s=device_usd_per_s
    )[objective]  # fmt: skip
