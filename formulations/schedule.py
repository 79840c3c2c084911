"""Schedules of one server in plain integers: what they are, how long they take, and good ones found greedily.

Data       arrival[i], prompt[i], output[i], own[i] of request i; kv, tokens, sequences; six costs
Iteration  a set of chunks (i, c), c >= 1, of prompts that have arrived, and either a decode of every *running*
           request (it has its first token and is not finished) or of none: all running requests keep step
Time       base + token * (new tokens) + launch [chunks] + own[i] of every prompt completed
           + decode [decodes] + sequence * (decodes) + read * (tokens that decodes read, the new one included)
Tokens     an iteration that completes the prompt of i emits its first token, a decode emits the next one
Limits     new tokens <= tokens; decodes + chunks <= sequences; running requests <= sequences;
           tokens kept at the end of an iteration, before finished requests leave, <= kv

That is the *unison* class: prompts whole or in chunks, mixed with decodes or apart, in any order, with idle time,
output lengths known; no preemption, and a decode stalls only together with all others. Static batching, Orca, vLLM
and Sarathi are in it as long as they preempt nobody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Objective(StrEnum):
    """``e2e`` and ``ttft`` are sums over requests of the time of the last, first token."""

    MAKESPAN = "makespan"
    E2E = "e2e"
    TTFT = "ttft"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """Time of an iteration, see the module; integers >= 0 in one unit."""

    base: int
    token: int
    launch: int
    decode: int
    sequence: int
    read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleInstance:
    """Requests and limits of one server.

    Raises
    ------
    ValueError
        When the columns differ in length, or a request could never be served.
    """

    arrival: tuple[int, ...]
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    own: tuple[int, ...]
    kv: int
    tokens: int
    sequences: int
    cost: BatchCost

    def __post_init__(self) -> None:
        if (
            len({len(self.arrival), len(self.prompt), len(self.output), len(self.own)}) != 1
            or not self.prompt
        ):
            raise ValueError("A schedule needs requests, and columns of one length.")
        if min(self.tokens, self.sequences, *self.prompt, *self.output) < 1:
            raise ValueError("Tokens, sequences, prompts and outputs must be at least 1.")
        if max(p + o - 1 for p, o in zip(self.prompt, self.output, strict=True)) > self.kv:
            raise ValueError("A request is longer than the memory.")

    def __len__(self) -> int:
        return len(self.prompt)

    def alone(self, i: int) -> int:
        """Time of request i on an idle server, its prompt in as few chunks as can be."""
        cost, later = self.cost, self.output[i] - 1
        read = later * self.prompt[i] + later * (later + 1) // 2
        each = cost.base + cost.decode + cost.token + cost.sequence
        return self.first_alone(i) + later * each + cost.read * read

    def first_alone(self, i: int) -> int:
        """Time of its prompt on an idle server."""
        chunks = -(-self.prompt[i] // self.tokens)
        return chunks * (self.cost.base + self.cost.launch) + self.cost.token * self.prompt[i] + self.own[i]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Chunks (request, new tokens of its prompt), and whether all running requests decode."""

    decodes: bool
    chunks: tuple[tuple[int, int], ...]


Schedule = tuple[Iteration, ...]


class Server:
    """State of a server between two iterations; ``run`` refuses what is not in the class."""

    def __init__(self, instance: ScheduleInstance) -> None:
        n = len(instance)
        self.instance, self.clock = instance, 0
        self.done, self.emitted = [0] * n, [0] * n
        self.first, self.last = [-1] * n, [-1] * n

    @property
    def running(self) -> list[int]:
        output = self.instance.output
        return [i for i, tokens in enumerate(self.emitted) if 0 < tokens < output[i]]

    def kept(self, i: int) -> int:
        """Tokens of request i in memory."""
        if self.last[i] >= 0:
            return 0
        return self.done[i] + max(0, self.emitted[i] - 1)

    def run(self, iteration: Iteration) -> None:
        """One iteration, as early as its chunks have arrived.

        Raises
        ------
        ValueError
            When it breaks a limit.
        """
        instance, cost = self.instance, self.instance.cost
        decoding = self.running if iteration.decodes else []
        new = len(decoding) + sum(c for _, c in iteration.chunks)
        reading = sum(self.kept(i) + 1 for i in decoding)
        for i, c in iteration.chunks:
            self.clock = max(self.clock, instance.arrival[i])
            self.done[i] += c
            if c < 1 or self.done[i] > instance.prompt[i]:
                raise ValueError(f"a chunk of {c} tokens does not continue prompt {i}")
        complete = [i for i, _ in iteration.chunks if self.done[i] == instance.prompt[i]]
        held = sum(self.kept(i) for i in range(len(instance))) + len(decoding)
        limits = ((new, instance.tokens, "new tokens"), (held, instance.kv, "tokens kept"),
                  (len(decoding) + len(iteration.chunks), instance.sequences, "sequences"))  # fmt: skip
        for value, most, words in limits:
            if value > most:
                raise ValueError(f"{value} {words}, at most {most}")
        if not new or len({i for i, _ in iteration.chunks}) < len(iteration.chunks):
            raise ValueError("an empty iteration, or one with two chunks of a prompt")
        self.clock += cost.base + cost.token * new + sum(instance.own[i] for i in complete)
        self.clock += cost.launch * bool(iteration.chunks) + cost.decode * bool(decoding)
        self.clock += cost.sequence * len(decoding) + cost.read * reading
        for i in (*decoding, *complete):
            self.emitted[i] += 1
            if self.first[i] < 0:
                self.first[i] = self.clock
            if self.emitted[i] == instance.output[i]:
                self.last[i] = self.clock
        if len(self.running) > instance.sequences:
            raise ValueError(f"{len(self.running)} requests run, at most {instance.sequences}")


def replay(instance: ScheduleInstance, schedule: Schedule) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Times of first and last tokens.

    Raises
    ------
    ValueError
        When the schedule breaks a limit or does not serve every request.

    Examples
    --------
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0,), prompt=(5,), output=(2,), own=(0,), kv=9, tokens=8,
    ...                             sequences=1, cost=cost)
    >>> replay(instance, (Iteration(decodes=False, chunks=((0, 5),)), Iteration(decodes=True, chunks=())))
    ((115,), (236,))
    """
    server = Server(instance)
    for iteration in schedule:
        server.run(iteration)
    if min(server.last) < 0:
        raise ValueError("a request is not served to its end")
    return tuple(server.first), tuple(server.last)


def greedy_schedules(instance: ScheduleInstance) -> list[Schedule]:
    """Schedules of the class: by arrival, shortest output, least work and largest, prompts apart from decodes
    (admitted by the peak of the memory they will need) or mixed (admitted by their own peaks)."""
    area = [
        p * o + o * (o - 1) // 2 + p for p, o in zip(instance.prompt, instance.output, strict=True)
    ]  # tokens kept, summed over a request's iterations
    keys: tuple[Callable[[int], object], ...] = (
        lambda i: (instance.arrival[i], i),
        lambda i: (instance.output[i], instance.prompt[i], i),
        lambda i: (area[i], i),
        lambda i: (-instance.output[i], -instance.prompt[i], i),
    )
    return [
        _greedy(instance, sorted(range(len(instance)), key=key), mixed)  # type: ignore[arg-type]
        for key in keys
        for mixed in (False, True)
    ]


def _greedy(instance: ScheduleInstance, order: Sequence[int], mixed: bool) -> Schedule:
    server, found, waiting, chosen = Server(instance), [], list(order), list[int]()
    while min(server.last) < 0:
        running = server.running
        for i in list(waiting):
            fits = _fits(instance, server, [*running, *chosen, i], mixed)
            if instance.arrival[i] <= server.clock and fits:
                chosen.append(i)
                waiting.remove(i)
        room = instance.tokens - (len(running) if mixed else 0)
        chunks, left = [], room
        for i in chosen:
            if c := min(left, instance.prompt[i] - server.done[i]):
                chunks.append((i, c))
                left -= c
        decodes = bool(running) and (mixed or not chunks)
        if not chunks and not decodes:
            server.clock = min(instance.arrival[i] for i in waiting)
            continue
        found.append(Iteration(decodes=decodes, chunks=tuple(chunks)))
        server.run(found[-1])
        chosen = [i for i in chosen if server.done[i] < instance.prompt[i]]
    return tuple(found)


def _fits(instance: ScheduleInstance, server: Server, group: list[int], mixed: bool) -> bool:
    """Whether these can run to their ends side by side. Apart from decodes, prompts are all complete before the
    next decode, so memory is known for every later step."""
    if len(group) > instance.sequences or (mixed and len(group) > instance.tokens):
        return False
    if mixed:
        return sum(instance.prompt[i] + instance.output[i] - 1 for i in group) <= instance.kv
    left = {i: instance.output[i] - max(1, server.emitted[i]) for i in group}
    now = {i: instance.prompt[i] + max(0, server.emitted[i] - 1) for i in group}
    ends = {0, *left.values()}
    return all(sum(now[i] + t for i in group if left[i] >= t) <= instance.kv for t in ends)
