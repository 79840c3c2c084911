"""Fit an engine's constants to measured runs, as far as the runs identify them.

Residuals are log(predicted / measured) of the mean TTFT, ITL (or TPOT) and E2E of every run. All runs count
alike and none has a constant of its own. A constant that the runs do not tell keeps its default, and the
profile says why; the errors that matter are those of runs that the fit did not see.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from planner import __version__
from planner.fidelity import ErrorSummary, RunFidelity, Servers, compare, summary_of
from planner.least_squares import FloatArray, condition, differences, half_widths, robust_fit
from planner.measured import METRICS, Run, model_of
from profiles.engine import CONSTANTS, EngineProfile, Residual, load_engine
from profiles.errors import InputError, nearest

KNEE = 0.05
"""Relative error from which a residual counts linearly: a run that is off by more is no longer noise."""

STEP = {"iteration_s": 4e-4, "sequence_s": 4e-5, "prefill_s": 4e-4}
SCALE_STEP = 0.04
"""Of derivatives: about a percent of an iteration or of a first token."""

IDLE = 0.005
"""A constant whose whole range moves no metric by more than this is not seen by the runs."""

WIDEST = 0.5
"""Share of a constant's range: an interval that spans more leaves open what the range already said."""

COLLINEAR = 10.0
"""Condition number (``least_squares.condition``) from which noise decides between constants: planted ones were
found to 2 % at 8; at 14 a bandwidth 30 % lower took the place of a quarter of the time per iteration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A constant as it stands in the profile. ``half_width`` is None, ``reason`` says why, where it was kept."""

    value: float
    half_width: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was fitted on which runs, and the errors: median and worst by metric.

    Parameters
    ----------
    base
        The constants that the fit started from.
    errors
        ``before`` and ``after`` the fit on the runs that it saw, ``not_fitted`` on the others;
        ``without WIDTH`` or ``without TRAFFIC``: of these runs, predicted by a fit that left them out;
        ``left_out``: all of those together.
    residuals
        By metric, of the runs that were left out; empty where none could be.
    """

    base: EngineProfile
    constants: Mapping[str, Value]
    fitted_on: Mapping[str, Any]
    errors: Mapping[str, Mapping[str, ErrorSummary]]
    residuals: Mapping[str, Residual] = field(default_factory=dict)

    @property
    def fitted(self) -> tuple[str, ...]:
        return tuple(name for name, each in self.constants.items() if each.half_width is not None)


def calibrate(
    runs: Sequence[Run], *, patterns: Sequence[str] = (), model: str | None = None, tables: Path | None = None,
    silicon: bool = True, progress: Callable[[str], None] = lambda text: None,
) -> Calibration:  # fmt: skip
    """Fit on the runs that match a pattern (all without any), judge on the others.

    Parameters
    ----------
    patterns
        Globs of a run's traffic, of a word of it, or of its plan: ``lmsys``, ``creation 0.5/s``, ``8TP``.

    Raises
    ------
    InputError
        When no run matches, runs are of several engines, or a plan does not fit.
    """
    chosen = select(runs, patterns)
    others = [run for run in runs if all(run is not each for each in chosen)]
    engines = sorted({run.engine for run in runs})
    if len(engines) > 1:
        raise InputError(f"runs of {' and '.join(engines)}: a profile has one engine, calibrate them apart")
    options: dict[str, Any] = {"model": model, "tables": tables, "silicon": silicon}
    problem = Problem(counted(load_engine(engines[0]), chosen, Servers(chosen, **options)), options)
    widths = [run.plan(model_of(model or run.model)).replica_devices for run in chosen]
    clusters = {
        "width": [f"{width} device{'s' * (width > 1)}" for width in widths],
        "traffic": [run.group for run in chosen],
    }
    progress(f"fitting {len(CONSTANTS)} constants on {len(chosen)} of {len(runs)} runs")
    constants = fit_constants(problem, chosen, list(clusters.values()), progress)
    fitted = problem.profile(constants)
    free = [name for name, constant in constants.items() if constant.half_width is not None]
    progress(f"fitted: {', '.join(free) or 'nothing'}")
    errors = {"before": problem.errors(chosen, problem.base), "after": problem.errors(chosen, fitted)}
    if others:
        errors["not_fitted"] = problem.errors(others, fitted)
    left: list[RunFidelity] = []
    for names in clusters.values():
        for name in dict.fromkeys(names) if len(set(names)) > 1 and free else ():
            progress(f"fitting without {name}")
            seen, unseen = _split(chosen, [each != name for each in names])
            judged = problem.judged(unseen, problem.refit(seen, free, fitted))
            errors[f"without {name}"] = summary_of(judged)
            left += judged
    if left:
        errors["left_out"] = summary_of(left)
    return Calibration(
        base=problem.base,
        constants=constants,
        fitted_on={
            "runs": len(chosen),
            "requests": sum(len(run.trace) for run in chosen),
            "traffic": list(dict.fromkeys(clusters["traffic"])),
            "plans": list(dict.fromkeys(run.label for run in chosen)),
            "models": sorted({model_of(model or run.model).name for run in chosen}),
            "devices": sorted({run.device for run in chosen}),
            "zenith": __version__,
        },
        errors=errors,
        residuals=residuals_of(left),
    )


def residuals_of(runs: Sequence[RunFidelity]) -> dict[str, Residual]:
    """Quantiles of the signed errors, by metric."""
    found = {}
    for name in METRICS:
        errors = [run.error[name] for run in runs if name in run.error]
        if errors:
            low, high = np.quantile(errors, (0.05, 0.95)).tolist()
            found[name] = Residual(low=short(low), high=short(high))
    return found


def select(runs: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """The runs that match a pattern; each pattern must match one."""
    if not runs:
        raise InputError("no measured run to fit to")
    names = [{run.group, run.label, *run.group.split()} for run in runs]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for each in names for name in each):
            known = sorted(set().union(*names))
            raise InputError(f"--fit {pattern!r}: no run has such traffic or plan, {nearest(pattern, known)}")
    matches = [any(fnmatchcase(name, p) for name in each for p in patterns) for each in names]
    return [run for run, match in zip(runs, matches, strict=True) if match or not patterns]


def _split(runs: Sequence[Run], seen: Sequence[bool]) -> tuple[list[Run], list[Run]]:
    pairs = list(zip(runs, seen, strict=True))
    return [run for run, yes in pairs if yes], [run for run, yes in pairs if not yes]


class Problem:
    """Residuals of runs as a function of constants."""

    def __init__(self, base: EngineProfile, options: Mapping[str, Any]) -> None:
        self.base, self.options = base, options

    def profile(self, constants: Mapping[str, Value]) -> EngineProfile:
        return changed(self.base, {name: constant.value for name, constant in constants.items()})

    def judged(self, runs: Sequence[Run], engine: EngineProfile) -> list[RunFidelity]:
        servers = Servers(runs, engine=engine, **self.options)
        return [compare(run, servers.replay(run)) for run in runs]

    def errors(self, runs: Sequence[Run], engine: EngineProfile) -> dict[str, ErrorSummary]:
        return summary_of(self.judged(runs, engine))

    def residual(
        self, runs: Sequence[Run], names: Sequence[str], at: EngineProfile
    ) -> Callable[[FloatArray], FloatArray]:
        """Of the constants ``names``; the others are those of ``at``."""

        def residual(x: FloatArray) -> FloatArray:
            judged = self.judged(runs, changed(at, dict(zip(names, x.tolist(), strict=True))))
            return np.array(
                [np.log1p(run.error[name]) for run in judged for name in fitted_metrics(run.error)]
            )

        return residual

    def refit(self, runs: Sequence[Run], names: Sequence[str], start: EngineProfile) -> EngineProfile:
        """``names`` fitted to these runs."""
        residual = self.residual(runs, names, start)
        fit = robust_fit(residual, *_box(names, start), knee=KNEE, step=_steps(names), passes=(1.0,))
        return changed(start, dict(zip(names, fit.x.tolist(), strict=True)))


def counted(engine: EngineProfile, runs: Sequence[Run], servers: Servers) -> EngineProfile:
    """What counts of the constants: those that stand for mixed batches are 0 where all operations know these."""
    if not engine.holds_mixing or any(servers.step(run).mixed_value_ps is None for run in runs):
        return engine
    name, base = f"{engine.name} but mixed batches", engine.base or engine.name
    return replace(engine, name=name, base=base, iteration_s=0.0, prefill_s=0.0, holds_mixing=False)


def changed(engine: EngineProfile, constants: Mapping[str, float]) -> EngineProfile:
    """The engine with these constants."""
    values: dict[str, Any] = dict(constants)
    return replace(engine, **values)


def fitted_metrics(measured: Mapping[str, float]) -> list[str]:
    """TPOT tells nothing beside ITL, of which it is another mean."""
    return [name for name in measured if name != "tpot" or "itl" not in measured]


def fit_constants(
    problem: Problem, runs: Sequence[Run], clusters: Sequence[Sequence[str]], progress: Callable[[str], None]
) -> dict[str, Value]:
    """Fit, refuse the constant that the runs tell least about, fit again."""
    metrics = [len(fitted_metrics(run.mean_s)) for run in runs]
    ids = [np.repeat(np.unique(names, return_inverse=True)[1], metrics) for names in clusters]
    free, refused = list(CONSTANTS), dict[str, str]()
    base, count = problem.base, sum(metrics)
    moved = _reach(problem, runs, free, base)
    for name in list(free):
        if moved[name] < IDLE:
            free.remove(name)
            refused[name] = "no run depends on it"
    while free:
        if len(free) >= count:
            worst, why = min(free, key=lambda name: moved[name]), f"{count} measurements tell fewer constants"
        else:
            fit = robust_fit(
                problem.residual(runs, free, base), *_box(free, base), knee=KNEE, step=_steps(free)
            )
            half = half_widths(fit, ids)
            ratio = [
                2 * h / (CONSTANTS[name].high - CONSTANTS[name].low)
                for name, h in zip(free, half, strict=True)
            ]
            widest = int(np.argmax(ratio))
            worst = free[widest]
            if ratio[widest] > WIDEST:
                why = f"known only to +- {half[widest]:.2g} {CONSTANTS[worst].unit}"
            elif condition(fit) > COLLINEAR:
                why = "other constants stand in for it"
            else:
                break
        progress(f"{worst}: kept, {why}")
        free.remove(worst)
        refused[worst] = why
    values = {name: Value(value=getattr(base, name), reason=why) for name, why in refused.items()}
    if free:
        for name, x, h in zip(free, fit.x.tolist(), half.tolist(), strict=True):
            values[name] = Value(value=short(x), half_width=short(h))
    return {name: values[name] for name in CONSTANTS}


def _reach(
    problem: Problem, runs: Sequence[Run], names: Sequence[str], base: EngineProfile
) -> dict[str, float]:
    """How far each constant's whole range moves the metric that it moves most, by its slope."""
    start, low, high = _box(names, base)
    slope = differences(problem.residual(runs, names, base), start, low, high, _steps(names))
    return dict(zip(names, (np.abs(slope).max(axis=0) * (high - low)).tolist(), strict=True))


def _box(names: Sequence[str], start: EngineProfile) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = [(getattr(start, name), CONSTANTS[name].low, CONSTANTS[name].high) for name in names]
    at, low, high = np.array(rows, dtype=np.float64).T
    return at, low, high


def _steps(names: Sequence[str]) -> FloatArray:
    return np.array([STEP.get(name, SCALE_STEP) for name in names])


def short(value: float) -> float:
    """To three significant digits, as constants are written and errors are judged.

    Examples
    --------
    >>> short(0.0043219)
    0.00432
    """
    return float(f"{value:.3g}")
