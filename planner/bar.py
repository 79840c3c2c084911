"""Progress of work whose length is known: a bar where stderr is a terminal, a line for each step elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from planner.printable import printable

Advance = Callable[[int, int, str], None]
"""Steps done, of all, and words of the last."""


@contextmanager
def bar(of: int, lines: Callable[[str], None]) -> Iterator[Advance]:
    """What to call after each of ``of`` steps. ``lines`` prints where there is no terminal.

    Examples
    --------
    >>> with bar(2, print) as advance:
    ...     advance(1, 2, "rate x1")
    1 of 2: rate x1
    """
    if not sys.stderr.isatty():
        yield lambda done, of, words: lines(f"{done} of {of}: {words}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task("", total=of)
        yield lambda done, of, words: drawn.update(task, completed=done, description=printable(words))
