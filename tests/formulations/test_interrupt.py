"""Ctrl-C still reaches the program after a solver has run."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal
from ortools.sat.python import cp_model
from formulations import cpsat
from formulations.problem import Limits

signal.signal(signal.SIGINT, signal.default_int_handler)
model = cp_model.CpModel()
x = model.new_int_var(0, 3, "x")
for solve in (lambda: cpsat.run(model, Limits()), lambda: cpsat.enumerate_all(model, [x], Limits())):
    solve()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupt_after_a_solve_is_python_s():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n" * 2), done.stderr
