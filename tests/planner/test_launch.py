"""Launch lines: pasted into a shell, they run word for word the commands that they stand for."""

import json
import shlex
import subprocess
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings

from planner.launch import Launch, engine_launch
from planner.launch_text import engine_lines, to_dict, to_lines
from planner.placement import place
from planner.processes import Process
from profiles.plan import Plan
from tests.planner.test_deployment import LLAMA, layouts, pool_of, server_of

PROGRAMS = ("vllm", "python", "trtllm-serve", "mpirun", "ray")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "VLLM_PP_LAYER_PARTITION", "SGLANG_PP_LAYER_PARTITION", "RAY_ADDRESS")
SPEAK = f"""#!/bin/sh
IFS='|'; line="{"|".join(f"${name}" for name in VARIABLES)}|${{0##*/}}|$*"
printf '%s\\n' "$line" >> said
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs lines where every engine is a program that writes down how it was called."""
    folder = tmp_path_factory.mktemp("shell")
    for name in PROGRAMS:
        (folder / name).write_text(SPEAK)
        (folder / name).chmod(0o755)

    def run(lines):
        (folder / "said").write_text("")
        script = "\n".join([*lines, "wait"])
        done = subprocess.run(
            ["/bin/sh", "-eu"], input=script, text=True, cwd=folder, env={"PATH": str(folder)}, check=False,
            capture_output=True, timeout=20,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr
        return (folder / "said").read_text().splitlines()

    run.folder = folder
    return run


def called(process):
    return "|".join([*(process.environment.get(name, "") for name in VARIABLES), *process.words])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(layouts())
def test_pasted_lines_run_every_command_word_for_word(shell, layout):
    model, plan, pool = layout
    placement = place(plan, pool).assignment
    for engine in ("vLLM", "SGLang", "TensorRT-LLM"):
        found = engine_launch(server_of(model, plan, pool), engine, placement)
        lines = engine_lines(found)
        assert all(len(line) <= 80 or " " not in line.strip(" \\") for line in lines)
        assert sorted(shell(lines)) == sorted(map(called, found.processes))
        if found.options and found.processes:
            assert yaml.safe_load((shell.folder / "options.yaml").read_text()) == found.options
        headings = [int(line.split()[-1]) for line in lines if line.startswith("# on node ")]
        assert headings == sorted(headings) or any("ray start" in line for line in lines)
        comments = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        assert all(note in comments for note in found.notes)


def test_words_that_a_shell_would_change_stay_as_they_are(shell):
    pool = pool_of("h100", [2])
    plan = Plan(layers_per_stage=(32,), replicas=2)
    model = replace(LLAMA, checkpoint='it\'s $HOME `of` "mine" \\ & *')
    found = engine_launch(server_of(model, plan, pool), "vLLM", place(plan, pool).assignment)
    assert sorted(shell(engine_lines(found))) == sorted(map(called, found.processes))
    odd = [
        Process(replica=i, node=0, environment={}, words=("vllm", word, *map(str, range(i, i + 11))))
        for i, word in enumerate(("$x y", "a'b"))
    ]
    assert shell(engine_lines(replace(found, processes=tuple(odd), options={}))) != []
    assert sorted(shell(engine_lines(replace(found, processes=tuple(odd), options={})))) == sorted(
        map(called, odd)
    )


def test_many_replicas_are_one_function_and_a_call_each():
    pool = pool_of("h100", [8, 8])
    plan = Plan(layers_per_stage=(32,), replicas=16)
    lines = engine_lines(engine_launch(server_of(LLAMA, plan, pool), "vLLM", place(plan, pool).assignment))
    assert len(lines) <= 12 and lines.count("# on node 0") == lines.count("# on node 1") == 1
    calls = " ".join(line for line in lines if line.startswith("replica ")).split(" &")
    assert [call.split() for call in calls[:-1]] == [
        ["replica", str(i % 8), str(8000 + i)] for i in range(16)
    ]


def test_for_programs_there_is_every_command_and_every_reason():
    pool = pool_of("h100", [2])
    plan = Plan(layers_per_stage=(32,), replicas=2)
    found = engine_launch(server_of(LLAMA, plan, pool), "TensorRT-LLM", place(plan, pool).assignment)
    launch = Launch(engines=(found,), refused={"vLLM": "vLLM does not"}, notes=("all: a note",))
    said = json.loads(json.dumps(to_dict(launch)))
    assert [shlex.split(p["command"])[1:] for p in said["engines"][0]["processes"]] == [
        list(process.words) for process in found.processes
    ]
    assert said["engines"][0]["options"] == found.options
    lines = to_lines(launch)
    assert "# all: a note" in lines and lines[-1] == "# vLLM does not"
    none = to_lines(replace(launch, engines=()))
    assert none == ["launch        no engine runs this plan today", "# vLLM does not"]
