"""Quantiles of the errors of the steady state, by kind of server, as ``profiles/residuals.json`` holds them.

``held`` says what share of the servers of a model lies between the quantiles of the others in its group: what an
interval holds on a model that it never saw.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from profiles.efficiency import family
from profiles.ops import FloatArray
from profiles.residuals import PATH

QUANTILES = (0.05, 0.95)
LEAST, LEAST_MODELS = 30, 3
"""Servers of a group, of fewer no quantile of one in twenty is known; and models, of fewer nothing of another."""
METRICS = ("ttft", "tpot", "e2e")
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A replayed server: signed errors of ``METRICS``."""

    engine: str
    ffn: str
    chips: str
    model: str
    errors: tuple[float, float, float]


def seen(result: Any, device: str) -> Seen:
    """Of a result of the benchmark; E2E is the first token and all others at the mean time of one."""
    row = result.row
    pairs = [(result.ttft_s, row.ttft_s), (result.tpot_s, row.tpot_s)]
    pairs.append(tuple(ttft + tpot * (row.osl - 1) for ttft, tpot in zip(*pairs, strict=True)))
    errors = tuple(predicted / measured - 1 for predicted, measured in pairs)
    return Seen(
        engine=ENGINES[row.engine], ffn="experts" if row.sparse else "dense", chips=family(device) or "other",
        model=row.model, errors=errors,
    )  # fmt: skip


def quantiles(servers: Sequence[Seen]) -> FloatArray:
    """[low and high, metric]."""
    return np.quantile([server.errors for server in servers], QUANTILES, axis=0)


def held(servers: Sequence[Seen]) -> list[float]:
    """Share of servers inside the quantiles of the other models, by metric."""
    inside = []
    for model in sorted({server.model for server in servers}):
        low, high = quantiles([server for server in servers if server.model != model])
        errors = np.array([server.errors for server in servers if server.model == model])
        inside.append((errors >= low) & (errors <= high))
    return [round(float(share), 3) for share in np.concatenate(inside).mean(axis=0)]


def groups(servers: Sequence[Seen], times: str) -> list[dict[str, Any]]:
    """Every group of enough servers and models, as in the file."""
    found = []
    names = [sorted({getattr(server, name) for server in servers}) for name in ("engine", "ffn", "chips")]
    for engine, ffn, chips in product(*([*each, "all"] for each in names)):
        chosen = [
            s
            for s in servers
            if engine in (s.engine, "all") and ffn in (s.ffn, "all") and chips in (s.chips, "all")
        ]
        models = {server.model for server in chosen}
        if len(chosen) < LEAST or len(models) < LEAST_MODELS or (ffn == "all" and chips != "all"):
            continue
        low, high = quantiles(chosen)
        found.append(
            {
                "engine": engine, "ffn": ffn, "chips": chips, "times": times, "servers": len(chosen),
                "models": len(models),
                "residuals": {
                    name: {"low": round(float(a), 3), "high": round(float(b), 3)}
                    for name, a, b in zip(METRICS, low, high, strict=True)
                },
                "held": dict(zip(METRICS, held(chosen), strict=True)),
            }
        )  # fmt: skip
    return found


def write(found: Sequence[dict[str, Any]], source: str) -> None:
    """The file, a group a line."""
    head = {
        "source": source,
        "definition": "5 and 95 % quantiles of predicted / measured - 1 of means over a server's requests; held: "
        "share of the servers of a model between the quantiles of the others",
        "host": "vllm-v1",
        "runs": {"vllm-v0": ["dense", "hopper", "tables"]},
    }
    lines = ",\n".join(f"  {json.dumps(group)}" for group in found)
    text = json.dumps(head, indent=1)[:-2] + f',\n "groups": [\n{lines}\n ]\n}}\n'
    PATH.write_text(text, encoding="utf-8")
