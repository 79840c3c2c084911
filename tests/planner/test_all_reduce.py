"""All-reduce without the engine's own kernel: never quicker, said to engines, read from runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from planner.axes import parse_axes, plan_from_axes
from planner.deploy import COMMANDS, Server
from planner.measured import settings_of
from profiles.compile import Compiler
from profiles.device import load_device
from profiles.engine import load_engine
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.memory import Longest, footprint, kv_blocks
from profiles.power import PowerModel
from profiles.roofline import Roofline

MODEL = load_model("llama-3.1-8b")
PAYLOAD = np.array([0.0, 1e3, 1e5, 1e6, 4e6, 3e7])


def operations(device, silicon):
    roofline = Roofline(load_device(device))
    if not silicon:
        return roofline
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra")
    from profiles.silicon import Silicon

    return Silicon("h100_sxm", fallback=roofline)


@pytest.mark.parametrize("silicon", [False, True])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_the_library_alone_is_never_quicker(ranks, silicon):
    device = "h100-sxm-80gb"
    costs, link = operations(device, silicon), homogeneous(device).pools[0].link(ranks, 1)
    both = costs.collective("all_reduce", PAYLOAD, link).seconds
    alone = costs.collective("all_reduce", PAYLOAD, replace(link, custom_all_reduce=False)).seconds
    assert (alone >= both).all() and (alone[1:3] > both[1:3]).all()
    for kind in ("all_gather", "all_to_all"):
        assert (
            costs.collective(kind, PAYLOAD, replace(link, custom_all_reduce=False)).seconds
            == costs.collective(kind, PAYLOAD, link).seconds
        ).all()


def test_a_plan_that_is_told_so_takes_longer():
    device = load_device("h100-sxm-80gb")
    compiler = Compiler(MODEL, device, Roofline(device), engine=load_engine("none"), power=PowerModel(device))
    links, steps = homogeneous(device.name).pools[0], []
    for words in ("tp=4", "tp=4,allreduce=nccl", "tp=1", "tp=1,allreduce=nccl"):
        plan = plan_from_axes(MODEL, parse_axes(words))
        link = links.link(plan.attn_tp, 1)
        steps.append(compiler.compile(plan, link_tensor=link, link_ffn=link, max_length=2000))
    assert (steps[1].local_ps + steps[1].shared_ps > steps[0].local_ps + steps[0].shared_ps)[0, 1:].all()
    assert (steps[2].local_ps == steps[3].local_ps).all()
    assert (steps[2].shared_ps == steps[3].shared_ps).all()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_engines_are_told(name):
    device, longest = load_device("h100-sxm-80gb"), Longest(prompt=1000, request=2000)
    said = []
    for words in ("tp=2", "tp=2,allreduce=nccl"):
        plan = plan_from_axes(MODEL, parse_axes(words))
        memory = footprint(MODEL, plan, kv_blocks(MODEL, plan, device, longest), longest)
        made = COMMANDS[name](Server(model=MODEL, plan=plan, device=device, memory=memory, longest=longest))
        told = "--disable-custom-all-reduce" in made.words
        said.append(told or made.options.get("allreduce_strategy") == "NCCL")
    assert said == [False, True]


def test_flags_of_runs_are_read():
    found = [
        settings_of(flags, "vllm", "vllm-v0", MODEL).all_reduce
        for flags in (
            "",
            "--disable-custom-all-reduce",
            "disable_custom_all_reduce=False",
            "x; disable_custom_all_reduce",
        )
    ]
    assert found == ["custom", "nccl", "custom", "nccl"]


ASK = ["--model", "llama-3.1-8b", "--device", "h100-sxm-80gb", "--gpus", "2", "--no-silicon",
       "--trace", "traces/samples/chat.csv", "--json"]  # fmt: skip


def test_the_flag_reaches_the_simulation_and_the_command():
    answers = [
        json.loads(CliRunner().invoke(main, ["simulate", *ASK, "--plan", "tp=2", *more]).stdout)
        for more in ([], ["--no-custom-all-reduce"])
    ]
    slow, quick = (answer["plans"][0] for answer in reversed(answers))
    assert slow["plan"]["all_reduce"] == "nccl" and quick["plan"]["all_reduce"] == "custom"
    assert slow["metrics"]["e2e_mean_s"] > quick["metrics"]["e2e_mean_s"]
    launched = [answer["launch"]["engines"][0]["processes"][0]["command"] for answer in answers]
    assert ["--disable-custom-all-reduce" in command for command in launched] == [False, True]
