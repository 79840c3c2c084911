"""Leave-one-out error of the measured tables, and what making them monotone changes.

    python -m tests.benchmarks.silicon_loo [system] [engine] [trials]

Hides a load (one knot of one axis, everywhere) or a shape (a site, or all sites that share a width), asks
for it, and compares with what was measured. Errors are |predicted / measured - 1|.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from profiles.ops import Cost, FloatArray, Link
from profiles.silicon import Silicon
from profiles.silicon_curves import isotonic, isotonic2
from profiles.silicon_tables import Table, load_table
from tests.profiles.test_silicon import Roof

Hide = Callable[[Table], Table]
Ask = Callable[[Silicon, tuple[int, ...], list[FloatArray]], Cost]

MLA = {"head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}


OTHER_KERNEL = {"custom_all_reduce": "all_reduce", "all_reduce": "custom_all_reduce"}
"""An all-reduce is the faster of two; of one alone the other is not there."""


class Hidden(Silicon):
    """Silicon that does not see a part of one operation's table."""

    operation, hide = "", staticmethod(lambda table: table)
    absent: str | None = None

    def _table(self, operation: str, own: bool = False, **where: str) -> Table | None:
        if operation == self.absent:
            return None
        table = super()._table(operation, own, **where)
        return self.hide(table) if table is not None and operation == self.operation else table

    def without(self, operation: str, hide: Hide) -> "Hidden":
        self.operation, self.hide, self.absent = operation, hide, OTHER_KERNEL.get(operation)
        self._built.clear()
        return self


def knot(axis: int, index: int) -> Hide:
    def hide(table: Table) -> Table:
        axes = tuple(np.delete(a, index) if i == axis else a for i, a in enumerate(table.axes))
        return replace(table, axes=axes, seconds=np.delete(table.seconds, index, axis=axis + 1))

    return hide


def sites(condition: Callable[[FloatArray], FloatArray]) -> Hide:
    def hide(table: Table) -> Table:
        keep = ~condition(table.sites)
        return replace(table, sites=table.sites[keep], seconds=table.seconds[keep])

    return hide


def same(*columns: int) -> Callable[[tuple[int, ...]], Hide]:
    """Hides every site that shares any of these columns with the one asked for."""
    return lambda site: sites(lambda rows: np.any([rows[:, c] == site[c] for c in columns], axis=0))


def very(*columns: int) -> Callable[[tuple[int, ...]], Hide]:
    """Hides every site that shares all of these columns (of all, when none is named)."""
    return lambda site: sites(
        lambda rows: (rows[:, columns or slice(None)] == np.array(site)[list(columns) or slice(None)]).all(
            axis=1
        )
    )


def prefill(silicon: Silicon, site: tuple[int, ...], loads: list[FloatArray]) -> Cost:
    q, h, d, w = site
    return silicon.prefill_attention(
        *loads, q_heads=q, kv_heads=h, head_dim=d, value_dim=d, window=w, causal=True, kv="bf16"
    )


def encoder(silicon: Silicon, site: tuple[int, ...], loads: list[FloatArray]) -> Cost:
    q, d = site
    return silicon.prefill_attention(
        *loads, q_heads=q, kv_heads=q, head_dim=d, value_dim=d, window=0, causal=False, kv="bf16"
    )


def decode(silicon: Silicon, site: tuple[int, ...], loads: list[FloatArray]) -> Cost:
    q, h, d, w = site
    return silicon.decode_attention(
        *loads, q_heads=q, kv_heads=h, head_dim=d, value_dim=d, window=w, kv="bf16"
    )


def moe(form: str) -> Ask:
    def ask(silicon: Silicon, site: tuple[int, ...], loads: list[FloatArray]) -> Cost:
        h, i, k, e, t, p = site
        shape = {"hidden": h, "inner": i, "top_k": k, "experts": e, "tp": t, "ep": p}
        return silicon.moe(*loads, **shape, gated=True, weight=form, activation=form)

    return ask


def collective(kind: str) -> Ask:
    def ask(silicon: Silicon, site: tuple[int, ...], loads: list[FloatArray]) -> Cost:
        link = Link(
            ranks=site[0], nodes=1, intra_bandwidth=450e9, inter_bandwidth=50e9, intra_latency_s=1e-6,
            inter_latency_s=5e-6,
        )  # fmt: skip
        return silicon.collective(kind, loads[0], link)

    return ask


def gemm(form: str) -> Ask:
    return lambda s, site, loads: s.gemm(*loads, n=site[0], k=site[1], weight=form, activation=form)


PREFILL: Ask = lambda s, site, loads: s.mla_prefill(*loads, heads=site[0], **MLA)  # noqa: E731
DECODE: Ask = lambda s, site, loads: s.mla_decode(*loads, heads=site[0], **MLA)  # noqa: E731

# operation, rows of the table, how it is asked, {what is unseen: what is hidden}
CASES: list[tuple[str, dict[str, str], Ask, dict[str, Callable[[tuple[int, ...]], Hide]]]] = [
    ("gemm", {"gemm_dtype": "bfloat16"}, gemm("bf16"), {"n": same(0), "k": same(1), "n and k": same(0, 1)}),
    ("gemm", {"gemm_dtype": "fp8"}, gemm("fp8"), {"n and k": same(0, 1)}),
    ("gemm", {"gemm_dtype": "nvfp4"}, gemm("fp4"), {"n and k": same(0, 1)}),
    ("prefill", {"kv_cache_dtype": "bfloat16"}, prefill, {"heads": very()}),
    ("decode", {"kv_cache_dtype": "bfloat16"}, decode, {"heads": very(), "kv heads": same(1)}),
    ("encoder", {"attn_dtype": "bfloat16"}, encoder, {"heads": very()}),
    ("mla_prefill", {"kv_cache_dtype": "bfloat16"}, PREFILL, {"heads": very()}),
    ("mla_decode", {"kv_cache_dtype": "bfloat16"}, DECODE, {"heads": very()}),
    (
        "moe", {"moe_dtype": "bfloat16", "distribution": "power_law_1.01"}, moe("bf16"),
        {"tp x ep": very(), "model": very(0, 1, 2, 3)},
    ),
    ("moe", {"moe_dtype": "fp8_block", "distribution": "power_law_1.01"}, moe("fp8"), {"tp x ep": very()}),
    ("moe", {"moe_dtype": "nvfp4", "distribution": "power_law_1.01"}, moe("fp4"), {"tp x ep": very()}),
    ("custom_all_reduce", {}, collective("all_reduce"), {"ranks": very()}),
    ("all_reduce", {}, collective("all_reduce"), {"ranks": very()}),
    ("all_gather", {}, collective("all_gather"), {"ranks": very()}),
    ("reduce_scatter", {}, collective("reduce_scatter"), {"ranks": very()}),
    ("all_to_all", {}, collective("all_to_all"), {"ranks": very()}),
]  # fmt: skip


def errors(silicon: Hidden, table: Table, operation: str, ask: Ask, trials: int, rng: np.random.Generator,
           unseen: Callable[[tuple[int, ...]], Hide] | int) -> Iterator[FloatArray]:  # fmt: skip
    """One array of errors per trial: along the hidden knot, or over all loads of the hidden shape."""
    for _ in range(trials):
        row = int(rng.integers(len(table.sites)))
        site = tuple(int(v) for v in table.sites[row])
        seconds = table.seconds[row]
        if isinstance(unseen, int):
            last = np.flatnonzero(
                ~np.isnan(seconds).all(axis=tuple(a for a in range(seconds.ndim) if a != unseen))
            )
            if len(last) < 3:
                continue
            hidden = int(rng.choice(last[1:-1]))
            silicon.without(operation, knot(unseen, hidden))
            picked = np.zeros(seconds.shape, dtype=bool)
            picked[(slice(None),) * unseen + (hidden,)] = True
        else:
            silicon.without(operation, unseen(site))
            picked = np.ones(seconds.shape, dtype=bool)
        index = np.nonzero(picked & ~np.isnan(seconds))
        if not len(index[0]):
            continue
        loads = [axis[i].astype(np.int64) for axis, i in zip(table.axes, index, strict=True)]
        predicted = ask(silicon, site, loads).seconds
        yield np.abs(predicted / seconds[index] - 1)


def main(system: str = "h100_sxm", engine: str = "vllm", trials: str = "300") -> None:
    silicon = Hidden(system, engine=engine, fallback=Roof())
    rng = np.random.default_rng(0)
    print(f"{system} {engine}: leave-one-out |error|, {trials} trials each")
    print(f"{'operation':28s}{'unseen':14s}{'median':>8s}{'p90':>8s}")
    for operation, where, ask, shapes in CASES:
        table = load_table(system, engine, operation, tuple(sorted(where.items())))
        if table is None:
            continue
        loads = {f"load {axis}" if len(table.axes) > 1 else "load": axis for axis in range(len(table.axes))}
        for name, unseen in (loads | shapes).items():
            found = list(errors(silicon, table, operation, ask, int(trials), rng, unseen))
            if found:
                median, p90 = np.quantile(np.concatenate(found), [0.5, 0.9])
                print(f"{operation} {next(iter(where.values()), '')}".rstrip().ljust(28), end="")
                print(f"{name:14s}{median:8.1%}{p90:8.1%}", flush=True)
    print(
        f"\n{'monotone':28s}{'changed':>8s}{'p90':>8s}{'most':>8s}   share of points moved by > 1 %, how far"
    )
    for operation, where, _, _ in CASES:
        table = load_table(system, engine, operation, tuple(sorted(where.items())))
        if table is not None:
            moved = monotone_effect(table)
            print(
                f"{operation} {next(iter(where.values()), '')}".rstrip().ljust(28)
                + f"{(moved > 0.01).mean():8.1%}{np.quantile(moved, 0.9):8.1%}{moved.max():8.1%}"
            )


def monotone_effect(table: Table) -> FloatArray:
    """|smoothed / measured - 1| of every point of a table; surfaces only where all of a row is there."""
    moved = []
    for seconds in table.seconds:
        if seconds.ndim == 1:
            points = seconds[~np.isnan(seconds)]
            moved.append(np.abs(isotonic(points) / points - 1))
        else:
            block = seconds[:, ~np.isnan(seconds).any(axis=0)]
            if block.size:
                moved.append(np.abs(isotonic2(block) / block - 1).ravel())
    return np.concatenate(moved)


if __name__ == "__main__":
    main(*sys.argv[1:])
