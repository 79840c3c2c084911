"""The files of ``zenith profile``: one CSV per operation and ``profile.json``.

Columns are those of the operation, then ``median_s, spread_s`` (seconds; the interquartile range),
``power_w, clock_mhz`` (of the board while it ran, empty where nothing reads them), ``kernel, date, samples``::

    gemm        weight, activation                       n, k, m         m x k times k x n
    prefill     head_dim, group, kv                      kv_heads, tokens            causal, one prompt
    decode      head_dim, group, kv                      kv_heads, batch, context    context: cached tokens each
    moe         hidden, inner, experts, top_k, weight, activation    tokens          gated, one device
    stream                                               bytes           read and written
    collective  kind                                     ranks, bytes    as ``Operations.collective``; one node
    iteration   model, launch, phase                     sequences, each    a whole iteration of one device


The first columns are the *site*, whose values are alone; the others are *axes*, between whose values times
are interpolated. ``group`` is query heads per KV head. ``profile.json`` says on what, with what, when and how it
was measured. An iteration is one of a model with random weights (``profiles.torch_decoder``), captured in a CUDA
graph or eager: of phase ``decode``, where each of the sequences gets a token and reads so many, or of ``prefill``,
where each is a prompt of so many. It is no table for planning but what predictions are compared with. A row is one
write, so an interruption leaves whole rows; ``samples`` is last, so one cut short would be noticed.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import InputError
from profiles.measured_csv import Kind, read_measured
from profiles.ops import COLLECTIVES, FloatArray, IntArray
from profiles.plan import FORMAT_BYTES

FACTS = "profile.json"

Site = tuple[int | str, ...]
Point = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Of one operation: what names a site, and the axes in the order in which they nest."""

    site: Mapping[str, Kind]
    axes: tuple[str, ...]


_FORMAT = tuple(FORMAT_BYTES)
_FORMATS: dict[str, Kind] = {"weight": _FORMAT, "activation": _FORMAT}
_HEADS: dict[str, Kind] = {"head_dim": "count", "group": "count", "kv": _FORMAT}
_EXPERTS: dict[str, Kind] = {"hidden": "count", "inner": "count", "experts": "count", "top_k": "count"}

OPERATIONS: dict[str, Columns] = {
    "gemm": Columns(site=_FORMATS, axes=("n", "k", "m")),
    "prefill": Columns(site=_HEADS, axes=("kv_heads", "tokens")),
    "decode": Columns(site=_HEADS, axes=("kv_heads", "batch", "context")),
    "moe": Columns(site=_EXPERTS | _FORMATS, axes=("tokens",)),
    "stream": Columns(site={}, axes=("bytes",)),
    "collective": Columns(site={"kind": COLLECTIVES}, axes=("ranks", "bytes")),
    "iteration": Columns(
        site={"model": "word", "launch": ("graph", "eager"), "phase": ("decode", "prefill")},
        axes=("sequences", "each"),
    ),
}
TABLES = tuple(name for name in OPERATIONS if name != "iteration")
"""Operations of which iterations are made."""
_MEASURED = ("median_s", "spread_s", "power_w", "clock_mhz", "kernel", "date", "samples")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured point. ``median_s`` > 0, ``spread_s`` >= 0, ``samples`` >= 1."""

    operation: str
    site: Site
    point: Point
    median_s: float
    spread_s: float
    power_w: float | None
    clock_mhz: float | None
    kernel: str
    date: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """Everything measured at one site: ``points`` [N, axes], seconds, and standard errors of their logs."""

    points: IntArray
    median_s: FloatArray
    noise: FloatArray


def read_rows(directory: Path, operation: str) -> dict[Site, Points]:
    """The rows of one operation by site, none where it has no file.

    The standard error of a median of n samples is about their interquartile range / sqrt(n) (0.93 of that where
    they are normal).

    Raises
    ------
    InputError
        When a row is wrong: which file, line and column.
    """
    path, columns = directory / f"{operation}.csv", OPERATIONS[operation]
    if not path.exists():
        return {}
    kinds: dict[str, Kind] = {
        **columns.site, **dict.fromkeys(columns.axes, "count"),
        "median_s": "time", "spread_s": "spread", "samples": "count",
    }  # fmt: skip
    rows = read_measured(path, kinds)
    names = [rows[name].tolist() for name in columns.site]
    sites: list[Site] = list(zip(*names, strict=True)) if names else [()] * len(rows["median_s"])
    axes = np.stack([rows[name] for name in columns.axes], axis=1)
    noise = rows["spread_s"] / rows["median_s"] / np.sqrt(rows["samples"])
    found = {}
    for site in dict.fromkeys(sites):
        mine = np.array([other == site for other in sites])
        found[site] = Points(points=axes[mine], median_s=rows["median_s"][mine], noise=noise[mine])
    return found


def append_row(directory: Path, row: Row) -> None:
    """Add a row to its file, wholly or not at all; a last line that was cut short is dropped first.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    path, columns = directory / f"{row.operation}.csv", OPERATIONS[row.operation]
    power, clock = ("" if value is None else f"{value:.0f}" for value in (row.power_w, row.clock_mhz))
    measured = (f"{row.median_s:.6g}", f"{row.spread_s:.3g}", power, clock, row.kernel, row.date, row.samples)
    line = _line((*row.site, *row.point, *measured))
    try:
        with path.open("a+b", buffering=0) as file:
            kept = _whole_lines(file)
            file.truncate(kept)
            header = "" if kept else _line((*columns.site, *columns.axes, *_MEASURED))
            file.write((header + line).encode())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _whole_lines(file: RawIOBase) -> int:
    """Bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = file.seek(max(0, end - 4096))
        newline = (file.read(end - start) or b"").rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _line(values: Iterable[object]) -> str:
    return ",".join(str(value).replace(",", ";").replace("\n", " ") for value in values) + "\n"


def read_facts(directory: Path) -> dict[str, Any]:
    """What ``profile.json`` says, empty where there is none.

    Raises
    ------
    InputError
        When it is not an object that names its device.
    """
    path = directory / FACTS
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("device"), str):
        raise InputError(f"{path}: expected an object with the name of the device, as zenith profile writes")
    return facts
