"""What several questions share, by content: plan spaces, cost tables, bounds, simulations.

A key holds everything that its value follows from, so two questions that differ in an SLO or an objective
alone meet in the same tables and simulations, and two that differ in the number of devices meet wherever
a plan sits on the same links. Nothing is ever stale: other content is another key.
"""

import dataclasses
import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from planner.question import Question
    from traces.trace import Trace

T = TypeVar("T")

MOST_BYTES = 2**30
"""Of tables and simulations in one store: those used last stay, others are made again when asked for."""


class Store:
    """Values by kind and content. Safe among threads.

    Parameters
    ----------
    most_bytes
        Values that say their size share this room; at 0 none of them stays. Others are small and stay.

    Attributes
    ----------
    made, reused
        How many values of each kind were computed, and taken from here.

    Examples
    --------
    >>> store = Store()
    >>> [store.get("square", 3, lambda: 9) for _ in range(3)], store.made["square"], store.reused["square"]
    ([9, 9, 9], 1, 2)
    """

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.made: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self._small: dict[tuple[str, Hashable], Any] = {}
        self._large: OrderedDict[tuple[str, Hashable], tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(
        self, kind: str, key: Hashable, make: Callable[[], T], *, size: Callable[[T], int] | None = None
    ) -> T:
        """The value of ``key``, made where it is not here."""
        full = (kind, key)
        with self._lock:
            held = self._small if size is None else self._large
            if full in held:
                self.reused[kind] += 1
                if size is None:
                    return self._small[full]  # type: ignore[no-any-return]
                self._large.move_to_end(full)
                return self._large[full][0]  # type: ignore[no-any-return]
        value = make()
        with self._lock:
            self.made[kind] += 1
            if size is None:
                self._small[full] = value
            elif full not in self._large:
                self._large[full] = (value, size(value))
                self._bytes += self._large[full][1]
                while self._bytes > self.most_bytes:
                    self._bytes -= self._large.popitem(last=False)[1][1]
        return value


def array_bytes(record: object) -> int:
    """Bytes of the arrays in a dataclass, those in its dictionaries included.

    Examples
    --------
    >>> from traces.trace import Trace
    >>> array_bytes(Trace(arrival_s=np.zeros(5), prompt_tokens=np.ones(5, int), output_tokens=np.ones(5, int)))
    120
    """
    total = 0
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        parts = value.values() if isinstance(value, dict) else (value,)
        total += sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
    return total


def content(*values: object) -> str:
    """A short name of values whose ``repr`` shows all that they are."""
    return hashlib.sha256(repr(values).encode()).hexdigest()


def trace_content(trace: "Trace") -> str:
    """A short name of the requests of a trace; its own name is no part of them.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from traces.synth import synthesize
    >>> trace = synthesize(requests=5, rate=1.0)
    >>> trace_content(trace) == trace_content(replace(trace, name="other"))
    True
    >>> trace_content(trace) == trace_content(replace(trace, arrival_s=trace.arrival_s * 2))
    False
    """
    digest = hashlib.sha256(repr((trace.prefix, trace.prefix_block_tokens)).encode())
    for column in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def space_content(question: "Question") -> str:
    """A short name of all that decides which plans are feasible: of the trace only its longest prompt and request."""
    trace = question.trace
    longest = int(trace.prompt_tokens.max()), int((trace.prompt_tokens + trace.output_tokens).max())
    decisive = [
        (field.name, getattr(question, field.name))
        for field in dataclasses.fields(question)
        if field.name not in ("objective", "slos", "trace")
    ]
    return content(longest, decisive)
