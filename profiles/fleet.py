"""Fleets: pools of alike nodes, from a small YAML file or from flags.

pools:
  - name: leftovers
    device: h100-sxm-80gb
    nodes: 2
    devices_per_node: 8               # default: of the usual server
    free: [8, 3]                      # free devices of each node, default: all
    inter_node_gbit_s: 400            # of one device, default: its usual network adapter
    inter_node_latency_us: 5          # of one step between nodes
    price_usd_per_device_hour: 2.5    # default: middle of the offers found
    power_cap_w: 600                  # of one device, default: as shipped
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.device import Device, load_device
from profiles.errors import InputError, nearest
from profiles.ops import Link

INTRA_LATENCY_S = {"switch": 0.8e-6, "mesh": 0.8e-6, "pairs": 1.3e-6, "pcie": 1.3e-6}
"""Of one step of a collective inside a node: what reproduces NCCL on 2, 4, 8 H100 (NVLink) and RTX PRO 6000
(PCIe) in aiconfigurator-core with the step counts of ``profiles.collectives``."""

MOST_DEVICES = 10_000
"""Of one pool. Plans are enumerated one by one, and their number grows with the devices."""

INTER_LATENCY_S = 5e-6
"""Of one step between nodes: NCCL's own figure for a network (src/graph/tuning.cc: 5.0 us, tree, LL)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Alike nodes of one kind of device.

    Parameters
    ----------
    name
        Unique in its fleet.
    device
        What the nodes hold.
    nodes, devices_per_node
        >= 1.
    free
        Devices of each node that may be used, 0 to ``devices_per_node``.
    domain
        Devices that reach each other without a network: those of a node, or fewer where its scale-up
        fabric joins fewer, or more where the fabric spans nodes (72 for NVL72).
    inter_bandwidth, inter_latency_s
        Of one device to another node: bytes per second in one direction, seconds per step.
    price_usd_per_device_hour
        None where no price is known.
    power_cap_w
        Board power limit of one device, None as shipped.

    Raises
    ------
    ValueError
        When a number is out of range.
    """

    name: str
    device: Device
    nodes: int
    devices_per_node: int
    free: tuple[int, ...]
    domain: int
    inter_bandwidth: float
    inter_latency_s: float = INTER_LATENCY_S
    price_usd_per_device_hour: float | None = None
    power_cap_w: float | None = None

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.devices_per_node < 1 or self.domain < 1:
            raise ValueError("A pool needs at least one node and one device per node.")
        if len(self.free) != self.nodes or not all(0 <= f <= self.devices_per_node for f in self.free):
            raise ValueError("free must list 0 to devices_per_node devices for every node.")
        if self.inter_bandwidth <= 0 or self.inter_latency_s < 0:
            raise ValueError("inter_bandwidth must be positive, inter_latency_s not negative.")
        cap = self.power_cap_w
        if cap is not None and not self.device.idle_w < cap <= self.device.tdp_w:
            raise ValueError(
                f"power cap {cap:g} W must be above {self.device.idle_w:g} W and at most {self.device.tdp_w:g} W."
            )

    @property
    def devices(self) -> int:
        """Devices that may be used."""
        return sum(self.free)

    def link(self, ranks: int, nodes: int) -> Link:
        """How ``ranks`` devices spread evenly over ``nodes`` nodes reach each other.

        A fabric that spans nodes makes its nodes one. Inside, the rate of one device is: of a switch, full;
        of a mesh, its links to the other members; of bridged pairs, the bridge for two and PCIe beyond;
        of PCIe, one link's for two and beyond that what several share at the root.

        Examples
        --------
        >>> homogeneous("h100", nodes=2).pools[0].link(16, 2).nodes
        2
        >>> homogeneous("gb200", nodes=18).pools[0].link(16, 4).nodes
        1
        >>> homogeneous("mi300x").pools[0].link(2, 1).intra_bandwidth / 1e9
        64.0
        """
        device = self.device
        if ranks < 1 or not 1 <= nodes <= ranks:
            raise ValueError("A group needs at least one rank on every node.")
        if self.domain > self.devices_per_node:
            nodes = -(-nodes * self.devices_per_node // self.domain)
        inside = -(-ranks // nodes)
        bandwidth = device.scaleup_bandwidth
        if device.scaleup_kind == "mesh":
            bandwidth = min(bandwidth, device.p2p_bandwidth * max(1, inside - 1))
        elif device.scaleup_kind == "pcie" and inside <= 2:
            bandwidth = device.p2p_bandwidth
        elif device.scaleup_kind == "pairs" and inside > 2:
            bandwidth = device.host_bandwidth
        return Link(
            ranks=ranks,
            nodes=nodes,
            intra_bandwidth=bandwidth,
            inter_bandwidth=self.inter_bandwidth,
            intra_latency_s=INTRA_LATENCY_S[device.scaleup_kind],
            inter_latency_s=self.inter_latency_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What may be used: pools that differ. A plan lives in one pool."""

    pools: tuple[Pool, ...]

    def __post_init__(self) -> None:
        names = [pool.name for pool in self.pools]
        if not names or len(set(names)) < len(names):
            raise ValueError("A fleet needs at least one pool, and every pool a name of its own.")


def homogeneous(
    device: str, *, gpus: int | None = None, nodes: int = 1, gpus_per_node: int | None = None
) -> Fleet:
    """A fleet of one pool: ``gpus`` devices on as few nodes as hold them, or ``nodes`` whole nodes.

    Examples
    --------
    >>> pool = homogeneous("h100", gpus=12).pools[0]
    >>> pool.nodes, pool.free, pool.domain
    (2, (8, 4), 8)

    Raises
    ------
    InputError
        When the device is unknown or a number is below 1.
    """
    kind = load_device(device)
    per_node = kind.devices_per_node if gpus_per_node is None else gpus_per_node
    gpus = nodes * per_node if gpus is None else gpus
    if gpus < 1 or per_node < 1:
        raise InputError(
            f"{gpus} devices, {per_node} per node: both must be at least 1", about=["gpus", "gpus_per_node"]
        )
    if gpus > MOST_DEVICES:
        raise InputError(
            f"{gpus} devices: expected at most {MOST_DEVICES}", about=["gpus", "nodes", "gpus_per_node"]
        )
    count = -(-gpus // per_node)
    free = tuple(min(per_node, gpus - i * per_node) for i in range(count))
    return Fleet(pools=(_pool(kind, name=kind.name, nodes=count, per_node=per_node, free=free),))


def _pool(
    device: Device, *, name: str, nodes: int, per_node: int, free: tuple[int, ...], **more: float
) -> Pool:
    if device.scaleup_domain > device.devices_per_node:
        domain = device.scaleup_domain
    else:
        fabric = device.scaleup_domain if device.scaleup_kind in ("switch", "mesh") else per_node
        domain = min(per_node, fabric)
    bandwidth = more.get("inter_node_gbit_s")
    return Pool(
        name=name,
        device=device,
        nodes=nodes,
        devices_per_node=per_node,
        free=free,
        domain=domain,
        inter_bandwidth=device.nic_bandwidth if bandwidth is None else bandwidth / 8 * 1e9,
        inter_latency_s=more.get("inter_node_latency_us", INTER_LATENCY_S * 1e6) / 1e6,
        price_usd_per_device_hour=more.get("price_usd_per_device_hour", device.price),
        power_cap_w=more.get("power_cap_w"),
    )


_KEYS = {
    "name": "a name",
    "device": "a device",
    "nodes": "a whole number above 0",
    "devices_per_node": "a whole number above 0",
    "free": "a list of free devices, one number per node",
    "inter_node_gbit_s": "a number above 0, in Gb/s of one device",
    "inter_node_latency_us": "a number above 0, in microseconds",
    "price_usd_per_device_hour": "a number above 0, in dollars per device and hour",
    "power_cap_w": "a number above 0, in watts of one device",
}
"""Keys of a pool, and what each expects."""


def load_fleet(path: str | Path) -> Fleet:
    """The fleet that a YAML file describes, see the module.

    Raises
    ------
    InputError
        One line: file, line, key, value, what was expected.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{mark.line + 1}:" if mark else ""
        raise InputError(f"{path}:{line} not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("pools"), list) or not content["pools"]:
        raise InputError(f"{path}: expected a list of pools under the key 'pools'")
    for key_node, value_node in tree.value:
        if key_node.value != "pools":
            hint = nearest(key_node.value, ["pools"])
            raise InputError(f"{path}:{key_node.start_mark.line + 1}: unknown key {key_node.value!r}, {hint}")
        pools = tuple(
            _read_pool(str(path), node, entry)
            for node, entry in zip(value_node.value, content["pools"], strict=True)
        )
    names = [pool.name for pool in pools]
    for i, name in enumerate(names):
        if name in names[:i]:
            line = value_node.value[i].start_mark.line + 1
            raise InputError(f"{path}:{line}: name: {name!r} is another pool, expected a name of its own")
    return Fleet(pools=pools)


def _read_pool(path: str, node: Any, entry: Any) -> Pool:
    first = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(entry, dict):
        raise InputError(f"{first}: {entry!r} is no pool, expected keys and values")
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.value in lines:
            raise InputError(f"{path}:{line}: key {key_node.value!r} is there twice")
        lines[str(key_node.value)] = line
    return read_pool(entry, lambda key: f"{path}:{lines[str(key)]}: {key}" if str(key) in lines else first)


def read_pool(entry: Mapping[str, Any], where: Callable[[str], str]) -> Pool:
    """The pool that keys and values describe, see the module.

    Parameters
    ----------
    where
        Place and name of a key, for messages; of the pool where it has no such key.

    Raises
    ------
    InputError
        One line: place, key, value, what was expected.
    """
    first = where("")
    for key, value in entry.items():
        if key not in _KEYS:
            raise InputError(f"{where(key)}: unknown key, {nearest(str(key), _KEYS)}")
        if not _fits(key, value):
            raise InputError(f"{where(key)}: {value!r:.80} is not {_KEYS[key]}")
    if "device" not in entry:
        raise InputError(f"{first}: 'device' is missing")
    try:
        device = load_device(entry["device"])
    except InputError as error:
        raise InputError(f"{where('device')}: {error}") from error
    nodes, per_node = entry.get("nodes", 1), entry.get("devices_per_node", device.devices_per_node)
    if nodes * per_node > MOST_DEVICES:
        place = where("nodes" if nodes > 1 else "devices_per_node")
        raise InputError(f"{place}: {nodes * per_node} devices, expected at most {MOST_DEVICES} in a pool")
    free = entry.get("free", [per_node] * nodes)
    if len(free) != nodes or max(free) > per_node:
        need = f"{nodes} number{'s' * (nodes > 1)} from 0 to {per_node}, one for each node"
        raise InputError(f"{where('free')}: {free!r:.80} is not {need}")
    numbers = {key: float(entry[key]) for key in entry if key.startswith(("inter_", "price_", "power_"))}
    try:
        name = entry.get("name", device.name)
        return _pool(device, name=name, nodes=nodes, per_node=per_node, free=tuple(free), **numbers)
    except ValueError as error:  # all else was looked at above
        raise InputError(f"{where('power_cap_w')}: {error}") from error


def _fits(key: str, value: Any) -> bool:
    """Whether a value has the type and range that ``_KEYS`` words."""
    if key in ("name", "device"):
        return isinstance(value, str) and bool(value)
    if key == "free":
        return isinstance(value, list) and bool(value) and all(type(v) is int and v >= 0 for v in value)
    if key in ("nodes", "devices_per_node"):
        return type(value) is int and value > 0
    return type(value) in (int, float) and 0 < value < float("inf")
