"""The simulator again, slow and obvious: every iteration, every request, lists and plain integers.

Written from ``simulator.batching`` (who runs), ``profiles.stepcost`` (how long it takes) and
``simulator.engine`` (what is rejected). It shares no code with the kernel. What those leave open:

- At one instant: arrivals join the queues, then batches end, then idle slots schedule in index order. A
  request is routed before anything else that happens at the instant of its arrival.
- A slot is a micro-batch in flight, one per stage. Idle slots of a replica try to schedule whenever one of
  its batches ends or a request arrives at it. A stage serves one batch at a time, in the order they started.
- "Prefill only" holds per attention rank: a rank without new requests decodes beside one that has some.
- Beside decodes a whole prompt longer than what the budget leaves is admitted if it is the step's first.
- A swapped sequence returns when its next token's blocks and one for each decoding sequence are free; until
  then its own micro-batch and rank admit nothing. Moving time goes to the first stage of the iteration, and
  is lost where the step then has nothing to run.
"""

from dataclasses import dataclass, field

import numpy as np

from profiles.plan import EngineSettings
from profiles.stepcost import PS, StepCost
from traces.trace import Trace


@dataclass(eq=False)
class Sequence:
    """One request. ``cached`` tokens are in the KV cache; a prefill runs until they are ``target``."""

    index: int
    arrival: int
    prompt: int
    output: int
    target: int = 0
    cached: int = 0
    blocks: int = 0
    scheduled: int = -1
    preemptions: int = 0
    decodes: bool = False
    emitted: list[int] = field(default_factory=list)  # when each output token left

    def __post_init__(self) -> None:
        self.target = self.prompt


@dataclass(eq=False)
class Lane:
    """An attention rank of a slot. ``held``: blocks that a static batch keeps until it ends."""

    running: list[Sequence] = field(default_factory=list)  # in order of admission
    swapped: list[Sequence] = field(default_factory=list)  # oldest first
    held: int = 0

    @property
    def decoding(self) -> list[Sequence]:
        return [s for s in self.running if s.decodes]

    @property
    def partial(self) -> list[Sequence]:
        return [s for s in self.running if not s.decodes]


@dataclass(eq=False)
class Batch:
    """What one iteration runs on each rank: decodes, and chunks of prompts."""

    decodes: list[list[Sequence]]
    chunks: list[list[tuple[Sequence, int]]]
    end: int = 0

    def tokens(self, rank: int) -> int:
        return len(self.decodes[rank]) + sum(tokens for _, tokens in self.chunks[rank])

    @property
    def sequences(self) -> int:
        return sum(map(len, self.decodes)) + sum(map(len, self.chunks))


@dataclass(eq=False)
class Slot:
    lanes: list[Lane]
    batch: Batch | None = None


@dataclass
class Counts:
    """Totals under the names of Outcome."""

    iterations: int = 0
    batch_sum: int = 0
    decode_tokens: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    recomputed_tokens: int = 0
    swapped_blocks: int = 0
    kv_read_tokens: int = 0
    peak_blocks: int = 0
    busy_ps: int = 0
    stage_busy_ps: int = 0
    energy_nj: int = 0


class Replica:
    """One model replica."""

    def __init__(self, step: StepCost, engine: EngineSettings, reserved: int, counts: Counts) -> None:
        self.step, self.engine, self.reserved, self.counts = step, engine, reserved, counts
        self.queue: list[Sequence] = []
        self.slots = [Slot([Lane() for _ in range(step.ranks)]) for _ in range(step.stages)]
        self.free = [step.kv_blocks] * step.ranks
        self.stage_free = [0] * step.stages
        self.busy_until = 0
        self.outstanding = 0
        self.chunked = engine.chunks_prefill and step.chunkable
        self.reserves = engine.policy in ("static", "orca")
        keeps = engine.policy in ("vllm-v0", "sarathi")
        self.watermark = int(engine.watermark * step.kv_blocks) if keeps else 0

    # ------------------------------------------------------------ memory

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.engine.block_size)

    def take(self, rank: int, s: Sequence, blocks: int) -> None:
        self.free[rank] -= blocks
        s.blocks += blocks

    def give_back(self, rank: int, s: Sequence) -> None:
        self.free[rank] += s.blocks
        s.blocks = 0

    def check_blocks(self) -> None:
        """Used + held + free = total, on every rank."""
        for rank, free in enumerate(self.free):
            lanes = [slot.lanes[rank] for slot in self.slots]
            used = sum(s.blocks for lane in lanes for s in lane.running) + sum(lane.held for lane in lanes)
            assert free >= 0 and used + free == self.step.kv_blocks
            self.counts.peak_blocks = max(self.counts.peak_blocks, used)

    def enqueue(self, s: Sequence) -> None:
        self.queue.append(s)
        self.queue.sort(key=lambda s: (s.prompt if self.engine.queue == "sjf" else 0, s.index))

    def preempt(self, rank: int, lane: Lane) -> int:
        """Take the sequence that was admitted last off the device; returns the blocks to move."""
        s = lane.running.pop()
        s.preemptions += 1
        blocks = s.blocks
        self.give_back(rank, s)
        if self.engine.preemption == "swap" and s.decodes:
            lane.swapped.append(s)
            self.counts.swapped_blocks += blocks
            return blocks
        self.counts.recomputed_tokens += s.cached
        s.decodes, s.cached, s.target = False, 0, s.prompt + len(s.emitted)
        self.enqueue(s)
        return 0

    def swap_in(self, rank: int, lane: Lane) -> int:
        moved = 0
        while lane.swapped and len(lane.running) < self.engine.max_seqs:
            s = lane.swapped[0]
            if self.blocks(s.cached + 1) + len(lane.decoding) > self.free[rank]:
                break
            self.take(rank, s, self.blocks(s.cached))
            moved += s.blocks
            lane.running.append(lane.swapped.pop(0))
        self.counts.swapped_blocks += moved
        return moved

    # ------------------------------------------------------------ who runs

    def reserve_decodes(self, rank: int, lane: Lane) -> tuple[list[Sequence], int, bool]:
        """The lane's decodes with room for their next token, blocks moved, whether one was preempted."""
        moved, preempted = 0, False
        if self.reserves:
            return lane.decoding, 0, False
        while lane.decoding:
            lacking = [s for s in lane.decoding if self.blocks(s.cached + 1) > s.blocks]
            if len(lacking) <= self.free[rank]:
                for s in lacking:
                    self.take(rank, s, 1)
                break
            moved += self.preempt(rank, lane)
            preempted = True
        return lane.decoding, moved, preempted

    def room(self, batch: Batch, rank: int, lane: Lane, s: Sequence) -> int:
        """Tokens of s that the rank could run in this batch, 0 for none."""
        left = self.engine.token_budget - batch.tokens(rank)
        blocks = self.reserved if self.reserves else self.blocks(s.target)
        if len(lane.running) >= self.engine.max_seqs or lane.swapped:
            return 0
        if blocks > self.free[rank] - self.watermark:
            return 0
        if self.chunked:
            return min(s.target, max(0, left))
        new = any(s.cached == 0 for s, _ in batch.chunks[rank])
        return s.target if s.target <= left or not new else 0

    def admit(self, slot: Slot, batch: Batch, open_ranks: list[int], now: int) -> None:
        while self.queue:
            s = self.queue[0]
            rooms = {rank: self.room(batch, rank, slot.lanes[rank], s) for rank in open_ranks}
            able = [rank for rank in open_ranks if rooms[rank] > 0]
            if not able:
                return
            rank = min(able, key=lambda rank: (len(slot.lanes[rank].running), rank))
            self.queue.pop(0)
            self.take(rank, s, self.reserved if self.reserves else self.blocks(s.target))
            s.scheduled = now if s.scheduled < 0 else s.scheduled
            slot.lanes[rank].running.append(s)
            batch.chunks[rank].append((s, rooms[rank]))

    def form(self, slot: Slot, now: int) -> tuple[Batch, int]:
        """The next batch of a slot and the blocks that it moves to or from the host."""
        ranks = list(range(self.step.ranks))
        batch = Batch([[] for _ in ranks], [[] for _ in ranks])
        moved = sum(self.swap_in(rank, slot.lanes[rank]) for rank in ranks)
        if self.engine.policy in ("static", "vllm-v0"):
            static = self.engine.policy == "static"
            self.admit(slot, batch, [r for r in ranks if not (static and slot.lanes[r].running)], now)
            for rank in ranks:
                if not batch.chunks[rank]:
                    batch.decodes[rank], blocks, _ = self.reserve_decodes(rank, slot.lanes[rank])
                    moved += blocks
            return batch, moved
        full = True
        for rank in ranks:
            batch.decodes[rank], blocks, preempted = self.reserve_decodes(rank, slot.lanes[rank])
            moved += blocks
            full = full and not preempted
            for s in slot.lanes[rank].partial:
                chunk = min(s.target - s.cached, self.engine.token_budget - batch.tokens(rank))
                if chunk > 0:
                    batch.chunks[rank].append((s, chunk))
        if full:
            self.admit(slot, batch, ranks, now)
        return batch, moved

    # ------------------------------------------------------------ how long it takes

    def decode(self, values: np.ndarray, slopes: np.ndarray, lengths: list[int]) -> int:
        """Time or energy of decodes whose caches have these lengths, new token included."""
        if not lengths:
            return 0
        count, total = len(lengths), sum(lengths)
        j = max(j for j, knot in enumerate(self.step.knots) if count * knot <= total)
        return int(values[count, j] + slopes[count, j] * (total - count * self.step.knots[j]))

    def prefill(self, chunks: list[tuple[Sequence, int]], p: int) -> tuple[int, int]:
        """Time of a rank's chunks on stage p, and energy: that of whichever term makes the time."""
        if not chunks:
            return 0, 0
        step = self.step
        time, energy = int(step.prefill_launch_ps[p]), int(step.prefill_launch_nj[p])
        for s, c in chunks:
            x, g, e = s.cached, step.prefill_ps[p], step.prefill_nj[p]
            alone, behind = int(g[c]), int(g[x + c] - g[x])
            time += max(alone, behind)
            energy += int(e[c]) if alone >= behind else int(e[x + c] - e[x])
        return time, energy

    def stage(self, batch: Batch, p: int) -> tuple[int, int]:
        """Time and energy of the batch on stage p."""
        step, total, slowest, energy = self.step, 0, 0, 0
        for rank in range(step.ranks):
            n = batch.tokens(rank)
            lengths = [s.cached + 1 for s in batch.decodes[rank]]
            prefill_ps, prefill_nj = self.prefill(batch.chunks[rank], p)
            decode_ps = self.decode(step.decode_value_ps[p], step.decode_slope_ps[p], lengths)
            prompts = n - len(lengths)
            if lengths and prompts and step.mixed_token_ps is not None:
                prefill_ps += self.decode(step.mixed_value_ps[p], step.mixed_slope_ps[p], lengths)
                prefill_ps += int(step.mixed_token_ps[p, len(lengths)]) * prompts
            slowest = max(slowest, int(step.local_ps[p, n]) + decode_ps + prefill_ps)
            energy += int(step.local_nj[p, n]) + prefill_nj
            energy += self.decode(step.decode_value_nj[p], step.decode_slope_nj[p], lengths)
            total += n
        time = slowest + int(step.shared_ps[p, total])
        energy += int(step.shared_nj[p, total])
        if p + 1 == step.stages:
            return time + int(step.head_ps[batch.sequences]), energy + int(step.head_nj[batch.sequences])
        return time, energy + int(step.send_nj[p, total])

    # ------------------------------------------------------------ events

    def schedule(self, slot: Slot, now: int) -> None:
        batch, moved = self.form(slot, now)
        self.check_blocks()
        if batch.sequences == 0:
            return
        step, counts = self.step, self.counts
        total = sum(batch.tokens(rank) for rank in range(step.ranks))
        end = now
        for p in range(step.stages):
            time, energy = self.stage(batch, p)
            if p == 0:
                time += moved * step.swap_block_ps
            end = max(end, self.stage_free[p]) + time
            self.stage_free[p] = end
            counts.stage_busy_ps += time
            counts.energy_nj += energy
            if p + 1 < step.stages:
                end += int(step.send_ps[p, total])
        slot.batch, batch.end = batch, end
        counts.busy_ps += max(0, end - max(now, self.busy_until))
        self.busy_until = max(self.busy_until, end)
        counts.iterations += 1
        counts.batch_sum += batch.sequences
        for decodes, chunks in zip(batch.decodes, batch.chunks, strict=True):
            counts.decode_tokens += len(decodes)
            counts.kv_read_tokens += sum(s.cached + 1 for s in decodes)
            counts.prefill_tokens += sum(c for _, c in chunks)
            counts.prefill_pairs += sum(s.cached + 1 + i for s, c in chunks for i in range(c))

    def complete(self, slot: Slot) -> None:
        batch, slot.batch = slot.batch, None
        assert batch is not None
        for rank, lane in enumerate(slot.lanes):
            for s in batch.decodes[rank]:
                s.cached += 1
                self.emit(rank, lane, s, batch.end)
            for s, c in batch.chunks[rank]:
                s.cached += c
                if s.cached == s.target:
                    s.decodes = True
                    self.emit(rank, lane, s, batch.end)
            if not lane.running:
                self.free[rank] += lane.held
                lane.held = 0

    def emit(self, rank: int, lane: Lane, s: Sequence, now: int) -> None:
        s.emitted.append(now)
        if len(s.emitted) == s.output:
            lane.running.remove(s)
            self.outstanding -= 1
            if self.engine.policy == "static":
                lane.held += s.blocks
                s.blocks = 0
            self.give_back(rank, s)


@dataclass
class Reference:
    """Records of every request, and totals."""

    sequences: list[Sequence]
    replica: list[int]
    rejected: list[int]
    counts: Counts

    @property
    def gaps_ps(self) -> list[int]:
        """Every gap between consecutive tokens of a request."""
        return [int(gap) for s in self.sequences for gap in np.diff(s.emitted)]


def simulate(trace: Trace, step: StepCost, engine: EngineSettings, replicas: int = 1) -> Reference:
    """Serve the trace, one instant after another."""
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    sequences = [
        Sequence(i, round(float(a) * PS), int(p), int(o))
        for i, (a, p, o) in enumerate(zip(*columns, strict=True))
    ]
    counts = Counts()
    reserved = max(-(-(s.prompt + s.output - 1) // engine.block_size) for s in sequences)
    fleet = [Replica(step, engine, reserved, counts) for _ in range(replicas)]
    first = fleet[0]
    need = [reserved if first.reserves else first.blocks(s.prompt + s.output - 1) for s in sequences]
    rejected = [i for i, blocks in enumerate(need) if blocks + first.watermark > step.kv_blocks]
    replica = [-1] * len(sequences)
    coming = [s for s in sequences if s.index not in rejected]
    routed = 0
    while True:
        ends = [slot.batch.end for r in fleet for slot in r.slots if slot.batch]
        if not coming and not ends:
            break
        now = min(ends + [s.arrival for s in coming[:1]])
        touched = set()
        while coming and coming[0].arrival == now:
            s = coming.pop(0)
            if engine.routing == "round-robin":
                chosen = routed % replicas
            else:
                chosen = min(range(replicas), key=lambda i: (fleet[i].outstanding, i))
            routed += 1
            replica[s.index] = chosen
            fleet[chosen].outstanding += 1
            fleet[chosen].enqueue(s)
            touched.add(chosen)
        for i, r in enumerate(fleet):
            for slot in r.slots:
                if slot.batch and slot.batch.end == now:
                    r.complete(slot)
                    touched.add(i)
        for i in sorted(touched):
            for slot in fleet[i].slots:
                if slot.batch is None:
                    fleet[i].schedule(slot, now)
            fleet[i].check_blocks()
    return Reference(sequences, replica, rejected, counts)
