"""What iterations of prompts cost at least in unison schedules (``formulations.schedule``) where all arrive at once.

Y iterations of prompts alone and M decode steps that take prompts along cost (base + launch) Y + launch M: the *toll*.
The search of ``schedule_levels`` leaves a path that owes too much of it.
"""

import numpy as np

from formulations.schedule import ScheduleInstance
from formulations.schedule_floor import work_of
from formulations.schedule_togo import compiled

NEVER = 1 << 60
"""The toll of what cannot be."""

FOUND, NONE, GAVE_UP = 1, 0, -1
"""How a search for schedules below a limit ends."""


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


@compiled
def owed(tokens, spare, budget, alone, launch):
    """Least toll of so many tokens of prompts, ``budget`` in an iteration, with so much memory that no decode reads.

    An iteration alone costs ``alone``, a step that takes some along ``launch``, which is no more.

    Proof: Y iterations compute ``budget`` each at most, and so do M steps, which keep them at their ends where
    nothing is read: so at most ``spare`` in all. Each step that is full saves an iteration, which costs no less; one
    more may.
    """
    tokens = max(0, tokens)
    most = max(0, min(spare, tokens))
    m = most // budget
    best = launch * m + alone * -(-(tokens - budget * m) // budget)
    if most > budget * m:
        best = min(best, launch * (m + 1) + alone * -(-(tokens - most) // budget))
    return best


@compiled
def fitting(data, first, free):
    """Of requests that have not begun: how many fit so much free memory together, the smallest first, and tokens of
    answers of one token, which are the last."""
    most = single = together = np.int64(0)
    for i in range(first.shape[0] - 1, -1, -1):
        if first[i] == -1 and data.output[i] == 1:
            single += data.prompt[i]
        elif first[i] == -1:
            together += data.prompt[i] + 1
            if together > free:
                break
            most += 1
    return most, single


@compiled
def owed_next(tokens, spare, kept, free, most, short, budget, alone, launch):
    """The same, where ``kept`` others are computed and the next step has so much memory free beside who runs.

    At most ``most`` requests can start there together, and answers of one token that are open have prompts of
    ``short`` tokens.

    Proof: let k iterations run before that step, s requests start in it, and those be its due. They read their
    prompts and s, and prompts due are at most kept + budget k: so free - kept - budget k - s is not read
    at least. What is kept through the step has room beside what is read, so kept and the computed are at most free -
    s and what answers of one token take with them; and where k > 0 something is due: s > 0, or one of those. If it
    takes tokens along, then as many as there is room for: one more computed there for one of spare owes no more.
    """
    best, k = NEVER, 0
    while True:
        left = free - kept - budget * k
        waste = max(0, left - most)
        few = 1 if k > 0 and short == 0 else 0
        if waste <= spare:
            rest = tokens - min(budget * k, max(0, free - few + short - kept))
            best = min(best, alone * k + owed(rest, spare - waste, budget, alone, launch))
            ride = min(budget, left - few + short, spare)
            if ride > 0:
                owes = owed(rest - ride, spare - max(waste, ride), budget, alone, launch)
                best = min(best, alone * k + launch + owes)
        if left <= 0 or alone * k >= best:
            return best
        k += 1


@compiled
def owed_before(tokens, spare, need, due, free, pool, budget, alone, launch):
    """The same backward, where ``need`` tokens, ``due`` of them due, must be computed before the steps that are placed,
    and the one before these has so much memory free; ``pool``: tokens of answers of one token, in ``tokens``, too.

    Proof: let k iterations run after that step. The rest of ``need`` is kept through it, where it is not read; so it is
    at most ``free`` and ``spare``. Where k = 0 and something is due, the step itself computes its last token. What it
    computes is not read there either.
    """
    best, k = NEVER, max(0, -(-(need - min(free, spare)) // budget))
    while True:
        kept = max(0, need - budget * k)
        rest = tokens - min(budget * k, need + pool)
        if k > 0 or due == 0:
            best = min(best, alone * k + owed(rest, spare - kept, budget, alone, launch))
        ride = min(budget, spare, free)
        if ride > 0:
            owes = owed(rest - ride, spare - max(kept, ride), budget, alone, launch)
            best = min(best, alone * k + launch + owes)
        if (kept == 0 and k > 0) or need == 0 or alone * k >= best:
            return best
        k += 1
