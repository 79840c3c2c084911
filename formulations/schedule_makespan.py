"""Decode steps and a floor of the least makespan (``formulations.schedule``) where all arrive at once, by counting."""

from formulations.schedule import ScheduleInstance
from formulations.schedule_floor import read_of, work_of


def counted_steps(instance: ScheduleInstance, most: int) -> int:
    """Decode steps that no schedule of makespan ``most`` exceeds.

    Proof: one request at a time takes all steps that there are. Besides, the work of all tokens, one iteration of
    prompts before anyone decodes, and every step take their time.
    """
    cost = instance.cost
    serial, each = sum(instance.output) - len(instance), cost.base + cost.decode
    left = most - min(instance.arrival) - work_of(instance) - cost.base
    return max(0, min(serial, left // each)) if each else serial


def counted_floor(instance: ScheduleInstance) -> int:
    """A bound on the makespan where all arrive at once: the best counts of iterations, each limit summed over all.

    Proof: tokens of prompts that run beside decodes are kept at the end of that step with all that is read in it, so
    over A steps they are at most kv A less all reads, and tokens A less all decodes; in m steps at most tokens m.
    The others take iterations of their own, one at least. Another step pays while it saves more than it takes.
    """
    cost, n = instance.cost, len(instance)
    whole, later = sum(instance.prompt), sum(instance.output) - n
    launches = -(-whole // instance.tokens)
    work = work_of(instance) - cost.launch * launches
    read = sum(read_of(instance, i) for i in range(n))
    fewest, each = fewest_steps(instance), cost.base + cost.decode
    best: int | None = None
    for steps in range(fewest, later + 1):
        room = min(instance.kv * steps - read, instance.tokens * steps - later)
        for mixed in range(min(steps, launches) + 1):
            beside = max(0, min(room, instance.tokens * mixed))
            alone = max(1, -(-(whole - beside) // instance.tokens))
            time = (cost.base + cost.launch) * alone + cost.launch * mixed + each * steps
            best = time if best is None else min(best, time)
        if best is not None and cost.base + cost.launch + each * (steps + 1) >= best:
            break
    return min(instance.arrival) + work + (best or 0)


def least_of(instance: ScheduleInstance, steps: int) -> int:
    """Makespan of so many steps but for the toll.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> least_of(instance, 2)  # of 14 tokens
    254
    """
    cost, launches = instance.cost, -(-sum(instance.prompt) // instance.tokens)
    return (
        min(instance.arrival) + work_of(instance) - cost.launch * launches + (cost.base + cost.decode) * steps
    )


def fewest_steps(instance: ScheduleInstance) -> int:
    """Decode steps of the longest answer, or that memory or sequences need."""
    read = sum(read_of(instance, i) for i in range(len(instance)))
    later = sum(instance.output) - len(instance)
    return max(max(instance.output) - 1, -(-read // instance.kv), -(-later // instance.sequences))
