"""Devices: what one accelerator is, from facts files with a unit and a source per number.

``profiles/devices/<name>.json`` states a number as ``{"value", "unit", "source"}``; the unit decides the
factor, so that GB (10^9) and GiB (2^30) never mix.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from profiles.errors import InputError, nearest
from profiles.plan import FORMAT_BYTES

_DIRECTORY = Path(__file__).parent / "devices"

UNITS = {
    "1": 1.0, "devices": 1.0, "MHz": 1.0, "W": 1.0, "USD/h": 1.0,
    "GiB": 2.0**30, "GB/s": 1e9, "Gb/s": 1e9 / 8, "TFLOP/s": 1e12,
}  # fmt: skip
"""Units of the facts files, and what one is in ours: bytes, bytes/s, FLOP/s, W, MHz, dollars an hour."""

MATMUL_SHARE = 0.80
"""Of the dense peak that a large matrix product reaches where nobody measured it: the median of those that
were (A100 0.87 and 0.81, H100 and H200 0.80, B200 0.78, GB200 0.73; stas00/ml-engineering)."""

BANDWIDTH_SHARE = 0.83
"""Of peak memory bandwidth that streaming weights reaches where the device's file does not say: 139 GB of
Llama-3.1-70B in 50 ms on H100, the slope of inter-token latency over 1 / TP (vLLM 0.6, with APEX+)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator as an engine sees it. Bandwidths are bytes per second of one device, one direction.

    Parameters
    ----------
    name, aliases, vendor
        Names it answers to, lower case.
    memory_bytes
        Total that the driver offers to a program, which ``gpu_memory_utilization`` is a share of: an
        "80 GB" H100 has 79.11 GiB = 84.9e9 bytes.
    bandwidth, bandwidth_share
        Peak of device memory, and the share of it that a streaming kernel reaches, in (0, 1].
    dense_flops, matmul_flops
        Format -> peak FLOP/s without sparsity, always bf16 (fp16 on V100) and fp32; and what the best
        large matrix product reached, where measured.
    scaleup_kind
        ``switch``: any two devices at full rate. ``mesh``: a link of ``p2p_bandwidth`` to each other
        device. ``pairs``: bridged boards, PCIe beyond. ``pcie``: PCIe only.
    scaleup_domain
        Devices that the fabric joins: 1 for ``pcie``, 2 for ``pairs``; more than a node for NVL72.
    scaleup_bandwidth, p2p_bandwidth
        Of one device into the fabric, and between two devices.
    host_bandwidth, nic_bandwidth
        To the host over PCIe as achieved, and of the usual network adapter of one device.
    devices_per_node, sm_count
        In the usual server; multiprocessors or compute units.
    tdp_w, idle_w
        Power limit as shipped; power with nothing running.
    max_clock_mhz, clocks_mhz
        Highest clock, and the clocks that a plan may lock, ascending up to it.
    price_usd_per_hour
        Lowest and highest offer found, or None.
    silicon_system
        Name of its measured tables (``profiles.silicon``), or None.
    sources
        Key of the facts file -> who says so.

    Raises
    ------
    ValueError
        When a number is out of range.

    Examples
    --------
    >>> h100 = load_device("H100")
    >>> h100.name, round(h100.memory_bytes / 2**30, 2), h100.flops("fp8") / 1e12
    ('h100-sxm-80gb', 79.11, 1978.9)
    >>> load_device("v100").flops("fp8") / 1e12  # has no fp8: computed in fp16
    125.0
    """

    name: str
    aliases: tuple[str, ...]
    vendor: str
    memory_bytes: int
    bandwidth: float
    bandwidth_share: float = BANDWIDTH_SHARE
    dense_flops: Mapping[str, float] = field(hash=False)
    matmul_flops: Mapping[str, float] = field(hash=False, default_factory=dict)
    scaleup_kind: Literal["switch", "mesh", "pairs", "pcie"]
    scaleup_domain: int
    scaleup_bandwidth: float
    p2p_bandwidth: float
    host_bandwidth: float
    nic_bandwidth: float
    devices_per_node: int
    sm_count: int
    tdp_w: float
    idle_w: float
    max_clock_mhz: int
    clocks_mhz: tuple[int, ...]
    price_usd_per_hour: tuple[float, float] | None = None
    silicon_system: str | None = None
    sources: Mapping[str, str] = field(hash=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if {"bf16", "fp32"} - set(self.dense_flops) or set(self.dense_flops) - set(FORMAT_BYTES):
            raise ValueError("dense_flops must give bf16 and fp32, and only known formats.")
        positive = (
            self.memory_bytes, self.bandwidth, self.host_bandwidth, self.nic_bandwidth, self.scaleup_domain,
            self.scaleup_bandwidth, self.p2p_bandwidth, self.devices_per_node, self.sm_count, self.idle_w,
            *self.dense_flops.values(), *self.matmul_flops.values(),
        )  # fmt: skip
        if min(positive) <= 0 or not 0 < self.bandwidth_share <= 1 or self.idle_w >= self.tdp_w:
            raise ValueError("Sizes and rates must be positive, shares at most 1, idle below tdp_w.")
        clocks = self.clocks_mhz
        if list(clocks) != sorted(set(clocks)) or not clocks or clocks[0] <= 0:
            raise ValueError("clocks_mhz must be positive and ascend.")
        if clocks[-1] != self.max_clock_mhz:
            raise ValueError("clocks_mhz must end at max_clock_mhz.")
        if self.scaleup_kind not in ("switch", "mesh", "pairs", "pcie"):
            raise ValueError(f"scaleup_kind {self.scaleup_kind!r} is not switch, mesh, pairs or pcie.")

    def flops(self, form: str) -> float:
        """Peak dense FLOP/s of operands in this format; one without a rate of its own is widened to bf16."""
        return self.dense_flops.get(form, self.dense_flops["bf16"])

    def sustained_flops(self, form: str) -> float:
        """FLOP/s that a large matrix product reaches: as measured, else the share of the peak that bf16
        reaches, else ``MATMUL_SHARE``."""
        form = form if form in self.dense_flops else "bf16"
        if form in self.matmul_flops:
            return self.matmul_flops[form]
        peak = self.dense_flops["bf16"]
        return self.dense_flops[form] * self.matmul_flops.get("bf16", MATMUL_SHARE * peak) / peak

    @property
    def sustained_bandwidth(self) -> float:
        """Bytes per second that a streaming kernel reaches."""
        return self.bandwidth * self.bandwidth_share

    @property
    def price(self) -> float | None:
        """Middle of the offers found, dollars per device and hour."""
        return None if self.price_usd_per_hour is None else sum(self.price_usd_per_hour) / 2


def known_devices() -> tuple[str, ...]:
    """Names of the devices that ship, sorted, aliases left out."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob("*.json")))


def load_device(name: str) -> Device:
    """The device of this name or alias, whatever the case.

    Raises
    ------
    InputError
        When none has this name, or its facts file is wrong.
    """
    names = _names()
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key not in names:
        raise InputError(f"Unknown device {name!r}, {nearest(key, names)}")
    return _load(names[key])


def read_device(path: Path) -> Device:
    """The device of a facts file, see the module; ``InputError`` says which key of it is wrong."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: {error}") from error
    key = ""

    def number(name: str) -> float:
        nonlocal key
        key = name
        return float(facts[name]["value"]) * UNITS[facts[name]["unit"]]

    def rates(name: str) -> dict[str, float]:
        nonlocal key
        key = name
        fact: dict[str, Any] = facts.get(name, {"value": {}, "unit": "1"})
        return {form: float(value) * UNITS[fact["unit"]] for form, value in fact["value"].items()}

    try:
        low_high = facts["price"]["value"] if "price" in facts else None
        return Device(
            name=path.stem,
            aliases=tuple(facts["aliases"]),
            vendor=facts["vendor"],
            memory_bytes=int(number("memory")),
            bandwidth=number("bandwidth"),
            bandwidth_share=number("bandwidth_share") if "bandwidth_share" in facts else BANDWIDTH_SHARE,
            dense_flops=rates("dense_flops"),
            matmul_flops=rates("matmul_flops"),
            scaleup_kind=facts["scaleup_kind"],
            scaleup_domain=int(number("scaleup_domain")),
            scaleup_bandwidth=number("scaleup_bandwidth"),
            p2p_bandwidth=number("p2p_bandwidth"),
            host_bandwidth=number("host_bandwidth"),
            nic_bandwidth=number("nic_bandwidth"),
            devices_per_node=int(number("devices_per_node")),
            sm_count=int(number("sm_count")),
            tdp_w=number("tdp"),
            idle_w=number("idle"),
            max_clock_mhz=int(number("max_clock")),
            clocks_mhz=tuple(facts["clocks"]["value"]),
            price_usd_per_hour=(float(low_high[0]), float(low_high[1])) if low_high else None,
            silicon_system=facts["silicon_system"],
            sources={name: fact["source"] for name, fact in facts.items() if isinstance(fact, dict)},
        )
    except KeyError as error:
        units = ", ".join(UNITS)
        raise InputError(f"{path.name}: {key}: {error} is missing or not a unit ({units})") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path.name}: {key}: {error}") from error


@cache
def _load(name: str) -> Device:
    return read_device(_DIRECTORY / f"{name}.json")


@cache
def _names() -> dict[str, str]:
    """Every name and alias -> the name."""
    return {alias: name for name in known_devices() for alias in (name, *_load(name).aliases)}
