"""The command line as its users rely on it: examples that run, one line for a mistake, exit statuses."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli import main

ROOT = Path(__file__).parents[1]
CHAT = ROOT / "traces" / "samples" / "chat.csv"
SMALL = "--model opt-125m --device l40s --gpus 2 --no-silicon"
"""A question whose answer takes a fraction of a second."""
FEW = Path("few.csv")
"""Twenty requests, in every test's folder."""


def run(*words, env=None):
    return CliRunner().invoke(main, [str(word) for word in words], env=env)


def ask(command, *words):
    return run(command, *SMALL.split(), "--trace", FEW, *words)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of one's own with the shipped samples in reach."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    FEW.write_text("\n".join(CHAT.read_text().splitlines()[:21]) + "\n")
    return tmp_path


def commands(group=main, path=()):
    yield path, group
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))


ALL = [path for path, _ in commands()]


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "zenith")
def test_help_ends_with_an_example_that_runs(path, folder):
    text = run(*path, "--help").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    body = text.rsplit("Example:\n", 1)[1]
    words = shlex.split(body.replace("\\\n", " "))
    assert words[0] == "zenith" and tuple(words[1 : 1 + len(path)]) == path
    before = {file.name for file in folder.iterdir()}
    result = run(*words[1:])
    assert result.exit_code == 0, result.output
    made = {file.name for file in folder.iterdir()} - before
    assert result.stdout or made, "an example shows something or makes a file"


def test_an_option_that_is_repeated_counts_each_time():
    """As one option with all of it; nothing is lost in silence."""
    for repeated, once in (
        ("--fix pp=1 --fix tp=2", "--fix pp=1,tp=2"),
        ("--forbid tp=1 --forbid tp=2,pp=2", "--forbid tp=1,tp=2,pp=2"),
        ("--formats weights=fp8 --formats kv=fp8", "--formats weights=fp8,kv=fp8"),
    ):
        found, wanted = (ask("optimize", *words.split(), "--json") for words in (repeated, once))
        assert found.stdout and found.stdout == wanted.stdout


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text()
    for path in ALL:
        assert all(word in readme for word in path)


# ------------------------------------------------------------------------------------------- the answer


def validated(text):
    import jsonschema

    schema = json.loads((ROOT / "planner" / "answer.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    answer = json.loads(text)
    jsonschema.Draft202012Validator(schema).validate(answer)
    return answer


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--objective", "throughput"],
        ["--objective", "energy", "--exhaustive"],
        ["--objective", "goodput", "--slo", "ttft_p95<=1s"],
        ["--slo", "ttft_p95<=1us"],
        ["--max-simulations", "1"],
    ],
    ids=" ".join,
)
def test_optimize_json_follows_the_schema(words, folder):
    result = ask("optimize", *words, "--json", "-o", "answer.json")
    answer = validated(result.stdout)
    assert (folder / "answer.json").read_text() == result.stdout
    assert [plan["rank"] for plan in answer["plans"]] == list(range(1, len(answer["plans"]) + 1))
    assert answer["question"]["requests"] == 20
    sign = -1 if answer["objective"]["name"] in ("throughput", "goodput") else 1
    for plan in answer["plans"]:
        assert plan["value"] == plan["metrics"][answer["objective"]["metric"]]
        assert sign * plan["bound"] <= sign * plan["value"] * (1 + 1e-9 * sign)


def test_whatif_json_holds_an_answer_for_every_combination(folder):
    words = ["--vary", "tp=1,2", "--vary", "objective=latency,energy", "--slo", "ttft_p95<=1s"]
    result = ask("whatif", *words, "--json", "-o", "whatif.json")
    document = json.loads(result.stdout)
    assert (folder / "whatif.json").read_text() == result.stdout
    assert [s["values"]["tp"] for s in document["scenarios"]] == ["1", "1", "2", "2"]
    for scenario in document["scenarios"]:
        answer = validated(json.dumps(scenario["answer"]))
        own = ask("optimize", "--fix", f"tp={scenario['values']['tp']}", "--slo", "ttft_p95<=1s", "--json",
                  "--objective", answer["objective"]["name"])  # fmt: skip
        assert json.loads(own.stdout) == answer
    assert len(list(csv.DictReader(io.StringIO(ask("whatif", *words, "--csv").stdout)))) == 4


@pytest.mark.parametrize("command", ["optimize", "simulate", "capacity", "minimum", "sensitivity"])
def test_every_answer_ends_with_the_commands_that_start_its_plan(command):
    more = {"simulate": ["--plan", "tp=2"], "sensitivity": ["--draws", 0], "capacity": ["--tolerance", 0.5]}
    small = SMALL if command == "simulate" else SMALL.replace("--gpus 2", "--gpus 1")
    words = [*small.split(), "--trace", FEW, *more.get(command, []), "--slo", "ttft_p95<=1s"]
    answer = json.loads(run(command, *words, "--json").stdout)
    launch = answer.get("answer", answer)["launch"]
    pasted = run(command, *words).stdout.split("\nlaunch  ")[1].replace(" \\\n  ", " ").splitlines()
    assert [each["engine"] for each in launch["engines"]] == ["vLLM", "SGLang"]
    assert (
        pasted[-1]
        == f"# {launch['refused']['TensorRT-LLM']}"
        == "# TensorRT-LLM does not have OPTForCausalLM"
    )
    for engine in launch["engines"]:
        (process,) = engine["processes"]
        assert process["command"] in pasted


ASKED = "--model opt-125m --trace few.csv --no-silicon"
VARIED = [
    # what is asked, the axes, and what the printed words of the last scenario are
    ("q.yaml", "gpus=1,2 slo.ttft_p95=1s,2s", "fleet.gpus=2 slos.ttft_p95=2s"),
    ("q.yaml", "rate=x1,x4", "workload.rate=x8"),
    ("q.yaml --set workload.rate=6/s", "rate=x1,x4", "workload.rate=24/s"),
    ("q.yaml", "rate=9/s", "workload.rate=9/s"),
    (
        "q.yaml",
        "slo.ttft_p95=1us,none slo.power_mean=1W,none",
        "slos.ttft_p95=null slos.power_mean=null constraints.max_power=null",
    ),
    (f"{ASKED} --device l40s --gpus 2 --slo ttft_p95<=1s", "slo.tpot_p95=1s,2s", "slos.tpot_p95=2s"),
    (f"{ASKED} --device l40s --gpus 2 --fix pp=1", "tp=1,2", "constraints.fix.tp=2"),
    (f"{ASKED} --gpus 2 --device l40s", "device=l40s,h200 gpus=1,2", "fleet.device=h200 fleet.gpus=2"),
    (f"{ASKED} --device l40s --gpus 2 --fix attn_tp=1", "tp=2,1", "constraints.fix.tp=1"),
    (f"{ASKED} --device l40s --gpus 2 --slo ttft_p95<=1000ms", "slo.ttft_p95=1s,2s", "slos.ttft_p95=2s"),
    (f"{ASKED} --device l40s --gpus 2 --set objective=cost", "objective=energy,cost", "objective=cost"),
]


@pytest.mark.parametrize(("asked", "axes", "printed"), VARIED, ids=lambda text: text[-40:])
def test_what_whatif_prints_starts_the_plan_of_its_last_scenario(asked, axes, printed):
    """Words in place of ``--vary``, and of what it varies; all else of the command stays."""
    Path("q.yaml").write_text(
        "model: opt-125m\nfleet: {device: l40s, gpus: 1}\nworkload: {trace: few.csv, rate: x2}\n"
        "slos: {ttft_p95: 1s}\ncosts: {silicon: false}\nconstraints: {max_power: 9kW}\n"
    )
    whatif = ["whatif", *asked.split(), *(word for axis in axes.split() for word in ("--vary", axis))]
    text = " ".join(run(*whatif).stdout.split("launch:")[1].split())
    words, gone = re.search(r"zenith deploy, (.*) in place of (--vary.*);", text).groups()
    assert words == " ".join(f"--set {pair}" for pair in printed.split())
    kept = asked.split()
    for flag in re.split(", | and ", gone)[1:]:
        at = next(i for i, word in enumerate(kept) if word == flag.split()[0])
        del kept[at : at + 2]
    own = run("deploy", *kept, *shlex.split(words), "--json")
    assert own.exit_code == 0, own.stderr
    answer, last = (
        json.loads(own.stdout)["answer"],
        json.loads(run(*whatif, "--json").stdout)["scenarios"][-1],
    )
    for each in (answer, last["answer"]):
        del each["question"]  # names the trace by how it was scaled
        for plan in each["plans"]:
            plan["slos"].sort(key=str)
    assert answer == last["answer"] and answer["launch"]["engines"]


def test_whatif_says_by_its_status_whether_any_scenario_has_a_plan():
    assert ask("whatif", "--vary", "slo.ttft_p95=1us,1s").exit_code == 0
    assert ask("whatif", "--vary", "slo.ttft_p95=1us,2us").exit_code == 3
    cut = ask("whatif", "--vary", "slo.itl_p99=1us", "--max-simulations", "1")
    assert cut.exit_code == 4 and "0 of 1 scenarios proven" in cut.stdout


def test_minimum_says_by_its_status_what_is_known():
    found = ask("minimum", "--slo", "ttft_p95<=1s", "--json")
    document = json.loads(found.stdout)
    assert found.exit_code == 0 and document["least"] == document["proven"] == 1
    assert validated(json.dumps(document["answer"]))["plans"][0]["plan"]["devices"] == 1
    assert ask("minimum", "--slo", "ttft_p95<=1us").exit_code == 3
    assert ask("minimum", "--slo", "itl_p99<=1us", "--max-simulations", "1").exit_code == 4


def test_capacity_brackets_the_rate():
    queue = ["--slo", "e2e_p95<=3s", "--max-seqs", "1"]
    found = ask("capacity", *queue, "--json")
    document = json.loads(found.stdout)
    assert found.exit_code == 0 and "workers" not in run("capacity", "--help").stdout
    assert 0 < document["sustained_per_s"] < document["upper_per_s"]
    assert validated(json.dumps(document["answer"]))["plans"][0]["meets_slos"]
    own = ask("capacity", *queue, "--plan", "dp=2", "--json")
    assert json.loads(own.stdout)["limits"][0]["plan"]["name"] == "dp=2 tp=1"
    assert ask("capacity", "--slo", "ttft_p95<=1us").exit_code == 3
    assert ask("capacity", "--slo", "itl_p99<=1us", "--max-simulations", "1").exit_code == 4


def test_simulate_json_follows_the_schema(folder):
    result = ask("simulate", "--plan", "dp=2", "--json", "--requests", "times.csv")
    answer = validated(result.stdout)
    (plan,) = answer["plans"]
    assert plan["plan"]["dp"] == 2 and answer["certificate"]["feasible"] == 1
    rows = list(csv.DictReader(io.StringIO((folder / "times.csv").read_text())))
    assert len(rows) == 20
    latency = [float(row["last_token_s"]) - float(row["arrival_s"]) for row in rows]
    assert sum(latency) / 20 == pytest.approx(plan["metrics"]["e2e_mean_s"], rel=1e-6)


def test_csv_rows_are_the_plans_of_the_json():
    plans = json.loads(ask("optimize", "--exhaustive", "--json").stdout)["plans"]
    rows = list(csv.DictReader(io.StringIO(ask("optimize", "--exhaustive", "--csv").stdout)))
    assert [row["name"] for row in rows] == [plan["plan"]["name"] for plan in plans]
    for row, plan in zip(rows, plans, strict=True):
        assert float(row["e2e_mean_s"]) == plan["metrics"]["e2e_mean_s"]
        assert float(row["bound"]) == plan["bound"]


@pytest.mark.parametrize("form", ["--json", "--csv", "--all"])
def test_the_same_command_gives_the_same_bytes(form):
    first, second = (ask("optimize", "--exhaustive", "--workers", n, form) for n in ("1", "2"))
    assert first.exit_code == 0 and first.stdout_bytes == second.stdout_bytes


def test_progress_goes_to_stderr_and_the_answer_to_stdout():
    result = ask("optimize")
    assert "simulated" in result.stderr and "done in" in result.stderr
    assert "done in" not in result.stdout and result.stdout.startswith("opt-125m")


@pytest.mark.parametrize(
    "words",
    [
        ["optimize", *SMALL.split(), "--trace", "few.csv", "--exhaustive", "--all"],
        ["optimize", *SMALL.split(), "--trace", "few.csv", "--objective", "throughput", "--exhaustive"],
        ["simulate", *SMALL.split(), "--trace", "few.csv", "--plan", "pp=2", "--slo", "ttft_p95<=1us"],
        ["devices"],
        ["models"],
        ["trace", "describe", "few.csv"],
    ],
    ids=lambda words: " ".join([*words[:1], *words[-2:]]),
)
def test_text_is_plain_and_fits_80_columns(words):
    text = run(*words).stdout
    assert text and all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text and not re.search(r"[ \t]+$", text, re.MULTILINE)


# --------------------------------------------------------------------------------------- exit statuses


def test_status_0_is_a_plan():
    assert ask("optimize", "--slo", "ttft_p95<=10s").exit_code == 0
    assert ask("simulate", "--plan", "tp=2").exit_code == 0


def test_status_3_no_plan_fits():
    result = run("optimize", "--model", "llama-3.1-405b", "--device", "l40s", "--gpus", 1, "--trace", FEW)
    assert result.exit_code == 3 and result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: No plan for llama-3.1-405b on 1 x l40s")


def test_status_3_no_plan_meets_the_slo_and_the_nearest_is_shown():
    for words in (["optimize"], ["simulate", "--plan", "tp=2"]):
        result = ask(*words, "--slo", "ttft_mean<=1us")
        assert result.exit_code == 3
        assert "breaks ttft_mean<=1us" in result.stdout and "NOT met" in result.stdout


def test_status_3_axes_that_clash_are_named():
    result = ask("optimize", "--fix", "tp=5")
    assert result.exit_code == 3 and result.stdout == ""
    assert "tp=5" in result.stderr.splitlines()[-1]


def test_status_4_a_limit_ended_the_search_before_a_plan_that_meets_the_slo():
    """Every plan breaks the limit, which no bound proves: cut short, nothing is known of the others."""
    tight = ["--slo", "itl_p99<=1us"]
    assert ask("optimize", *tight).exit_code == 3
    result = ask("optimize", *tight, "--max-simulations", "1")
    assert result.exit_code == 4
    assert "no feasible plan" not in result.stdout and "not examined" in result.stdout


# ------------------------------------------------------------------------------------- one line, no more

FILES = {
    "empty.csv": "",
    "header.csv": "arrival_s,prompt_tokens,output_tokens\n",
    "negative.csv": "arrival_s,prompt_tokens,output_tokens\n0,3,4\n1,-5,3\n",
    "nan.csv": "arrival_s,prompt_tokens,output_tokens\nnan,5,3\n",
    "word.csv": "arrival_s,prompt_tokens,output_tokens\n0,many,3\n",
    "text.csv": "Dear diary,\nnothing happened.\n",
    "nodes.yaml": "pools:\n  - name: a\n    device: l40s\n    nodes: none\n",
    "indent.yaml": "pools:\n  - name: a\n   device: l40s\n",
    "device.yaml": "pools:\n  - name: a\n    device: l40z\n    nodes: 1\n",
    "key.yaml": "pools:\n  - device: l40s\n    node: 1\n",
    "deep.yaml": "[" * 5000,
    "tag.yaml": "pools: !!python/object/apply:os.system [true]\n",
    "shape.json": '{"architectures": ["FooForCausalLM"]}',
    "broken.json": "{\n",
    "negative.json": '{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": -4, '
    '"intermediate_size": 8, "num_attention_heads": 4, "vocab_size": 100}',
}

ASK = f"{SMALL} --trace few.csv"
MISTAKES = [
    # arguments, then what the line names: the value and what was expected
    ("optimize --model llama-3.1-70 --device l40s --gpus 1 --trace few.csv", "llama-3.1-70 llama-3.1-70b"),
    (
        "optimize --model opt-125m --device h100-sxm-80g --gpus 1 --trace few.csv",
        "h100-sxm-80g h100-sxm-80gb",
    ),
    ("optimize --model opt-125m --device l40s --gpus 0 --trace few.csv", "0 --gpus x>=1"),
    ("optimize --model opt-125m --device l40s --gpus two --trace few.csv", "two integer"),
    ("optimize --model opt-125m --device l40s --trace few.csv", "--gpus --nodes"),
    ("optimize --model opt-125m --gpus 2 --trace few.csv", "--device --fleet"),
    ("optimize --model opt-125m --device l40s --gpus 2 --nodes 1 --trace few.csv", "--gpus --nodes"),
    ("optimize --model opt-125m --device l40s --gpus 2", "--trace"),
    (f"optimize {ASK} --fleet nodes.yaml", "--fleet --device --gpus"),
    (f"optimize {ASK} --json --csv", "--json --csv"),
    (f"optimize {ASK} --slo ttft<=1s", "ttft<=1s ttft_p99<=500ms"),
    (f"optimize {ASK} --slo tfft_p95<=1s", "tfft ttft"),
    (f"optimize {ASK} --slo ttft_p101<=1s", "ttft_p101<=1s percentile"),
    (f"optimize {ASK} --slo ttft_p95<=1h", "ttft_p95<=1h us, ms or s"),
    (f"optimize {ASK} --slo ttft_p95<=-1s", "ttft_p95<=-1s above"),
    (f"optimize {ASK} --objective latancy", "latancy latency"),
    (f"optimize {ASK} --max-gpus 0", "0 --max-gpus x>=1"),
    (f"optimize {ASK} --max-power 700", "700 --max-power 700W"),
    (f"optimize {ASK} --max-power 700w", "'w' 'W'"),
    (f"optimize {ASK} --max-cost-per-hour 3EUR/h", "EUR/h --max-cost-per-hour USD/h"),
    (f"optimize {ASK} --slo power_p99<=2kW", "power_p99 power_mean<=2kW"),
    (f"optimize {ASK} --time-limit 5d", "'d' --time-limit 90s"),
    (f"optimize {ASK} --set fleet.gpus", "fleet.gpus KEY=VALUE"),
    (f"optimize {ASK} --set serach.seed=1", "--set serach search"),
    ("init -o few.csv", "few.csv --force"),
    (f"optimize {ASK} --objective goodput", "goodput --slo"),
    (f"optimize {ASK} --engine vllm-v2", "vllm-v2 vllm-v1"),
    (f"optimize {ASK} --policy orce", "orce orca"),
    (f"optimize {ASK} --formats weights=bf61", "bf61 bf16"),
    (f"optimize {ASK} --formats weight=bf16", "weight weights"),
    (f"optimize {ASK} --fix tp", "tp axis=value"),
    (f"optimize {ASK} --fix tq=2", "tq tp"),
    (f"optimize {ASK} --forbid queue=fcfs", "queue=fcfs"),
    (f"optimize {ASK} --top none", "none integer"),
    (f"optimize {ASK} --gpu-memory-utilization 1.5", "1.5 x<=1"),
    (f"optimize {ASK} --token-budget 8", "8 256"),
    (f"optimize {ASK} --fix budget=8", "8 256"),
    (f"optimize {ASK} --gpuss 2", "--gpuss --gpus"),
    (f"optimize {ASK} --tables .", "gemm.csv"),
    (f"optimize {ASK} -o nowhere/out.json", "nowhere/out.json folder"),
    (f"optimize {ASK} -o traces", "traces directory"),
    (f"simulate {ASK} --plan tp=x", "tp=x whole"),
    (f"simulate {ASK} --plan tp=2,tp=1", "tp 2 1"),
    (f"simulate {ASK} --plan tp=2,ffn_tp=3", "tp=2 ffn_tp=3"),
    (f"simulate {ASK} --plan ep=2", "ep=2 experts"),
    (f"simulate {ASK} --plan pp=99", "pp=99 12"),
    (f"simulate {ASK} --plan budget=8", "8 256"),
    (f"simulate {ASK}", "--plan"),
    (f"simulate {ASK} --plan tp=1 --requests nowhere/times.csv", "nowhere/times.csv folder"),
    (f"optimize {SMALL} --trace missing.csv", "missing.csv exist"),
    *(
        (f"optimize {SMALL} --trace {file}", f"{file} {words}")
        for file, words in (
            ("empty.csv", "empty"),
            ("header.csv", "no request"),
            ("negative.csv", "line 3 -5 prompt_tokens"),
            ("nan.csv", "line 2 nan arrival_s"),
            ("word.csv", "line 2 many prompt_tokens"),
            ("text.csv", "expected"),
        )
    ),
    *(
        (f"optimize --model opt-125m --trace few.csv --fleet {file}", f"{file} {words}")
        for file, words in (
            ("nodes.yaml", ":4: none nodes"),
            ("indent.yaml", ":3:"),
            ("device.yaml", ":3: l40z l40s"),
            ("key.yaml", ":3: node nodes"),
            ("deep.yaml", "pools"),
            ("tag.yaml", ":1:"),
        )
    ),
    *(
        (f"optimize --device l40s --gpus 1 --trace few.csv --model {file}", f"{file} {words}")
        for file, words in (
            ("shape.json", "FooForCausalLM known"),
            ("broken.json", "JSON"),
            ("negative.json", "hidden_size=-4 positive"),
            ("missing.json", "no such file"),
        )
    ),
    (f"whatif {ASK} --vary gpu=1,2", "gpu gpus"),
    (f"whatif {ASK} --vary slo.tpot_p95=20", "slo.tpot_p95=20 us, ms or s"),
    (f"whatif {ASK} --vary rate=2", "rate=2 x0.5"),
    (f"whatif {ASK} --vary gpus=1", "--vary gpus: --gpus given keep"),
    (f"whatif {ASK} --vary device=h100,h200", "--vary device: --device given keep"),
    (f"whatif {ASK} --vary tp=1,2 --fix pp=1,attn_tp=4", "--vary tp: --fix tp given keep"),
    (
        f"whatif {ASK} --vary slo.ttft_p95=1s,none --slo ttft_p95<=2s",
        "--vary slo.ttft_p95: --slo ttft_p95 keep",
    ),
    (f"whatif {ASK} --vary slo.power_mean=1kW,2kW --max-power 1kW", "slo.power_mean: --max-power given keep"),
    (f"whatif {ASK} --vary budget=512,1024 --token-budget 512", "budget: --token-budget given keep"),
    (f"whatif {ASK} --vary rate=4/s --set workload.rate=2/s", "rate: --set workload.rate given keep"),
    (f"minimum {ASK} --max-power 1kW --slo power_mean<=2kW", "--max-power: --slo power_mean given keep"),
    (f"minimum {ASK} --set answer.top=3", "--set answer.top: no use"),
    (f"capacity {ASK} --plan tp=1 --fix pp=1", "--fix pp: --plan given keep"),
    (f"sensitivity {ASK} --set fleet.nodes=1", "--set fleet.nodes: --gpus given keep"),
    (f"deploy {ASK} --plan tp=1 --time-limit 9s", "--time-limit: --plan given keep"),
    (f"deploy {ASK} --plan tp=1 --max-seqs 8 --max-seqs 16", "--max-seqs: --plan one"),
    (f"simulate {ASK} --plan tp=1,block=32 --block-size 8", "--block-size: --plan block given keep"),
    (f"simulate {ASK} --plan tp=1,clock=9", "--plan: 9 l40s 2520"),
    (
        f"optimize {ASK} --set constraints.fix.attn_tp=1 --fix tp=1",
        "--set constraints.fix.attn_tp: --fix tp given",
    ),
    (
        f"optimize {ASK} --set slos.ttft_p95.0=1s --slo ttft_p95<=2s",
        "--set slos.ttft_p95.0: --slo ttft_p95 given",
    ),
    (
        f"optimize {ASK} --set formats.kv=[fp8] --formats kv=fp8,weights=fp8",
        "--set formats.kv: --formats kv given",
    ),
    (
        f"optimize {ASK} --set constraints.fix.clock=99 --fix pp=1",
        "--set constraints.fix.clock: 99 l40s 2520",
    ),
    (f"optimize {ASK} --fix kv=fp8 --formats kv=fp8", "--fix --formats kv given keep"),
    (f"optimize {ASK} --slo ttft_p95<=1s --slo ttft_p95<=2s", "--slo: ttft_p95<=2s ttft_p95<=1s keep"),
    (f"optimize {ASK} --model opt-350m", "--model: once keep"),
    (f"deploy {ASK} --plan tp=1 --plan=tp=2", "--plan: once keep"),
    (f"optimize {ASK} --deployable --no-deployable", "--deployable --no-deployable: once"),
    (f"optimize {ASK} --fix tp=1 --fix pp=1,tp=2", "--fix: tp two 1 2"),
    (f"optimize {ASK} --formats kv=fp8 --formats kv=bf16", "--formats: kv twice kv=bf16|fp8"),
    ("trace scale few.csv out.csv --rate 2 --rate 3", "--rate: once keep"),
    (f"optimize {ASK} --exhaustive --max-simulations 3", "--max-simulations: --exhaustive given keep"),
    (f"optimize {ASK} --top 3 --all", "--top: --all given keep"),
    (f"optimize {ASK} --set answer.all=true --top 3", "--top: --set answer.all given keep"),
    (f"optimize {ASK} --clock 99", "--clock: 99 l40s 2520"),
    (f"optimize {ASK} --fix tp=0", "--fix: tp=0 whole"),
    (f"whatif {ASK} --vary objective=goodput", "goodput --slo"),
    (f"whatif {ASK}", "--vary"),
    (f"minimum {ASK} --of watts", "watts power"),
    (f"minimum {ASK} --use-all-devices", "--use-all-devices"),
    (f"capacity {ASK}", "--slo ttft_p95<=1s"),
    (f"capacity {ASK} --slo ttft_p95<=1s --tolerance 2", "2 x<=1"),
    (f"capacity {ASK} --slo ttft_p95<=1s --plan tq=1", "tq tp"),
    ("models no-such-model", "no-such-model"),
    ("trace describe missing.csv", "missing.csv exist"),
    ("trace convert few.csv nowhere/out.csv", "nowhere/out.csv folder"),
    ("trace synth out.csv --rate 0", "0 --rate x>0"),
    ("trace synth out.csv --arrivals often", "often poisson"),
    ("trace synth out.csv --arrivals at-once --rate 4", "--rate: 4 left at once"),
    ("trace synth out.csv --cv 4", "--cv: 4 left gamma"),
    ("profile -o few.csv/here --dry-run", "--output few.csv/here few.csv folder"),
    ("trace scale few.csv out.csv --rate 2 --times 3", "--rate --times"),
    ("trace scale few.csv out.csv --window 9:3", "9:3 START:END"),
    ("trace scale few.csv out.csv --window 1e9:", "1"),
    ("tracer", "tracer trace"),
    ("--verbose devices", "--verbose option"),
    ("trace describ few.csv", "describ describe"),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=lambda text: text[-48:])
def test_a_mistake_is_one_line_that_names_it(words, named, folder):
    for name, text in FILES.items():
        (folder / name).write_text(text)
    output = [] if " -o " in words or not words.startswith(("optimize", "simulate")) else ["-o", "out.json"]
    before = sorted(folder.rglob("*"))
    result = run(*words.split(), *output)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == "" and sorted(folder.rglob("*")) == before
    *progress, line = result.stderr.splitlines()
    assert line.startswith("Error: ") and len(line) < 1000
    assert all(word in line for word in named.split()), line
    assert not any(word in result.stderr for word in ("Usage:", "Traceback", "Try '")) and len(progress) <= 2


def test_words_of_the_user_move_no_cursor(folder):
    evil = "a\x1b[2J\rbest plan\u202e.csv"
    (folder / evil).write_text(FEW.read_text())
    for words in (
        ["trace", "describe", evil],
        ["trace", "describe", evil + "x"],
        ["trace", "convert", evil, "o.csv", "--skip-bad-rows"],
        ["optimize", *SMALL.split(), "--trace", evil],
        ["optimize", "--model", evil, "--device", "l40s", "--gpus", "1", "--trace", "few.csv"],
        ["optimize", *SMALL.split(), "--trace", "few.csv", "-o", "\x1b[31m/x.json"],
        ["\x1b[31m"],
    ):
        result = run(*words)
        for text in (result.stdout, result.stderr):
            assert "\x1b" not in text and "\r" not in text and "\u202e" not in text, words


# ---------------------------------------------------------------------------------- a process of its own


def process(*words, code=None, **environment):
    command = [sys.executable, "-c", code] if code else [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(
        command,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=300,
        check=False,
    )


def test_a_real_process_answers_the_same_without_utf8_and_colour():
    words = ["optimize", *SMALL.split(), "--trace", str(FEW), "--exhaustive"]
    done = process(*words, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 0, done.stderr.decode()
    assert b"\x1b" not in done.stdout and done.stdout.decode() == run(*words).stdout
    failed = process("optimize", "--gpus", "0")
    assert failed.returncode == 2 and failed.stdout == b"" and failed.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "command", ["trace describe few.csv", f"simulate {SMALL} --trace few.csv --plan tp=1"]
)
def test_colour_is_for_terminals_that_do_not_decline_it(command):
    import pty

    for declined, coloured in (("", True), ("1", False)):
        ours, theirs = pty.openpty()
        with open(ours, "rb", buffering=0) as terminal:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": declined, "TERM": "xterm"}
            words = [sys.executable, str(ROOT / "cli.py"), *command.split()]
            with subprocess.Popen(words, stdout=theirs, stderr=subprocess.DEVNULL, env=environment):
                os.close(theirs)
                shown = b""
                try:
                    while part := terminal.read(4096):
                        shown += part
                except OSError:  # how Linux says that the other end is closed
                    pass
        assert shown and (b"\x1b[" in shown) == coloured, shown


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], ["ortools", "numba", "pyarrow", "pandas", "numpy", "rich"]),
        (["optimize", "--help"], ["ortools", "numba", "pyarrow", "pandas", "numpy", "rich"]),
        (["devices"], ["ortools", "numba", "pyarrow", "pandas"]),
        (["models"], ["ortools", "numba", "pyarrow", "pandas"]),
        # pandas, which reads the file, brings pyarrow along where it is installed.
        (["trace", "describe", str(CHAT)], ["ortools", "numba"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_light_commands_import_nothing_heavy(words, absent):
    code = (
        f"import sys; from cli import main; main(sys.argv[1:] or {words!r}, standalone_mode=False);"
        f"print('LOADED', *sorted(set(sys.modules) & set({absent!r})))"
    )
    done = process(code=code)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1].split() == ["LOADED"]


def test_an_output_is_whole_or_not_there(folder, monkeypatch):
    """A disk that fills while writing leaves the older file as it was, and nothing beside it."""
    (folder / "answer.json").write_text("older")
    before = sorted(folder.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    result = ask("simulate", "--plan", "tp=1", "-o", "answer.json")
    assert result.exit_code == 2 and result.stdout == ""
    assert "answer.json: No space left on device" in result.stderr
    assert (folder / "answer.json").read_text() == "older" and sorted(folder.iterdir()) == before


def test_two_outputs_do_not_share_a_file(folder):
    result = ask("optimize", "--html", "one", "-o", folder / "one")
    assert result.exit_code == 2 and "--html and -o both name" in result.stderr
    assert not (folder / "one").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "devices"], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
    assert done.returncode == 1 and done.stderr == "Error: output: No space left on device\n"
