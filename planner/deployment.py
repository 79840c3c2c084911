"""A plan deployed: of every engine that runs it the processes, files and notes. ``zenith deploy`` shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.deploy import COMMANDS, Server, command
from planner.errors import NoFeasiblePlan
from planner.launch import EngineLaunch, server_of
from planner.manifest import image, manifest, to_yaml
from planner.processes import Process, Replica, parts_of

if TYPE_CHECKING:
    from planner.pipeline import Answer
    from planner.question import Question


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

    best, launch = answer.results[0], answer.launch
    wanted = tuple(engines) or tuple(COMMANDS)
    refused = {name: words for name, words in launch.refused.items() if name in wanted}
    if refused.keys() == set(wanted):
        raise NoFeasiblePlan(f"{best.plan.label} cannot be deployed: {'; '.join(refused.values())}")
    server, _ = server_of(fitted(question)[0], best)
    made = {
        each.engine: with_files(each, server, best.placement)
        for each in launch.engines
        if each.engine in wanted
    }
    order = [made[name] for name in COMMANDS if name in made]
    return Deployment(answer=answer, engines=tuple(order), refused=refused, notes=launch.notes)


def with_files(launch: EngineLaunch, server: Server, placement: tuple[Replica, ...]) -> EngineDeployment:
    """One engine's processes with its image, options and manifest.

    Examples
    --------
    >>> from planner.launch import engine_launch
    >>> from profiles.device import load_device
    >>> from profiles.huggingface import load_model
    >>> from profiles.memory import Longest, footprint
    >>> from profiles.plan import Plan
    >>> plan, longest = Plan(layers_per_stage=(32,)), Longest(prompt=90, request=100)
    >>> model = load_model("llama-3.1-8b")
    >>> server = Server(model=model, plan=plan, device=load_device("l40s"), longest=longest,
    ...                 memory=footprint(model, plan, 20_000, longest))
    >>> there = ((((0, (1,)),),),)
    >>> with_files(engine_launch(server, "SGLang", there), server, there).image
    'lmsysorg/sglang:v0.5.23'
    """
    shapes = [parts_of(server.plan, replica, launch.engine) for replica in placement]
    text, said = manifest(server, launch.engine, command(server, launch.engine), shapes)
    return EngineDeployment(
        engine=launch.engine,
        version=launch.version,
        image=image(launch.engine, server.device),
        processes=launch.processes,
        options=to_yaml([dict(launch.options)]) if launch.options else "",
        manifest=text,
        notes=tuple(dict.fromkeys([*launch.notes, *said])),
    )
