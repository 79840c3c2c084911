"""Rows of a trace, line by line: each is a request or a fault with its line and field."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from traces.formats import Format, Header

MOST_TOKENS = 2**31 - 1  # what an engine's 32-bit positions hold; keeps every sum within int64
SURROGATE = re.compile("[\udc80-\udcff]")  # a byte that was no UTF-8, decoded with surrogateescape
CLOCK = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf(inity)?|nan)", re.ASCII | re.IGNORECASE)


class Row(NamedTuple):
    """One request: line in the file, arrival in ticks of the format, tokens, prefix blocks."""

    line: int
    ticks: float
    prompt: int
    output: int
    prefix: tuple[int, ...] = ()


class Fault(NamedTuple):
    """What is wrong with one line, and in which field; a byte that is no UTF-8 is a fault of its field."""

    line: int
    field: str
    what: str


def lines_of(data: bytes) -> io.TextIOWrapper:
    """Lines that end in LF, CRLF or CR. Bytes that are no UTF-8 become surrogates, see ``Fault``."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape", newline="")


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def csv_rows(data: bytes, header: Header) -> Iterator[Row | Fault]:
    """Rows of a CSV below its header; quoted cells, blank lines and further columns are fine."""
    reader = csv.reader(lines_of(data), strict=True)
    form, names, wide = header.form, header.names, len(header.names)
    arrival_at, prompt_at, output_at = header.at
    clean = is_utf8(data)
    while reader.line_num < header.line:
        next(reader)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(reader.line_num, form.arrival, f"the line is no CSV: {error}")
            continue
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue
        line = reader.line_num
        if cells[arrival_at : arrival_at + 1] and cells[arrival_at].strip().lower() == form.arrival.lower():
            yield Fault(line, form.arrival, "the header stands there again")
            continue
        if len(cells) < wide:
            what = f"missing: {len(cells)} of {wide} columns, the line is cut short"
            yield Fault(line, names[len(cells)], what)
            continue
        if len(cells) > wide and any(cell.strip() for cell in cells[wide:]):
            yield Fault(line, names[-1], f"{len(cells)} columns where the header has {wide}")
            continue
        if not clean and (bad := _not_text(cells, names)):
            yield Fault(line, *bad)
            continue
        try:
            yield Row(
                line,
                _clock(cells[arrival_at], form) if form.wall_clock else _time(cells[arrival_at], form),
                _tokens(cells[prompt_at], form.prompt),
                _tokens(cells[output_at], form.output, form.zero_output),
                () if header.prefix_at is None else _blocks(cells[header.prefix_at].split(), form),
            )
        except _Wrong as wrong:
            yield Fault(line, *wrong.args)


def json_rows(data: bytes, form: Format) -> Iterator[Row | Fault]:
    """Rows of a file of JSON objects, one a line."""
    clean = is_utf8(data)
    for line, source in enumerate(lines_of(data), start=1):
        if not source.strip():
            continue
        if not clean and (match := SURROGATE.search(source)):
            yield Fault(line, f"column {match.start() + 1}", _no_utf8(match[0]))
            continue
        try:
            record = json.loads(source)
        except ValueError as error:
            absent = next((field for field in form.fields if f'"{field}"' not in source), "")
            where = absent or f"column {getattr(error, 'colno', 1)}"
            yield Fault(line, where, ("missing: " if absent else "") + "not a whole JSON object; cut short?")
            continue
        if not isinstance(record, dict):
            yield Fault(line, form.arrival, f"{_short(source)} is not a JSON object")
            continue
        absent = next((field for field in form.fields if field not in record), "")
        if absent:
            yield Fault(line, absent, "missing")
            continue
        try:
            yield Row(
                line,
                _time(record[form.arrival], form),
                _tokens(record[form.prompt], form.prompt),
                _tokens(record[form.output], form.output, form.zero_output),
                () if form.prefix is None else _blocks(record.get(form.prefix) or (), form),
            )
        except _Wrong as wrong:
            yield Fault(line, *wrong.args)


class _Wrong(Exception):
    """Field and what is wrong with it."""


def _time(value: object, form: Format) -> float:
    if type(value) is int and 0 <= value < 2**63:
        return value
    number = _number(value, form.arrival)
    if not (math.isfinite(number) and number >= 0):
        raise _Wrong(form.arrival, f"{_short(value)} is not a time of 0 or later")
    return number


def _clock(value: str, form: Format) -> int:
    """Nanoseconds since 1970 in UTC; without an offset the clock counts as UTC."""
    try:
        match = CLOCK.fullmatch(value.strip())
        if match is None:
            raise ValueError
        day, time, fraction, offset = match.groups()
        seconds = datetime.fromisoformat(f"{day}T{time}{offset or 'Z'}").timestamp()
    except (ValueError, OverflowError):
        what = f"{_short(value)} is not a date and time, e.g. 2023-11-16 18:15:46.6805900"
        raise _Wrong(form.arrival, what) from None
    return int(seconds) * 10**9 + int((fraction or "0").ljust(9, "0"))


def _tokens(value: object, field: str, zero: str = "") -> int:
    if type(value) is int and 1 <= value <= MOST_TOKENS:
        return value
    number = _number(value, field)
    if 1 <= number <= MOST_TOKENS and number == int(number):
        return int(number)
    if zero and number == 0:
        raise _Wrong(field, f"0 means {zero}")
    raise _Wrong(field, f"{_short(value)} is not a whole number from 1 to {MOST_TOKENS}")


def _number(value: object, field: str) -> float:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return value if abs(value) < 2**63 else float(value)
        except OverflowError:
            return math.inf
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        raise _Wrong(field, f"{_short(value)} is not a number" if value != "" else "empty")
    return float(value)


def _blocks(values: object, form: Format) -> tuple[int, ...]:
    try:
        if not isinstance(values, (list, tuple)) or any(isinstance(v, (float, bool)) for v in values):
            raise ValueError
        return tuple(map(int, values))
    except (TypeError, ValueError):
        raise _Wrong(str(form.prefix), f"{_short(values)} are not whole numbers") from None


def _not_text(cells: list[str], names: tuple[str, ...]) -> tuple[str, str] | None:
    for name, cell in zip(names, cells, strict=False):
        if match := SURROGATE.search(cell):
            return name, _no_utf8(match[0])
    return None


def _no_utf8(surrogate: str) -> str:
    return f"byte 0x{ord(surrogate) - 0xDC00:02x} is not UTF-8 text"


def _short(value: object) -> str:
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
