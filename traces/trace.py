"""The trace: what was asked of the service, as columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests sorted by arrival, one array element each.

    Parameters
    ----------
    arrival_s
        Seconds since the start of the trace, float64, >= 0, not decreasing.
    prompt_tokens, output_tokens
        int64, >= 1. Output counts the first token.
    prefix
        Per request the hashes of its prefix blocks (``prefix_block_tokens`` tokens each), or None
        where the format has none.
    name
        For people: usually the file name.

    Raises
    ------
    ValueError
        When a column is out of the range above or the columns differ in length.

    Examples
    --------
    >>> import numpy as np
    >>> trace = Trace(arrival_s=np.array([0.0, 2.0]), prompt_tokens=np.array([10, 20]),
    ...               output_tokens=np.array([5, 1]), name="tiny")
    >>> len(trace), trace.duration_s, trace.total_output_tokens
    (2, 2.0, 6)
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    prefix: tuple[tuple[int, ...], ...] | None = None
    prefix_block_tokens: int = 512
    name: str = "trace"

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if not n == len(self.prompt_tokens) == len(self.output_tokens):
            raise ValueError("Trace columns must have the same length.")
        if n == 0:
            raise ValueError("A trace must have at least one request.")
        if not np.all(np.isfinite(self.arrival_s)) or self.arrival_s[0] < 0:
            raise ValueError("arrival_s must be finite and non-negative.")
        if np.any(np.diff(self.arrival_s) < 0):
            raise ValueError("arrival_s must not decrease.")
        if self.prompt_tokens.min() < 1 or self.output_tokens.min() < 1:
            raise ValueError("prompt_tokens and output_tokens must be at least 1.")
        if self.prefix is not None and len(self.prefix) != n:
            raise ValueError("prefix must have one entry per request.")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_per_s(self) -> float | None:
        """Arrivals per second, one over the mean gap; None when all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s else None

    @property
    def total_prompt_tokens(self) -> int:
        return int(self.prompt_tokens.sum())

    @property
    def total_output_tokens(self) -> int:
        return int(self.output_tokens.sum())
