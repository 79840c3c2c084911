"""Errors a user can cause and fix; ``cli.py`` prints them without a traceback.

ZenithError
├── InputError      a file, a flag or a value is wrong: says which, and what was expected
├── NoFeasiblePlan  proven: no plan satisfies the constraints (planner.errors)
└── NoPlanInTime    unproven: the limit ran out before a first plan (planner.errors)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ZenithError(Exception):
    """Base of all errors that are the user's to fix; ``exit_code`` is the process status."""

    exit_code = 1


class InputError(ZenithError):
    """Bad input. The message is one line: file, line, value, what was expected, the nearest choice."""

    exit_code = 2


def nearest(value: str, choices: Iterable[str]) -> str:
    """End of an error message: the nearest valid choice, or all of them when none is near.

    Examples
    --------
    >>> nearest("llama-3.1-70", ["llama-3.1-70b", "gpt2"])
    "did you mean 'llama-3.1-70b'?"
    >>> nearest("vllm", ["vLLM", "SGLang"])
    "did you mean 'vLLM'?"
    >>> nearest("zzz", ["b", "a"])
    'known: a, b'
    """
    choices = sorted(choices)
    alike = {choice.lower(): choice for choice in choices}
    close = get_close_matches(value.lower(), alike, n=1)
    return f"did you mean {alike[close[0]]!r}?" if close else f"known: {', '.join(choices)}"
