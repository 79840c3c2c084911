"""What several questions share, by content: plan spaces, cost tables, bounds, simulations.

A key holds everything that its value follows from, so two questions that differ in an SLO or an objective
alone meet in the same tables and simulations, and two that differ in the number of devices meet wherever
a plan sits on the same links. Nothing is ever stale: other content is another key. What takes long to compute
and little room to keep goes to disk as well, where a store has a cache (``planner.cache``): what one process
computed before it ended, the next one reads.
"""

import dataclasses
import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from planner.cache import Cache
    from planner.question import Question
    from profiles.stepcost import StepCost
    from traces.trace import Trace

T = TypeVar("T")
Key = tuple[str, Hashable]

MOST_BYTES = 2**30
"""Of tables and simulations in one store: those used last stay, others are made again when asked for."""


class Store:
    """Values by kind and content. Safe among threads: what one is making, others wait for.

    Parameters
    ----------
    most_bytes
        Values that say their size share this room; at 0 none of them stays. Others are small and stay.
    cache
        Where values that last are kept from process to process; None for nowhere.

    Attributes
    ----------
    made, reused, loaded
        How many values of each kind were computed, taken from here, and read from the cache.

    Examples
    --------
    >>> store = Store()
    >>> [store.get("square", 3, lambda: 9) for _ in range(3)], store.made["square"], store.reused["square"]
    ([9, 9, 9], 1, 2)
    """

    def __init__(self, *, most_bytes: int = MOST_BYTES, cache: "Cache | None" = None) -> None:
        self.most_bytes, self.cache = most_bytes, cache
        self.made: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self.loaded: Counter[str] = Counter()
        self._small: dict[Key, Any] = {}
        self._large: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._making: dict[Key, threading.Event] = {}
        self._lock = threading.Lock()

    def get(
        self, kind: str, key: Hashable, make: Callable[[], T], *, size: Callable[[T], int] | None = None,
        lasting: bool = False,
    ) -> T:  # fmt: skip
        """The value of ``key``, made where it is not here.

        ``lasting``: it is looked for in the cache first, and kept there. The ``repr`` of its key must then show
        all that the value follows from.
        """
        full = (kind, key)
        while True:
            with self._lock:
                held = self._small if size is None else self._large
                if full in held:
                    self.reused[kind] += 1
                    if size is None:
                        return self._small[full]  # type: ignore[no-any-return]
                    self._large.move_to_end(full)
                    return self._large[full][0]  # type: ignore[no-any-return]
                other = self._making.get(full)
                if other is None:
                    done = self._making[full] = threading.Event()
                    break
            other.wait()
        try:
            value = self._made(kind, key, make, lasting=lasting)
            with self._lock:
                if size is None:
                    self._small[full] = value
                else:
                    self._large[full] = (value, size(value))
                    self._bytes += self._large[full][1]
                    while self._bytes > self.most_bytes:
                        self._bytes -= self._large.popitem(last=False)[1][1]
        finally:
            with self._lock:
                del self._making[full]
            done.set()
        return value

    def _made(self, kind: str, key: Hashable, make: Callable[[], T], *, lasting: bool) -> T:
        """The value from the cache, or computed."""
        cache = self.cache if lasting else None
        if cache is not None:
            found, value = cache.read(kind, key)
            if found:
                with self._lock:
                    self.loaded[kind] += 1
                return value  # type: ignore[no-any-return]
        value = make()
        with self._lock:
            self.made[kind] += 1
        if cache is not None:
            cache.write(kind, key, value)
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


def without_tables(step: "StepCost") -> "StepCost":
    """What metrics and reports take from cost tables: all but the tables, which are empty."""
    empty: dict[str, Any] = {}
    for field in dataclasses.fields(step):
        value = getattr(step, field.name)
        if isinstance(value, np.ndarray):
            empty[field.name] = np.zeros((0,) * value.ndim, value.dtype)
        elif field.name.endswith("_parts"):
            empty[field.name] = {}
    return dataclasses.replace(step, **empty)


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


def lengths_content(trace: "Trace") -> str:
    """A short name of the lengths of a trace's requests, whenever they arrive."""
    digest = hashlib.sha256()
    for column in (trace.prompt_tokens, trace.output_tokens):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def space_content(question: "Question") -> str:
    """A short name of all that decides which plans are feasible: of the trace only its longest prompt and request."""
    trace = question.trace
    longest = int(trace.prompt_tokens.max()), int((trace.prompt_tokens + trace.output_tokens).max())
    decisive = [
        (field.name, dict(value) if isinstance(value := getattr(question, field.name), Mapping) else value)
        for field in dataclasses.fields(question)
        if field.name not in ("objective", "slos", "trace")
    ]
    return content(longest, decisive)
