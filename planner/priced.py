"""A plan and a trace as the priced problem of ``formulations.lagrangian``, and prices for it.

What is sold is the time of the busiest stage of all replicas, KV memory x time of all ranks, and places for
sequences; ``planner.bounds`` states the facts F1 to F4 that make each a limit. Prices start from the schedule of the
one-machine relaxation that always runs the shortest job: machine time is worth as many jobs as are done from then
until the machine is next idle. Then ``formulations.lagrangian.improve`` takes over. Nothing is random.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from formulations import lagrangian as lg
from formulations.hulls import FloatArray, IntArray
from formulations.relaxations import worth_of_time
from planner.machines import Machine, Machines
from planner.shares import SAFE
from profiles.stepcost import PS

PACES = (1.0, 3.0)
"""How many lone decodes long the iterations are that the lines below the tables suit."""

SCALES = (0.03, 0.12, 0.25, 0.5, 1.0)
"""Parts of the first prices that are tried."""

ROUNDS = 20
"""Of looking for better prices."""

BUCKETS = (24, 1000)
"""Fewest and most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Least sum over requests in ps, and what proves it: ``prices`` and the pace of the lines below the tables."""

    value_ps: float
    prices: lg.Prices
    pace: float

    def record(self) -> dict[str, Any]:
        """For JSON: edges of buckets in seconds after the first arrival; prices by resource and bucket, in requests
        (seconds of delay per second) of machine time, per token of KV cache, and per sequence."""
        prices = self.prices
        return {
            "pace": self.pace,
            "edges_s": [float(edge) / PS for edge in prices.edges],
            "machine": prices.machine.tolist(),
            "memory": prices.memory.tolist(),
            "place": prices.place.tolist(),
        }


def prices_of(record: dict[str, Any]) -> tuple[lg.Prices, float]:
    """Prices and pace from what ``Priced.record`` wrote."""
    return lg.Prices(
        edges=np.rint(np.array(record["edges_s"], np.float64) * PS),
        **{name: np.array(record[name], np.float64) for name in ("machine", "memory", "place")},
    ), float(record["pace"])


class Pricing:
    """The priced problems of one plan on one trace, for costs of ``before`` per unit of time before a request's first
    token and ``after`` per unit after it (per second, the same for all requests)."""

    def __init__(self, machines: Machines, replicas: int, *, end_ps: int, stay_ps: float) -> None:
        """``end_ps``, ``stay_ps``: earliest end of all, and least mean time from arrival to last token, known so far:
        buckets are chosen by them."""
        self.machines, self.replicas, self.end_ps, self.stay_ps = machines, replicas, end_ps, stay_ps

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
            own=np.maximum(own, constant + share),
            context=contexts.astype(np.float64),
            again_share=_rising(shares.prompt, 0)[contexts],
            constant=constant,
            rest=float(elsewhere),
            speed=float(self.replicas),
            room=float(self.replicas * limits.ranks * limits.kv),
            places=float(self.replicas * step.stages * limits.ranks * limits.sequences),
        )

    def best(self, before: float, after: float, *, effort: float = 1.0) -> Priced:
        """The best bound found; ``effort`` scales the rounds of looking for better prices."""
        n = len(self.machines.stats)
        edges = self._edges(self._buckets())
        first = self._first(edges, before, after)
        found: list[tuple[float, float, lg.Prices]] = []
        for pace in PACES[: 2 if n <= 4000 else 1]:
            problem = self.requests(before, after, pace)
            for scale in SCALES:
                prices = _with_crumbs(edges, scale * first, problem)
                found.append((lg.evaluate(problem, prices), pace, prices))
        value, pace, prices = max(found, key=lambda entry: entry[0])
        rounds = round(effort * ROUNDS)
        better, improved = lg.improve(self.requests(before, after, pace), prices, rounds=rounds)
        if better > value:
            value, prices = better, improved
        # Evaluated as whoever reads the record will.
        prices, _ = prices_of(Priced(value_ps=value, prices=prices, pace=pace).record())
        return Priced(value_ps=self.evaluate(prices, pace, before, after), prices=prices, pace=pace)

    def evaluate(self, prices: lg.Prices, pace: float, before: float, after: float) -> float:
        """The bound of any prices in ps: one pass over the requests."""
        return lg.evaluate(self.requests(before, after, pace), prices) * SAFE

    def _rounds(self, stage: int, pace: float) -> float:
        m = self.machines
        own = m.alone.stage_decode_ps(stage)
        lone = max(1, int(own[(m.stats.smallest + m.stats.longest) // 2])) if m.stats.decodes else 0
        lone = lone or int(m.alone.ttft_ps.min())
        return float(self.end_ps - m.stats.arrival[0]) * self.replicas / (pace * max(1, lone))

    def _buckets(self) -> int:
        """As many as a few seconds allow: a pass takes as long as pairs of buckets that requests stay in."""
        n = len(self.machines.stats)
        span = max(1.0, float(self.end_ps - self.machines.stats.arrival[0]))
        seen = min(1.0, 8 * self.stay_ps / span)  # what prices ask for counts as well
        pairs = min(4e4, (4e6 if n <= 4000 else 2e7) / n)
        return int(np.clip(pairs**0.5 / seen, *BUCKETS))

    def _edges(self, buckets: int) -> FloatArray:
        """Half of them equally long, half with equally many arrivals, past the earliest end of all."""
        stats, alone = self.machines.stats, self.machines.alone
        release = (stats.arrival - stats.arrival[0]).astype(np.float64)
        end = float(self.end_ps - stats.arrival[0])
        horizon = np.rint(max(1.3 * end, end + 5 * float(alone.e2e_ps.mean())))
        marks = [
            np.linspace(0, horizon, buckets // 2 + 1),
            np.quantile(release, np.linspace(0, 1, buckets // 2)),
        ]
        edges = np.unique(np.rint(np.concatenate(marks)))
        kept = edges[np.concatenate([[True], np.diff(edges) > 1e-4 * horizon])]
        kept[-1] = horizon
        return kept if len(kept) > 1 else np.array([0.0, max(1.0, horizon)])

    def _first(self, edges: FloatArray, before: float, after: float) -> FloatArray:
        machine: Machine = self.machines.busiest()
        work = np.maximum((machine.work if after else machine.prompts) // self.replicas, 1)
        release = self.machines.stats.arrival - self.machines.stats.arrival[0]
        return worth_of_time(release, work, edges) * (after or before)


def _with_crumbs(edges: FloatArray, machine: FloatArray, problem: lg.Requests) -> lg.Prices:
    """Steps are multiplicative, so that no price may start at nothing."""
    machine = machine + 1e-3 * max(float(machine.mean()), 1e-3)
    return lg.Prices(
        edges=edges,
        machine=machine,
        memory=machine * (1e-3 * problem.speed / problem.room),
        place=machine * (1e-2 * problem.speed / problem.places),
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
