"""How to start the best plan of an answer: in each engine that runs it the processes of every replica, and why the
others do not. What an engine cannot express is a note, never dropped."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner.deploy import VERSIONS, Server, command
from planner.deployable import verdicts
from planner.layouts import longest_of
from planner.processes import HTTP_PORT, Inexpressible, Process, Replica, needs_of, parts_of, processes_of
from profiles.plan import Plan

if TYPE_CHECKING:
    from planner.question import Question
    from planner.ranking import PlanResult
    from profiles.fleet import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLaunch:
    """Of one engine: ``options`` are for the file that TensorRT-LLM's command names, empty where there is none."""

    engine: str
    version: str
    processes: tuple[Process, ...]
    options: Mapping[str, object]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A plan in every engine that runs it; ``refused``: why the others do not; ``notes`` hold in all of them."""

    engines: tuple[EngineLaunch, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def launch_of(question: "Question", best: "PlanResult", *, first: Iterable[str] = ()) -> Launch:
    """How to start a plan of a question, whose trace is as its model sees it.

    Parameters
    ----------
    first
        Engines that come before the others.
    """
    pool = pool_of(question, best)
    server, notes = server_of(question, best)
    found = verdicts(best.plan, question.model, pool.device)
    wanted = tuple(first)
    order = sorted(found, key=lambda engine: engine not in wanted)
    return Launch(
        engines=tuple(engine_launch(server, name, best.placement) for name in order if found[name][0]),
        refused={name: found[name][1] for name in order if not found[name][0]},
        notes=(*_notes(best.plan, pool, best.placement), *notes),
    )


def pool_of(question: "Question", best: "PlanResult") -> "Pool":
    """Where the plan runs."""
    return next(pool for pool in question.fleet.pools if pool.name == best.pool)


def server_of(question: "Question", best: "PlanResult") -> tuple[Server, list[str]]:
    """One replica, and what to know of its weights: where they are a folder, commands name it wholly, for they run
    elsewhere."""
    model, notes = question.model, []
    if (folder := Path(model.checkpoint)).is_dir():
        model = replace(model, checkpoint=str(folder.resolve()))
        notes.append(f"{model.checkpoint} must be there on every node, and mounted in pods of Kubernetes")
    server = Server(
        model=model,
        plan=best.plan,
        device=pool_of(question, best).device,
        memory=best.memory,
        longest=longest_of(question.trace),
    )
    return server, notes


def engine_launch(server: Server, engine: str, placement: tuple[Replica, ...]) -> EngineLaunch:
    """Every replica of one engine, or why it is not started.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> from profiles.huggingface import load_model
    >>> from profiles.memory import Longest, footprint
    >>> plan, longest = Plan(layers_per_stage=(32,)), Longest(prompt=90, request=100)
    >>> model = load_model("llama-3.1-8b")
    >>> server = Server(model=model, plan=plan, device=load_device("l40s"), longest=longest,
    ...                 memory=footprint(model, plan, 20_000, longest))
    >>> made = engine_launch(server, "vLLM", ((((0, (1,)),),),))
    >>> made.processes[0].text[:50]
    'CUDA_VISIBLE_DEVICES=1 vllm serve meta-llama/Llama'
    """
    flags = command(server, engine)
    processes: list[Process] = []
    notes = list(flags.notes)
    for i, replica in enumerate(placement):
        parts = parts_of(server.plan, replica, engine)
        try:
            processes += processes_of(server, engine, flags, parts, i)
        except Inexpressible as error:
            notes.append(f"replica {i} is not started: {error}")
            continue
        notes += needs_of(engine, parts)
    return EngineLaunch(
        engine=engine,
        version=VERSIONS[engine],
        processes=tuple(processes),
        options=flags.options,
        notes=tuple(dict.fromkeys(notes)),
    )


def _notes(plan: Plan, pool: "Pool", placement: tuple[Replica, ...]) -> list[str]:
    """What holds in every engine."""
    notes = []
    nodes = {node for replica in placement for stage in replica for node, _ in stage}
    if len(nodes) > 1:
        notes.append("node-0, node-1, ... stand for the addresses of the nodes")
    if any(pool.free[node] < pool.devices_per_node for node in nodes):
        notes.append("device numbers count the free devices of a node from 0: put in those of the driver")
    if plan.replicas > 1:
        ports = f"{HTTP_PORT} to {HTTP_PORT + plan.replicas - 1}"
        notes.append(
            f"requests were simulated with {plan.engine.routing} routing: put such a router before ports {ports}"
        )
    return notes
