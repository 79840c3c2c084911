"""How much of a roofline kernels reach: laws with a few constants, distilled from measured tables.

    seconds = launch + |compute, memory, steps| + rows + streamed        |x| = (sum x^p)^(1/p), p = sharpness
    compute = (flops + idle * idle_flops + pad * pad_flops) / (share of peak * peak)
    memory  = bytes / (share of bandwidth * bandwidth)

``idle_flops`` are what the device could have computed while a part of it waits for the last tile (so few
tiles reach a small share of the peak, many a large one), ``pad_flops`` what is computed and thrown away,
``steps`` what one processor does in sequence, ``rows`` and ``streamed`` what the kernels before and after
do. Every term grows with the load and shares are at most 1, so times are monotone and never below the
ideal ones. Only ``compute`` slows down with the clock: what launches, steps and rows take at lower ones was
not measured. Collectives have a law of their own, ``CollectiveLaw``.

``efficiency.json`` holds the constants of each device, operation and format and the errors they leave;
``python -m tests.benchmarks.distil`` fits them (``docs/efficiency.md``). A device that was never measured
borrows those of its nearest kin.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from profiles.device import Device, load_device
from profiles.ops import FloatArray

PATH = Path(__file__).parent / "efficiency.json"

QUANTIZE_LAUNCH_S = 2.2e-6
"""Writing activations in 8 bits before a product, where only the wide product was measured: on H100 and
B200 the smallest products take 5.2 us in fp8 and 3.0 in bf16 (aiconfigurator-core, vLLM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an operation does, see the module. All fields broadcast to one shape.

    ``flops`` are the useful ones, in format ``form``; ``moved`` the bytes of the kernels themselves,
    ``streamed`` those of element-wise kernels around them; ``steps`` and ``rows`` are counts.
    """

    form: str = "bf16"
    flops: Any
    moved: Any
    idle_flops: Any = 0.0
    pad_flops: Any = 0.0
    steps: Any = 0.0
    rows: Any = 0.0
    streamed: Any = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Constants of one device, operation and format: microseconds, shares of peaks, nanoseconds.

    Examples
    --------
    >>> law = Law(launch_us=3.0, compute=0.8, memory=0.9, sharpness=4.0)
    >>> work = Work(flops=8e12, moved=9e9)
    >>> round(float(law.seconds(work, peak=1e15, bandwidth=1e12)) * 1e3, 2)  # 10 ms of each
    11.9
    """

    launch_us: float
    compute: float
    memory: float
    sharpness: float
    idle: float = 0.0
    pad: float = 0.0
    step_ns: float = 0.0
    row_ns: float = 0.0
    stream: float = 1.0

    def __post_init__(self) -> None:
        shares = (self.compute, self.memory, self.stream)
        if min(shares) <= 0 or max(shares) > 1 or not 1 <= self.sharpness < math.inf or self.launch_us <= 0:
            raise ValueError("Shares are in (0, 1], sharpness is at least 1, launch_us positive.")
        if not all(0 <= x < math.inf for x in (self.idle, self.pad, self.step_ns, self.row_ns)):
            raise ValueError("Constants of a law are finite and not negative.")

    def seconds(self, work: Work, peak: float, bandwidth: float) -> FloatArray:
        """Time at peaks of FLOP/s (of the work's format, at its clock) and bytes/s."""
        computed = work.flops + self.idle * work.idle_flops + self.pad * work.pad_flops
        busy = (
            np.asarray(computed / (self.compute * peak)),
            np.asarray(work.moved / (self.memory * bandwidth)),
            np.asarray(work.steps * self.step_ns * 1e-9),
        )
        longest = np.maximum(np.maximum(*busy[:2]), busy[2])
        scale = np.where(longest > 0, longest, 1.0)
        blended = longest * sum((part / scale) ** self.sharpness for part in busy) ** (1 / self.sharpness)
        beside = work.rows * self.row_ns * 1e-9 + work.streamed / (self.stream * bandwidth)
        return np.asarray(self.launch_us * 1e-6 + np.maximum(blended, longest) + beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveLaw:
    """One collective inside a node, n ranks, b bytes of which a rank sends w over a link:

    seconds = launch + (n - 1) step + ramp b / (b + ramp_bytes) + w / (share (2 / n)^crowd bandwidth)

    ``crowd`` above 0: ranks share the fabric (PCIe switches and sockets); below: few ranks use few
    channels. Beyond ``MOST_RANKS`` the share is that of ``MOST_RANKS``.
    """

    launch_us: float
    step_us: float
    share: float
    crowd: float
    ramp_us: float
    ramp_mb: float

    def __post_init__(self) -> None:
        positive = (self.launch_us, self.share, self.ramp_mb)
        if min(positive) <= 0 or min(self.step_us, self.ramp_us) < 0:
            raise ValueError("Constants of a collective are not negative; launch, share and ramp positive.")
        if not all(math.isfinite(getattr(self, constant.name)) for constant in fields(self)):
            raise ValueError("Constants of a collective are finite.")

    def seconds(self, ranks: Any, payload: FloatArray, wire: FloatArray, bandwidth: Any) -> FloatArray:
        """Time of payloads above 0; the share of the link is at most 1."""
        share = np.minimum(self.share * (2.0 / np.minimum(ranks, MOST_RANKS)) ** self.crowd, 1.0)
        ramp = self.ramp_us * payload / (payload + self.ramp_mb * 1e6)
        return np.asarray(
            (self.launch_us + self.step_us * (ranks - 1) + ramp) * 1e-6 + wire / (share * bandwidth)
        )


MOST_RANKS = 8
"""Ranks of one node up to which collectives were measured (4 on GB200)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Efficiency:
    """Laws of a device, its own or those of its nearest ``kin``; ``reason`` says why that one.

    ``errors`` maps an operation and format to the median and 90th percentile of |log(model / measured)| on
    shapes that the fit did not see (of the kin).
    """

    device: str
    kin: str
    reason: str
    laws: Mapping[str, Law] = field(repr=False)
    collectives: Mapping[str, CollectiveLaw] = field(repr=False)
    errors: Mapping[str, tuple[float, float]] = field(repr=False)

    @property
    def borrowed(self) -> bool:
        """Whether the device itself was never measured."""
        return self.device != self.kin

    @property
    def words(self) -> str:
        """The source, for people.

        Examples
        --------
        >>> efficiency_of(load_device("h100")).words
        'roofline with efficiencies distilled from its measurements'
        >>> efficiency_of(load_device("l4")).words
        'roofline with efficiencies borrowed from l40s (nearest in size of the rtx family); l4 was never measured'
        """
        if not self.borrowed:
            return "roofline with efficiencies distilled from its measurements"
        return (
            f"roofline with efficiencies borrowed from {self.kin} ({self.reason}); "
            f"{self.device} was never measured"
        )

    def law(self, operation: str, form: str) -> Law:
        """Of an operation in a format; int8 and fp4 as fp8, any format that was not measured as bf16, an
        encoder that was not as a prompt."""
        for name in (form, "fp8" if form in ("int8", "fp4") else form):
            if f"{operation} {name}" in self.laws:
                return self.laws[f"{operation} {name}"]
        wide = self.laws.get(f"{operation} bf16", self.laws["prefill bf16"])
        if operation != "gemm" or form not in ("fp8", "int8", "fp4"):
            return wide
        return replace(wide, launch_us=wide.launch_us + QUANTIZE_LAUNCH_S * 1e6)


def family(device: str) -> str | None:
    """Chips that run the same kernels alike, by the name of a device that ships; None of any other."""
    for name, members in _facts()["families"].items():
        if device in members:
            return str(name)
    return None


def distance(one: Device, other: Device) -> float:
    """How unlike two devices are in size: |log| of the ratios of their bf16 peaks and bandwidths, added."""
    return abs(math.log(one.flops("bf16") / other.flops("bf16"))) + abs(
        math.log(one.bandwidth / other.bandwidth)
    )


def efficiency_of(device: Device) -> Efficiency:
    """The laws of a device: its own, else those lent by its nearest kin.

    Examples
    --------
    >>> [efficiency_of(load_device(name)).kin for name in ("h100-nvl", "a10", "v100", "mi300x")]
    ['h100-sxm-80gb', 'l40s', 'a100-sxm-80gb', 'h200-sxm-141gb']
    """
    measured = tuple(_facts()["devices"])
    return _own(device.name, device.name, "") if device.name in measured else lent(device, measured)


def lent(device: Device, lenders: tuple[str, ...]) -> Efficiency:
    """The laws of the lender of the device's family (else of all) that is nearest by ``distance``.

    Shares are the lender's in proportion to what large products and streaming reach on the two, as measured
    or as ``profiles.device`` assumes. Collectives are lent only between fabrics of one kind.
    """
    name = family(device.name)
    alike = [lender for lender in lenders if family(lender) == name]
    kin = min((load_device(lender) for lender in alike or lenders), key=lambda other: distance(device, other))
    theirs = _own(
        device.name, kin.name, f"nearest in size of {f'the {name} family' if alike else 'all measured'}"
    )
    compute = _large(device) / _large(kin)
    memory = device.bandwidth_share / kin.bandwidth_share
    laws = {
        name: replace(
            law,
            compute=min(law.compute * compute, 1.0),
            memory=min(law.memory * memory, 1.0),
            stream=min(law.stream * memory, 1.0),
        )
        for name, law in theirs.laws.items()
    }
    same_fabric = device.scaleup_kind == kin.scaleup_kind
    return replace(theirs, laws=laws, collectives=theirs.collectives if same_fabric else {})


def _large(device: Device) -> float:
    """Share of the bf16 peak that a large product reaches."""
    return device.sustained_flops("bf16") / device.flops("bf16")


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return facts


@cache
def _own(device: str, kin: str, reason: str) -> Efficiency:
    facts = _facts()
    laws: dict[str, Law] = {}
    collectives: dict[str, CollectiveLaw] = {}
    errors: dict[str, tuple[float, float]] = {}
    for name, row in facts["devices"][kin].items():
        *constants, median, p90 = map(float, row)
        if " " in name:
            laws[name] = Law(**dict(zip(facts["law"], constants, strict=True)))
        else:
            collectives[name] = CollectiveLaw(**dict(zip(facts["collective"], constants, strict=True)))
        errors[name] = median, p90
    return Efficiency(
        device=device, kin=kin, reason=reason, laws=laws, collectives=collectives, errors=errors
    )
