"""What each number of an answer means, what it rests on, and where the facts below it come from."""

import re
from collections.abc import Iterator

from planner.printable import quantity
from planner.question import Question
from planner.ranking import PlanResult
from profiles.engine import load_engine
from profiles.fleet import Pool

_TIMES = "simulated times"
_POWER = "simulated times, power model"
_COUNTED = "counted in the simulation"

_LATENCIES = {
    "ttft": "first token - arrival, queueing included",
    "tpot": "(last token - first token) / (output tokens - 1), of requests with two tokens or more",
    "itl": "gap between two consecutive tokens of a request, every gap counted once",
    "e2e": "last token - arrival",
}
_STATISTICS = {"mean": "mean of", "max": "largest"}

DEFINITIONS: dict[str, tuple[str, str, str]] = {
    "requests": ("", "requests of the trace", "the trace"),
    "rejected": ("", "requests that can never be served", _COUNTED),
    "makespan_s": ("s", "first arrival to last token", _TIMES),
    "generated_tokens_per_s": ("tokens/s", "output tokens of served requests / makespan", _TIMES),
    "processed_tokens_per_s": ("tokens/s", "prompt and output tokens of served requests / makespan", _TIMES),
    "requests_per_s": ("requests/s", "served requests / makespan", _TIMES),
    "sequences_per_iteration": ("", "sequences in an iteration, mean over iterations", _COUNTED),
    "iterations": ("", "forward passes of all replicas", _COUNTED),
    "preemptions": ("", "times that a running request had to give up its KV cache", _COUNTED),
    "recomputed_tokens": ("", "tokens processed again after a preemption", _COUNTED),
    "kv_peak_share": ("%", "largest share of KV blocks in use on one rank", _COUNTED),
    "mfu": ("%", "useful FLOPs / peak FLOPs of all devices in the makespan", f"{_TIMES}, peak of the device"),
    "mbu": (
        "%",
        "bytes read / peak bandwidth of all devices in the makespan",
        f"{_TIMES}, peak of the device",
    ),
    "idle_share": ("%", "device-time of the stages with nothing to run", _TIMES),
    "energy_j": ("J", "device boards from the start of the trace to the last token, idle included", _POWER),
    "energy_per_generated_token_j": ("J", "energy / output tokens", _POWER),
    "mean_power_w": ("W", "energy / time from the start of the trace to the last token", _POWER),
    "cost_usd": (
        "USD",
        "devices x price x time from the start of the trace to the last token",
        f"{_TIMES}, price",
    ),
    "usd_per_million_generated_tokens": ("USD", "cost / output tokens x 1e6", f"{_TIMES}, price"),
    "slo_attainment": ("%", "share of requests within every per-request limit", _TIMES),
    "goodput_requests_per_s": ("requests/s", "requests within every per-request limit / makespan", _TIMES),
}
"""Unit, definition and ground of metrics that are no latency; ``simulator.metrics`` computes them."""


def definitions(result: PlanResult) -> Iterator[tuple[str, str, str, str]]:
    """(metric, value, definition, ground) of every metric of a plan, in the order of its metrics."""
    for key, value in result.metrics.items():
        if key in DEFINITIONS:
            unit, words, ground = DEFINITIONS[key]
        else:
            unit, words, ground = _latency(key)
        yield key, _said(value, unit), words, ground


def _latency(key: str) -> tuple[str, str, str]:
    name, statistic, _ = key.split("_")
    words = _STATISTICS.get(statistic) or f"{statistic[1:]}th percentile of"
    return "s", f"{words} {_LATENCIES[name]}", _TIMES


def _said(value: float | None, unit: str) -> str:
    if value is None:
        return "n/a"
    if unit == "%":
        return f"{value:.2%}"
    return quantity(value, unit) if unit else f"{value:,.6g}"


def sources(question: Question, pool: Pool) -> Iterator[tuple[str, str, str]]:
    """(fact, value, source) of the model, the devices, their price and the engine's overheads."""
    model, device, engine = question.model, pool.device, load_engine(question.engine)
    yield f"model {model.name}", f"{model.parameters() / 1e9:.4g}B parameters", _plain(model.source)
    yield f"engine overheads {engine.name}", f"{engine.iteration_s * 1e3:g} ms per iteration, " \
        f"{engine.sequence_s * 1e3:g} ms per sequence, {engine.prefill_s * 1e3:g} ms with prompt tokens", \
        _plain(f"{engine.source} {engine.error}")  # fmt: skip
    price = pool.price_usd_per_device_hour
    of_file = price is not None and price != device.price
    rates = ", ".join(f"{form} {rate / 1e12:.4g}T" for form, rate in device.dense_flops.items())
    shown = {
        "memory": f"{device.memory_bytes / 2**30:.1f} GiB",
        "bandwidth": f"{device.bandwidth / 1e12:.3g} TB/s",
        "dense_flops": rates,
        "scaleup_bandwidth": f"{device.scaleup_bandwidth / 1e9:.4g} GB/s",
        "nic_bandwidth": f"{pool.inter_bandwidth / 1e9:.4g} GB/s",
        "tdp": f"{device.tdp_w:g} W",
        "idle": f"{device.idle_w:g} W",
        "price": "none" if price is None else f"{price:g} USD per device and hour",
    }
    for fact, source in device.sources.items():
        if fact in shown:
            given = "the fleet file" if fact == "price" and of_file else _plain(source)
            yield f"{device.name}: {fact.replace('_', ' ')}", shown[fact], given


def _plain(text: str) -> str:
    """A source without the scheme of its address: the page names it, and leads nowhere.

    Examples
    --------
    >>> _plain("see https://example.org/a")
    'see example.org/a'
    """
    return re.sub(r"\b[a-z]+://", "", text)
