"""Quantities as people write them: ``500ms``, ``4/s``, ``700W``, ``3.5USD/h``, ``400Gbit/s``. Read here alone.

A quantity is a number and a unit of its kind, with or without a blank between them. A kind says which units
it has and, where a bare number is usual, which unit that has. Units are told apart by case (``mW``, ``MW``).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from profiles.errors import InputError, nearest

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
"""A decimal number; no other spelling is read."""

_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*(\D.*?)?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of quantity.

    Parameters
    ----------
    expected
        What a message asks for, with an example.
    units
        Unit to its size in ``base``.
    base
        Unit of what ``read`` returns.
    bare
        Size of a number without a unit, None where it needs one.
    zero
        Whether 0 is a value.
    """

    expected: str
    units: Mapping[str, float] = field(hash=False)
    base: str
    bare: float | None = None
    zero: bool = False


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "day": 86_400.0}
TIME = Kind(expected="a time such as 60s, 500ms or 5min", units=_SECONDS, base="s")
LATENCY = Kind(
    expected="a limit in us, ms or s, such as 500ms", units={"us": 1e-6, "ms": 1e-3, "s": 1.0}, base="s"
)
INSTANT = Kind(
    expected="a time such as 600s or 10min", units=_SECONDS, base="s", bare=1.0, zero=True
)  # since the start of a trace, which counts in seconds
SPAN = Kind(expected="a time such as 90s or 5min", units=_SECONDS, base="s", bare=1.0)
RATE = Kind(
    expected="a rate such as 4/s or 30/min", units={"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}, base="/s"
)
POWER = Kind(expected="a power such as 700W or 2.8kW", units={"W": 1.0, "kW": 1e3, "MW": 1e6}, base="W")
PRICE = Kind(
    expected="a price such as 3.5USD/h",
    units={"USD/h": 1.0, "USD/hour": 1.0, "USD/day": 1 / 24},
    base="USD/h",
)
BANDWIDTH = Kind(
    expected="a bandwidth such as 400Gbit/s or 50GB/s",
    units={"Mbit/s": 1e6, "Gbit/s": 1e9, "Tbit/s": 1e12, "MB/s": 8e6, "GB/s": 8e9, "TB/s": 8e12},
    base="bit/s",
)
TOKENS = Kind(
    expected="a number of tokens such as 512 or 2k",
    units={"token": 1.0, "tokens": 1.0, "k": 1e3},
    base="tokens",
    bare=1.0,
    zero=True,
)
SHARE = Kind(expected="a share such as 0.9 or 90%", units={"%": 0.01}, base="", bare=1.0, zero=True)
CLOCK = Kind(
    expected="a clock such as 1980MHz or 1.98GHz, or 0 for the highest",
    units={"MHz": 1.0, "GHz": 1e3},
    base="MHz",
    bare=1.0,
    zero=True,
)
_TIMES = Kind(expected="a factor", units={}, base="", bare=1.0)

KINDS = {
    "time": TIME,
    "latency": LATENCY,
    "instant": INSTANT,
    "span": SPAN,
    "rate": RATE,
    "power": POWER,
    "price": PRICE,
    "bandwidth": BANDWIDTH,
    "tokens": TOKENS,
    "share": SHARE,
    "clock": CLOCK,
}
"""By the name that ``planner/question.schema.json`` has for them."""


def read(text: str, kind: Kind) -> float:
    """The quantity in the base unit of its kind: finite, and above 0 unless 0 is a value.

    Raises
    ------
    InputError
        When it is no such quantity: says what was expected, or the nearest unit.

    Examples
    --------
    >>> read("500ms", TIME), read("1.5 min", TIME), read("30/min", RATE), read("2.8kW", POWER)
    (0.5, 90.0, 0.5, 2800.0)
    >>> read("84USD/day", PRICE), read("90%", SHARE), read("512", TOKENS)
    (3.5, 0.9, 512.0)
    >>> read("60sec", TIME)
    Traceback (most recent call last):
    ...
    profiles.errors.InputError: '60sec': unknown unit 'sec', expected a time such as 60s, 500ms or 5min
    """
    match = _QUANTITY.fullmatch(text)
    number, unit = match.groups() if match else (None, None)
    if number is None or (unit is None and kind.bare is None):
        raise InputError(f"{text!r}: expected {kind.expected}")
    if unit is not None and unit not in kind.units:
        raise InputError(f"{text!r}: unknown unit {unit!r}, {_nearest(unit, kind)}")
    size = kind.units[unit] if unit is not None else kind.bare
    assert size is not None
    value = float(number) * size
    if not math.isfinite(value) or value < 0 or (value == 0 and not kind.zero):
        raise InputError(
            f"{text!r}: expected {kind.expected}, {'at least' if kind.zero else 'above'} 0 and finite"
        )
    return value


def _nearest(unit: str, kind: Kind) -> str:
    """The nearest unit, else what was expected."""
    words = nearest(unit, kind.units)
    return words if words.startswith("did") else f"expected {kind.expected}"


def read_whole(text: str, kind: Kind) -> int:
    """As ``read``, where only whole numbers make sense.

    Examples
    --------
    >>> read_whole("2k", TOKENS)
    2000
    """
    value = read(text, kind)
    if value != int(value):
        raise InputError(f"{text!r}: expected {kind.expected}, a whole number of {kind.base}")
    return int(value)


def read_window(text: str) -> tuple[float, float]:
    """``600:1200``, ``10min:20min``, ``600s:`` or ``:20min`` as start and end in seconds; open ends are 0 and
    infinite.

    Examples
    --------
    >>> read_window("10min:1200"), read_window("30s:")
    ((600.0, 1200.0), (30.0, inf))
    """
    start, colon, end = text.partition(":")
    try:
        span = read(start or "0", INSTANT), read(end, INSTANT) if end else math.inf
    except InputError:
        span = 0.0, 0.0
    if not colon or not 0 <= span[0] < span[1]:
        raise InputError(f"{text!r}: expected START:END in seconds, e.g. 600:1200, 600: or 10min:20min")
    return span


def read_scaling(text: str) -> tuple[str, float]:
    """``x2``, times the rate of a trace, as ("times", 2.0); ``4/s``, a rate of its own, as ("rate", 4.0).

    Examples
    --------
    >>> read_scaling("x0.5"), read_scaling("30/min")
    (('times', 0.5), ('rate', 0.5))
    """
    word = text.strip()
    try:
        return ("times", read(word[1:], _TIMES)) if word.startswith("x") else ("rate", read(word, RATE))
    except InputError:
        raise InputError(
            f"{text!r}: expected times the trace's rate, as in x0.5, or requests per second, as in 4/s"
        ) from None
