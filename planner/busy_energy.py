"""The least energy of a replica that is never idle while a request is unfinished; ``planner.bounds`` states F1 to F4.

At light load a bound on work alone is far too low: an iteration of one token draws about what one of thirty does, and
how many share an iteration is limited by when they arrive, not by room. So a price P is set on busy time::

    energy = P busy + sum over iterations of (energy - P time)   for any P >= 0

and both terms are bounded from below: the time by the union of the requests' times alone, which a scheduler that does
not idle cannot shorten, and the *reduced cost* energy - P time of an iteration by shares of its events, which may be
negative, because every event happens exactly once:

    v + w (c - smallest)    a decode that reads c tokens, v and w of any sign
    alpha + q c + ...       a chunk of c tokens that completes a prompt (or a recomputation), alpha <= 0 <= q
    q c                     any other chunk

The best P is close to the power of a decode of one sequence, where lone decodes have no reduced cost at all.

The class is that of every policy of ``simulator.batching``, without swapping: it never idles while it could run
something (Law 2), cuts a prompt only to fill an iteration to its token budget, and preempts only for want of KV blocks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from formulations import hulls
from formulations.hulls import FloatArray, IntArray
from formulations.relaxations import peak
from planner.shares import Limits, Tables, TraceStats

POWERS = 14
"""Evaluations of the search for the best price of time."""

TRIED = np.linspace(0, 1, 9)
"""Quantiles of the slopes of dense work that are tried as the price of a prompt's token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Iterations take at least ``time_ps``, where a part of each launch is left out that does not fall with time.
    ``launches``: of so many requests at most that part of one counts, whenever they compute a prompt."""

    time_ps: float
    launches: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Least reduced cost by event, nJ: ``prompt[x]`` completes x tokens, ``decode[c]`` reads c; ``alphas``: what all
    prompts add to that."""

    prompt: FloatArray
    decode: FloatArray
    alphas: float

    def total(self, stats: TraceStats) -> float:
        """Of all events of the trace, rounded down."""
        summed = np.cumsum(self.decode)
        parts = self.prompt[stats.prompt] + summed[stats.last] - summed[stats.prompt]
        slack = 1e-12 * (np.abs(self.prompt).max() + np.abs(self.decode).sum()) * len(parts)
        return float(parts.sum()) + self.alphas * (1 + 1e-12) - float(slack)


class BusyEnergy:
    """Reduced costs of the iterations of one replica, and the best bound from them.

    Parameters
    ----------
    time, energy
        Tables of all stages in ps and nJ (``planner.energy``).
    own_ps, own_nj
        Attention of prompts by stage and tokens.
    cuts
        Whether prompts come in chunks; they are then cut only to fill ``limits.tokens``.
    preempts
        Whether the memory could ever be too small for those that run.
    """

    def __init__(
        self, time: Tables, energy: Tables, own_ps: FloatArray, own_nj: FloatArray, limits: Limits,
        stats: TraceStats, *, cuts: bool, preempts: bool,
    ) -> None:  # fmt: skip
        self.time, self.energy = time, energy
        self.limits, self.stats, self.cuts, self.preempts = limits, stats, cuts, preempts
        self.own_ps, self.own_nj = own_ps, own_nj

    @cached_property
    def powers(self) -> FloatArray:
        """[stage] least nJ per ps of any token of a prompt's attention: then a chunk's energy is at least that times
        its time, and the time telescopes over the chunks of a prompt."""
        step_ps, step_nj = np.diff(self.own_ps, prepend=0), np.diff(self.own_nj, prepend=0)
        return np.array(
            [
                float((nj[ps > 0] / ps[ps > 0]).min(initial=np.inf))
                for ps, nj in zip(step_ps, step_nj, strict=True)
            ]
        )

    @cached_property
    def highest(self) -> float:
        """The largest price, nJ per ps, for which chunks and sequences have no negative reduced cost of their own."""
        ps, nj = self.time.head[2:], self.energy.head[2:]
        heads = float((nj[ps > 0] / ps[ps > 0]).min(initial=np.inf))
        ratio = (self.energy.local + self.energy.shared[: len(self.energy.local)])[1:] / (
            (self.time.local + self.time.shared[: len(self.time.local)])[1:]
        ).clip(min=1.0)
        return float(min(heads, self.powers.min(), ratio.max())) * (1 - 1e-9)

    def least_nj(self, flights: Iterable[Flight]) -> float:
        """Least nJ of all iterations, which take as long as every one of ``flights`` says; 0 where nothing is
        proven."""
        best = 0.0
        for flight in flights:

            def value(power: float, flight: Flight = flight) -> float:
                events = self.events(power, flight)
                return -power if events is None else power * flight.time_ps + events.total(self.stats)

            best = max(best, value(0.0), peak(value, 0.0, self.highest, POWERS))
        return best

    def events(self, power: float, flight: Flight) -> Events | None:
        """Shares that add up to no more than the reduced cost of any iteration, for 0 <= ``power`` <= ``highest``; its
        time is what it adds to that of ``flight``.

        Proof. Let D(n) be the reduced cost of the dense work of n tokens of a rank (its own, and its part of what is
        shared by a ray s n below ``shared``), h m below that of m sequences beyond the first, F(d) the least
        reduced cost of d decodes less w (read - d smallest), F(0) = 0. A rank with d decodes and c tokens of
        chunks costs at least D(d + c) + h d + F(d) + w (read - d smallest), and ``launch`` if c > 0.

        Without chunks that is at least v d + w (...), as v is the least (D(d) + h d + F(d)) / d. With chunks of
        which one completes a prompt it is at least v d + w (...) + alpha + q c, as alpha is at most every difference
        of the two; more completions only add alpha <= 0. Where none does, the rank is full, and q is so small that
        v d + w (...) + q c holds without alpha. So chunks whose work is thrown away have shares q c >= 0.

        What of ``launch`` the flight leaves out of the time makes alpha larger: for a prompt at least what it leaves
        out when the request arrives, as it leaves out no less later.

        A later token may come from recomputing its context where sequences are preempted: the lesser counts.
        """
        stats, limits = self.stats, self.limits
        head, dense = self._dense(power)
        launch = self.energy.launch - power * self.time.launch
        most = max(1, min(limits.sequences, limits.kv // stats.smallest, len(dense)))
        costs, v, w = self._decodes(power, dense[:most] + head * np.arange(1, most + 1))
        d = np.arange(min(most + 1, len(dense)), dtype=np.int64)
        beside = np.concatenate([[0.0], costs])[: len(d)] + (head - v) * d
        steepest = np.inf
        if self.cuts:
            steepest = float(((beside + dense[-1] + launch) / (len(dense) - d)).min())
            if steepest < 0:
                return None
        launches = [
            (prompts, self.energy.launch - power * part * self.time.launch)
            for prompts, part in flight.launches
        ]
        alphas, lowest, q = self._chunks(dense, d, beside, launches, steepest)
        x = np.arange(stats.longest + 1, dtype=np.float64)
        prompt = q * x + head + self._attention(power)
        decode = v + w * (x - stats.smallest)
        decode[: stats.smallest] = 0.0
        if self.preempts:
            decode = np.minimum(decode, prompt + lowest)
        return Events(prompt=prompt, decode=decode, alphas=alphas)

    def _chunks(
        self,
        dense: FloatArray,
        d: IntArray,
        beside: FloatArray,
        launches: list[tuple[int, float]],
        steepest: float,
    ) -> tuple[float, float, float]:
        """The sum of alphas of all prompts, of which so many have that ``launch`` each, the least of an alpha, and q:
        those that are best for the trace."""
        vertices = hulls.lower_hull(dense)
        slopes = np.unique(np.clip(np.diff(dense[vertices]) / np.diff(vertices), 0.0, steepest))
        ray = float((dense / np.arange(1, len(dense) + 1)).min())
        tried = [0.0, min(max(ray, 0.0), steepest)]
        if len(slopes):  # none where an iteration has room for one token
            tried += np.quantile(slopes, TRIED).tolist()
        best, found = -np.inf, (0.0, 0.0, 0.0)
        for q in sorted(set(tried)):
            rest = np.minimum.accumulate((dense - q * np.arange(1, len(dense) + 1))[::-1])[::-1]
            least = float((beside + q * d + rest[d]).min())
            alphas = sum(prompts * min(0.0, least + launch) for prompts, launch in launches)
            score = alphas + q * float(self.stats.prompt.sum())
            if score > best:
                best, found = score, (alphas, min(0.0, least + min(launch for _, launch in launches)), q)
        return found

    def _dense(self, power: float) -> tuple[float, FloatArray]:
        """Reduced cost of a sequence beyond the first, and of n = 1.. tokens of a rank."""
        energy, time, n = self.energy, self.time, self.limits.tokens
        heads = (energy.head - power * time.head)[2:]
        head = max(0.0, float((heads / np.arange(1, len(heads) + 1)).min())) if len(heads) else 0.0
        local = (energy.local - power * time.local)[1 : n + 1]
        shared = (energy.shared - power * time.shared)[1:] - head
        if self.limits.ranks == 1:
            return head, local + shared[:n]
        return head, local + float((shared / np.arange(1, len(shared) + 1)).min()) * np.arange(1, n + 1)

    def _decodes(self, power: float, dense: FloatArray) -> tuple[FloatArray, float, float]:
        """F(1), F(2), ... and the v and w that are best for the decodes of the trace; ``dense`` [most]."""
        stats, limits, batch = self.stats, self.limits, np.arange(1, len(dense) + 1)
        if stats.decodes == 0:
            return np.full(len(dense), np.inf), 0.0, 0.0
        corners, excess = hulls.decode_corners(
            self.energy.value - power * self.time.value, self.energy.slope - power * self.time.slope,
            self.energy.knots, len(dense), stats.smallest, stats.longest, limits.kv,
        )  # fmt: skip
        read = float(stats.read - stats.decodes * stats.smallest)

        def split(w: float) -> tuple[FloatArray, float]:
            costs = (corners - w * excess).min(axis=1)
            return costs, float(((dense + costs) / batch).min())

        def value(w: float) -> float:
            return split(w)[1] * stats.decodes + w * read

        slopes = (self.energy.slope - power * self.time.slope)[1:]
        tokens = max(1.0, read / stats.decodes)
        low = min(0.0, float(slopes.min()))
        high = float(slopes.max()) + abs(float(dense.max())) / tokens
        w = best_at(value, low, high, 24)
        costs, v = split(w)
        return costs, v, w

    def _attention(self, power: float) -> FloatArray:
        """[x] reduced cost of the attention of all chunks of a prompt: (kappa - power) times the time."""
        total = np.zeros(self.stats.longest + 1)
        for kappa, ps in zip(self.powers, self.own_ps, strict=True):
            if np.isfinite(kappa):
                total += (kappa - power) * (ps[: len(total)] - ps[0])
        return total


def best_at(f: Callable[[float], float], low: float, high: float, evaluations: int) -> float:
    """Where a golden-section search for the maximum of ``f`` saw the largest value, 0 included.

    Examples
    --------
    >>> round(best_at(lambda x: 3 - (x - 1) ** 2, -2, 5, 30), 2)
    1.0
    """
    seen = {0.0: f(0.0)}

    def noted(x: float) -> float:
        seen[x] = f(x)
        return seen[x]

    peak(noted, low, high, evaluations)
    return max(seen, key=seen.__getitem__)
