"""Answers that are not a plan; ``cli.py`` prints them in one line and exits with their status."""

from profiles.errors import ZenithError


class NoFeasiblePlan(ZenithError):
    """Proven: no plan satisfies the constraints. The message names those that clash."""

    exit_code = 3


class NoPlanInTime(ZenithError):
    """Unproven: the time limit ran out before a first plan was simulated."""

    exit_code = 4
