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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from simulator.engine import simulate
from traces.synth import synthesize
from traces.trace import Trace

Constants = tuple[float, float]
"""alpha, beta."""

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
# ML.ENERGY points that ``reference/mechanisms.md`` quotes beside the file: watts of one device and joules per
# token by sequences. Their lengths are not given: dense models as on H100, the mixture of experts assumed.
QUOTED = (
    (
        "llama-3.1-70b",
        "b200",
        2,
        1,
        "bf16",
        {8: (849, 3.57), 64: (905, 0.70), 256: (971, 0.36), 1024: (969, 0.23)},
    ),
    ("llama-3.1-405b", "b200", 4, 1, "fp8", {8: (863, 13.0), 512: (971, 1.15)}),
    ("qwen3-235b-a22b", "h100", 8, 8, "fp8", {8: (450, 11.4), 512: (495, 0.74)}),
    ("qwen3-235b-a22b", "b200", 2, 2, "fp8", {8: (903, 8.4), 256: (945, 0.50)}),
)
QUOTED_OUTPUT = {"llama-3.1-70b": 353.0, "llama-3.1-405b": 350.0, "qwen3-235b-a22b": 700.0}
MOST_TOKENS = {"lm-arena-chat": 4096, "gpqa": 20480}
"""Longest output that the benchmark's server allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row: mean watts of one device, tokens per second of all, joules per generated token of all."""

    model: str
    device: str
    devices: int
    experts: int = 1
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


def quoted_runs() -> list[Run]:
    """Runs of the same campaign that are known from the notes alone: B200, and a mixture of experts."""
    return [
        Run(
            model=model,
            device=load_device(device).name,
            devices=n,
            experts=experts,
            weights=weights,
            task="lm-arena-chat",
            sequences=sequences,
            output_tokens=QUOTED_OUTPUT[model],
            watts=watts,
            tokens_per_s=watts * n / joules,
            joules_per_token=joules,
        )
        for model, device, n, experts, weights, points in QUOTED
        for sequences, (watts, joules) in points.items()
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

    def __init__(self, prompt_tokens: int = PROMPT_TOKENS) -> None:
        self.prompt_tokens = prompt_tokens
        self._operations: dict[tuple[str, str, int], Remembered] = {}

    def __call__(self, runs: list[Run], alpha: float, beta: float) -> tuple[FloatArray, FloatArray]:
        """Mean watts of one device, and tokens per second of all, of every run in the steady state."""
        fit = PowerFit(alpha=alpha, beta=beta, source="here", error="")
        compilers: dict[tuple[str, str, int], Compiler] = {}
        found = np.array([self._replay(run, fit, compilers) for run in runs])
        return found[:, 0], found[:, 1]

    def _replay(self, run: Run, fit: PowerFit, compilers: dict[Any, Compiler]) -> tuple[float, float]:
        pool = homogeneous(run.device, gpus=run.devices).pools[0]
        key = run.model, run.device, run.devices
        if key not in compilers:
            model = load_model(run.model)
            if key not in self._operations:
                self._operations[key] = Remembered(operations_of(pool, model, tables=None, silicon=True)[0])
            compilers[key] = Compiler(
                model,
                pool.device,
                self._operations[key],
                engine=load_engine("vllm-v1"),
                power=PowerModel(pool.device, fit),
            )
        plan = Plan(
            layers_per_stage=(len(compilers[key].model.decoder.layers),),
            attn_tp=run.devices,
            ffn_tp=run.devices // run.experts,
            ffn_ep=run.experts,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of predicted watts of a device and joules per token: absolute errors, bias and worst, as shares of
    what was measured except ``mean_w`` and ``median_w``."""

    mean_w: float
    median_w: float
    watts: tuple[float, float, float, float]  # mean and median absolute, mean, worst
    joules: tuple[float, float, float, float]

    @property
    def row(self) -> str:
        words = [f"{self.mean_w:.0f} W", f"{self.median_w:.0f} W"]
        return " | ".join(words + [f"{100 * share:.1f} %" for share in (*self.watts, *self.joules)])


def errors(runs: list[Run], watts: FloatArray, tokens_per_s: FloatArray) -> Errors:
    measured = np.array([run.watts for run in runs])
    per_token = np.array([run.joules_per_token for run in runs])
    joules = watts * np.array([run.devices for run in runs]) / tokens_per_s

    def shares(off: FloatArray) -> tuple[float, float, float, float]:
        size = np.abs(off)
        return float(size.mean()), float(np.median(size)), float(off.mean()), float(off[size.argmax()])

    off = np.abs(watts - measured)
    return Errors(
        mean_w=float(off.mean()),
        median_w=float(np.median(off)),
        watts=shares(watts / measured - 1),
        joules=shares(joules / per_token - 1),
    )


class Fit:
    """Least squares of watts by compass search: the best of the neighbours, with ever smaller steps.

    Every pair of constants is replayed once, for all runs; the folds share what was replayed.
    """

    def __init__(self, replay: Replays, runs: list[Run]) -> None:
        self.runs = runs
        self.measured = np.array([run.watts for run in runs])
        self.models = np.array([run.model for run in runs])
        self.replayed = cache(lambda alpha, beta: replay(runs, alpha, beta))

    def loss(self, at: Constants, kept: NDArray[np.bool_]) -> float:
        return float(np.square(self.replayed(*at)[0] - self.measured)[kept].sum())

    def best(self, start: Constants, kept: NDArray[np.bool_] | None = None, steps: int = 4) -> Constants:
        """Constants from ``start`` on, to 0.01 and 0.05; ``steps`` sizes of step, the last one always."""
        rows = np.ones(len(self.runs), bool) if kept is None else kept
        at = start
        for size in STEPS[-steps:]:
            moved = True
            while moved:
                around = [at, *neighbours(at, size)]
                least = min(around, key=lambda constants: self.loss(constants, rows))
                moved, at = least != at, least
        return at

    def errors(self, at: Constants) -> Errors:
        return errors(self.runs, *self.replayed(*at))

    def left_out(self, start: Constants, steps: int = 1) -> Errors:
        """Errors on each model by constants that were fitted to all others."""
        watts, speed = np.zeros((2, len(self.runs)))
        for model in dict.fromkeys(self.models):
            out = self.models == model
            found = self.replayed(*self.best(start, ~out, steps))
            watts[out], speed[out] = found[0][out], found[1][out]
        return errors(self.runs, watts, speed)


STEPS = ((0.08, 0.4), (0.04, 0.2), (0.02, 0.1), (0.01, 0.05))
"""Of alpha and beta."""


def neighbours(at: Constants, size: Constants) -> list[Constants]:
    """The four around ``at``, not negative."""
    moves = [(size[0], 0.0), (-size[0], 0.0), (0.0, size[1]), (0.0, -size[1])]
    return [(max(0.0, round(at[0] + a, 2)), max(0.0, round(at[1] + b, 2))) for a, b in moves]


def main() -> None:
    if not MEASURED.exists():
        sys.exit(f"no measured power at {MEASURED}: set ZENITH_SHARED to the folder that holds reference/")
    replay, runs = Replays(int(sys.argv[1]) if len(sys.argv) > 1 else PROMPT_TOKENS), read_runs()
    print("runs | W mean | median | W mean | median | bias | worst | J/token mean | median | bias | worst")
    fit = Fit(replay, runs)
    at = fit.best((0.8, 0.9))
    watts, tokens_per_s = fit.replayed(*at)
    measured = np.array([run.tokens_per_s for run in runs])
    print(f"H100: alpha {at[0]}, beta {at[1]}; tokens per second {np.mean(tokens_per_s / measured - 1):+.1%}")
    print(f"fitted, {len(runs)} | {fit.errors(at).row}")
    print(f"model left out | {fit.left_out(at).row}")
    print(f"at measured speed | {errors(runs, watts, measured).row}")
    for model in dict.fromkeys(fit.models):
        own = fit.models == model
        rows = [run for run in runs if run.model == model]
        print(f"{model}, {len(rows)} | {errors(rows, watts[own], tokens_per_s[own]).row}")
    quoted = quoted_runs()
    for device in ("h100-sxm-80gb", "b200-sxm-180gb"):
        shipped = PowerModel(load_device(device)).fit
        for name, sparse in (("dense", False), ("experts", True)):
            rows = [run for run in quoted if run.device == device and (run.experts > 1) == sparse]
            if rows:
                found = errors(rows, *replay(rows, shipped.alpha, shipped.beta))
                print(f"quoted, {device} as shipped, {name}, {len(rows)} | {found.row}")


if __name__ == "__main__":
    main()
