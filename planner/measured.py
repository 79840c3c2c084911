"""One measured run, and what every form of measurement needs to become one (``planner.runs``)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.axes import ENGINE_FIELDS, AxisValue, plan_from_axes, read_format
from planner.axes import engine_of as with_axes
from profiles.device import known_devices, load_device
from profiles.errors import InputError
from profiles.huggingface import load_model
from profiles.model import Model
from profiles.plan import EngineSettings, Plan
from simulator.engine import LONGEST_S
from traces.rows import MOST_TOKENS
from traces.trace import Trace

FloatArray = NDArray[np.float64]

METRICS = ("ttft", "itl", "tpot", "e2e")
"""Means, defined as in ``simulator.metrics``: ITL counts every gap once, TPOT every request."""

CHUNKS_BEYOND = 32768
V0_CHUNK = 512
"""vLLM before V1 chunks prompts by itself, 512 tokens at a time, where the context is longer than 32768
(vllm/engine/arg_utils.py and vllm/config.py of v0.6.0)."""

SGLANG_BUDGET = 16384
"""Default of SGLang's ``--max-prefill-tokens`` (python/sglang/srt/server_args.py)."""

_FORMAT_WORDS = {
    "fp8": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    "int4": "int4",
    "w4a16": "int4",
    "awq": "int4",
    "nvfp4": "fp4",
    "mxfp4": "mxfp4",
    "fp4": "fp4",
}
_TRAINING_WORDS = {"meta", "instruct", "chat", "it", "base", "hf", "bf16", "fp16", "dynamic", "quantized"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One server process that was measured.

    Parameters
    ----------
    name, group, label
        Of the run in its group; of runs with the same traffic (trace and rate); of the plan, in the words of
        whoever measured. Replicas of one plan are runs of their own with the same label.
    model
        As written; ``model_of`` finds ours.
    device, engine
        Our names of the device and of the engine's overheads.
    axes
        Of the plan (``planner.axes``), without engine settings.
    settings
        How the engine was started.
    trace
        What was really sent: arrivals from 0, tokens that were really produced.
    mean_s
        Measured means by metric, seconds, > 0.
    request_s
        Measured seconds per request of the trace: ``ttft``, ``tpot`` (NaN for a single token), ``e2e``, and
        ``scheduled``, counted from the first arrival.
    tables
        Directory of operation times measured on the same device, None for none.
    notes
        What was assumed or left out.
    """

    name: str
    group: str
    label: str
    model: str
    device: str
    engine: str
    axes: Mapping[str, AxisValue]
    settings: EngineSettings
    trace: Trace
    mean_s: Mapping[str, float]
    request_s: Mapping[str, FloatArray] = field(default_factory=dict)
    tables: Path | None = None
    notes: tuple[str, ...] = ()

    def plan(self, model: Model) -> Plan:
        """The plan that was measured.

        Raises
        ------
        InputError
            When the axes do not fit the model.
        """
        return replace(plan_from_axes(model, self.axes), engine=self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the user says about the runs; it counts before what their files say.

    Parameters
    ----------
    axes
        ``--plan``, engine settings included.
    trace
        The requests of a ``/metrics`` dump.
    seed
        Of arrivals that must be drawn.
    """

    device: str | None = None
    model: str | None = None
    axes: Mapping[str, AxisValue] = field(default_factory=dict)
    engine: str | None = None
    trace: Path | None = None
    gpu_memory_utilization: float | None = None
    seed: int = 0


def trace_of(where: str, rows: Sequence[tuple[float, int, int]]) -> tuple[Trace, tuple[str, ...]]:
    """(arrival, prompt, output) as a trace from 0, and a note on those that produced no token."""
    kept = sorted((row for row in rows if row[2] > 0), key=lambda row: row[0])
    if not kept:
        raise InputError(f"{where}: no request that produced a token")
    arrival, prompt, output = (np.array(column) for column in zip(*kept, strict=True))
    if arrival[-1] - arrival[0] > LONGEST_S:
        raise InputError(f"{where}: arrivals span more than {LONGEST_S / 86_400:.0f} days")
    lost = len(rows) - len(kept)
    trace = Trace(
        arrival_s=arrival.astype(np.float64) - arrival[0],
        prompt_tokens=np.maximum(prompt.astype(np.int64), 1),
        output_tokens=output.astype(np.int64),
        name=Path(where).name,
    )
    return trace, (f"{lost} requests without output left out",) if lost else ()


def finished(where: str, told: Told, axes: Mapping[str, AxisValue], **fields: Any) -> Run:
    """The run, with the axes that the user named before those of the file."""
    settings, chosen = fields.pop("settings"), dict(axes)
    written = fields["model"] or told.model or ""
    if "weights" not in chosen:
        for word in re.split(r"[-_.]", written.lower()):
            if word in _FORMAT_WORDS:
                chosen |= formats_of(where, _FORMAT_WORDS[word])
    chosen |= {axis: value for axis, value in told.axes.items() if axis not in ENGINE_FIELDS}
    settings = with_axes(told.axes, settings)
    if told.gpu_memory_utilization is not None:
        settings = replace(settings, gpu_memory_utilization=told.gpu_memory_utilization)
    if settings.chunks_prefill and settings.token_budget < settings.max_seqs:
        raise InputError(
            f"{where}: token budget {settings.token_budget}: expected at least the {settings.max_seqs} "
            "sequences at once"
        )
    run = Run(axes=chosen, settings=settings, **{**fields, "model": told.model or written})
    return run if run.label else replace(run, label=run.plan(model_of(written, told, where)).label)


def means_of(times: Mapping[str, FloatArray], gaps: NDArray[np.int64]) -> dict[str, float]:
    """Means by metric of per-request ``ttft``, ``tpot`` and ``e2e``; ITL counts each of the gaps once.

    What is 0 was not measured: a client that does not stream has no TTFT.
    """
    means = {name: float(np.nanmean(values)) for name, values in times.items() if not np.isnan(values).all()}
    if gaps.sum():
        means["itl"] = float((times["e2e"] - times["ttft"]).sum() / gaps.sum())
    return {name: value for name, value in means.items() if value > 0}


def model_of(name: str, told: Told | None = None, where: str = "") -> Model:
    """Our model of a name as people write it: what says training or format, not shape, is left out.

    Examples
    --------
    >>> model_of("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8").name
    'llama-3.1-70b'

    Raises
    ------
    InputError
        When none has the name: give ``--model``.
    """
    if told is not None and told.model:
        return load_model(told.model)
    if not name:
        raise InputError(f"{where}: which model? give --model")
    short = name.rstrip("/").rpartition("/")[2]
    words = re.split(r"[-_]", re.sub(r"[-.](w\da\d+)$", r"-\1", short.lower()))
    plain = "-".join(word for word in words if word not in _TRAINING_WORDS and word not in _FORMAT_WORDS)
    for each in dict.fromkeys((name, short, plain)):
        try:
            return load_model(each)
        except InputError as error:
            last = error
    raise InputError(f"{where + ': ' if where else ''}{last}; --model names it")


def device_of(path: Path, told: Told) -> tuple[str, tuple[str, ...]]:
    """The device that the user names, else one that the file's or its folder's name holds, with a note."""
    if told.device:
        return load_device(told.device).name, ()
    resolved = path.resolve()
    for part in (resolved.name, resolved.parent.name):
        words = [re.sub(r"[^a-z0-9]", "", word) for word in re.split(r"[_.]", part.lower())]
        for name in known_devices():
            device = load_device(name)
            known = {re.sub(r"[^a-z0-9]", "", each.lower()) for each in (name, *device.aliases)}
            if known & set(words):
                return device.name, (f"device {device.name}: by the name {part!r}, --device says otherwise",)
    raise InputError(f"{path}: which device was measured? give --device (zenith devices)")


def engine_of(name: str, version: str, told: Told) -> tuple[str, tuple[str, ...]]:
    """The profile of an engine's overheads, with a note where another's stands in."""
    if told.engine:
        return told.engine, ()
    if name.lower() not in ("vllm", ""):
        return "vllm-v1", (f"no profile of {name}: the overheads of vllm-v1 stand in, --engine names others",)
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    old = numbers is not None and (int(numbers[1]), int(numbers[2])) < (0, 9)
    return ("vllm-v0" if old else "vllm-v1"), ()


def formats_of(where: str, word: str) -> dict[str, AxisValue]:
    """Axes of a data type: weights, and activations where they follow."""
    try:
        weights = read_format(word)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return {"weights": weights, "activations": weights if weights in ("fp8", "fp32") else "bf16"}


_FLAGS: dict[str, str] = {
    "share": r"gpu[-_ ]mem(?:ory)?[-_ ]util(?:ization)?[ =:]*(\d*\.?\d+)",
    "seqs": r"max[-_ ]num[-_ ]seqs[ =:]*(\d+)",
    "length": r"max[-_ ]model[-_ ]len[ =:]*(\d+)",
    "budget": r"max[-_ ]num[-_ ]batched[-_ ]tokens[ =:]*(\d+)",
    "chunk": r"chunked[-_ ]prefill[, =:]*(\d+)",
}


def settings_of(flags: str, engine_name: str, engine: str, model: Model) -> EngineSettings:
    """Engine settings from flags as they were noted down; what they leave open is the engine's default."""
    found = {name: re.search(pattern, flags, re.IGNORECASE) for name, pattern in _FLAGS.items()}
    given = {name: float(match[1]) for name, match in found.items() if match}
    budget = int(given.get("budget", given.get("chunk", 0)))
    own = re.search(r"disable[-_]custom[-_]all[-_]reduce(?![ =]*false)", flags, re.IGNORECASE) is None
    base = EngineSettings(
        max_seqs=max(1, int(given.get("seqs", 256))),
        gpu_memory_utilization=min(1.0, given.get("share", 0.9)) or 0.9,
        all_reduce="custom" if own else "nccl",
    )
    if engine_name.lower() == "sglang":
        return replace(base, policy="vllm-v0", token_budget=budget or SGLANG_BUDGET)
    if engine != "vllm-v0":
        return replace(base, policy="vllm-v1", token_budget=budget or base.token_budget)
    length = int(given.get("length", model.max_positions))
    chunks = length > CHUNKS_BEYOND or "chunk" in given or "enable-chunked-prefill" in flags
    if chunks and not re.search(r"no chunked[- ]prefill|enable[-_]chunked[-_]prefill[ =]*false", flags, re.I):
        return replace(base, policy="sarathi", token_budget=budget or V0_CHUNK)
    return replace(base, policy="vllm-v0", token_budget=budget or max(length, 2048))


def eager_note(eager: bool) -> tuple[str, ...]:
    """Of a server without CUDA graphs: no measured one is known whose constants could be told."""
    words = "a server started with --enforce-eager has the constants of one with CUDA graphs: expect it to be slower"
    return (words,) if eager else ()


def text_of(path: Path) -> str:
    """The text of a file; InputError where there is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def number_of(where: str, name: str, value: Any, least: float | None = None) -> float | None:
    """A finite number; None for an absent one. Without ``least`` it must be above 0."""
    if value is None or value == "":
        return None
    try:
        number = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (number <= 0 if least is None else number < least):
        expected = "above 0" if least is None else f"of at least {least:g}"
        raise InputError(f"{where}: {name} {value!r}: expected a number {expected}")
    return number


def tokens_of(where: str, name: str, value: float | None) -> int:
    """A count of tokens."""
    if value is None or value != int(value) or value > MOST_TOKENS:
        raise InputError(f"{where}: {name} {value!r}: expected a whole number of tokens")
    return int(value)
