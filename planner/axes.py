"""Axes of the plan space in the user's words: ``tp=4,dp=2`` for ``--plan``, ``--fix`` and ``--forbid``.

==================================  ==============================================================
dp, pp                              model replicas; pipeline stages
tp or attn_tp, attn_dp              tensor width of attention; attention ranks inside a replica
ffn_tp, ep, ffn_dp                  tensor width, expert width and replicas of the feed-forward
layers                              layers of each stage, as in ``layers=27/27/26``
weights, activations, kv            formats (fp16 is read as bf16)
clock                               MHz, 0 for the device's maximum
policy, budget, seqs, block         batch former, token budget, max sequences, KV block size
queue, preemption, routing          as in ``EngineSettings``
allreduce                           custom or nccl (``EngineSettings.all_reduce``)
==================================  ==============================================================

``tp`` is the width of attention, as engines name it. In ``--plan`` it is the default of the feed-forward too.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from profiles.errors import InputError, nearest
from profiles.model import Model, MoE
from profiles.plan import FORMAT_BYTES, POLICIES, EngineSettings, Plan

AxisValue = int | str | tuple[int, ...]

WIDTHS = ("dp", "pp", "attn_tp", "attn_dp", "ffn_tp", "ep", "ffn_dp")
"""Axes that decide how devices are used."""

MOST = 10**9 - 1
"""Of a whole number on an axis."""

FORMAT_AXES = ("weights", "activations", "kv")

_COUNTS = (*WIDTHS, "clock", "budget", "seqs", "block")
_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FORMAT_AXES, tuple(FORMAT_BYTES)),
    "policy": POLICIES,
    "queue": ("fcfs", "sjf"),
    "preemption": ("recompute", "swap"),
    "routing": ("round-robin", "least-outstanding"),
    "allreduce": ("custom", "nccl"),
}
_ALIASES = {"tp": "attn_tp"}
_WORD_OF = {axis: word for word, axis in _ALIASES.items()}
_FORMAT_ALIASES = {"fp16": "bf16", "half": "bf16", "float16": "bf16", "bfloat16": "bf16", "float8": "fp8"}
AXES = (*_COUNTS, *_WORDS, "layers", *_ALIASES)

PLAN_FIELDS = {
    "dp": "replicas",
    "pp": "stages",
    "attn_tp": "attn_tp",
    "attn_dp": "attn_dp",
    "ffn_tp": "ffn_tp",
    "ep": "ffn_ep",
    "ffn_dp": "ffn_dp",
    "layers": "layers_per_stage",
    "weights": "weight_format",
    "activations": "activation_format",
    "kv": "kv_format",
    "clock": "clock_mhz",
}
ENGINE_FIELDS = {
    "policy": "policy",
    "budget": "token_budget",
    "seqs": "max_seqs",
    "block": "block_size",
    "queue": "queue",
    "preemption": "preemption",
    "routing": "routing",
    "allreduce": "all_reduce",
}


def spellings(axis: str) -> tuple[str, ...]:
    """The words for an axis, the usual one first.

    Examples
    --------
    >>> spellings("attn_tp"), spellings("pp")
    (('tp', 'attn_tp'), ('pp',))
    """
    axis = _ALIASES.get(axis, axis)
    return (_WORD_OF[axis], axis) if axis in _WORD_OF else (axis,)


def together(axis: str) -> tuple[str, ...]:
    """Axes of which some decide the others, this one among them.

    Examples
    --------
    >>> together("pp"), together("attn_tp"), together("kv")
    (('pp', 'layers'), ('attn_tp', 'attn_dp', 'ffn_tp', 'ep', 'ffn_dp'), ('kv',))
    """
    return next((group for group in (("pp", "layers"), WIDTHS[2:]) if axis in group), (axis,))


def axis_of(plan: Plan, axis: str) -> AxisValue:
    """The value that a plan has on an axis.

    Examples
    --------
    >>> axis_of(Plan(layers_per_stage=(4, 4), attn_tp=2, ffn_tp=2), "pp")
    2
    """
    axis = _ALIASES.get(axis, axis)
    found: AxisValue
    if axis in ENGINE_FIELDS:
        found = getattr(plan.engine, ENGINE_FIELDS[axis])
    else:
        found = getattr(plan, PLAN_FIELDS[axis])
    return found


def read_format(word: str) -> str:
    """A format by any of its names.

    Examples
    --------
    >>> read_format("fp16")
    'bf16'
    """
    name = _FORMAT_ALIASES.get(word.lower(), word.lower())
    if name not in FORMAT_BYTES:
        raise InputError(f"Unknown format {word!r}, {nearest(word, FORMAT_BYTES)}")
    return name


def _read(axis: str, word: str) -> AxisValue:
    if axis == "layers":
        parts = word.split("/")
        if not all(part.isdecimal() and len(part) < 10 and int(part) >= 1 for part in parts):
            raise InputError(f"layers={word}: expected layers of each stage, as in layers=27/27/26.")
        return tuple(int(part) for part in parts)
    if axis in FORMAT_AXES:
        return read_format(word)
    if axis in _WORDS:
        if word not in _WORDS[axis]:
            raise InputError(f"{axis}={word}: unknown, {nearest(word, _WORDS[axis])}")
        return word
    least = 0 if axis == "clock" else 1
    whole = word.isascii() and word.isdecimal() and len(word) <= len(str(MOST))
    if not whole or int(word) < least:
        raise InputError(f"{axis}={word:.40}: expected a whole number from {least} to {MOST}.")
    return int(word)


def parse_pairs(text: str) -> tuple[tuple[str, AxisValue], ...]:
    """``axis=value`` pairs between commas or blanks, in order; an axis may come more than once.

    Raises
    ------
    InputError
        When an axis is unknown or its value is not one it can have.

    Examples
    --------
    >>> parse_pairs("tp=8,tp=4")
    (('attn_tp', 8), ('attn_tp', 4))
    """
    pairs = []
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise InputError(f"{word!r}: expected axis=value, as in tp=4.")
        if name not in AXES:
            raise InputError(f"Unknown axis {name!r} in {word!r}, {nearest(name, AXES)}")
        pairs.append((_ALIASES.get(name, name), _read(name, value)))
    if not pairs:
        raise InputError(f"{text!r}: expected axis=value pairs, as in tp=4,dp=2.")
    return tuple(pairs)


def parse_axes(text: str) -> dict[str, AxisValue]:
    """As ``parse_pairs``, where an axis has one value.

    Examples
    --------
    >>> parse_axes("tp=4,dp=2,weights=fp8")
    {'attn_tp': 4, 'dp': 2, 'weights': 'fp8'}
    >>> parse_axes("layers=27/27/26")
    {'layers': (27, 27, 26)}
    """
    axes: dict[str, AxisValue] = {}
    for axis, value in parse_pairs(text):
        if axes.setdefault(axis, value) != value:
            raise InputError(f"{text!r}: {spellings(axis)[0]} has two values, {axes[axis]} and {value}.")
    return axes


def even_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Layers per stage as even as they can be, the remainder to the earlier stages.

    Examples
    --------
    >>> even_layers(80, 3)
    (27, 27, 26)
    """
    if not 1 <= stages <= layers:
        raise InputError(f"pp={stages}: expected 1 to {layers}, the model's layers.")
    each, more = divmod(layers, stages)
    return (each + 1,) * more + (each,) * (stages - more)


def plan_from_axes(model: Model, axes: Mapping[str, AxisValue], defaults: Plan | None = None) -> Plan:
    """The plan that ``--plan`` names.

    ``tp`` alone is plain tensor parallelism. Devices of a stage that the axes leave open are filled from
    what they name: ``ep`` spreads experts over the devices of attention (``ffn_tp = tp * attn_dp / ep``).

    Parameters
    ----------
    axes
        From ``parse_axes``.
    defaults
        Formats, clock and engine settings of axes not named; its widths are not used. None: the model's
        published formats and the engine's defaults.

    Raises
    ------
    InputError
        When the axes contradict each other or the model.

    Examples
    --------
    >>> from profiles.huggingface import load_model
    >>> plan_from_axes(load_model("llama-3.1-8b"), parse_axes("tp=4,dp=2")).label
    'dp=2 tp=4'
    >>> plan_from_axes(load_model("mixtral-8x7b"), parse_axes("tp=2,attn_dp=4,ep=8")).ffn_tp
    1
    """
    total = len(model.decoder.layers)
    widths: dict[str, int] = {name: value for name in WIDTHS if isinstance(value := axes.get(name, 1), int)}
    layers = axes.get("layers")
    if not isinstance(layers, tuple):
        layers = even_layers(total, widths["pp"])
    if sum(layers) != total or ("pp" in axes and len(layers) != widths["pp"]):
        raise InputError(
            f"layers={'/'.join(map(str, layers))}: expected {total} in all"
            + (f" over pp={widths['pp']} stages." if "pp" in axes else ".")
        )
    widths.update(_fill_stage(axes, widths))
    if widths["ep"] > 1 and not any(isinstance(block.ffn, MoE) for block in model.decoder.blocks):
        raise InputError(f"ep={widths['ep']}: {model.name} has no experts.")
    base = defaults or Plan(layers_per_stage=layers, **default_formats(model))
    chosen: dict[str, Any] = {
        PLAN_FIELDS[axis]: axes[axis] for axis in (*FORMAT_AXES, "clock") if axis in axes
    }
    return dataclasses.replace(
        base,
        replicas=widths["dp"],
        layers_per_stage=layers,
        attn_tp=widths["attn_tp"],
        attn_dp=widths["attn_dp"],
        ffn_tp=widths["ffn_tp"],
        ffn_ep=widths["ep"],
        ffn_dp=widths["ffn_dp"],
        engine=engine_of(axes, base.engine),
        **chosen,
    )


def default_formats(model: Model) -> dict[str, Any]:
    """Published weights; fp8 activations where the weights are published in fp8; bf16 KV cache."""
    weights = model.weight_format
    activations = weights if weights in ("fp8", "fp32") else "bf16"
    return {"weight_format": weights, "activation_format": activations, "kv_format": "bf16"}


def _fill_stage(axes: Mapping[str, AxisValue], widths: Mapping[str, int]) -> dict[str, int]:
    """Widths that were not named, from those that were; both cells use the same devices of a stage."""
    attention, ffn = ("attn_tp", "attn_dp"), ("ffn_tp", "ep", "ffn_dp")
    named_attention, named_ffn = (any(name in axes for name in cell) for cell in (attention, ffn))
    open_, given = (attention, ffn) if named_ffn and not named_attention else (ffn, attention)
    devices, taken = (math.prod(widths[name] for name in cell) for cell in (given, open_))
    filler = open_[0]
    if filler in axes and taken != devices:
        ours, theirs = (
            " x ".join(f"{spellings(name)[0]}={widths[name]}" for name in cell) for cell in (attention, ffn)
        )
        raise InputError(f"{ours} and {theirs}: expected the same number of devices.")
    if filler in axes:
        return {}
    if devices % taken:
        rest = " x ".join(f"{name}={widths[name]}" for name in open_ if widths[name] > 1)
        raise InputError(f"{rest} does not divide the {devices} devices of a stage.")
    return {filler: devices // taken}


def engine_of(axes: Mapping[str, AxisValue], base: EngineSettings) -> EngineSettings:
    """``base`` with the engine settings that the axes name."""
    settings: dict[str, Any] = {field: axes[axis] for axis, field in ENGINE_FIELDS.items() if axis in axes}
    return dataclasses.replace(base, **settings)
