"""What a serving engine adds to the operations it launches: host time per iteration and per sequence."""

import json
from dataclasses import dataclass
from pathlib import Path

from profiles.errors import InputError, nearest

_DIRECTORY = Path(__file__).parent / "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Overheads of one engine generation, in seconds, >= 0.

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
    source, error
        How the figures were derived, and how far they are off where that was measured.

    Raises
    ------
    ValueError
        When an overhead is negative.
    """

    name: str
    iteration_s: float
    sequence_s: float
    prefill_s: float
    source: str
    error: str

    def __post_init__(self) -> None:
        if min(self.iteration_s, self.sequence_s, self.prefill_s) < 0:
            raise ValueError("Overheads must not be negative.")


def engines() -> tuple[str, ...]:
    """Names of the engines that ship, sorted."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob("*.json")))


def load_engine(name: str) -> EngineProfile:
    """The engine profile of this name.

    Examples
    --------
    >>> load_engine("none").iteration_s
    0.0

    Raises
    ------
    InputError
        When no engine has this name.
    """
    if name not in engines():
        raise InputError(f"Unknown engine {name!r}, {nearest(name, engines())}")
    return EngineProfile(name=name, **json.loads((_DIRECTORY / f"{name}.json").read_text(encoding="utf-8")))
