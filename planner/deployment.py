"""A plan deployed: of every engine that runs it the processes, files and notes. ``zenith deploy`` shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner.deploy import COMMANDS, VERSIONS, Server, command
from planner.deployable import verdicts
from planner.errors import NoFeasiblePlan
from planner.layouts import longest_of
from planner.manifest import image, manifest, to_yaml
from planner.processes import HTTP_PORT, Inexpressible, Process, Replica, needs_of, parts_of, processes_of
from profiles.plan import Plan

if TYPE_CHECKING:
    from planner.pipeline import Answer
    from planner.question import Question
    from profiles.fleet import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDeployment:
    """All that one engine needs: ``options`` and ``manifest`` are YAML, empty where there is none."""

    engine: str
    version: str
    image: str
    processes: tuple[Process, ...]
    options: str
    manifest: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A plan in every engine that runs it; ``refused``: why the others do not."""

    answer: "Answer"
    engines: tuple[EngineDeployment, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]


def deployment(question: "Question", answer: "Answer", engines: Iterable[str] = ()) -> Deployment:
    """How to start the first plan of an answer.

    Parameters
    ----------
    engines
        Those asked for; empty for all.

    Raises
    ------
    NoFeasiblePlan
        When none of them runs the plan.
    """
    from planner.pipeline import fitted

    best = answer.results[0]
    pool = next(pool for pool in question.fleet.pools if pool.name == best.pool)
    model, notes = question.model, _notes(best.plan, pool, best.placement)
    if (folder := Path(model.checkpoint)).is_dir():  # scripts run elsewhere
        model = replace(model, checkpoint=str(folder.resolve()))
        notes.append(f"{model.checkpoint} must be there on every node, and mounted in pods of Kubernetes")
    server = Server(
        model=model,
        plan=best.plan,
        device=pool.device,
        memory=best.memory,
        longest=longest_of(fitted(question)[0].trace),
    )
    wanted = tuple(engines) or tuple(COMMANDS)
    found = {
        name: verdict
        for name, verdict in verdicts(best.plan, question.model, pool.device).items()
        if name in wanted
    }
    refused = {name: words for name, (runs, words) in found.items() if not runs}
    if len(refused) == len(found):
        raise NoFeasiblePlan(f"{best.plan.label} cannot be deployed: {'; '.join(refused.values())}")
    made = tuple(engine_deployment(server, name, best.placement) for name, (runs, _) in found.items() if runs)
    return Deployment(answer=answer, engines=made, refused=refused, notes=tuple(notes))


def engine_deployment(server: Server, engine: str, placement: tuple[Replica, ...]) -> EngineDeployment:
    """Processes, files and notes of one engine.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> from profiles.huggingface import load_model
    >>> from profiles.memory import Longest, footprint
    >>> plan, longest = Plan(layers_per_stage=(32,)), Longest(prompt=90, request=100)
    >>> model = load_model("llama-3.1-8b")
    >>> server = Server(model=model, plan=plan, device=load_device("l40s"), longest=longest,
    ...                 memory=footprint(model, plan, 20_000, longest))
    >>> made = engine_deployment(server, "vLLM", ((((0, (1,)),),),))
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
    shapes = [parts_of(server.plan, replica, engine) for replica in placement]
    text, said = manifest(server, engine, flags, shapes)
    return EngineDeployment(
        engine=engine,
        version=VERSIONS[engine],
        image=image(engine, server.device),
        processes=tuple(processes),
        options=to_yaml([dict(flags.options)]) if flags.options else "",
        manifest=text,
        notes=tuple(dict.fromkeys([*notes, *said])),
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
