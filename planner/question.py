"""The question: one validated, frozen query. Everything that decides the answer is in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING

from planner.axes import (
    ENGINE_FIELDS,
    FORMAT_AXES,
    MOST,
    PLAN_FIELDS,
    AxisValue,
    default_formats,
    engine_of,
    parse_axes,
    parse_pairs,
    plan_from_axes,
)
from planner.deployable import ENGINES
from planner.objective import OBJECTIVES
from planner.slo import REQUEST_METRICS, Slo, parse_slo
from profiles.errors import InputError, nearest
from profiles.model import MoE
from profiles.plan import FORMAT_BYTES, POLICIES, EngineSettings

if TYPE_CHECKING:
    from profiles.device import Device
    from profiles.fleet import Fleet, Pool
    from profiles.model import Model
    from traces.trace import Trace

__all__ = ["Question", "Slo", "parse_axes", "parse_pairs", "parse_slo", "plan_from_axes"]

ACTIVATIONS_OF = {
    "fp32": ("fp32", "bf16"),
    "bf16": ("bf16",),
    "fp8": ("fp8", "bf16"),
    "int8": ("int8", "bf16"),
    "int4": ("bf16", "fp8", "int8"),
    "fp4": ("fp4", "bf16"),
    "mxfp4": ("bf16", "fp8"),
}
"""Activation formats for which kernels exist beside each weight format: W8A8 and weight-only of vLLM
(docs.vllm.ai, "Quantization: supported hardware"), W4A8 of TensorRT-LLM (its support matrix), NVFP4 with both sides
in four bits (Blackwell) or weights alone (Marlin), MXFP4 beside bf16 or MXFP8."""


def lacks_experts(model: Model, weights: str) -> str:
    """Why no matrix of the model is in this format, empty where some is: MXFP4 holds routed experts alone."""
    if weights != "mxfp4" or any(isinstance(block.ffn, MoE) for block in model.decoder.blocks):
        return ""
    return f"mxfp4 holds routed experts alone, {model.name} has none"


def activations_for(weights: str, device: Device) -> str:
    """Format of activations beside these weights when nothing is said: the same where the device multiplies
    it, as engines do (W8A8), else bf16.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> [activations_for("fp8", load_device(name)) for name in ("h100", "a100-sxm-80gb")]
    ['fp8', 'bf16']
    """
    same = weights in ACTIVATIONS_OF[weights] and weights in device.dense_flops
    return weights if same else "bf16"


KV_FORMATS = ("fp32", "bf16", "fp8", "int8")


OPTION_OF = {
    "weights": "formats/weights",
    "activations": "formats/activations",
    "kv": "formats/kv",
    "policy": "policies",
    "budget": "token_budgets",
    "seqs": "max_seqs",
    "clock": "clocks",
    "block": "block_size",
}
"""Options that say what is searched on an axis, where they are not named as the axis."""


def check_engine(engine: EngineSettings, about: Sequence[str] = ()) -> None:
    """Raise InputError where an iteration cannot hold a token of every sequence: some would wait for ever."""
    if engine.chunks_prefill and engine.token_budget < engine.max_seqs:
        raise InputError(
            f"token budget {engine.token_budget}: expected at least the {engine.max_seqs} sequences at once",
            about=about,
        )


def check_clocks(pool: Pool, clocks: Iterable[int], about: Sequence[str] = ()) -> None:
    """Raise InputError for a clock below what is known of the pool's devices, or above; 0 is their highest."""
    lowest, highest = pool.device.clocks_mhz[0], pool.device.max_clock_mhz
    for clock in clocks:
        if clock and not lowest <= clock <= highest:
            raise InputError(
                f"clock {clock} MHz: {pool.device.name} is known from {lowest} to {highest} MHz", about=about
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. An axis with several values is searched; with one it is given.

    Parameters
    ----------
    objective
        Key of ``OBJECTIVES``.
    slos
        Hard limits in the ranking.
    weight_formats, activation_formats, kv_formats
        Formats the user allows. Empty: the model's published weights, activations of the same kind, bf16 KV.
    fix, forbid
        Axes (``planner.axes``) that must have, or must not have, a value. A fixed format, policy, budget,
        clock or sequence count replaces the values searched on that axis.
    policies, token_budgets, max_seqs, clocks
        Values searched. Clocks in MHz, 0 for the maximum.
    deployable
        Keep only plans that an engine runs today (``planner.deployable``).
    deployable_on
        Only those that one of these engines runs; empty means any. Counts where ``deployable`` does.
    engine
        Name of the profile of host overheads (``profiles.engine``).
    max_gpus
        Most devices of a plan, None for those of its pool.
    max_usd_per_hour
        Most that the devices of a plan may cost per hour; every pool then needs a price. None for any.
    use_all_devices
        Every device of the pool, instead of at most all.
    cross_node_tensor
        Tensor and expert groups may leave a scale-up domain.
    gpu_memory_utilization, block_size, watermark, preemption, queue, routing, all_reduce
        As in ``EngineSettings``.

    Raises
    ------
    InputError
        When a value is out of range or unknown.
    """

    model: Model
    fleet: Fleet
    trace: Trace
    objective: str = "latency"
    slos: tuple[Slo, ...] = ()
    weight_formats: tuple[str, ...] = ()
    activation_formats: tuple[str, ...] = ()
    kv_formats: tuple[str, ...] = ()
    fix: Mapping[str, AxisValue] = field(default_factory=lambda: MappingProxyType({}))
    forbid: tuple[tuple[str, AxisValue], ...] = ()
    policies: tuple[str, ...] = ("vllm-v1",)
    token_budgets: tuple[int, ...] = (2048, 8192)
    max_seqs: tuple[int, ...] = (256,)
    clocks: tuple[int, ...] = (0,)
    deployable: bool = True
    deployable_on: tuple[str, ...] = ()
    engine: str = "vllm-v1"
    max_gpus: int | None = None
    max_usd_per_hour: float | None = None
    use_all_devices: bool = False
    cross_node_tensor: bool = False
    gpu_memory_utilization: float = 0.9
    watermark: float = 0.01
    block_size: int = 16
    preemption: str = "recompute"
    queue: str = "fcfs"
    routing: str = "round-robin"
    all_reduce: str = "custom"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(
                f"Unknown objective {self.objective!r}, {nearest(self.objective, OBJECTIVES)}",
                about=["objective"],
            )
        if self.objective == "goodput" and not any(slo.metric in REQUEST_METRICS for slo in self.slos):
            raise InputError(
                "Objective 'goodput' counts requests that meet SLOs: give --slo of ttft, tpot or e2e.",
                about=["objective"],
            )
        self._check_limits()
        self._check_axes()
        self._check_values()
        self._check_formats()
        try:
            self.settings()
        except ValueError as error:
            fields = ("gpu_memory_utilization", "watermark", "block_size")
            raise InputError(str(error), about=[name for name in fields if name in str(error)]) from None
        searched = ("policy", "budget", "seqs")
        for values in product(*map(self.options, searched)):
            chosen = dict(zip(searched, values, strict=True))
            about = [*self._about("seqs", chosen["seqs"]), *self._about("budget", chosen["budget"])]
            check_engine(engine_of(chosen, self.settings()), about)
        for pool, clock in product(self.fleet.pools, self.options("clock")):
            check_clocks(pool, [int(str(clock))], self._about("clock", clock))

    def _about(self, axis: str, value: AxisValue = "") -> list[str]:
        """The option that says what an axis has, and which of its values this is."""
        if axis in self.fix:
            return [f"fix/{axis}"]
        option = OPTION_OF.get(axis, axis)
        listed = getattr(self, option, ())
        return [f"{option}/{listed.index(value)}" if value in listed else option]

    def _check_limits(self) -> None:
        names = [slo.name for slo in self.slos]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(
                    f"{self.slos[i].text}: {self.slos[names.index(name)].text} limits the same, keep one of them.",
                    about=[f"slos/{self.slos[i].text.partition('<')[0].strip()}"],
                )
        most = self.max_gpus
        if most is not None and (type(most) is not int or most < 1):
            raise InputError(f"max_gpus={most}: expected a whole number, at least 1.", about=["max_gpus"])
        usd = self.max_usd_per_hour
        if usd is not None and not 0 < usd < math.inf:
            raise InputError(
                f"max_cost_per_hour={usd:g}: expected a price above 0.", about=["max_cost_per_hour"]
            )
        what = (
            "Objective 'cost'" if self.objective == "cost" else "A limit of cost" if usd is not None else ""
        )
        for i, pool in enumerate(self.fleet.pools):
            if what and pool.price_usd_per_device_hour is None:
                raise InputError(
                    f"{what} needs a price, {pool.name} has none: give the price of its pool, in a file for --fleet"
                    " price_usd_per_device_hour.",
                    about=[f"pools/{i}", "objective" if self.objective == "cost" else "max_cost_per_hour"],
                )
        for engine in self.deployable_on:
            if engine not in ENGINES:
                raise InputError(
                    f"Unknown serving engine {engine!r}, {nearest(engine, ENGINES)}", about=["deployable_on"]
                )
        if self.deployable_on and not self.deployable:
            raise InputError(
                f"Only plans that {' or '.join(self.deployable_on)} runs contradicts deployable: false"
                " (--no-deployable), keep one of them.",
                about=["deployable_on"],
            )

    def _check_formats(self) -> None:
        """Whether some device has a kernel for some pair of formats."""
        if any(self.pairs_of_formats(pool.device) for pool in self.fleet.pools):
            return
        about = [*self._about("weights"), *self._about("activations"), "device", "model_name"]
        lacking = [lacks_experts(self.model, str(weights)) for weights in self.options("weights")]
        if all(lacking):
            raise InputError(f"{lacking[0]}.", about=about)
        raise InputError(
            f"No kernel multiplies {'/'.join(map(str, self.options('weights')))} weights by"
            f" {'/'.join(map(str, self.options('activations')))} activations"
            f" on {' or '.join(pool.device.name for pool in self.fleet.pools)}.",
            about=about,
        )

    def _check_axes(self) -> None:
        for axis, _ in (*self.fix.items(), *self.forbid):
            if axis not in PLAN_FIELDS and axis not in ENGINE_FIELDS:
                known = (*PLAN_FIELDS, *ENGINE_FIELDS)
                raise InputError(f"Unknown axis {axis!r}, {nearest(axis, known)}", about=["fix", "forbid"])
        for axis, value in self.forbid:
            if axis in ("block", "queue", "preemption", "routing", "allreduce"):
                raise InputError(
                    f"{axis}={value} cannot be forbidden: {axis} is not searched, set it instead.",
                    about=[f"forbid/{axis}"],
                )
        layers, total = self.fix.get("layers"), len(self.model.decoder.layers)
        if isinstance(layers, tuple):
            if sum(layers) != total:
                words = "/".join(map(str, layers))
                raise InputError(
                    f"layers={words}: {sum(layers)} layers, expected {total} in all.", about=["fix/layers"]
                )
            if (stages := self.fix.get("pp", len(layers))) != len(layers):
                raise InputError(f"pp={stages}: layers has {len(layers)} stages.", about=["fix/pp"])

    def _check_values(self) -> None:
        for axis in FORMAT_AXES:
            for name in self.options(axis):
                known = KV_FORMATS if axis == "kv" else tuple(FORMAT_BYTES)
                if name not in known:
                    raise InputError(
                        f"Unknown format {name!r} of {axis}, {nearest(str(name), known)}",
                        about=self._about(axis),
                    )
        for policy in self.options("policy"):
            if policy not in POLICIES:
                raise InputError(
                    f"Unknown policy {policy!r}, {nearest(str(policy), POLICIES)}",
                    about=self._about("policy", policy),
                )
        for axis, least in (("budget", 1), ("seqs", 1), ("clock", 0)):
            values = self.options(axis)
            if not values:
                raise InputError(f"{axis}: expected at least one value.", about=self._about(axis))
            for value in values:
                if not isinstance(value, int) or not least <= value <= MOST:
                    raise InputError(
                        f"{axis}={value}: expected a whole number from {least} to {MOST}.",
                        about=self._about(axis, value),
                    )
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: expected at least 0.", about=["seed"])

    def options(self, axis: str) -> tuple[AxisValue, ...]:
        """Values searched on an axis of formats, clock, policy, budget or seqs: each once, in order."""
        if axis in self.fix:
            return (self.fix[axis],)
        defaults = default_formats(self.model)
        searched: dict[str, tuple[AxisValue, ...]] = {
            "weights": self.weight_formats or (defaults["weight_format"],),
            "activations": self.activation_formats or (defaults["activation_format"],),
            "kv": self.kv_formats or (defaults["kv_format"],),
            "policy": self.policies,
            "budget": self.token_budgets,
            "seqs": self.max_seqs,
            "clock": self.clocks,
        }
        return tuple(dict.fromkeys(searched[axis]))

    def pairs_of_formats(self, device: Device) -> tuple[tuple[str, str], ...]:
        """(weights, activations) that ``device`` has kernels for.

        Where nothing was said of activations they are those of ``activations_for``.
        """
        said = self.activation_formats or "activations" in self.fix
        pairs = []
        for weights in map(str, self.options("weights")):
            if lacks_experts(self.model, weights):
                continue
            wanted = map(str, self.options("activations")) if said else [activations_for(weights, device)]
            fitting = [a for a in wanted if a in ACTIVATIONS_OF[weights] and a in device.dense_flops]
            pairs += [(weights, activations) for activations in fitting]
        return tuple(pairs)

    def settings(self) -> EngineSettings:
        """Engine settings of axes that are not searched; the searched ones have their first value."""
        first = {axis: self.options(axis)[0] for axis in ("policy", "budget", "seqs")}
        base = EngineSettings(
            block_size=self.block_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            watermark=self.watermark,
            preemption=self.preemption,  # type: ignore[arg-type]
            queue=self.queue,  # type: ignore[arg-type]
            routing=self.routing,  # type: ignore[arg-type]
            all_reduce=self.all_reduce,  # type: ignore[arg-type]
        )
        return engine_of({**first, **self.fix}, base)
