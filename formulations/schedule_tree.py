"""What the search of ``schedule_paths`` has placed and has left, step by step, compiled."""

from collections import namedtuple

from formulations.schedule_fill import DUE, LOAD, SEATS, SHORT
from formulations.schedule_togo import compiled

NEVER = 1 << 60
"""The toll of what cannot be."""

Tree = namedtuple("Tree", "backward first slots frames moves table signs words radix keys sums listed size")
"""``first``: the step in which each request begins from this end, -1 for none yet; ``slots``: of
``schedule_fill``, in steps from this end; ``frames`` [step, column]; ``moves`` [move, column]: those of a step one
after another; ``table``, ``signs``: of ``schedule_memory``, with ``words``, ``radix`` and ``keys`` [step]; ``sums``:
see ``mark_sums``; ``listed`` [row, place]: see WHICH; ``size``: see LEFT."""
LEFT, WHOLE, POOL, DIGITS, DEPTH, UNTIL, UNREAD, WASTE, TAG = range(9)
"""Columns: work left; tokens of all prompts, and of answers of one token; the binary digits in which sums of one bit
differ; the step where to go on; how many steps are the first half, what memory may not be read there, and what may be
wasted; the number of the search."""
LOW, HIGH, NEXT, CHOSEN, RODE, KEPT, BEGUN, SPARE, WASTED, ALONE, RIDES, TOLL = range(12)
"""Columns: moves from, to; the next; the requests that begin, a bit each; 0 if the last step took nothing along, else 1
and its memory for answers of one token; tokens kept; tokens of prompts due; memory not read from here on; what was
wasted; iterations alone and steps that take prompts along that are left, and what these may cost."""

WHO, KEEPS, RIDE, RUNS, WASTES = range(5)
WHICH, READS, DUES, MUST, PICKED = range(5)
"""Rows: requests that may begin, what each adds to either sum, whether it begins now or never; places of those that
do."""


@compiled
def afforded(toll, cost):
    """How many of such a cost there may be."""
    return toll // cost if cost > 0 else NEVER


@compiled
def reads_in(prompt, output, backward, t):
    """Tokens that a request reads in its step t from this end."""
    return prompt + (output - 1 - t if backward else t + 1)


@compiled
def _place(slots, prompt, output, backward, s, sign):
    """Add (1) or remove (-1) a request that begins in step s."""
    for t in range(output - 1):
        slots[LOAD, s + t] += sign * reads_in(prompt, output, backward, t)
        slots[SEATS, s + t] += sign
    due = s + output - 1 if backward else s
    slots[DUE, due] += sign * prompt
    if output == 1:
        slots[SHORT, due] += sign * prompt


@compiled
def place_all(data, tree, chosen, s, sign):
    for i in range(tree.first.shape[0]):
        if chosen >> i & 1:
            _place(tree.slots, data.prompt[i], data.output[i], tree.backward, s, sign)
            tree.first[i] = s if sign > 0 else -1


@compiled
def follow(data, tree, s, load, due, move):
    """Begin the frame of the state after a move of step s, in which so much is read, with so much due before it."""
    frame, child = tree.frames[s], tree.frames[s + 1]
    ride, alone_cost = int(move[RIDE] > 0), data.base + data.launch
    child[KEPT], child[RODE] = move[KEEPS], 0 if tree.backward else move[RIDE]
    child[TOLL] = frame[TOLL] - alone_cost * move[RUNS] - data.launch * ride
    child[ALONE] = min(frame[ALONE] - move[RUNS], afforded(child[TOLL], alone_cost))
    child[RIDES] = min(frame[RIDES] - ride, afforded(child[TOLL], data.launch))
    child[BEGUN] = frame[BEGUN] + due
    child[SPARE] = frame[SPARE] - (data.kv - load)
    child[WASTED] = frame[WASTED] + move[WASTES]


@compiled
def limits_of(data, tree, s):
    """What may be wasted from step s on, and what memory may not be read; in the first half of the steps, there."""
    frame, size = tree.frames[s], tree.size
    waste = frame[SPARE] + data.tokens * frame[ALONE] + frame[KEPT] + frame[BEGUN] - size[WHOLE]
    unread = frame[SPARE]
    if s < size[UNTIL]:
        waste = min(waste, size[WASTE] - frame[WASTED])
        unread = min(unread, size[UNREAD] - (tree.frames[0, SPARE] - frame[SPARE]))
    return waste, unread
