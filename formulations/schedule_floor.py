"""What is known of the best unison schedule (``formulations.schedule``) without a search: values, floors, horizons."""

from formulations.schedule import Objective, Schedule, ScheduleInstance, replay


def value_of(instance: ScheduleInstance, schedule: Schedule, objective: Objective) -> int:
    """The objective of a schedule; raises as ``replay``."""
    first, last = replay(instance, schedule)
    return (
        max(last) if objective is Objective.MAKESPAN else sum(last if objective is Objective.E2E else first)
    )


def floor_of(instance: ScheduleInstance, objective: Objective) -> int:
    """What arrivals, solitude and the work that is left prove without a search."""
    n = range(len(instance))
    if objective is Objective.TTFT:
        return sum(instance.arrival[i] + instance.first_alone(i) for i in n)
    ends = [instance.arrival[i] + instance.alone(i) for i in n]
    if objective is Objective.E2E:
        return sum(ends)
    return max(*ends, *(start + least(instance, start) for start in {*instance.arrival}))


def least(instance: ScheduleInstance, start: int) -> int:
    """Time of everything that arrives from ``start`` on.

    Proof: costs of tokens belong to requests. Decodes take as many steps as the longest answer, as memory for what
    they read, as seats. Prompts take chunks for their tokens; one iteration completes a prompt before any decode.
    """
    cost = instance.cost
    late = [i for i in range(len(instance)) if instance.arrival[i] >= start]
    prompts, later = (sum(column[i] for i in late) for column in (instance.prompt, instance.output))
    later -= len(late)
    read = sum(read_of(instance, i) for i in late)
    steps = max(
        max(instance.output[i] for i in late) - 1, -(-read // instance.kv), -(-later // instance.sequences)
    )
    chunks = -(-prompts // instance.tokens)
    iterations = max(steps + 1, -(-(prompts + later) // instance.tokens))
    tokens = cost.token * (prompts + later) + cost.sequence * later + cost.read * read
    own = sum(instance.own[i] for i in late)
    return tokens + own + cost.base * iterations + cost.decode * steps + cost.launch * chunks


def most_steps(instance: ScheduleInstance, objective: Objective, most: int) -> int:
    """Decode steps that no schedule of objective ``most`` exceeds.

    Proof: one request at a time takes all steps that there are. D steps take base + decode each, before the last end,
    and so does the work of all tokens. The others end no earlier than alone, so their sum leaves the rest to the last.
    """
    cost, n = instance.cost, range(len(instance))
    serial = sum(o - 1 for o in instance.output)
    each = cost.base + cost.decode
    if objective is Objective.TTFT or not each:
        return serial
    last = most
    if objective is Objective.E2E:
        ends = [instance.arrival[i] + instance.alone(i) for i in n]
        last = most - sum(ends) + max(ends)
    return max(0, min(serial, (last - min(instance.arrival) - work_of(instance)) // each))


def read_of(instance: ScheduleInstance, i: int) -> int:
    """Tokens read by all decodes of request i."""
    later = instance.output[i] - 1
    return later * instance.prompt[i] + later * (later + 1) // 2


def work_of(instance: ScheduleInstance) -> int:
    """Time of all tokens wherever they run, and of the fewest launches."""
    cost = instance.cost
    launches = -(-sum(instance.prompt) // instance.tokens)
    later = sum(instance.output) - len(instance)
    read = sum(read_of(instance, i) for i in range(len(instance)))
    return (
        cost.token * (sum(instance.prompt) + later)
        + cost.sequence * later
        + cost.read * read
        + sum(instance.own)
        + cost.launch * launches
    )
