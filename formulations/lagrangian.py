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

So prices, not optimality, are what the bound rests on: whoever has them evaluates it in one pass (``evaluate``), and
they may come from anywhere (``improve``, ``with_company``). ``formulations.lagrangian_request`` is the compiled half.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from formulations.hulls import FloatArray, IntArray
from formulations.lagrangian_request import values

SEGMENTS = 2
"""Stretches of tokens of a request, each priced like its cheapest token."""

STEPS = (0.06, 0.3)
"""First steps of prices in proportion to themselves: of resources, and of company."""


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
    those after it, then nothing. Empty: nobody pays for company.
    """

    edges: FloatArray
    machine: FloatArray
    memory: FloatArray
    place: FloatArray
    company: FloatArray = field(default_factory=lambda: np.zeros(0))
    offset: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

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
        """[b] sum of company."""
        return np.bincount(self.buckets(requests), self.company, len(self.machine)).astype(np.float64)

    def charged(self, requests: Requests) -> float:
        """Value of all that there is."""
        machine = requests.speed * (self.machine + self.together(requests))
        return float(
            np.diff(self.edges) @ (machine + requests.room * self.memory + requests.places * self.place)
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Use:
    """What requests, each on its own, would use: ``resources`` [4, b] of machine, memory and places, and all shares;
    constants of their own as ``Prices.company``; and the bucket in which each ends [n]."""

    resources: FloatArray
    own: FloatArray
    ends: IntArray


def evaluate(requests: Requests, prices: Prices) -> float:
    """Bound on the sum of costs, for any prices >= 0: one pass over the requests.

    Raises
    ------
    ValueError
        When prices are negative or not finite, edges do not increase or begin after the first release, or
        ``before`` < ``after``.
    """
    _check(requests, prices)
    nothing = Use(resources=np.zeros((0, 0)), own=np.zeros(0), ends=np.zeros(0, np.int64))
    return _value(requests, prices, nothing)


def _check(requests: Requests, prices: Prices) -> None:
    for name in ("machine", "memory", "place", "company"):
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


def _value(requests: Requests, prices: Prices, use: Use) -> float:
    """The bound, less what float64 could have lost; adds to ``use`` where it is not empty."""
    offset = prices.offset if len(prices.company) else np.zeros(len(requests.release) + 1, np.int64)
    total = values(
        prices.edges, np.stack([prices.machine, prices.memory, prices.place, prices.together(requests)]),
        requests.release, requests.before, requests.after, requests.alone, requests.prompt_time,
        requests.prompt_share, requests.prompt_area, requests.prompt_tokens, requests.tokens, requests.share,
        requests.own, requests.context, requests.again_share, (requests.constant, requests.token_constant),
        requests.rest, prices.first(requests), offset, prices.company, use.resources, use.own, use.ends,
    )  # fmt: skip
    charged = prices.charged(requests)
    return float(total - charged - 1e-9 * (total + charged))


def _used(requests: Requests, prices: Prices) -> tuple[float, Use]:
    use = Use(
        resources=np.zeros((4, len(prices.machine))),
        own=np.zeros(len(prices.company)),
        ends=np.zeros(len(requests.release), np.int64),
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
    best, kept = -np.inf, prices
    for k in range(rounds):
        now = replace(prices, machine=table[0], memory=table[1], place=table[2], company=company)
        value, use = _used(requests, now)
        if value > best:
            best, kept = value, now
        excess = np.clip(use.resources[:3] / there - 1.0, -1.0, 1.0)
        own = np.clip((use.own + use.resources[3][bucket]) / there[0][bucket] - 1.0, -1.0, 1.0)
        smooth = excess if k == 0 else 0.6 * smooth + 0.4 * excess
        smooth_own = own if k == 0 else 0.7 * smooth_own + 0.3 * own
        move = STEPS[0] / (1 + k / 15) * smooth * (table + 0.1 * table.mean(axis=1, keepdims=True))
        table = np.maximum(table + move, 0.0)
        move = STEPS[1] / (1 + k / 20) * smooth_own * (np.minimum(company, 3.0) + 0.1)
        company = np.maximum(company + move, 0.0)
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
    left = np.maximum(prices.machine - found.together(requests), 0.3 * prices.machine)
    return replace(found, machine=left)
