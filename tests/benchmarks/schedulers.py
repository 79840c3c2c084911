"""Findings about schedulers: ``python tests/benchmarks/schedulers.py FIGURE``, the tables of docs/schedulers.md.

========  =======================================================================================================
map       time with preemption over time without, by KV capacity and output length (INFERMAX's question)
kv        every scheduler by KV capacity
lengths   the best engine policy over the bound by prompt and output length, and what knowing lengths adds
hybrid    prompts beside decodes or apart, in chunks or whole
mcsf      MC-SF against the hindsight optimum on the instances of Jaillet et al.
wins      research schedulers on public traces (those of ../shared/traces where they are), 70B on eight H100
========  =======================================================================================================

Costs of all but the last two: INFERMAX's linear model of one A100 with Llama-2-7B (coefficients of its published
simulator, per layer, 32 layers), so that its findings can be compared with.
"""

import argparse
import math
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numba import njit

from formulations.hindsight_cpsat import UnitInstance, latency, solve
from formulations.problem import Limits, Status
from planner.contest import contest
from planner.setting import BOUNDED, Setting
from profiles.plan import EngineSettings, Plan
from profiles.stepcost import PS, StepCost
from simulator import metrics
from simulator.research import ENGINE_RULES, Rules, simulate
from traces.trace import Trace

MS = PS // 1000
LAYERS = 32
LLAMA_2_7B_MS = {"a_p": 1.6773e-7, "b_p": 0.0926, "a_d": 8.513e-6, "b_d": 0.01921, "a_o": 0.00191, "b_o": 0.06486,
                 "s_p": 0.001534, "s_d": 0.00074}  # fmt: skip
"""INFERMAX's T = a_p sum(c^2 + 2 c m) + b_p + s_p prompts + a_d sum m + b_d + s_d decodes + a_o tokens + b_o."""


def linear_step(*, kv: int, seqs: int, tokens: int, longest: int) -> StepCost:
    """INFERMAX's model as cost tables, energy left out. Blocks have one token."""
    cost = {name: value * LAYERS * MS for name, value in LLAMA_2_7B_MS.items()}
    n, x = np.arange(tokens + 1.0), np.arange(longest + 1.0)
    b = np.arange(seqs + 1.0)
    decode = (cost["b_d"] + cost["s_d"] * b) * (b > 0)
    tables = {
        "local_ps": (cost["b_o"] + cost["a_o"] * n)[None],
        "shared_ps": np.zeros((1, tokens + 1)),
        "head_ps": np.zeros(seqs + 1),
        "send_ps": np.zeros((0, tokens + 1)),
        "decode_value_ps": decode[None, :, None],
        "decode_slope_ps": np.full((1, seqs + 1, 1), cost["a_d"]),
        "prefill_launch_ps": np.array([cost["b_p"]]),
        "prefill_ps": (cost["a_p"] * x**2 + cost["s_p"] * (x > 0))[None],
    }
    integers = {name: np.rint(table).astype(np.int64) for name, table in tables.items()}
    return _step(integers, kv=kv, seqs=seqs)


def unit_step(*, kv: int, seqs: int, longest: int) -> StepCost:
    """Every iteration takes a millisecond, whatever is in it."""
    tokens = seqs * (longest + 1)
    integers = {
        "local_ps": np.full((1, tokens + 1), MS),
        "shared_ps": np.zeros((1, tokens + 1), np.int64),
        "head_ps": np.zeros(seqs + 1, np.int64),
        "send_ps": np.zeros((0, tokens + 1), np.int64),
        "decode_value_ps": np.zeros((1, seqs + 1, 1), np.int64),
        "decode_slope_ps": np.zeros((1, seqs + 1, 1), np.int64),
        "prefill_launch_ps": np.zeros(1, np.int64),
        "prefill_ps": np.zeros((1, longest + 1), np.int64),
    }
    return _step(integers, kv=kv, seqs=seqs)


def _step(tables: dict[str, np.ndarray], *, kv: int, seqs: int) -> StepCost:
    energy = {name.replace("_ps", "_nj"): np.zeros_like(table) for name, table in tables.items()}
    return StepCost(
        stages=1, ranks=1, max_seqs=seqs, knots=np.zeros(1, np.int64), idle_w=0.0, kv_blocks=kv, swap_block_ps=0,
        **tables, **energy,
    )  # fmt: skip


def settings(seqs: int, budget: int) -> EngineSettings:
    return EngineSettings(block_size=1, max_seqs=seqs, token_budget=budget, watermark=0.0)


def mcsf_starts(instance: UnitInstance) -> tuple[int, ...]:
    """Start times of MC-SF in unit time. A prompt has a token more here: the one that its iteration emits."""
    n, longest = len(instance.prompt), max(instance.prompt) + max(instance.output) + 1
    order = np.argsort(instance.arrival, kind="stable")
    trace = Trace(
        arrival_s=np.array(instance.arrival)[order] * 1e-3,
        prompt_tokens=np.array(instance.prompt)[order] + 1,
        output_tokens=np.array(instance.output)[order],
    )
    step = unit_step(kv=instance.kv, seqs=n, longest=longest)
    rules = Rules(order="output", admission="ahead", chunked=False)
    got = simulate(trace, step, settings(n, n * longest), rules)
    starts = np.empty(n, np.int64)
    starts[order] = got.first_token_ps // MS - 1
    return tuple(starts.tolist())


def workload(
    prompt: int, output: int, requests: int, *, spread: bool, seed: int = 0, rate: float = 0.0
) -> Trace:
    """All at once or a Poisson stream; all alike, or lengths of a lognormal with these means and sigma 1."""
    rng = np.random.default_rng(seed)

    def lengths(mean: int) -> np.ndarray:
        if not spread:
            return np.full(requests, mean)
        drawn = rng.lognormal(np.log(mean) - 0.5, 1.0, requests)
        return np.clip(np.rint(drawn), 1, 8 * mean).astype(np.int64)

    arrival = np.cumsum(rng.exponential(1 / rate, requests)) if rate else np.zeros(requests)
    return Trace(arrival_s=arrival, prompt_tokens=lengths(prompt), output_tokens=lengths(output), name="made")


def step_for(trace: Trace, kv: int, seqs: int, budget: int) -> StepCost:
    longest = int((trace.prompt_tokens + trace.output_tokens).max())
    return linear_step(kv=kv, seqs=seqs, tokens=max(budget, longest + seqs), longest=longest)


def table(heads: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


CAPACITIES = (1024, 2048, 4096, 8192, 16384, 32768, 100_000)
OUTPUTS = (16, 64, 128, 256, 512, 1024)


def figure_map(requests: int) -> None:
    for prompt, spread in ((16, False), (64, False), (512, False), (64, True)):
        kind = "lengths of a lognormal" if spread else "all alike"
        print(
            f"Prompts of {prompt}, {requests} requests at once, {kind}; rows KV tokens, columns output tokens:\n"
        )
        rows, late = [], []
        for kv in CAPACITIES:
            cells, other = [], []
            for output in OUTPUTS:
                trace = workload(prompt, output, requests, spread=spread)
                if int((trace.prompt_tokens + trace.output_tokens).max()) > kv:
                    cells.append("-")
                    other.append("-")
                    continue
                engine, step = settings(requests, 4096), step_for(trace, kv, requests, 4096)
                got = [simulate(trace, step, engine, replace(ENGINE_RULES["vllm-v1"], admission=a))
                       for a in ("prompt", "peak")]  # fmt: skip
                cells.append(f"{got[0].end_ps / got[1].end_ps - 1:+.0%}")
                ends = [metrics.e2e_s(each).mean() for each in got]
                other.append(f"{ends[0] / ends[1] - 1:+.0%}")
            rows.append([f"{kv:,}", *cells])
            late.append([f"{kv:,}", *other])
        table(["makespan", *map(str, OUTPUTS)], rows)
        table(["mean E2E", *map(str, OUTPUTS)], late)


class Found(NamedTuple):
    ratio: float
    runs: bool


def compared(
    trace: Trace, kv: int, objective: str, *, seqs: int = 256, budget: int = 4096
) -> dict[str, Found]:
    """All schedulers by name, those of a family under its first words. INFERMAX prices no swap, so none swaps."""
    step, engine = step_for(trace, kv, seqs, budget), settings(seqs, budget)
    plan = Plan(layers_per_stage=(1,), engine=engine)
    setting = Setting(trace=trace, plan=plan, chunked=step, whole=step)
    served, _ = contest(setting, BOUNDED[objective])
    bound = setting.bound(objective, swaps=False).value
    found = {}
    for each, _, value in served:
        name = re.sub(r" (cap|x).*", "", each.name) if each.name[:4] in ("work", "pric") else each.name
        if value is not None and each.engine.preemption != "swap":
            found[name] = Found(value / bound, bool(each.runs_on))
    return found


def figure_kv(requests: int) -> None:
    names = ("vllm-v0 fcfs", "vllm-v1 fcfs", "vllm-v1 fcfs srf", "vllm-v1 fcfs reserve", "mc-sf", "longest ahead",
             "longest remaining", "work ahead", "priced")  # fmt: skip
    for objective in ("makespan", "latency"):
        print(
            f"{objective} over its bound, {requests} requests at once, prompts 512 and outputs 192 on average:\n"
        )
        rows = []
        trace = workload(512, 192, requests, spread=True)
        for kv in (8192, 16384, 32768, 65536, 131072):
            found = compared(trace, kv, objective)
            rows.append([f"{kv:,}", *(f"{found[n].ratio:.3f}" if n in found else "as v1" for n in names)])
        table(["KV tokens", *names], rows)


def figure_lengths(requests: int) -> None:
    for objective in ("makespan", "latency"):
        print(
            f"{objective} over its bound, {requests} requests at once, 32,768 KV tokens: best of engines, best:\n"
        )
        rows = []
        for prompt in (64, 512, 2048):
            cells = []
            for output in (16, 128, 512):
                found = compared(workload(prompt, output, requests, spread=True), 32768, objective)
                own, best = (
                    min((n for n in found if found[n].runs >= runs), key=lambda n: found[n].ratio)
                    for runs in (True, False)
                )
                cells.append(f"{own} {found[own].ratio:.2f}, {best} {found[best].ratio:.2f}")
            rows.append([str(prompt), *cells])
        table(["prompt", "output 16", "output 128", "output 512"], rows)


def figure_hybrid(requests: int) -> None:
    kinds = {
        "mixed, chunks": Rules(),
        "mixed, whole": Rules(chunked=False),
        "apart, whole": Rules(mixed=False, chunked=False),
    }
    for rate in (0.0, 8.0):
        print(f"{requests} requests {'at once' if not rate else f'at {rate:g}/s'}, 100,000 KV tokens; makespan, mean "
              "E2E, mean TTFT, p99 of TPOT in seconds:\n")  # fmt: skip
        rows = []
        for prompt, output in ((512, 16), (512, 192), (64, 512), (2048, 64)):
            trace = workload(prompt, output, requests, spread=True, rate=rate)
            step, cells = step_for(trace, 100_000, 256, 4096), []
            for rules in kinds.values():
                got = simulate(trace, step, settings(256, 4096), rules)
                makespan = (got.end_ps - got.arrival_ps[0]) / PS
                tpot = np.percentile(metrics.tpot_s(got), 99)
                cells.append(
                    f"{makespan:.1f}, {metrics.e2e_s(got).mean():.2f}, {metrics.ttft_s(got).mean():.2f}, {tpot:.3f}"
                )
            rows.append([f"{prompt} / {output}", *cells])
        table(["prompt / output", *kinds], rows)


def jaillet(rng: np.random.Generator, *, online: bool, scale: int = 1) -> UnitInstance:
    """Their synthetic instances: one prompt size for all requests of an instance, as in the authors' code (GitHub
    anonymouspeople111/neurips2025-code, commit 0c1dc495, ``MC-SF_synthetic.py``). It has no ranges; these are as we
    recall them from the paper: memory 30 to 50, prompts 1 to 5, outputs up to what fits; 40 to 60 requests at once, or
    a Poisson stream of 0.5 to 1.5 per unit over 40 to 60 units. ``scale`` divides memory, prompts and requests, so
    that an optimum can be proven."""
    kv = int(rng.integers(30 // scale, 50 // scale + 1))
    if online:
        span = int(rng.integers(40 // scale, 60 // scale + 1))
        arrival = np.repeat(np.arange(span), rng.poisson(rng.uniform(0.5, 1.5), span))
    else:
        arrival = np.zeros(int(rng.integers(40 // scale, 60 // scale + 1)), np.int64)
    prompt = np.full(len(arrival), rng.integers(1, max(1, 5 // scale) + 1))
    output = rng.integers(1, kv - prompt + 1)
    return UnitInstance(
        arrival=tuple(arrival.tolist()), prompt=tuple(prompt.tolist()), output=tuple(output.tolist()), kv=kv
    )


@njit
def placed(arrival, prompt, output, kv, order, used, start):
    """Each in this order as early as it fits beside those before; returns the sum of ends. ``used`` is overwritten."""
    used[:] = 0
    total = 0
    for i in order:
        t, k = arrival[i], 0
        while k < output[i]:
            if used[t + k] + prompt[i] + k + 1 > kv:
                t, k = t + 1, 0
            else:
                k += 1
        for k in range(output[i]):
            used[t + k] += prompt[i] + k + 1
        start[i] = t
        total += t + output[i]
    return total


def searched(instance: UnitInstance, starts: tuple[int, ...], moves: int) -> tuple[int, ...]:
    """The best starts met while one request after another is moved in the order of starts, never for the worse."""
    rng, n = np.random.default_rng(0), len(starts)
    columns = [np.array(column) for column in (instance.arrival, instance.prompt, instance.output)]
    order, used = (
        np.argsort(starts, kind="stable"),
        np.zeros(instance.horizon + max(instance.output), np.int64),
    )
    trial, best, least = np.empty(n, np.int64), starts, sum(starts) + sum(instance.output)
    for i, j in rng.integers(0, n, (moves, 2)):
        other = np.insert(np.delete(order, i), j, order[i])
        total = placed(*columns, instance.kv, other, used, trial)
        if total <= least:
            order = other
        if total < least:
            best, least = tuple(trial.tolist()), total
    return best


def figure_mcsf(instances: int, seconds: float, scale: int, moves: int) -> None:
    rows = []
    for online in (False, True):
        rng, ratios, proven, sizes = np.random.default_rng(1), [], [], []
        for _ in range(instances):
            instance = jaillet(rng, online=online, scale=scale)
            starts = mcsf_starts(instance)
            begin = searched(instance, starts, moves)
            value, optimal = latency(instance, begin), False
            if seconds:
                solution = solve(instance, Limits(time_s=seconds, workers=2), hint=begin)
                value, optimal = solution.value, solution.status is Status.OPTIMAL
            ratios.append(latency(instance, starts) / value)
            sizes.append(len(instance.prompt))
            if optimal:
                proven.append(ratios[-1])
        rows.append(
            ["online" if online else "at once", f"{min(sizes)} to {max(sizes)}", f"{np.mean(ratios):.4f}",
             f"{np.max(ratios):.4f}", f"{len(proven)} of {instances}",
             f"{np.mean(proven):.4f}" if proven else "n/a"]
        )  # fmt: skip
    print(f"MC-SF over the best of {moves:,} moves and {seconds:g} s of CP-SAT, 1/{scale} of their size:\n")
    table(["arrivals", "requests", "mean", "largest", "proven best", "mean of those"], rows)


def figure_wins(requests: int) -> None:
    from planner.axes import parse_axes, plan_from_axes
    from planner.bound_report import bound_report
    from planner.question import Question
    from profiles.fleet import homogeneous
    from profiles.huggingface import load_model
    from tests.benchmarks.tightness import loads, traces

    model, fleet = load_model("llama-3.1-70b"), homogeneous("h100", gpus=8)
    plan = plan_from_axes(model, parse_axes("tp=8"))
    names = ("mc-sf", "longest ahead", "longest remaining", "work ahead", "priced")
    for objective in ("latency", "makespan"):
        print(f"{objective} over its bound, first {requests} requests:\n")
        rows = []
        for trace in traces(requests):
            for load, loaded in loads(trace).items():
                question = Question(model=model, fleet=fleet, trace=loaded)
                report = bound_report(question, plan, objective, silicon=False, explain=False)
                run = [each for each in report.schedulers if each.contender.runs_on and each.ratio]
                policies = [each for each in run if each.contender.rules is None]
                cells = []
                for those in (policies, run):
                    best = min(those, key=lambda each: each.ratio or math.inf)
                    cells.append(f"{best.ratio:.3f} {best.name}")
                for name in names:
                    ratio, said = next(
                        (each.ratio, each.name.removeprefix(name))
                        for each in report.schedulers
                        if each.name.startswith(name)
                    )
                    cells.append(f"{ratio:.3f}{said}" if ratio else "rejects")
                rows.append([trace.name, load, *cells])
        table(["trace", "load", "engines, 256 sequences", "engines, any cap", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", choices=("map", "kv", "lengths", "hybrid", "mcsf", "wins"))
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--instances", type=int, default=10, help="of each kind, for mcsf")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of CP-SAT for each instance, for mcsf; 0 for none"
    )
    parser.add_argument("--scale", type=int, default=1, help="instances of a smaller size, for mcsf")
    parser.add_argument("--moves", type=int, default=10_000, help="of a local search before that, for mcsf")
    asked = parser.parse_args()
    if asked.figure == "mcsf":
        figure_mcsf(asked.instances, asked.seconds, asked.scale, asked.moves)
    else:
        globals()[f"figure_{asked.figure}"](asked.requests)


if __name__ == "__main__":
    main()
