"""Quantities: every unit has its size, what is no quantity is refused in one line, the schema's patterns agree."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.question_file import schema
from planner.units import KINDS, POWER, SHARE, TIME, TOKENS, read, read_scaling, read_whole, read_window
from profiles.errors import InputError

NUMBERS = st.floats(1e-3, 1e6).map(lambda x: float(f"{x:.6g}"))


def patterns(node):
    """(kind, pattern) of every quantity of the schema."""
    if isinstance(node, dict):
        if "quantity" in node:
            yield node["quantity"], node["pattern"]
        for child in node.values():
            yield from patterns(child)
    elif isinstance(node, list):
        for child in node:
            yield from patterns(child)


PATTERNS = sorted(set(patterns(schema())))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(number=NUMBERS, blank=st.sampled_from(["", " ", "  "]))
def test_a_number_and_a_unit_are_their_product(kind, number, blank):
    for unit, size in kind.units.items():
        assert read(f"{number!r}{blank}{unit}", kind) == number * size
        assert read(f" {number:e}{blank}{unit} ", kind) == pytest.approx(number * size, rel=1e-5)
    if kind.bare is None:
        with pytest.raises(InputError, match=re.escape(f"expected {kind.expected}")):
            read(repr(number), kind)
    else:
        assert read(repr(number), kind) == number * kind.bare


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "nan",
        "inf",
        "1e999",
        "four",
        "4 4",
        "1,5",
        "0x10",
        "²",
        "1_000",
        "4/",
        "5 fortnights",
        "-0.5s",
    ],
)
def test_what_is_no_quantity_is_one_line(kind, text):
    with pytest.raises(InputError) as caught:
        read(text, kind)
    assert repr(text) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_nothing_is_below_0_and_0_only_where_it_means_something(kind):
    for unit in kind.units:
        if kind.zero:
            assert read(f"0{unit}", kind) == 0
        else:
            with pytest.raises(InputError, match="above 0"):
                read(f"0{unit}", kind)


@pytest.mark.parametrize(
    ("text", "meant"), [("700w", "W"), ("2KW", "kW"), ("5MS", "ms"), ("3.5usd/h", "USD/h")]
)
def test_the_nearest_unit_is_proposed(text, meant):
    kind = next(kind for kind in KINDS.values() if meant in kind.units)
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        read(text, kind)


@pytest.mark.parametrize(("name", "pattern"), PATTERNS)
@settings(deadline=None, max_examples=200, derandomize=True)
@given(data=st.data())
def test_the_schema_allows_what_is_read(name, pattern, data):
    """The schema's pattern is wider only where a value is out of range."""
    kind = KINDS[name]
    units = sorted({*kind.units, "", "W", "s", "/s", "sec", "%", "GiB"})
    number = data.draw(NUMBERS.map(repr) | st.sampled_from(["0", "", ".5", "5.", "1e3", "-1", "x", "1e"]))
    text = number + data.draw(st.sampled_from(["", " "])) + data.draw(st.sampled_from(units))
    allowed = re.search(pattern, text) is not None
    try:
        read(text, kind)
    except InputError as error:
        assert not allowed or "at least 0" in str(error) or "above 0" in str(error)
    else:
        assert allowed


def test_windows_and_scalings():
    assert read_window("600:1200") == read_window("10min:20min") == read_window("600s:1200s") == (600, 1200)
    assert read_window(":5") == (0, 5) and read_window("5:") == (5, math.inf)
    for text in ("", "5", "9:3", "5:5", "a:b", "-1:5", "1:2:3"):
        with pytest.raises(InputError, match="START:END"):
            read_window(text)
    assert read_scaling("x2") == ("times", 2) and read_scaling(" 120/min ") == ("rate", 2)
    for text in ("2", "x", "x0", "x-1", "x2/s", "/s", "0/s", "xinf", "x1e999"):
        with pytest.raises(InputError, match=r"x0\.5"):
            read_scaling(text)


def test_whole_numbers():
    assert read_whole("2k", TOKENS) == 2000 and read_whole("0.5k", TOKENS) == 500
    for text, kind in (("1.5", TOKENS), ("0.25W", POWER), ("10%", SHARE), ("1ms", TIME)):
        with pytest.raises(InputError, match="whole number"):
            read_whole(text, kind)
