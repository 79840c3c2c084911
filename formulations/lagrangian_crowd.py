"""Prices of crowds: what requests that decode side by side pay for each other's prompts. A bound on weighted times of
ends for any prices, and its compiled half; ``formulations.lagrangian`` has the problem and all other prices.

Interference   Let prompt i take p[i] of machine time, at the rate y[i](t), and let h[i](t) be the part of it that is
               done, until i ends, then 0. With M[i] the mean time of its work, C[i] - M[i] is the integral of h[i].
               While h[i] > 0 the machine does constants, shares of tokens, and prompts, so that integral is at least

                   (p[i] + constant) / 2                                             i's own prompt
                   + the sum over its tokens of (constant + shares of all that decode beside it)
                   + the sum over j != i of the integral of h[i] y[j]                others' prompts

Pairs          integral of (a h[i] y[j] + b h[j] y[i]) >= min(a p[j], b p[i]) if i and j ever decode in one iteration:
               y[j] = p[j] h'[j], so it is at least that minimum times the integral of (h[i] h[j])' up to the first
               end, where both prompts are done. i and j decode side by side in at most sqrt(m[i] m[j]) iterations, m
               their tokens, so each of those may be charged min(a p[j], b p[i]) / sqrt(m[i] m[j]).
Blend          C - r is (1 - theta) (C - r) + theta (M - r + integral of h), for any theta[i] in [0, 1]: the first part
               makes waiting dear, the second crowds. theta may depend on when i ends.
Crowds         An iteration in which the set S decodes pays lambda (constant + shares) of machine time. For any
               alpha, beta >= 0 with 3/2 z alpha^2 + 2 s beta^2 <= 2 lambda constant (s: least share of a token) and any
               size z it pays, with what pairs are charged, at least lambda shares + the sum over S of

                   q = alpha theta W(p / theta) / sqrt(m) + 2 s beta sqrt(theta) - theta p / (2 m) - theta s

               where W(y) is the integral up to y of w(x) = 1 for x < z, exp(1 - x / z) from z on: of prompts that
               differ the larger ones have fewer like them.
               Proof: min(theta[i] p[j], theta[j] p[i]) is theta[i] theta[j] times the integral over x of
               [x < p[i] / theta[i]] [x < p[j] / theta[j]]. So all pairs are charged, at least, half of the integral
               over x of v(x)^2, v(x) = sum over S of [x < p / theta] theta / sqrt(m), less half its diagonal; and
               shares beside each other theta[i] s + theta[j] s >= 2 s sqrt(theta[i] theta[j]), in sum
               s (sum of sqrt(theta))^2 less its diagonal. Of either square, v^2 >= 2 a v - a^2, with a = alpha w(x),
               whose square has the integral 3/2 z alpha^2. Whoever has q < 0 is left out of S.

Requests then no longer meet. Each places its prompt's work anywhere before its first token, at (lambda + company) p +
theta (t - r), and its tokens, no faster than alone, anywhere before its end: the cheapest times there are. All theta
of ``BLENDS`` are tried for each bucket in which it may end, and the best counts; then the bucket that is least.
"""

import numpy as np
from numba import njit

from formulations.hulls import FloatArray

BLENDS = np.array([0.0, 0.2, 0.4, 0.55, 0.65, 0.73, 0.8, 0.85, 0.9, 0.94, 0.97, 1.0])
"""Values of theta that requests choose from."""

FEW = np.array([0.0, 0.4, 0.65, 0.8, 0.9, 0.97])
"""Those that they choose from while prices are looked for."""

USUAL = 0.7
"""Theta for which alpha and beta are in proportion to what each counts."""


def rates(
    crowd: FloatArray, size: FloatArray, prompt: FloatArray, tokens: FloatArray, share: float, constant: float
) -> tuple[FloatArray, FloatArray]:
    """[5, n] of each request, what ``_crowd`` needs, and [b] of each bucket, its price.

    ``crowd``, ``size`` [b]: lambda and z; ``prompt``, ``tokens`` [n]: p and m; ``share``: least of a token;
    ``constant``: of an iteration that decodes.
    """
    each = np.where(tokens > 0, 1 / np.sqrt(np.maximum(tokens, 1)), 0.0)
    usual = USUAL * float((tokens * each).sum() / tokens.sum())
    other = 2 * share * USUAL**0.5
    square = 1.5 * size * usual**2 + other * USUAL**0.5
    same = np.full(len(tokens), 1.0)
    rows = np.stack([usual * each, prompt, other * same, prompt * each**2 / 2, share * same])
    price: FloatArray = np.sqrt(2 * crowd * constant / square) if square.min() > 0 else 0.0 * crowd
    return rows, price


@njit(cache=True)
def _counted(prompt, size):
    """W of the module: a prompt, what is beyond ``size`` of it less and less."""
    if prompt <= size or size <= 0.0:
        return min(prompt, size)
    return size * (2.0 - np.exp(1.0 - prompt / size))


@njit(cache=True)
def _crowd(rows, i, theta, price, size):
    """What a decode of i pays for crowds, and how much of that does not count."""
    if theta <= 0.0:
        return 0.0, 0.0
    paid = theta * rows[0, i] * _counted(rows[1, i] / theta, size) + np.sqrt(theta) * rows[2, i]
    return price * paid, theta * (rows[3, i] + rows[4, i])


@njit(cache=True)
def _push(prices, amounts, where, count, price, amount, bucket):
    """Onto a heap in arrays, the dearest first."""
    k = count
    while k > 0:
        up = (k - 1) // 2
        if prices[up] >= price:
            break
        prices[k], amounts[k], where[k] = prices[up], amounts[up], where[up]
        k = up
    prices[k], amounts[k], where[k] = price, amount, bucket


@njit(cache=True)
def _pop(prices, amounts, where, count):
    """The dearest is overwritten; the heap has one less."""
    last, price = count - 1, prices[count - 1]
    k = 0
    while 2 * k + 1 < last:
        down = 2 * k + 1
        if down + 1 < last and prices[down + 1] > prices[down]:
            down += 1
        if prices[down] <= price:
            break
        prices[k], amounts[k], where[k] = prices[down], amounts[down], where[down]
        k = down
    prices[k], amounts[k], where[k] = price, amounts[last], where[last]


@njit(cache=True)
def _add(prices, amounts, where, count, have, paid, need, price, wide, bucket):
    """Takes ``wide`` more at ``price`` and gives back the dearest of what is more than needed; returns how many entries
    the heap has then, how much is taken and what that costs."""
    if count > 0 and price >= prices[0]:
        wide = min(wide, need - have)
        if wide <= 0.0:
            return count, have, paid
    _push(prices, amounts, where, count, price, wide, bucket)
    count += 1
    have += wide
    paid += price * wide
    while have > need:
        back = min(amounts[0], have - need)
        have -= back
        paid -= prices[0] * back
        if amounts[0] > back:
            amounts[0] -= back
            break
        _pop(prices, amounts, where, count)
        count -= 1
    return count, have, paid


@njit(cache=True)
def _stop(prices, amounts, count, have, paid, need, price, wide, late, spare):
    """How much of ``wide`` more at ``price`` to take where each unit delays by ``late``, and what all costs then;
    infinite where it is not enough. ``spare``: three rows as long as the heap's."""
    take = max(0.0, need - have)
    if take > wide:
        return wide, np.inf
    price += late
    cost = paid + take * price
    if take >= wide or count == 0 or prices[0] <= price:
        return take, cost
    dearer = 0
    for k in range(count):
        if prices[k] > price:
            _push(spare[0], spare[1], spare[2], dearer, prices[k], amounts[k], 0.0)
            dearer += 1
    while take < wide and dearer > 0:
        more = min(spare[1, 0], wide - take)
        take += more
        cost += more * (price - spare[0, 0])
        _pop(spare[0], spare[1], spare[2], dearer)
        dearer -= 1
    return take, cost


@njit(cache=True, nogil=True)
def values(edges, prices, release, weight, blends, alone, ready, prompt_share, prompt_area, tokens, share, own,
           context, again, constants, first_of, offset, company, rows, usage, own_use, ends, works,
           sizes):  # fmt: skip
    """Sum over requests of their least costs.

    ``prices`` [7, b]: of machine, memory, place, of shares alone (all that company costs, and of crowds), of crowds as
    ``_crowd`` has it, of crowds, and their size. ``own``: least time of a token. Adds to ``usage`` [5, b] what requests
    use of the first three, their shares, and what they pay for crowds, to ``own_use`` their own constants (as
    ``company``), to ``sizes`` [2, b] tokens and prompts of those that make them; sets ``ends`` [n], the bucket in which
    each ends, and ``works`` [n], the machine time that it takes, its part of constants included. Nothing of all that
    where ``usage`` is empty.
    """
    buckets, many = prices.shape[1], len(blends)
    constant, whole = constants
    token, prompt_least = np.zeros((many, buckets)), np.zeros((many, buckets))
    area_least, prompt_at = np.zeros(buckets), np.zeros((many, buckets), np.int64)
    have, paid, count = np.zeros(many), np.zeros(many), np.zeros(many, np.int64)
    # Of each theta a heap of the times taken so far: price, amount and bucket.
    taken, amounts, where = (
        np.zeros((many, buckets)),
        np.zeros((many, buckets)),
        np.zeros((many, buckets), np.int64),
    )
    spare = np.zeros((3, buckets))
    total = 0.0
    for i in range(release.shape[0]):
        first = first_of[i]
        paying = min(buckets - first, offset[i + 1] - offset[i])
        fast = min(own[i], constant + again[i])
        need = tokens[i] * fast
        spent = (prompt_share[i] + constant) / 2 + tokens[i] * min(whole + share[i], constant + again[i])
        answer, c_best, f_best, t_best, f = np.inf, -1, -1, 0, first
        have[:] = 0.0
        paid[:] = 0.0
        count[:] = 0
        for c in range(first, buckets):
            here, stop = max(release[i], edges[c]) - release[i], edges[c + 1] - release[i]
            if weight[i] * here >= answer:
                break
            mine = company[offset[i] + c - first] if c - first < paying else 0.0
            work = prices[0, c] + prices[3, c]
            area_least[c] = prices[1, c] * prompt_area[i]
            if c > first:
                area_least[c] = min(area_least[c], area_least[c - 1])
            begin = max(here, ready[i])
            enough = stop >= ready[i] + need
            while enough and f < c and edges[f + 1] - release[i] < stop - need:
                f += 1
            found, t_found = -np.inf, 0
            for t in range(many):
                wait = blends[t] * weight[i]  # until the prompt's work, the rest until the last token
                late = weight[i] - wait
                prompt = wait * here + (work + prices[2, c]) * prompt_share[i] + mine * constant
                prompt_least[t, c], prompt_at[t, c] = prompt, c
                if c > first and prompt_least[t, c - 1] <= prompt:
                    prompt_least[t, c], prompt_at[t, c] = prompt_least[t, c - 1], prompt_at[t, c - 1]
                token[t, c] = prices[2, c]
                if need > 0.0:
                    crowd, less = _crowd(rows, i, blends[t], prices[4, c], prices[6, c])
                    decode = work * share[i] + mine * whole + prices[1, c] * context[i] * fast
                    recomputed = work * again[i] + mine * constant
                    token[t, c] += min(decode + weight[i] * max(0.0, crowd - less), recomputed) / fast
                if enough and found < answer:  # else this bucket is not the least
                    _, cost = _stop(
                        taken[t], amounts[t], count[t], have[t], paid[t], need, token[t, c], stop - begin, late, spare,
                    )  # fmt: skip
                    value = wait * spent + late * begin + cost + prompt_least[t, f] + area_least[f]
                    if value > found:
                        found, t_found = value, t
                if need > 0.0 and stop > begin:
                    count[t], have[t], paid[t] = _add(
                        taken[t], amounts[t], where[t], count[t], have[t], paid[t], need, token[t, c], stop - begin, c,
                    )  # fmt: skip
            if enough and found < answer:
                answer, c_best, f_best, t_best = found, c, f, t_found
        if weight[i] * max(ready[i], edges[buckets] - release[i]) < answer:
            answer, c_best = weight[i] * max(ready[i], edges[buckets] - release[i]), -1
        total += max(answer, alone[i])
        if usage.shape[0] == 0:
            continue
        ends[i] = c_best if c_best >= 0 else buckets - 1
        works[i] = prompt_share[i] + tokens[i] * share[i]
        if answer <= alone[i] or c_best < 0:
            continue
        at = prompt_at[t_best, f_best]
        usage[0, at] += prompt_share[i]
        usage[2, at] += prompt_share[i]
        usage[3, at] += prompt_share[i]
        if at - first < paying:
            own_use[offset[i] + at - first] += constant
        got, costs, entries = 0.0, 0.0, 0
        for c in range(first, c_best + 1):  # once more, to know which times were the cheapest
            begin = max(release[i], edges[c]) - release[i]
            wide = edges[c + 1] - release[i] - max(begin, ready[i])
            price = token[t_best, c]
            if c == c_best:
                late = (1.0 - blends[t_best]) * weight[i]
                wide, _ = _stop(taken[0], amounts[0], entries, got, costs, need, price, wide, late, spare)
            if need > 0.0 and wide > 0.0:
                entries, got, costs = _add(
                    taken[0], amounts[0], where[0], entries, got, costs, need, price, wide, c
                )
        for k in range(entries):
            b, amount = where[0, k], amounts[0, k]
            made = amount / fast
            crowd, less = _crowd(rows, i, blends[t_best], prices[4, b], prices[6, b])
            sizes[0, b] += made
            sizes[1, b] += made * prompt_share[i]
            usage[0, b] += made * share[i]
            usage[1, b] += amount * context[i]
            usage[2, b] += amount
            usage[3, b] += made * share[i]
            if crowd > less:
                usage[4, b] += made * weight[i] * crowd
                works[i] += made * weight[i] * crowd / (2 * prices[5, b])
            if b - first < paying:
                own_use[offset[i] + b - first] += made * whole
    return total
