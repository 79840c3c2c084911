"""The planner: question, space, bounds, verification, ranking, report.

The names of ``__all__`` are the Python interface (docs/api.md). Each is imported when it is first asked for, so
that ``import planner`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from planner.api import (
        Simulation,
        bound,
        find_capacity,
        find_minimum,
        find_sensitivity,
        plan_named,
        simulate,
        what_if,
    )
    from planner.bound_report import BoundReport
    from planner.cache import Cache
    from planner.capacity import Capacity
    from planner.errors import NoFeasiblePlan, NoPlanInTime
    from planner.minimum import Minimum
    from planner.pipeline import Answer, optimize
    from planner.question import Question
    from planner.question_file import load_limits, load_question
    from planner.ranking import PlanResult
    from planner.sensitivity import Sensitivity
    from planner.slo import Slo, parse_slo
    from planner.store import Store
    from planner.whatif import Scenario, Sweep
    from profiles.device import Device, load_device
    from profiles.errors import InputError, ZenithError
    from profiles.fleet import Fleet, Pool, homogeneous, load_fleet
    from profiles.huggingface import load_model
    from profiles.model import Model
    from profiles.plan import Plan
    from traces.read import read_trace
    from traces.synth import synthesize
    from traces.trace import Trace

_HOMES = {
    "planner.api": (
        "Simulation", "bound", "find_capacity", "find_minimum", "find_sensitivity", "plan_named", "simulate",
        "what_if",
    ),
    "planner.bound_report": ("BoundReport",),
    "planner.cache": ("Cache",),
    "planner.capacity": ("Capacity",),
    "planner.errors": ("NoFeasiblePlan", "NoPlanInTime"),
    "planner.minimum": ("Minimum",),
    "planner.pipeline": ("Answer", "optimize"),
    "planner.question": ("Question",),
    "planner.question_file": ("load_limits", "load_question"),
    "planner.ranking": ("PlanResult",),
    "planner.sensitivity": ("Sensitivity",),
    "planner.slo": ("Slo", "parse_slo"),
    "planner.store": ("Store",),
    "planner.whatif": ("Scenario", "Sweep"),
    "profiles.device": ("Device", "load_device"),
    "profiles.errors": ("InputError", "ZenithError"),
    "profiles.fleet": ("Fleet", "Pool", "homogeneous", "load_fleet"),
    "profiles.huggingface": ("load_model",),
    "profiles.model": ("Model",),
    "profiles.plan": ("Plan",),
    "traces.read": ("read_trace",),
    "traces.synth": ("synthesize",),
    "traces.trace": ("Trace",),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer", "BoundReport", "Cache", "Capacity", "Device", "Fleet", "InputError", "Minimum", "Model", "NoFeasiblePlan",
    "NoPlanInTime", "Plan", "PlanResult", "Pool", "Question", "Scenario", "Sensitivity", "Simulation", "Slo", "Store",
    "Sweep", "Trace", "ZenithError", "bound", "find_capacity", "find_minimum", "find_sensitivity", "homogeneous",
    "load_device", "load_fleet", "load_limits", "load_model", "load_question", "optimize", "parse_slo", "plan_named",
    "read_trace", "simulate", "synthesize", "what_if",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
