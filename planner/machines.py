"""Serving a whole trace, relaxed to jobs on one machine; ``planner.bounds`` states the facts F1 to F4."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from formulations import hulls
from formulations import relaxations as rx
from formulations.hulls import FloatArray, IntArray
from planner.alone import Alone
from planner.busy_energy import Flight
from planner.shares import Limits, ShareMaker, Shares, Tables, TraceStats
from profiles.stepcost import StepCost

PRICES = np.linspace(0.0, 1.0, 6)
"""Of time before the longest answer comes, that after it being 1."""


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


class Machines:
    """The one-machine relaxations of one replica's stages; with R replicas the machine has speed R."""

    def __init__(self, step: StepCost, limits: Limits, stats: TraceStats, alone: Alone) -> None:
        self.step, self.limits, self.stats, self.alone = step, limits, stats, alone

    @cached_property
    def _twins(self) -> list[int]:
        """For each stage the first with the same tables."""
        step, twins = self.step, []
        tables = (step.local_ps, step.shared_ps, step.prefill_ps, step.prefill_launch_ps,
                  step.decode_value_ps, step.decode_slope_ps)  # fmt: skip
        for p in range(step.stages):
            same = (q for q in range(p) if all(np.array_equal(t[p], t[q]) for t in tables))
            twins.append(p if p == step.stages - 1 else next(same, p))
        return twins

    @cached_property
    def _stages(self) -> list[tuple[int, int, int]]:
        """Stages that differ, each with the least time of an iteration before and after it."""
        step = self.step
        shortest = [int(v) for v in step.local_ps[:, 1] + step.shared_ps[:, 1]]
        shortest[-1] += int(step.head_ps[1])
        sends = [int(v) for v in step.send_ps[:, 1]]
        return [
            (p, sum(shortest[:p]) + sum(sends[:p]), sum(shortest[p + 1 :]) + sum(sends[p:]))
            for p in sorted(set(self._twins))
        ]

    @cached_property
    def _makers(self) -> dict[int, ShareMaker]:
        return {p: self._maker(p) for p, _, _ in self._stages}

    def _maker(self, p: int, *, launch: bool = True) -> ShareMaker:
        step = self.step
        own = step.prefill_ps[p, : self.stats.longest + 1]
        tables = Tables(
            scale=1 / step.ranks,
            local=step.local_ps[p].astype(np.float64),
            shared=step.shared_ps[p].astype(np.float64),
            head=step.head_ps.astype(np.float64) * (p == step.stages - 1),
            value=step.decode_value_ps[p].astype(np.float64),
            slope=step.decode_slope_ps[p].astype(np.float64),
            knots=step.knots,
            launch=int(step.prefill_launch_ps[p]) * launch,
            prompt=(own - own[0]).astype(np.float64),
        )
        return ShareMaker(tables, self.limits, self.stats)

    @cached_property
    def all(self) -> list[Machine]:
        """Relaxations of the whole trace.

        Per stage (F4) three ways to split constants. Two more hold for all iterations in flight together:
        KV memory x time, and places for sequences x time, of which a request fills one for as long as its
        iterations last, out of stages * ranks * max_seqs.
        """
        step, stats, limits = self.step, self.stats, self.limits
        found = []
        for p, lead, tail in self._stages:
            maker = self._makers[p]
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
            Machine(
                name="places x time", work=self.alone.e2e_ps // places, prompts=self.alone.ttft_ps // places
            )
        )
        return found

    def prompt_area(self) -> FloatArray:
        """[x] KV tokens x time of a prompt of x tokens, or of computing them again: see ``_area``."""
        c = np.arange(self.stats.longest + 1, dtype=np.float64)
        rho = float((self.alone.chunk_ps[1:] / np.arange(1, len(self.alone.chunk_ps))).min())
        area: FloatArray = c * np.maximum(float(self.alone.chunk_ps[1]), rho * c / 2)
        return area

    def busiest_stage(self) -> tuple[int, int]:
        """The stage with the most work, and the least time that an iteration spends elsewhere."""
        p = self.busiest().stage
        return p, next(lead + tail for q, lead, tail in self._stages if q == p)

    def whole(self, stage: int, rounds: float) -> Shares:
        """Shares of a stage with the constant of an iteration left whole (``ShareMaker.whole``)."""
        return self._makers[stage].whole(rounds)

    @cached_property
    def _area(self) -> Shares:
        """KV tokens x time over capacity, per event.

        Proof: a decode holds c tokens for its whole iteration. A prompt or recomputation of c tokens holds
        them in its last iteration, and what it has so far while each chunk c_j runs, at least rho c_j long
        with rho the least time per token: together at least rho c^2 / 2.
        """
        c = np.arange(self.stats.longest + 1, dtype=np.float64)
        capacity = float(self.limits.kv * self.limits.ranks)
        prompt = self.prompt_area()
        decode = np.minimum(c * self.alone.decode_ps, prompt)
        return Shares(
            prompt=hulls.floor_int(prompt / capacity), decode=hulls.floor_int(decode / capacity), constant=0
        )

    def lag_ps(self, machine: Machine, work: IntArray, prompts: bool) -> float:
        """Least sum over requests of (last or first token) - (mean time of its work on the stage), in ps.

        Proof: spread each share evenly over its iteration in the stage: the total rate stays at or below 1.
        Its mean time is then half that iteration, and ``tail``, before the event's token, and all later
        events follow one another (F1). A recomputation's share, spread over its chunks, is on average at
        least half of that share before its end, because no chunk is shorter than its share.
        """
        shares, stats = machine.shares, self.stats
        assert shares is not None
        first = shares.prompt[stats.prompt].astype(np.float64)
        if prompts:
            return float((first / 2 + machine.tail).sum())
        own = self.alone.stage_decode_ps(machine.stage)
        until_token = np.minimum(own, shares.prompt) / 2 + machine.tail

        done = self.alone.event_ps.astype(np.float64)
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

    def busiest(self) -> Machine:
        """The stage and split with the most work."""
        return max((m for m in self.all if m.shares), key=lambda m: m.work.sum(dtype=float))

    def flights(self, replicas: int, ends: FloatArray) -> list[Flight]:
        """Least times that iterations take in all stages and between them, summed over iterations, by how much of their
        launches is left out. ``ends``: [k] earliest time at which requests 0 to k can be done.

        Proof. Whoever does not idle has something in flight from when request k arrives to ``ends`` [k]: until the next
        one comes at least for ``flown`` [k]. And iterations take at least the work of all stages.
        """
        arrival = self.stats.arrival.astype(np.float64)
        flown = np.maximum(np.minimum(ends, np.append(arrival[1:], np.inf)) - arrival, 0)
        most = {p: 0.0 for p, _, _ in self._stages}
        for machine in self.all:
            if machine.shares:
                most[machine.stage] = max(most[machine.stage], machine.work.sum(dtype=float))
        least = max(float(flown.sum()), sum(most[p] for p in self._twins))
        found = [Flight(time_ps=least, launches=((len(arrival), 1.0),))]
        if replicas == self.step.stages == self.limits.ranks == 1 and self.step.prefill_launch_ps[0]:
            found.append(self._relaunched(flown))
        return found

    def _relaunched(self, flown: FloatArray) -> Flight:
        """The flight that leaves out of launches as much as each moment before the arrival of some l is worth, and all
        after it; best when each prompt pays what is left of one.

        Proof. With prices of time as in ``relaxations.ends``, and work without launches: time in flight less launches,
        times its price before l arrives and all of it afterwards, pays at least for early[i] of all i < l, the work
        of the others, and the chain of l. Besides there is (1 - price) of the time in flight before l arrives, at least
        that of ``flown``. Together that is the time in flight, less price x each launch before l arrives, and less
        all launches afterwards.
        """
        stats, launch = self.stats, float(self.step.prefill_launch_ps[0])
        maker = self._maker(0, launch=False)
        shares = maker.whole(self._rounds[0])
        left = np.cumsum(shares.work(stats)[::-1], dtype=np.float64)[::-1]
        worth = shares.early(stats, maker.theta, PRICES) + (1 - PRICES) * (flown - launch)[:, None]
        best, used = rx.stairs(worth[:-1])
        total = best + left + shares.chain(stats)
        last = int(np.argmax(total))
        launches = [(int(n), 1 - float(price)) for n, price in zip(used[last], PRICES, strict=True)]
        time = float(total[last]) + launch * sum(n * part for n, part in launches)
        return Flight(time_ps=time, launches=(*launches, (len(stats) - last, 0.0)))

    def ends_ps(self, replicas: int) -> dict[str, FloatArray]:
        """[k] earliest time at which requests 0 to k can be done, by relaxation.

        Longest answer: the iterations of one request pay their constants (F1), besides everyone's own work. As it has
        none before it arrives, those that others have by then pay theirs, too: time is worth less by then.
        """
        stats = self.stats
        found = {"unloaded": np.maximum.accumulate(stats.arrival + self.alone.e2e_ps).astype(np.float64)}
        for machine in self.all:
            found[machine.name] = machine.tail + rx.ends(stats.arrival + machine.lead, machine.work, replicas)
        found["work and the longest answer"] = np.maximum.reduce(
            [
                tail + rx.ends(
                    stats.arrival + lead, shares.work(stats), replicas, chain=shares.chain(stats),
                    early=shares.early(stats, self.theta(p), PRICES), prices=PRICES,
                )
                for (p, lead, tail), shares in self.chained
            ]
        )  # fmt: skip
        return found

    @property
    def _rounds(self) -> tuple[float, float]:
        """Iterations of the longest answer, and with those that all answers fill."""
        longest = float(self.stats.most_output)
        return longest, longest + self.stats.decodes / self.limits.sequences

    @cached_property
    def chained(self) -> list[tuple[tuple[int, int, int], Shares]]:
        """Stages with shares whose constants stay whole; the lines suit either of ``_rounds``."""
        return [
            (stage, self._makers[stage[0]].whole(rounds))
            for stage, rounds in product(self._stages, self._rounds)
        ]

    def theta(self, stage: int) -> FloatArray | float:
        """[c] part of an iteration's constants in a stage that a decode pays which reads c tokens."""
        return self._makers[stage].theta / self.limits.ranks

    def priced_flow_ps(self, replicas: int, until: IntArray) -> float:
        """Best bound found on the sum of E2E by pricing time of the busiest stage before one of ``until``.

        The lines below the tables suit iterations as long as a lone decode, or three times that.
        """
        stats, alone, p = self.stats, self.alone, self.busiest().stage
        own = alone.stage_decode_ps(p)
        elsewhere = next(lead + tail for q, lead, tail in self._stages if q == p)
        if stats.decodes == 0:
            return 0.0
        step_ps = max(1, int(own[(stats.smallest + stats.longest) // 2]))
        best = 0.0
        for end in until:
            span = float(end - stats.arrival[0]) * replicas
            for pace in (1.0, 3.0):
                shares = self._makers[p].whole(span / (pace * step_ps))

                def value(log_price: float, shares: Shares = shares, end: int = int(end)) -> float:
                    return rx.priced_flow(
                        2.0**log_price, end, replicas, shares.constant + shares.decoding, stats.arrival,
                        stats.prompt, stats.last, alone.e2e_ps, alone.prompt_ps, shares.prompt, own, shares.decode,
                        elsewhere,
                    )  # fmt: skip

                best = max(best, rx.peak(value, -4.0, 12.0, 9))
        return best
