"""Distils the measured tables into ``profiles/efficiency.json``, and reports the errors that are left.

    python -m tests.benchmarks.distil                      # all devices, writes the file (10 s)
    python -m tests.benchmarks.distil h100 gemm decode     # fits these again, prints, writes nothing
    python -m tests.benchmarks.distil kin                  # each device by the laws of its nearest kin

Every law is fitted by robust least squares on log time (Levenberg-Marquardt on the logarithms of the
constants, pseudo-Huber loss beyond 10 %), on a sample of three quarters of the measured shapes; errors are
of the quarter that the fit did not see, all loads. Rows are those of ``profiles.silicon``. Points that were
measured faster than peak memory or peak arithmetic allow (operands still in the cache from the run before,
or fewer experts hit than random routing hits) are left out of fits, not of errors.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.device import Device, known_devices, load_device
from profiles.efficiency import PATH, CollectiveLaw, Law, Work, efficiency_of, lent
from profiles.fleet import homogeneous
from profiles.ops import Cost, FloatArray
from profiles.roofline import TILE, Roofline
from profiles.silicon import Silicon
from profiles.silicon_tables import Table, load_table

FAMILIES = {
    "v100-a100": [
        "v100-pcie-16gb", "v100-sxm-16gb", "v100-sxm-32gb", "a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb",
    ],
    "rtx": ["a10", "l4", "l40s", "rtx-4090", "rtx-pro-6000-96gb"],
    "hopper": ["h100-nvl-94gb", "h100-pcie-80gb", "h100-sxm-80gb", "h200-sxm-141gb"],
    "blackwell": ["b200-sxm-180gb", "gb200-nvl72"],
    "cdna3": ["mi300x", "mi325x"],
}  # fmt: skip
"""Chips for which kernels are written alike. ``rtx`` has compute capabilities 8.6, 8.9 and 12.0: laws of L40S
and RTX PRO 6000 predict each other twice as well as either's of a data center chip of its generation."""

SAMPLE = 6000
"""Points of a fit: drawn evenly over the measured shapes that it may see."""

MLA: dict[str, Any] = {"head_dim": 192, "value_dim": 128, "kv_rank": 512, "rope_dim": 64}

Ask = Callable[[Roofline, tuple[int, ...], list[NDArray[np.int64]]], Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A law: the table it is fitted on, and how the roofline is asked for a site of it.

    Padding adds at most a tile of rows, or a fit takes it for the weights' bytes, which grow alike. Only
    MLA may have more: what a cached token takes once for all heads, such as widening it from fp8.
    """

    operation: str
    table: str
    formats: dict[str, dict[str, str]]  # ours -> rows of the table
    ask: Callable[[str], Ask]
    most_pad: float = TILE


def _gemm(form: str) -> Ask:
    return lambda r, s, x: r.gemm(*x, n=s[0], k=s[1], weight=form, activation=form)


def _heads(s: tuple[int, ...], kv: str) -> dict[str, Any]:
    return {"q_heads": s[0], "kv_heads": s[1], "head_dim": s[2], "value_dim": s[2], "window": s[3], "kv": kv}


def _moe(form: str) -> Ask:
    def ask(r: Roofline, s: tuple[int, ...], x: list[NDArray[np.int64]]) -> Cost:
        names = ("hidden", "inner", "top_k", "experts", "tp", "ep")
        activation = "bf16" if form == "int4" else form
        shape: dict[str, Any] = dict(zip(names, s, strict=True))
        return r.moe(*x, **shape, gated=True, weight=form, activation=activation)

    return ask


_KV = {"bf16": {"kv_cache_dtype": "bfloat16"}, "fp8": {"kv_cache_dtype": "fp8"}}
_ROUTED = {"distribution": "power_law_1.01"}

CASES = [
    Case(
        operation="gemm", table="gemm", ask=_gemm,
        formats={"bf16": {"gemm_dtype": "bfloat16"}, "fp8": {"gemm_dtype": "fp8"}, "fp4": {"gemm_dtype": "nvfp4"}},
    ),
    Case(
        operation="prefill", table="prefill", formats=_KV,
        ask=lambda kv: lambda r, s, x: r.prefill_attention(*x, causal=True, **_heads(s, kv)),
    ),
    Case(
        operation="encoder", table="encoder", formats={"bf16": {"attn_dtype": "bfloat16"}},
        ask=lambda kv: lambda r, s, x: r.prefill_attention(
            *x, causal=False, **_heads((s[0], s[0], s[1], 0), kv)
        ),
    ),
    Case(
        operation="decode", table="decode", formats=_KV,
        ask=lambda kv: lambda r, s, x: r.decode_attention(*x, **_heads(s, kv)),
    ),
    Case(
        operation="mla_prefill", table="mla_prefill", formats=_KV,
        ask=lambda kv: lambda r, s, x: r.mla_prefill(*x, heads=s[0], kv=kv, **MLA),
    ),
    Case(
        operation="mla_decode", table="mla_decode", formats=_KV, most_pad=1e3,
        ask=lambda kv: lambda r, s, x: r.mla_decode(*x, heads=s[0], kv=kv, **MLA),
    ),
    Case(
        operation="moe", table="moe", ask=_moe,
        formats={
            "bf16": {"moe_dtype": "bfloat16", **_ROUTED},
            # Published fp8 experts have scales by blocks; vLLM's per-tensor table is up to 7 times slower on H200.
            "fp8": {"moe_dtype": "fp8_block", **_ROUTED},
            "int4": {"moe_dtype": "int4_wo", **_ROUTED},
            "fp4": {"moe_dtype": "nvfp4", **_ROUTED},
        },
    ),
]  # fmt: skip

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

NAMES = tuple(field.name for field in fields(Law))
START = Law(
    launch_us=5.0, compute=0.7, memory=0.8, sharpness=3.0, idle=0.1, pad=1.0, step_ns=0.1, row_ns=1.0, stream=0.5,
)  # fmt: skip
LOW = np.array([1.0, 0.02, 0.02, 1.0, 1e-6, 1e-6, 1e-6, 1e-6, 0.02])
HIGH = np.array([1e3, 1.0, 1.0, 8.0, 1e2, TILE, 1e4, 1e4, 1.0])

COUNTS = {
    "idle": "idle_flops", "pad": "pad_flops", "step_ns": "steps", "row_ns": "rows", "stream": "streamed",
}  # fmt: skip
"""Constants that are fitted only where an operation has some of what they multiply."""

COLLECTIVE_START = np.array([6.0, 0.5, 0.7, 0.1, 6.0, 1.0])
COLLECTIVE_LOW = np.array([0.5, 1e-3, 0.02, 0.0, 1e-3, 1e-2])
COLLECTIVE_HIGH = np.array([100.0, 50.0, 1.0, 3.0, 100.0, 100.0])
LEAST_CROWD = -0.5
"""``crowd`` may be negative: it is fitted less this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """Measured points of one table as one array each; ``seen`` marks those that a fit may use."""

    work: Work
    seconds: FloatArray
    seen: NDArray[np.bool_]


class Recorder(Roofline):
    """A roofline that keeps what it counts."""

    work: Work | None = None

    def _cost(self, operation: str, form: str, work: Work, there: NDArray[np.bool_]) -> Cost:
        self.work = work
        return super()._cost(operation, form, work, there)


def hidden_quarter(count: int) -> NDArray[np.bool_]:
    """Which of so many shapes the fit does not see."""
    hidden = np.zeros(count, dtype=bool)
    hidden[np.random.default_rng(0).permutation(count)[: count // 4]] = True
    return hidden


def points_of(device: Device, table: Table, ask: Ask) -> Points:
    """What the roofline counts at every measured point."""
    roofline, works, seconds, seen = Recorder(device), [], [], []
    hidden = hidden_quarter(len(table.sites))
    for site, (shape, measured) in enumerate(zip(table.sites.tolist(), table.seconds, strict=True)):
        index = np.nonzero(np.isfinite(measured))
        if not len(index[0]):
            continue
        loads = [axis[i].astype(np.int64) for axis, i in zip(table.axes, index, strict=True)]
        ask(roofline, tuple(shape), loads)
        assert roofline.work is not None
        works.append(roofline.work)
        seconds.append(measured[index])
        seen.append(np.full(len(index[0]), not hidden[site]))
    counted = {
        name: np.concatenate(
            [
                np.broadcast_to(np.asarray(getattr(w, name), np.float64), s.shape)
                for w, s in zip(works, seconds, strict=True)
            ]
        )
        for name in (field.name for field in fields(Work))
        if name != "form"
    }
    return Points(
        work=Work(form=works[0].form, **counted), seconds=np.concatenate(seconds), seen=np.concatenate(seen)
    )  # fmt: skip


def taken(work: Work, index: NDArray[Any]) -> Work:
    """The work of some points."""
    parts = {f.name: getattr(work, f.name)[index] for f in fields(Work) if f.name != "form"}
    return Work(form=work.form, **parts)


def least_squares(
    predict: Callable[[FloatArray], FloatArray], start: FloatArray, low: FloatArray, high: FloatArray,
    log_seconds: FloatArray, rounds: int = 80, knee: float = 0.1,
) -> FloatArray:  # fmt: skip
    """Constants in [low, high] that minimize the pseudo-Huber loss of log(predicted / measured)."""
    x, least, most = (np.log(np.maximum(v, 1e-12)) for v in (start, low, high))

    def residual(at: FloatArray) -> FloatArray:
        return np.asarray(np.log(predict(np.exp(at))) - log_seconds)

    def loss(r: FloatArray) -> float:
        return float((np.sqrt(1 + (r / knee) ** 2) - 1).sum())

    now = residual(x)
    best, damping = loss(now), 1e-2
    for _ in range(rounds):
        columns = []
        for j in range(len(x)):
            moved = x.copy()
            moved[j] += 1e-4 if x[j] + 1e-4 <= most[j] else -1e-4
            columns.append((residual(moved) - now) / (moved[j] - x[j]))
        jacobian = np.stack(columns, axis=1)
        weight = 1 / np.sqrt(1 + (now / knee) ** 2)
        normal, gradient = jacobian.T @ (jacobian * weight[:, None]), jacobian.T @ (weight * now)
        for _ in range(15):
            damped = normal + damping * np.diag(np.diag(normal) + 1e-9)
            tried = np.clip(x - np.linalg.solve(damped, gradient), least, most)
            there = residual(tried)
            if loss(there) < best:
                break
            damping *= 4
        else:
            break
        gain, x, now = best - loss(there), tried, there
        best, damping = loss(there), damping / 5
        if gain < 1e-6 * best:
            break
    return np.exp(x)


def shortened(values: FloatArray) -> list[float]:
    """Constants as they are written: three significant digits, 0 where they vanish."""
    return [0.0 if abs(v) < 2e-5 else float(f"{v:.3g}") for v in values.tolist()]


def fitted(device: Device, points: Points, most_pad: float = TILE) -> Law:
    """The law of one operation and format from the points that may be seen."""
    high = np.where(np.array(NAMES) == "pad", most_pad, HIGH)
    peak, bandwidth = device.flops(points.work.form), device.bandwidth
    ideal = np.maximum(points.work.flops / peak, points.work.moved / bandwidth)
    usable = np.flatnonzero(points.seen & (points.seconds >= ideal))
    index = np.sort(np.random.default_rng(1).permutation(usable)[:SAMPLE])
    work, log_seconds = taken(points.work, index), np.log(points.seconds[index])
    free = np.array([name not in COUNTS or getattr(work, COUNTS[name]).any() for name in NAMES])
    constants = np.where(free, astuple(START), 0.0)
    constants[~free & (np.array(NAMES) == "stream")] = 1.0

    def law(values: FloatArray) -> Law:
        constants[free] = values
        return Law(**dict(zip(NAMES, constants.tolist(), strict=True)))

    found = least_squares(
        lambda values: law(values).seconds(work, peak, bandwidth),
        np.array(astuple(START))[free], LOW[free], high[free], log_seconds,
    )  # fmt: skip
    return Law(**dict(zip(NAMES, shortened(np.array(astuple(law(found)))), strict=True)))


def error_of(predicted: FloatArray, measured: FloatArray) -> tuple[float, float]:
    """Median and 90th percentile of |log(model / measured)|."""
    median, p90 = np.quantile(np.abs(np.log(predicted / measured)), [0.5, 0.9])
    return round(float(median), 3), round(float(p90), 3)


def errors(device: Device, points: Points, law: Law, seen: bool = False) -> tuple[float, float]:
    """Errors of a law on the points that the fit did not see (or on those it did)."""
    chosen = points.seen == seen
    work = taken(points.work, chosen)
    return error_of(law.seconds(work, device.flops(work.form), device.bandwidth), points.seconds[chosen])


def tables(device: Device, case: Case) -> Iterator[tuple[str, Points]]:
    """The measured points of a case on a device, by our format."""
    for form, where in case.formats.items():
        assert device.silicon_system is not None
        table = load_table(device.silicon_system, "vllm", case.table, tuple(sorted(where.items())))
        if table is not None:
            yield form, points_of(device, table, case.ask(form))


def collective_points(device: Device, kind: str) -> tuple[FloatArray, ...]:
    """Ranks, bytes, bytes on the wire, bandwidth and measured seconds, of the sizes NCCL was measured at."""
    assert device.silicon_system is not None
    silicon = Silicon(device.silicon_system, fallback=Roofline(device))
    table = load_table(device.silicon_system, "vllm", kind)
    pool = homogeneous(device.name, nodes=1).pools[0]
    assert table is not None
    rows = []
    for (ranks,), nccl in zip(table.sites.tolist(), table.seconds, strict=True):
        payload = table.axes[0][np.isfinite(nccl)]
        link = pool.link(ranks, 1)
        wire = (2.0 if kind == "all_reduce" else 1.0) * payload * (ranks - 1) / ranks
        seconds = silicon.collective(kind, payload, link).seconds
        constant = np.ones_like(payload)
        rows.append((ranks * constant, payload, wire, link.intra_bandwidth * constant, seconds))
    return tuple(np.concatenate(column) for column in zip(*rows, strict=True))


def fitted_collective(
    device: Device, kind: str
) -> tuple[CollectiveLaw, tuple[float, float], tuple[float, float]]:
    """The law of one collective, and its errors on points hidden from the fit and on the others."""
    *inputs, seconds = collective_points(device, kind)
    hidden = hidden_quarter(len(seconds))
    names = [field.name for field in fields(CollectiveLaw)]

    def law(values: FloatArray) -> CollectiveLaw:
        constants = dict(zip(names, values.tolist(), strict=True))
        constants["crowd"] += LEAST_CROWD
        return CollectiveLaw(**constants)

    seen = [column[~hidden] for column in inputs]
    shift = np.array([-LEAST_CROWD if name == "crowd" else 0.0 for name in names])
    found = least_squares(
        lambda values: law(values).seconds(*seen), COLLECTIVE_START + shift, COLLECTIVE_LOW,
        COLLECTIVE_HIGH + shift, np.log(seconds[~hidden]),
    )  # fmt: skip
    short = CollectiveLaw(**dict(zip(names, shortened(np.array(astuple(law(found)))), strict=True)))
    predicted = short.seconds(*inputs)
    return short, error_of(predicted[hidden], seconds[hidden]), error_of(predicted[~hidden], seconds[~hidden])


def distilled(device: Device, operations: tuple[str, ...] = ()) -> dict[str, list[float]]:
    """Rows of one device: constants, then the errors on unseen shapes. Prints each, seen shapes too."""
    rows: dict[str, list[float]] = {}

    def keep(
        name: str, law: Law | CollectiveLaw, unseen: tuple[float, float], seen: tuple[float, float]
    ) -> None:
        rows[name] = [*astuple(law), *unseen]
        constants = " ".join(f"{v:g}" for v in astuple(law))
        percent = "   ".join(f"{median:6.1%}{p90:7.1%}" for median, p90 in (unseen, seen))
        print(f"{device.name:18s}{name:18s}{percent}   {constants}", flush=True)

    for case in CASES:
        if operations and case.operation not in operations:
            continue
        for form, points in tables(device, case):
            law = fitted(device, points, case.most_pad)
            unseen, seen = (errors(device, points, law, which) for which in (False, True))
            keep(f"{case.operation} {form}", law, unseen, seen)
    for kind in COLLECTIVES:
        if not operations or kind in operations:
            keep(kind, *fitted_collective(device, kind))
    return rows


def by_kin() -> None:
    """Errors of every measured device if it had to borrow, beside those of its own laws on the same points."""
    measured = [device for device in map(load_device, known_devices()) if device.silicon_system is not None]
    for device in measured:
        own = efficiency_of(device)
        theirs = lent(device, tuple(other.name for other in measured if other is not device))
        for case in CASES:
            for form, points in tables(device, case):
                row = []
                for laws in (own, theirs):
                    law = laws.law(case.operation, form)
                    seconds = law.seconds(points.work, device.flops(points.work.form), device.bandwidth)
                    row.append("{:7.1%}{:7.1%}".format(*error_of(seconds, points.seconds)))
                print(f"{device.name:18s}{case.operation:12s}{form:5s}{'  '.join(row)}  {theirs.kin}")


def main(name: str = "", *operations: str) -> None:
    if name == "kin":
        by_kin()
        return
    print(f"{'device':18s}{'law':18s}unseen: 50, 90%  seen: 50, 90%  {' '.join(NAMES)}")
    if name:
        distilled(load_device(name), operations)
        return
    measured = {
        device.name: distilled(device)
        for device in map(load_device, known_devices())
        if device.silicon_system is not None
    }
    write(measured)


def write(measured: dict[str, dict[str, list[float]]]) -> None:
    """The file, one row a line."""
    source = "aiconfigurator-core 0.12, tables of vLLM where it has them; python -m tests.benchmarks.distil"

    def block(rows: dict[str, Any], indent: str) -> str:
        return ",\n".join(f'{indent}"{key}": {json.dumps(row)}' for key, row in rows.items())

    devices = ",\n".join(f'  "{name}": {{\n{block(rows, "   ")}\n  }}' for name, rows in measured.items())
    head = {"source": source, "law": list(NAMES), "collective": [f.name for f in fields(CollectiveLaw)]}
    families = block(FAMILIES, "  ")
    text = f'{{\n{block(head, " ")},\n "families": {{\n{families}\n }},\n "devices": {{\n{devices}\n }}\n}}\n'
    PATH.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
