"""Words that came from files and flags, and numbers with units, made fit for a terminal."""

import math

WIDTH = 80
"""Columns of a terminal that everything printed fits into."""


def printable(text: str) -> str:
    r"""The text with control and invisible characters as escapes: it stays on its line and moves no cursor.

    Examples
    --------
    >>> printable("chat\x1b[2J\nbest plan.csv")
    'chat\\x1b[2J\\nbest plan.csv'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit, scaled for people.

    Examples
    --------
    >>> quantity(0.0372, "s"), quantity(5.2e6, "J"), quantity(12.345, "USD"), quantity(None, "s")
    ('37.2 ms', '5.20 MJ', '12.35 USD', 'n/a')
    """
    if value is None:
        return "n/a"
    if not math.isfinite(value):
        return "none"
    if unit == "s":
        if abs(value) < 1e-9:  # what is left of rounding
            return "0 ms"
        if abs(value) < 0.9995:  # 999.5 ms would round to 1e+03 ms
            return f"{value * 1e3:.3g} ms"
        return f"{value:.2f} s" if abs(value) < 1000 else f"{value:.0f} s"
    if unit == "J":
        for scale, name in ((1e6, "MJ"), (1e3, "kJ")):
            if abs(value) >= scale:
                return f"{value / scale:.2f} {name}"
        return f"{value:.2f} J"
    if unit == "USD":
        return f"{value:.2f} USD" if abs(value) >= 1 or value == 0 else f"{value:.2g} USD"
    return f"{value:,.4g} {unit}" if abs(value) < 9999.5 else f"{value:,.0f} {unit}"
