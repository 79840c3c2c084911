"""Errors a user can cause and fix; ``cli.py`` prints them without a traceback.

ZenithError
├── InputError      a file, a flag or a value is wrong: says which, and what was expected
├── NoFeasiblePlan  proven: no plan satisfies the constraints (planner.errors)
└── NoPlanInTime    unproven: the limit ran out before a first plan (planner.errors)
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class ZenithError(Exception):
    """Base of all errors that are the user's to fix; ``exit_code`` is the process status."""

    exit_code = 1


class InputError(ZenithError):
    """Bad input. The message is one line: file, line, value, what was expected, the nearest choice.

    Parameters
    ----------
    about
        The options that it is about, most likely first, with the way inside one after a slash: ``("gpus",)``,
        ``("fix/tp",)``. Who knows where one was said puts that place in front (``planner.places``).
    """

    exit_code = 2

    def __init__(self, message: str, *, about: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.about = tuple(about)


@contextmanager
def about(*options: str, inside: str = "") -> Iterator[None]:
    """Says of an InputError raised in it what it is about: ``options`` where it does not say so itself.

    Parameters
    ----------
    inside
        An option in which those that the error names are.

    Examples
    --------
    >>> try:
    ...     with about(inside="synthetic"):
    ...         raise InputError("rate: -1: expected a number above 0", about=["rate"])
    ... except InputError as error:
    ...     print(error.about)
    ('synthetic/rate',)
    """
    try:
        yield
    except InputError as error:
        named = error.about or options
        if inside:
            named = tuple(f"{inside}/{name}" for name in named) or (inside,)
        raise InputError(str(error), about=named) from error


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
