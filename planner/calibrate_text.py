"""A calibration for people, and as the file that ``--profile`` takes."""

import json
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import Any

from planner.calibrate import Calibration, short
from planner.fidelity import ErrorSummary
from planner.measured import METRICS
from planner.printable import printable
from profiles.engine import CONSTANTS

METHOD = (
    "pseudo-Huber least squares of log(predicted / measured) of mean TTFT, ITL and E2E per run, knee 5 %; "
    "interval_95: widest of residuals independent, or alike within a width, or within a traffic "
    "(cluster-robust, Student's t)"
)


def content(calibration: Calibration) -> dict[str, Any]:
    """The profile as it is written (``profiles.profile_file``). Errors are shares: 0.05 is 5 %."""
    constants: dict[str, Any] = {}
    base = Path(calibration.base.name).name
    for name, constant in calibration.constants.items():
        limits = CONSTANTS[name]
        entry: dict[str, Any] = {
            "value": constant.value,
            "unit": limits.unit,
            "range": [limits.low, limits.high],
        }
        if constant.half_width is None:
            entry["source"] = f"{base}, not fitted: {constant.reason}"
        else:
            ends = constant.value - constant.half_width, constant.value + constant.half_width
            entry["interval_95"] = [short(max(limits.low, ends[0])), short(min(limits.high, ends[1]))]
            entry["source"] = "fitted"
        constants[name] = entry
    return {
        "engine": calibration.base.base or calibration.base.name,
        "constants": constants,
        "holds_mixing": calibration.base.holds_mixing,
        "method": METHOD,
        "fitted_on": dict(calibration.fitted_on),
        "errors": {
            name: {metric: _rounded(each) for metric, each in part.items()}
            for name, part in calibration.errors.items()
        },
        "residuals": {name: asdict(each) for name, each in calibration.residuals.items()},
    }


def _rounded(part: ErrorSummary) -> dict[str, Any]:
    return {
        key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(part).items()
    }


def to_yaml(calibration: Calibration) -> str:
    """The file, the same bytes for the same runs."""
    import yaml

    head = "# Constants of a serving engine, fitted by zenith calibrate; --profile takes this file.\n"
    return head + str(yaml.safe_dump(content(calibration), sort_keys=False, width=110))


def to_json(calibration: Calibration) -> str:
    """The file's content."""
    return json.dumps(content(calibration), indent=2, allow_nan=False)


def to_text(calibration: Calibration) -> str:
    """A line per constant: its interval, or why it was not fitted; a line per error, in %."""
    written = content(calibration)
    lines = [f"{'constant':<17}{'value':>9}  95 % interval"]
    for name, entry in written["constants"].items():
        says = printable(entry["source"])
        if "interval_95" in entry:
            says = "{:.3g} to {:.3g}".format(*entry["interval_95"])
        lines += wrap(f"{name:<17}{entry['value']:>9.3g}  {says}", 80, subsequent_indent=" " * 28)
    seen, errors = calibration.fitted_on, calibration.errors
    metrics = [name for name in METRICS if any(name in part for part in errors.values())]
    lines += ["", f"{'error in %':<28}{'runs':>4}" + "".join(f"{name.upper():>12}" for name in metrics)]
    for name, part in errors.items():
        runs = max(each.runs for each in part.values())
        cells = (
            f"{100 * part[m].median_abs_error:>6.1f}{100 * part[m].worst_abs_error:>6.1f}"
            if m in part
            else ""
            for m in metrics
        )
        row = f"{printable(_WORDS.get(name, name))[:28]:<28}{runs:>4}" + "".join(f"{c:>12}" for c in cells)
        lines.append(row.rstrip())
    lines += ["each: median absolute, worst absolute", ""]
    lines.append(f"fitted on {seen['runs']} runs with {seen['requests']} requests")
    return "\n".join(lines)


_WORDS = {"not_fitted": "runs that were not fitted", "left_out": "all that were left out once"}
