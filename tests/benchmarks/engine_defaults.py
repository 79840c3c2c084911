"""The constants of ``profiles/engines/vllm-v0.json``, how well they are known, and the errors they leave.

    python -m tests.benchmarks.engine_defaults RUNS --device h100-sxm-80gb

RUNS: servers of vLLM before V1 (the campaign of ``docs/fidelity.md``). ``sequence_s`` comes from a profile of the
host (``HOST``), the other two from the runs. Residuals are of runs left out of the fit: each width once, and each
workload once. Then the same for servers of one setting alone, where settings of the engine differ.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.calibrate import KNEE, STEP, Problem, changed, residuals_of
from planner.fidelity import ErrorSummary, summary_of
from planner.least_squares import FloatArray, half_widths, robust_fit
from planner.measured import Run, model_of
from planner.runs import Told, read_runs
from profiles.engine import EngineProfile, load_engine

HOST = """
2  8 0.1785 1.0650 0.3864 0.7703 2.6268
2 16 0.2828 1.1085 0.4579 1.2153 3.0062
2 24 0.3848 1.1607 0.5729 1.7524 3.9338
2 32 0.5021 1.3458 0.6696 2.2502 3.8267
4  8 0.1807 1.1794 0.3749 0.7874 3.0538
4 16 0.3132 1.2700 0.4785 1.3566 3.7615
4 24 0.4525 1.3431 0.6120 1.8946 4.3906
4 32 0.5205 1.4176 0.7068 2.3094 5.4028
4 40 0.7182 1.7246 0.8807 2.9713 6.4431
4 48 0.9240 2.0360 1.0608 3.6002 7.8592
4 56 1.0997 1.9484 1.2725 4.2589 8.4964
4 64 1.2300 1.9484 1.3165 4.7162 8.4875
"""
"""Host time of a decode iteration of Sarathi-Serve, a fork of vLLM 0.2 with its engine loop, Llama-2-70B on A100:
devices, sequences, then in milliseconds the medians of scheduling, sampling, input preparation and output
processing, and what remains of the wall clock beside them and the forward pass (RAY_COMM_TIME_MEDIAN). All rows of
that model in data/profiling/a100/cpu_overheads.csv of github.com/microsoft/vidur (MIT), commit 0633efae."""

FITTED = ("iteration_s", "prefill_s")


def sequence_s(most: int = 64) -> float:
    """Seconds that each sequence adds in ``HOST``, in batches up to ``most``; a constant for each width.

    Examples
    --------
    >>> round(sequence_s() * 1e6), round(sequence_s(32) * 1e6)
    (225, 177)
    """
    rows = np.array([line.split() for line in HOST.split("\n") if line], dtype=np.float64)
    devices, sequences, *parts = rows[rows[:, 1] <= most].T
    design = np.stack([devices == 2, devices == 4, sequences], axis=1).astype(np.float64)
    return float(np.linalg.lstsq(design, np.sum(parts, axis=0), rcond=None)[0][2]) / 1e3


def fitted(problem: Problem, runs: Sequence[Run], start: EngineProfile) -> tuple[EngineProfile, FloatArray]:
    """The engine with ``FITTED`` fitted to the runs, and half of their 95 % intervals."""
    found = problem.refit(runs, FITTED, start)
    at = np.array([getattr(found, name) for name in FITTED])
    groups = np.unique([run.group for run in runs], return_inverse=True)[1]
    fit = robust_fit(
        problem.residual(runs, FITTED, found), at, np.zeros(2), 5 * at, knee=KNEE,
        step=np.array([STEP[name] for name in FITTED]), passes=(1.0,),
    )  # fmt: skip
    return changed(found, dict(zip(FITTED, fit.x.tolist(), strict=True))), half_widths(
        fit, [np.repeat(groups, [len(run.mean_s) for run in runs])]
    )


def words(summary: dict[str, ErrorSummary]) -> str:
    return "  ".join(
        f"{name} {100 * part.median_abs_error:.1f} ({100 * part.worst_abs_error:.1f}) {100 * part.bias:+.1f}"
        for name, part in summary.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--device")
    options = parser.parse_args()
    runs = read_runs([options.runs], Told(device=options.device))
    problem = Problem(load_engine("vllm-v0"), {"model": None, "tables": None, "silicon": True})
    start = changed(problem.base, {"iteration_s": 0.002, "sequence_s": sequence_s(), "prefill_s": 0.005})
    widths = [run.plan(model_of(run.model)).replica_devices for run in runs]
    workloads = [run.group.split()[0] for run in runs]
    settings = [f"prompts {run.settings.policy}, all-reduce {run.settings.all_reduce}" for run in runs]
    engine, half = fitted(problem, runs, start)
    print(f"sequence_s {1e3 * sequence_s():.3f} ms (batches to 32: {1e3 * sequence_s(32):.3f})")
    for name, width in zip(FITTED, half, strict=True):
        print(f"{name} {1e3 * getattr(engine, name):.2f} ms +- {1e3 * width:.2f}")
    print("errors in %: median absolute (worst) mean signed")
    print(f"  {words(problem.errors(runs, engine))}  fitted on them")
    left = []
    for names in (widths, workloads):
        for name in dict.fromkeys(names):
            seen = [run for run, other in zip(runs, names, strict=True) if other != name]
            unseen = [run for run, other in zip(runs, names, strict=True) if other == name]
            judged = problem.judged(unseen, problem.refit(seen, FITTED, start))
            print(f"  {words(summary_of(judged))}  of {name}, fitted on the others")
            left += judged
    print(f"  {words(summary_of(left))}  of all that were left out")
    residuals = {name: {"low": each.low, "high": each.high} for name, each in residuals_of(left).items()}
    print(f"residuals {json.dumps(residuals)}")
    for name in dict.fromkeys(settings):
        alone = [run for run, other in zip(runs, settings, strict=True) if other == name]
        own, half = fitted(problem, alone, start)
        said = (f"{1e3 * getattr(own, n):.2f} +- {1e3 * w:.2f}" for n, w in zip(FITTED, half, strict=True))
        print(f"{name}: {', '.join(said)} ms")


if __name__ == "__main__":
    main()
