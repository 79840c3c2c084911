"""Unison instances (``formulations.schedule``) in units of several tokens: fewer steps, so more of it is solved.

Lengths are rounded up to units, memory and budget down, and decodes go on for a unit. So every coarse schedule is one
of the fine class, but not the other way round: an optimum here is *optimal in the coarse class*, and no bound there.
"""

from dataclasses import replace

from formulations.schedule import Iteration, Schedule, ScheduleInstance


def coarse(instance: ScheduleInstance, unit: int) -> ScheduleInstance:
    """The instance in units of so many tokens, each coarse decode at the cost of ``unit`` fine ones.

    Raises
    ------
    ValueError
        When memory does not hold the longest request, or the budget a decode of everybody, each a unit here.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> fine = ScheduleInstance(arrival=(0,), prompt=(20,), output=(18,), own=(0,), kv=99, tokens=64,
    ...                         sequences=1, cost=cost)
    >>> found = coarse(fine, 16)  # the first token comes with the prompt, the other 17 are two units
    >>> found.prompt, found.output, found.kv, found.tokens, found.cost.decode
    ((2,), (3,), 6, 4, 1820)
    """
    cost = instance.cost
    if instance.tokens // unit < min(len(instance), instance.sequences):
        raise ValueError("The budget holds too few units.")
    return replace(
        instance,
        prompt=tuple(-(-p // unit) for p in instance.prompt),
        output=tuple(1 + -(-(o - 1) // unit) for o in instance.output),
        kv=instance.kv // unit,
        tokens=instance.tokens // unit,
        cost=replace(
            cost, token=cost.token * unit, decode=(unit - 1) * cost.base + unit * cost.decode,
            sequence=cost.sequence * unit, read=cost.read * unit**2,
        ),
    )  # fmt: skip


def fine(instance: ScheduleInstance, unit: int, schedule: Schedule) -> Schedule:
    """The coarse schedule with the requests as they are: who has all tokens leaves before its unit is over.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> one = ScheduleInstance(arrival=(0,), prompt=(20,), output=(4,), own=(0,), kv=99, tokens=64,
    ...                        sequences=1, cost=cost)
    >>> found = fine(one, 16, (Iteration(decodes=False, chunks=((0, 2),)), Iteration(decodes=True, chunks=())))
    >>> [each.chunks or each.decodes for each in found]
    [((0, 20),), True, True, True]
    """
    left, due = list(instance.prompt), [o - 1 for o in instance.output]
    found, complete = list[Iteration](), set[int]()
    for iteration in schedule:
        chunks = []
        running = [i for i in complete if due[i]]
        for i, units in iteration.chunks:
            chunks.append((i, min(units * unit, left[i])))
            left[i] -= chunks[-1][1]
        steps = min(unit, max((due[i] for i in running), default=0)) if iteration.decodes else 0
        # Whose prompt is complete decodes in the next unit, so chunks come with the last step of this one.
        found += [Iteration(decodes=True, chunks=())] * (steps - 1)
        if steps or chunks:
            found.append(Iteration(decodes=steps > 0, chunks=tuple(chunks)))
        for i in running:
            due[i] -= min(due[i], steps)
        complete |= {i for i, _ in iteration.chunks if not left[i]}
    return tuple(found)
