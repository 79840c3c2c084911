"""Measured operation times on disk: the Parquet files that ``aiconfigurator-core`` ships.

The files are read directly; the package is never imported. Layout
``systems/data/<system>/<family>/<engine>/<version>/<file>``, one row per measured point, ``latency`` in
milliseconds, ``message_size`` in elements. A table here has *sites* (shapes: columns that do not grow
with the load) and *axes* (what grows: tokens, batch, context, bytes)::

    gemm      sites (n, k)                                       axes (m)
    activation_scales   sites (k)                                axes (m)
    prefill   sites (q_heads, kv_heads, head_dim, window)        axes (tokens)           batch 1
    decode    sites (q_heads, kv_heads, head_dim, window)        axes (batch, context)
    encoder   sites (heads, head_dim)                            axes (tokens)           batch 1
    mla_prefill, mla_decode   sites (heads)                      axes as prefill, decode
    moe       sites (hidden, inner, top_k, experts, tp, ep)      axes (tokens)
    all_reduce, ...           sites (ranks)                      axes (bytes of the full tensor)

Which file: the engine's own, else another engine's; of its versions the newest that has at least a fifth
of the rows of the richest (a version that adds one model does not hide the full sweep before it; repeats
make an older sweep look up to five times as rich), else the newest that has the format. Points measured
more than once (several kernels, repeated runs): the fastest.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import InputError, nearest
from profiles.ops import FloatArray, IntArray

ENGINES = ("vllm", "sglang", "trtllm")
BYTES_PER_ELEMENT = 2  # collectives are read in half precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Where an operation is measured and which columns say what. See the module for sites and axes."""

    family: str
    file: str
    sites: tuple[str, ...]
    axes: tuple[str, ...]
    formats: tuple[str, ...]  # columns that hold number formats
    where: Mapping[str, str | int]  # rows of this operation
    drop: str = ""  # kernels whose name contains this are left out where others exist
    engines: tuple[str, ...] = ENGINES


def _collective(op_name: str) -> Spec:
    return Spec(
        family="comm", file="nccl_perf", sites=("num_gpus",), axes=("bytes",), formats=("nccl_dtype",),
        where={"op_name": op_name, "nccl_dtype": "half"}, engines=("nccl", "oneccl"),
    )  # fmt: skip


_HEADS = ("num_heads", "num_key_value_heads", "head_dim", "window_size")
_EXPERTS = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")

SPECS = {
    "gemm": Spec(
        family="gemm", file="gemm_perf", sites=("n", "k"), axes=("m",), formats=("gemm_dtype",), where={},
    ),
    "activation_scales": Spec(
        family="quantize", file="computescale_perf", sites=("k",), axes=("m",), formats=("quant_dtype",), where={},
    ),
    "prefill": Spec(
        family="attention", file="context_attention_perf", sites=_HEADS, axes=("isl",),
        formats=("kv_cache_dtype",), where={"attn_dtype": "bfloat16", "batch_size": 1},
    ),
    "decode": Spec(
        family="attention", file="generation_attention_perf", sites=_HEADS, axes=("batch_size", "context"),
        formats=("kv_cache_dtype",), where={"attn_dtype": "bfloat16"},
    ),
    "encoder": Spec(
        family="encoder_attention", file="encoder_attention_perf", sites=("num_heads", "head_dim"),
        axes=("isl",), formats=("attn_dtype",), where={"batch_size": 1},
    ),
    # SGLang's context table times the absorbed form (4 times the work: 610 TFLOP/s if so, 180 if not),
    # which no engine runs on a whole prompt; TensorRT-LLM's times the form that vLLM and SGLang also run.
    "mla_prefill": Spec(
        family="mla", file="context_mla_perf", sites=("num_heads",), axes=("isl",),
        formats=("kv_cache_dtype",), where={"batch_size": 1}, engines=("trtllm",),
    ),
    "mla_decode": Spec(
        family="mla", file="generation_mla_perf", sites=("num_heads",), axes=("batch_size", "context"),
        formats=("kv_cache_dtype",), where={},
    ),
    "moe": Spec(
        family="moe", file="moe_perf", sites=_EXPERTS, axes=("num_tokens",), formats=("moe_dtype",), where={},
        drop="nongated",
    ),
    "custom_all_reduce": Spec(
        family="comm", file="custom_allreduce_perf", sites=("num_gpus",), axes=("bytes",),
        formats=("allreduce_dtype",), where={}, drop="eager",
    ),
    "all_reduce": _collective("all_reduce"),
    "all_gather": _collective("all_gather"),
    "reduce_scatter": _collective("reduce_scatter"),
    "all_to_all": _collective("alltoall"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """One operation, system and format as measured: NaN where a site lacks a point.

    ``sites`` [S, keys] in lexicographic order; ``axes`` increasing; ``seconds`` [S, len(axis) ...].
    """

    sites: IntArray
    axes: tuple[FloatArray, ...]
    seconds: FloatArray
    source: str

    def find(self, site: tuple[int, ...]) -> int | None:
        """Row of a site, None when it was not measured."""
        rows = np.flatnonzero((self.sites == np.array(site)).all(axis=1))
        return int(rows[0]) if len(rows) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """One line of what was measured; ``formats`` and ``rows`` are of the whole file."""

    operation: str
    engine: str
    version: str
    rows: int
    formats: tuple[str, ...]


def _data() -> Path | None:
    spec = find_spec("aiconfigurator_core")  # of a top-level name: finds without importing
    if spec is None or not spec.submodule_search_locations or find_spec("pyarrow") is None:
        return None
    path = Path(spec.submodule_search_locations[0]) / "systems" / "data"
    return path if path.is_dir() else None


def silicon_available() -> bool:
    """Whether measured tables are installed (extra ``silicon``)."""
    return _data() is not None


@functools.cache
def _measured_systems() -> tuple[str, ...]:
    data = _data()
    if data is None:
        return ()
    return tuple(sorted(p.name for p in data.iterdir() if any(p.glob("gemm/*/*/gemm_perf.parquet"))))


def silicon_systems() -> list[str]:
    """Names of the systems that have measured tables, empty when none are installed."""
    return list(_measured_systems())


def check(system: str, engine: str) -> None:
    """Raise InputError unless tables of the system are installed and the engine is known."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: no measured tables; {nearest(engine, ENGINES)}")
    if not silicon_available():
        raise InputError(f"system {system!r}: measured tables are not installed; pip install .[silicon]")
    if system not in _measured_systems():
        raise InputError(f"system {system!r}: not measured; {nearest(system, _measured_systems())}")


def _age(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.parent.name))


def _rows(path: Path) -> int:
    import pyarrow.parquet as parquet

    return int(parquet.read_metadata(path).num_rows)


def _files(system: str, engine: str, spec: Spec) -> list[Path]:
    """All versions of one engine, the one to use first."""
    data = _data()
    assert data is not None
    files = sorted(data.glob(f"{system}/{spec.family}/{engine}/*/{spec.file}.parquet"), key=_age)
    files += sorted(data.glob(f"{system}/{spec.family}/{engine}/*/{engine}_perf.parquet"), key=_age)
    files = list(dict.fromkeys(files))
    rows = {path: _rows(path) for path in files}
    complete = [path for path in files if 5 * rows[path] >= max(rows.values())]
    return complete[::-1] + [path for path in files[::-1] if path not in complete]


def _engines(engine: str, spec: Spec) -> list[str]:
    return sorted(spec.engines, key=lambda other: other != engine)  # stable: own first


@functools.cache
def load_table(
    system: str, engine: str, operation: str, where: tuple[tuple[str, str | int], ...] = (), own: bool = False
) -> Table | None:
    """The table of one operation, read once per process; None when nothing was measured.

    ``where`` narrows to a format (column, value); ``own`` forbids other engines' tables.
    """
    spec = SPECS[operation]
    wanted = dict(spec.where) | dict(where)
    for candidate in _engines(engine, spec):
        if own and candidate != engine:
            continue
        for path in _files(system, candidate, spec):
            columns = _read(path, spec, wanted)
            if columns is not None:
                return _tabulate(columns, spec, f"{candidate} {path.parent.name}")
    return None


def _read(path: Path, spec: Spec, wanted: dict[str, str | int]) -> dict[str, Any] | None:
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    names = set(parquet.read_schema(path).names)
    needed = {*spec.sites, *spec.axes, "latency"}
    if "context" in needed:
        needed |= {"step", "isl"}
    if "bytes" in needed:
        needed |= {"message_size"}
    if spec.drop:
        needed |= {"kernel_source"}
    rows = parquet.read_table(path, columns=sorted((needed | set(wanted)) & names))
    for column, value in wanted.items():
        rows = rows.filter(compute.equal(rows[column], value))
    if spec.drop:
        kept = rows.filter(compute.invert(compute.match_substring(rows["kernel_source"], spec.drop)))
        rows = kept if len(kept) else rows
    if not len(rows):
        return None
    columns = {name: rows[name].to_numpy() for name in needed & names if name != "kernel_source"}
    if "context" in spec.axes:
        columns["context"] = columns["step"] + columns["isl"]  # cached tokens and the new one
    if "bytes" in spec.axes:
        columns["bytes"] = columns["message_size"] * BYTES_PER_ELEMENT
    if "window_size" in spec.sites and "window_size" not in columns:
        columns["window_size"] = np.zeros(len(rows), dtype=np.int64)  # older sweeps: full attention only
    return columns


def _tabulate(columns: dict[str, Any], spec: Spec, source: str) -> Table:
    keys = np.stack([columns[name].astype(np.int64) for name in spec.sites], axis=1)
    sites, site = np.unique(keys, axis=0, return_inverse=True)
    index, axes = [site.ravel()], []
    for name in spec.axes:
        axis, position = np.unique(columns[name], return_inverse=True)
        axes.append(axis.astype(np.float64))
        index.append(position)
    seconds = np.full((len(sites), *map(len, axes)), np.nan)
    np.fmin.at(seconds, tuple(index), columns["latency"] * 1e-3)
    return Table(sites=sites, axes=tuple(axes), seconds=seconds, source=source)


def coverage(system: str, engine: str = "vllm") -> list[Coverage]:
    """What was measured, by operation: the file that ``engine`` on ``system`` rests on first."""
    check(system, engine)
    return list(_coverage(system, engine))


def _coverage(system: str, engine: str) -> Iterator[Coverage]:
    import pyarrow.parquet as parquet

    for operation, spec in SPECS.items():
        path = next((f for other in _engines(engine, spec) for f in _files(system, other, spec)), None)
        if path is not None:
            table = parquet.read_table(path, columns=list(spec.formats))
            formats = sorted({f for name in spec.formats for f in table[name].unique().to_pylist()})
            yield Coverage(
                operation=operation, engine=path.parent.parent.name, version=path.parent.name,
                rows=len(table), formats=tuple(formats),
            )  # fmt: skip
