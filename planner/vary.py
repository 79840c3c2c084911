"""Axes along which a question is varied: ``--vary gpus=4,8`` in, questions out.

====================  ==================================================  ==========================
axis                  varies                                              values
====================  ==================================================  ==========================
model, device         what is served, on what                             names
gpus, nodes           how many devices, or whole nodes                    whole numbers
rate                  arrivals; lengths and their order stay              ``x0.5`` times, or ``4/s``
objective, engine     as the options of these names                       as there
slo.METRIC_STATISTIC  the limit, as in ``slo.tpot_p95``                   ``30ms``, or ``none``
max_gpus,             limits on a plan                                    ``4``, ``12USD/h``, or
max_cost_per_hour                                                         ``none``
tp, pp, weights, ...  the axes of ``--fix`` (``planner.axes``)            as there
====================  ==================================================  ==========================
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from planner import units
from planner.axes import AXES as PLAN_AXES
from planner.axes import parse_pairs, spellings
from planner.document import dotted
from planner.file_keys import KEYS
from planner.objective import OBJECTIVES
from planner.printable import printable
from planner.question import Question
from planner.slo import LATENCIES, METRICS, POWER, Slo, parse_slo
from planner.units import read_scaling
from profiles.errors import InputError, nearest

if TYPE_CHECKING:
    from profiles.fleet import Fleet
    from traces.trace import Trace

SLO = "slo."
LIMITS = {"max_gpus": "max_gpus", "max_cost_per_hour": "max_usd_per_hour"}
"""Axes that limit a plan, and their fields of the question."""

WIDE = ("model", "device", "gpus", "nodes", "rate", "objective", "engine", *LIMITS)
"""Axes that no plan has."""

_OPTIONS = {"model": "model_name", "rate": "trace_rate"}
"""Options that say what an axis varies, where they have other names."""

_SLO_AXES = (
    *(f"{SLO}{metric}_{statistic}" for metric in LATENCIES for statistic in ("mean", "p95", "p99")),
    f"{SLO}{POWER}_mean",
)
_NAMES = (*WIDE, *PLAN_AXES)
_SLO_NAME = re.compile(rf"slo\.({'|'.join(METRICS)})_(mean|p[0-9.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis and the values that it takes, in the user's words; each value once."""

    name: str
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """Read ``AXIS=VALUE,VALUE,...``.

    Raises
    ------
    InputError
        When the axis is unknown, or a value is not one it can have.

    Examples
    --------
    >>> parse_axis("gpus=4,8")
    Axis(name='gpus', values=('4', '8'))
    >>> parse_axis("slo.tpot_p95=20ms, 30ms").values
    ('20ms', '30ms')
    """
    name, equals, rest = text.partition("=")
    name = name.strip()
    values = tuple(dict.fromkeys(value.strip() for value in rest.split(",")))
    if name not in _NAMES and not _SLO_NAME.fullmatch(name):
        choices = _SLO_AXES if name.partition(".")[0] in ("slo", *METRICS) else (*_NAMES, *_SLO_AXES)
        power = name.replace("-", "_") == "max_power"  # a limit on the mean, as any other
        hint = f"did you mean '{SLO}{POWER}_mean'?" if power else nearest(name, choices)
        raise InputError(f"--vary {text}: unknown axis {name!r}, {hint}")
    if not equals or not all(values):
        raise InputError(f"--vary {text}: expected AXIS=VALUE,VALUE, as in gpus=4,8")
    axis = Axis(name=name, values=values)
    for value in values:
        try:
            _check(name, value)
        except InputError as error:
            raise InputError(f"--vary {name}={value}: {error}") from None
    return axis


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Read every ``--vary``; no axis comes twice, and none contradicts another."""
    axes = tuple(parse_axis(text) for text in texts)
    names = [spellings(axis.name)[0] for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--vary {name}: given twice, list all its values in one")
    if {"gpus", "nodes"} <= set(names):
        raise InputError("--vary gpus counts devices, --vary nodes whole nodes: give one of them")
    return axes


def combinations(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every combination, the last axis fastest.

    Examples
    --------
    >>> combinations([parse_axis("gpus=1,2"), parse_axis("rate=x1,x2")])[1]
    {'gpus': '1', 'rate': 'x2'}
    """
    names = [axis.name for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in product(*(axis.values for axis in axes))]


def words(name: str, value: str) -> str:
    """One value of an axis, short.

    Examples
    --------
    >>> words("slo.tpot_p95", "20ms"), words("rate", "x2"), words("device", "h200"), words("tp", "2")
    ('tpot_p95<=20ms', 'rate x2', 'h200', 'tp=2')
    """
    if name.startswith(SLO):
        return f"no {name[len(SLO) :]}" if value == "none" else f"{name[len(SLO) :]}<={value}"
    if name in LIMITS:
        return f"no {name}" if value == "none" else f"{name}={value}"
    if name == "rate":
        return f"rate {value}"
    return value if name in ("device", "model", "objective") else f"{name}={value}"


def sets(values: Mapping[str, str], rate: tuple[str, float] | None = None) -> list[str]:
    """Keys and values of ``--set`` that ask a question file the same.

    Parameters
    ----------
    rate
        At which the file plays its workload, as ``units.read_scaling`` has it: a factor varied is one of that.

    Examples
    --------
    >>> sets({"device": "h200", "rate": "x2", "slo.tpot_p95": "20ms", "tp": "2", "max_gpus": "none"})
    ['fleet.device=h200', 'workload.rate=x2', 'slos.tpot_p95=20ms', 'constraints.fix.tp=2', 'constraints.max_gpus=null']
    >>> sets({"rate": "x4"}, ("times", 2.0)), sets({"rate": "x4"}, ("rate", 2.0)), sets({"rate": "3/s"}, ("rate", 2.0))
    (['workload.rate=x8'], ['workload.rate=8/s'], ['workload.rate=3/s'])
    """
    found = []
    for name, value in values.items():
        if name.startswith(SLO):
            key = f"slos.{name[len(SLO) :]}"
        else:
            option = _OPTIONS.get(name, name)
            key = dotted(KEYS[option].key) if name in WIDE else f"constraints.fix.{name}"
        if name == "rate" and rate:
            value = _product(value, rate)
        lifted = value == "none" and (name in LIMITS or name.startswith(SLO))
        found.append(f"{key}={'null' if lifted else value}")
        if lifted and name == f"{SLO}{POWER}_mean":  # a file may limit it by either key
            found.append(f"{dotted(KEYS['max_power'].key)}=null")
    return found


def _product(value: str, rate: tuple[str, float]) -> str:
    """A factor of a rate as what comes of both."""
    (kind, times), (own, base) = read_scaling(value), rate
    if kind == "rate":
        return value
    return f"x{base * times:.12g}" if own == "times" else f"{base * times:.12g}/s"


def _check(name: str, value: str) -> None:
    """Raise InputError where an axis cannot have the value."""
    if name == "model":
        from profiles.huggingface import load_model

        load_model(value)
    elif name == "device":
        from profiles.device import load_device

        load_device(value)
    elif name == "engine":
        from profiles.engine import load_engine

        load_engine(value)
    elif name == "objective":
        if value not in OBJECTIVES:
            raise InputError(f"unknown objective, {nearest(value, OBJECTIVES)}")
    elif name in LIMITS:
        _limit(name, value)
    elif name in ("gpus", "nodes"):
        if not value.isascii() or not value.isdecimal() or int(value) < 1:
            raise InputError("expected a whole number, at least 1")
    elif name == "rate":
        _scaler(value)
    elif name.startswith(SLO):
        _slo(name, value)
    else:
        parse_pairs(f"{name}={value}")


def _slo(name: str, value: str) -> Slo:
    """The SLO of an axis; of ``none`` the limit is any."""
    own = name[len(SLO) :]
    some = "1W" if own.startswith(POWER) else "1s"
    return parse_slo(f"{own}<={some if value == 'none' else value}")


def _limit(name: str, value: str) -> float | int | None:
    """The limit of an axis, None for ``none``."""
    if value == "none":
        return None
    if name == "max_gpus":
        _check("gpus", value)
        return int(value)
    return units.read(value, units.PRICE)


def _scaler(value: str) -> Callable[["Trace"], "Trace"]:
    """What a rate does to a trace."""
    from traces.transform import at_rate, scale_rate

    kind, given = read_scaling(value)
    return lambda trace: (at_rate if kind == "rate" else scale_rate)(trace, given)


def apply(question: Question, values: Mapping[str, str]) -> Question:
    """The question with an axis at each of these values.

    Raises
    ------
    InputError
        When a value is not one its axis can have, or the question contradicts itself with it.
    """
    changes: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    slos = {(slo.metric, slo.percentile): slo for slo in question.slos}
    for name, value in values.items():
        _check(name, value)
        if name == "model":
            from profiles.huggingface import load_model

            model = load_model(value)
            changes["model"] = replace(model, name=printable(model.name))
        elif name == "rate":
            trace = _scaler(value)(question.trace)
            changes["trace"] = trace if value == "x1" else replace(trace, name=f"{trace.name} {value}")
        elif name in ("objective", "engine"):
            changes[name] = value
        elif name in LIMITS:
            changes[LIMITS[name]] = _limit(name, value)
        elif name.startswith(SLO):
            slo = _slo(name, value)
            slos.pop((slo.metric, slo.percentile), None)
            if value != "none":
                slos[slo.metric, slo.percentile] = slo
        elif name not in WIDE:
            fixed |= dict(parse_pairs(f"{name}={value}"))
    if {"device", "gpus", "nodes"} & values.keys():
        changes["fleet"] = _fleet(question.fleet, values)
    return replace(question, **changes, slos=tuple(slos.values()), fix={**question.fix, **fixed})


def _fleet(fleet: "Fleet", values: Mapping[str, str]) -> "Fleet":
    """The same kind of fleet with another device, or more or fewer of them."""
    from profiles.fleet import homogeneous

    pool = fleet.pools[0]
    if fleet != homogeneous(pool.device.name, gpus=pool.devices, gpus_per_node=pool.devices_per_node):
        raise InputError("--vary device, gpus and nodes: expected a fleet of --device, not one of pools")
    usual = pool.devices_per_node == pool.device.devices_per_node
    return homogeneous(
        values.get("device", pool.device.name),
        gpus=None if "nodes" in values else int(values.get("gpus", pool.devices)),
        nodes=int(values.get("nodes", 1)),
        gpus_per_node=None if usual else pool.devices_per_node,
    )


def first_options(options: Mapping[str, Any], axes: Sequence[Axis]) -> dict[str, Any]:
    """Options of a command with every axis that is one of them at its first value: the question to vary.

    Examples
    --------
    >>> asked = {"device": None, "gpus": None, "nodes": 2, "slos": ()}
    >>> first_options(asked, [parse_axis("gpus=4,8"), parse_axis("slo.ttft_p95=1s,2s")])
    {'device': None, 'gpus': 4, 'nodes': None, 'slos': ('ttft_p95<=1s',)}
    """
    chosen = dict(options)
    if "places" in options:
        said = {_OPTIONS.get(axis.name, axis.name): f"--vary {axis.name}={axis.values[0]}" for axis in axes}
        chosen["places"] = replace(options["places"], flags={**options["places"].flags, **said})
    for axis in axes:
        value = axis.values[0]
        if axis.name in ("gpus", "nodes"):
            chosen |= {"gpus": None, "nodes": None, axis.name: int(value)}
        elif axis.name in ("device", "objective", "engine"):
            chosen[axis.name] = value
        elif axis.name == "model":
            chosen["model_name"] = value
        elif axis.name.startswith(SLO):
            own = axis.name[len(SLO) :]
            name = _slo(axis.name, value).name
            others = tuple(text for text in chosen["slos"] if parse_slo(text).name != name)
            chosen["slos"] = others if value == "none" else (*others, f"{own}<={value}")
    return chosen
