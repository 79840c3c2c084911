"""Keys of a question file beside the options of the commands, and what becomes of their values.

``KEYS`` has a key for every option of ``zenith optimize``, and keys that only a file or ``--set`` has: pools, a
synthetic workload, and how the workload is scaled.
"""

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import units
from planner.axes import parse_pairs, read_format
from planner.document import Document, Keys
from planner.slo import parse_slo
from profiles.errors import InputError

Read = Callable[[Document, Keys, Any, Path], dict[str, Any]]
"""(document, key, value, folder of the file) to options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """``read`` makes options of the value; None where the value is that of the option."""

    key: Keys
    read: Read | None = None


def _said(option: str, make: Callable[[Any], Any]) -> Read:
    """One option, of a value that ``make`` reads; its mistakes get the place of the key."""

    def read(document: Document, keys: Keys, value: Any, folder: Path) -> dict[str, Any]:
        try:
            return {option: make(value)}
        except InputError as error:
            raise InputError(f"{document.at(keys)}: {error}") from error

    return read


def _amount(option: str, kind: units.Kind) -> Read:
    return _said(option, lambda value: units.read(str(value), kind))


def _amounts(option: str, kind: units.Kind) -> Read:
    one = _said(option, lambda value: units.read_whole(str(value), kind))

    def read(document: Document, keys: Keys, values: Any, folder: Path) -> dict[str, Any]:
        found = (one(document, (*keys, i), value, folder) for i, value in enumerate(values))
        return {option: tuple(each[option] for each in found)}

    return read


def _share(option: str, *, whole: bool) -> Read:
    """A share below 1, or with ``whole`` in (0, 1]."""

    def make(value: Any) -> float:
        share = units.read(str(value), units.SHARE)
        if not (0 < share <= 1 if whole else 0 <= share < 1):
            raise InputError(f"{value!r}: expected a share {'above 0 and at most' if whole else 'below'} 1")
        return share

    return _said(option, make)


def _device(name: str) -> str:
    from profiles.device import load_device

    load_device(name)
    return name


def _engine(name: str) -> str:
    from profiles.engine import load_engine

    load_engine(name)
    return name


def _model(document: Document, keys: Keys, value: Any, folder: Path) -> dict[str, Any]:
    from profiles.huggingface import load_model

    own = folder / value
    name = str(own) if os.path.exists(own) else value
    try:
        load_model(name)
    except InputError as error:
        raise InputError(f"{document.at(keys)}: {error}") from error
    return {"model_name": name}


def _input(option: str, *, directory: bool = False) -> Read:
    """A file, or a folder, that exists."""

    def read(document: Document, keys: Keys, value: Any, folder: Path) -> dict[str, Any]:
        path = folder / value
        if not (os.path.isdir(path) if directory else os.path.isfile(path)):
            what = "folder" if directory else "file"
            raise InputError(f"{document.at(keys)}: {value!r}: there is no such {what} as {str(path)!r}")
        return {option: path}

    return read


def _output(option: str) -> Read:
    """A file to write; its folder is looked for before any work is done."""

    def read(document: Document, keys: Keys, value: Any, folder: Path) -> dict[str, Any]:
        path = folder / value
        if not os.path.isdir(path.parent) or os.path.isdir(path):
            words = "it is a folder" if os.path.isdir(path) else f"there is no folder {str(path.parent)!r}"
            raise InputError(f"{document.at(keys)}: {value!r}: {words}")
        return {option: path}

    return read


def _cache(document: Document, keys: Keys, value: str, folder: Path) -> dict[str, Any]:
    return {"cache": folder / value}


def _slos(document: Document, keys: Keys, value: Mapping[str, str], folder: Path) -> dict[str, Any]:
    texts = []
    for name, limit in value.items():
        try:
            texts.append(parse_slo(f"{name}<={limit}").text)
        except InputError as error:
            raise InputError(f"{document.at((*keys, name))}: {error}") from error
    return {"slos": tuple(texts)}


def _formats(document: Document, keys: Keys, value: Mapping[str, list[str]], folder: Path) -> dict[str, Any]:
    parts = []
    one = _said("format", read_format)
    for name, formats in value.items():
        found = (one(document, (*keys, name, i), word, folder) for i, word in enumerate(formats))
        parts.append(f"{name}={'|'.join(each['format'] for each in found)}")
    return {"formats": ",".join(parts)}


def _axes(document: Document, keys: Keys, value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Axes as ``--fix`` and ``--forbid`` have them."""
    pairs = []
    for axis, values in value.items():
        for each in values if isinstance(values, list) else [values]:
            try:
                if len(parse_pairs(f"{axis}={each}")) > 1:
                    raise InputError(f"{each!r}: expected one value of the axis")
            except InputError as error:
                raise InputError(f"{document.at((*keys, axis))}: {error}") from error
            pairs.append(f"{axis}={each}")
    return {str(keys[-1]): ",".join(pairs)}


def _window(value: str) -> tuple[float, float]:
    return units.read_window(value)


def _synthetic(document: Document, keys: Keys, value: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    kinds = {"rate": units.RATE}
    kinds |= dict.fromkeys(("prompt_mean", "prompt_sd", "output_mean", "output_sd"), units.TOKENS)
    found: dict[str, Any] = {"requests": 1000, **value}
    for name, kind in kinds.items():
        if name in value:
            found |= _amount(name, kind)(document, (*keys, name), value[name], folder)
    if "lengths_of" in value:
        found |= _input("lengths_of")(document, (*keys, "lengths_of"), value["lengths_of"], folder)
    return {"synthetic": found}


_WITH_UNITS = {
    "price": ("price_usd_per_device_hour", units.PRICE, 1.0),
    "power_cap": ("power_cap_w", units.POWER, 1.0),
    "inter_node_bandwidth": ("inter_node_gbit_s", units.BANDWIDTH, 1e-9),
    "inter_node_latency": ("inter_node_latency_us", units.TIME, 1e6),
}
"""Keys of a pool with units: the key of ``profiles.fleet``, the kind, and its size in that key's unit."""


def _pools(document: Document, keys: Keys, value: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    return {"pools": tuple(_pool(document, (*keys, i), entry) for i, entry in enumerate(value))}


def _pool(document: Document, keys: Keys, entry: Mapping[str, Any]) -> Any:
    from profiles.device import load_device
    from profiles.fleet import MOST_DEVICES, read_pool

    plain: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in entry.items():
        own = name
        if name in _WITH_UNITS:
            own, kind, scale = _WITH_UNITS[name]
            value = _amount(own, kind)(document, (*keys, name), value, Path())[own] * scale
        if own in plain:
            raise InputError(f"{document.at((*keys, name))}: {written[own]} says the same, keep one of them")
        plain[own], written[own] = value, name
    if gpus := plain.pop("gpus", None):
        if clash := next((name for name in ("nodes", "free") if name in plain), None):
            raise InputError(f"{document.at((*keys, clash))}: gpus is given too, keep one of them")
        if gpus > MOST_DEVICES:
            raise InputError(
                f"{document.at((*keys, 'gpus'))}: {gpus} devices, expected at most {MOST_DEVICES}"
            )
        device = _said("device", lambda name: load_device(name))(
            document, (*keys, "device"), plain["device"], Path()
        )
        each = plain.get("devices_per_node", device["device"].devices_per_node)
        plain["free"] = [min(each, gpus - start) for start in range(0, gpus, each)]
        plain["nodes"] = len(plain["free"])

    def where(name: str) -> str:
        return document.at((*keys, written[name]) if name in written else keys)

    return read_pool(plain, where)


def _form(document: Document, keys: Keys, value: str, folder: Path) -> dict[str, Any]:
    return {"as_json": value == "json", "as_csv": value == "csv"}


def _not(option: str) -> Read:
    return _said(option, lambda value: not value)


KEYS: dict[str, Key] = {
    "model_name": Key(key=("model",), read=_model),
    "device": Key(key=("fleet", "device"), read=_said("device", _device)),
    "gpus": Key(key=("fleet", "gpus")),
    "nodes": Key(key=("fleet", "nodes")),
    "gpus_per_node": Key(key=("fleet", "gpus_per_node")),
    "fleet_file": Key(key=("fleet", "file"), read=_input("fleet_file")),
    "pools": Key(key=("fleet", "pools"), read=_pools),
    "trace_file": Key(key=("workload", "trace"), read=_input("trace_file")),
    "skip_bad_rows": Key(key=("workload", "skip_bad_rows")),
    "synthetic": Key(key=("workload", "synthetic"), read=_synthetic),
    "trace_window": Key(key=("workload", "window"), read=_said("trace_window", _window)),
    "trace_first": Key(key=("workload", "first")),
    "trace_rate": Key(key=("workload", "rate"), read=_said("trace_rate", units.read_scaling)),
    "objective": Key(key=("objective",)),
    "slos": Key(key=("slos",), read=_slos),
    "formats": Key(key=("formats",), read=_formats),
    "max_gpus": Key(key=("constraints", "max_gpus")),
    "max_cost_per_hour": Key(
        key=("constraints", "max_cost_per_hour"), read=_amount("max_cost_per_hour", units.PRICE)
    ),
    "max_power": Key(key=("constraints", "max_power"), read=_amount("max_power", units.POWER)),
    "fix": Key(key=("constraints", "fix"), read=_axes),
    "forbid": Key(key=("constraints", "forbid"), read=_axes),
    "deployable": Key(key=("constraints", "deployable")),
    "deployable_on": Key(key=("constraints", "deployable_on"), read=_said("deployable_on", tuple)),
    "use_all_devices": Key(key=("constraints", "use_all_devices")),
    "cross_node_tensor": Key(key=("constraints", "cross_node_tensor")),
    "engine": Key(key=("engine", "name"), read=_said("engine", _engine)),
    "profile": Key(key=("engine", "profile"), read=_input("profile")),
    "policies": Key(key=("engine", "policies"), read=_said("policies", tuple)),
    "token_budgets": Key(key=("engine", "token_budgets"), read=_amounts("token_budgets", units.TOKENS)),
    "max_seqs": Key(key=("engine", "max_seqs"), read=_said("max_seqs", tuple)),
    "clocks": Key(key=("engine", "clocks"), read=_amounts("clocks", units.CLOCK)),
    "gpu_memory_utilization": Key(
        key=("engine", "gpu_memory_utilization"), read=_share("gpu_memory_utilization", whole=True)
    ),
    "block_size": Key(key=("engine", "block_size")),
    "watermark": Key(key=("engine", "watermark"), read=_share("watermark", whole=False)),
    "preemption": Key(key=("engine", "preemption")),
    "queue": Key(key=("engine", "queue")),
    "routing": Key(key=("engine", "routing")),
    "no_custom_all_reduce": Key(key=("engine", "custom_all_reduce"), read=_not("no_custom_all_reduce")),
    "tables": Key(key=("costs", "tables"), read=_input("tables", directory=True)),
    "no_silicon": Key(key=("costs", "silicon"), read=_not("no_silicon")),
    "max_simulations": Key(key=("search", "max_simulations")),
    "time_limit": Key(key=("search", "time_limit"), read=_amount("time_limit", units.SPAN)),
    "workers": Key(key=("search", "workers")),
    "exhaustive": Key(key=("search", "exhaustive")),
    "cache": Key(key=("search", "cache"), read=_cache),
    "no_cache": Key(key=("search", "use_cache"), read=_not("no_cache")),
    "seed": Key(key=("search", "seed")),
    "as_json": Key(key=("answer", "form"), read=_form),
    "as_csv": Key(key=("answer", "form"), read=_form),
    "output": Key(key=("answer", "output"), read=_output("output")),
    "html": Key(key=("answer", "html"), read=_output("html")),
    "top": Key(key=("answer", "top")),
    "list_all": Key(key=("answer", "all")),
}
"""By the name of the option."""

FILE_ONLY = ("pools", "synthetic", "trace_window", "trace_first", "trace_rate")
"""Of these, those that no flag says."""
