"""Fleets: pools of alike nodes, from a small YAML or from flags.

pools:
  - name: train-leftovers
    device: h100-sxm-80gb
    nodes: 2
    devices_per_node: 8
    free: [8, 3]                  # free devices of each node, default: all
    inter_node_gbit_s: 400        # per device, default: the device's usual NIC
    price_usd_per_device_hour: 2.5
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.device import Device, load_device
from profiles.errors import InputError, nearest
from profiles.ops import Link

INTRA_LATENCY_S = {"switch": 5e-6, "mesh": 5e-6, "pairs": 8e-6, "pcie": 1e-5}
"""Seconds per step of a collective inside a node. NCCL all-reduce of nothing takes 8, 10, 14 us on 2, 4, 8
H100 (APEX+ profiles): about log2(ranks) steps of 5 us; PCIe goes through the host, taken as twice."""

INTER_LATENCY_S = 1.5e-5
"""Seconds per step between nodes over RDMA, launch included; vendor microbenchmarks range from 5 to 20 us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Alike nodes of one kind of device.

    ``free[i]`` devices of node i may be used. ``domain``: devices that the scale-up link joins; groups
    that must talk fast stay inside it. ``inter_bandwidth``: bytes/s of one device to another node.
    """

    name: str
    device: Device
    nodes: int
    devices_per_node: int
    free: tuple[int, ...]
    domain: int
    inter_bandwidth: float
    price_usd_per_device_hour: float | None

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.devices_per_node < 1 or self.domain < 1:
            raise ValueError("A pool needs at least one node and one device per node.")
        if len(self.free) != self.nodes or not all(0 <= f <= self.devices_per_node for f in self.free):
            raise ValueError("free must list 0 to devices_per_node devices for every node.")

    @property
    def devices(self) -> int:
        """Devices that may be used."""
        return sum(self.free)

    def link(self, ranks: int, nodes: int) -> Link:
        """How a group of ``ranks`` devices on ``nodes`` nodes talks."""
        device = self.device
        bandwidth = device.scaleup_bandwidth
        inside = -(-ranks // nodes)
        if device.scaleup_kind == "mesh":
            bandwidth = min(bandwidth, device.p2p_bandwidth * max(1, inside - 1))
        elif device.scaleup_kind == "pairs" and inside > 2:
            bandwidth = device.host_bandwidth
        return Link(
            ranks=ranks,
            nodes=nodes,
            intra_bandwidth=bandwidth,
            inter_bandwidth=self.inter_bandwidth,
            intra_latency_s=INTRA_LATENCY_S[device.scaleup_kind],
            inter_latency_s=INTER_LATENCY_S,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What may be used: pools that differ. A plan lives in one pool."""

    pools: tuple[Pool, ...]


def homogeneous(
    device: str, *, gpus: int | None = None, nodes: int = 1, gpus_per_node: int | None = None
) -> Fleet:
    """A fleet of one pool: ``gpus`` devices on as few nodes as hold them, or ``nodes`` whole nodes.

    Examples
    --------
    >>> pool = homogeneous("h100", gpus=12).pools[0]
    >>> pool.nodes, pool.free
    (2, (8, 4))
    """
    kind = load_device(device)
    per_node = gpus_per_node or kind.devices_per_node
    if gpus is None:
        gpus = nodes * per_node
    if gpus < 1 or per_node < 1:
        raise InputError(f"{gpus} devices, {per_node} per node: both must be at least 1")
    count = -(-gpus // per_node)
    free = tuple(min(per_node, gpus - i * per_node) for i in range(count))
    return Fleet(pools=(_pool(kind, name=kind.name, nodes=count, per_node=per_node, free=free),))


def _pool(
    device: Device, *, name: str, nodes: int, per_node: int, free: tuple[int, ...],
    gbit_s: float | None = None, price: float | None = None,
) -> Pool:  # fmt: skip
    return Pool(
        name=name,
        device=device,
        nodes=nodes,
        devices_per_node=per_node,
        free=free,
        domain=min(device.scaleup_domain, per_node),
        inter_bandwidth=device.nic_bandwidth if gbit_s is None else gbit_s / 8 * 1e9,
        price_usd_per_device_hour=device.price if price is None else price,
    )


_KEYS = {
    "name": str,
    "device": str,
    "nodes": int,
    "devices_per_node": int,
    "free": list,
    "inter_node_gbit_s": (int, float),
    "price_usd_per_device_hour": (int, float),
}


def load_fleet(path: str | Path) -> Fleet:
    """The fleet that a YAML file describes.

    Raises
    ------
    InputError
        One line: file, line where known, key, value, what was expected.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{path}:{line} not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("pools"), list) or not content["pools"]:
        raise InputError(f"{path}: expected a list named 'pools'")
    for key in content:
        if key != "pools":
            raise InputError(f"{path}: unknown key {key!r}, {nearest(str(key), ['pools'])}")
    pools = tuple(_read_pool(f"{path}: pools[{i}]", entry) for i, entry in enumerate(content["pools"]))
    names = [pool.name for pool in pools]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two pools are named {name!r}")
    return Fleet(pools=pools)


def _read_pool(where: str, entry: Any) -> Pool:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected keys and values, got {entry!r}")
    for key, value in entry.items():
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}, {nearest(str(key), _KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise InputError(f"{where}.{key}: {value!r} is not {_words(_KEYS[key])}")
        if isinstance(value, (int, float)) and value <= 0:
            raise InputError(f"{where}.{key}: {value!r} must be above 0")
    if "device" not in entry:
        raise InputError(f"{where}: 'device' is missing")
    try:
        device = load_device(entry["device"])
    except InputError as error:
        raise InputError(f"{where}.device: {error}") from error
    nodes, per_node = entry.get("nodes", 1), entry.get("devices_per_node", device.devices_per_node)
    free = tuple(entry.get("free", [per_node] * nodes))
    if len(free) != nodes or not all(isinstance(f, int) and 0 <= f <= per_node for f in free):
        raise InputError(
            f"{where}.free: {list(free)!r} must list 0 to {per_node} devices for each of {nodes} nodes"
        )
    return _pool(
        device,
        name=entry.get("name", device.name),
        nodes=nodes,
        per_node=per_node,
        free=free,
        gbit_s=entry.get("inter_node_gbit_s"),
        price=entry.get("price_usd_per_device_hour"),
    )


def _words(kind: Any) -> str:
    return {str: "a word", int: "a whole number", list: "a list"}.get(kind, "a number")
