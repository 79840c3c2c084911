"""States that the search of ``schedule_paths`` has left as they have no way on, in a table of rows.

A state is the step, whether the one before took prompts along, and how far every request is: its key, a few words. A
row is a key, what was wasted, and the iterations alone, the steps that take prompts along, what they might cost, and
the tokens kept with which there was no way.
With fewer of any there is none, and none with as many more tokens kept as an iteration computes if one less is left,
as it could be run. Where only a part may be wasted this is true of the same search alone, and of no fewer iterations
alone so far, with the one that could be run: what a state has wasted and keeps says how many those were, as all else
is the same. Such rows have the tag of the search. The *sign* of a row is a byte, some bits of its key's hash, 0
where there is none: signs are read first, as they fit a processor's cache.
"""

import numpy as np

from formulations.schedule_togo import IntArray, compiled

BITS, PROBES = 62, 8


def places(outputs: IntArray, states: int) -> tuple[IntArray, IntArray, int]:
    """Word of each request in the key, what its progress is multiplied by there, and how many words there are.

    The first begins with the step and what the last took along: one of so many states.
    """
    words, radix, word, size, room = [], [], 0, states, 1 << BITS
    for output in map(int, outputs):
        if size * (output + 1) > room:
            word, size = word + 1, 1
        words.append(word)
        radix.append(size)
        size *= output + 1
    return np.array(words), np.array(radix), word + 1


@compiled
def known(data, tree, s, rode, alone, rides, toll, kept, wasted, tag):
    """Whether the state before step s is known to have no way on; leaves its key."""
    keys, table = tree.keys, tree.table
    first, output, words, radix = tree.first, data.output, tree.words, tree.radix
    keys[s, :] = 0
    keys[s, 0] = s + keys.shape[0] * rode
    for i in range(first.shape[0]):
        if first[i] >= 0:
            most = output[i] if tree.backward else max(1, output[i] - 1)  # backward its prompt is due then
            keys[s, words[i]] += radix[i] * min(most, s - first[i])
    row, _, found = row_of(keys, table, tree.signs, s)
    if not found or table[row, -1] != tag or rides > table[row, -3]:
        return False
    runs = -(-max(0, kept - table[row, -2]) // data.tokens)
    if tag and wasted + kept < table[row, -6] + table[row, -2] + data.tokens * runs:
        return False
    return alone + runs <= table[row, -4] and toll + (data.base + data.launch) * runs <= table[row, -5]


@compiled
def note(tree, s, alone, rides, toll, kept, wasted, tag):
    """Remember that the state before step s has no way on."""
    keys, table = tree.keys, tree.table
    row, sign, _ = row_of(keys, table, tree.signs, s)
    tree.signs[row] = sign
    for j in range(keys.shape[1]):
        table[row, j] = keys[s, j]
    table[row, -6], table[row, -5], table[row, -4] = wasted, toll, alone
    table[row, -3], table[row, -2], table[row, -1] = rides, kept, tag


@compiled
def row_of(keys, table, signs, s):
    """Where a state is in the table, or may be, in place of another one at worst; its sign; whether it is there."""
    h = np.int64(0)
    for j in range(keys.shape[1]):
        h = (h ^ keys[s, j]) * np.int64(-7046029254386353131)
        h ^= (h >> 29) & np.int64((1 << 35) - 1)
    row, sign = np.int64(0), (h >> 56 & 127) + 1
    for k in range(PROBES):
        row = (h + k) & (table.shape[0] - 1)
        if signs[row] == 0:
            return row, sign, False
        if signs[row] == sign:
            same = True
            for j in range(keys.shape[1]):
                same = same and table[row, j] == keys[s, j]
            if same:
                return row, sign, True
    return row, sign, False
