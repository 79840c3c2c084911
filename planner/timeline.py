"""Who waits, who runs and what the KV cache holds over time, derived from the records of requests.

Simulations keep no series. What follows from the times of each request is exact for requests, and a model for
the cache: a prompt fills evenly from its first iteration to its first token, generated tokens come evenly from
then to the last, and all of it leaves with the last token. Between preemption and recomputation a request counts
as running, and what it lost as held.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.stepcost import PS
from simulator.outcome import Outcome

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Of one quantity, by span of time.

    Parameters
    ----------
    mean, most
        [spans] averaged over the time of each span, and the largest value in it, its ends included.
    """

    mean: FloatArray
    most: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """``edges_s`` [spans + 1] seconds since the start of the trace; served requests alone.

    ``waiting`` and ``running`` count requests, ``kv_tokens`` counts tokens in the cache of all replicas.
    """

    edges_s: FloatArray
    waiting: Series
    running: Series
    kv_tokens: Series


def timeline(outcome: Outcome, *, spans: int = 240) -> Timeline:
    """Equal spans from the start of the trace to the last token."""
    ok = outcome.served
    columns = (outcome.arrival_ps, outcome.scheduled_ps, outcome.first_token_ps, outcome.finish_ps)
    arrival, scheduled, first, finish = (column[ok] / PS for column in columns)
    prompt = outcome.prompt_tokens[ok].astype(np.float64)
    later = outcome.output_tokens[ok].astype(np.float64) - 1
    edges = np.linspace(0.0, max(outcome.end_ps, 1) / PS, spans + 1)
    one, none = np.ones(len(arrival)), np.zeros(len(arrival))
    filling, growing = _rate(prompt, first - scheduled), _rate(later, finish - first)
    # what takes no time comes at once
    at_first = np.where(first > scheduled, 0.0, prompt) + np.where(finish > first, 0.0, later)
    return Timeline(
        edges_s=edges,
        waiting=_counted(arrival, scheduled, one, edges),
        running=_counted(scheduled, finish, one, edges),
        kv_tokens=polygon(
            np.concatenate([scheduled, first, finish]),
            np.concatenate([none, at_first, -(prompt + later)]),
            np.concatenate([filling, growing - filling, -growing]),
            edges,
        ),
    )


def polygon(at: FloatArray, jumps: FloatArray, bends: FloatArray, edges: FloatArray) -> Series:
    """A function that is 0 before every event, jumps by ``jumps`` and changes its slope by ``bends`` at them.

    Parameters
    ----------
    at, jumps, bends
        [events], in any order; all within ``edges``.
    edges
        [spans + 1], increasing.

    Examples
    --------
    >>> edges = np.array([0.0, 1.0, 2.0, 4.0])
    >>> held = polygon(np.array([1.0, 3.0]), np.array([2.0, -2.0]), np.zeros(2), edges)
    >>> held.mean.tolist(), held.most.tolist()
    ([0.0, 2.0, 1.0], [2.0, 2.0, 2.0])
    """
    if not len(at):
        return Series(mean=np.zeros(len(edges) - 1), most=np.zeros(len(edges) - 1))
    order = np.argsort(at, kind="stable")
    at, jumps, slopes = at[order], jumps[order], np.cumsum(bends[order])
    gaps = np.diff(at)
    after = np.cumsum(jumps) + np.concatenate([[0.0], np.cumsum(slopes[:-1] * gaps)])  # just after each event
    before = after - jumps
    area = np.concatenate([[0.0], np.cumsum((after[:-1] + before[1:]) / 2 * gaps)])  # from the first event on
    last = np.searchsorted(at, edges, side="right") - 1
    known = np.maximum(last, 0)
    since = np.where(last >= 0, edges - at[known], 0.0)
    value = np.where(last >= 0, after[known] + slopes[known] * since, 0.0)
    total = np.where(last >= 0, area[known] + (after[known] + value) / 2 * since, 0.0)
    most = np.maximum(value[:-1], value[1:])
    span = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
    span_before = np.clip(np.searchsorted(edges, at, side="left") - 1, 0, len(edges) - 2)
    # at an instant that several events share, only the value after all of them counts
    final = np.append(gaps > 0, True)
    lead = np.concatenate([[True], gaps > 0])
    np.maximum.at(most, span[final], after[final])
    np.maximum.at(most, span_before[lead], before[lead])
    return Series(mean=np.maximum(np.diff(total) / np.diff(edges), 0.0), most=np.maximum(most, 0.0))


def _counted(start: FloatArray, end: FloatArray, one: FloatArray, edges: FloatArray) -> Series:
    """How many intervals hold each moment."""
    return polygon(np.concatenate([start, end]), np.concatenate([one, -one]), np.zeros(2 * len(one)), edges)


def _rate(amount: FloatArray, seconds: FloatArray) -> FloatArray:
    """Per second, 0 where it takes no time."""
    return np.divide(amount, seconds, out=np.zeros_like(amount), where=seconds > 0)
