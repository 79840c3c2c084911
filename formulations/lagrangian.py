"""One set of prices for time, company, memory and places: a bound on weighted delays that holds for any prices.

Data       request i arrives at r[i], computes a prompt, then makes tokens one after another; F[i] its first
           token, C[i] its last; cost before * (F - r) + after * (C - F), before >= after >= 0
Resources  in a second the machines give ``speed`` seconds of machine time, ``room`` token-seconds of memory, and
           ``places`` seconds of places for sequences
Company    whoever is in an iteration pays its constant alone, whoever else is there: in any interval the constants
           of i's own iterations and the shares of everybody are together no more than machine time
Prices     >= 0 on each of these, constant within each bucket of time, none after the last
Lagrange   sum of costs >= sum of (costs + what is paid) - value of all that there is, because no more is used than
           there is. Given the prices requests no longer meet: each does what is cheapest for itself.

What a request pays (``planner.machines.Machines`` has the shares). In an iteration of length d = constant + sum of
shares or longer, who pays price * d can be split as price * share * d / (d - constant). With company[i] on the
machine time of request i it pays company[i] * constant for each iteration of its own, and every share in it pays
together = sum of company. So while it decodes it

    pays  machine * share / (d - constant) + (together * share + company[i] * constant) / d
          + memory * context + place   per unit of time, makes 1 / d tokens,

for any d >= own that it likes. A smaller d is a smaller batch: sooner, but it pays more of the constant. An iteration
that decodes takes ``token_constant`` >= ``constant`` besides shares. A prompt takes ``time`` at least, in which it pays
for ``share`` of machine time, at most one unit per unit, and ``area`` of memory, at most ``tokens`` per unit.

Machine time alone lets many requests decode side by side as if no prompt were computed meanwhile: their shares are
small. Company says that the constants of whoever decodes and all prompts take turns.

Each request then solves a problem of its own: when its prompt ends (F) and when it ends (C), and what it uses until
then. For F and C in given buckets its payments are bounded from below by pricing progress (weak duality again):
with mu for the prompt, or for a token, it pays at least mu times what is to be made, less the integral of the
most that a unit of time gains,

    gain = max(0, max over d of (mu - what an iteration of length d pays) / d)

for any mu >= 0. That is linear in F and C within a bucket, so corners settle it (F - r and C - F are no shorter than
alone); the best of several mu counts, and the least over all pairs of buckets. A request that ends after the last
bucket costs at least until then.

``formulations.lagrangian_crowd`` is another way to spend the machine's price where a unit of time costs the same before
and after the first token: constants are not split by the length of iterations, but by what requests that decode
together lose to each other's prompts. It takes prices ``crowd`` instead of ``machine``, beside all others.

So prices, not optimality, are what the bound rests on: whoever has them evaluates it in one pass (``evaluate``), and
they may come from anywhere (``improve``, ``settle``, ``with_company``). ``formulations.lagrangian_request`` is the
compiled half.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from formulations import lagrangian_crowd, lagrangian_request
from formulations.hulls import FloatArray, IntArray
from formulations.relaxations import worth_of_time

SEGMENTS = 2
"""Stretches of tokens of a request, each priced like its cheapest token."""

THREADS, PARTS, ALONE = 2, 4, 100
"""Of a pass over requests at prices of crowds, for so many requests or more."""

STEPS = (0.06, 0.15, 0.3)
"""First steps of prices in proportion to themselves: of the machine, of the level of crowds, and of all others."""

EXCESS, KEPT = (1.0, 3.0), (0.7, 0.8)
"""Without crowds and with them: most excess of company that counts, and the part of a step kept from those before."""

STRETCHES = 20
"""Stretches of buckets of which the level of crowds' prices moves."""

FINER = 3
"""Parts of a bucket between which prices of crowds are interpolated."""

NEAR = 0.03
"""Part of all buckets over which sizes of crowds are averaged, before and after."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """Requests of one problem, all times in one unit. n requests, S = ``SEGMENTS`` stretches.

    ``before``, ``after`` [n]: cost of a unit of time before and after the first token. ``alone`` [n]: least
    cost when nobody else is there. ``constant``: what every iteration takes besides shares, ``token_constant`` one that
    decodes. ``rest``: time of each token off the machine. Stretches have a number of ``tokens``, and of each the least
    ``share``, duration ``own`` >= token_constant + share, ``context``, and share of computing it ``again``.
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
    token_constant: float
    rest: float
    speed: float
    room: float
    places: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """``edges`` [b + 1] of buckets; ``machine``, ``memory`` (per token) and ``place`` [b] per unit of time.

    Request i pays ``company[offset[i]]`` in the bucket in which it arrives, the entries up to ``offset[i + 1]`` in
    those after it, then nothing. Empty: nobody pays for company. ``crowd`` and ``size`` [b]: of machine time, paid by
    shares and crowds, and the size of prompts in them (``lagrangian_crowd``); empty: nobody pays for crowds.
    """

    edges: FloatArray
    machine: FloatArray
    memory: FloatArray
    place: FloatArray
    company: FloatArray = field(default_factory=lambda: np.zeros(0))
    offset: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: FloatArray = field(default_factory=lambda: np.zeros(0))
    size: FloatArray = field(default_factory=lambda: np.zeros(0))

    def first(self, requests: Requests) -> IntArray:
        """[n] bucket in which each request arrives."""
        first: IntArray = np.searchsorted(self.edges, requests.release, side="right") - 1
        return np.clip(first, 0, len(self.machine) - 1)

    def buckets(self, requests: Requests) -> IntArray:
        """Bucket of each entry of ``company``."""
        if not len(self.company):
            return np.zeros(0, np.int64)
        count = np.diff(self.offset)
        within: IntArray = np.arange(len(self.company)) - np.repeat(self.offset[:-1], count)
        return within + np.repeat(self.first(requests), count)

    def together(self, requests: Requests) -> FloatArray:
        """[b] what shares pay besides the price of the machine: the sum of company, and for crowds."""
        company = np.bincount(self.buckets(requests), self.company, len(self.machine)).astype(np.float64)
        return company + self.crowd if len(self.crowd) else company

    def charged(self, requests: Requests) -> float:
        """Value of all that there is."""
        machine = requests.speed * (self.machine + self.together(requests))
        return float(
            np.diff(self.edges) @ (machine + requests.room * self.memory + requests.places * self.place)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Use:
    """What requests, each on its own, would use: ``resources`` [5, b] of machine, memory and places, all shares, and
    what they pay for crowds; constants of their own as ``Prices.company``; the bucket in which each ends [n], and with
    crowds its ``works`` [n] and [2, b] ``sizes`` (``lagrangian_crowd.values``)."""

    resources: FloatArray
    own: FloatArray
    ends: IntArray
    works: FloatArray
    sizes: FloatArray


def evaluate(requests: Requests, prices: Prices) -> float:
    """Bound on the sum of costs, for any prices >= 0: one pass over the requests.

    Raises
    ------
    ValueError
        When prices are negative or not finite, edges do not increase or begin after the first release, or
        ``before`` < ``after``, or with crowds anything but the same for all.
    """
    _check(requests, prices)
    none = np.zeros(0)
    nothing = Use(
        resources=np.zeros((0, 0)), own=none, ends=np.zeros(0, np.int64), works=none, sizes=np.zeros((0, 0))
    )
    value = _value(requests, prices, nothing)
    return max(value, _value(requests, _finer(requests, prices), nothing)) if len(prices.crowd) else value


def _finer(requests: Requests, prices: Prices) -> Prices:
    """The same prices in ``FINER`` times as many buckets, because a prompt counts as done when its bucket begins; those
    of crowds on the lines between the middles of buckets. Other prices, no less valid."""
    width = np.diff(prices.edges) / FINER
    edges = np.append((prices.edges[:-1, None] + width[:, None] * np.arange(FINER)).ravel(), prices.edges[-1])
    middle, fine = (prices.edges[1:] + prices.edges[:-1]) / 2, (edges[1:] + edges[:-1]) / 2
    columns = {
        name: np.repeat(getattr(prices, name), FINER) for name in ("machine", "memory", "place", "size")
    }
    found = replace(prices, edges=edges, crowd=np.interp(fine, middle, prices.crowd), **columns)
    if not len(prices.company):
        return found
    count = np.diff(prices.offset)
    bucket = (prices.buckets(requests)[:, None] * FINER + np.arange(FINER)).ravel()
    kept = bucket >= np.repeat(found.first(requests), count * FINER)
    begin = np.concatenate([[0], np.cumsum(kept)])
    return replace(found, company=np.repeat(prices.company, FINER)[kept], offset=begin[prices.offset * FINER])


def _check(requests: Requests, prices: Prices) -> None:
    for name in ("machine", "memory", "place", "company", "crowd", "size"):
        column = getattr(prices, name)
        if not np.isfinite(column).all() or (column < 0).any():
            raise ValueError(f"prices of {name} must be finite and >= 0")
    if not np.isfinite(prices.edges).all() or (np.diff(prices.edges) <= 0).any():
        raise ValueError("edges of buckets must increase")
    if prices.edges[0] > requests.release.min(initial=np.inf):
        raise ValueError("buckets must begin with the first release")
    if len(prices.company) and (
        len(prices.offset) != len(requests.release) + 1
        or prices.offset[0] != 0
        or prices.offset[-1] != len(prices.company)
        or (np.diff(prices.offset) < 0).any()
        or (prices.first(requests) + np.diff(prices.offset) > len(prices.machine)).any()
    ):
        raise ValueError("company needs a stretch of buckets for each request")
    if (requests.before < requests.after).any() or (requests.after < 0).any():
        raise ValueError("a unit of time must cost no more after the first token than before it")
    if len(prices.crowd):
        if len(prices.crowd) != len(prices.machine) or len(prices.size) != len(prices.machine):
            raise ValueError("crowds need a price and a size for each bucket")
        if len(np.unique(np.concatenate([requests.before, requests.after]))) > 1 or not requests.after[0]:
            raise ValueError("crowds need a unit of time to cost the same before and after the first token")


def _value(requests: Requests, prices: Prices, use: Use) -> float:
    """The bound, less what float64 could have lost; adds to ``use`` where it is not empty."""
    r = requests
    offset = prices.offset if len(prices.company) else np.zeros(len(r.release) + 1, np.int64)
    costs = np.stack([prices.machine, prices.memory, prices.place, prices.together(r)])
    if len(prices.crowd):
        total = _with_crowds(r, prices, costs, offset, use)
    else:
        total = lagrangian_request.values(
            prices.edges, costs, r.release, r.before, r.after, r.alone, r.prompt_time, r.prompt_share,
            r.prompt_area, r.prompt_tokens, r.tokens, r.share, r.own, r.context, r.again_share,
            (r.constant, r.token_constant), r.rest, prices.first(r), offset, prices.company, use.resources, use.own,
            use.ends,
        )  # fmt: skip
    charged = prices.charged(requests)
    return float(total - charged - 1e-9 * (total + charged))


def _with_crowds(r: Requests, prices: Prices, costs: FloatArray, offset: IntArray, use: Use) -> float:
    """One stretch of tokens for each request, priced like its cheapest."""
    some, tokens = r.tokens > 0, r.tokens.sum(axis=1)
    share, own, context, again = (
        np.where(tokens > 0, np.where(some, each, np.inf).min(axis=1), 0.0)
        for each in (r.share, r.own, r.context, r.again_share)
    )
    if some.any():
        least = float(r.share[some].min())
        rows, price = lagrangian_crowd.rates(
            prices.crowd / r.after[0], prices.size, r.prompt_share, tokens, least, r.token_constant
        )
    else:
        rows, price = np.zeros((5, len(tokens))), np.zeros(len(prices.crowd))
    costs = np.vstack([costs, price, prices.crowd, prices.size])
    blends = lagrangian_crowd.FEW if len(use.ends) else lagrangian_crowd.BLENDS
    first = prices.first(r)

    def part(begin: int, end: int) -> tuple[float, FloatArray, FloatArray]:
        here, resources, sizes = slice(begin, end), np.zeros_like(use.resources), np.zeros_like(use.sizes)
        total: float = lagrangian_crowd.values(
            prices.edges, costs, r.release[here], r.after[here], blends, r.alone[here], r.prompt_time[here],
            r.prompt_share[here], r.prompt_area[here], tokens[here], share[here], own[here], context[here],
            again[here], (r.constant, r.token_constant), first[here], offset[begin : end + 1], prices.company,
            rows[:, here], resources, use.own, use.ends[here], use.works[here], sizes,
        )  # fmt: skip
        return total, resources, sizes

    parts = PARTS if len(tokens) >= ALONE else 1  # the same ones whatever the machine
    bounds = np.linspace(0, len(tokens), parts + 1).astype(np.int64).tolist()
    if parts == 1:  # starting threads would take longer than a small pass does
        found = [part(*bounds)]
    else:
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(part, bounds[:-1], bounds[1:]))
    for _, resources, sizes in found:
        use.resources[:] += resources
        use.sizes[:] += sizes
    return sum(total for total, _, _ in found)


def _used(requests: Requests, prices: Prices) -> tuple[float, Use]:
    use = Use(
        resources=np.zeros((5, len(prices.machine))),
        own=np.zeros(len(prices.company)),
        ends=np.zeros(len(requests.release), np.int64),
        works=np.zeros(len(requests.release)),
        sizes=np.zeros((2, len(prices.machine))),
    )
    return _value(requests, prices, use), use


def improve(requests: Requests, prices: Prices, *, rounds: int) -> tuple[float, Prices]:
    """Better prices, and their bound: ``rounds`` of subgradient steps in proportion to the prices, no randomness.

    A price rises where requests, each on its own, would use more than there is, and falls where they use
    less; the use is smoothed over rounds, because each request jumps from one best answer to another.
    The best prices seen are returned.
    """
    _check(requests, prices)
    length, bucket = np.diff(prices.edges), prices.buckets(requests)
    there = np.array([[requests.speed], [requests.room], [requests.places]]) * length
    table, company = np.stack([prices.machine, prices.memory, prices.place]), prices.company
    smooth, smooth_own = np.zeros_like(table), np.zeros_like(company)
    crowded = len(prices.crowd) > 0
    if crowded:  # it is the machine's price
        table[0] = prices.crowd
    steps = np.array([[STEPS[crowded]], [STEPS[2]], [STEPS[2]]])
    best, kept = -np.inf, prices
    for k in range(rounds):
        now = replace(prices, memory=table[1], place=table[2], company=company)
        now = replace(now, **{"crowd" if crowded else "machine": table[0]})
        value, use = _used(requests, now)
        if value > best:
            best, kept = value, now
        used = use.resources[:3]
        excess = np.clip(used / there - 1.0, -1.0, 1.0)
        if crowded:  # what crowds are paid grows with the root of their price
            used[0] = use.resources[3] + 0.5 * use.resources[4] / np.maximum(now.crowd, 1e-300)
            excess[0] = _level(now.crowd, used[0], there[0])
        own = (use.own + use.resources[3][bucket]) / there[0][bucket] - 1.0
        own = np.clip(own, -1.0, EXCESS[crowded])
        smooth = excess if k == 0 else 0.6 * smooth + 0.4 * excess
        smooth_own = own if k == 0 else KEPT[crowded] * smooth_own + (1 - KEPT[crowded]) * own
        move = steps / (1 + k / 15) * smooth * (table + 0.1 * table.mean(axis=1, keepdims=True))
        table = np.maximum(table + move, 0.0)
        move = STEPS[2] / (1 + k / 10) * smooth_own * (np.minimum(company, 3.0) + 0.25)
        company = np.maximum(company + move, 0.0)
    return best, kept


def _level(price: FloatArray, used: FloatArray, there: FloatArray) -> FloatArray:
    """[b] by how much more machine time is used than there is, on lines between stretches of buckets. Prices of crowds
    fall where one request is worked on and rise where it waits for the next: a step of every bucket would blunt that,
    so ``settle`` finds their shape, and steps their level."""
    begin = np.unique(np.linspace(0, len(price), STRETCHES + 1).astype(np.int64)[:-1])
    paid, value = np.add.reduceat(price * used, begin), np.add.reduceat(price * there, begin)
    over = np.clip(paid / np.maximum(value, 1e-300) - 1.0, -1.0, 1.0)
    middle = (begin + np.append(begin[1:], len(price))) / 2
    level: FloatArray = np.interp(np.arange(len(price)) + 0.5, middle, over)
    return level


def settle(requests: Requests, prices: Prices, *, rounds: int) -> tuple[float, Prices]:
    """Better prices of crowds, and their bound: those that prove mean busy time (``worth_of_time``) where a request's
    work includes its part of constants, which follows from prices, so half way there in each of ``rounds``."""
    _check(requests, prices)
    best, kept, near = -np.inf, prices, np.ones(2 * int(NEAR * len(prices.crowd)) + 1)
    for _ in range(rounds):
        value, use = _used(requests, prices)
        if value > best:
            best, kept = value, prices
        works = np.maximum(use.works / requests.speed, 1.0).astype(np.int64)
        crowd = worth_of_time(requests.release.astype(np.int64), works, prices.edges) * requests.after[0]
        tokens, sizes = (np.convolve(row, near)[len(near) // 2 :][: len(row)] for row in use.sizes)
        size = np.where(tokens > 0, sizes / np.maximum(tokens, 1e-300), prices.size)
        prices = replace(prices, crowd=(prices.crowd + crowd + 1e-3 * crowd.mean()) / 2, size=size)
    return best, kept


def with_company(requests: Requests, prices: Prices, part: float) -> Prices:
    """Prices to start from: each request pays for company ``part`` of the time that it would spend in iterations if
    nobody did, until somewhat later than it would then end; of the price of machine time the rest is left, or 0.3."""
    _, use = _used(requests, prices)
    until = np.searchsorted(prices.edges, prices.edges[use.ends + 1] + 1.5 * requests.alone)
    stretch = np.minimum(until, len(prices.machine) - 1) - prices.first(requests) + 1
    offset = np.concatenate([[0], np.cumsum(np.maximum(stretch, 1))]).astype(np.int64)
    free = replace(prices, company=np.zeros(offset[-1]), offset=offset)
    own = _used(requests, free)[1].own
    found = replace(free, company=part * own / np.diff(prices.edges)[free.buckets(requests)])
    name = "crowd" if len(prices.crowd) else "machine"
    price = getattr(prices, name)
    paid = np.bincount(free.buckets(requests), found.company, len(price))
    return replace(found, **{name: np.maximum(price - paid, 0.3 * price)})
