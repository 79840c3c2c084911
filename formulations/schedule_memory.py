"""What the search of ``schedule_levels`` remembers of states it has left: what they owe at least, in a table of rows.

A state is the step, whether the one before took prompts along, and how far every request is: its key, a few words. A
row is a key, what the state owes, and the tokens it kept then. One that keeps fewer owes no less, and one that keeps
more at most an iteration less for every ``tokens`` of them, as it could be followed with so many more iterations.
"""

import numpy as np

from formulations.schedule_togo import IntArray, compiled

BITS, PROBES = 62, 8


def places(outputs: IntArray, steps: int) -> tuple[IntArray, IntArray, int]:
    """Word of each request in the key, what its progress is multiplied by there, and how many words there are.

    The first begins with the step and whether the last took prompts along.
    """
    words, radix, word, size, room = [], [], 0, 2 * (steps + 1), 1 << BITS
    for output in map(int, outputs):
        if size * (output + 1) > room:
            word, size = word + 1, 1
        words.append(word)
        radix.append(size)
        size *= output + 1
    return np.array(words), np.array(radix), word + 1


@compiled
def known(data, tree, d, rode, kept):
    """What the state before step d is known to owe; leaves its key."""
    keys, table = tree.keys, tree.table
    first, output, words, radix = tree.first, data.output, tree.words, tree.radix
    keys[d, :] = 0
    keys[d, 0] = 2 * d + rode
    for i in range(first.shape[0]):
        if first[i] >= 0:
            keys[d, words[i]] += radix[i] * min(max(1, output[i] - 1), d - first[i])
    row, found = row_of(keys, table, d)
    if not found:
        return np.int64(0)
    more = max(0, kept - table[row, -1])
    return table[row, -2] - (data.base + data.launch) * -(-more // data.tokens)


@compiled
def note(tree, d, owes, kept):
    """Remember what the state before step d owes, unless more is known of it."""
    keys, table = tree.keys, tree.table
    row, found = row_of(keys, table, d)
    if not found or table[row, -2] <= owes:
        for j in range(keys.shape[1]):
            table[row, j] = keys[d, j]
        table[row, -2], table[row, -1] = owes, kept


@compiled
def row_of(keys, table, d):
    """Where a state is in the table, and True; or where it may be, in place of another one if there is no room."""
    h = np.int64(0)
    for j in range(keys.shape[1]):
        h = (h ^ keys[d, j]) * np.int64(-7046029254386353131)
        h ^= (h >> 29) & np.int64((1 << 35) - 1)
    row = np.int64(0)
    for k in range(PROBES):
        row = (h + k) & (table.shape[0] - 1)
        if table[row, -2] < 0:
            return row, False
        same = True
        for j in range(keys.shape[1]):
            same = same and table[row, j] == keys[d, j]
        if same:
            return row, True
    return row, False
