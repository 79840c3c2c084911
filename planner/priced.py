"""A plan and a trace as the priced problem of ``formulations.lagrangian``, and prices for it.

What is sold is the time of the busiest stage of all replicas, KV memory x time of all ranks, and places for
sequences; ``planner.bounds`` states the facts F1 to F4 that make each a limit. Prices start from those that prove the
one-machine relaxation that always runs the shortest job; ``formulations.lagrangian.improve`` makes them better, then
once more with company besides. For the mean of ends the same is done with prices of crowds, on finer buckets, as they
need less time; whichever of the two is far behind is left without company. The best counts. Nothing is random.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from formulations import lagrangian as lg
from formulations.hulls import FloatArray, IntArray
from formulations.relaxations import worth_of_time
from planner.machines import Machine, Machines
from planner.shares import SAFE
from profiles.stepcost import PS

PACES = (1.0, 3.0, 6.0)
"""How many lone decodes long the iterations are that the lines below the tables suit."""

SCALES = (0.0, 0.5, 0.7, 0.85, 1.0, 1.25)
"""Parts of the first prices that are tried."""

PARTS = (0.25, 0.5, 1.0)
"""First prices of company that are tried, see ``formulations.lagrangian.with_company``."""

ROUNDS = (8, 10, 18)
"""Of looking for better prices, with company, and more of that where nothing else proves more."""

CROWD_ROUNDS = (6, 8, 16, 32, 48)
"""Of settling prices of crowds, of looking for better ones, with company, and more of that where it helps."""

BEHIND = 0.9
"""Part of what others prove that prices prove without company where that is worth looking for."""

SIZES = (0.5, 0.7, 1.0)
"""Parts of the mean prompt that are tried as the size of crowds: less where prompts are alike."""

GAIN = 3e-4
"""Part by which rounds prove more where it is worth looking further."""

MORE = 3.0
"""How often as many rounds there are at most where requests look ahead less than they may."""

MANY = 4000
"""Requests from which on fewer buckets, first prices and rounds have to do."""

BUCKETS, CROWD_BUCKETS = (40, 1000), 4000
"""Fewest and most; most for crowds."""

COARSE = 48
"""Buckets with which is found out how many there can be."""

PAIRS = (2e5, 5e5)
"""Pairs of buckets that all requests together may look at: of few requests, and of ``MANY``."""

LOOKS, LOOKS_EACH = (8e4, 6e5), 160.0
"""Buckets that all requests together may look at where crowds are priced, and each on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Least sum over requests in ps, and what proves it: ``prices`` and the pace of the lines below the tables."""

    value_ps: float
    prices: lg.Prices
    pace: float

    def record(self) -> dict[str, Any]:
        """For JSON: edges of buckets in seconds after the first arrival; prices by resource and bucket, in requests
        (seconds of delay per second) of machine time, per token of KV cache, and per sequence; of machine time that
        pays for crowds, with the size of prompts in them, or nothing; those of company by request, in the buckets from
        its arrival on."""
        prices = self.prices
        company = np.round(prices.company, 4)
        return {
            "pace": self.pace,
            "edges_s": [float(edge) / PS for edge in prices.edges],
            "machine": prices.machine.tolist(),
            "memory": prices.memory.tolist(),
            "place": prices.place.tolist(),
            "crowd": prices.crowd.tolist(),
            "crowd_size_s": (prices.size / PS).tolist(),
            "company": [own.tolist() for own in np.split(company, prices.offset[1:-1])]
            if len(company)
            else [],
        }


def prices_of(record: dict[str, Any]) -> tuple[lg.Prices, float]:
    """Prices and pace from what ``Priced.record`` wrote."""
    company = [np.array(own, np.float64) for own in record["company"]]
    return lg.Prices(
        edges=np.rint(np.array(record["edges_s"], np.float64) * PS),
        **{name: np.array(record[name], np.float64) for name in ("machine", "memory", "place")},
        crowd=np.array(record.get("crowd", []), np.float64),
        size=np.array(record.get("crowd_size_s", []), np.float64) * PS,
        company=np.concatenate([np.zeros(0), *company]),
        offset=np.cumsum([0, *map(len, company)], dtype=np.int64),
    ), float(record["pace"])


class Pricing:
    """The priced problems of one plan on one trace, for costs of ``before`` per unit of time before a request's first
    token and ``after`` per unit after it (per second, the same for all requests)."""

    def __init__(self, machines: Machines, replicas: int, *, end_ps: int) -> None:
        """``end_ps``: earliest end of all known so far, by which buckets are chosen."""
        self.machines, self.replicas, self.end_ps = machines, replicas, end_ps

    def requests(self, before: float, after: float, pace: float) -> lg.Requests:
        """The problem, with lines below the tables that suit iterations ``pace`` lone decodes long."""
        m = self.machines
        stats, alone, limits, step, n = m.stats, m.alone, m.limits, m.step, len(m.stats)
        stage, elsewhere = m.busiest_stage()
        shares = m.whole(stage, self._rounds(stage, pace))
        tokens, contexts = _stretches(stats.prompt, stats.last, after > 0)
        own = _rising(alone.stage_decode_ps(stage), stats.smallest)[contexts]
        share = _rising(shares.decode, stats.smallest)[contexts]
        constant = float(shares.constant)
        return lg.Requests(
            release=(stats.arrival - stats.arrival[0]).astype(np.float64),
            before=np.full(n, before),
            after=np.full(n, after),
            alone=before * alone.ttft_ps + (after * alone.decoding_ps if after else 0.0),
            prompt_time=alone.ttft_ps.astype(np.float64),
            prompt_share=shares.prompt[stats.prompt].astype(np.float64),
            prompt_area=m.prompt_area()[stats.prompt],
            prompt_tokens=stats.prompt.astype(np.float64),
            tokens=tokens,
            share=share,
            own=np.maximum(own, constant + float(shares.decoding) + share),
            context=contexts.astype(np.float64),
            again_share=_rising(shares.prompt, 0)[contexts],
            constant=constant,
            token_constant=constant + float(shares.decoding),
            rest=float(elsewhere),
            speed=float(self.replicas),
            room=float(self.replicas * limits.ranks * limits.kv),
            places=float(self.replicas * step.stages * limits.ranks * limits.sequences),
        )

    def best(self, before: float, after: float, *, effort: float = 1.0) -> Priced:
        """The best bound found; ``effort`` scales the rounds of looking for better prices."""
        n = len(self.machines.stats)
        many, ahead = n > MANY, self._ahead(before, after)
        pairs = min(200.0, PAIRS[many] / n)  # a pass takes as long as pairs of buckets do
        buckets = int(np.clip(pairs**0.5 * ahead * n, *BUCKETS))
        edges = self._edges(buckets, buckets // 2)
        first = self._first(edges, before, after)
        found: list[tuple[float, float, lg.Prices]] = []

        def look(pace: float, prices: lg.Prices) -> None:
            found.append((lg.evaluate(self.requests(before, after, pace), prices), pace, prices))

        def best() -> tuple[float, float, lg.Prices]:
            return max(found, key=lambda entry: entry[0])

        for scale in SCALES[2::2] if many else SCALES:
            look(PACES[1], self._with_crumbs(edges, scale * first))
        for pace in PACES[::2]:
            look(pace, best()[2])
        _, pace, prices = best()
        problem = self.requests(before, after, pace)
        alone, *company = self._rounds_of(ROUNDS, effort)
        value, prices = lg.improve(problem, prices, rounds=alone)
        found.append((value, pace, prices))
        if before == after:
            found += self._crowded(before, effort, ahead, BEHIND * best()[0])
        if after > 0 and value >= BEHIND * best()[0]:
            starts = [lg.with_company(problem, prices, part) for part in PARTS]
            prices = max(starts, key=lambda each: lg.evaluate(problem, each))
            for rounds in company:
                value, prices = lg.improve(problem, prices, rounds=rounds)
                found.append((value, pace, prices))
                if value < best()[0]:  # others prove more
                    break
        value, pace, prices = best()
        # Evaluated as whoever reads the record will.
        prices, _ = prices_of(Priced(value_ps=value, prices=prices, pace=pace).record())
        return Priced(value_ps=self.evaluate(prices, pace, before, after), prices=prices, pace=pace)

    def _crowded(
        self, weight: float, effort: float, ahead: float, worth: float
    ) -> list[tuple[float, float, lg.Prices]]:
        """Prices of crowds, and with company if without they prove as much as is ``worth`` it; ``ahead`` as ``_ahead``
        has it."""
        n = len(self.machines.stats)
        affordable = ahead * min(LOOKS[n > MANY], LOOKS_EACH * n)
        buckets = int(np.clip(affordable, BUCKETS[0], CROWD_BUCKETS))
        edges = self._edges(buckets, n if buckets >= 2 * n else 0)
        effort *= float(np.clip(affordable / CROWD_BUCKETS, 1.0, MORE))
        problem = self.requests(weight, weight, PACES[1])
        tokens = problem.tokens.sum(axis=1)
        size = float((tokens * problem.prompt_share).sum() / max(1.0, tokens.sum()))
        first, starts = self._first(edges, weight, weight), []
        for scale in (0.7, 1.0):
            prices = self._with_crumbs(edges, scale * first)
            free = np.zeros_like(first)
            starts.append(replace(prices, machine=free, crowd=prices.machine, size=free + size))
        settle, alone, *company = self._rounds_of(CROWD_ROUNDS, effort)
        start = max(starts, key=lambda each: lg.improve(problem, each, rounds=1)[0])
        _, start = lg.settle(problem, start, rounds=settle)
        sizes = (replace(start, size=start.size * part) for part in SIZES)
        start = max(sizes, key=lambda each: lg.improve(problem, each, rounds=1)[0])
        _, prices = lg.improve(problem, start, rounds=alone)

        def paces(prices: lg.Prices) -> list[tuple[float, float, lg.Prices]]:
            problems = ((pace, self.requests(weight, weight, pace)) for pace in PACES)
            return [(lg.improve(each, prices, rounds=1)[0], pace, prices) for pace, each in problems]

        found = paces(prices)
        value, pace, _ = max(found, key=lambda entry: entry[0])
        if value < worth:
            return found
        problem = self.requests(weight, weight, pace)
        beside = (lg.improve(problem, lg.with_company(problem, prices, part), rounds=1) for part in PARTS)
        _, start = max(beside, key=lambda entry: entry[0])
        for rounds in company:
            before, (value, start) = value, lg.improve(problem, start, rounds=rounds)
            if value > before:
                prices = start
            if value < (1 + GAIN) * before:
                break
        return paces(prices)

    def evaluate(self, prices: lg.Prices, pace: float, before: float, after: float) -> float:
        """The bound of any prices in ps: one pass over the requests."""
        return lg.evaluate(self.requests(before, after, pace), prices) * SAFE

    def _rounds_of(self, rounds: tuple[int, ...], effort: float) -> list[int]:
        """Fewer for many requests."""
        many = len(self.machines.stats) > MANY
        return [max(1, round(effort * r / (1 + 3 * many))) for r in rounds]

    def _rounds(self, stage: int, pace: float) -> float:
        m = self.machines
        own = m.alone.stage_decode_ps(stage)
        lone = max(1, int(own[(m.stats.smallest + m.stats.longest) // 2])) if m.stats.decodes else 0
        lone = lone or int(m.alone.ttft_ps.min())
        return float(self.end_ps - m.stats.arrival[0]) * self.replicas / (pace * max(1, lone))

    def _ahead(self, before: float, after: float) -> float:
        """The time of all buckets over what requests look ahead, which they do until time alone costs as much as their
        best answer; over their number."""
        n = len(self.machines.stats)
        edges = self._edges(COARSE, COARSE // 2)
        prices = self._with_crumbs(edges, self._first(edges, before, after))
        problem = self.requests(before, after, PACES[1])
        cost = (lg.evaluate(problem, prices) + prices.charged(problem)) / n / (after or before)
        return float(edges[-1] / max(cost, 1.0) / n)

    def _edges(self, buckets: int, arrivals: int) -> FloatArray:
        """So many of them begin with arrivals, every so many of these, the others are equally long; past the earliest
        end of all."""
        stats, alone = self.machines.stats, self.machines.alone
        release = (stats.arrival - stats.arrival[0]).astype(np.float64)
        end = float(self.end_ps - stats.arrival[0])
        horizon = np.rint(max(1.3 * end, end + 5 * float(alone.e2e_ps.mean())))
        marks = np.unique(np.quantile(release, np.linspace(0, 1, arrivals)))
        marks = np.concatenate([marks, np.linspace(0, horizon, buckets - len(marks) + 1)])
        edges = np.unique(np.rint(marks))
        _, first = np.unique((edges / max(1e-4 * horizon, 1.0)).astype(np.int64), return_index=True)
        kept = edges[first]
        kept[-1] = horizon
        return kept if len(kept) > 1 else np.array([0.0, max(1.0, horizon)])

    def _first(self, edges: FloatArray, before: float, after: float) -> FloatArray:
        machine: Machine = self.machines.busiest()
        work = np.maximum((machine.work if after else machine.prompts) // self.replicas, 1)
        release = self.machines.stats.arrival - self.machines.stats.arrival[0]
        return worth_of_time(release, work, edges) * (after or before)

    def _with_crumbs(self, edges: FloatArray, machine: FloatArray) -> lg.Prices:
        """Steps are in proportion to prices, so that none may start at nothing."""
        limits, stages = self.machines.limits, self.machines.step.stages
        machine = machine + 1e-3 * max(float(machine.mean()), 1e-3)
        return lg.Prices(
            edges=edges,
            machine=machine,
            memory=machine * 1e-3 / (limits.ranks * limits.kv),
            place=machine * 1e-2 / (stages * limits.ranks * limits.sequences),
        )


def _stretches(prompt: IntArray, last: IntArray, wanted: bool) -> tuple[FloatArray, IntArray]:
    """[n, S] tokens of equal stretches of each request, and the context of the first token of each; one stretch where
    there are few tokens, none where they are not ``wanted``."""
    later = (last - prompt) * wanted
    bounds = later[:, None] * np.arange(lg.SEGMENTS + 1) // lg.SEGMENTS
    few = later < 8 * lg.SEGMENTS
    bounds[few, 1:] = later[few, None]
    contexts = np.minimum(prompt[:, None] + bounds[:, :-1] + 1, int(last.max()))
    return np.diff(bounds, axis=1).astype(np.float64), contexts


def _rising(table: IntArray, smallest: int) -> FloatArray:
    """Least of each entry and all after it, from ``smallest`` on: what tokens of this context or more cost."""
    least: FloatArray = np.minimum.accumulate(table[::-1])[::-1].astype(np.float64)
    least[:smallest] = least[min(smallest, len(least) - 1)]
    return least
