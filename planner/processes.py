"""A replica as processes: what to start on which node, with which devices and ports, in each engine.

A replica is a list of ranks, in the order in which an engine numbers them, cut where the node changes:

============  =====================================  ===================================================
engine        order of ranks                         a replica on several nodes
============  =====================================  ===================================================
vLLM          attention rank, stage, tensor rank     ``--nnodes --node-rank --master-addr --master-port``,
              (``parallel_state.py``)                ``--headless`` but for the first; attention ranks:
                                                     ``--data-parallel-size-local --data-parallel-address``;
                                                     as many devices on each node, else Ray
SGLang        stage, tensor rank                     ``--nnodes --node-rank --dist-init-addr``; as many
              (``entrypoints/engine.py``)            devices on each node, whole stages or equal parts
TensorRT-LLM  stage, tensor rank (``mapping.py``)    ``mpirun ... trtllm-llmapi-launch trtllm-serve``; as
                                                     many devices on each node (rank % gpus_per_node)
============  =====================================  ===================================================

Rules and flags as in the versions of ``planner.deploy.VERSIONS``: vLLM ``engine/arg_utils.py``,
``config/parallel.py`` (``nnodes_within_dp``) and ``entrypoints/cli/serve.py`` (``run_headless``), and
``serving/data_parallel_deployment`` of its documentation; SGLang ``arg_groups/validation_hook.py`` and
``PortArgs.init_new`` of ``server_args.py`` (ports of attention ranks);
TensorRT-LLM ``commands/trtllm-serve``, "Multi-node Serving". Devices are named to a process with
``CUDA_VISIBLE_DEVICES`` or, on AMD, ``HIP_VISIBLE_DEVICES`` (ROCm, "GPU isolation techniques").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

from planner.deploy import Command, Server, shell_line
from profiles.plan import Plan

Part = tuple[int, tuple[int, ...]]
"""A node and the devices of a replica there, in the order of ranks."""
Replica = tuple[tuple[Part, ...], ...]
"""Of a placement: per stage its parts."""

HTTP_PORT = 8000
"""Of the first replica; each has its own, so that any of them may share a node."""
RENDEZVOUS_PORT = 20_000
RENDEZVOUS_STEP = 100
"""Between replicas: engines take a few ports after the one that they are told."""
OPTIONS_FILE = "options.yaml"


class Inexpressible(Exception):
    """An engine has no way to run this replica there; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a replica is started: addresses of its nodes, ports, and the path of TensorRT-LLM's options."""

    hosts: tuple[str, ...]
    http_port: int
    rendezvous_port: int
    options_file: str = OPTIONS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One command: on which node, for which replica (both from 0), with which devices."""

    replica: int
    node: int
    environment: Mapping[str, str]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line of a shell."""
        return shell_line(self.environment, self.words)


def parts_of(plan: Plan, replica: Replica, engine: str) -> tuple[Part, ...]:
    """Ranks of a replica in an engine's order, cut where the node changes.

    Examples
    --------
    >>> stages = (((0, (0, 1)),), ((0, (2, 3)),))
    >>> plan = Plan(layers_per_stage=(16, 16), attn_dp=2, ffn_tp=2)
    >>> parts_of(plan, stages, "vLLM"), parts_of(plan, stages, "SGLang")
    (((0, (0, 2, 1, 3)),), ((0, (0, 1, 2, 3)),))
    """
    stages = [[(node, device) for node, devices in stage for device in devices] for stage in replica]
    if engine == "vLLM":
        width = plan.attn_tp
        ranks = [
            rank
            for d in range(plan.attn_dp)
            for stage in stages
            for rank in stage[d * width : (d + 1) * width]
        ]
    else:
        ranks = [rank for stage in stages for rank in stage]
    return tuple((node, tuple(d for _, d in run)) for node, run in groupby(ranks, key=lambda rank: rank[0]))


def is_even(parts: tuple[Part, ...]) -> bool:
    """Every node once, with as many devices."""
    nodes = {node for node, _ in parts}
    return len(nodes) == len(parts) and len({len(devices) for _, devices in parts}) == 1


def words_of(
    engine: str, flags: Command, plan: Plan, sizes: tuple[int, ...], site: Site
) -> list[tuple[str, ...]]:
    """The words to run on each node of a replica that has ``sizes`` devices on its nodes.

    Raises
    ------
    Inexpressible
        When the engine's own start does not do that.
    """
    return _WORDS[engine](flags, plan, sizes, site)


def _vllm_words(flags: Command, plan: Plan, sizes: tuple[int, ...], site: Site) -> list[tuple[str, ...]]:
    serve = (*flags.words, "--host", "0.0.0.0", "--port", str(site.http_port))
    if len(sizes) == 1:
        return [serve]
    if plan.attn_dp > 1:
        return _vllm_attention_ranks(flags, plan, sizes, site, serve)
    if len(set(sizes)) > 1:
        raise Inexpressible("vLLM's own start wants as many devices on each node")
    rendezvous = ("--master-addr", site.hosts[0], "--master-port", str(site.rendezvous_port))
    words = []
    for rank in range(len(sizes)):
        head = serve if rank == 0 else (*flags.words, "--headless")
        words.append((*head, "--nnodes", str(len(sizes)), "--node-rank", str(rank), *rendezvous))
    return words


def _vllm_attention_ranks(
    flags: Command, plan: Plan, sizes: tuple[int, ...], site: Site, serve: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Whole attention ranks on each node; their numbers may differ."""
    width = plan.attn_tp * plan.stages
    if any(size % width for size in sizes):
        raise Inexpressible("vLLM cannot spread one attention rank of several over nodes")
    rendezvous = (
        "--data-parallel-address", site.hosts[0], "--data-parallel-rpc-port", str(site.rendezvous_port),
    )  # fmt: skip
    words, start = [], 0
    for size in sizes:
        local = ("--data-parallel-size-local", str(size // width))
        if start == 0:
            words.append((*serve, *local, *rendezvous))
        else:
            words.append(
                (*flags.words, "--headless", "--data-parallel-start-rank", str(start), *local, *rendezvous)
            )
        start += size // width
    return words


def _sglang_words(flags: Command, plan: Plan, sizes: tuple[int, ...], site: Site) -> list[tuple[str, ...]]:
    serve = (*flags.words, "--host", "0.0.0.0", "--port", str(site.http_port))
    nodes = len(sizes)
    if nodes == 1 and plan.attn_dp > 1:  # else servers take seven ports from theirs + 233 on, and collide
        return [(*serve, "--dist-init-addr", f"127.0.0.1:{site.rendezvous_port}")]
    if nodes == 1:
        return [serve]
    if len(set(sizes)) > 1 or (nodes % plan.stages and plan.stages % nodes):
        raise Inexpressible(
            "SGLang wants as many devices on each node, and whole stages or equal parts of one"
        )
    address = f"{site.hosts[0]}:{site.rendezvous_port}"
    return [
        (*serve, "--nnodes", str(nodes), "--node-rank", str(rank), "--dist-init-addr", address)
        for rank in range(nodes)
    ]


def _tensorrt_llm_words(
    flags: Command, plan: Plan, sizes: tuple[int, ...], site: Site
) -> list[tuple[str, ...]]:
    """The same on every node: ``mpirun`` starts it once for each device."""
    if len(set(sizes)) > 1:
        raise Inexpressible("TensorRT-LLM wants as many devices on each node")
    serve = (*flags.words, "--host", "0.0.0.0", "--port", str(site.http_port))
    if flags.options:
        serve = (*serve, "--extra_llm_api_options", site.options_file)
    if len(sizes) > 1:
        serve = ("trtllm-llmapi-launch", *serve, "--gpus_per_node", str(sizes[0]))
    return [serve] * len(sizes)


_WORDS: dict[str, Callable[[Command, Plan, tuple[int, ...], Site], list[tuple[str, ...]]]] = {
    "vLLM": _vllm_words,
    "SGLang": _sglang_words,
    "TensorRT-LLM": _tensorrt_llm_words,
}


def host(node: int) -> str:
    """The name that stands for a node's address."""
    return f"node-{node}"


def processes_of(
    server: Server, engine: str, flags: Command, parts: tuple[Part, ...], replica: int
) -> list[Process]:
    """One replica on its nodes."""
    visible = "HIP_VISIBLE_DEVICES" if server.device.vendor == "AMD" else "CUDA_VISIBLE_DEVICES"
    site = Site(
        hosts=tuple(host(node) for node, _ in parts),
        http_port=HTTP_PORT + replica,
        rendezvous_port=RENDEZVOUS_PORT + RENDEZVOUS_STEP * replica,
    )
    devices = [{visible: ",".join(map(str, ids))} for _, ids in parts]
    if engine == "vLLM" and server.plan.attn_dp == 1 and not is_even(parts):
        return _ray_processes(flags, parts, devices, site, replica)
    if len({node for node, _ in parts}) < len(parts):
        raise Inexpressible(f"{engine} numbers ranks node after node, and this one returns to a node")
    words = words_of(engine, flags, server.plan, tuple(len(ids) for _, ids in parts), site)
    if engine == "TensorRT-LLM" and len(parts) > 1:
        return [
            Process(
                replica=replica,
                node=parts[0][0],
                environment=flags.environment,
                words=_mpirun(parts, devices, words[0]),
            )
        ]
    return [
        Process(replica=replica, node=node, environment={**seen, **flags.environment}, words=own)
        for (node, _), seen, own in zip(parts, devices, words, strict=True)
    ]


def _mpirun(
    parts: tuple[Part, ...], devices: list[dict[str, str]], serve: tuple[str, ...]
) -> tuple[str, ...]:
    """Ranks node after node; nodes with devices of the same numbers share one part of the command."""
    words: tuple[str, ...] = ("mpirun",)
    together = groupby(zip(parts, devices, strict=True), key=lambda pair: pair[1])
    for i, (seen, pairs) in enumerate(together):
        held = [(host(node), len(ids)) for (node, ids), _ in pairs]
        slots = ",".join(f"{name}:{count}" for name, count in held)
        ranks = str(sum(count for _, count in held))
        variables = tuple(f"{name}={value}" for name, value in seen.items())
        words += (":",) if i else ()
        words += ("-np", ranks, "-H", slots, "--map-by", "slot", "env", *variables, *serve)
    return words


def _ray_processes(
    flags: Command, parts: tuple[Part, ...], devices: list[dict[str, str]], site: Site, replica: int
) -> list[Process]:
    """A Ray cluster of the replica's devices, and vLLM on it."""
    held: dict[int, list[int]] = {}
    for node, ids in parts:
        held.setdefault(node, []).extend(ids)
    name = next(iter(devices[0]))
    head = f"{site.hosts[0]}:{site.rendezvous_port}"
    found = []
    for i, (node, every) in enumerate(held.items()):
        join = ("--head", "--port", str(site.rendezvous_port)) if i == 0 else ("--address", head)
        own = ("ray", "start", *join, "--num-gpus", str(len(every)))
        seen = {name: ",".join(map(str, every))}
        found.append(Process(replica=replica, node=node, environment=seen, words=own))
    serve = (*flags.words, "--host", "0.0.0.0", "--port", str(site.http_port))
    found.append(
        Process(
            replica=replica,
            node=parts[0][0],
            environment={"RAY_ADDRESS": head, **flags.environment},
            words=(*serve, "--distributed-executor-backend", "ray"),
        )
    )
    return found


def needs_of(engine: str, parts: tuple[Part, ...]) -> list[str]:
    """What a replica on several nodes needs."""
    if len(parts) == 1:
        return []
    if engine == "TensorRT-LLM":
        return [
            f"mpirun reaches the other nodes by ssh, or runs under a scheduler; {OPTIONS_FILE} lies at the same "
            "path on each"
        ]
    if engine == "vLLM" and not is_even(parts):
        return [
            "nodes with different numbers of devices need Ray (pip install ray); start it on all of them in "
            "this order, then vLLM; Ray chooses which device serves which stage"
        ]
    return ["start a replica on all its nodes; the one whose address its commands name answers requests"]
