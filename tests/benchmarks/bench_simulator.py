"""How fast the simulator is, how much work it skips, and how much memory a million requests take.

    python -m tests.benchmarks.bench_simulator [--trace FILE] [--million N]

Llama-3.1-70B on eight H100, measured tables where the extra ``silicon`` is installed, else the roofline. The
trace is that of the Azure conversation service where it lies beside the checkout (or in ZENITH_SHARED), else
a synthetic one of the same size. Times are CPU seconds of one core, best of ten, compilation left out,
and include every metric of the answer.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from planner.axes import parse_axes, plan_from_axes
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import Plan
from profiles.stepcost import StepCost
from simulator import metrics
from simulator.engine import simulate
from simulator.outcome import Outcome
from traces.read import read_trace
from traces.synth import synthesize
from traces.trace import Trace
from traces.transform import scale_rate

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared"))
AZURE = SHARED / "traces" / "AzureLLMInferenceTrace_conv.csv"

CASES = (
    ("tp=8", "tp=8", 1.0),
    ("tp=8, a tenth of the load", "tp=8", 0.1),
    ("tp=8 sarathi, chunks of 512", "tp=8,policy=sarathi,budget=512", 1.0),
    ("pp=2 tp=4", "pp=2,tp=4", 1.0),
    ("pp=2 tp=4, a tenth of the load", "pp=2,tp=4", 0.1),
    ("two attention ranks of tp=4", "attn_tp=4,attn_dp=2,ffn_tp=8", 1.0),
)


def load(path: Path | None) -> Trace:
    if path is not None or AZURE.exists():
        return read_trace(path or AZURE).trace
    return synthesize(  # of the same size: requests, rate, means and deviations
        requests=19_366, rate=5.53, prompt_mean=1155, prompt_sd=1109, output_mean=211, output_sd=163,
        most_tokens=8192, name="synthetic",
    )  # fmt: skip


def compiled(axes: str, trace: Trace) -> tuple[Plan, StepCost, str]:
    asked = Question(model=load_model("llama-3.1-70b"), fleet=homogeneous("h100", gpus=8), trace=trace)
    plan = plan_from_axes(asked.model, parse_axes(axes))
    evaluator = Evaluator(asked)
    placement = place(plan, asked.fleet.pools[0])
    return (
        plan,
        evaluator.step(Candidate(plan=plan, pool=0, placement=placement)),
        "; ".join(evaluator.sources),
    )


def serve(trace: Trace, plan: Plan, step: StepCost, skip: bool = True) -> tuple[Outcome, float]:
    """The outcome, and the CPU seconds that it and all its metrics take."""
    start = time.process_time()
    outcome = simulate(trace, step, plan.engine, replicas=plan.replicas, skip=skip)
    metrics.summary(
        outcome, step, devices=plan.devices, usd_per_device_hour=2.0,
        goodput_bounds_s={"ttft": 1.0, "tpot": 0.1},
    )  # fmt: skip
    return outcome, time.process_time() - start


def equal(one: Outcome, two: Outcome) -> bool:
    """Bit for bit, but for the number of events."""
    for field in dataclasses.fields(Outcome):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if field.name != "events" and not (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b):
            return False
    return True


def speed(trace: Trace) -> None:
    print(f"{'plan':32}{'requests/s':>11}{'iter/req':>10}{'events/req':>12}{'step/skip':>11}{'equal':>7}")
    for name, axes, factor in CASES:
        asked = scale_rate(trace, factor)
        plan, step, _ = compiled(axes, asked)
        outcome, _ = serve(asked, plan, step)
        skipped = min(serve(asked, plan, step)[1] for _ in range(10))
        stepped_outcome, stepped = serve(asked, plan, step, skip=False)
        n = len(asked)
        print(
            f"{name:32}{n / skipped:11,.0f}{outcome.iterations / n:10.2f}{outcome.events / n:12.2f}"
            f"{stepped / skipped:11.1f}{'yes' if equal(outcome, stepped_outcome) else 'NO':>7}"
        )


def growth(trace: Trace) -> None:
    """Events per request when every output is twice as long, at a load that the plan carries either way."""
    quiet = scale_rate(trace, 0.1)
    longer = dataclasses.replace(quiet, output_tokens=quiet.output_tokens * 2)
    plan, step, _ = compiled("tp=8", longer)
    one, two = (serve(t, plan, step)[0] for t in (quiet, longer))
    print(
        f"outputs twice as long: iterations x{two.iterations / one.iterations:.2f}, "
        f"events x{two.events / one.events:.2f}"
    )


def peak_bytes() -> int:
    """Most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage of a child counts what its parent held when it was started, on Linux
        words = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()
        return int(words[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alone(trace: Trace, requests: int) -> dict[str, float]:
    """In a process of its own: many requests with the lengths and the rate of the trace."""
    many = synthesize(requests=requests, rate=trace.rate_per_s or 1.0, lengths_of=trace)
    plan, step, _ = compiled("tp=8", many)
    serve(Trace(
        arrival_s=np.zeros(1), prompt_tokens=np.array([9]), output_tokens=np.array([9])
    ), plan, step)  # fmt: skip
    before = peak_bytes()
    outcome, seconds = serve(many, plan, step)
    assert outcome.served.all()
    return {"seconds": seconds, "before": before, "peak": peak_bytes(), "events": outcome.events / requests}


def scaling(path: Path | None, million: int) -> None:
    made: list[dict[str, Any]] = []
    for requests in (million // 10, million):
        command = [sys.executable, "-m", "tests.benchmarks.bench_simulator", "--alone", str(requests)] + (
            ["--trace", str(path)] if path else []
        )
        made.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    few, many = made
    print(
        f"{million:,} requests: {many['seconds']:.1f} s, {million / many['seconds']:,.0f} requests/s, "
        f"{many['events']:.2f} events/request; a tenth of them takes "
        f"1/{many['seconds'] / few['seconds']:.1f} of the time"
    )
    print(
        f"{million:,} requests: peak memory {many['peak'] / 1e6:,.0f} MB (required: < 1000), "
        f"{(many['peak'] - many['before']) / million:,.0f} bytes/request above the {many['before'] / 1e6:,.0f} MB "
        "of the process, its tables and the trace"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--trace", type=Path)
    options.add_argument("--million", type=int, default=1_000_000, help="requests of the scaling run")
    options.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    asked = options.parse_args()
    trace = load(asked.trace)
    if asked.alone:
        print(json.dumps(alone(trace, asked.alone)))
        return
    print(
        f"{trace.name}: {len(trace):,} requests, {trace.total_output_tokens:,} output tokens; "
        f"{compiled('tp=8', trace)[2]}"
    )
    speed(trace)
    growth(trace)
    scaling(asked.trace, asked.million)


if __name__ == "__main__":
    main()
