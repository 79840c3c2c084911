"""The priced problem against schedules: no prices prove more than any random schedule costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import lagrangian as lg

QUIET = settings(deadline=None, max_examples=300, derandomize=True)


def problem(rng, n, constant):
    """One machine; tokens of request i have share[i] and need constant + share[i], prompts likewise."""
    share, prompt = rng.integers(0, 6, n).astype(float), rng.integers(1, 9, n).astype(float)
    later, length = rng.integers(0, 7, n).astype(float), rng.integers(1, 5, n).astype(float)
    before, after = (1.0, 1.0) if rng.random() < 0.5 else (1.3, 0.3)
    one = np.zeros((n, lg.SEGMENTS - 1))
    wide = [np.concatenate([column[:, None], one], axis=1) for column in (later, share, constant + share)]
    tokens, shares, own = wide
    return lg.Requests(
        release=np.sort(rng.integers(0, 30, n)).astype(float) * (rng.random() < 0.6),
        before=np.full(n, before), after=np.full(n, after),
        alone=before * (constant + prompt) + after * later * (constant + share),
        prompt_time=constant + prompt, prompt_share=prompt, prompt_area=length * (constant + prompt) / 2,
        prompt_tokens=length, tokens=tokens, share=shares, own=own,
        context=np.repeat(length[:, None] + 1, lg.SEGMENTS, axis=1),
        again_share=np.full((n, lg.SEGMENTS), 1e6), constant=float(constant), rest=0.0,
        speed=1.0, room=float(rng.integers(8, 30)), places=float(rng.integers(1, 5)),
    )  # fmt: skip


def schedule(requests, rng):
    """Any batches that memory and places allow. Returns the sum of costs."""
    n = len(requests.release)
    left, clock, total = requests.tokens[:, 0].copy(), 0.0, 0.0
    started, ended = np.full(n, False), np.full(n, False)
    eager = rng.choice([0.4, 0.8, 1.0])
    while not ended.all():
        batch, room, places, time = [], requests.room, requests.places, requests.constant
        for i in rng.permutation(n):
            need = requests.context[i, 0]
            here = requests.release[i] <= clock and not ended[i] and rng.random() < eager
            if here and need <= room and places >= 1:
                batch.append(i)
                room, places = room - need, places - 1
                time += requests.share[i, 0] if started[i] else requests.prompt_share[i]
        if not batch:
            clock += 0.5
            continue
        clock += time
        for i in batch:
            if started[i]:
                left[i] -= 1
            else:
                total += (requests.before[i] - requests.after[i]) * (clock - requests.release[i])
            started[i] = True
            if left[i] == 0:
                ended[i] = True
                total += requests.after[i] * (clock - requests.release[i])
    return total


def some_prices(rng, most):
    buckets = int(rng.integers(1, 20))
    edges = np.concatenate([[0.0], np.cumsum(rng.uniform(0.1, 2.0, buckets))])
    scale = 10 ** rng.uniform(-2, 1, 3)
    table = rng.exponential(1, (3, buckets)) * (rng.random((3, buckets)) < 0.8) * scale[:, None]
    return lg.Prices(
        edges=edges * most / edges[-1], machine=table[0] * 5, memory=table[1] / 20, place=table[2]
    )


@QUIET
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), constant=st.integers(0, 9))
def test_no_prices_prove_too_much(seed, n, constant):
    """Random prices, and those that are looked for, against random schedules."""
    rng = np.random.default_rng(seed)
    requests = problem(rng, n, constant)
    found = [some_prices(rng, float(rng.uniform(5, 200))) for _ in range(5)]
    value, better = lg.improve(requests, found[0], rounds=4)
    assert value == lg.evaluate(requests, better) >= lg.evaluate(requests, found[0])
    proven = max(lg.evaluate(requests, prices) for prices in (*found, better))
    for _ in range(6):
        assert proven <= schedule(requests, rng) * (1 + 1e-9), seed


def test_prices_of_nothing_prove_solitude():
    requests = problem(np.random.default_rng(1), 5, 3)
    free = lg.Prices(edges=np.array([0.0, 1e4]), machine=np.zeros(1), memory=np.zeros(1), place=np.zeros(1))
    assert np.isclose(lg.evaluate(requests, free), requests.alone.sum())


@pytest.mark.parametrize("name", ["machine", "memory", "place"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_prices_must_be_numbers_of_at_least_zero(name, value):
    requests = problem(np.random.default_rng(1), 2, 3)
    prices = some_prices(np.random.default_rng(2), 10.0)
    getattr(prices, name)[0] = value
    with pytest.raises(ValueError, match=f"prices of {name}"):
        lg.evaluate(requests, prices)


def test_edges_and_weights_are_checked():
    requests = problem(np.random.default_rng(1), 2, 3)
    prices = some_prices(np.random.default_rng(2), 10.0)
    with pytest.raises(ValueError, match="edges"):
        lg.evaluate(requests, replace(prices, edges=prices.edges[::-1].copy()))
    with pytest.raises(ValueError, match="no more after"):
        lg.evaluate(replace(requests, after=requests.before + 1), prices)
