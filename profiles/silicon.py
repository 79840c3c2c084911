"""Operation times from measured tables, with a roofline where nothing was measured.

A shape that was measured has a curve over its load. A shape that was not borrows *utilisation* (roofline
time / measured time, at the same load) from measured neighbours: GEMM from the four around it in
(log n, log k), attention of prompts and collectives from the two around in heads or ranks, experts from
the two nearest shapes, at equal rows per expert. For decode, KV heads and sequences are exchanged: eight
sequences of one KV head read what one sequence of eight does. Beyond the measured load the utilisation of
the edge is held. A format that was not measured keeps the utilisation of bf16, and is MODELLED. FLOPs,
bytes and every roofline are the ``fallback``'s.

Provenance: MEASURED on a point, INTERPOLATED between points or shapes, EXTRAPOLATED beyond them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from profiles.errors import InputError, nearest
from profiles.ops import (
    EXTRAPOLATED,
    INTERPOLATED,
    MODELLED,
    Cost,
    FloatArray,
    IntArray,
    Layer,
    Link,
    Operations,
)
from profiles.silicon_curves import Curve, Grades, Surface, isotonic
from profiles.silicon_shapes import (
    Neighbour,
    Roof,
    around,
    attention_rows,
    borrowed,
    borrowed_surface,
    curve_of,
    fastest,
    gemm_curve,
    has_window,
    nearest_site,
    nearest_sites,
    roof_of,
    site_curve,
    site_surface,
    sites_around,
    with_site_first,
    within,
)
from profiles.silicon_tables import (
    Coverage,
    Table,
    check,
    coverage,
    load_table,
    silicon_available,
    silicon_systems,
)

__all__ = ["Coverage", "Silicon", "coverage", "silicon_available", "silicon_systems"]

LEAST_S = 1e-6
"""Of a product without its scales: two noisy measurements are subtracted."""
FP8_SCALES = ("tensor", "block", "static")
DISTRIBUTIONS = ("balanced", "power_law_1.01", "power_law_1.2")

# (weight, activation) -> formats of the tables; the first that has the very shape, else the first.
_GEMM_FORMATS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bf16", "bf16"): ("bfloat16",),
    ("fp8", "fp8"): ("fp8", "fp8_block"),
    ("int8", "int8"): ("sq",),
    ("int8", "bf16"): ("int8_wo",),
    ("int4", "bf16"): ("int4_wo",),
    ("fp4", "fp4"): ("nvfp4",),
}
_MOE_FORMATS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bf16", "bf16"): ("bfloat16",),
    # Blocks first: published fp8 experts have them, and one scale per tensor is up to 7 times slower on H200.
    ("fp8", "fp8"): ("fp8_block", "fp8"),
    ("int4", "bf16"): ("int4_wo", "w4a16_mxfp4"),
    ("fp4", "fp4"): ("nvfp4",),
    ("mxfp4", "bf16"): ("w4a16_mxfp4",),
    ("mxfp4", "fp8"): ("w4a8_mxfp4_mxfp8",),
}
_OWN_KERNELS = {"sq", "int8_wo", "int4_wo"}  # engines differ too much to borrow these from another
_HEADS = ("q_heads", "kv_heads", "head_dim", "window")
_KV_FORMATS = {"bf16": "bfloat16", "fp8": "fp8"}
# MLA was measured with the widths of DeepSeek-V3 alone (its published config.json).
_MLA: dict[str, Any] = {"head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64}


class Silicon(Layer):
    """Measured costs of one system and engine, see the module.

    Parameters
    ----------
    system
        Name of the measurements, see ``silicon_systems``.
    engine
        ``vllm``, ``sglang`` or ``trtllm``; an operation that it lacks is taken from another.
    fallback
        Costs where nothing was measured, and the roofline behind every borrowed utilisation.
    moe_distribution
        How tokens spread over experts: ``balanced``, ``power_law_1.01`` (default: routing is never even)
        or ``power_law_1.2``. Times are of the busiest device.
    fp8_scales
        Of products in fp8. ``tensor``: of activations found for each product, which the tables hold; ``static``: the
        same without finding them (ModelOpt's checkpoints bring them along); ``block``: of 128 x 128 weights
        (Hugging Face's ``fp8``, as in DeepSeek-V3). What lacks a table is taken as the other.

    Raises
    ------
    InputError
        When the system, the engine or the distribution has no measured tables.
    """

    def __init__(
        self, system: str, *, engine: str = "vllm", fallback: Operations,
        moe_distribution: str = "power_law_1.01", fp8_scales: str = "tensor",
    ) -> None:  # fmt: skip
        check(system, engine)
        if moe_distribution not in DISTRIBUTIONS:
            hint = nearest(moe_distribution, DISTRIBUTIONS)
            raise InputError(f"moe_distribution {moe_distribution!r}: not measured; {hint}")
        if fp8_scales not in FP8_SCALES:
            raise InputError(f"fp8_scales {fp8_scales!r}: {nearest(fp8_scales, FP8_SCALES)}")
        self.system, self.engine, self.fallback = system, engine, fallback
        self.fp8_scales = fp8_scales
        self.moe_distribution = moe_distribution
        self.sources: dict[str, str] = {}  # operation -> engine and version of the tables read so far
        self._built: dict[tuple[Any, ...], Any] = {}

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        cost = partial(self.fallback.gemm, n=n, k=k, weight=weight, activation=activation)

        def roof(weight: str, activation: str) -> Callable[[int, int], Roof]:
            operation = partial(self.fallback.gemm, weight=weight, activation=activation)
            return lambda n, k: roof_of(partial(operation, n=n, k=k))

        def build() -> Curve | None:
            formats = _GEMM_FORMATS.get((weight, activation), ())
            if self.fp8_scales == "block":
                formats = tuple(sorted(formats, key=lambda f: f != "fp8_block"))
            tables = [self._table("gemm", own=f in _OWN_KERNELS, gemm_dtype=f) for f in formats]
            for table in with_site_first(tables, (n, k)):
                curve = gemm_curve(table, n, k, roof(weight, activation))
                static = self.fp8_scales == "static" and table is tables[0] and formats[0] == "fp8"
                return self._without_scales(curve, k) if static else curve
            bf16 = self._table("gemm", gemm_dtype="bfloat16")
            if bf16 is None:
                return None
            theirs = Neighbour(1, gemm_curve(bf16, n, k, roof("bf16", "bf16")), roof("bf16", "bf16")(n, k))
            return borrowed([theirs], roof_of(cost), MODELLED)

        return self._along(("gemm", n, k, weight, activation), build, cost, m)

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        shape: dict[str, Any] = {
            "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim,
            "window": window, "causal": causal, "kv": kv,
        }  # fmt: skip
        cost = partial(self.fallback.prefill_attention, **shape)

        def build() -> Curve | None:
            if causal:
                table, theirs = self._by_kv("prefill", kv)
                rows = attention_rows(table, head_dim, window) if table else None
            else:
                # An encoder has no cache, so its KV format changes nothing.
                table, theirs = self._table("encoder", attn_dtype="bfloat16"), kv
                rows = table.sites[:, [0, 0, 1, 1]] * [1, 1, 1, 0] if table else None
            if table is None or rows is None:
                return None
            neighbours = []
            for site, weight in sites_around(rows, q_heads, kv_heads):
                measured = shape | dict(zip(_HEADS, map(int, rows[site]), strict=True)) | {"kv": theirs}
                measured["value_dim"] = measured["head_dim"]
                curve = site_curve(table, site, quadratic=True)
                if measured == shape:
                    return curve
                roof = roof_of(partial(self.fallback.prefill_attention, **measured))
                neighbours.append(Neighbour(weight, curve, roof))
            grade = MODELLED if theirs != kv else within(table.sites[:, 0], q_heads)
            return borrowed(neighbours, roof_of(cost), grade)

        return self._along(("prefill", *shape.values()), build, cost, tokens)

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        shape: dict[str, Any] = {
            "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim,
            "window": window, "kv": kv,
        }  # fmt: skip
        table, theirs = self._by_kv("decode", kv)
        if table is not None and window and not has_window(table, head_dim, window):
            # What lies before the window is skipped, so the time is that of full attention over it.
            cost = self.decode_attention(batch, np.minimum(context, window), **(shape | {"window": 0}))
            return replace(cost, provenance=np.maximum(cost.provenance, np.int8(INTERPOLATED)))
        cost_of = partial(self.fallback.decode_attention, **shape)

        def build() -> Surface | None:
            if table is None:
                return None
            rows = attention_rows(table, head_dim, window)
            features = np.stack([rows[:, 0] / rows[:, 1], rows[:, 1], rows[:, 2]], axis=1)
            site = nearest_site(features, (q_heads / kv_heads, kv_heads, head_dim))
            q, h, d, w = map(int, rows[site])
            measured: dict[str, Any] = {
                "q_heads": q,
                "kv_heads": h,
                "head_dim": d,
                "value_dim": d,
                "window": w,
                "kv": theirs,
            }
            surface = site_surface(table, site, roof_of(partial(self.fallback.decode_attention, **measured)))
            if measured == shape:
                return surface
            grade = MODELLED if theirs != kv else within(features[:, 0], q_heads / kv_heads)
            alike = measured | {"q_heads": q * kv_heads // h, "kv_heads": kv_heads}
            roof = roof_of(partial(self.fallback.decode_attention, **alike))
            return borrowed_surface(surface, roof, roof_of(cost_of), grade, share=kv_heads / h)

        return self._over(("decode", *shape.values()), build, cost_of, batch, context)

    def mla_prefill(
        self, tokens: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int, rope_dim: int,
        kv: str,
    ) -> Cost:  # fmt: skip
        shape: dict[str, Any] = {
            "heads": heads, "head_dim": head_dim, "value_dim": value_dim, "kv_rank": kv_rank,
            "rope_dim": rope_dim, "kv": kv,
        }  # fmt: skip
        cost = partial(self.fallback.mla_prefill, **shape)

        def build() -> Curve | None:
            table, theirs = self._by_kv("mla_prefill", kv)
            if table is None:
                return None
            neighbours = []
            for near, weight in around(table.sites[:, 0], heads):
                measured: dict[str, Any] = _MLA | {"heads": near, "kv": theirs}
                curve = curve_of(table, near, quadratic=True)
                if measured == shape:
                    return curve
                roof = roof_of(partial(self.fallback.mla_prefill, **measured))
                neighbours.append(Neighbour(weight, curve, roof))
            grade = MODELLED if theirs != kv else within(table.sites[:, 0], heads)
            return borrowed(neighbours, roof_of(cost), grade)

        return self._along(("mla_prefill", *shape.values()), build, cost, tokens)

    def mla_decode(
        self, batch: IntArray, context: IntArray, *, heads: int, head_dim: int, value_dim: int,
        kv_rank: int, rope_dim: int, kv: str,
    ) -> Cost:  # fmt: skip
        shape: dict[str, Any] = {
            "heads": heads, "head_dim": head_dim, "value_dim": value_dim, "kv_rank": kv_rank,
            "rope_dim": rope_dim, "kv": kv,
        }  # fmt: skip
        cost = partial(self.fallback.mla_decode, **shape)

        def build() -> Surface | None:
            table, theirs = self._by_kv("mla_decode", kv)
            if table is None:
                return None
            site = nearest_site(table.sites, (heads,))
            measured: dict[str, Any] = _MLA | {"heads": int(table.sites[site][0]), "kv": theirs}
            roof = roof_of(partial(self.fallback.mla_decode, **measured))
            surface = site_surface(table, site, roof)
            if measured == shape:
                return surface
            grade = MODELLED if theirs != kv else within(table.sites[:, 0], heads)
            return borrowed_surface(surface, roof, roof_of(cost), grade)

        return self._over(("mla_decode", *shape.values()), build, cost, batch, context)

    def moe(
        self, tokens: IntArray, *, hidden: int, inner: int, experts: int, top_k: int, tp: int, ep: int,
        gated: bool, weight: str, activation: str,
    ) -> Cost:  # fmt: skip
        shape: dict[str, Any] = {
            "hidden": hidden, "inner": inner, "top_k": top_k, "experts": experts, "tp": tp, "ep": ep,
            "gated": gated, "weight": weight, "activation": activation,
        }  # fmt: skip
        cost = partial(self.fallback.moe, **shape)
        site_of_shape = (hidden, inner, top_k, experts, tp, ep)

        def build() -> Curve | None:
            formats = _MOE_FORMATS.get((weight, activation), ())
            tables, like_ours = [self._moe_table(f) for f in formats], {}
            if not any(tables):
                tables = [self._moe_table("bfloat16")]
                like_ours = {"weight": "bf16", "activation": "bf16"}
            for table in with_site_first(tables, site_of_shape):
                exact = table.find(site_of_shape)
                if exact is not None and gated and not like_ours:
                    return site_curve(table, exact)
                h, i, k, e, t, p = table.sites.T
                features = np.stack([h, i / t, k, e, p], axis=1)
                wanted = (hidden, inner / tp, top_k, experts, ep)
                neighbours = []
                nearest_two = nearest_sites(features, wanted, 2)
                for site, distance in nearest_two[: 1 if nearest_two[0][1] == 0 else 2]:
                    h, i, k, e, t, p = table.sites[site].tolist()
                    measured = {
                        "hidden": h,
                        "inner": i,
                        "top_k": k,
                        "experts": e,
                        "tp": t,
                        "ep": p,
                        "gated": True,
                    }
                    roof = roof_of(partial(cost, **(measured | like_ours)))
                    stretch = (k / e) / (top_k / experts)
                    neighbours.append(Neighbour(1 / (distance + 0.1), site_curve(table, site), roof, stretch))
                return borrowed(neighbours, roof_of(cost), MODELLED if like_ours else EXTRAPOLATED)
            return None

        return self._along(("moe", *shape.values()), build, cost, tokens)

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Measured inside one node; the fallback's for p2p, several nodes, or more ranks than measured.

        All-reduce is the faster of the engine's own kernel (replayed from a CUDA graph) and NCCL, which
        is how engines choose by size; NCCL alone where the engine is told so.
        """
        cost = partial(self.fallback.collective, kind, link=link)
        if kind == "p2p" or link.nodes > 1 or link.ranks < 2:
            return cost(payload_bytes)

        def build() -> Curve | None:
            tables = {kind: replace(link, custom_all_reduce=False)}
            if kind == "all_reduce" and link.custom_all_reduce:
                tables["custom_all_reduce"] = link
            curves = []
            for name, members in tables.items():
                table = self._table(name)
                if table is not None and link.ranks <= table.sites.max():
                    neighbours = [
                        Neighbour(
                            weight,
                            curve_of(table, ranks),
                            roof_of(partial(cost, link=replace(members, ranks=ranks))),
                        )
                        for ranks, weight in around(table.sites[:, 0], link.ranks)
                    ]
                    exact = table.find((link.ranks,)) is not None
                    ours = roof_of(partial(cost, link=members))
                    curves.append(neighbours[0].curve if exact else borrowed(neighbours, ours, INTERPOLATED))
            return fastest(curves)

        return self._along(("collective", kind, link), build, cost, payload_bytes)

    def _table(self, operation: str, own: bool = False, **where: str) -> Table | None:
        engine = self.engine
        if engine == "vllm" and where.get("gemm_dtype") == "fp8_block":
            engine = (
                "sglang"  # vLLM's were timed with their launches: 57 us on H200, 210 on B200 for any product
            )
        table = load_table(self.system, engine, operation, tuple(sorted(where.items())), own)
        if table is not None:
            self.sources[operation] = table.source
        return table

    def _by_kv(self, operation: str, kv: str) -> tuple[Table | None, str]:
        """The table of a KV format and that format, or what it is modelled from: that of bf16."""
        if kv in _KV_FORMATS:
            table = self._table(operation, kv_cache_dtype=_KV_FORMATS[kv])
            if table is not None:
                return table, kv
        return self._table(operation, kv_cache_dtype="bfloat16"), "bf16"

    def _without_scales(self, curve: Curve, k: int) -> Curve:
        """The curve of a product less the search for its activations' scales, which it holds."""
        table = self._table("activation_scales", own=True, quant_dtype="fp8")
        if table is None:
            return curve
        found = sum(
            weight * np.interp(curve.knots, other.knots, other.seconds)
            for width, weight in around(table.sites[:, 0], k)
            for other in (curve_of(table, width),)
        )
        return replace(curve, seconds=isotonic(np.maximum(curve.seconds - found, LEAST_S)))

    def _moe_table(self, moe_dtype: str) -> Table | None:
        return self._table("moe", moe_dtype=moe_dtype, distribution=self.moe_distribution)

    def _along(
        self, key: tuple[Any, ...], build: Callable[[], Curve | None], cost: Callable[..., Cost], load: Any
    ) -> Cost:
        curve: Curve | None = self._once(key, build)
        if curve is None:
            return cost(load)
        return _measured(cost(load), *curve.at(np.asarray(load, dtype=np.float64), roof_of(cost)))

    def _over(
        self, key: tuple[Any, ...], build: Callable[[], Surface | None], cost: Callable[..., Cost],
        batch: Any, context: Any,
    ) -> Cost:  # fmt: skip
        surface: Surface | None = self._once(key, build)
        batch, context = np.broadcast_arrays(batch, context)
        if surface is None:
            return cost(batch, context)
        floats = batch.astype(np.float64), context.astype(np.float64)
        return _measured(cost(batch, context), *surface.at(*floats, roof_of(cost)))

    def _once(self, key: tuple[Any, ...], build: Callable[[], Any]) -> Any:
        if key not in self._built:
            self._built[key] = build()
        return self._built[key]


def _measured(cost: Cost, seconds: FloatArray, grades: Grades) -> Cost:
    return Cost(seconds=seconds, flops=cost.flops, bytes=cost.bytes, provenance=grades)
