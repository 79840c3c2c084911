"""Answers that are not a plan; ``cli.py`` prints them in one line and exits with their status."""

from collections.abc import Sequence
from dataclasses import dataclass

from profiles.errors import ZenithError


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """One constraint of those that clash, none of which can be left out.

    Parameters
    ----------
    constraint
        A rule of the user, as in ``fix dp=2``, or a family of ``formulations.plans_cpsat``.
    words
        The same with its numbers.
    pool
        Whose plans it keeps out.
    """

    constraint: str
    words: str
    pool: str


class NoFeasiblePlan(ZenithError):
    """Proven: no plan satisfies the constraints. The message names those that clash and what would do.

    Parameters
    ----------
    core
        The constraints that clash, pool by pool.
    relaxations
        Single changes, each of which is verified to leave a plan; most useful first.
    """

    exit_code = 3

    def __init__(self, message: str, *, core: Sequence[Clash] = (), relaxations: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.core, self.relaxations = tuple(core), tuple(relaxations)


class NoPlanInTime(ZenithError):
    """Unproven: the time limit ran out before a first plan was simulated."""

    exit_code = 4
