"""A plain Kubernetes manifest: a Deployment for replicas on one node each, a StatefulSet for a replica on
several, a Service before them.

Images are the engines' official ones: ``vllm/vllm-openai`` and ``vllm/vllm-openai-rocm`` (vLLM, "Using Docker"),
``lmsysorg/sglang`` (SGLang, "Install", method Docker; ``-rocm720-mi30x`` as in its Docker Hub tags for MI300X),
``nvcr.io/nvidia/tensorrt-llm/release`` (TensorRT-LLM, "Quick Start"), each with the version of
``planner.deploy.VERSIONS``. All three answer ``/health`` when they are ready; SGLang generates a token for it, which
takes a second and more (``entrypoints/http_server.py``, ``health_generate``). Of a replica on several nodes the first
alone does so, in vLLM. Devices are asked for as
``nvidia.com/gpu`` or ``amd.com/gpu`` (Kubernetes, "Schedule GPUs"); shared memory between ranks is a volume of
memory at ``/dev/shm`` (vLLM, "Using Kubernetes"). ``apps.kubernetes.io/pod-index`` numbers the pods of a
StatefulSet (Kubernetes 1.28 and later).
"""

import re
import shlex
from collections import Counter
from typing import Any

import yaml

from planner.deploy import VERSIONS, Command, Server
from planner.processes import (
    HTTP_PORT,
    OPTIONS_FILE,
    RENDEZVOUS_PORT,
    Inexpressible,
    Part,
    Site,
    is_even,
    words_of,
)
from profiles.device import Device

_IMAGES = {
    "vLLM": "vllm/vllm-openai:v{}",
    "SGLang": "lmsysorg/sglang:v{}",
    "TensorRT-LLM": "nvcr.io/nvidia/tensorrt-llm/release:{}",
}
_AMD_IMAGES = {"vLLM": "vllm/vllm-openai-rocm:v{}", "SGLang": "lmsysorg/sglang:v{}-rocm720-mi30x"}
_RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu"}

CONFIG_FOLDER = "/etc/zenith"
LOADING_S = 3600
"""How long a server may load weights before Kubernetes starts it anew."""
HEALTH_S = 30
"""How long an answer of ``/health`` may take: SGLang gives up after 20 s."""
LONGEST_NAME = 40
"""Of a workload: a name of Kubernetes has at most 63 characters, pods add theirs."""
POD_INDEX = "apps.kubernetes.io/pod-index"
_READY = f"""\
[ "$POD_INDEX" != 0 ] ||
python3 -c "import urllib.request as web; web.urlopen('http://127.0.0.1:{HTTP_PORT}/health')"
"""


def image(engine: str, device: Device) -> str:
    """Name and version of an engine's official image.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> image("TensorRT-LLM", load_device("h100"))
    'nvcr.io/nvidia/tensorrt-llm/release:1.2.1'
    """
    names = _AMD_IMAGES if device.vendor == "AMD" else _IMAGES
    return names[engine].format(VERSIONS[engine])


def workload_name(model: str, engine: str) -> str:
    """A name that Kubernetes takes: lower case letters, digits and hyphens, a letter first.

    Examples
    --------
    >>> workload_name("meta/Llama-3.1-8B", "TensorRT-LLM")
    'meta-llama-3-1-8b-tensorrt-llm'
    """
    suffix = "-" + engine.lower()
    words = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-") or "model"
    words = words if words[0].isalpha() else f"m-{words}"
    return words[: LONGEST_NAME - len(suffix)].strip("-") + suffix


def manifest(
    server: Server, engine: str, flags: Command, replicas: list[tuple[Part, ...]]
) -> tuple[str, list[str]]:
    """YAML of all replicas that Kubernetes can start by itself, and what is said of the others.

    Parameters
    ----------
    flags
        The engine's command for one replica.
    replicas
        Of each its nodes and devices, in the engine's order of ranks.
    """
    name = workload_name(server.model.name, engine)
    labels = {"app.kubernetes.io/name": name}
    documents: list[dict[str, Any]] = []
    notes: list[str] = []
    if flags.options:
        data = {OPTIONS_FILE: to_yaml([dict(flags.options)])}
        documents.append(_object("v1", "ConfigMap", name, labels, data=data))
    shapes = Counter(tuple(len(devices) for _, devices in parts) for parts in replicas if len(parts) == 1)
    for sizes, count in shapes.items():
        documents += _on_one_node(server, engine, flags, name, sizes[0], count)
    several = [parts for parts in replicas if len(parts) > 1]
    made = []
    for i, parts in enumerate(several):
        try:
            made.append(_on_several_nodes(server, engine, flags, f"{name}-{i}", labels, parts))
        except Inexpressible as error:
            notes.append(f"Kubernetes: {error}")
    if made:
        documents += [document for documents_of_one in made for document in documents_of_one]
        heads = {**labels, POD_INDEX: "0"}
        entry = name if not shapes else f"{name}-several"
        documents.append(_service(entry, labels, heads))
    if not shapes and not made:
        return "", notes
    notes.append(
        "Kubernetes chooses nodes and devices itself, and its Service spreads connections, not requests: "
        "that is not the routing that was simulated"
        if len(replicas) > 1
        else "Kubernetes chooses nodes and devices itself"
    )
    return to_yaml(documents), notes


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    """Safe YAML as people write it: no references, text of several lines in a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def to_yaml(documents: list[dict[str, Any]]) -> str:
    """Documents in their order of keys.

    Examples
    --------
    >>> print(to_yaml([{"b": 1, "a": "x\\ny\\n"}]), end="")
    b: 1
    a: |
      x
      y
    """
    text: str = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=110)
    return text


def _on_one_node(
    server: Server, engine: str, flags: Command, name: str, size: int, count: int
) -> list[dict[str, Any]]:
    """A Deployment and its Service."""
    (words,) = words_of(engine, flags, server.plan, (size,), _site((name,)))
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "server"}
    container = _container(server, engine, flags, list(words), size)
    container["startupProbe"] = {**_health(), "periodSeconds": 10, "failureThreshold": LOADING_S // 10}
    container["readinessProbe"] = {**_health(), "periodSeconds": 5}
    spec = {
        "replicas": count,
        "strategy": {"type": "Recreate"},  # a second copy beside the first would want as many devices again
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": _pod(container, name if flags.options else "")},
    }
    return [
        _object("apps/v1", "Deployment", name, labels, spec=spec),
        _service(name, labels, labels),
    ]


def _on_several_nodes(
    server: Server, engine: str, flags: Command, name: str, labels: dict[str, str], parts: tuple[Part, ...]
) -> list[dict[str, Any]]:
    """A StatefulSet whose pods find each other by name, with the Service that names them."""
    if engine == "TensorRT-LLM":
        raise Inexpressible("TensorRT-LLM on several nodes needs mpirun, as of the MPI Operator")
    if not is_even(parts):
        raise Inexpressible(
            "pods of one StatefulSet have as many devices each, those of this replica have not"
        )
    sizes = tuple(len(devices) for _, devices in parts)
    hosts = tuple(f"{name}-{rank}.{name}" for rank in range(len(sizes)))
    commands = words_of(engine, flags, server.plan, sizes, _site(hosts))
    cases = "\n".join(f"{rank}) exec {shlex.join(words)} ;;" for rank, words in enumerate(commands))
    script = f'case "$POD_INDEX" in\n{cases}\nesac\n'
    container = _container(server, engine, flags, ["sh", "-c", script], sizes[0])
    path = {"fieldPath": f"metadata.labels['{POD_INDEX}']"}
    container["env"].append({"name": "POD_INDEX", "valueFrom": {"fieldRef": path}})
    container["readinessProbe"] = {
        "exec": {"command": ["sh", "-c", _READY]},
        "periodSeconds": 5,
        "timeoutSeconds": HEALTH_S,
    }
    own = {**labels, "app.kubernetes.io/instance": name}
    spec = {
        "serviceName": name,
        "replicas": len(sizes),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": own},
        "template": {"metadata": {"labels": own}, "spec": _pod(container)},
    }
    finding = _service(name, own, own)
    finding["spec"] |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return [_object("apps/v1", "StatefulSet", name, own, spec=spec), finding]


def _site(hosts: tuple[str, ...]) -> Site:
    return Site(
        hosts=hosts,
        http_port=HTTP_PORT,
        rendezvous_port=RENDEZVOUS_PORT,
        options_file=f"{CONFIG_FOLDER}/{OPTIONS_FILE}",
    )


def _object(version: str, kind: str, name: str, labels: dict[str, str], **rest: object) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **rest}


def _service(name: str, labels: dict[str, str], selector: dict[str, str]) -> dict[str, Any]:
    spec = {"selector": selector, "ports": [{"name": "http", "port": HTTP_PORT}]}
    return _object("v1", "Service", name, labels, spec=spec)


def _health() -> dict[str, Any]:
    return {"httpGet": {"path": "/health", "port": HTTP_PORT}, "timeoutSeconds": HEALTH_S}


def _container(server: Server, engine: str, flags: Command, words: list[str], devices: int) -> dict[str, Any]:
    token = {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if flags.options:
        mounts.append({"name": "options", "mountPath": CONFIG_FOLDER})
    return {
        "name": "server",
        "image": image(engine, server.device),
        "command": words,
        "env": [
            {"name": "HF_TOKEN", "valueFrom": token},
            *({"name": key, "value": value} for key, value in flags.environment.items()),
        ],
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "resources": {"limits": {_RESOURCES[server.device.vendor]: devices}},
        "volumeMounts": mounts,
    }


def _pod(container: dict[str, Any], config: str = "") -> dict[str, Any]:
    """``config``: the ConfigMap of the options."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if config:
        volumes.append({"name": "options", "configMap": {"name": config}})
    return {"containers": [container], "volumes": volumes}
