"""What a serving engine adds to the operations it launches, and how far it moves their times.

Constants of an engine generation ship in ``profiles/engines/*.json``; those of one's own servers come from a
YAML file that ``zenith calibrate`` writes (``profiles.profile_file``).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from profiles.errors import InputError, nearest

_DIRECTORY = Path(__file__).parent / "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A field of ``EngineProfile``: its unit, and the range outside of which no engine is expected."""

    unit: str
    low: float
    high: float


CONSTANTS = {
    "iteration_s": Constant(unit="s", low=0.0, high=0.02),
    "sequence_s": Constant(unit="s", low=0.0, high=0.001),
    "prefill_s": Constant(unit="s", low=0.0, high=0.05),
    "memory_scale": Constant(unit="times", low=0.75, high=1.5),
    "compute_scale": Constant(unit="times", low=0.75, high=2.0),
    "collective_scale": Constant(unit="times", low=0.5, high=3.0),
}
"""Ranges hold vLLM V0 and V1 (4.5 and 1.1 ms, 0.23 and 0 ms, 11.3 and 5 ms) with room for an engine four
times as slow; scales reach from kernels a quarter faster than measured ones to links or kernels that lose most
of what others get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Relative errors, predicted / measured - 1, of servers that no constant was fitted to: their 5 % quantile
    and their 95 % quantile. -1 < low <= high.

    Raises
    ------
    ValueError
        When the quantiles are not in that order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -1 < self.low <= self.high < math.inf:
            raise ValueError("Quantiles of relative errors are above -1, the lower one first.")

    def interval(self, predicted: float) -> tuple[float, float]:
        """What was measured in nine of ten cases where this was predicted, in its unit.

        Examples
        --------
        >>> Residual(low=-0.2, high=0.25).interval(10.0)
        (8.0, 12.5)
        """
        return predicted / (1 + self.high), predicted / (1 + self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Overheads of one engine generation, in seconds, >= 0, and scales, > 0.

    Parameters
    ----------
    name
        Key of ``profiles/engines/*.json``.
    iteration_s
        Of every iteration: scheduling, input preparation, launches, detokenization that the device waits for.
    sequence_s
        Of every sequence of an iteration: sampling and bookkeeping.
    prefill_s
        Of an iteration that holds prompt tokens, besides: kernels launched one by one instead of replayed
        from a CUDA graph.
    holds_mixing
        Whether ``iteration_s`` and ``prefill_s`` were found with operation times that do not know what prompts and
        decodes take more in one kernel. Beside operations that do they would count it twice, and are left out.
    memory_scale, compute_scale
        Of the time that bytes and that arithmetic take at the device's peak: above 1, this engine's kernels
        achieve a smaller share of them than the operation times say (``profiles.calibrated``).
    collective_scale
        Of the time of collectives.
    base
        Of a file: the engine whose constants it started from.
    source, error
        How the figures were derived, and how far they are off where that was measured.
    worst
        Metric (ttft, itl, e2e) -> largest absolute error of its mean on a measured server, with operation
        times that come from no run (``docs/fidelity.md``); of a file, on runs left out of its fit.
    residuals, residuals_of
        Metric (ttft, itl, e2e; itl holds for TPOT, another mean of the same gaps) -> quantiles of the errors of
        means on servers left out of the fit, and which servers those are. Empty where none were: then nothing
        is known of how far a prediction is off.

    Raises
    ------
    ValueError
        When an overhead is negative or a scale is not above 0.
    """

    name: str
    iteration_s: float
    sequence_s: float
    prefill_s: float
    source: str
    error: str
    holds_mixing: bool = False
    memory_scale: float = 1.0
    compute_scale: float = 1.0
    collective_scale: float = 1.0
    base: str = ""
    worst: Mapping[str, float] = field(default_factory=dict)
    residuals: Mapping[str, Residual] = field(default_factory=dict)
    residuals_of: str = ""

    def __post_init__(self) -> None:
        if min(self.iteration_s, self.sequence_s, self.prefill_s) < 0:
            raise ValueError("Overheads must not be negative.")
        if min(self.memory_scale, self.compute_scale, self.collective_scale) <= 0:
            raise ValueError("Scales must be above 0.")


def engines() -> tuple[str, ...]:
    """Names of the engines that ship, sorted."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob("*.json")))


def load_engine(name: str) -> EngineProfile:
    """The engine profile of this name, or of this file where the name ends in ``.yaml`` or ``.yml``.

    Examples
    --------
    >>> load_engine("none").iteration_s
    0.0

    Raises
    ------
    InputError
        When no engine has this name, or the file is no profile.
    """
    if name.endswith((".yaml", ".yml")):
        from profiles.profile_file import read_profile

        return read_profile(Path(name))
    if name not in engines():
        raise InputError(f"Unknown engine {name!r}, {nearest(name, engines())}")
    content = json.loads((_DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    residuals = {metric: Residual(**each) for metric, each in content.pop("residuals", {}).items()}
    return EngineProfile(name=name, residuals=residuals, **content)
