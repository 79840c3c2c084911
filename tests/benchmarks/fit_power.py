"""Fit ``profiles/power.json`` to measured runs of vLLM, replayed by this simulator, and say the error.

    python -m tests.benchmarks.fit_power [prompt tokens]

Data: ``reference/energy_measured.csv`` beside the checkout (or below ``ZENITH_SHARED``), runs of the
ML.ENERGY leaderboard. A run keeps ``max_num_seqs`` requests going until its list of requests is spent, and
the means are over the time when all are. Replayed as: all requests at time 0, engine ``vllm-v1``, token
budget 8192 (the benchmark's configuration), the same block of requests two and four times over; what four
take more than two is the steady state, without filling and draining. Not in the data and assumed: prompts
of ``PROMPT_TOKENS`` on average, and the spread of lengths.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.pipeline import operations_of
from profiles.compile import Compiler
from profiles.device import load_device
from profiles.engine import load_engine
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.ops import FloatArray
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerFit, PowerModel
from profiles.stepcost import PS
from simulator import metrics
from simulator.engine import simulate
from traces.synth import synthesize
from traces.trace import Trace

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared"))
MEASURED = SHARED / "reference" / "energy_measured.csv"
DEVICES = {"H100": "h100-sxm-80gb"}
MODELS = {
    "Qwen/Qwen3-8B": "qwen3-8b",
    "Qwen/Qwen3-14B": "qwen3-14b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "google/gemma-3-12b-it": "gemma-3-12b",
    "google/gemma-3-27b-it": "gemma-3-27b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.3-70b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
}
FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
PROMPT_TOKENS = 250
"""Mean prompt, not in the data. The mean iteration of Llama-3.1-70B on four devices takes 0.4 to 3 ms longer
than the median one, 8 to 64 sequences: what prompts of about this length take."""
MOST_TOKENS = {"lm-arena-chat": 4096, "gpqa": 20480}
"""Longest output that the benchmark's server allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row: mean watts of one device, tokens per second of all, joules per generated token of all."""

    model: str
    device: str
    devices: int
    weights: str
    task: str
    sequences: int
    output_tokens: float
    watts: float
    tokens_per_s: float
    joules_per_token: float


def read_runs(path: Path = MEASURED) -> list[Run]:
    """Every row: all are of dense models that we know, on one tensor-parallel group."""
    import pandas as pd

    rows = pd.read_csv(path, comment="#").to_dict("records")
    return [
        Run(
            model=MODELS[row["model_id"]],
            device=DEVICES[row["gpu_model"]],
            devices=row["num_gpus"],
            weights=FORMATS[row["weight_precision"]],
            task=row["task"],
            sequences=row["max_num_seqs"],
            output_tokens=row["avg_output_len"],
            watts=row["avg_power_watts"] / row["num_gpus"],
            tokens_per_s=row["output_throughput_tokens_per_sec"],
            joules_per_token=row["energy_per_token_joules"],
        )
        for row in rows
    ]


class Remembered:
    """Operations that keep their answers: a replay asks the same for every power model."""

    def __init__(self, operations: Any) -> None:
        self._operations, self._kept = operations, {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*loads: Any, **shape: Any) -> Any:
            words = tuple(load.tobytes() if isinstance(load, np.ndarray) else load for load in loads)
            key = name, words, tuple(shape.items())
            if key not in self._kept:
                self._kept[key] = getattr(self._operations, name)(*loads, **shape)
            return self._kept[key]

        return ask


class Replays:
    """Runs to replay under any power model; times do not depend on it."""

    def __init__(self, runs: list[Run], prompt_tokens: int = PROMPT_TOKENS) -> None:
        self.runs, self.prompt_tokens = runs, prompt_tokens
        self._operations: dict[tuple[str, str, int], Any] = {}
        self.tokens_per_s = np.array([])

    def watts(self, power: Callable[[str], PowerModel]) -> FloatArray:
        """[runs] mean watts of one device in the steady state; sets ``tokens_per_s``."""
        compilers: dict[tuple[str, str, int], Compiler] = {}
        found = np.array([self._replay(run, power, compilers) for run in self.runs])
        self.tokens_per_s = found[:, 1]
        return found[:, 0]

    def _replay(self, run: Run, power: Any, compilers: dict[Any, Compiler]) -> tuple[float, float]:
        pool = homogeneous(run.device, gpus=run.devices).pools[0]
        model = load_model(run.model)
        key = run.model, run.device, run.devices
        if key not in self._operations:
            self._operations[key] = Remembered(operations_of(pool, model, tables=None, silicon=True)[0])
        if key not in compilers:
            compilers[key] = Compiler(
                model, pool.device, self._operations[key], engine=load_engine("vllm-v1"), power=power(run.device)
            )
        plan = Plan(
            layers_per_stage=(len(model.decoder.layers),),
            attn_tp=run.devices,
            ffn_tp=run.devices,
            weight_format=run.weights,
            activation_format=run.weights,
            engine=EngineSettings(max_seqs=run.sequences, token_budget=8192),
        )
        block = synthesize(
            requests=max(128, 2 * run.sequences),
            arrivals="at-once",
            prompt_mean=self.prompt_tokens,
            prompt_sd=self.prompt_tokens,
            output_mean=run.output_tokens,
            output_sd=0.7 * run.output_tokens,
            most_tokens=MOST_TOKENS[run.task],
        )
        link = pool.link(run.devices, 1)
        longest = int((block.prompt_tokens + block.output_tokens).max())
        step = compilers[key].compile(plan, link_tensor=link, link_ffn=link, max_length=longest)
        short, long = (simulate(repeated(block, times), step, plan.engine) for times in (2, 4))
        seconds = (long.end_ps - short.end_ps) / PS
        tokens = long.output_tokens.sum() - short.output_tokens.sum()
        return (long.energy_j - short.energy_j) / seconds / run.devices, tokens / seconds


def repeated(block: Trace, times: int) -> Trace:
    """The block's requests, ``times`` times over, all at time 0."""
    return Trace(
        arrival_s=np.zeros(times * len(block)),
        prompt_tokens=np.tile(block.prompt_tokens, times),
        output_tokens=np.tile(block.output_tokens, times),
    )
