"""One set of prices for time, memory and places: a bound on weighted delays that holds for any prices.

Data       request i arrives at r[i], computes a prompt, then makes tokens one after another; F[i] its first
           token, C[i] its last; cost before * (F - r) + after * (C - F), before >= after >= 0
Resources  in a second the machines give ``speed`` seconds of machine time, ``room`` token-seconds of memory, and
           ``places`` seconds of places for sequences
Prices     >= 0 on each resource, constant within each bucket of time, none after the last
Lagrange   sum of costs >= sum of (costs + what is paid) - value of all that there is, because no more is used than
           there is. Given the prices requests no longer meet: each does what is cheapest for itself.

What a request pays (``planner.machines.Machines`` has the shares). In an iteration of length d = constant + sum of
shares or longer, who pays price * d can be split as price * share * d / (d - constant). So while it decodes it

    pays  machine * share / (d - constant) + memory * context + place   per unit of time, makes 1 / d tokens,

for any d >= own that it likes. A smaller d is a smaller batch: sooner, but it pays more of the constant. A
prompt takes ``time`` at least, in which it pays for ``share`` of machine time, at most one unit per unit, and
``area`` of memory, at most ``tokens`` per unit.

Each request then solves a problem of its own: when its prompt ends (F) and when it ends (C), and what it uses until
then. For F and C in given buckets its payments are bounded from below by pricing progress (weak duality again):
with mu for the prompt, or for a token, it pays at least mu times what is to be made, less the integral of the
most that a unit of time gains,

    gain = max(0, max over d of (mu - what an iteration of length d pays) / d)

for any mu >= 0. That is linear in F and C within a bucket, so corners settle it; the best of several mu counts, and
the least over all pairs of buckets. A request that ends after the last bucket costs at least until then.

So prices, not optimality, are what the bound rests on: whoever has them evaluates it in one pass (``evaluate``), and
they may come from anywhere (``improve``).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from formulations.hulls import FloatArray

SEGMENTS = 2
"""Stretches of tokens of a request, each priced like its cheapest token."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """Requests of one problem, all times in one unit. n requests, S = ``SEGMENTS`` stretches.

    ``before``, ``after`` [n]: cost of a unit of time before and after the first token. ``alone`` [n]: least
    cost when nobody else is there. ``constant``: what every iteration takes besides shares. ``rest``: time
    of each token off the machine. Stretches have a number of ``tokens``, and of each the least ``share``, duration
    ``own`` >= constant + share, ``context``, and share of computing it ``again``.
    """

    release: FloatArray
    before: FloatArray
    after: FloatArray
    alone: FloatArray
    prompt_time: FloatArray
    prompt_share: FloatArray
    prompt_area: FloatArray
    prompt_tokens: FloatArray
    tokens: FloatArray  # [n, S]
    share: FloatArray
    own: FloatArray
    context: FloatArray
    again_share: FloatArray
    constant: float
    rest: float
    speed: float
    room: float
    places: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """``edges`` [b + 1] of buckets; ``machine``, ``memory`` (per token) and ``place`` [b] per unit of time."""

    edges: FloatArray
    machine: FloatArray
    memory: FloatArray
    place: FloatArray

    def charged(self, requests: Requests) -> float:
        """Value of all that there is."""
        per_time = requests.speed * self.machine + requests.room * self.memory + requests.places * self.place
        return float((np.diff(self.edges) * per_time).sum())


def evaluate(requests: Requests, prices: Prices) -> float:
    """Bound on the sum of costs, for any prices >= 0: one pass over the requests.

    Raises
    ------
    ValueError
        When prices are negative or not finite, edges do not increase, or ``before`` < ``after``.
    """
    _check(requests, prices)
    total = _call(requests, prices, np.zeros((0, len(prices.machine))))
    return _certain(total, prices.charged(requests))


def _certain(total: float, charged: float) -> float:
    """The difference less what float64 could have lost."""
    return total - charged - 1e-9 * (total + charged)


def _check(requests: Requests, prices: Prices) -> None:
    for name in ("machine", "memory", "place"):
        values = getattr(prices, name)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"prices of {name} must be finite and >= 0")
    if (np.diff(prices.edges) <= 0).any():
        raise ValueError("edges of buckets must increase")
    if (requests.before < requests.after).any() or (requests.after < 0).any():
        raise ValueError("a unit of time must cost no more after the first token than before it")


# ---------------------------------------------------------------- one request


@njit(cache=True)
def _pace(machine, weight, share, own, constant):
    """Least weight * d + machine * share * d / (d - constant) over d >= own: the price of a token."""
    if machine * share <= 0.0:
        return weight * own
    if constant <= 0.0:
        return weight * own + machine * share
    if weight <= 0.0:
        return machine * share  # the longer the cheaper
    u = max(own - constant, np.sqrt(machine * share * constant / weight))
    return (weight + machine * share / u) * (constant + u)


@njit(cache=True)
def _gain(mu, machine, share, own, constant):
    """Most (mu - machine * share * d / (d - constant)) / d over d >= own, and d - constant there."""
    left = mu - machine * share
    u = own - constant
    if left <= 0.0:
        return 0.0, u
    a = machine * share * constant
    if a > 0.0:
        u = max(u, (a + np.sqrt(a * a + left * a * constant)) / left)
        return (left - a / u) / (u + constant), u
    return left / own, u


@njit(cache=True)
def _prompt_gain(worth, memory_worth, prices, b, share, tokens, constant):
    """Most that a unit of time in bucket b gains for a prompt, what it uses of machine and memory (-1: it waits), and
    the part of the prompt that it does."""
    gain, u = _gain(worth, prices[0, b], share, constant + share, constant)
    busy = gain > 0.0 and u > 0.0
    used, made, held = (share / u if busy else 0.0), (1.0 / (u + constant) if busy else 0.0), 0.0
    if memory_worth > prices[1, b]:
        gain += tokens * (memory_worth - prices[1, b])
        held = tokens
    gain -= prices[2, b]
    if gain <= 0.0:
        return 0.0, -1.0, 0.0, 0.0
    return gain, used, held, made


@njit(cache=True)
def _token_gain(mu, elsewhere, prices, b, i, stretches, constant, rest):
    """The same for the stretch of tokens that gains most, each decoded, or computed again from its context.
    ``stretches``: tokens, share, own, context and share of computing again, all [n, S]."""
    best, best_used, best_held, best_made = 0.0, -1.0, 0.0, 0.0
    machine, memory, place = prices[0, b], prices[1, b], prices[2, b]
    tokens, share, own, context, again = stretches
    for s in range(tokens.shape[1]):
        if tokens[i, s] <= 0.0:
            continue
        gain, u = _gain(mu[s], machine, share[i, s], own[i, s], constant)
        used, held, made = 0.0, context[i, s], 0.0
        if gain > 0.0 and u > 0.0:
            used, made = share[i, s] / u, 1.0 / (u + constant)
        if rest > 0.0 and elsewhere[s] > gain:
            gain, used, made = elsewhere[s], 0.0, 0.0
        gain -= memory * held
        other, u = _gain(mu[s] + elsewhere[s] * rest, machine, again[i, s], constant + again[i, s], constant)
        if other > gain and u > 0.0:
            gain, used, held, made = other, again[i, s] / u, 0.0, 1.0 / (u + constant)
        gain -= place
        if gain > best:
            best, best_used, best_held, best_made = gain, used, held, made
    return best, best_used, best_held, best_made


@njit(cache=True)
def _spend(usage, b, wide, left, used, held, made):
    """Adds what a request uses in the part of bucket b that it takes to make what is ``left``; returns the rest."""
    if used < 0.0:
        return left
    part = min(wide, left / made) if made > 0.0 else 0.0
    usage[0, b] += used * part
    usage[1, b] += held * part
    usage[2, b] += part
    return left - part * made


@njit(cache=True)
def _least(begin, span, start, length, same, weights, prompt, tokens):
    """Least cost with F in one bucket and C in another (or the ``same``), which begin ``begin`` and ``start`` after the
    arrival, beside the prompt's value at its bucket's start less what time gains there, and the tokens' value, less
    what time gains in both buckets. Linear in F and C: corners settle it."""
    before, after = weights
    value, gain = prompt
    worth, early, late = tokens
    base = (before - after) * begin + after * start + value + worth
    last = length * (after - late)
    if same:
        return base + min(0.0, length * (before - gain), last)
    return base + min(0.0, span * (before - after - gain + early)) + min(0.0, last)


@njit(cache=True)
def _values(edges, prices, release, before, after, alone, prompt_time, prompt_share, prompt_area, prompt_tokens,
            tokens, share, own, context, again, constant, rest, usage):  # fmt: skip
    """Sum over requests of their least costs; adds what they use of each resource to ``usage`` [3, b].

    Progress is valued at the prices of each bucket that has come into view. For each pair of buckets the latest values
    are tried, and those that were best for the pair before.
    """
    buckets, most = prices.shape[1], tokens.shape[1]
    mu, elsewhere = np.zeros((buckets, most)), np.zeros((buckets, most))
    worth, prompt_worth = np.zeros(buckets), np.zeros(buckets)
    gain, prompt_gain = np.zeros((buckets, buckets)), np.zeros((buckets, buckets))  # level, bucket
    until, prompt_until = np.zeros((buckets, buckets + 1)), np.zeros((buckets, buckets + 1))
    stretches = (tokens, share, own, context, again)
    best_prompt, best_token = np.zeros(buckets, np.int64), np.zeros(buckets, np.int64)
    total = 0.0
    for i in range(release.shape[0]):
        first = min(max(np.searchsorted(edges, release[i], side="right") - 1, 0), buckets - 1)
        decodes = tokens[i, 0] > 0.0
        weight_after = (
            after[i] if decodes else before[i]
        )  # with one token all time counts like that before it
        weights = (before[i], weight_after)
        head_start = (before[i] - weight_after) * prompt_time[i]
        answer, f_best, c_best, p_best, k_best = np.inf, -1, -1, -1, -1
        for c in range(first, buckets):
            start = max(release[i], edges[c]) - release[i]
            length = edges[c + 1] - release[i] - start
            if head_start + weight_after * start >= answer:
                break
            lam, kap, sig = prices[0, c], prices[1, c], prices[2, c]
            weight = before[i] + sig
            prompt_worth[c] = _pace(lam, weight, prompt_share[i], constant + prompt_share[i], constant)
            worth[c] = 0.0
            for s in range(most):
                if tokens[i, s] > 0.0:
                    weight = weight_after + sig + kap * context[i, s]
                    token = _pace(lam, weight, share[i, s], own[i, s], constant) + weight * rest
                    recomputed = _pace(lam, weight_after + sig, again[i, s], constant + again[i, s], constant)
                    elsewhere[c, s] = weight if rest > 0.0 else 0.0
                    mu[c, s] = max(0.0, min(token, recomputed) - weight * rest)
                    worth[c] += tokens[i, s] * (mu[c, s] + elsewhere[c, s] * rest)
            prompt_until[c, first], until[c, first] = 0.0, 0.0
            for k in range(first, c + 1):  # this bucket at the levels before, and all buckets at its own
                for b in range(c if k < c else first, c + 1):
                    wide = edges[b + 1] - max(release[i], edges[b])
                    prompt_gain[k, b], _, _, _ = _prompt_gain(
                        prompt_worth[k], prices[1, k], prices, b, prompt_share[i], prompt_tokens[i], constant
                    )
                    prompt_until[k, b + 1] = prompt_until[k, b] + wide * prompt_gain[k, b]
                    if decodes:
                        gain[k, b], _, _, _ = _token_gain(
                            mu[k], elsewhere[k], prices, b, i, stretches, constant, rest
                        )
                        until[k, b + 1] = until[k, b] + wide * gain[k, b]
            best_prompt[c] = best_prompt[c - 1] if c > first else c
            best_token[c] = c
            for f in range(first if decodes else c, c + 1):
                begin = max(release[i], edges[f]) - release[i]
                span = edges[f + 1] - release[i] - begin
                base = (before[i] - weight_after) * begin + weight_after * start
                if base >= answer:
                    break
                found, p_found, k_found = base, -1, -1  # what is paid is not negative
                for p in (best_prompt[f], c):
                    held = prices[1, p] * prompt_area[i]
                    prompt = (prompt_worth[p] + held - prompt_until[p, f], prompt_gain[p, f])
                    if not decodes:
                        value = _least(begin, span, start, length, True, weights, prompt, (0.0, 0.0, 0.0))
                        if value > found:
                            found, p_found = value, p
                        continue
                    for k in (best_token[f], c):
                        ahead = (worth[k] - until[k, c] + until[k, f], gain[k, f], gain[k, c])
                        value = _least(begin, span, start, length, f == c, weights, prompt, ahead)
                        if value > found:
                            found, p_found, k_found = value, p, k
                if p_found >= 0:
                    best_prompt[f] = p_found
                if k_found >= 0:
                    best_token[f] = k_found
                if found < answer:
                    answer, f_best, c_best, p_best, k_best = found, f, c, p_found, k_found
        ending = head_start + weight_after * max(0.0, edges[buckets] - release[i])
        if ending < answer:
            answer, c_best = ending, -1
        if answer <= alone[i]:
            total += alone[i]
            continue
        total += answer
        if c_best < 0 or usage.shape[0] == 0:
            continue
        if p_best >= 0:  # what it uses, in the parts of the buckets that it takes to be done
            left, worth_there = 1.0, prompt_worth[p_best]
            for b in range(f_best, first - 1, -1):
                _, used, held, made = _prompt_gain(
                    worth_there, prices[1, p_best], prices, b, prompt_share[i], prompt_tokens[i], constant
                )
                left = _spend(usage, b, edges[b + 1] - max(release[i], edges[b]), left, used, held, made)
        if k_best >= 0:
            left = tokens[i].sum()
            for b in range(c_best, f_best - 1, -1):
                _, used, held, made = _token_gain(
                    mu[k_best], elsewhere[k_best], prices, b, i, stretches, constant, rest
                )
                left = _spend(usage, b, edges[b + 1] - max(release[i], edges[b]), left, used, held, made)
    return total


# ---------------------------------------------------------------- prices


def _call(requests: Requests, prices: Prices, usage: FloatArray) -> float:
    result: float = _values(
        prices.edges, np.stack([prices.machine, prices.memory, prices.place]), requests.release, requests.before,
        requests.after, requests.alone, requests.prompt_time, requests.prompt_share, requests.prompt_area,
        requests.prompt_tokens, requests.tokens, requests.share, requests.own, requests.context,
        requests.again_share, requests.constant, requests.rest, usage,
    )  # fmt: skip
    return result


def improve(requests: Requests, prices: Prices, *, rounds: int) -> tuple[float, Prices]:
    """Better prices, and their bound: ``rounds`` of subgradient steps in proportion to the prices, no randomness.

    A price rises where requests, each on its own, would use more than there is, and falls where they use
    less; the use is smoothed over rounds, because each request jumps from one best answer to another.
    The best prices seen are returned.
    """
    _check(requests, prices)
    buckets = len(prices.machine)
    there = np.diff(prices.edges) * np.array([[requests.speed], [requests.room], [requests.places]])
    table = np.stack([prices.machine, prices.memory, prices.place])
    smooth = np.zeros((3, buckets))
    best, kept = -np.inf, prices
    for k in range(rounds):
        now = Prices(edges=prices.edges, machine=table[0], memory=table[1], place=table[2])
        usage = np.zeros((3, buckets))
        value = _certain(_call(requests, now, usage), now.charged(requests))
        if value > best:
            best, kept = value, now
        excess = np.clip(usage / there - 1.0, -1.0, 1.0)
        smooth = excess if k == 0 else 0.6 * smooth + 0.4 * excess
        step = 0.06 / (1.0 + k / 15)
        move = step * smooth * (table + 0.1 * table.mean(axis=1, keepdims=True))
        table = np.maximum(table + move, 0.0)
    return best, kept
