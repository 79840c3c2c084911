"""Operation times that ``zenith profile`` measured (``profiles.own_rows``) behind ``Operations``.

At a measured site times are interpolated as in ``profiles.ragged``; its rule for loads beyond the table uses the
``fallback``'s roofline, which also counts FLOPs and bytes. What was not measured borrows utilisation
(roofline time / measured time, at the same coordinates) from the nearest site: other head widths and numbers of
query heads per KV head, windows, experts of other shapes. Other formats borrow from bf16 and are MODELLED. MLA,
attention without causality, several nodes and sends between two devices are the fallback's.

Experts on tp x ep devices are measured as the part of one of them: inner / tp wide, experts / ep many, with
tokens / ep tokens. NCCL's all-reduce gives way to the fallback's where engines use their own kernel: below
``DIRECT_BYTES`` among ``DIRECT_RANKS`` over links faster than PCIe.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from profiles.collectives import DIRECT_BYTES, DIRECT_RANKS, PCIE_BANDWIDTH
from profiles.device import Device
from profiles.errors import InputError
from profiles.ops import (
    EXTRAPOLATED,
    INTERPOLATED,
    MEASURED,
    MODELLED,
    Cost,
    FloatArray,
    IntArray,
    Layer,
    Link,
    Operations,
)
from profiles.own_rows import FACTS, TABLES, Site, read_facts, read_rows
from profiles.ragged import Grid, Roof, grid_of
from profiles.silicon_shapes import nearest_site, whole


class OwnTables(Layer):
    """``Operations`` from a folder, see the module.

    Parameters
    ----------
    directory
        What ``zenith profile -o`` wrote.
    device
        Whose times they must be.
    fallback
        Costs of what the folder lacks, and the roofline behind everything that is borrowed.

    Raises
    ------
    InputError
        When the folder has no rows, is of another device, or has a wrong row.
    """

    def __init__(self, directory: Path, *, device: Device, fallback: Operations) -> None:
        self.fallback = fallback
        measured = str(read_facts(directory).get("device", ""))
        if not is_device(measured, device):
            raise InputError(f"{directory}: measured on {measured or 'nothing known'}, not on {device.name}")
        self._grids: dict[str, dict[Site, Grid]] = {}
        for operation in TABLES:
            rows = read_rows(directory, operation)
            self._grids[operation] = {
                site: grid_of(found.points, found.median_s, found.noise) for site, found in rows.items()
            }
        if not any(self._grids.values()):
            raise InputError(f"{directory}: {FACTS} but no rows; zenith profile -o {directory} measures some")

    @property
    def operations(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(name for name, grids in self._grids.items() if grids)

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        def cost(weight: str, activation: str, n: FloatArray, k: FloatArray, m: FloatArray) -> Cost:
            return self.fallback.gemm(
                whole(m), n=int(n[0]), k=int(k[0]), weight=weight, activation=activation
            )

        grids, ours = self._grids["gemm"], (weight, activation)
        theirs = ours if ours in grids else ("bf16", "bf16")
        grade = MEASURED if theirs == ours else MODELLED
        our_cost = partial(cost, *ours)
        their_cost = our_cost if theirs == ours else partial(cost, *theirs)
        return _priced(grids.get(theirs), (n, k, m), our_cost, their_cost, np.int8(grade))

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        ours: dict[str, Any] = {
            "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim,
            "window": window, "kv": kv,
        }  # fmt: skip
        grids = self._grids["prefill"] if causal else {}
        cost = partial(self.fallback.prefill_attention, causal=causal)
        return self._attention(grids, cost, ours, np.asarray(tokens))

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        ours: dict[str, Any] = {
            "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim,
            "window": window, "kv": kv,
        }  # fmt: skip
        batch, context = np.broadcast_arrays(batch, context)
        grids = self._grids["decode"]
        if window and grids:
            # What lies before the window is skipped, so the time is that of full attention over it.
            seen = self.decode_attention(batch, np.minimum(context, window), **(ours | {"window": 0}))
            counted = self.fallback.decode_attention(batch, context, **ours)
            grades = np.maximum(seen.provenance, np.int8(INTERPOLATED))
            return replace(counted, seconds=seen.seconds, provenance=grades)
        return self._attention(grids, self.fallback.decode_attention, ours, batch, context)

    def _attention(
        self,
        grids: Mapping[Site, Grid],
        operation: Callable[..., Cost],
        ours: dict[str, Any],
        *loads: IntArray,
    ) -> Cost:
        """From the nearest head width and group in bf16; ``loads`` follow the KV heads on the grid."""
        if not grids:
            return operation(*loads, **ours)
        group, width = ours["q_heads"] / ours["kv_heads"], ours["head_dim"]
        sites = [site for site in grids if site[2] == "bf16"] or list(grids)
        features = np.array([site[:2] for site in sites], dtype=np.float64)
        site = sites[nearest_site(features, (width, group))]
        near_width, near_group = int(site[0]), int(site[1])
        same = (near_width, near_group) == (width, group) and ours["value_dim"] == width
        theirs = {"head_dim": near_width, "value_dim": near_width, "kv": str(site[2]), "window": 0}

        def our_cost(_: FloatArray, *x: FloatArray) -> Cost:
            return operation(*map(whole, x), **ours)

        def their_cost(kv_heads: FloatArray, *x: FloatArray) -> Cost:
            kv = int(kv_heads[0])
            return operation(*map(whole, x), q_heads=near_group * kv, kv_heads=kv, **theirs)

        grades: Any = np.int8(MEASURED)
        if ours["kv"] != theirs["kv"]:
            grades = np.int8(MODELLED)
        elif not same:
            grades = np.int8(EXTRAPOLATED)
        elif ours["window"]:  # a prompt within the window is one without
            grades = np.where(loads[0] <= ours["window"], MEASURED, EXTRAPOLATED).astype(np.int8)
        return _priced(grids[site], (ours["kv_heads"], *loads), our_cost, their_cost, grades)

    def moe(
        self, tokens: IntArray, *, hidden: int, inner: int, experts: int, top_k: int, tp: int, ep: int,
        gated: bool, weight: str, activation: str,
    ) -> Cost:  # fmt: skip
        def our_cost(local: FloatArray) -> Cost:
            return self.fallback.moe(
                whole(local * ep), hidden=hidden, inner=inner, experts=experts, top_k=top_k, tp=tp, ep=ep,
                gated=gated, weight=weight, activation=activation,
            )  # fmt: skip

        grids = self._grids["moe"]
        if not grids:
            return our_cost(np.asarray(tokens) / ep)
        ours = (hidden, inner / tp, experts / ep, top_k)
        sites = [site for site in grids if site[4:] == (weight, activation)] or list(grids)
        site = sites[nearest_site(np.array([s[:4] for s in sites], dtype=np.float64), ours)]
        h, i, e, t = (int(value) for value in site[:4])
        formats = {"weight": str(site[4]), "activation": str(site[5])}

        def their_cost(local: FloatArray) -> Cost:
            return self.fallback.moe(
                whole(local), hidden=h, inner=i, experts=e, top_k=t, tp=1, ep=1, gated=True, **formats
            )  # fmt: skip

        if site[4:] != (weight, activation):
            grade = MODELLED
        else:
            grade = MEASURED if site[:4] == ours and gated else EXTRAPOLATED
        return _priced(grids[site], (np.asarray(tokens) / ep,), our_cost, their_cost, np.int8(grade))

    def stream(self, read_bytes: FloatArray) -> Cost:
        cost = self.fallback.stream
        return _priced(self._grids["stream"].get(()), (read_bytes,), cost, cost, np.int8(MEASURED))

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Of measured numbers of ranks and between them; the fallback's for several nodes or more ranks."""
        grid = self._grids["collective"].get((kind,))
        model = self.fallback.collective(kind, payload_bytes, link)
        if grid is None or link.nodes > 1 or not 2 <= link.ranks <= grid.keys[-1]:
            return model

        def cost(ranks: FloatArray, payload: FloatArray) -> Cost:
            return self.fallback.collective(kind, payload, replace(link, ranks=int(ranks[0])))

        measured = _priced(grid, (link.ranks, payload_bytes), cost, cost, np.int8(MEASURED))
        direct = kind == "all_reduce" and link.custom_all_reduce and link.ranks <= DIRECT_RANKS
        if not direct or link.intra_bandwidth <= PCIE_BANDWIDTH:
            return measured
        theirs = (np.asarray(payload_bytes) <= DIRECT_BYTES) & (model.seconds < measured.seconds)
        return replace(
            measured,
            seconds=np.where(theirs, model.seconds, measured.seconds),
            provenance=np.where(theirs, model.provenance, measured.provenance),
        )


def cost_of_row(
    operations: Operations, operation: str, shape: Mapping[str, Any], link: Callable[[int], Link]
) -> Cost:
    """What ``operations`` says that one row takes: ``shape`` has every column of its site and axes.

    ``link``: of so many devices of one node.
    """
    s = dict(shape)
    if operation == "gemm":
        return operations.gemm(np.array([s.pop("m")]), **s)
    if operation == "stream":
        return operations.stream(np.array([s["bytes"]], dtype=np.float64))
    if operation == "moe":
        return operations.moe(np.array([s.pop("tokens")]), tp=1, ep=1, gated=True, **s)
    if operation == "collective":
        payload = np.array([s["bytes"]], dtype=np.float64)
        return operations.collective(s["kind"], payload, replace(link(s["ranks"]), custom_all_reduce=False))
    heads = {
        "q_heads": s["group"] * s["kv_heads"], "kv_heads": s["kv_heads"], "head_dim": s["head_dim"],
        "value_dim": s["head_dim"], "window": 0, "kv": s["kv"],
    }  # fmt: skip
    if operation == "prefill":
        return operations.prefill_attention(np.array([s["tokens"]]), causal=True, **heads)
    return operations.decode_attention(np.array([s["batch"]]), np.array([s["context"]]), **heads)


def is_device(measured: str, device: Device) -> bool:
    """Whether a driver's name for a device can be this one: it holds our words up to the first that has a digit.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> [is_device("NVIDIA A100-SXM4-80GB", load_device(name)) for name in ("a100", "a10")]
    [True, False]
    >>> is_device("NVIDIA RTX 6000 Ada Generation", load_device("rtx-pro-6000"))
    False
    """
    words, ours = words_of(measured), words_of(device.name)
    numbered = [i for i, word in enumerate(ours) if re.search(r"\d", word)]
    return bool(numbered) and set(ours[: numbered[0] + 1]) <= set(words)


def words_of(name: str) -> list[str]:
    """Of a device's name, in lower case."""
    return re.findall(r"[a-z0-9]+", name.lower())


def _priced(
    grid: Grid | None, coordinates: tuple[Any, ...], ours: Callable[..., Cost], theirs: Callable[..., Cost],
    grade: Any,
) -> Cost:  # fmt: skip
    """Our cost with the time of the grid's site, times our roof over theirs; the model's without a grid.

    Parameters
    ----------
    coordinates
        One per axis; numbers stay, arrays broadcast. What is 0 takes no time.
    ours, theirs
        The fallback's cost of our shape and of the site's, at float coordinates.
    grade
        The best provenance that this can have.
    """
    arrays = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in coordinates))
    shape = arrays[0].shape
    x = np.stack([array.ravel() for array in arrays], axis=1)
    cost = ours(*x.T)
    if grid is not None and len(x):
        there = (x > 0).all(axis=1)
        inside = np.maximum(x, 1.0)
        roof: Roof = lambda *c: theirs(*c).seconds  # noqa: E731
        logs, grades = grid.at(inside, roof)
        seconds = np.exp(logs)
        if ours is not theirs:
            seconds = seconds * (ours(*inside.T).seconds / theirs(*inside.T).seconds)
        cost = replace(
            cost,
            seconds=np.where(there, seconds, 0.0),
            provenance=np.maximum(grades, np.broadcast_to(grade, shape).ravel()).astype(np.int8),
        )
    fields = ("seconds", "flops", "bytes", "provenance")
    return Cost(**{name: np.broadcast_to(getattr(cost, name), len(x)).reshape(shape) for name in fields})
