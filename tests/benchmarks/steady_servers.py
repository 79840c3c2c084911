"""How the servers of the steady-state rows were started, as far as their scripts and their engines' defaults say.

The public database InferenceX keeps the scripts it measures with (github.com/SemiAnalysisAI/InferenceX,
``benchmarks/``: ``dsr1_fp8_b200.sh``, ``dsr1_fp4_b200.sh``, ``dsr1_fp8_h200.sh``, ``dsr1_fp8_b200_trt.sh``,
``dsr1_fp4_b200_trt.sh``, ``70b_fp8_b200_trt_slurm.sh``, ``gptoss_fp4_b200.sh``, read at 1fc5d73, a267b4b and
0a919c5). Nothing here was fitted to what they measured.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from profiles.ops import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the scheduler of a server does besides its policy.

    Parameters
    ----------
    token_budget
        Most prompt tokens of an iteration.
    overlaps
        The next batch is formed while the device still computes: the host costs no time, and a request waits for
        an iteration more. SGLang's and TensorRT-LLM's default.
    gate
        Iterations that a gate is closed, 0 for none.
    opens
        ``clock``: every ``gate`` iterations (SGLang looks for requests, ``--scheduler-recv-interval``).
        ``wait``: so long after the first request before it (TensorRT-LLM: ``batch_wait_timeout_iters``;
        ``timeout_iters`` of ``attention_dp_config``).
    full
        Requests that open a gate that waits: a batch of them (``batch_wait_max_tokens_ratio``), one for each rank.
    """

    token_budget: int
    overlaps: bool
    gate: int = 0
    opens: Literal["clock", "wait"] = "clock"
    full: int = 1 << 30

    def seen_s(self, sent_s: FloatArray, iteration_s: float) -> FloatArray:
        """When the scheduler may first take a request; those sent at 0 find it idle.

        Examples
        --------
        >>> sent = np.array([0.0, 0.1, 1.2, 2.9, 3.5])
        >>> Started(token_budget=1, overlaps=False, gate=3).seen_s(sent, 1.0).tolist()
        [0.0, 3.0, 3.0, 3.0, 6.0]
        >>> waits = Started(token_budget=1, overlaps=True, gate=3, opens="wait", full=3)
        >>> waits.seen_s(sent, 1.0).tolist(), waits.seen_s(2 * sent, 1.0).round(1).tolist()
        ([0.0, 3.9, 3.9, 3.9, 7.5], [0.0, 4.2, 4.2, 9.8, 9.8])
        """
        held_s = self.gate * iteration_s
        seen = sent_s.copy()
        if self.gate and self.opens == "clock":
            seen = np.ceil(sent_s / held_s) * held_s
        elif self.gate:
            waiting: list[int] = []
            for i in [int(i) for i in np.argsort(sent_s, kind="stable") if sent_s[i] > 0]:
                if waiting and sent_s[i] > sent_s[waiting[0]] + held_s:
                    seen[waiting] = sent_s[waiting[0]] + held_s
                    waiting = []
                waiting.append(i)
                if len(waiting) == self.full:
                    seen[waiting] = sent_s[i]
                    waiting = []
            if waiting:
                seen[waiting] = sent_s[waiting[0]] + held_s
        return np.asarray(np.where(sent_s > 0, seen + self.overlaps * iteration_s, 0.0))


DEFAULT_BUDGET = 8192
SINCE_ASYNC = ("gpt-oss", "Kimi", "MiniMax")
"""Models that vLLM served with ``async-scheduling``: said by the script of gpt-oss, the default from 0.14 on (January
2026), older than Kimi K2.5 and MiniMax M2.5."""


def started(
    *, engine: str, system: str, family: str, format: str, public: bool, isl: int, osl: int, tp: int, dp: int,
    concurrency: int,
) -> Started:  # fmt: skip
    """Of a row; what no script says is as the engine has it by default."""
    short = isl == osl == 1024
    if engine == "sglang":
        if not public or family != "DeepSeek":
            return Started(token_budget=DEFAULT_BUDGET, overlaps=True)
        budget = 16384 if format == "fp4" else 8192 if tp == 4 else 32768
        polls = (
            (30 if concurrency >= 16 and (tp == 8 or format == "fp4") else 10) if system == "b200_sxm" else 0
        )
        return Started(token_budget=budget, overlaps=True, gate=polls)
    if engine == "trtllm":
        budget = max(DEFAULT_BUDGET, isl + concurrency + 64) if public else DEFAULT_BUDGET
        gate, full = 0, 1
        if public and family == "Llama":
            budget = 16384 if format == "fp8" and system == "b200_sxm" else isl + osl + 200
            gate, full = 20 if short and tp < 8 else 0, -(-budget // isl)
        elif public and family == "DeepSeek" and dp > 1:
            gate, full = 60, dp
        elif public and short and (family, format, system) == ("DeepSeek", "fp8", "b200_sxm"):
            gate, full = 40 if 64 <= concurrency < 256 else 0, -(-budget * 8 // (9 * isl))
        return Started(token_budget=budget, overlaps=True, gate=gate, opens="wait", full=full)
    return Started(token_budget=DEFAULT_BUDGET, overlaps=family in SINCE_ASYNC)
