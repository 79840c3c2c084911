"""Progress of work whose length is known: a bar where stderr is a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from planner.printable import printable


class Counted(str):
    """A line of progress that says besides how many parts are ``done``, ``of`` as many as there are at most.

    Examples
    --------
    >>> line = Counted("rate x1", 1, 2)
    >>> print(line, line.done, line.of)
    rate x1 1 2
    """

    done: int
    of: int

    def __new__(cls, words: str, done: int, of: int) -> "Counted":
        made = super().__new__(cls, words)
        made.done, made.of = done, of
        return made


def simulated(done: int, left: int) -> Counted:
    """Plans simulated, and those that may have to be."""
    return Counted(f"{done} simulated, at most {left} left", done, done + left)


@contextmanager
def bar(lines: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Whom to tell: on a terminal a ``Counted`` moves a bar, beside which its words stand; all else is lines.

    Examples
    --------
    >>> with bar(print) as progress:
    ...     progress(Counted("1 of 2: rate x1", 1, 2))
    1 of 2: rate x1
    """
    if not sys.stderr.isatty():
        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}", markup=False)
    drawn = Progress(
        BarColumn(20), TimeElapsedColumn(), words, console=Console(stderr=True), transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    task = drawn.add_task("")
    with ExitStack() as while_counted:

        def tell(text: str) -> None:
            if isinstance(text, Counted):
                if not drawn.live.is_started:
                    while_counted.enter_context(drawn)
                drawn.update(task, completed=text.done, total=text.of, description=printable(text))
            elif drawn.live.is_started:  # above the bar
                drawn.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
            else:
                lines(text)

        yield tell
