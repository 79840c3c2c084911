"""The priced problem against schedules: no prices prove more than any random schedule costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import lagrangian as lg
from formulations import lagrangian_crowd as lc
from formulations.relaxations import worth_of_time

QUIET = settings(deadline=None, max_examples=300, derandomize=True)
FEW = settings(deadline=None, max_examples=100, derandomize=True)


def problem(rng, n, constant):
    """One machine; tokens of request i have share[i] and need constant + reading + share[i], prompts no reading."""
    reading = float(rng.integers(0, 3))
    share, prompt = rng.integers(0, 6, n).astype(float), rng.integers(1, 9, n).astype(float)
    later, length = rng.integers(0, 7, n).astype(float), rng.integers(1, 5, n).astype(float)
    before, after = (1.0, 1.0) if rng.random() < 0.5 else (1.3, 0.3)
    one = np.zeros((n, lg.SEGMENTS - 1))
    fixed, again = constant + reading, float(rng.choice([0.0, 0.5, 2.0, 1e6]))
    wide = [np.concatenate([column[:, None], one], axis=1) for column in (later, share, fixed + share)]
    tokens, shares, own = wide
    return lg.Requests(
        release=np.sort(rng.integers(0, 30, n)).astype(float) * (rng.random() < 0.6),
        before=np.full(n, before), after=np.full(n, after),
        alone=before * (constant + prompt) + after * later * np.minimum(fixed + share, constant + again),
        prompt_time=constant + prompt, prompt_share=prompt, prompt_area=length * (constant + prompt) / 2,
        prompt_tokens=length, tokens=tokens, share=shares, own=own,
        context=np.repeat(length[:, None] + 1, lg.SEGMENTS, axis=1),
        again_share=np.full((n, lg.SEGMENTS), again), constant=float(constant), token_constant=fixed, rest=0.0,
        speed=1.0, room=float(rng.integers(8, 30)), places=float(rng.integers(1, 5)),
    )  # fmt: skip


def schedule(requests, rng):
    """Any batches that memory and places allow, tokens decoded or computed again. Returns the sum of costs."""
    n = len(requests.release)
    left, clock, total = requests.tokens[:, 0].copy(), 0.0, 0.0
    started, ended = np.full(n, False), np.full(n, False)
    eager, recomputing = rng.choice([0.4, 0.8, 1.0]), rng.choice([0.0, 0.5, 1.0])
    while not ended.all():
        batch, room, places, time = [], requests.room, requests.places, requests.constant
        decodes = False
        for i in rng.permutation(n):
            need = requests.context[i, 0]
            here = requests.release[i] <= clock and not ended[i] and rng.random() < eager
            if here and need <= room and places >= 1:
                batch.append(i)
                room, places = room - need, places - 1
                again = started[i] and rng.random() < recomputing
                decodes |= started[i] and not again
                later = requests.again_share[i, 0] if again else requests.share[i, 0]
                time += later if started[i] else requests.prompt_share[i]
        if not batch:
            clock += 0.5
            continue
        clock += time + decodes * (requests.token_constant - requests.constant)
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


def some_prices(rng, most, requests=None):
    """For company too where ``requests`` are given."""
    buckets = int(rng.integers(1, 20))
    edges = np.concatenate([[0.0], np.cumsum(rng.uniform(0.1, 2.0, buckets))])
    scale = 10 ** rng.uniform(-2, 1, 3)
    table = rng.exponential(1, (3, buckets)) * (rng.random((3, buckets)) < 0.8) * scale[:, None]
    found = lg.Prices(
        edges=edges * most / edges[-1], machine=table[0] * 5, memory=table[1] / 20, place=table[2]
    )
    if requests is None:
        return found
    stretch = rng.integers(0, buckets - found.first(requests) + 1)
    company = rng.exponential(rng.choice([0.1, 0.5, 2.0]), stretch.sum())
    return replace(found, company=company, offset=np.concatenate([[0], np.cumsum(stretch)]))


@QUIET
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), constant=st.integers(0, 9))
def test_no_prices_prove_too_much(seed, n, constant):
    """Random prices, and those that are looked for, against random schedules."""
    rng = np.random.default_rng(seed)
    requests = problem(rng, n, constant)
    found = [some_prices(rng, float(rng.uniform(5, 200)), requests) for _ in range(5)]
    found += [lg.with_company(requests, some_prices(rng, 60.0), 0.5)]
    value, better = lg.improve(requests, found[-1], rounds=4)
    assert value == lg.evaluate(requests, better) >= lg.evaluate(requests, found[-1])
    proven = max(lg.evaluate(requests, prices) for prices in (*found, better))
    for _ in range(6):
        assert proven <= schedule(requests, rng) * (1 + 1e-9), seed


def groups(requests, rng):
    """Some order; now and then some of those to come join together, and else all that run decode."""
    n, left = len(requests.release), requests.tokens[:, 0].copy()
    order, clock, total, running, ahead = rng.permutation(n), 0.0, 0.0, [], 0
    recomputing = rng.choice([0.0, 1.0])
    if rng.random() < 0.5:
        order = np.argsort(requests.prompt_share + requests.tokens[:, 0] * rng.choice([0.1, 1.0, 4.0]))
    while ahead < n or running:
        joining = []
        if ahead < n and (not running or rng.random() < 0.3):
            joining = [*order[ahead : ahead + int(rng.integers(1, n + 1))]]
            ahead += len(joining)
            clock = max(clock, *requests.release[joining])
        again = rng.random() < recomputing
        clock += requests.token_constant if running and not again else requests.constant
        clock += requests.prompt_share[joining].sum()
        clock += (requests.again_share if again else requests.share)[running, 0].sum()
        left[running] -= 1
        done = [i for i in (*running, *joining) if left[i] == 0]
        total += sum(clock - requests.release[i] for i in done)
        running = [i for i in (*running, *joining) if left[i] > 0]
    return total


@FEW
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), constant=st.integers(1, 8), alike=st.booleans())
def test_no_prices_of_crowds_prove_too_much(seed, n, constant, alike):
    """Random ones, and those that are looked for, with company and without, against groups and random schedules."""
    rng = np.random.default_rng(seed)
    drawn = problem(rng, n, constant)
    tokens, share, prompt = drawn.tokens, drawn.share, drawn.prompt_share
    if alike:
        tokens, share, prompt = (
            np.broadcast_to(each[:1], each.shape).copy() for each in (tokens, share, prompt)
        )
    release = drawn.release * (rng.random() < 0.5)
    one, fixed = np.ones(n), drawn.token_constant
    token = np.minimum(fixed + share[:, 0], constant + drawn.again_share[:, 0])
    ample = {"room": 1e9, "places": 1e9}
    requests = replace(
        drawn, release=release, before=one, after=one, tokens=tokens, share=share, prompt_share=prompt,
        own=fixed + share, alone=constant + prompt + tokens[:, 0] * token,
        prompt_time=constant + prompt, **ample,
    )  # fmt: skip
    best = min(groups(requests, rng) for _ in range(20))
    edges = np.linspace(0, release.max() + 2.5 * best / n, int(rng.integers(5, 60)))
    work = np.maximum(prompt + (share * tokens).sum(axis=1), 1).astype(np.int64)
    free = np.zeros(len(edges) - 1)
    crowd = worth_of_time(release.astype(np.int64), work, edges) * rng.uniform(0.3, 2) + 0.01
    size = free + rng.choice([0.5, 1.0, 2.0]) * prompt.mean()
    first = lg.Prices(edges=edges, machine=free, memory=free, place=free, crowd=crowd, size=size)
    _, settled = lg.settle(requests, first, rounds=3)
    value, better = lg.improve(requests, settled, rounds=8)
    assert value <= lg.evaluate(requests, better)  # which knows more blends
    _, beside = lg.improve(requests, lg.with_company(requests, better, 0.5), rounds=4)
    scarce = replace(beside, memory=free + 0.01, place=free + 0.05, machine=free + 0.1)
    for prices in (first, settled, better, beside):
        assert lg.evaluate(requests, prices) <= best * (1 + 1e-9), seed
    limited = replace(requests, room=drawn.room, places=drawn.places)
    value = max(lg.evaluate(limited, prices) for prices in (beside, scarce))
    for _ in range(4):
        assert value <= schedule(limited, rng) * (1 + 1e-9), seed


def test_parts_of_a_pass_are_the_whole_pass(monkeypatch):
    """Sums over requests do not depend on who is in which part; the last of four has one more."""
    rng = np.random.default_rng(5)
    requests = problem(rng, 101, 3)
    requests = replace(requests, before=np.ones(101), after=np.ones(101), alone=np.zeros(101))
    prices = some_prices(rng, 400.0, requests)
    crowd = np.sort(rng.exponential(0.5, len(prices.machine)))[::-1].copy()
    prices = replace(prices, crowd=crowd, size=np.full(len(crowd), 5.0), machine=prices.machine / 20)
    assert len(requests.release) >= lg.ALONE and len(prices.company)
    found = {}
    for parts in (1, 4):
        monkeypatch.setattr(lg, "PARTS", parts)
        value, use = lg._used(requests, prices)
        found[parts] = np.concatenate([[value], *(np.ravel(getattr(use, name)) for name in use.__slots__)])
    assert (found[1] != 0).any() and np.allclose(found[1], found[4], rtol=1e-12, atol=1e-9)


def by_hand(requests, prices):
    """What one request costs at prices of crowds: all moments at which its cheapest tokens change, bucket by bucket."""
    r, p, weight = requests, prices, requests.after[0]
    release, ready, prompt, share = r.release[0], r.prompt_time[0], r.prompt_share[0], r.share[0, 0]
    tokens, constant, whole = r.tokens[0].sum(), r.constant, r.token_constant
    fast = min(r.own[0, 0], constant + r.again_share[0, 0])
    need = tokens * fast
    spent = (prompt + constant) / 2 + tokens * min(whole + share, constant + r.again_share[0, 0])
    first, together = p.first(r)[0], p.together(r)
    company = np.zeros(len(p.machine))
    company[first : first + len(p.company)] = p.company
    work = p.machine + together
    rows, price = lc.rates(
        p.crowd / weight, p.size, r.prompt_share, np.array([tokens]), r.share[r.tokens > 0].min(), whole
    )
    least = weight * max(ready, p.edges[-1] - release)
    for c in range(first, len(company)):
        found = -np.inf
        stop = p.edges[c + 1] - release
        for theta in lc.FEW:
            crowd = [lc._crowd(rows, 0, theta, price[b], p.size[b]) for b in range(len(company))]
            paid = weight * np.array([max(0.0, gross - less) for gross, less in crowd])
            decode = work * share + paid + company * whole + p.memory * r.context[0, 0] * fast
            again = work * r.again_share[0, 0] + company * constant
            token = np.minimum(decode, again) / fast + p.place
            begins = np.maximum(p.edges[:-1], release) - release
            before = [b for b in range(first, c + 1) if b == first or p.edges[b] - release < stop - need]
            done = min(
                theta * weight * begins[b] + (work[b] + p.place[b]) * prompt + company[b] * constant
                for b in before
            )
            held = min(p.memory[b] * r.prompt_area[0] for b in before)

            def cost(end, token=token, theta=theta, done=done, held=held, begins=begins):
                ends = np.minimum(p.edges[1:] - release, end)
                wide = np.maximum(ends - np.maximum(begins, ready), 0)[first:]
                order = np.argsort(token[first:], kind="stable")
                taken = np.minimum(np.cumsum(wide[order]), need)
                if taken[-1] < need - 1e-9:
                    return np.inf
                price = np.diff(taken, prepend=0) @ token[first:][order]
                return theta * weight * spent + (1 - theta) * weight * end + price + done + held

            low = max(p.edges[c] - release, ready + need)
            if low <= stop:
                found = max(found, min(cost(end) for end in np.linspace(low, stop, 80)))
        if found > -np.inf:
            least = min(least, found)
    return max(least, r.alone[0])


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_one_request_at_prices_of_crowds_costs_what_it_costs_by_hand(seed):
    """All prices at once, company, memory and places included: no term is forgotten, none counted twice."""
    rng = np.random.default_rng(seed)
    requests = problem(rng, 1, int(rng.integers(1, 6)))
    tokens = np.array([[float(rng.integers(1, 7)), 0.0]])
    requests = replace(
        requests, before=np.full(1, 1.5), after=np.full(1, 1.5), alone=np.zeros(1), tokens=tokens,
        again_share=np.full((1, 2), rng.choice([0.5, 8.0])), share=requests.share + 0.3,
        own=requests.own + 0.3, prompt_share=requests.prompt_share * rng.uniform(0.5, 3),
    )  # fmt: skip
    prices = some_prices(rng, float(rng.uniform(60, 200)), requests)
    scale = float(rng.choice([0.1, 0.5, 2.0]))
    crowd = rng.exponential(scale, len(prices.machine))
    if rng.random() < 0.7:
        crowd = np.sort(crowd)[::-1].copy()
    size = np.full(len(crowd), rng.uniform(1, 20))
    prices = replace(
        prices,
        crowd=crowd,
        size=size,
        machine=prices.machine / 20,
        memory=prices.memory / 4,
        place=prices.place / 9,
    )
    value, _ = lg.improve(requests, prices, rounds=1)
    there = prices.charged(requests)
    slack = 1e-8 * (1 + there)
    assert value + there <= by_hand(requests, prices) + slack
    assert by_hand(requests, prices) <= (value + there) * 1.01 + slack


def cheapest(pieces, need):
    """Cost of ``need`` from (price, amount), the cheapest first."""
    cost = 0.0
    for price, amount in sorted(pieces):
        took = min(amount, need)
        cost, need = cost + price * took, need - took
    return cost


@QUIET
@given(seed=st.integers(0, 10**6))
def test_the_cheapest_times_are_taken_and_no_others(seed):
    rng = np.random.default_rng(seed)
    need, pieces, count, have, paid = rng.uniform(0.5, 9), [], 0, 0.0, 0.0
    prices, amounts, where, spare = np.zeros(20), np.zeros(20), np.zeros(20, np.int64), np.zeros((3, 20))
    for bucket in range(rng.integers(1, 20)):
        price, wide, late = rng.integers(0, 30) / 10, rng.uniform(0.1, 2), rng.choice([0.0, 0.3, 1.0])
        there = sum(amount for _, amount in pieces)
        take, cost = lc._stop(prices, amounts, count, have, paid, need, price, wide, late, spare)
        options = np.append(np.linspace(max(0.0, need - there), min(wide, need), 60), take)
        costs = [(price + late) * each + cheapest(pieces, need - each) for each in options]
        if there + wide < need:
            assert cost == np.inf
        else:
            assert np.isclose(cost, costs[-1]) and cost <= min(costs) + 1e-9
        pieces.append((price, wide))
        count, have, paid = lc._add(prices, amounts, where, count, have, paid, need, price, wide, bucket)
        assert np.isclose(have, min(need, there + wide)) and np.isclose(have, amounts[:count].sum())
        assert np.isclose(paid, cheapest(pieces, have)) and np.isclose(paid, prices[:count] @ amounts[:count])
        assert all(pieces[b][0] == price for b, price in zip(where[:count], prices, strict=False))


def interference(requests, rng, theta, alike):
    """Of a random schedule without limits: the sum of C - r, and what the docstring of ``lagrangian_crowd`` says that
    it is at least: theta (M - r + (p + constant) / 2 + tokens with those beside them + pairs) + (1 - theta) (C - r)."""
    n, left, clock = len(requests.release), requests.tokens[:, 0].copy(), 0.0
    asked = left.copy()
    work, moment, end = requests.prompt_share.copy(), np.zeros(n), np.full(n, np.nan)
    total, met = 0.0, np.zeros((n, n), bool)
    while np.isnan(end).any():
        here = (requests.release <= clock) & np.isnan(end)
        going = here & (alike | (rng.random(n) < 0.7))
        if not going.any():
            clock += 0.5
            continue
        chunk = np.where(going & (work > 0), work if alike else np.ceil(work * rng.random(n)), 0.0)
        decodes = going & (work == 0)
        decodes &= left > 0
        fixed = requests.token_constant if decodes.any() else requests.constant
        time = fixed + chunk.sum() + requests.share[decodes, 0].sum()
        moment += chunk * (clock + time / 2)
        clock += time
        total += decodes @ theta * requests.token_constant
        total += (decodes @ theta) * requests.share[decodes, 0].sum()
        met |= np.outer(decodes, decodes)
        work -= chunk
        left -= decodes
        end[(chunk > 0) & (work == 0) & (asked == 0)] = clock
        end[decodes & (left == 0)] = clock
    p, flow = requests.prompt_share, end - requests.release
    total += theta @ (moment / p - requests.release + (p + requests.constant) / 2) + (1 - theta) @ flow
    for i, j in zip(*np.nonzero(np.triu(met, 1)), strict=True):
        total += min(theta[i] * p[j], theta[j] * p[i])
    return flow.sum(), total


@QUIET
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), constant=st.integers(1, 9))
def test_prompts_of_others_delay_whoever_decodes(seed, n, constant):
    rng = np.random.default_rng(seed)
    requests = problem(rng, n, constant)
    theta = rng.choice([0.0, 0.5, 0.9, 1.0], n)
    for _ in range(3):
        flow, least = interference(requests, rng, theta, alike=False)
        assert least <= flow * (1 + 1e-9)


def test_a_group_is_delayed_by_its_own_prompts_alone():
    """All at once, alike, and side by side: nothing is lost, so that a percent more of anything would be too much."""
    n = 6
    requests = problem(np.random.default_rng(3), n, 2)
    same = {name: np.repeat(getattr(requests, name)[:1], n, axis=0) for name in ("prompt_share", "share")}
    requests = replace(requests, release=np.zeros(n), tokens=np.full((n, lg.SEGMENTS), 4.0), **same)
    requests = replace(requests, token_constant=requests.constant)
    flow, least = interference(requests, np.random.default_rng(0), np.ones(n), alike=True)
    assert np.isclose(flow, least, rtol=1e-12)


@QUIET
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), suited=st.booleans())
def test_crowds_pay_no_more_than_their_iteration(seed, n, suited):
    """The lemma of crowds, for any set that decodes. It is nearly an equation for one as large as prices suit, with
    prompts that differ as they suit."""
    rng = np.random.default_rng(seed)
    n *= 1 + 5 * suited
    prompt, tokens = rng.uniform(0.1, 20, n), rng.integers(1, 60, n).astype(float)
    theta, share, constant = rng.choice([0.0, 0.5, 0.75, 0.9], n), rng.uniform(0, 2), rng.uniform(0.1, 9)
    crowd, size = np.array([rng.uniform(0, 50)]), np.array([rng.uniform(0.1, 40)])
    if suited:
        tokens[:], theta[:], size[0] = 16.0, 0.75, 8.0
        prompt = 0.75 * 8.0 * (1 - np.log((np.arange(n) + 0.5) / n))
        crowd[0] = (1.5 * 8.0 * 0.75**2 / 16 + 2 * share * 0.75) * n**2 / (2 * constant)
    old, lc.USUAL = lc.USUAL, 0.75 if suited else lc.USUAL
    rows, price = lc.rates(crowd, size, prompt, tokens, share, constant)
    lc.USUAL = old
    each = [lc._crowd(rows, i, theta[i], price[0], size[0]) for i in range(n)]
    paid = sum(max(0.0, crowd - less) for crowd, less in each)
    there = crowd[0] * constant + share * (n - 1) * theta.sum()
    for i in range(n):
        for j in range(i):
            there += min(theta[i] * prompt[j], theta[j] * prompt[i]) / np.sqrt(tokens[i] * tokens[j])
    assert paid <= there * (1 + 1e-9)
    if suited and n > 20:
        assert paid >= there * 0.999


def lone(tokens, alone, **changes):
    """One request, one machine that it has to itself: a prompt of 12, or tokens of 5 each after a prompt of nothing."""
    prompt = 0.0 if tokens else 9.0
    requests = lg.Requests(
        release=np.zeros(1), before=np.ones(1), after=np.ones(1), alone=np.array([alone]),
        prompt_time=np.array([0.0 if tokens else alone]), prompt_share=np.array([prompt]), prompt_area=np.zeros(1),
        prompt_tokens=np.ones(1), tokens=np.array([[tokens, 0.0]]), share=np.ones((1, 2)), own=np.full((1, 2), 5.0),
        context=np.ones((1, 2)), again_share=np.full((1, 2), 1e6), constant=0.0 if tokens else 3.0,
        token_constant=4.0, rest=0.0, speed=1.0, room=1.0, places=1.0,
    )  # fmt: skip
    return replace(requests, **changes)


@pytest.mark.parametrize(
    "tokens, alone, more",
    [
        (10.0, 50.0, {"token_constant": 4.04}),
        (10.0, 50.0, {"share": np.full((1, 2), 1.01)}),
        (0.0, 12.0, {"constant": 3.03}),
        (0.0, 12.0, {"prompt_share": np.array([9.09])}),
    ],
)
def test_company_leaves_no_slack(tokens, alone, more):
    """It fills the machine, so what it pays for its constants and shares is all that there is: 1 % more of either
    would prove more than it takes."""
    none = np.zeros(2)
    prices = lg.Prices(
        edges=np.array([0.0, alone, 200.0]), machine=none, memory=none, place=none, company=np.array([0.5]),
        offset=np.array([0, 1]),
    )  # fmt: skip
    assert np.isclose(lg.evaluate(lone(tokens, alone), prices), alone, rtol=1e-6)
    assert lg.evaluate(lone(tokens, alone, **more), prices) > alone * 1.0005


def test_company_sees_prompts_between_tokens():
    """One request makes 30 tokens while ten prompts of 4 arrive, most of them before its end: without company prices
    prove half a unit of delay, with it 17."""
    rng = np.random.default_rng(0)
    n = 11
    tokens = np.zeros((n, lg.SEGMENTS))
    tokens[0, 0] = 30
    requests = replace(
        problem(rng, n, 3), release=np.arange(n) * 12.0, before=np.ones(n), after=np.ones(n), tokens=tokens,
        alone=np.array([3 + 1 + 30 * 3.1, *[7.0] * 10]), prompt_share=np.array([1.0, *[4.0] * 10]),
        prompt_time=np.array([4.0, *[7.0] * 10]), prompt_area=np.zeros(n), share=np.full((n, lg.SEGMENTS), 0.1),
        own=np.full((n, lg.SEGMENTS), 3.1), token_constant=3.0, context=np.ones((n, lg.SEGMENTS)), room=1e9,
        places=1e9,
    )  # fmt: skip
    prices = lg.Prices(
        edges=np.linspace(0, 300, 61), machine=np.full(60, 0.05), memory=np.zeros(60), place=np.zeros(60)
    )
    without, _ = lg.improve(requests, prices, rounds=40)
    value, _ = lg.improve(requests, lg.with_company(requests, prices, 0.7), rounds=40)
    assert without < requests.alone.sum() + 1
    assert requests.alone.sum() + 17 < value <= min(schedule(requests, rng) for _ in range(30))


def test_prices_of_nothing_prove_solitude():
    requests = problem(np.random.default_rng(1), 5, 3)
    free = lg.Prices(edges=np.array([0.0, 1e4]), machine=np.zeros(1), memory=np.zeros(1), place=np.zeros(1))
    assert np.isclose(lg.evaluate(requests, free), requests.alone.sum())


@pytest.mark.parametrize("name", ["machine", "memory", "place", "crowd"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_prices_must_be_numbers_of_at_least_zero(name, value):
    requests = problem(np.random.default_rng(1), 2, 3)
    prices = some_prices(np.random.default_rng(2), 10.0)
    prices = replace(prices, crowd=prices.machine.copy(), size=prices.machine)
    getattr(prices, name)[0] = value
    with pytest.raises(ValueError, match=f"prices of {name}"):
        lg.evaluate(requests, prices)


def test_edges_and_weights_are_checked():
    requests = problem(np.random.default_rng(1), 2, 3)
    prices = some_prices(np.random.default_rng(2), 10.0)
    with pytest.raises(ValueError, match="edges"):
        lg.evaluate(requests, replace(prices, edges=prices.edges[::-1].copy()))
    for edges in (prices.edges + 1 + requests.release.min() - prices.edges[0], prices.edges * np.nan):
        with pytest.raises(ValueError, match=r"edges of buckets|must begin"):
            lg.evaluate(requests, replace(prices, edges=edges))
    with pytest.raises(ValueError, match="no more after"):
        lg.evaluate(replace(requests, after=requests.before + 1), prices)
    crowded = replace(prices, crowd=prices.machine, size=prices.machine)
    with pytest.raises(ValueError, match="same before and after"):
        lg.evaluate(replace(requests, before=requests.after + 1), crowded)
    with pytest.raises(ValueError, match="a size for each bucket"):
        lg.evaluate(requests, replace(crowded, size=prices.machine[1:]))
