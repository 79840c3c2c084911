"""Steady state on other machines: the closed-loop runs that ``aiconfigurator-core`` ships, replayed.

    python -m tests.benchmarks.steady [--rows 300] [--seed 0] [--operations engine|vllm|none] [--picture FILE]
    python -m tests.benchmarks.steady --write-residuals    # all rows, by tables and by the roofline: five minutes

Data: ``systems/silicon_sample.csv`` in the installed package, read where it is: mean TTFT and TPOT of
aggregated servers that keep ``silicon_concurrency`` requests going: the n-th is sent when the
(n - concurrency)-th is answered. Arrivals are found by replaying a row until they follow from its own
finishes (``closed_loop``). Rows are drawn evenly over strata (device, engine, model, format). What the file
does not say is assumed, for all rows alike: ``SHAPES``. Beside it the package's own estimate
(``BaseBackend.run_agg`` with its defaults) where it has one.
"""

import argparse
import json
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from planner.placement import place
from profiles.compile import Compiler
from profiles.device import load_device
from profiles.engine import load_engine
from profiles.errors import InputError
from profiles.fleet import Pool, homogeneous
from profiles.huggingface import load_model
from profiles.memory import stage_weight_bytes
from profiles.model import Model, MoE
from profiles.ops import FloatArray, Operations
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerModel
from profiles.roofline import Roofline
from profiles.silicon import Silicon
from profiles.stepcost import PS
from simulator.engine import simulate
from simulator.outcome import Outcome
from tests.benchmarks import steady_picture, steady_residuals
from tests.benchmarks.steady_servers import Started, started
from traces.trace import Trace

SHAPES = """assumed for all rows alike: host overheads of vllm-v1, none in an iteration of engines that overlap it;
gates and budgets as in steady_servers.py; vLLM: policy vllm-v1, SGLang: vllm-v0 (prompts first, not mixed),
TensorRT-LLM: orca (whole prompts, mixed); fp8 scales in blocks where the checkpoint has them,
else static; KV cache in fp8 beside quantized weights on Blackwell, in TensorRT-LLM and for the public Llama of
vLLM, else bf16; gpt-oss beside MXFP8 on Blackwell, bf16 on Hopper; lengths of the public database (InferenceX)
uniform from 0.8 to 1 of the nominal, else the nominal; ten times the concurrency in requests, the first burst
included"""
DEVICES = {
    "h100_sxm": "h100-sxm-80gb",
    "h200_sxm": "h200-sxm-141gb",
    "b200_sxm": "b200-sxm-180gb",
    "gb200": "gb200-nvl72",
}
MODELS = {
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-r1",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
}
"""Quantized copies of models that have names."""
THEIR_NAMES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
}
"""Configurations that the package ships under another name."""
FORMATS = {
    "fp8": ("fp8", "fp8"), "fp4": ("fp4", "fp4"), "mxfp4": ("mxfp4", "fp8"), "mxfp4 weights": ("mxfp4", "bf16"),
    "int4": ("int4", "bf16"), "bf16": ("bf16", "bf16"),
}  # fmt: skip
"""Weights and activations."""
POLICIES = {"vllm": "vllm-v1", "sglang": "vllm-v0", "trtllm": "orca"}
FREE_SHARE = 0.8
"""``free_gpu_memory_fraction`` of TensorRT-LLM in the scripts of the public database."""
PUBLIC = ("db-dump/", "source_file=2026-", "source_file=kimi-")
"""Sources that are the public database InferenceX: the last repeats its rows under other names."""
BLACKWELL = ("b200_sxm", "gb200")
FAMILIES = ("Llama", "Qwen3", "DeepSeek", "gpt-oss", "Kimi", "MiniMax")
APART = 0.3
SWEEPS = 20
"""Most replays of a row; a generation of requests (there are ``FLOWS``) is right after each."""
CLIENT_S = 1e-6
"""Until a client sends again. Above 0, so that the server has begun its next iteration without the request."""
FLOWS = 10
"""Requests for each that runs at once, as the public database's client sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured server. Seconds; ``concurrency`` counts requests of the whole server."""

    id: str
    system: str
    engine: str
    model: str
    name: str
    family: str
    sparse: bool
    format: str
    public: bool
    isl: int
    osl: int
    concurrency: int
    plan: Plan
    server: Started
    ttft_s: float
    tpot_s: float
    gemm_mode: str | None
    moe_mode: str | None

    @property
    def stratum(self) -> tuple[str, ...]:
        return self.system, self.engine, self.family, self.format


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Seconds; ``theirs`` is the package's own estimate where it has one; ``parts``: shares of busy time."""

    row: Row
    ttft_s: float
    tpot_s: float
    theirs: tuple[float, float] | None
    why_not: str
    parts: dict[str, float]


def sample_file() -> Path | None:
    """The measurements in the installed package, None where it is absent."""
    spec = find_spec("aiconfigurator_core")
    for root in (spec and spec.submodule_search_locations) or ():
        path = Path(root, "systems", "silicon_sample.csv")
        if path.exists():
            return path
    return None


class Dropped(Exception):
    """A row that cannot be replayed, and why."""


def read_rows(path: Path) -> tuple[list[Row], Counter[str]]:
    """Rows that can be replayed, and how many cannot, by reason."""
    import pandas as pd

    rows, dropped = [], Counter[str]()
    seen = set()
    for record in pd.read_csv(path).to_dict("records"):
        try:
            row = read_row(record)
            shape = row.system, row.engine, row.format, row.isl, row.osl, row.concurrency
            measured = (*shape, f"{row.ttft_s:.4g}", f"{row.tpot_s:.3g}")  # one source rounds
            if measured in seen:
                raise Dropped("the same measurement twice")
            seen.add(measured)
            rows.append(row)
        except Dropped as why:
            dropped[str(why)] += 1
    kept = without_contradictions(rows)
    dropped[f"one server measured with TPOT more than {APART:.0%} apart"] += len(rows) - len(kept)
    return kept, dropped


def without_contradictions(rows: list[Row]) -> list[Row]:
    """Rows but those whose server was measured again with a very different TPOT: something is not in the columns.

    Mostly DeepSeek on TensorRT-LLM, 1.3 to 2.3 times apart at like TTFT, as with and without speculation.
    """
    alike: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def server(row: Row) -> tuple[Any, ...]:
        return *row.stratum, row.isl, row.osl, row.concurrency, row.plan.label

    for row in rows:
        alike[server(row)].append(row.tpot_s)
    return [row for row in rows if max(alike[server(row)]) <= (1 + APART) * min(alike[server(row)])]


def read_row(record: dict[str, Any]) -> Row:
    """One row of the file as a plan and its load."""
    if record["mode"] != "agg":
        raise Dropped("prefill and decode on servers of their own")
    if record["system"] not in DEVICES:
        raise Dropped(f"no device {record['system']}")
    path = record["model_path"]
    try:
        model = load_model(MODELS.get(path, path))
    except InputError:
        raise Dropped(f"no model {path}") from None
    source = record["silicon_data_source"]
    words = dict(word.strip().split("=", 1) for word in source.split(";") if "=" in word)
    if not words.get("silicon_concurrency", "").isdigit():
        raise Dropped("no concurrency")
    public = source.startswith(PUBLIC)
    sparse = any(isinstance(block.ffn, MoE) for block in model.decoder.blocks)
    tp, dp, moe_tp, ep = widths(record, sparse=sparse, public=public)
    concurrency = int(words["silicon_concurrency"])
    if not sparse:  # of several copies behind one router
        concurrency = min(concurrency, int(record["batch_size"]))
    precision = record["precision"]
    format_ = precision if isinstance(precision, str) else model.weight_format
    if "gpt-oss" in path:  # the checkpoint is in MXFP4; only Blackwell multiplies it with 8 bits
        format_ = "mxfp4" if record["system"] in BLACKWELL else "mxfp4 weights"
    weights, activations = FORMATS[format_]
    seqs = concurrency  # the client limits what runs, ranks need not be even
    engine, system = record["backend"], record["system"]
    narrow_kv = weights != "bf16" and (
        engine == "trtllm" or system in BLACKWELL or (public and model.name.startswith("llama"))
    )
    server = started(
        engine=engine, system=system, family=family_of(model.name), format=format_, public=public,
        isl=int(record["isl"]), osl=int(record["osl"]), tp=tp, dp=dp, concurrency=concurrency,
    )  # fmt: skip
    plan = Plan(
        layers_per_stage=(len(model.decoder.layers),),
        attn_tp=tp, attn_dp=dp, ffn_tp=moe_tp, ffn_ep=ep,
        weight_format=weights, activation_format=activations, kv_format="fp8" if narrow_kv else "bf16",
        engine=EngineSettings(policy=POLICIES[engine], max_seqs=seqs, token_budget=max(server.token_budget, seqs)),
    )  # fmt: skip
    gemm_mode, moe_mode = (
        mode if isinstance(mode := record[name], str) else None
        for name in ("gemm_quant_mode", "moe_quant_mode")
    )
    if engine == "trtllm":  # its share is of what weights leave free
        held = stage_weight_bytes(model, plan)[0] / load_device(DEVICES[system]).memory_bytes
        share = min(0.99, held + FREE_SHARE * (1 - held))
        plan = replace(plan, engine=replace(plan.engine, gpu_memory_utilization=share))
    return Row(
        id=record["id"], system=system, engine=engine, model=model.name, name=path,
        family=family_of(model.name), sparse=sparse, format=format_, public=public,
        isl=int(record["isl"]), osl=int(record["osl"]), concurrency=concurrency, plan=plan, server=server,
        ttft_s=record["silicon_ttft_ms"] / 1e3, tpot_s=record["silicon_tpot_ms"] / 1e3,
        gemm_mode=gemm_mode, moe_mode=moe_mode,
    )  # fmt: skip


def family_of(name: str) -> str:
    return next(family for family in FAMILIES if family.lower() in name.lower())


def widths(record: dict[str, Any], *, sparse: bool, public: bool) -> tuple[int, int, int, int]:
    """attn_tp, attn_dp, ffn_tp, ffn_ep of one model replica.

    Columns are as they are, but: where ``attention_dp_size`` is not given, experts say it; and in the public
    database E x E ways of experts are E, E of tp and of dp are E of tp. The same measurements to the last digit
    stand there with both: 64/1/8/8 (tp, dp, moe_tp, moe_ep) and 8/1/1/8, 1/64/8/8 and 1/8/1/8, 4/4/1/16 and 4/1/1/4.
    """
    tp, dp, moe_tp, ep = (
        0 if np.isnan(record[name]) else int(record[name])
        for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    )
    if record["pp_size"] != 1:
        raise Dropped("pipeline")
    if not sparse:
        return tp, 1, tp, 1
    moe_tp, ep = max(1, moe_tp), max(1, ep)
    if public and moe_tp == ep > 1:
        tp, dp, moe_tp = (ep, 1, 1) if dp <= 1 else (1, dp // ep, 1)
    elif public and tp == dp > 1 and ep == tp * dp:
        dp, ep = 1, tp
    dp = dp or max(1, moe_tp * ep // tp)
    if tp * dp != moe_tp * ep:
        raise Dropped("attention and experts on different numbers of devices")
    if tp * dp > 8:
        raise Dropped("columns of several groups")
    return tp, dp, moe_tp, ep


def stratified(rows: list[Row], count: int, seed: int) -> list[Row]:
    """``count`` rows, as many of every stratum as it has, drawn in turns."""
    generator = np.random.default_rng(seed)
    strata: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for i in generator.permutation(len(rows)):
        strata[rows[i].stratum].append(rows[i])
    taken: list[Row] = []
    while len(taken) < min(count, len(rows)):
        for name in sorted(strata):
            if strata[name] and len(taken) < count:
                taken.append(strata[name].pop())
    return sorted(taken, key=lambda row: (row.stratum, row.id))


class Replays:
    """Rows to replay; compilers are kept."""

    def __init__(self, operations: str = "engine", host: str = "vllm-v1") -> None:
        self.source, self.host = operations, host
        self._compilers: dict[tuple[str | bool, ...], tuple[Compiler, Pool]] = {}

    def _compiler(self, row: Row) -> tuple[Compiler, Pool]:
        key = (row.system, row.engine, row.model, row.server.overlaps)
        if key not in self._compilers:
            pool = homogeneous(DEVICES[row.system], nodes=2).pools[0]
            device = pool.device
            operations: Operations = Roofline(device)
            if self.source != "none":
                tables = row.engine if self.source == "engine" else self.source
                blocks = _model(row).weight_format == "fp8" or (row.family == "Qwen3" and row.sparse)
                scales = "block" if blocks else "static"
                operations = Silicon(row.system, engine=tables, fallback=operations, fp8_scales=scales)
            host = load_engine(self.host)
            if row.server.overlaps:
                host = replace(host, iteration_s=0.0)
            compiler = Compiler(_model(row), device, operations, engine=host, power=PowerModel(device))
            self._compilers[key] = compiler, pool
        return self._compilers[key]

    def __call__(self, row: Row, seed: int) -> tuple[float, float, dict[str, float]]:
        """Mean seconds of TTFT and TPOT, and shares of the busy time.

        Raises
        ------
        Dropped
            When the plan does not fit by our account of memory.
        """
        compiler, pool = self._compiler(row)
        plan, trace = row.plan, trace_of(row, seed)
        placed = place(plan, pool)
        longest = int((trace.prompt_tokens + trace.output_tokens).max())
        step = compiler.compile(
            plan,
            link_tensor=pool.link(plan.attn_tp, placed.tensor_nodes),
            link_ffn=pool.link(plan.ffn_tp * plan.ffn_ep, placed.ffn_nodes),
            max_length=longest,
            max_prompt=int(trace.prompt_tokens.max()),
        )
        if step.kv_blocks * plan.engine.block_size < longest:
            raise Dropped("does not fit by our account of memory")
        outcome, sent_s = closed_loop(
            trace, row.concurrency, lambda seen: simulate(seen, step, plan.engine), row.server
        )
        ttft_s, tpot_s = means(outcome, sent_s)
        busy = sum(outcome.breakdown_ps.values())
        return ttft_s, tpot_s, {name: ps / busy for name, ps in outcome.breakdown_ps.items()}


def _model(row: Row) -> Model:
    return load_model(MODELS.get(row.name, row.name))


def trace_of(row: Row, seed: int) -> Trace:
    """``FLOWS`` times as many requests as run at once, all at time 0."""
    generator = np.random.default_rng(seed)
    count = FLOWS * row.concurrency

    def lengths(nominal: int) -> Any:
        low = int(0.8 * nominal) if row.public else nominal
        return generator.integers(low, nominal, count, endpoint=True)

    return Trace(arrival_s=np.zeros(count), prompt_tokens=lengths(row.isl), output_tokens=lengths(row.osl))


def closed_loop(
    trace: Trace, concurrency: int, serve: Callable[[Trace], Outcome], server: Started
) -> tuple[Outcome, FloatArray]:
    """What happens when the n-th request is sent as the (n - concurrency)-th is answered, and when they are sent.

    When is only known from serving it: arrivals follow from the finishes of the sweep before. They agree from
    the start of the trace on, longer with every sweep; what is left at the end moves the means little.
    """
    outcome = serve(trace)
    sent_s = trace.arrival_s
    before = means(outcome, sent_s)
    for _ in range(SWEEPS):
        sent_s = np.zeros(len(trace))
        sent_s[concurrency:] = np.sort(outcome.finish_ps)[:-concurrency] / PS + CLIENT_S
        outcome = serve(replace(trace, arrival_s=server.seen_s(sent_s, before[1])))
        now = means(outcome, sent_s)
        if max(abs(a / b - 1) for a, b in zip(now, before, strict=True)) < 1e-3:
            break
        before = now
    return outcome, sent_s


def means(outcome: Outcome, sent_s: FloatArray) -> tuple[float, float]:
    """TTFT and TPOT in seconds, over all requests."""
    tpot_ps = (outcome.finish_ps - outcome.first_token_ps) / (outcome.output_tokens - 1)
    return float((outcome.first_token_ps / PS - sent_s).mean()), float(tpot_ps.mean()) / PS


class Theirs:
    """Estimates of ``aiconfigurator-core`` itself: its newest tables, its default of one prompt a step."""

    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)

    def __call__(self, row: Row) -> tuple[tuple[float, float] | None, str]:
        """Seconds of TTFT and TPOT, or None and why not."""
        modes = [(None, None), ("bfloat16", "bfloat16")]
        why = ""
        for kv, attention in modes:
            try:
                return self._estimate(row, kv, attention), ""
            except Exception as error:
                why = why or type(error).__name__
        return None, why

    def _estimate(self, row: Row, kv: str | None, attention: str | None) -> tuple[float, float]:
        from aiconfigurator_core.sdk import config
        from aiconfigurator_core.sdk.backends.factory import get_backend
        from aiconfigurator_core.sdk.config_builders import build_model_config
        from aiconfigurator_core.sdk.models import get_model
        from aiconfigurator_core.sdk.perf_database import get_database

        plan = row.plan
        own = row.family == "gpt-oss"  # formats of the checkpoint
        settings = build_model_config(
            plan.attn_tp, 1, plan.attn_dp, plan.ffn_tp, plan.ffn_ep,
            None if own else row.gemm_mode, kv, attention, None if own else row.moe_mode,
        )  # fmt: skip
        model = get_model(THEIR_NAMES.get(row.name, row.name), settings, row.engine)
        each = -(-row.concurrency // plan.attn_dp)
        load = config.RuntimeConfig(batch_size=each, isl=row.isl, osl=row.osl)
        database = get_database(row.system, row.engine, "current")
        summary = get_backend(row.engine).run_agg(model, database, load, ctx_tokens=row.isl)
        found = summary.get_summary_df().iloc[0]
        return float(found["ttft"]) / 1e3, float(found["tpot"]) / 1e3


def run(
    rows: Iterable[Row], replay: Replays, seed: int, theirs: Theirs | None = None
) -> tuple[list[Result], Counter[str]]:
    """Every row replayed; those that cannot be, by reason."""
    results, dropped = [], Counter[str]()
    for row in rows:
        try:
            ttft_s, tpot_s, parts = replay(row, seed)
        except Dropped as why:
            dropped[str(why)] += 1
            continue
        estimate, why_not = theirs(row) if theirs else (None, "not asked")
        results.append(
            Result(row=row, ttft_s=ttft_s, tpot_s=tpot_s, theirs=estimate, why_not=why_not, parts=parts)
        )
    return results, dropped


def off(results: list[Result], *, theirs: bool = False) -> tuple[FloatArray, FloatArray]:
    """Signed errors of TTFT and TPOT as shares."""
    pairs = [(r.theirs if theirs else (r.ttft_s, r.tpot_s)) or (np.nan, np.nan) for r in results]
    predicted = np.array(pairs).reshape(-1, 2)
    measured = np.array([(r.row.ttft_s, r.row.tpot_s) for r in results]).reshape(-1, 2)
    errors = predicted / measured - 1
    return errors[:, 0], errors[:, 1]


GROUPS: dict[str, Callable[[Row], str]] = {
    "device": lambda row: row.system,
    "engine": lambda row: row.engine,
    "family": lambda row: row.family,
    "experts": lambda row: "experts" if row.sparse else "dense",
    "format": lambda row: row.format,
    "running": lambda row: next(
        f"<= {most} at once" for most in (4, 16, 64, 10**6) if row.concurrency <= most
    ),
}


def table(results: list[Result]) -> str:
    """Median absolute and median signed error of ours; of both where both have an answer."""
    lines = [
        "                       ours, all rows      |  rows both answer",
        "error in %        rows   TTFT       TPOT   |  rows   TTFT  theirs   TPOT  theirs",
    ]

    def line(name: str, some: list[Result]) -> str:
        both = [r for r in some if r.theirs]
        ours = [f"{100 * np.median(np.abs(e)):5.0f} {100 * np.median(e):+4.0f}" for e in off(some)]
        words = f"{name[:17]:17s} {len(some):4d} {ours[0]} {ours[1]}  | {len(both):5d}"
        if both:
            for mine, other in zip(off(both), off(both, theirs=True), strict=True):
                words += f" {100 * np.median(np.abs(mine)):6.0f} {100 * np.median(np.abs(other)):7.0f}"
        return words

    lines.append(line("all", results))
    for key in GROUPS.values():
        lines += [
            line(name, [r for r in results if key(r.row) == name])
            for name in sorted({key(r.row) for r in results})
        ]
    return "\n".join([*lines, "each: median absolute; in the left half then the median signed error"])


def picture(results: list[Result]) -> str:
    """Ratios of predicted to measured, ours and theirs, of rows that both answer: an SVG."""
    both = [r for r in results if r.theirs]
    groups = {"all": both}
    for key in (GROUPS["device"], GROUPS["engine"], GROUPS["experts"]):
        groups |= {
            name: [r for r in both if key(r.row) == name] for name in sorted({key(r.row) for r in both})
        }
    panels = {}
    for i, metric in enumerate(("TTFT", "TPOT")):
        panels[metric] = {name: (1 + off(rs)[i], 1 + off(rs, theirs=True)[i]) for name, rs in groups.items()}
    return steady_picture.svg(panels)


def write_residuals(rows: list[Row], seed: int) -> None:
    """Of all rows, by the tables and by the roofline, as ``profiles/residuals.json``."""
    found = []
    for operations, times in (("engine", "tables"), ("none", "roofline")):
        results, dropped = run(rows, Replays(operations), seed)
        print(f"{times}: {len(results)} servers, {sum(dropped.values())} dropped")
        servers = [steady_residuals.seen(r, DEVICES[r.row.system]) for r in results]
        found += steady_residuals.groups(servers, times)
    source = f"silicon_sample.csv of aiconfigurator-core 0.12, replayed by tests/benchmarks/steady.py (seed {seed})"
    steady_residuals.write(found, source)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", choices=("engine", "vllm", "none"), default="engine")
    parser.add_argument("--host", default="vllm-v1", help="engine profile of host overheads")
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="SVG of predicted / measured by group")
    parser.add_argument("--write-residuals", action="store_true")
    asked = parser.parse_args()
    path = sample_file()
    if path is None:
        sys.exit("aiconfigurator-core is not installed: nothing to replay")
    rows, dropped = read_rows(path)
    if asked.write_residuals:
        write_residuals(rows, asked.seed)
        return
    sample = stratified(rows, asked.rows, asked.seed)
    results, more = run(sample, Replays(asked.operations, asked.host), asked.seed, Theirs())
    print(
        f"{len(rows)} rows can be replayed, {len(sample)} drawn with seed {asked.seed}, {len(results)} used"
    )
    for why, count in (dropped + more).most_common():
        print(f"  dropped {count:5d}: {why}")
    print(f"  no estimate of theirs: {dict(Counter(r.why_not for r in results if r.why_not))}")
    print(table(results))
    for i, name in enumerate(("TTFT", "TPOT")):
        order = np.argsort(-np.abs(np.log1p(off(results)[i])))
        for r in [results[j] for j in order[: asked.worst]]:
            pair = ((r.ttft_s, r.row.ttft_s), (r.tpot_s, r.row.tpot_s))[i]
            print(f"{name} {pair[0] * 1e3:9.1f} for {pair[1] * 1e3:9.1f} ms  {r.row.id} [{r.row.plan.label}]")
    print(SHAPES)
    if asked.picture:
        asked.picture.write_text(picture(results), encoding="utf-8")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(r) for r in results], default=str, indent=1))


if __name__ == "__main__":
    main()
