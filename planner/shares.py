"""What each token of a request pays of the iterations it is in; ``planner.bounds`` states F1 to F4."""

from dataclasses import dataclass

import numpy as np

from formulations import hulls
from formulations.hulls import FloatArray, IntArray
from profiles.stepcost import PS
from traces.trace import Trace

SAFE = 1.0 - 1e-9
"""Against the roundings of sums over a trace; the work itself is in integer picoseconds."""


class TraceStats:
    """What all plans need to know of a trace: computed once, shared by their bounds."""

    def __init__(self, trace: Trace) -> None:
        self.arrival = np.rint(trace.arrival_s * PS).astype(np.int64)
        self.prompt = trace.prompt_tokens.astype(np.int64)
        self.output = trace.output_tokens.astype(np.int64)
        self.last = self.prompt + self.output - 1  # tokens that the last event reads
        self.longest = int(self.last.max())
        self.smallest = int(self.prompt.min()) + 1  # tokens that any decode reads
        self.several = self.output > 1
        self.events = int(self.output.sum())
        self.decodes = self.events - len(trace)
        self.tokens = int(self.last.sum())
        self.read = int(((self.output - 1) * (self.prompt + self.last + 1) // 2).sum())
        self.held = self.read + int(self.prompt.sum())
        self.most_output = int(self.output.max())

    def __len__(self) -> int:
        return len(self.arrival)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one iteration can hold: per rank ``kv`` and new ``tokens`` and ``sequences``."""

    ranks: int
    kv: int
    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Cost of an iteration in one unit (ps of a stage, or nJ of all stages)::

        cost >= scale * sum over ranks with tokens [local[n] + decode(B, S) + launch (if it prefills)
                + chunks] + shared[sum n] + head[m]

    with ``prompt[x]`` the least total over all chunks of a prompt of x tokens. ``scale`` is 1 for energy; for
    time it is 1 / ranks, as the slowest rank takes no less than the mean.
    """

    scale: float
    local: FloatArray  # [N + 1]
    shared: FloatArray  # [T + 1]
    head: FloatArray  # [M + 1]
    value: FloatArray  # [B + 1, K]
    slope: FloatArray
    knots: IntArray
    launch: float
    prompt: FloatArray  # [longest + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What each event pays of the iterations it is in; together they pay at most all of it.

    ``prompt[x]`` for a prompt of x tokens, ``decode[c]`` for a later token that reads c. ``constant`` is
    what every iteration costs besides (0 where it is split among the events), ``decoding`` what one with decodes
    costs besides that.
    """

    prompt: IntArray
    decode: IntArray
    constant: int
    decoding: int = 0

    def chain(self, stats: TraceStats) -> IntArray:
        """Constants of the iterations of each request: of each later token ``decoding``, or by what computing its
        context again is dearer."""
        later = np.cumsum(np.minimum(self.decoding, self.prompt - self.decode))
        result: IntArray = self.constant * stats.output + later[stats.last] - later[stats.prompt]
        return result

    def early(self, stats: TraceStats, theta: FloatArray | float, prices: FloatArray) -> FloatArray:
        """[i, k] least of ``prices`` [k], at most 1, x what the events of request i pay of iterations before a moment +
        what they pay of those after it, where decodes before it pay theta[c] of the constants besides.

        Proof: an event pays in one of the two, or parts of it in both. A prompt, which may be cut, pays at least
        the price of its share in either; so does a context that is computed again.
        """
        dear = np.minimum(self.decode + theta * (self.constant + self.decoding), self.prompt)
        result = np.empty((len(stats), len(prices)))
        for k, price in enumerate(prices):
            total = np.cumsum(np.minimum(self.decode, price * dear))
            result[:, k] = price * self.prompt[stats.prompt] + total[stats.last] - total[stats.prompt]
        return result

    def work(self, stats: TraceStats) -> IntArray:
        """Sum of the shares of each request."""
        total = np.cumsum(self.decode)
        result: IntArray = self.prompt[stats.prompt] + total[stats.last] - total[stats.prompt]
        return result


class ShareMaker:
    """Splits the cost of iterations among events in several ways, all valid for any schedule.

    Proof: replace each table by a line or plane below it with non-negative coefficients (hull lemma in
    ``formulations.hulls``). Terms linear in tokens, sequences and tokens read belong to events.
    Tokens of prompts pay more than those of decodes: a prompt's iteration launches kernels of its own, which
    counts fully, as the least over all sizes of (what is above the line, and the launch) / tokens.
    Constants, one per iteration, are split by theta, which adds up to at most 1 over the events of a
    rank in one iteration by F2 and F3: tokens held / M ("memory"), new tokens / N ("tokens"), or
    1 / max_seqs ("sequences"). A later token may also come from a recomputation of its context, so it
    pays the lesser of the two.
    """

    SPLITS = ("memory", "tokens", "sequences")

    def __init__(self, tables: Tables, limits: Limits, stats: TraceStats) -> None:
        self.tables, self.limits, self.stats = tables, limits, stats
        local, shared = tables.local, tables.shared
        if limits.ranks == 1:  # both are functions of the same n: one hull is tighter than two
            local, shared = local + shared[: len(local)], np.zeros(2)
        self.local = hulls.lines_below(local[1:])
        self.chunks = hulls.steeper_lines(local[1:], self.local, tables.launch)
        self.shared = hulls.lines_below(shared[1:])
        self.head = hulls.lines_below(tables.head[1:])
        by_memory, by_sequences = stats.read / limits.kv, stats.decodes / limits.sequences
        self.decode_memory = by_memory >= by_sequences
        self.plane = hulls.decode_plane(
            tables.value, tables.slope, tables.knots, sequences=limits.sequences, smallest=stats.smallest,
            longest=stats.longest, capacity=limits.kv, iterations=max(by_memory, by_sequences),
            decodes=stats.decodes, read=stats.read,
        ) if stats.decodes else (0.0, 0.0, 0.0)  # fmt: skip

    def split(self, by: str) -> Shares:
        """Constants split by one of ``SPLITS``, with the lines best for the whole trace."""
        limits, stats = self.limits, self.stats
        x = np.arange(stats.longest + 1, dtype=np.float64)
        if by == "memory":
            return self._shares(x / limits.kv, x / limits.kv, stats.held / limits.kv, whole=False)
        if by == "tokens":
            return self._shares(
                x / limits.tokens, 1 / limits.tokens, stats.tokens / limits.tokens, whole=False
            )
        theta = 1 / limits.sequences
        return self._shares(theta, theta, stats.events * theta, whole=False)

    @property
    def theta(self) -> FloatArray | float:
        """[c] part of a rank's constants that a decode pays which reads c tokens; 1 at most in an iteration."""
        x = np.arange(self.stats.longest + 1, dtype=np.float64)
        return x / self.limits.kv if self.decode_memory else 1 / self.limits.sequences

    def whole(self, rounds: float, *, reading: bool = True) -> Shares:
        """Constants left whole, with the lines best when the trace takes ``rounds`` iterations. ``reading``: that of
        reading too, on one rank, else split among decodes."""
        return self._shares(0.0, 0.0, rounds, whole=True, reading=reading and self.limits.ranks == 1)

    def _shares(
        self,
        theta_prompt: FloatArray | float,
        theta_decode: FloatArray | float,
        rounds: float,
        *,
        whole: bool,
        reading: bool = False,
    ) -> Shares:
        tables, limits, stats, scale = self.tables, self.limits, self.stats, self.tables.scale
        constants, slopes = self.local
        tokens = slopes * stats.decodes + self.chunks * (stats.tokens - stats.decodes)
        # Where constants are whole one rank at least pays that of local, the slowest in time.
        best = int(np.argmax(constants * rounds + (scale if whole else 1.0) * tokens))
        a0, a1, chunk = float(constants[best]), float(slopes[best]), float(self.chunks[best])
        if not whole:
            rounds /= limits.ranks
        s0, s1 = hulls.best_line(self.shared, rounds, stats.tokens)
        h0, h1 = hulls.best_line(self.head, rounds, stats.events)
        u, v, w = self.plane
        x = np.arange(stats.longest + 1, dtype=np.float64)
        prompt = scale * (chunk * x + tables.prompt) + s1 * x + h1
        left = u if reading else 0.0
        u -= left
        decode = scale * (a1 + u * self.theta + v + w * np.maximum(x - stats.smallest, 0)) + s1 + h1
        constant = scale * a0 + (s0 + h0) / limits.ranks
        prompt += constant * theta_prompt
        decode += constant * theta_decode
        return Shares(
            prompt=hulls.floor_int(prompt),
            decode=hulls.floor_int(np.minimum(decode, prompt)),
            constant=int((a0 + s0 + h0) * hulls.ROUNDING) if whole else 0,
            decoding=int(left * hulls.ROUNDING),
        )
