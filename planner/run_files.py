"""Measured runs in one file: results of a benchmark client, or a dump of a server's counters.

Benchmark clients write, per request in the order of sending, ``input_lens``, ``output_lens``, ``ttfts`` and
``itls`` (seconds; a list each), besides ``request_rate`` and ``max_concurrency``:

* ``vllm bench serve --save-result --save-detailed`` (vllm/benchmarks/serve.py as of v0.11; ``start_times`` and
  ``latencies`` in later versions, ``model_id`` throughout, and whatever ``--metadata NAME=VALUE`` says: a
  ``plan`` of ours is read),
* SGLang's ``bench_serving --output-file FILE --output-details`` (python/sglang/bench_serving.py as of 0.4 and
  0.5): one such object a line, without start times and without the model.

Times are the client's: they hold the network and the server's front end, which the simulator does not.
Without start times arrivals are drawn as the client drew them, or follow where it kept a fixed number of
requests in flight.

vLLM's ``/metrics`` (v0.4 to v0.19) has sums and counts of ``vllm:time_to_first_token_seconds``,
``vllm:inter_token_latency_seconds`` (``vllm:time_per_output_token_seconds`` before 0.11),
``vllm:request_time_per_output_token_seconds`` and ``vllm:e2e_request_latency_seconds``.
"""

import heapq
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.axes import AxisValue, parse_axes
from planner.measured import (
    FloatArray,
    Run,
    Told,
    device_of,
    engine_of,
    finished,
    means_of,
    model_of,
    number_of,
    settings_of,
    tokens_of,
    trace_of,
)
from profiles.errors import InputError
from traces.read import read_trace

_LISTS = ("input_lens", "output_lens", "ttfts", "itls")

_HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "tpot": ("request_time_per_output_token_seconds",),
    "e2e": ("e2e_request_latency_seconds",),
}
_SAMPLE = re.compile(r'^vllm:(\w+)_(sum|count)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(\S+)', re.MULTILINE)


def bench_runs(path: Path, text: str, told: Told) -> list[Run]:
    """The runs of a benchmark client's file: one object, or one a line."""
    found = list(_objects(path, text))
    return [
        _bench(
            f"{path}:{line}" if len(found) > 1 else str(path),
            record,
            path,
            told,
            line if len(found) > 1 else 0,
        )
        for line, record in found
    ]


def _objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and value of each JSON object, spread over lines or one a line."""
    decoder, at, end = json.JSONDecoder(), 0, len(text)
    while True:
        while at < end and text[at].isspace():
            at += 1
        if at == end:
            return
        line = text.count("\n", 0, at) + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            raise InputError(f"{path}:{line}: not a whole JSON object") from None
        if not isinstance(value, dict):
            raise InputError(f"{path}:{line}: expected the JSON object of a benchmark")
        yield line, value


def _bench(where: str, record: Mapping[str, Any], path: Path, told: Told, line: int) -> Run:
    absent = [name for name in _LISTS if not isinstance(record.get(name), list)]
    if absent:
        raise InputError(
            f"{where}: no {absent[0]}; expected results written with --save-detailed (vllm bench serve) "
            "or --output-details (SGLang's bench_serving)"
        )
    count = len(record["input_lens"])
    if not count or any(len(record[name]) != count for name in _LISTS):
        raise InputError(f"{where}: {', '.join(_LISTS)}: expected lists of the same length, at least 1")
    numbers = [_request(where, record, at) for at in range(count)]
    prompt, output = np.array([row[:2] for row in numbers], np.int64).T
    ttft, e2e = np.array([row[2:] for row in numbers]).T
    arrival, how = _arrivals(where, record, e2e, told.seed)
    keep = np.flatnonzero(output > 0)
    trace, lost = trace_of(where, list(zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)))
    keep = keep[np.argsort(arrival[keep], kind="stable")]
    gaps = output[keep] - 1
    tpot = np.full(len(keep), np.nan)
    tpot[gaps > 0] = (e2e - ttft)[keep][gaps > 0] / gaps[gaps > 0]
    times = {"ttft": ttft[keep], "tpot": tpot, "e2e": e2e[keep]}
    sglang = "sglang" in str(record.get("backend", ""))
    engine, notes = engine_of("sglang" if sglang else "vllm", "", told)
    model = str(record.get("model_id") or "")
    device, guess = device_of(path, told)
    rate = record.get("request_rate")
    traffic = f"{rate}/s" if isinstance(rate, int | float) and math.isfinite(rate) else "at once"
    if record.get("max_concurrency"):
        traffic += f", at most {record['max_concurrency']} in flight"
    name = f"{path.stem} {line}" if line else path.stem
    return finished(
        where, told, _named_plan(where, record, told),
        name=name,
        group=f"{record.get('dataset_name') or 'requests'} {traffic}",
        label="",
        model=model,
        device=device,
        engine=engine,
        settings=settings_of("", "sglang" if sglang else "vllm", engine, model_of(model, told, where)),
        trace=replace(trace, name=name),
        mean_s=means_of(times, gaps),
        request_s=times,
        notes=(*guess, *notes, *how, *lost, f"{path.name}: times are the client's, network included"),
    )  # fmt: skip


def _named_plan(where: str, record: Mapping[str, Any], told: Told) -> dict[str, AxisValue]:
    plan = record.get("plan")
    if plan is None and not told.axes:
        raise InputError(f"{where}: on which plan was this measured? give --plan, as in --plan tp=8")
    try:
        return parse_axes(str(plan)) if plan is not None else {}
    except InputError as error:
        raise InputError(f"{where}: plan: {error}") from None


def _request(where: str, record: Mapping[str, Any], at: int) -> tuple[int, int, float, float]:
    """Prompt and output tokens, TTFT and E2E of one request; a failed one has no output."""
    itls, latencies = record["itls"][at], record.get("latencies")
    if not isinstance(itls, list):
        raise InputError(f"{where}: itls[{at}]: expected a list of seconds")

    def value(name: str) -> float:
        found = number_of(where, f"{name}[{at}]", record[name][at], least=0.0)
        return 0.0 if found is None else found

    prompt, output = (
        tokens_of(where, f"{name}[{at}]", value(name)) for name in ("input_lens", "output_lens")
    )
    errors = record.get("errors")
    if isinstance(errors, list) and at < len(errors) and errors[at]:
        output = 0
    ttft = value("ttfts")
    gaps = sum(number_of(where, f"itls[{at}]", gap, least=0.0) or 0.0 for gap in itls)
    if isinstance(latencies, list) and len(latencies) == len(record["ttfts"]):
        return prompt, output, ttft, max(ttft, value("latencies"))
    return prompt, output, ttft, ttft + gaps


def _arrivals(
    where: str, record: Mapping[str, Any], e2e: FloatArray, seed: int
) -> tuple[FloatArray, tuple[str, ...]]:
    """When each request was sent, and a note where that is not in the file.

    A client draws gaps from a Gamma distribution of shape ``burstiness``; one that keeps at most C requests
    in flight sends the next when its turn has come and one of C has ended, in the order of the file.
    """
    count = len(e2e)
    starts = record.get("start_times")
    if isinstance(starts, list) and len(starts) == count:
        return np.array([number_of(where, "start_times", s, least=0.0) or 0.0 for s in starts]), ()
    rate = record.get("request_rate")
    if rate is None:
        raise InputError(f"{where}: neither start_times nor request_rate; expected one of them")
    endless = rate in ("inf", math.inf)
    sent, notes = np.zeros(count), []
    if not endless:
        shape = number_of(where, "burstiness", record.get("burstiness", 1.0)) or 1.0
        mean = 1 / (number_of(where, "request_rate", rate) or 1.0)
        sent = np.cumsum(np.random.default_rng(seed).gamma(shape, mean / shape, count))
        notes.append(f"arrivals are drawn at {rate}/s with seed {seed}: the file has no start times")
    limit = record.get("max_concurrency")
    if limit is not None:
        most = tokens_of(where, "max_concurrency", number_of(where, "max_concurrency", limit))
        ends: list[float] = []
        for at in range(count):
            if len(ends) >= most:
                sent[at] = max(sent[at], heapq.heappop(ends))
            heapq.heappush(ends, sent[at] + e2e[at])
        notes.append(f"arrivals follow from at most {most} in flight: the file has no start times")
    return sent, tuple(notes)


# --- counters of a server ---------------------------------------------------------------------------------


def is_metrics(text: str) -> bool:
    return _SAMPLE.search(text) is not None


def metrics_run(path: Path, text: str, told: Told) -> Run:
    """Means over everything that one server has served since it was started."""
    totals: dict[str, float] = {}
    names: set[str] = set()
    for series, kind, labels, value in _SAMPLE.findall(text):
        amount = number_of(str(path), f"vllm:{series}_{kind}", value, least=0.0)
        totals[f"{series}_{kind}"] = totals.get(f"{series}_{kind}", 0.0) + (amount or 0.0)
        match = re.search(r'model_name="((?:[^"\\]|\\.)*)"', labels)
        if match:
            names.add(match[1])
    if len(names) > 1 and not told.model:
        raise InputError(
            f"{path}: counters of {' and '.join(sorted(names))}: expected one model, give --model"
        )
    means = {}
    for metric, histograms in _HISTOGRAMS.items():
        for name in histograms:
            if metric not in means and totals.get(f"{name}_count") and totals.get(f"{name}_sum"):
                means[metric] = totals[f"{name}_sum"] / totals[f"{name}_count"]
    if not means:
        raise InputError(
            f"{path}: no request was counted; expected vllm:e2e_request_latency_seconds_sum and the like"
        )
    if told.trace is None:
        raise InputError(f"{path}: counters do not say what was sent; give --trace")
    if not told.axes:
        raise InputError(f"{path}: on which plan was this measured? give --plan, as in --plan tp=8")
    trace = read_trace(told.trace).trace
    model = min(names, default="")
    served = totals.get("e2e_request_latency_seconds_count", float(len(trace)))
    other = f"{path.name} counts {served:.0f} requests, the trace has {len(trace)}"
    engine, notes = engine_of("vllm", "", told)
    device, guess = device_of(path, told)
    return finished(
        str(path), told, {},
        name=path.stem,
        group=trace.name,
        label="",
        model=model,
        device=device,
        engine=engine,
        settings=settings_of("", "vllm", engine, model_of(model, told, str(path))),
        trace=replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0]),
        mean_s=means,
        notes=(*guess, *notes, *((other,) if served != len(trace) else ())),
    )  # fmt: skip
