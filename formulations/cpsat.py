"""The one place that talks to CP-SAT: parameters, seed, status map, enumeration, cores."""

from collections.abc import Sequence
from math import isfinite

from ortools.sat.python import cp_model

from formulations.problem import Limits, Status

_STATUS = {
    cp_model.OPTIMAL: Status.OPTIMAL,
    cp_model.FEASIBLE: Status.FEASIBLE,
    cp_model.INFEASIBLE: Status.INFEASIBLE,
    cp_model.UNKNOWN: Status.UNKNOWN,
}


def _solver(limits: Limits) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limits.time_s
    solver.parameters.max_deterministic_time = limits.work
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed
    # Its own handler leaves Ctrl-C to the system ever after, which ends the program without a word of what is done.
    solver.parameters.catch_sigint_signal = False
    # Workers take turns in a fixed order; where only the clock ends them there is nothing to repeat.
    solver.parameters.interleave_search = limits.workers > 1 and isfinite(limits.work)
    return solver


def _check(model: cp_model.CpModel) -> None:
    if error := model.validate():
        raise AssertionError(f"our own model is invalid: {error}")


def run(model: cp_model.CpModel, limits: Limits) -> tuple[Status, cp_model.CpSolver]:
    """Solve once; values are read from the solver."""
    _check(model)
    solver = _solver(limits)
    return _STATUS[solver.solve(model)], solver


class _Collector(cp_model.CpSolverSolutionCallback):
    def __init__(self, variables: Sequence[cp_model.IntVar]) -> None:
        super().__init__()
        self.variables, self.found = variables, set[tuple[int, ...]]()

    def on_solution_callback(self) -> None:
        self.found.add(tuple(self.value(variable) for variable in self.variables))


def enumerate_all(
    model: cp_model.CpModel, variables: Sequence[cp_model.IntVar], limits: Limits
) -> tuple[Status, list[tuple[int, ...]]]:
    """Every assignment of ``variables`` that some solution has, sorted. OPTIMAL: there is no other.

    The values of ``variables`` must decide all others, or solutions are walked more than once.
    Enumeration runs on one worker whatever the limits say: CP-SAT offers no other way.
    """
    _check(model)
    solver = _solver(limits)
    solver.parameters.num_workers = 1
    solver.parameters.enumerate_all_solutions = True
    collector = _Collector(variables)
    status = _STATUS[solver.solve(model, collector)]
    return status, sorted(collector.found)
