"""Operation times of one model on one device, as LLMServingSim's profiler writes them for vLLM.

Three files, times in microseconds (github.com/casys-kaist/LLMServingSim, MIT)::

    dense.csv         layer,tokens,time_us      qkv_proj, o_proj, gate_up_proj, down_proj of one layer
    per_sequence.csv  layer,sequences,time_us   lm_head
    attention.csv     prefill_chunk,kv_prefill,n_decode,kv_decode,time_us    one layer; kv_decode is the
                      context of each of n_decode sequences

They are of one shape each, the model's own on one device, in bf16: other shapes, formats and operations are
the fallback's. Prefill rows with nothing in the cache make the attention of a prompt over itself, pure decode
rows that of decode. Rows of batches with both say what one kernel for both takes more (``_mixed``): a time for each
number of decodes and their context, and a time per prompt token for each number of decodes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from profiles.errors import InputError
from profiles.measured_csv import Kind, read_measured, table_of
from profiles.model import FeedForward, Model
from profiles.ops import Cost, FloatArray, IntArray, Layer, Operations
from profiles.silicon_curves import Curve, Surface
from profiles.silicon_shapes import roof_of, site_curve, site_surface
from profiles.silicon_tables import Table

_ATTENTION: dict[str, Kind] = {
    "prefill_chunk": "size", "kv_prefill": "size", "n_decode": "size", "kv_decode": "size", "time_us": "time",
}  # fmt: skip
_FILES: dict[str, dict[str, Kind]] = {
    "dense.csv": {"layer": "word", "tokens": "count", "time_us": "time"},
    "per_sequence.csv": {"layer": "word", "sequences": "count", "time_us": "time"},
    "attention.csv": _ATTENTION,
}


class VllmProfile(Layer):
    """``Operations`` of one profiled model, see the module.

    Parameters
    ----------
    directory
        Holds the three files.
    model
        What was profiled: a decoder of alike layers with attention and a dense feed-forward.
    fallback
        Costs of everything else, and the roofline beyond the measured loads.

    Raises
    ------
    InputError
        When a file is missing or has a wrong row, or the model has experts or unlike layers.
    """

    def __init__(self, directory: Path, *, model: Model, fallback: Operations) -> None:
        self.fallback, stack = fallback, model.decoder
        block = stack.blocks[0]
        cell, ffn = block.attention[0], block.ffn
        if len(stack.blocks) > 1 or len(block.attention) > 1 or not isinstance(ffn, FeedForward):
            raise InputError(
                f"{directory}: the format is of models with alike dense layers, not {model.name}"
            )
        files = {name: read_measured(directory / name, columns) for name, columns in _FILES.items()}
        width, up = cell.head_dim + cell.value_dim, 2 if ffn.gated else 1
        layers = {
            "qkv_proj": (cell.q_heads * cell.head_dim + cell.kv_heads * width, stack.hidden),
            "o_proj": (stack.hidden, cell.q_heads * cell.value_dim),
            "gate_up_proj": (up * ffn.inner, stack.hidden),
            "down_proj": (stack.hidden, ffn.inner),
        }
        self._products = _products(files["dense.csv"], "tokens", layers)
        head = {"lm_head": (model.vocab, stack.hidden)}
        self._products |= _products(files["per_sequence.csv"], "sequences", head)
        self._heads: dict[str, Any] = {
            "q_heads": cell.q_heads, "kv_heads": cell.kv_heads, "head_dim": cell.head_dim,
            "value_dim": cell.value_dim, "window": cell.window, "kv": "bf16",
        }  # fmt: skip
        self._prefill, self._decode = self._attention(files["attention.csv"], directory.name)
        self._mixed = _mixed(files["attention.csv"])

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        cost = partial(self.fallback.gemm, n=n, k=k, weight=weight, activation=activation)
        curve = self._products.get((n, k)) if weight == activation == "bf16" else None
        return cost(m) if curve is None else _along(curve, cost, m)

    def prefill_attention(self, tokens: IntArray, *, causal: bool, **heads: Any) -> Cost:
        cost: Callable[..., Cost] = partial(self.fallback.prefill_attention, causal=causal, **heads)
        if self._prefill is None or not causal or heads != self._heads:
            return cost(tokens)
        return _along(self._prefill, cost, tokens)

    def decode_attention(self, batch: IntArray, context: IntArray, **heads: Any) -> Cost:
        cost: Callable[..., Cost] = partial(self.fallback.decode_attention, **heads)
        batch, context = np.broadcast_arrays(batch, context)
        model = cost(batch, context)
        if self._decode is None or heads != self._heads:
            return model
        loads = batch.astype(np.float64), context.astype(np.float64)
        seconds, grades = self._decode.at(*loads, roof_of(cost))
        return Cost(seconds=seconds, flops=model.flops, bytes=model.bytes, provenance=grades)

    def mixed_attention(
        self, batch: IntArray, context: IntArray, **heads: Any
    ) -> tuple[FloatArray, FloatArray]:
        if self._mixed is None or heads != self._heads:
            return self.fallback.mixed_attention(batch, context, **heads)
        batch, context = np.broadcast_arrays(batch, context)
        loads = batch.astype(np.float64), context.astype(np.float64)
        surface, per_token = self._mixed
        seconds, _ = surface.at(*loads, roof_of(partial(self.fallback.decode_attention, **heads)))
        return seconds, np.interp(loads[0], surface.batch, per_token)

    @property
    def knows_mixing(self) -> bool:
        return self._mixed is not None or self.fallback.knows_mixing

    def _attention(self, rows: dict[str, Any], source: str) -> tuple[Curve | None, Surface | None]:
        """Curve of prompts over themselves, and surface of decode over sequences and context."""
        seconds = rows["time_us"] * 1e-6
        prompts = (rows["n_decode"] == 0) & (rows["kv_prefill"] == 0) & (rows["prefill_chunk"] > 0)
        chunks = rows["prefill_chunk"][prompts]
        prefill = table_of([np.zeros_like(chunks)], [chunks], seconds[prompts], source)
        alone = (rows["prefill_chunk"] == 0) & (rows["n_decode"] > 0) & (rows["kv_decode"] > 0)
        axes = [rows["n_decode"][alone], rows["kv_decode"][alone]]
        decode = table_of([np.zeros_like(axes[0])], axes, seconds[alone], source)
        roof = roof_of(partial(self.fallback.decode_attention, **self._heads))
        return (
            site_curve(prefill, 0, quadratic=True) if prefill else None,
            site_surface(decode, 0, roof) if decode else None,
        )


def _mixed(rows: dict[str, Any]) -> tuple[Surface, FloatArray] | None:
    """Over decodes and context: seconds beyond a kernel for each; and more per prompt token, by decodes.

    For each number of decodes the time per prompt token is the slope of least squares common to all contexts;
    what is left is the median at each; a context that was not measured takes from its neighbours. A kernel for both
    that is quicker counts as one that is not slower.
    """
    import pandas as pd

    chunks, decodes, keys = (
        ["prefill_chunk", "kv_prefill"],
        ["n_decode", "kv_decode"],
        ["both", "one", "other"],
    )
    frame = pd.DataFrame({name: rows[name] for name in (*chunks, *decodes, "time_us")})
    prompt, decode = frame["prefill_chunk"] > 0, frame["n_decode"] > 0
    alone = (
        (frame[prompt & ~decode][[*chunks, "time_us"]], chunks),
        (frame[decode & ~prompt][[*decodes, "time_us"]], decodes),
    )
    found = frame[prompt & decode].rename(columns={"time_us": keys[0]})
    for (part, on), name in zip(alone, keys[1:], strict=True):
        found = found.merge(part.rename(columns={"time_us": name}), on=on)
    if found["n_decode"].nunique() < 2 or found["kv_decode"].nunique() < 2:
        return None
    found["more"] = (found["both"] - found["one"] - found["other"]) * 1e-6
    same = found.groupby([*decodes, "kv_prefill"])[["prefill_chunk", "more"]]
    moved = found[["prefill_chunk", "more"]] - same.transform("mean")
    slopes = (moved["prefill_chunk"] * moved["more"]).groupby(found["n_decode"]).sum()
    spread = (moved["prefill_chunk"] ** 2).groupby(found["n_decode"]).sum()
    per_token = (slopes / spread).fillna(0.0).clip(lower=0.0)
    found["more"] -= found["n_decode"].map(per_token) * found["prefill_chunk"]
    grid = found.groupby(decodes)["more"].median().clip(lower=0.0).unstack()
    grid = grid.interpolate(axis=1, method="values", limit_direction="both")
    surface = Surface(
        batch=grid.index.to_numpy(np.float64),
        context=grid.columns.to_numpy(np.float64),
        seconds=grid.to_numpy(),
        grades=np.zeros(grid.shape, dtype=np.int8),
    )
    return surface, per_token.to_numpy()


def _products(rows: dict[str, Any], load: str, layers: dict[str, tuple[int, int]]) -> dict[Any, Curve]:
    """(n, k) -> the curve of that layer's product."""
    curves = {}
    for layer, shape in layers.items():
        mine = rows["layer"] == layer
        sites = [np.zeros(int(mine.sum()))]
        table: Table | None = table_of(sites, [rows[load][mine]], rows["time_us"][mine] * 1e-6, layer)
        if table is not None:
            curves[shape] = site_curve(table, 0)
    return curves


def _along(curve: Curve, cost: Callable[[Any], Cost], load: IntArray) -> Cost:
    model = cost(load)
    seconds, grades = curve.at(np.asarray(load, dtype=np.float64), roof_of(cost))
    return Cost(seconds=seconds, flops=model.flops, bytes=model.bytes, provenance=grades)
