"""The least time of a request that has a replica for itself; ``planner.bounds`` states the facts F1 to F4."""

from functools import cached_property

import numpy as np

from formulations import hulls
from formulations.hulls import FloatArray, IntArray
from planner.shares import Limits, TraceStats
from profiles.stepcost import PS, StepCost


class Alone:
    """Times of prompts and tokens by number of tokens, and of the requests of a trace. Picoseconds.

    Raises
    ------
    ValueError
        When the tables end before the longest sequence of the trace.
    """

    def __init__(self, step: StepCost, limits: Limits, stats: TraceStats) -> None:
        if stats.longest > step.max_length:
            raise ValueError(
                f"The cost tables end at {step.max_length} tokens, the trace has {stats.longest}."
            )
        self.step, self.limits, self.stats = step, limits, stats

    @cached_property
    def chunk_ps(self) -> IntArray:
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
        result: IntArray = hulls.prompt_floor(self.chunk_ps, longest, self.step.chunkable) + own - own[0]
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
        result: IntArray = hulls.decode_floor(
            alone, value.astype(np.float64), slope.astype(np.float64), self.step.knots, self.stats.smallest,
            self.stats.longest,
        )  # fmt: skip
        return result

    @cached_property
    def event_ps(self) -> IntArray:
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
        result: IntArray = self.event_ps[self.stats.last] - self.event_ps[self.stats.prompt]
        return result

    @cached_property
    def e2e_ps(self) -> IntArray:
        """Least time from arrival to last token of each request."""
        return self.ttft_ps + self.decoding_ps

    def stage_decode_ps(self, p: int) -> IntArray:
        """[c] least time in stage ``p`` of a decode that reads c tokens."""
        step = self.step
        most = min(self.limits.sequences, self.limits.tokens) + 1
        alone = step.local_ps[p, :most] + step.shared_ps[p, :most]
        if p == step.stages - 1:
            alone = alone + step.head_ps[:most]
        return self._decode_floor(alone, step.decode_value_ps[p], step.decode_slope_ps[p])

    def metric_s(self, metric: str) -> FloatArray:
        """Least ``ttft``, ``e2e`` or ``tpot`` in seconds of the requests that have it."""
        if metric == "tpot":
            several = self.stats.several
            return self.decoding_ps[several] / (self.stats.output[several] - 1) / PS
        return (self.ttft_ps if metric == "ttft" else self.e2e_ps) / PS
