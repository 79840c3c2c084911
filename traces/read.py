"""Read a trace: bytes to columns. ``formats`` says which formats there are and how they are told apart.

A file without a fault is read column by column; only where something is wrong is it read again, row by row,
to say in which line and field, or to leave those rows out.
"""

import codecs
import csv
import gzip
import io
import json
import warnings
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from profiles.errors import InputError
from traces.formats import CSV_FORMATS, JSON_FORMATS, Format, Header, csv_header, expected, json_format
from traces.rows import MOST_TOKENS, Fault, Row, csv_rows, is_utf8, json_rows, lines_of
from traces.trace import Trace

MOST_DROPS_SHOWN = 3
SNIFFED_LINES = 100  # a file may begin with bad rows

Columns = tuple[NDArray[np.number], NDArray[np.int64], NDArray[np.int64]]
"""Arrivals in ticks of the format, prompt tokens, output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """A trace, its format, and what was left out.

    Parameters
    ----------
    dropped
        How many rows. 0 unless bad rows were to be skipped.
    dropped_by_field
        The same count by the field at fault.
    first_drops
        Messages about the first few.
    """

    trace: Trace
    format: str
    dropped: int = 0
    dropped_by_field: tuple[tuple[str, int], ...] = ()
    first_drops: tuple[str, ...] = ()


def read_trace(path: str | Path, *, skip_bad_rows: bool = False) -> ReadResult:
    """The requests of a file, plain or gzip, in any format of ``traces.formats``.

    Parameters
    ----------
    skip_bad_rows
        Leave bad rows out instead of refusing the file. Of rows out of order as few as possible are left out.

    Raises
    ------
    InputError
        One line: file, line, field, value, what was expected.
    """
    path = Path(path)
    data = _content(path)
    first = next((line.strip() for line in lines_of(data) if line.strip()), "")
    if not first:
        raise InputError(f"{path}: the file is empty")
    if first[0] in "{[":
        form = _sniff_json(path, data, first)
        return _collect(path, json_rows(data, form), form, skip_bad_rows)
    header = _sniff_csv(path, data)
    quick = _quick_csv(data, header)
    if quick is not None:
        return ReadResult(trace=_trace(path, header.form, quick), format=header.form.name)
    return _collect(path, csv_rows(data, header), header.form, skip_bad_rows)


def _content(path: Path) -> bytes:
    """The file, unpacked, without a byte order mark; refused where it cannot be text."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken gzip: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: line 1: UTF-16 text; save it as UTF-8")
    if b"\0" in data[:4096]:
        raise InputError(f"{path}: line 1: a binary file; expected CSV or JSON lines, plain or gzip")
    return data.removeprefix(codecs.BOM_UTF8)


def _sniff_csv(path: Path, data: bytes) -> Header:
    reader = csv.reader(lines_of(data))
    try:
        names = next(cells for cells in reader if any(cell.strip() for cell in cells))
    except (csv.Error, StopIteration):
        raise InputError(f"{path}: line 1: no text that could be a header") from None
    header = csv_header(names, reader.line_num)
    if header is None:
        shown = ",".join(names)[:80].encode("ascii", "backslashreplace").decode()
        raise InputError(
            f"{path}: line {reader.line_num}: columns {shown!r} are of no known format; "
            f"expected {expected(CSV_FORMATS)}, separated by commas, or JSON lines"
        )
    if header.twice:
        raise InputError(f"{path}: line {header.line}: {header.twice}: the header has this column twice")
    return header


def _sniff_json(path: Path, data: bytes, first: str) -> Format:
    for line in islice(lines_of(data), SNIFFED_LINES):
        try:
            form = json_format(json.loads(line))
        except (ValueError, TypeError):
            continue
        if form is not None:
            return form
    raise InputError(
        f"{path}: line 1: {first[:60]!r} is of no known format; expected one JSON object a line with "
        f"{expected(JSON_FORMATS)}"
    )


def _quick_csv(data: bytes, header: Header) -> Columns | None:
    """Columns of a file without a fault; None where anything looks wrong or needs a closer look."""
    import pandas as pd

    form = header.form
    multiline = any("\n" in name or "\r" in name for name in header.names)
    if form.prefix is not None or multiline or not is_utf8(data):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.BytesIO(data),
                header=None,
                names=range(len(header.names)),
                skiprows=header.line,
                dtype={header.at[0]: "object"},  # pandas rounds numbers, Python does not
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
            )
    except (ValueError, pd.errors.ParserWarning):
        return None
    if not len(table) or table.iloc[:, -1].isna().any():
        return None
    clock, *tokens = (table[at] for at in header.at)
    if not all(pd.api.types.is_signed_integer_dtype(column) for column in tokens):
        return None
    if form.wall_clock:
        try:
            moments = pd.to_datetime(clock, format="ISO8601", utc=True).dt.tz_localize(None)
        except ValueError:
            return None
        ticks = moments.to_numpy("datetime64[ns]").astype(np.int64)
    else:
        try:
            ticks = np.fromiter(map(float, clock), np.float64, len(clock))
        except ValueError:
            return None
        if not np.isfinite(ticks).all() or ticks[0] < 0 or "_" in "".join(clock):
            return None
    prompt, output = (column.to_numpy(np.int64) for column in tokens)
    fine = (
        (ticks[1:] >= ticks[:-1]).all()
        and min(prompt.min(), output.min()) >= 1
        and max(prompt.max(), output.max()) <= MOST_TOKENS
    )
    return (ticks, prompt, output) if fine else None


def _collect(path: Path, rows: Iterable[Row | Fault], form: Format, skip: bool) -> ReadResult:
    """Good rows as columns; the first fault ends it unless bad rows are to be skipped."""
    lines, prompt, output = array("q"), array("q"), array("q")
    ticks: list[float] = []
    prefix: list[tuple[int, ...]] = []
    faults: list[Fault] = []
    latest = -float("inf")
    in_order = True
    for row in rows:
        if isinstance(row, Row):
            line, tick, *tokens, blocks = row
            if tick < latest:
                in_order = False
                if not skip:
                    raise InputError(_message(path, _unsorted(form, line), skip))
            latest = tick
            lines.append(line)
            ticks.append(tick)
            prompt.append(tokens[0])
            output.append(tokens[1])
            prefix.append(blocks)
        elif skip:
            faults.append(row)
        else:
            raise InputError(_message(path, row, skip))
    keep = np.arange(len(lines)) if in_order else longest_sorted(ticks)
    if not in_order:
        kept = set(keep.tolist())
        faults += [_unsorted(form, line) for at, line in enumerate(lines) if at not in kept]
        faults.sort()
    if not len(keep):
        tail = f" ({len(faults)} bad rows dropped)" if faults else ""
        raise InputError(f"{path}: no request in the file{tail}")
    columns = np.array(ticks)[keep], np.array(prompt)[keep], np.array(output)[keep]
    return ReadResult(
        trace=_trace(path, form, columns, tuple(prefix[at] for at in keep) if form.prefix else None),
        format=form.name,
        dropped=len(faults),
        dropped_by_field=tuple(Counter(fault.field for fault in faults).most_common()),
        first_drops=tuple(_message(path, fault, skip) for fault in faults[:MOST_DROPS_SHOWN]),
    )


def longest_sorted(values: Sequence[float]) -> NDArray[np.int64]:
    """Positions of a longest subsequence that does not decrease, by patience sorting in O(n log n).

    Examples
    --------
    >>> longest_sorted([1, 2, 99, 3, 3, 0, 4]).tolist()
    [0, 1, 3, 4, 6]
    """
    tops: list[float] = []
    top_at: list[int] = []
    before = np.full(len(values), -1)
    for at, value in enumerate(values):
        pile = bisect_right(tops, value)
        if pile:
            before[at] = top_at[pile - 1]
        tops[pile : pile + 1] = [value]
        top_at[pile : pile + 1] = [at]
    chain = []
    at = top_at[-1] if top_at else -1
    while at >= 0:
        chain.append(at)
        at = int(before[at])
    return np.array(chain[::-1], np.int64)


def _unsorted(form: Format, line: int) -> Fault:
    return Fault(line, form.arrival, "goes back in time; rows must be sorted by arrival")


def _message(path: Path, fault: Fault, skip: bool) -> str:
    way_out = "" if skip else "; --skip-bad-rows leaves such rows out"
    message = f"{path}: line {fault.line}: {fault.field}: {fault.what}{way_out}"
    return message.encode("utf-8", "backslashreplace").decode()  # names may hold bytes that are no text


def _trace(
    path: Path, form: Format, columns: Columns, prefix: tuple[tuple[int, ...], ...] | None = None
) -> Trace:
    ticks, prompt, output = columns
    start = ticks[0] if form.wall_clock else 0
    return Trace(
        arrival_s=((ticks - start) / form.ticks_per_s).astype(np.float64),
        prompt_tokens=prompt,
        output_tokens=output,
        prefix=prefix,
        prefix_block_tokens=form.prefix_block_tokens,
        name=path.name,
    )
