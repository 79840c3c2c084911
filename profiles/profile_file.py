"""Constants of one's own servers: the YAML file that ``zenith calibrate`` writes and ``--profile`` reads.

engine: vllm-v0                       # whose constants count where none is given here
constants:
  iteration_s: {value: 0.0046}        # names, units and ranges: profiles.engine.CONSTANTS
holds_mixing: false                   # whether they stand for mixed batches (profiles.engine.EngineProfile); else
                                      # as the engine's, unless iteration_s or prefill_s is given
residuals:                            # signed, of runs left out of the fit (profiles.engine.Residual)
  itl: {low: -0.03, high: 0.05}
errors: ...                           # for people, like fitted_on, method and what else a constant holds
"""

import math
from pathlib import Path
from typing import Any

from profiles.engine import CONSTANTS, EngineProfile, Residual, engines, load_engine
from profiles.errors import InputError, nearest

KEYS = ("engine", "constants", "holds_mixing", "method", "fitted_on", "errors", "residuals")
RESIDUALS = ("ttft", "itl", "tpot", "e2e")
CONSTANT_KEYS = ("value", "unit", "range", "interval_95", "source")


def read_profile(path: Path) -> EngineProfile:
    """The engine profile of a file.

    Raises
    ------
    InputError
        One line: file, line, key, value, what was expected.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path}: nested too deeply, expected the keys engine and constants") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{path}:{line} not YAML: {problem}") from error
    if not isinstance(content, dict) or "engine" not in content:
        raise InputError(f"{path}: no profile: expected the keys engine and constants")
    top = _keys(path, tree, KEYS)
    name = content["engine"]
    if name not in engines():
        raise InputError(f"{path}:{_line(top['engine'])}: engine: {name!r}: {nearest(str(name), engines())}")
    given = content.get("constants", {})
    if not isinstance(given, dict):
        raise InputError(f"{path}:{_line(top['constants'])}: constants: expected names, each with a value")
    nodes = _keys(path, top["constants"], tuple(CONSTANTS)) if given else {}
    values = {key: _value(path, key, nodes[key], entry) for key, entry in given.items()}
    residuals = _residuals(path, top.get("residuals"), content.get("residuals", {}))
    base = load_engine(name)
    mixing = content.get("holds_mixing", base.holds_mixing and not {"iteration_s", "prefill_s"} & set(values))
    if type(mixing) is not bool:
        where = _line(top["holds_mixing"])
        raise InputError(f"{path}:{where}: holds_mixing: {mixing!r}: expected true or false")
    constants = {key: values.get(key, getattr(base, key)) for key in CONSTANTS}
    return EngineProfile(
        name=str(path), base=name, source="zenith calibrate", error=f"see {path}", holds_mixing=mixing,
        worst={**base.worst, **_worst(content.get("errors"))}, **constants,
        residuals=residuals or base.residuals,
        residuals_of=f"runs left out of the fit of {path}" if residuals else base.residuals_of,
    )  # fmt: skip


def _worst(errors: Any) -> dict[str, float]:
    """Of each metric on runs left out of the fit; what is not as ``zenith calibrate`` writes it is not there."""
    left_out = errors.get("left_out") if isinstance(errors, dict) else None
    metrics = left_out if isinstance(left_out, dict) else {}
    found: dict[str, Any] = {
        str(name): error.get("worst_abs_error") for name, error in metrics.items() if isinstance(error, dict)
    }
    return {name: float(x) for name, x in found.items() if type(x) in (int, float) and 0 <= x < math.inf}


def _residuals(path: Path, node: Any, given: Any) -> dict[str, Residual]:
    """By metric."""
    if given == {}:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{path}:{_line(node)}: residuals: expected metrics, each with low and high")
    found = {}
    for name, each in _keys(path, node, RESIDUALS).items():
        entry = given[name]
        where = f"{path}:{_line(each)}: residuals of {name}"
        if not isinstance(entry, dict) or set(_keys(path, each, ("low", "high"))) != {"low", "high"}:
            raise InputError(f"{where}: {entry!r}: expected {{low: NUMBER, high: NUMBER}}")
        ends = [entry["low"], entry["high"]]
        if not all(type(end) in (int, float) for end in ends) or not -1 < ends[0] <= ends[1] < math.inf:
            raise InputError(f"{where}: {ends[0]!r} to {ends[1]!r}: expected numbers above -1, low first")
        found[name] = Residual(low=float(ends[0]), high=float(ends[1]))
    return found


def _keys(path: Path, node: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Value nodes by key; one that is unknown or there twice is an error."""
    found: dict[str, Any] = {}
    for key, value in node.value:
        where = f"{path}:{_line(key)}"
        if key.value not in known:
            raise InputError(f"{where}: unknown key {key.value!r}, {nearest(str(key.value), known)}")
        if key.value in found:
            raise InputError(f"{where}: key {key.value!r} is there twice")
        found[key.value] = value
    return found


def _value(path: Path, name: str, node: Any, entry: Any) -> float:
    constant = CONSTANTS[name]
    need = f"expected a number from {constant.low:g} to {constant.high:g} ({constant.unit})"
    if not isinstance(entry, dict) or "value" not in entry:
        raise InputError(f"{path}:{_line(node)}: {name}: {entry!r}: expected {{value: NUMBER}}")
    line, value = _line(_keys(path, node, CONSTANT_KEYS)["value"]), entry["value"]
    number = float(value) if type(value) in (int, float) else math.nan
    if not constant.low <= number <= constant.high:
        raise InputError(f"{path}:{line}: {name}: value {value!r}: {need}")
    return number


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
