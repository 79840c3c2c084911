"""Read a trace. The format is told by its content, never by a flag or a file name.

==========  ==========================================================  ======================
format      first line                                                  arrival
==========  ==========================================================  ======================
zenith      ``arrival_s,prompt_tokens,output_tokens``                   seconds
azure       ``TIMESTAMP,ContextTokens,GeneratedTokens`` (2023, 2024)    wall clock; starts at 0
burstgpt    ``Timestamp,...,Request tokens,Response tokens,...``        seconds; failed requests
                                                                        have 0 response tokens
apex        JSON with ``StartTimeOffset``                               nanoseconds
mooncake    JSON with ``timestamp``, ``input_length``, ``hash_ids``     milliseconds
==========  ==========================================================  ======================

Plain or gzip. Extra columns are ignored, header case too.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from profiles.errors import InputError
from traces.trace import Trace

MOST_DROPS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Names of the three columns that count, and seconds in one unit of arrival (None: wall clock)."""

    name: str
    arrival: str
    prompt: str
    output: str
    unit_s: float | None
    prefix: str | None = None


CSV_FORMATS = (
    Format(name="zenith", arrival="arrival_s", prompt="prompt_tokens", output="output_tokens", unit_s=1.0),
    Format(name="azure", arrival="timestamp", prompt="contexttokens", output="generatedtokens", unit_s=None),
    Format(
        name="burstgpt", arrival="timestamp", prompt="request tokens", output="response tokens", unit_s=1.0
    ),
)
JSON_FORMATS = (
    Format(name="apex", arrival="StartTimeOffset", prompt="ContextTokens", output="GeneratedTokens", unit_s=1e-9),
    Format(
        name="mooncake", arrival="timestamp", prompt="input_length", output="output_length", unit_s=1e-3,
        prefix="hash_ids",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """A trace, its format, and what was dropped: how many rows, and the messages of the first few."""

    trace: Trace
    format: str
    dropped: int = 0
    first_drops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One request as read: line in the file, arrival in seconds, tokens."""

    line: int
    arrival_s: float
    prompt: int
    output: int
    prefix: tuple[int, ...] | None = None


def read_trace(path: str | Path, *, skip_bad_rows: bool = False) -> ReadResult:
    """The requests of a file, sorted as they are.

    Parameters
    ----------
    skip_bad_rows
        Drop rows that are wrong instead of refusing the file.

    Raises
    ------
    InputError
        One line: file, line, field, value, what was expected.
    """
    path = Path(path)
    data = _content(path)
    text = _text(path, data)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise InputError(f"{path}: the file is empty")
    if first.lstrip().startswith("{"):
        rows, form = _json_rows(path, text)
    else:
        form = _csv_format(path, first)
        quick = None if skip_bad_rows else _quick_csv(data, form)
        if quick is not None:
            return ReadResult(trace=_trace(path, form, *quick, None), format=form.name)
        rows = _csv_rows(path, text, form)
    return _collect(path, rows, form, skip_bad_rows)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: byte {data[error.start]:#04x} is not UTF-8 text") from error


def _csv_format(path: Path, header: str) -> Format:
    columns = [column.strip().strip('"').lower() for column in header.split(",")]
    for form in CSV_FORMATS:
        if {form.arrival, form.prompt, form.output} <= set(columns):
            for name in (form.arrival, form.prompt, form.output):
                if columns.count(name) > 1:
                    raise InputError(f"{path}: line 1: column {name!r} stands there twice")
            return form
    expected = " or ".join(",".join((f.arrival, f.prompt, f.output)) for f in CSV_FORMATS)
    raise InputError(
        f"{path}: line 1: columns {header.strip()[:80]!r} are of no known format; expected {expected}"
    )


def _quick_csv(
    data: bytes, form: Format
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Columns of a file without a fault, None where anything looks wrong: the slow pass then says what."""
    import pandas as pd

    try:
        table = pd.read_csv(
            io.BytesIO(data), encoding="utf-8-sig", skip_blank_lines=True, skipinitialspace=True
        )
    except (ValueError, UnicodeDecodeError):
        return None
    table.columns = [str(column).strip().lower() for column in table.columns]
    columns = table[form.arrival], table[form.prompt], table[form.output]
    if any(not pd.api.types.is_integer_dtype(column) for column in columns[1:]) or not len(table):
        return None
    if form.unit_s is None:
        try:
            clock = pd.to_datetime(columns[0], format="ISO8601", utc=True)
        except ValueError:
            return None
        arrival = (clock - clock.iloc[0]).dt.total_seconds().to_numpy(np.float64)
    elif pd.api.types.is_numeric_dtype(columns[0]):
        arrival = columns[0].to_numpy(np.float64) * form.unit_s
    else:
        return None
    prompt, output = (column.to_numpy(np.int64) for column in columns[1:])
    fine = np.isfinite(arrival).all() and arrival[0] >= 0 and (np.diff(arrival) >= 0).all()
    return (arrival, prompt, output) if fine and prompt.min() >= 1 and output.min() >= 1 else None


Lines = Iterator[Row | str]
"""Rows, or messages about rows that are wrong."""


def _csv_rows(path: Path, text: str, form: Format) -> Lines:
    import csv

    lines = enumerate(text.splitlines(), start=1)
    number, header = next((n, line) for n, line in lines if line.strip())
    columns = [column.strip().lower() for column in next(csv.reader([header]))]
    where = [columns.index(name) for name in (form.arrival, form.prompt, form.output)]
    start: float | None = None
    for number, line in lines:
        if not line.strip():
            continue
        cells = next(csv.reader([line]))
        if [cell.strip().lower() for cell in cells] == columns:
            yield f"{path}: line {number}: the header stands there again"
            continue
        if len(cells) < len(columns):
            yield f"{path}: line {number}: {len(cells)} of {len(columns)} columns; the line is cut short"
            continue
        values = [cells[i].strip() for i in where]
        try:
            clock = _arrival(values[0], form, f"{path}: line {number}: {columns[where[0]]}")
            if form.unit_s is None:
                start = clock if start is None else start
                clock -= start
            yield Row(
                number,
                clock,
                _tokens(values[1], f"{path}: line {number}: {columns[where[1]]}"),
                _tokens(values[2], f"{path}: line {number}: {columns[where[2]]}"),
            )
        except ValueError as error:
            yield str(error)


def _arrival(value: str, form: Format, where: str) -> float:
    if form.unit_s is not None:
        try:
            seconds = float(value) * form.unit_s
        except ValueError:
            raise ValueError(f"{where}: {value!r} is not a number") from None
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"{where}: {value!r} is not a time of 0 or later")
        return seconds
    try:
        return (
            float(
                np.datetime64(value.removesuffix("Z").split("+")[0].replace(" ", "T"), "ns").astype(np.int64)
            )
            * 1e-9
        )
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not a date and time") from None


def _tokens(value: object, where: str) -> int:
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not a whole number") from None
    if not (number.is_integer() and number >= 1) or isinstance(value, bool):
        raise ValueError(f"{where}: {value!r} must be a whole number of at least 1")
    return int(number)


def _json_rows(path: Path, text: str) -> tuple[Lines, Format]:
    first = next(line for line in text.splitlines() if line.strip())
    try:
        keys = set(json.loads(first))
    except (ValueError, TypeError):
        raise InputError(f"{path}: line 1: {first[:60]!r} is not a JSON object") from None
    for form in JSON_FORMATS:
        if {form.arrival, form.prompt, form.output} <= keys:
            return _json_lines(path, text, form), form
    expected = " or ".join(", ".join((f.arrival, f.prompt, f.output)) for f in JSON_FORMATS)
    raise InputError(
        f"{path}: line 1: keys {', '.join(sorted(keys))} are of no known format; expected {expected}"
    )


def _json_lines(path: Path, text: str, form: Format) -> Lines:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except ValueError:
            yield f"{where}: not JSON; the line may be cut short"
            continue
        missing = [
            n
            for n in (form.arrival, form.prompt, form.output)
            if not isinstance(record, dict) or n not in record
        ]
        if missing:
            yield f"{where}: {missing[0]} is missing"
            continue
        try:
            prefix = None
            if form.prefix is not None:
                prefix = tuple(int(block) for block in record.get(form.prefix) or ())
            yield Row(
                number,
                _arrival(str(record[form.arrival]), form, f"{where}: {form.arrival}"),
                _tokens(record[form.prompt], f"{where}: {form.prompt}"),
                _tokens(record[form.output], f"{where}: {form.output}"),
                prefix,
            )
        except (ValueError, TypeError) as error:
            yield str(error) if str(error).startswith(where) else f"{where}: {error}"


def _collect(path: Path, rows: Lines, form: Format, skip: bool) -> ReadResult:
    kept: list[Row] = []
    drops: list[str] = []
    dropped = 0
    latest = 0.0
    for row in rows:
        if isinstance(row, Row) and row.arrival_s < latest:
            row = f"{path}: line {row.line}: {form.arrival} goes back in time; sort the file by arrival"
        if isinstance(row, str):
            if not skip:
                raise InputError(row)
            dropped += 1
            if len(drops) < MOST_DROPS_SHOWN:
                drops.append(row)
            continue
        latest = row.arrival_s
        kept.append(row)
    if not kept:
        raise InputError(
            f"{path}: no request in the file" + (f" ({dropped} bad rows dropped)" if dropped else "")
        )
    trace = _trace(
        path,
        form,
        np.array([row.arrival_s for row in kept]),
        np.array([row.prompt for row in kept], np.int64),
        np.array([row.output for row in kept], np.int64),
        tuple(row.prefix or () for row in kept) if form.prefix else None,
    )
    return ReadResult(trace=trace, format=form.name, dropped=dropped, first_drops=tuple(drops))


def _trace(
    path: Path, form: Format, arrival_s: NDArray[np.float64], prompt: NDArray[np.int64],
    output: NDArray[np.int64], prefix: tuple[tuple[int, ...], ...] | None,
) -> Trace:  # fmt: skip
    return Trace(
        arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, prefix=prefix, name=path.name
    )
