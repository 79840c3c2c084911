"""Operation times from a directory of CSV tables in the format of APEX+ (github.com/microsoft/apex_plus).

Files are found by name anywhere below the directory; rows of other devices are skipped::

    gemm, gemm_<MHz>     gpu,dtype,m,k,n,time(us)                      n tokens times a k x m weight
    mha, mha_<MHz>       gpu,dtype,num_heads,head_size,batch_size,seq_len,time(us)        causal
    bimha, bimha_<MHz>   the same, not causal
    all_reduce, all_gather, reduce_scatter, alltoall, sendrecv
                         gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)   KiB of the full tensor

dtype is half (our bf16), float or float8; collectives are read in half. Of tables at several clocks
(0 is unlocked) the unlocked ones count, else those of the highest clock. Between points and shapes times are
interpolated as in ``profiles.silicon``; beyond the grid the edge's share of the roofline is held.

Attention over itself uses the rows of batch size 1. Decode attention stays with the fallback: the format
has no context length, and its rows of one token do not depend on the cache.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from profiles.device import Device
from profiles.errors import InputError
from profiles.measured_csv import Kind, read_measured, table_of
from profiles.ops import Cost, FloatArray, IntArray, Layer, Link, Operations
from profiles.silicon_curves import Curve
from profiles.silicon_shapes import Neighbour, around, borrowed, gemm_curve, roof_of, site_curve, within
from profiles.silicon_tables import Table

_ATTENTION: dict[str, Kind] = {
    "num_heads": "count", "head_size": "count", "batch_size": "count", "seq_len": "count",
}  # fmt: skip
_LINKS: dict[str, Kind] = {"num_nodes": "count", "num_gpus_per_node": "count", "size(kb)": "size"}
_COLUMNS: dict[str, dict[str, Kind]] = {
    "gemm": {"m": "count", "k": "count", "n": "count"},
    "mha": _ATTENTION,
    "bimha": _ATTENTION,
    "all_reduce": _LINKS,
    "all_gather": _LINKS,
    "reduce_scatter": _LINKS,
    "alltoall": _LINKS,
    "sendrecv": _LINKS,
}
_COLLECTIVES = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall", "p2p": "sendrecv",
}  # fmt: skip
_DTYPES = {"half": "bf16", "float": "fp32", "float8": "fp8"}


class ApexTables(Layer):
    """``Operations`` from a directory, see the module.

    Parameters
    ----------
    directory
        Where the files are, ``profile/`` of APEX+ or any part of it.
    device
        Whose rows count; ``gpu`` is one of its names.
    fallback
        Costs of what the directory lacks, and the roofline behind every interpolation between shapes.

    Raises
    ------
    InputError
        When the directory has no table, none of this device, or a wrong row.
    """

    def __init__(self, directory: Path, *, device: Device, fallback: Operations) -> None:
        self.directory, self.device, self.fallback = directory, device, fallback
        self._tables: dict[tuple[str, str], Table] = {}  # (file name, our format)
        self._built: dict[tuple[Any, ...], Curve | None] = {}
        found, gpus = _files(directory), set()
        if not found:
            names = ", ".join(f"{name}.csv" for name in _COLUMNS)
            raise InputError(f"{directory}: no table there, expected any of {names}")
        for operation, paths in found.items():
            gpus |= self._read(operation, paths)
        if not self._tables:
            raise InputError(f"{directory}: no rows of {device.name}, only of {', '.join(sorted(gpus))}")

    @property
    def operations(self) -> tuple[str, ...]:
        """What the directory has of this device, as ``gemm bf16``."""
        return tuple(f"{operation} {form}" for operation, form in sorted(self._tables))

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        operation = partial(self.fallback.gemm, weight=weight, activation=activation)
        cost = partial(operation, n=n, k=k)
        table = self._tables.get(("gemm", weight)) if weight == activation else None

        def build() -> Curve | None:
            if table is None:
                return None
            return gemm_curve(table, n, k, lambda n, k: roof_of(partial(operation, n=n, k=k)))

        return self._along(("gemm", n, k, weight, activation), build, cost, m)

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        """Its kernels have a KV head per query head; fewer, and other numbers of heads, are interpolated."""
        shape: dict[str, Any] = {"head_dim": head_dim, "window": window, "causal": causal, "kv": kv}
        ours = {"q_heads": q_heads, "kv_heads": kv_heads, "value_dim": value_dim, **shape}
        cost = partial(self.fallback.prefill_attention, **ours)
        table = self._tables.get(("mha" if causal else "bimha", kv))

        def build() -> Curve | None:
            if table is None or window or value_dim != head_dim:
                return None
            heads = table.sites[table.sites[:, 1] == head_dim, 0]
            neighbours = []
            for near, weight in around(heads, q_heads) if len(heads) else ():
                curve = site_curve(table, table.find((near, head_dim)) or 0, quadratic=True)
                theirs = {"q_heads": near, "kv_heads": near, "value_dim": head_dim, **shape}
                if theirs == ours:
                    return curve
                roof = roof_of(partial(self.fallback.prefill_attention, **theirs))
                neighbours.append(Neighbour(weight, curve, roof))
            return borrowed(neighbours, roof_of(cost), within(heads, q_heads)) if neighbours else None

        return self._along(("prefill", *ours.values()), build, cost, tokens)

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Of the very number of nodes and devices per node; the fallback's for others."""
        cost = partial(self.fallback.collective, kind, link=link)

        def build() -> Curve | None:
            table = self._tables.get((_COLLECTIVES.get(kind, kind), "bf16"))
            if table is None or link.ranks < 2 or link.ranks % link.nodes:
                return None
            site = table.find((link.nodes, link.ranks // link.nodes))
            return None if site is None else site_curve(table, site)

        return self._along(("collective", kind, link), build, cost, payload_bytes)

    def _along(
        self, key: tuple[Any, ...], build: Callable[[], Curve | None], cost: Callable[..., Cost], load: Any
    ) -> Cost:
        if key not in self._built:
            self._built[key] = build()
        curve, model = self._built[key], cost(load)
        if curve is None:
            return model
        seconds, grades = curve.at(np.asarray(load, dtype=np.float64), roof_of(cost))
        return Cost(seconds=seconds, flops=model.flops, bytes=model.bytes, provenance=grades)

    def _read(self, operation: str, paths: list[Path]) -> set[str]:
        """Keep the tables of one operation; return the devices seen."""
        kinds: dict[str, Kind] = {"gpu": "word", "dtype": "word", **_COLUMNS[operation], "time(us)": "time"}
        files = [read_measured(path, kinds) for path in paths]
        rows = {name: np.concatenate([file[name] for file in files]) for name in kinds}
        gpus = {str(gpu) for gpu in np.unique(rows["gpu"])}
        names = {self.device.name, *self.device.aliases}
        ours = np.isin(rows["gpu"], [gpu for gpu in gpus if gpu.lower().replace("_", "-") in names])
        if operation in ("mha", "bimha"):
            ours &= rows["batch_size"] == 1
        for dtype, form in _DTYPES.items():
            kept = {name: rows[name][ours & (rows["dtype"] == dtype)] for name in kinds}
            table = _table(operation, kept, source=f"{self.directory.name}: {operation}")
            if table is not None:
                self._tables[operation, form] = table
        return gpus


def _table(operation: str, rows: dict[str, Any], source: str) -> Table | None:
    seconds = rows["time(us)"] * 1e-6
    if operation == "gemm":
        return table_of([rows["m"], rows["k"]], [rows["n"]], seconds, source)
    if operation in ("mha", "bimha"):
        return table_of([rows["num_heads"], rows["head_size"]], [rows["seq_len"]], seconds, source)
    sites = [rows["num_nodes"], rows["num_gpus_per_node"]]
    return table_of(sites, [rows["size(kb)"] * 1024], seconds, source)


def _files(directory: Path) -> dict[str, list[Path]]:
    """Files of each operation at the clock that counts."""
    clocks: dict[str, dict[float, list[Path]]] = {}
    try:
        paths = sorted(directory.rglob("*.csv"))
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}") from error
    for path in paths:
        match = re.fullmatch(r"([a-z_]+?)(?:_(\d+))?", path.stem)
        if match and match[1] in _COLUMNS:
            mhz = float(match[2] or 0) or np.inf  # unlocked is above every lock
            clocks.setdefault(match[1], {}).setdefault(mhz, []).append(path)
    return {operation: found[max(found)] for operation, found in clocks.items()}
