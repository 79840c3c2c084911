"""A profile moved away from what it says: to ask what hangs on one of its numbers, or on all of them at once.

Numbers that can be moved, each by a factor:

constants   ``iteration_s``, ``sequence_s``, ``prefill_s``, ``memory_scale``, ``compute_scale``,
            ``collective_scale`` of the engine profile (``profiles.engine``)
operations  the times of a family: ``gemm``, ``prefill_attention``, ``encoder_attention``, ``decode_attention``,
            ``mla_prefill``, ``mla_decode``, ``moe``, ``stream``, ``all_reduce``, ``all_gather``,
            ``reduce_scatter``, ``all_to_all``, ``p2p``
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from profiles.compile import Compiler
from profiles.engine import CONSTANTS, EngineProfile
from profiles.meter import Meter, shape_format
from profiles.ops import COLLECTIVES, Adjusted, Cost, FloatArray, Operations

FAMILIES = (
    "gemm", "prefill_attention", "encoder_attention", "decode_attention", "mla_prefill", "mla_decode", "moe",
    "stream", *COLLECTIVES,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Independent log-normal errors of every operation and shape.

    Parameters
    ----------
    sigma
        (family, format) -> standard deviation of the logarithm by provenance, best first (4 numbers, >= 0);
        format "" where a family has one for all.
    seed, draw
        Which errors: the same pair gives the same ones, whatever is asked first.
    """

    sigma: tuple[tuple[tuple[str, str], tuple[float, float, float, float]], ...]
    seed: int
    draw: int

    def normal(self, *what: object) -> FloatArray:
        """Four standard normal numbers that belong to ``what``.

        Examples
        --------
        >>> noise = Noise(sigma=(), seed=0, draw=1)
        >>> bool((noise.normal("gemm", 8) == noise.normal("gemm", 8)).all())
        True
        """
        name = hashlib.sha256(repr((self.seed, self.draw, what)).encode()).digest()
        return np.random.default_rng(np.frombuffer(name, np.uint32)).standard_normal(4)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Factors of numbers of the profile, ``noise`` besides; what is not named stays as it is.

    Raises
    ------
    ValueError
        When a name is unknown or a factor is not above 0.

    Examples
    --------
    >>> from profiles.engine import load_engine
    >>> moved = Moved(factors=(("iteration_s", 0.5),))
    >>> moved.engine(load_engine("vllm-v1")).iteration_s
    0.00055
    """

    factors: tuple[tuple[str, float], ...] = ()
    noise: Noise | None = field(default=None)

    def __post_init__(self) -> None:
        for name, factor in self.factors:
            if name not in CONSTANTS and name not in FAMILIES:
                raise ValueError(f"{name!r} is no number of a profile.")
            if not 0 < factor < float("inf"):
                raise ValueError(f"{name}: a factor is above 0 and finite.")

    def engine(self, engine: EngineProfile) -> EngineProfile:
        """The engine with its constants moved."""
        own = {name: factor * getattr(engine, name) for name, factor in self.factors if name in CONSTANTS}
        return replace(engine, **own) if own else engine

    def operations(self, operations: Operations, device: str = "") -> Operations:
        """The operations with their times moved, themselves where none is. Other devices have other noise."""
        families = {name: factor for name, factor in self.factors if name in FAMILIES}
        if not families and self.noise is None:
            return operations
        return MovedOperations(operations, families, self.noise, device)


AS_IT_IS = Moved()


def with_operations(
    compiler: Compiler, operations: Operations, engine: EngineProfile | None = None, *,
    meter: type[Meter] = Meter,
) -> Compiler:  # fmt: skip
    """The compiler with operations that replace its own, in which its engine's scales are already counted."""
    plain = replace(engine or compiler.engine, memory_scale=1.0, compute_scale=1.0, collective_scale=1.0)
    return Compiler(
        compiler.model, compiler.device, operations, engine=plain, power=compiler.power, meter=meter
    )


class MovedOperations(Adjusted):
    """``fallback`` with the seconds of each family times a factor; bytes, FLOPs and provenance stay.

    ``used``: families that were asked for.
    """

    def __init__(
        self, fallback: Operations, families: Mapping[str, float], noise: Noise | None, device: str
    ) -> None:
        self.fallback, self.families, self.noise, self.device = fallback, families, noise, device
        self.used: set[str] = set()

    @cached_property
    def _sigma(self) -> dict[tuple[str, str], tuple[float, float, float, float]]:
        return dict(self.noise.sigma) if self.noise else {}

    def adjusted(self, operation: str, cost: Cost, shape: dict[str, Any]) -> Cost:
        family, form = _family(operation, shape)
        self.used.add(family)
        factor: Any = self.families.get(family, 1.0)
        if self.noise is not None:
            sigma = self._sigma.get((family, form), self._sigma.get((family, ""), (0.0,) * 4))
            what = (shape["link"],) if operation in COLLECTIVES else tuple(shape.items())
            factor = (
                factor
                * np.exp(np.array(sigma) * self.noise.normal(family, self.device, what))[cost.provenance]
            )
        return replace(cost, seconds=cost.seconds * factor)


def _family(operation: str, shape: Mapping[str, Any]) -> tuple[str, str]:
    """The family of an operation, and the format by which the errors of the family are told apart."""
    if operation == "moe" and shape["weight"] == "int4":
        return "moe", "int4"
    if "weight" in shape:
        return operation, shape_format(shape)
    if operation == "prefill_attention" and not shape["causal"]:
        return "encoder_attention", shape["kv"]
    return operation, shape.get("kv", "")
