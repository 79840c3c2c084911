"""How large a window is solved exactly: requests, objective, status, gap and seconds on seeded instances.

    python tests/benchmarks/exact_sizes.py [--work W] [--seeds N] [--sizes 6,8,...] [--objective NAME]

Instances of INFERMAX's shape (arXiv 2411.07447): all at once, prompts of 64 to 1,024 tokens, answers of 16 to 128, KV
for 2,560 and a budget of 1,024 tokens, and the batch times that its authors published for Llama-2-7B on an A100, in
units of 16 tokens. So an optimum is optimal in the coarse class: requests rounded to units, and decodes that go on
for 16 tokens. ``online`` has the same requests arrive one after another. Prints the table of ``docs/bounds.md``.
"""

import argparse
import random
import time

from formulations.problem import Limits
from formulations.schedule import BatchCost, Objective, ScheduleInstance, greedy_schedules
from formulations.schedule_best import solve
from formulations.schedule_coarse import coarse
from formulations.schedule_floor import value_of

UNIT = 16
LAYERS = 32
US = 1000
MS = 1000 * US
SIZES = {
    ("at once", Objective.MAKESPAN): (10, 15, 20, 30, 50),
    ("at once", Objective.E2E): (6, 8, 10, 12, 15, 20),
    ("at once", Objective.TTFT): (8, 12, 15),
    ("online", Objective.E2E): (4, 6, 8, 15),
}
GAP_US = 60_000
"""Mean time between arrivals; a request takes the machine about that long beside others."""


def instance(requests: int, seed: int, *, online: bool = False) -> ScheduleInstance:
    """Seeded, in units of 16 tokens and nanoseconds."""
    rng = random.Random(seed)
    prompt = [rng.randint(64, 1024) // UNIT * UNIT for _ in range(requests)]
    units = [rng.randint(16, 128) // UNIT for _ in range(requests)]
    gaps = [int(rng.expovariate(1 / GAP_US)) for _ in range(requests)]

    def ns(per_layer_ms: float) -> int:
        return round(per_layer_ms * LAYERS * MS)

    tokens = ScheduleInstance(
        arrival=tuple(sum(gaps[:i]) * online * US for i in range(requests)),
        prompt=tuple(prompt),
        output=tuple(1 + (o - 1) * UNIT for o in units),
        own=tuple(ns(0.001534 + 1.6773e-7 * p**2) for p in prompt),
        kv=2560,
        tokens=1024,
        sequences=256,
        cost=BatchCost(
            base=ns(0.06486),
            token=ns(0.00191),
            launch=ns(0.0926),
            decode=ns(0.01921),
            sequence=ns(0.00074),
            read=ns(8.513e-6),
        ),
    )
    return coarse(tokens, UNIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=float, default=20.0, help="deterministic seconds, as zenith bound --exact"
    )
    parser.add_argument("--seeds", type=int, default=3, help="instances of each size")
    parser.add_argument("--sizes", help="instead of the table's, e.g. 6,8")
    parser.add_argument("--objective", type=Objective, help="only this one")
    options = parser.parse_args()
    print("| arrivals | objective | requests | seed | status | gap | greedy | CPU s | s |")
    print("|---" * 9 + "|")
    for (arrivals, objective), sizes in SIZES.items():
        if options.objective not in (None, objective):
            continue
        for n in map(int, options.sizes.split(",")) if options.sizes else sizes:
            for seed in range(1, options.seeds + 1):
                case = instance(n, seed, online=arrivals == "online")
                arrived = 0 if objective is Objective.MAKESPAN else sum(case.arrival)
                greedy = min(value_of(case, schedule, objective) for schedule in greedy_schedules(case))
                wall, cpu = time.perf_counter(), time.process_time()
                found = solve(case, objective, Limits(time_s=600.0, work=options.work, workers=8))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                value, bound = found.value - arrived, found.bound - arrived
                print(
                    f"| {arrivals} | {objective} | {n} | {seed} | {found.status} | {1 - bound / value:.1%} "
                    f"| +{(greedy - arrived) / value - 1:.1%} | {cpu:.0f} | {wall:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
