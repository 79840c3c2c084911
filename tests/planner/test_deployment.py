"""Deployments: every device once, every flag known, every manifest what was meant, folders whole or not at all.

``ZENITH_REGENERATE=1 python -m pytest tests/planner/test_deployment.py`` writes the golden files anew; look at the
difference before you keep it.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main
from planner import deployment_text
from planner.deploy import COMMANDS, Server
from planner.deployable import verdicts
from planner.deployment import with_files
from planner.launch import engine_launch
from planner.manifest import workload_name
from planner.placement import place
from planner.processes import parts_of
from profiles.device import load_device
from profiles.errors import InputError
from profiles.fleet import Pool, homogeneous
from profiles.huggingface import load_model
from profiles.memory import Longest, footprint
from profiles.plan import EngineSettings, Plan

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "deploy"
LLAMA, MIXTRAL, LARGE = (load_model(name) for name in ("llama-3.1-8b", "mixtral-8x7b", "llama-3.1-70b"))
LONGEST = Longest(prompt=1000, request=2000)

FLAGS = {
    "vLLM": """--tensor-parallel-size --pipeline-parallel-size --data-parallel-size --data-parallel-size-local
        --data-parallel-start-rank --data-parallel-address --data-parallel-rpc-port --enable-expert-parallel
        --max-num-seqs --max-num-batched-tokens --gpu-memory-utilization --block-size --max-model-len --dtype
        --kv-cache-dtype --quantization --nnodes --node-rank --master-addr --master-port --headless --host --port
        --distributed-executor-backend""",
    "SGLang": """--model-path --tp-size --pp-size --attn-dp-size --ep-size --max-running-requests
        --chunked-prefill-size --enable-mixed-chunk --max-prefill-tokens --mem-fraction-static --page-size
        --context-length --dtype --kv-cache-dtype --quantization --nnodes --node-rank --dist-init-addr --host
        --port""",
    "TensorRT-LLM": """--backend --tp_size --pp_size --ep_size --max_batch_size --max_num_tokens --max_seq_len
        --kv_cache_free_gpu_memory_fraction --extra_llm_api_options --gpus_per_node --host --port""",
}
"""In the argument lists of vLLM 0.33.0, SGLang 0.5.23 and TensorRT-LLM's ``trtllm-serve``."""
STARTERS = {"ray": "--head --port --address --num-gpus", "mpirun": "--map-by"}
OPTIONS = {"kv_cache_config", "enable_chunked_prefill", "enable_attention_dp", "pp_partition"}
CACHE_OPTIONS = {"free_gpu_memory_fraction", "tokens_per_block", "dtype"}


def pool_of(device, free, per_node=8):
    base = homogeneous(device, nodes=len(free), gpus_per_node=per_node).pools[0]
    return Pool(
        name=base.name, device=base.device, nodes=len(free), devices_per_node=per_node, free=tuple(free),
        domain=base.domain, inter_bandwidth=base.inter_bandwidth,
    )  # fmt: skip


def server_of(model, plan, pool, blocks=20_000):
    memory = footprint(model, plan, blocks, LONGEST)
    return Server(model=model, plan=plan, device=pool.device, memory=memory, longest=LONGEST)


def deployed(model, plan, pool):
    """Of every engine that runs the plan there."""
    placement = place(plan, pool).assignment
    runs = [name for name, (able, _) in verdicts(plan, model, pool.device).items() if able]
    server = server_of(model, plan, pool)
    return placement, [with_files(engine_launch(server, name, placement), server, placement) for name in runs]


def named_devices(process):
    """(node, device) of a command. mpirun names its nodes itself."""
    words = [f"{k}={v}" for k, v in process.environment.items()] + list(process.words)
    found, nodes = [], [process.node]
    for i, word in enumerate(words):
        if word == "-H":
            nodes = [int(part.split(":")[0].removeprefix("node-")) for part in words[i + 1].split(",")]
        name, _, value = word.partition("=")
        if name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            found += [(node, int(device)) for node in nodes for device in value.split(",")]
    return found


CASES = {
    "replicas": (LLAMA, Plan(replicas=2, layers_per_stage=(32,), attn_tp=2, ffn_tp=2), "h100", [8]),
    "stages_on_nodes": (
        LARGE, Plan(layers_per_stage=(40, 40), attn_tp=8, ffn_tp=8, kv_format="fp8"), "h100", [8, 8],
    ),
    "attention_ranks_on_nodes": (MIXTRAL, Plan(layers_per_stage=(32,), attn_dp=8, ffn_ep=8), "h100", [4, 4]),
    "uneven_nodes": (LLAMA, Plan(layers_per_stage=(11, 11, 10)), "h100", [2, 1]),
    "amd": (LLAMA, Plan(replicas=2, layers_per_stage=(32,)), "mi300x", [2]),
    "whole_prompts": (
        LLAMA, Plan(layers_per_stage=(32,), engine=EngineSettings(policy="orca"), clock_mhz=1200), "h100", [1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_deployment_says_what_it_said(case):
    model, plan, device, free = CASES[case]
    _, found = deployed(model, plan, pool_of(device, free))
    assert found
    text = "\n\n".join(deployment_text.engine_text(engine) for engine in found) + "\n"
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("ZENITH_REGENERATE") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


@st.composite
def layouts(draw):
    """A model, a plan of it and a pool that holds the plan."""
    model = draw(st.sampled_from([LLAMA, MIXTRAL]))
    stages, tp, dp = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4])), 1
    if model is MIXTRAL:
        dp = draw(st.sampled_from([1, 2, 4]))
    ep = draw(st.sampled_from([1, tp * dp])) if model is MIXTRAL else 1
    base, rest = divmod(32, stages)
    plan = Plan(
        replicas=draw(st.integers(1, 3)),
        layers_per_stage=tuple(base + (i < rest) for i in range(stages)),
        attn_tp=tp, attn_dp=dp, ffn_tp=tp * dp // ep, ffn_ep=ep,
        kv_format=draw(st.sampled_from(["bf16", "fp8"])),
    )  # fmt: skip
    free, left = [], plan.devices
    while left > 0:
        free.append(draw(st.integers(1, 8)))
        left -= free[-1]
    return model, plan, pool_of("h100", free)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(layouts())
def test_each_replica_gets_its_devices_or_is_said_not_to_start(layout):
    model, plan, pool = layout
    placement, engines = deployed(model, plan, pool)
    assert {e.engine for e in engines} == {
        n for n, (able, _) in verdicts(plan, model, pool.device).items() if able
    }
    for found in engines:
        for i, replica in enumerate(placement):
            own = [process for process in found.processes if process.replica == i]
            wanted = sorted((node, d) for stage in replica for node, devices in stage for d in devices)
            if not own:
                assert any(note.startswith(f"replica {i} is not started: ") for note in found.notes)
                continue
            assert sorted(pair for process in own for pair in named_devices(process)) == wanted
            parts = parts_of(plan, replica, found.engine)
            assert sorted((node, d) for node, devices in parts for d in devices) == wanted
        ports = {w[w.index("--port") + 1] for p in found.processes for w in [p.words] if "serve" in " ".join(w)
                 and "--port" in w}  # fmt: skip
        assert len(ports) == len({process.replica for process in found.processes})


@settings(deadline=None, max_examples=60, derandomize=True)
@given(layouts())
def test_every_flag_and_option_is_known(layout):
    model, plan, pool = layout
    for found in deployed(model, plan, pool)[1]:
        for process in found.processes:
            known = FLAGS[found.engine] + " " + STARTERS.get(process.words[0], "")
            assert {word for word in process.words if word.startswith("--")} <= set(known.split())
        options = yaml.safe_load(found.options) or {}
        assert set(options) <= OPTIONS and set(options.get("kv_cache_config", {})) <= CACHE_OPTIONS


@settings(deadline=None, max_examples=60, derandomize=True)
@given(layouts())
def test_manifests_start_every_replica_or_say_which_they_do_not(layout):
    model, plan, pool = layout
    for found in deployed(model, plan, pool)[1]:
        documents = [d for d in yaml.safe_load_all(found.manifest) if d]
        assert "&id" not in found.manifest
        devices = 0
        names = set()
        for document in documents:
            names.add((document["kind"], name := document["metadata"]["name"]))
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", name)
            if document["kind"] in ("Deployment", "StatefulSet"):
                spec = document["spec"]
                (container,) = spec["template"]["spec"]["containers"]
                assert (
                    spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
                )
                assert container["image"] == found.image and ":" in found.image
                devices += spec["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
                assert all(isinstance(word, str) for word in container["command"])
                assert "/health" in str(ready := container["readinessProbe"]) and ready["timeoutSeconds"] > 20
                if document["kind"] == "StatefulSet":
                    probe = ["/bin/sh", "-c", container["readinessProbe"]["exec"]["command"][2]]
                    worker = subprocess.run(probe, env={"POD_INDEX": "1", "PATH": ""}, check=False)
                    assert worker.returncode == 0
                    script = container["command"][2]
                    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
                    assert script.count("exec ") == spec["replicas"]
                    assert f"{name}-0.{name}" in script
        assert len(names) == len(documents)
        if devices < plan.devices:
            assert any(note.startswith("Kubernetes: ") for note in found.notes)
        else:
            assert devices == plan.devices


def test_vllm_gets_the_devices_of_an_attention_rank_side_by_side():
    """It numbers attention ranks before stages, the others stages first."""
    plan = Plan(layers_per_stage=(16, 16), attn_tp=2, attn_dp=2, ffn_ep=4)
    _, engines = deployed(MIXTRAL, plan, pool_of("h100", [8]))
    seen = {found.engine: found.processes[0].environment["CUDA_VISIBLE_DEVICES"] for found in engines}
    assert seen == {"vLLM": "0,1,4,5,2,3,6,7", "SGLang": "0,1,2,3,4,5,6,7"}


def test_attention_ranks_of_replicas_on_one_node_meet_at_ports_of_their_own():
    """SGLang takes seven ports from that address on, or from its port for HTTP + 233 where there is none."""
    plan = Plan(replicas=2, layers_per_stage=(32,), attn_dp=4, ffn_ep=4)
    sglang = next(e for e in deployed(MIXTRAL, plan, pool_of("h100", [8]))[1] if e.engine == "SGLang")
    meet = [p.words[p.words.index("--dist-init-addr") + 1] for p in sglang.processes]
    assert meet == ["127.0.0.1:20000", "127.0.0.1:20100"] and "127.0.0.1:20000" in sglang.manifest
    _, engines = deployed(LLAMA, CASES["replicas"][1], pool_of("h100", [8]))
    assert not any("--dist-init-addr" in process.words for e in engines for process in e.processes)


def test_nodes_with_other_numbers_of_devices_get_parts_of_their_own_under_mpirun():
    pool = pool_of("h100", [4, 8])
    plan = Plan(replicas=3, layers_per_stage=(32,), attn_tp=4, ffn_tp=4)
    placement = ((((0, (0, 1)), (1, (0, 1))),), (((0, (2, 3)), (1, (2, 4))),), (((1, (5, 6, 7, 3)),),))
    server = server_of(LLAMA, plan, pool)
    found = with_files(engine_launch(server, "TensorRT-LLM", placement), server, placement)
    same, other, alone = (process.text for process in found.processes)
    assert same.startswith(
        "mpirun -np 4 -H node-0:2,node-1:2 --map-by slot env CUDA_VISIBLE_DEVICES=0,1 trtllm"
    )
    assert " : " not in same and "--gpus_per_node 2" in same
    assert "-np 2 -H node-0:2 --map-by slot env CUDA_VISIBLE_DEVICES=2,3" in other
    assert " : -np 2 -H node-1:2 --map-by slot env CUDA_VISIBLE_DEVICES=2,4" in other
    assert alone.startswith("CUDA_VISIBLE_DEVICES=5,6,7,3 trtllm-serve")
    assert any("MPI Operator" in note for note in found.notes)


@pytest.mark.parametrize("name", ["meta/Llama-3.1-8B", "7B", "___", "x" * 200, "Größe"])
def test_workloads_have_names_that_kubernetes_takes(name):
    for engine in COMMANDS:
        made = workload_name(name, engine)
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made) and len(made) <= 40


# ------------------------------------------------------------------------------------------- the command, its files

ASK = {"--model": "llama-3.1-8b", "--device": "l40s", "--gpus": "4",
       "--trace": str(ROOT / "traces" / "samples" / "chat.csv")}  # fmt: skip


def run(*words):
    asked = [word for pair in ASK.items() if pair[0] not in words for word in pair]
    return CliRunner().invoke(main, ["deploy", "--no-silicon", *asked, *map(str, words)])


def test_a_named_plan_is_deployed_on_every_engine_that_runs_it(tmp_path):
    result = run("--plan", "tp=2,dp=2", "--json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [engine["engine"] for engine in said["engines"]] == ["vLLM", "SGLang", "TensorRT-LLM"]
    assert said["answer"]["plans"][0]["plan"]["name"] == "dp=2 tp=2"
    for engine in said["engines"]:
        folder = tmp_path / "out" / engine["engine"].lower()
        assert (folder / "kubernetes.yaml").read_text() == engine["kubernetes_yaml"]
        for process in engine["processes"]:
            assert shlex.split(process["command"])[-len(process["words"]) :] == process["words"]
            script = folder / f"replica-{process['replica']}-node-0.sh"
            assert os.access(script, os.X_OK) and shlex.join(process["words"]) in script.read_text()
            assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert not [file for file in tmp_path.iterdir() if file.name != "out"], "nothing temporary is left"


def test_the_best_plan_is_deployed_with_its_certificate():
    result = run("--on", "sglang", "--gpus", "1")
    assert result.exit_code == 0, result.output
    assert "SGLang 0." in result.stdout and "vllm" not in result.stdout
    assert "certificate " in result.stdout and "kubernetes.yaml:" in result.stdout
    commands = ("CUDA_VISIBLE_DEVICES",)
    assert all(len(line) <= 80 or any(c in line for c in commands) for line in result.stdout.splitlines())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("here")
    for folder in (tmp_path / "out", tmp_path / "out" / "mine", tmp_path / "no" / "where"):
        result = run("--plan", "tp=1", "-o", folder)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and str(folder) in result.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(InputError, match="out"):
        deployment_text.write_folder(tmp_path / "out", {"first": "1", "first/second": "2"})
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    deployment_text.write_folder(tmp_path / "out", {"a/b.sh": "1"})
    assert (tmp_path / "out" / "a" / "b.sh").read_text() == "1"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--plan", "tp=2", "--fix", "tp=2"], 2, "--fix"),
        (["--plan", "tp=2,ffn_dp=2,ffn_tp=1"], 3, "replicate"),
        (["--plan", "tp=2,policy=vllm-v0", "--on", "vLLM"], 3, "vLLM does not batch as vllm-v0"),
        (["--plan", "tp=4,budget=1000", "--on", "sglang"], 3, "1000 is no multiple of 16"),
        (["--on", "vllm", "--deployable-on", "sglang"], 2, "--on vLLM: --deployable-on asks for SGLang"),
        (["--on", "vlm"], 2, "--on"),
    ],
)
def test_what_cannot_be_is_one_line(words, status, said):
    result = run(*words)
    assert result.exit_code == status, result.output
    assert said in result.stderr and len(result.stderr.splitlines()) == 1


def test_an_engine_that_does_not_run_the_plan_is_named_with_its_reason():
    result = run("--plan", "tp=2,policy=vllm-v0")
    assert result.exit_code == 0 and "SGLang" in result.stdout
    assert "not on        vLLM: vLLM does not batch as vllm-v0" in result.stdout


def test_devices_are_those_of_the_driver_unless_said(tmp_path):
    assert "of the driver" in run("--plan", "tp=2", "--on", "vLLM").stdout
    whole = run("--plan", "tp=2", "--on", "vLLM", "--gpus-per-node", "4")
    assert "of the driver" not in whole.stdout


def test_amd_images_and_resources_are_amds():
    _, (vllm, sglang) = deployed(LLAMA, CASES["amd"][1], pool_of("mi300x", [2]))
    assert "rocm" in vllm.image and "rocm" in sglang.image
    assert "amd.com/gpu" in vllm.manifest and "nvidia" not in vllm.manifest
    assert load_device("mi300x").vendor == "AMD"


def test_weights_of_a_folder_are_named_so_that_scripts_run_anywhere(tmp_path, monkeypatch):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "vocab_size": 32000,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "own model").mkdir()
    (tmp_path / "own model" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    result = run("--model", "own model/config.json", "--plan", "tp=1", "--on", "vLLM", "-o", "out")
    assert result.exit_code == 0, result.output
    folder = str(tmp_path / "own model")
    assert f"vllm serve '{folder}'" in result.stdout and "on every node" in result.stdout
    assert shlex.quote(folder) in (tmp_path / "out" / "vllm" / "replica-0-node-0.sh").read_text()
