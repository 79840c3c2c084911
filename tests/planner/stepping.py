"""A slow, obvious serving engine with a random scheduler, and random cost tables, for tests of bounds.

Any sequence that has arrived and is not in flight may join any batch that starts; prompts are cut at
random, decodes left out at random, victims preempted at random by recomputation or swapping.
"""

import random
from dataclasses import dataclass, field

import numpy as np

from profiles.stepcost import StepCost
from traces.trace import Trace

SCALE = 1_000_000  # ps: large enough that rounding shares down to integers does not matter


def increasing(rng, length, *, convex=False, base=SCALE):
    steps = [rng.randrange(0, SCALE) if rng.random() < 0.7 else 0 for _ in range(length - 1)]
    if convex:
        steps.sort()
    return np.cumsum([rng.randrange(1, 3 * base), *steps]).astype(np.int64)


def rows(rng, count, length, *, zero=False, **options):
    table = np.stack([increasing(rng, length, **options) for _ in range(count)])
    return table - table[:, :1] if zero else table


def decode_tables(rng, stages, batch, knots, *, rising=False):
    value = np.zeros((stages, batch + 1, len(knots)), np.int64)
    slope = np.zeros_like(value)
    for p in range(stages):
        for b in range(1, batch + 1):
            at = rng.randrange(0, 3 * SCALE)
            for j in range(len(knots)):
                value[p, b, j] = at
                slope[p, b, j] = rng.randrange(0, SCALE // 4)
                if j + 1 < len(knots):
                    at += int(slope[p, b, j] * b * (knots[j + 1] - knots[j]))
    if rising:
        for b in range(2, batch + 1):
            value[:, b] = value[:, 1] + SCALE * (b - 1)
            slope[:, b] = slope[:, 1]
            for j in range(1, len(knots)):
                value[:, b, j] = value[:, b, j - 1] + slope[:, b, j - 1] * b * (knots[j] - knots[j - 1])
    return value, slope


def random_step(
    seed, *, stages=1, ranks=1, max_seqs=4, tokens=12, longest=40, capacity=60, convex=False, chunkable=True
):
    rng = random.Random(seed)
    knots = np.array([0, 3, 9, 20], np.int64)
    n, t, m = tokens + 1, ranks * tokens + 1, ranks * max_seqs + 1
    value, slope = decode_tables(rng, stages, max_seqs, knots, rising=convex)
    value_nj, slope_nj = decode_tables(rng, stages, max_seqs, knots)
    return StepCost(
        stages=stages,
        ranks=ranks,
        max_seqs=max_seqs,
        knots=knots,
        local_ps=rows(rng, stages, n, convex=convex),
        shared_ps=rows(rng, stages, t, convex=convex),
        head_ps=increasing(rng, m),
        send_ps=rows(rng, stages - 1, t) if stages > 1 else np.zeros((0, t), np.int64),
        decode_value_ps=value,
        decode_slope_ps=slope,
        prefill_launch_ps=np.array([rng.randrange(0, SCALE) for _ in range(stages)]),
        prefill_ps=rows(rng, stages, longest + 1, zero=True, convex=rng.random() < 0.5),
        idle_w=rng.choice([0.0, 0.3, 300.0]),
        local_nj=rows(rng, stages, n),
        shared_nj=rows(rng, stages, t),
        head_nj=increasing(rng, m),
        send_nj=rows(rng, stages - 1, t) if stages > 1 else np.zeros((0, t), np.int64),
        decode_value_nj=value_nj,
        decode_slope_nj=slope_nj,
        prefill_launch_nj=np.array([rng.randrange(0, SCALE) for _ in range(stages)]),
        prefill_nj=rows(rng, stages, longest + 1, zero=True, convex=rng.random() < 0.5),
        kv_blocks=capacity,
        swap_block_ps=rng.randrange(0, SCALE),
        chunkable=chunkable,
    )


def decode_cost(value, slope, knots, batch, read):
    if batch == 0:
        return 0
    j = max(j for j in range(len(knots)) if batch * knots[j] <= read)
    return int(value[batch, j] + slope[batch, j] * (read - batch * knots[j]))


@dataclass
class Sequence:
    arrival: int
    prompt: int
    output: int
    rank: int
    done: int = 0  # tokens in the cache
    target: int = 0  # of the prompt or recomputation under way
    generated: int = 0
    swapped: bool = False
    flying: bool = False
    times: list = field(default_factory=list)

    @property
    def decoding(self):
        return self.generated > 0 and self.done == self.prompt + self.generated - 1 >= self.target

    @property
    def finished(self):
        return self.generated == self.output


def serve(
    step: StepCost, trace: Trace, *, seed, replicas=1, max_seqs=None, eager=0.8, whole=0.5, victims=0.1
):
    """Times in ps of the tokens of each request, and nanojoules above idle.

    ``eager``: chance that a sequence that could join a batch does; ``whole``: that a prompt is not cut;
    ``victims``: that somebody is preempted before a batch is formed.
    """
    rng = random.Random(seed)
    max_seqs = max_seqs or step.max_seqs
    arrivals = np.rint(trace.arrival_s * 1e12).astype(np.int64)
    groups = [[] for _ in range(replicas)]
    everyone = []
    for a, i, o in zip(arrivals, trace.prompt_tokens, trace.output_tokens, strict=True):
        s = Sequence(int(a), int(i), int(o), rng.randrange(step.ranks), target=int(i))
        everyone.append(s)
        rng.choice(groups).append(s)
    knobs = (eager, whole, victims)
    energy = sum(serve_replica(step, group, rng, max_seqs, knobs) for group in groups)
    return [s.times for s in everyone], energy


def serve_replica(step, group, rng, max_seqs, knobs):
    now, energy, flights = 0, 0, []
    stage_free = [0] * step.stages
    idle = 0
    while not all(s.finished for s in group):
        ready = [s for s in group if s.arrival <= now and not s.finished and not s.flying]
        batch, extra = ([], 0)
        if ready and len(flights) < step.stages:
            batch, extra = form(step, group, ready, rng, max_seqs, knobs)
        if batch:
            end, spent = run(step, batch, now, extra, stage_free)
            energy += spent
            flights.append((end, batch))
            idle = 0
            continue
        events = [end for end, _ in flights] + [s.arrival for s in group if s.arrival > now]
        if events:
            now = min(events)
        idle += 1
        assert idle < 10_000, "stuck"
        for flight in [f for f in flights if f[0] <= now]:
            flights.remove(flight)
            land(*flight)
    return energy


def evict(s, rng):
    if s.decoding and rng.random() < 0.5:
        s.swapped = True
    else:
        s.target, s.done = s.prompt + s.generated, 0


def form(step, group, ready, rng, max_seqs, knobs):
    eager, whole, victims = knobs
    extra = 0
    held = [0] * step.ranks
    for s in group:
        if not s.swapped and not s.finished:
            held[s.rank] += s.done + (s.chunk if s.flying else 0)
    resident = [s for s in ready if s.done and not s.swapped]
    if resident and (rng.random() < victims):
        for s in rng.sample(resident, rng.randint(1, len(resident))):
            held[s.rank] -= s.done
            evict(s, rng)
            extra += step.swap_block_ps if s.swapped else 0
    tokens, seqs, batch = [0] * step.ranks, [0] * step.ranks, []
    for s in rng.sample(ready, len(ready)):
        if rng.random() > eager or seqs[s.rank] == max_seqs:
            continue
        room = step.max_tokens - tokens[s.rank]
        if s.swapped or s.decoding:
            chunk = 1
        else:
            chunk = s.target - s.done
            if step.chunkable and (chunk > room or rng.random() > whole):
                chunk = rng.randint(1, max(1, min(chunk, room)))
        if chunk > room:
            continue
        need = chunk + (s.done if s.swapped else 0)
        others = [v for v in ready if v.rank == s.rank and v.done and not v.swapped and v is not s]
        others = [v for v in others if v not in [b for b, _ in batch]]
        while held[s.rank] + need > step.kv_blocks and others:
            victim = others.pop(rng.randrange(len(others)))
            held[s.rank] -= victim.done
            evict(victim, rng)
        if held[s.rank] + need > step.kv_blocks:
            continue
        if s.swapped:
            s.swapped = False
            extra += step.swap_block_ps
        held[s.rank] += need
        tokens[s.rank] += chunk
        seqs[s.rank] += 1
        s.chunk = chunk
        batch.append((s, chunk))
    return batch, extra


def run(step, batch, now, extra, stage_free):
    total = sum(chunk for _, chunk in batch)
    end, energy = now, 0
    for p in range(step.stages):
        slowest = 0
        for rank in range(step.ranks):
            mine = [(s, chunk) for s, chunk in batch if s.rank == rank]
            n = sum(chunk for _, chunk in mine)
            decodes = [s for s, _ in mine if s.decoding]
            read = sum(s.prompt + s.generated for s in decodes)
            time = int(step.local_ps[p, n])
            energy += int(step.local_nj[p, n])
            time += decode_cost(
                step.decode_value_ps[p], step.decode_slope_ps[p], step.knots, len(decodes), read
            )
            energy += decode_cost(
                step.decode_value_nj[p], step.decode_slope_nj[p], step.knots, len(decodes), read
            )
            chunks = [(s.done, chunk) for s, chunk in mine if not s.decoding]
            if chunks:
                time += int(step.prefill_launch_ps[p])
                energy += int(step.prefill_launch_nj[p])
            for x, c in chunks:
                g, e = step.prefill_ps[p], step.prefill_nj[p]
                alone, behind = int(g[c]), int(g[x + c] - g[x])
                time += max(alone, behind)
                energy += int(e[c]) if alone >= behind else int(e[x + c] - e[x])
            slowest = max(slowest, time)
        time = slowest + int(step.shared_ps[p, total])
        energy += int(step.shared_nj[p, total])
        if p == 0:
            time += extra
        if p == step.stages - 1:
            time += int(step.head_ps[len(batch)])
            energy += int(step.head_nj[len(batch)])
        end = max(end, stage_free[p]) + time
        stage_free[p] = end
        if p + 1 < step.stages:
            end += int(step.send_ps[p, total])
            energy += int(step.send_nj[p, total])
    for s, _ in batch:
        s.flying = True
    return end, energy


def land(end, batch):
    for s, chunk in batch:
        s.flying = False
        ends_in_token = s.decoding or s.done + chunk == s.target
        s.done += chunk
        if ends_in_token:
            s.generated += 1
            s.times.append(end)
