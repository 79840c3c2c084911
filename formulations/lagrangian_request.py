"""One request at given prices of time: the compiled half of ``formulations.lagrangian``, which has the mathematics."""

import numpy as np
from numba import njit


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
    if own <= 0.0:  # any number of them in no time: this worth proves nothing
        return np.inf, u
    return left / own, u


@njit(cache=True)
def _prompt_gain(worth, memory_worth, prices, b, flat, share, tokens, constant):
    """Most that a unit of time in bucket b gains for a prompt, all of which pays ``flat`` there besides, what it uses
    of machine and memory (-1: it waits), and the part of the prompt that it does."""
    gain, u = _gain(worth - flat, prices[0, b], share, constant + share, constant)
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
def _token_gain(mu, elsewhere, prices, b, own_price, i, stretches, constants, rest):
    """The same for the stretch of tokens that gains most, each decoded, or computed again from its context.
    ``stretches``: tokens, share, own, context and share of computing again, all [n, S]."""
    best, best_used, best_held, best_made = 0.0, -1.0, 0.0, 0.0
    machine, memory, place, together = prices[0, b], prices[1, b], prices[2, b], prices[3, b]
    tokens, share, own, context, again = stretches
    constant, whole = constants
    for s in range(tokens.shape[1]):
        if tokens[i, s] <= 0.0:
            continue
        flat = together * share[i, s] + own_price * whole
        gain, u = _gain(mu[s] - flat, machine, share[i, s], own[i, s], whole)
        used, held, made = 0.0, context[i, s], 0.0
        if gain > 0.0 and u > 0.0:
            used, made = share[i, s] / u, 1.0 / (u + whole)
        if rest > 0.0 and elsewhere[s] > gain:
            gain, used, made = elsewhere[s], 0.0, 0.0
        gain -= memory * held
        worth = mu[s] + elsewhere[s] * rest - together * again[i, s] - own_price * constant
        other, u = _gain(worth, machine, again[i, s], constant + again[i, s], constant)
        if other > gain:
            gain, used, held, made = other, 0.0, 0.0, 0.0
            if u > 0.0:
                used, made = again[i, s] / u, 1.0 / (u + constant)
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
    return max(0.0, left - part * made)


@njit(cache=True)
def _least(early, late, f, c, apart):
    """Least early * F + late * C over F in [f[0], f[1]], C in [c[0], c[1]] and C >= F + apart: at a corner; infinite
    where there is none."""
    last = min(f[1], c[1] - apart)
    if last < f[0]:
        return np.inf
    turn = min(max(c[0] - apart, f[0]), last)
    best = np.inf
    for at in (f[0], turn, last):
        best = min(best, early * at + late * max(c[0], at + apart), early * at + late * c[1])
    return best


@njit(cache=True)
def _insert(order, rank, worth, first, c):
    """Puts level c where it belongs among ``order[first : c]``, which is sorted by ``worth``."""
    at = c
    while at > first and worth[order[at - 1]] > worth[c]:
        order[at] = order[at - 1]
        rank[order[at]] = at
        at -= 1
    order[at], rank[c] = c, at


@njit(cache=True)
def values(edges, prices, release, before, after, alone, prompt_time, prompt_share, prompt_area, prompt_tokens,
           tokens, share, own, context, again, constants, rest, first_of, offset, company, usage, own_use,
           ends):  # fmt: skip
    """Sum over requests of their least costs.

    ``prices`` [4, b]: of machine, memory, place, and all that company costs. Adds what requests use of the first three,
    and their shares, to ``usage`` [4, b], their own constants to ``own_use`` (as ``company``), and says in ``ends``
    [n] in which bucket each ends; nothing where these are empty.

    Progress is valued at the prices of each bucket that has come into view, its *level*. The bound is concave in levels
    sorted by worth: for each pair of buckets the prompt's climbs from the one that was best for the pair before and
    from the latest; of the tokens' these two are tried.
    """
    buckets, most = prices.shape[1], tokens.shape[1]
    constant, whole = constants
    mu, elsewhere = np.zeros((buckets, most)), np.zeros((buckets, most))
    worth, prompt_worth, flat, mine = (
        np.zeros(buckets),
        np.zeros(buckets),
        np.zeros(buckets),
        np.zeros(buckets),
    )
    gain, prompt_gain = np.zeros((buckets, buckets)), np.zeros((buckets, buckets))  # level, bucket
    until, prompt_until = np.zeros((buckets, buckets + 1)), np.zeros((buckets, buckets + 1))
    stretches = (tokens, share, own, context, again)
    best_prompt, best_token = np.zeros(buckets, np.int64), np.zeros(buckets, np.int64)
    order, rank = np.zeros(buckets, np.int64), np.zeros(buckets, np.int64)
    total = 0.0
    for i in range(release.shape[0]):
        first = first_of[i]
        decodes = tokens[i, 0] > 0.0
        late = after[i] if decodes else before[i]  # with one token all time counts like that before it
        early = before[i] - late
        ready = prompt_time[i]
        apart = max(0.0, alone[i] - before[i] * ready) / late if decodes and late > 0.0 else 0.0
        paying = min(buckets - first, offset[i + 1] - offset[i])
        mine[first:] = 0.0
        mine[first : first + paying] = company[offset[i] : offset[i] + paying]
        answer, f_best, c_best, p_best, k_best = np.inf, -1, -1, -1, -1
        for c in range(first, buckets):
            start, stop = max(release[i], edges[c]) - release[i], edges[c + 1] - release[i]
            if early * ready + late * start >= answer:
                break
            lam, kap, sig, tog = prices[0, c], prices[1, c], prices[2, c], prices[3, c]
            flat[c] = tog * prompt_share[i] + mine[c] * constant
            weight = before[i] + sig
            prompt_worth[c] = flat[c] + _pace(
                lam, weight, prompt_share[i], constant + prompt_share[i], constant
            )
            worth[c] = 0.0
            for s in range(most):
                if tokens[i, s] > 0.0:
                    weight = late + sig + kap * context[i, s]
                    token = _pace(lam, weight, share[i, s], own[i, s], whole) + weight * rest
                    token += tog * share[i, s] + mine[c] * whole
                    recomputed = _pace(lam, late + sig, again[i, s], constant + again[i, s], constant)
                    recomputed += tog * again[i, s] + mine[c] * constant
                    elsewhere[c, s] = weight if rest > 0.0 else 0.0
                    mu[c, s] = max(0.0, min(token, recomputed) - weight * rest)
                    worth[c] += tokens[i, s] * (mu[c, s] + elsewhere[c, s] * rest)
            prompt_until[c, first], until[c, first] = 0.0, 0.0
            for k in range(first, c + 1):  # this bucket at the levels before, and all buckets at its own
                for b in range(c if k < c else first, c + 1):
                    wide = edges[b + 1] - max(release[i], edges[b])
                    prompt_gain[k, b], _, _, _ = _prompt_gain(
                        prompt_worth[k], prices[1, k], prices, b, flat[b], prompt_share[i], prompt_tokens[i],
                        constant,
                    )  # fmt: skip
                    prompt_until[k, b + 1] = prompt_until[k, b] + wide * prompt_gain[k, b]
                    gain[k, b] = 0.0
                    if decodes:
                        gain[k, b], _, _, _ = _token_gain(
                            mu[k], elsewhere[k], prices, b, mine[b], i, stretches, constants, rest
                        )
                    until[k, b + 1] = until[k, b] + wide * gain[k, b]
            best_prompt[c] = best_prompt[c - 1] if c > first else c
            best_token[c] = c
            _insert(order, rank, prompt_worth, first, c)
            if stop < ready + apart:
                continue
            for f in range(first if decodes else c, c + 1):
                begin, end = max(release[i], edges[f]) - release[i], edges[f + 1] - release[i]
                soonest = max(begin, ready)  # F
                if soonest + apart > stop:
                    break
                base = early * soonest + late * max(start, soonest + apart)  # what is paid is not negative
                if base >= answer:
                    break
                if end < ready:
                    continue
                found, p_found, k_found = -np.inf, c, c
                for side in range(4):  # the latest level, the best so far, and on from there, down and up
                    at = rank[c] if side == 0 else rank[best_prompt[f]] if side == 1 else rank[p_found]
                    better = True
                    while better:
                        at += -1 if side == 2 else 1 if side == 3 else 0
                        if at < first or at > c:
                            break
                        p, better = order[at], False
                        paid = prompt_worth[p] + prices[1, p] * prompt_area[i] - prompt_until[p, f]
                        paid += prompt_gain[p, f] * begin
                        for k in (best_token[f], c):
                            value = paid + worth[k] - until[k, c] + until[k, f]
                            value += gain[k, c] * start - gain[k, f] * begin
                            value += _least(
                                early - prompt_gain[p, f] + gain[k, f], late - gain[k, c],
                                (soonest, end), (start, stop), apart,
                            )  # fmt: skip
                            if value > found:
                                found, p_found, k_found, better = value, p, k, side > 1
                best_prompt[f], best_token[f] = p_found, k_found
                if max(found, base) < answer:
                    answer, f_best, c_best, p_best, k_best = max(found, base), f, c, p_found, k_found
        ending = early * ready + late * max(0.0, edges[buckets] - release[i])
        if ending < answer:
            answer, c_best = ending, -1
        if ends.shape[0] > 0:
            ends[i] = c_best if c_best >= 0 else buckets - 1
        if answer <= alone[i]:
            total += alone[i]
            continue
        total += answer
        if c_best < 0 or usage.shape[0] == 0:
            continue
        left = 1.0  # of the prompt: what it uses, in the parts of the buckets that it takes to be done
        for b in range(f_best, first - 1, -1):
            _, used, held, made = _prompt_gain(
                prompt_worth[p_best], prices[1, p_best], prices, b, flat[b], prompt_share[i], prompt_tokens[i],
                constant,
            )  # fmt: skip
            was = left
            left = _spend(usage, b, edges[b + 1] - max(release[i], edges[b]), left, used, held, made)
            usage[3, b] += (was - left) * prompt_share[i]
            if b - first < paying:
                own_use[offset[i] + b - first] += (was - left) * constant
        left = tokens[i].sum()
        for b in range(c_best, f_best - 1, -1):
            _, used, held, made = _token_gain(
                mu[k_best], elsewhere[k_best], prices, b, mine[b], i, stretches, constants, rest
            )
            was = left
            left = _spend(usage, b, edges[b + 1] - max(release[i], edges[b]), left, used, held, made)
            usage[3, b] += (was - left) * share[i, 0]
            if b - first < paying:
                own_use[offset[i] + b - first] += (was - left) * whole
    return total
