"""CSV files of measured operations: read with errors that name file, line and column, made into a Table."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from profiles.errors import InputError, nearest
from profiles.ops import FloatArray
from profiles.silicon_tables import Table

Kind = Literal["word", "count", "size", "time", "spread"] | tuple[str, ...]
"""A tuple holds all that a word may be. ``count`` is a whole number above 0, ``size`` a whole number from 0, ``time``
a number above 0, ``spread`` a number from 0."""

_WORDS = {
    "count": "a whole number above 0", "size": "a whole number from 0", "time": "a number above 0",
    "spread": "a number from 0",
}  # fmt: skip


def read_measured(path: Path, columns: Mapping[str, Kind]) -> dict[str, Any]:
    """The named columns of a CSV file with a header, as arrays; other columns are ignored.

    Raises
    ------
    InputError
        When the file cannot be read, lacks a column, or holds a value that is not of its kind.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                path, encoding="utf-8", skip_blank_lines=False, low_memory=False, index_col=False
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise InputError(f"{path}: {str(error).strip().splitlines()[0]}") from error
    frame = frame.dropna(how="all")  # blank lines; the index still counts them
    for name in columns:
        if name not in frame.columns:
            hint = nearest(name, map(str, frame.columns))
            raise InputError(f"{path}:1: column {name!r} is missing, {hint}")
    result = {}
    for name, kind in columns.items():
        if kind == "word" or isinstance(kind, tuple):
            words = frame[name].astype(str)
            unknown = ~words.isin(kind) if isinstance(kind, tuple) else np.zeros(len(words), bool)
            if unknown.any():
                row = int(np.argmax(unknown))
                hint = nearest(words.iloc[row], kind)
                raise InputError(
                    f"{path}:{frame.index[row] + 2}: column {name!r}: {words.iloc[row]!r} is unknown, {hint}"
                )
            result[name] = words.to_numpy()
            continue
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
        least = values >= 0 if kind in ("size", "spread") else values > 0
        whole = kind in ("count", "size")
        good = least & np.isfinite(values) & (not whole or values == np.floor(values))
        if not good.all():
            row = int(np.argmin(good))
            text = str(frame[name].iloc[row])
            raise InputError(f"{path}:{frame.index[row] + 2}: column {name!r}: {text} is not {_WORDS[kind]}")
        result[name] = values.astype(np.int64) if whole else values
    return result


def table_of(
    sites: Sequence[FloatArray], axes: Sequence[FloatArray], seconds: FloatArray, source: str
) -> Table | None:
    """Rows of one operation as a table; of repeated points the fastest counts. None without rows.

    Parameters
    ----------
    sites, axes
        Columns of shapes and of loads, [N] each.
    seconds
        [N], > 0.
    """
    if not len(seconds):
        return None
    shapes, site = np.unique(np.stack(sites, axis=1), axis=0, return_inverse=True)
    knots, places = zip(*(np.unique(axis, return_inverse=True) for axis in axes), strict=True)
    grid = np.full((len(shapes), *map(len, knots)), np.inf)
    np.minimum.at(grid, (site.ravel(), *places), seconds)
    grid[np.isinf(grid)] = np.nan
    return Table(
        sites=shapes.astype(np.int64),
        axes=tuple(knot.astype(np.float64) for knot in knots),
        seconds=grid,
        source=source,
    )
