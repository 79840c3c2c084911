"""The question file: all that flags say and the same answers, layers in order, one line for a mistake."""

import copy
import json
import re
from pathlib import Path

import click
import pytest
import yaml
from click.core import ParameterSource
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main
from planner import units
from planner.asking import question_of
from planner.axes import AXES, FORMAT_AXES
from planner.clashes import PLAN, RIVALS, UNSEARCHED
from planner.deployable import ENGINES
from planner.document import dotted, read_document
from planner.file_keys import FILE_ONLY, KEYS
from planner.objective import OBJECTIVES
from planner.question_file import SCHEMA, TEMPLATE, check, file_options, load_limits, load_question, schema
from planner.slo import METRICS
from planner.store import content, trace_content
from profiles.errors import InputError, ZenithError
from profiles.fleet import load_fleet
from profiles.plan import POLICIES
from traces.synth import synthesize

ROOT = Path(__file__).parents[2]
CHAT = ROOT / "traces" / "samples" / "chat.csv"
PLANNING = sorted(
    name
    for name, command in main.commands.items()
    if {"model_name", "trace_file"} <= {param.name for param in command.params}
)
SMALL = """
model: opt-125m
fleet: {device: l40s, gpus: 2}
workload:
  synthetic: {requests: 20, rate: 4/s, prompt_mean: 60, output_mean: 20}
slos: {ttft_p95: 1s}
costs: {silicon: false}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    for name in ("requests.csv", "profile.yaml", "fleet.yaml"):
        Path(name).write_text(CHAT.read_text() if name.endswith("csv") else "pools: [{device: l40s}]\n")
    Path("my-gpu").mkdir()
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def write(text, name="question.yaml"):
    Path(name).write_text(text)
    return Path(name)


def full_template():
    """The template with every key that is commented out."""
    found = TEMPLATE.read_text().splitlines()[3:]
    for _ in range(2):  # some are commented out twice
        found = [re.sub(r"^(\s*)# ?(?=\s*(# )?(- )?[a-z_]+:( |$))", r"\1", line) for line in found]
    return read_document("\n".join(found), "full.yaml")


def keys_of(node, keys=()):
    """Keys of the schema that hold a value."""
    for name, child in node.get("properties", {}).items():
        if child.get("type") == "object" and "properties" in child:
            yield from keys_of(child, (*keys, name))
        else:
            yield (*keys, name)


# ------------------------------------------------------------------------------------------ everything


def test_everything_that_optimize_takes_as_a_flag_can_be_said_in_a_file():
    options = {param.name for param in main.commands["optimize"].params} - {"question_file", "sets"}
    assert options == KEYS.keys() - set(FILE_ONLY)


def test_every_key_is_in_the_schema_and_every_key_of_the_schema_is_read():
    known = set(keys_of(schema()))
    inside = {key for key in known if key[:2] == ("workload", "synthetic")}
    read = {entry.key for entry in KEYS.values()}
    assert {key for key in read if key[0] != "formats"} - {("workload", "synthetic")} == {
        key for key in known - inside if key[0] != "formats"
    }
    assert {key[1] for key in known if key[0] == "formats"} == set(FORMAT_AXES)
    named = {key for rivals in (*RIVALS, UNSEARCHED) for side in rivals.sides for key in side} - {PLAN}
    assert {key for key in named if key[:2] not in read and key[:1] not in read and key not in read} == set()


@pytest.mark.parametrize("name", PLANNING)
def test_every_planning_command_takes_a_file_and_overrides(name):
    params = {param.name for param in main.commands[name].params}
    assert {"question_file", "sets"} <= params


def test_values_of_the_schema_are_those_of_the_code():
    properties = schema()["properties"]
    engine = properties["engine"]["properties"]
    assert set(properties["objective"]["enum"]) == set(OBJECTIVES)
    assert engine["policies"]["items"]["enum"] == list(POLICIES)
    assert properties["constraints"]["properties"]["deployable_on"]["items"]["enum"] == list(ENGINES)
    optimize = {param.name: param.type for param in main.commands["optimize"].params}
    for option, entry in KEYS.items():
        if option in optimize and isinstance(optimize[option], click.Choice) and option != "deployable_on":
            assert properties[entry.key[0]]["properties"][entry.key[1]]["enum"] == list(
                optimize[option].choices
            )
    for name in METRICS:
        good = f"{name}_mean"
        check(read_document(f"slos: {{{good}: 1{'W' if name == 'power' else 's'}}}", "a.yaml"))


def test_the_schema_is_a_schema_and_every_quantity_is_known():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema())
    kinds = set(re.findall(r'"quantity": "(\w+)"', SCHEMA.read_text()))
    assert kinds <= units.KINDS.keys()
    assert json.loads(run("init", "--schema").stdout) == schema()


def test_the_template_shows_every_key_and_is_valid():
    check(read_document(TEMPLATE.read_text(), "a.yaml"))
    full = full_template()
    shown = {re.sub(r"\.\d+", "", dotted(keys)) for keys in full.places}
    assert {dotted(key) for key in keys_of(schema())} <= shown
    pool = schema()["properties"]["fleet"]["properties"]["pools"]["items"]["properties"]
    plain = {"price_usd_per_device_hour", "power_cap_w", "inter_node_gbit_s", "inter_node_latency_us"}
    assert {f"fleet.pools.{name}" for name in pool.keys() - plain} <= shown
    from jsonschema import Draft202012Validator

    assert not list(Draft202012Validator(schema()).iter_errors(full.data))


def test_defaults_that_the_template_names_are_the_defaults():
    """A file with every default says what an empty one does."""
    full = full_template().data
    keep = {"model", "fleet", "workload"}
    defaults = {"engine": full["engine"], "constraints": full["constraints"], "search": full["search"]}
    defaults["engine"] = {k: v for k, v in defaults["engine"].items() if k != "profile"}
    defaults["constraints"] = {
        k: v for k, v in defaults["constraints"].items()
        if k in ("deployable", "use_all_devices", "cross_node_tensor")
    }  # fmt: skip
    defaults["search"] = {"seed": full["search"]["seed"], "exhaustive": full["search"]["exhaustive"]}
    own = yaml.safe_load(SMALL)
    said = load_question(write(yaml.safe_dump({**own, **defaults, "objective": full["objective"]})))
    assert content(said) == content(load_question("small.yaml")) and keep


# -------------------------------------------------------------------------------------- the same question

PAIRS = [
    ("--max-gpus 2 --max-cost-per-hour 9USD/h --max-power 2kW",
     "constraints: {max_gpus: 2, max_cost_per_hour: 216USD/day, max_power: 2000W}"),
    ("--slo ttft_p99.9<=500ms --slo e2e_mean<=2s", "slos: {ttft_p99.9: 0.5s, e2e_mean: 2 s}"),
    ("--fix tp=2,kv=fp8 --forbid pp=2,pp=4", "constraints: {fix: {tp: 2, kv: fp8}, forbid: {pp: [2, 4]}}"),
    ("--formats weights=bf16|fp8,kv=fp8", "formats: {weights: [fp16, fp8], kv: [float8]}"),
    ("--policy orca --policy sarathi --token-budget 2048 --max-seqs 8 --clock 1410",
     "engine: {policies: [orca, sarathi], token_budgets: [2.048k], max_seqs: [8], clocks: [1.41GHz]}"),
    ("--gpu-memory-utilization 0.8 --block-size 32 --watermark 0.02 --preemption swap --queue sjf",
     "engine: {gpu_memory_utilization: 80%, block_size: 32, watermark: 2%, preemption: swap, queue: sjf}"),
    ("--engine vllm-v0 --routing least-outstanding --no-custom-all-reduce",
     "engine: {name: vllm-v0, routing: least-outstanding, custom_all_reduce: false}"),
    ("--deployable-on vLLM --use-all-devices --cross-node-tensor",
     "constraints: {deployable_on: [vLLM], use_all_devices: true, cross_node_tensor: true}"),
    ("--no-deployable", "constraints: {deployable: false}"),
    ("--tables my-gpu --no-silicon", "costs: {tables: my-gpu, silicon: false}"),
    ("--cache my-cache", "search: {cache: my-cache}"),
    ("--no-cache", "search: {use_cache: false}"),
    ("--max-simulations 3 --time-limit 5min --workers 2 --seed 7",
     "search: {max_simulations: 3, time_limit: 300s, workers: 2, exhaustive: false, seed: 7}"),
    ("--exhaustive", "search: {exhaustive: true}"),
    ("--json -o out.json --top 3", "answer: {form: json, output: out.json, top: 3}"),
    ("--csv --html out.html --all", "answer: {form: csv, html: out.html, all: true}"),
    ("--objective energy --gpus 3", "{objective: energy, fleet: {gpus: 3}}"),
    ("--fleet fleet.yaml", "fleet: {file: fleet.yaml}"),
    ("--model opt-125m --device l40s --nodes 2 --gpus-per-node 4",
     "{model: opt-125m, fleet: {device: l40s, nodes: 2, gpus_per_node: 4}}"),
    ("--trace requests.csv --skip-bad-rows", "workload: {trace: requests.csv, skip_bad_rows: true}"),
    ("--profile profile.yaml", "engine: {profile: profile.yaml}"),
]  # fmt: skip


def parsed(*words):
    """Options of ``zenith optimize`` as its parser has them, and which of them were given."""
    context = main.commands["optimize"].make_context("optimize", [str(word) for word in words])
    given = [n for n in context.params if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    return dict(context.params), given


def alike(options):
    """Options with paths and lists of one kind, and axes and limits as what they mean."""
    from planner.axes import parse_pairs
    from planner.slo import parse_slo

    found = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    for axis in ("fix", "forbid"):
        found[axis] = parse_pairs(found[axis]) if found.get(axis) else ()
    found["slos"] = tuple((s.key, s.limit) for s in map(parse_slo, found.get("slos") or ()))
    found["formats"] = (found.get("formats") or "").replace("fp16", "bf16")
    return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}


@pytest.mark.parametrize(("flags", "text"), PAIRS, ids=[flags[:40] for flags, _ in PAIRS])
def test_a_file_says_what_flags_say(flags, text):
    defaults, _ = parsed()
    expected, _ = parsed(*flags.split())
    assert alike(file_options(write(text), over=defaults)) == alike(expected)


def test_the_pairs_above_name_every_option():
    optimize = {option: param for param in main.commands["optimize"].params for option in param.opts}
    named = {optimize[word].name for flags, _ in PAIRS for word in flags.split() if word in optimize}
    negated = {"deployable"}
    assert named | negated == KEYS.keys() - set(FILE_ONLY)


def test_an_answer_to_a_file_is_that_to_flags():
    write(CHAT.read_text(), "few.csv")
    text = "model: opt-125m\nfleet: {device: l40s, gpus: 2}\nworkload: {trace: few.csv, first: 20}\n"
    from_file = run("optimize", write(text + "costs: {silicon: false}\nanswer: {form: json}\n"))
    lines = CHAT.read_text().splitlines()[:21]
    write("\n".join(lines) + "\n", "few.csv")
    flags = "--model opt-125m --device l40s --gpus 2 --trace few.csv --no-silicon --json"
    from_flags = run("optimize", *flags.split())
    assert from_flags.exit_code == 0 and from_file.stdout == from_flags.stdout
    from_sets = run("optimize", *(word for pair in (
        "model=opt-125m", "fleet.device=l40s", "fleet.gpus=2", "workload.trace=few.csv", "costs.silicon=false",
        "answer.form=json") for word in ("--set", pair)))  # fmt: skip
    assert from_sets.stdout == from_flags.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["optimize"],
        ["sensitivity", "--draws", "3"],
        ["whatif", "--vary", "gpus=1,2"],
        ["minimum"],
        ["capacity", "--plan", "tp=1"],
        ["simulate", "--plan", "tp=2"],
        ["deploy", "--plan", "tp=1"],
        ["bound", "--plan", "tp=1"],
    ],
    ids=" ".join,
)
def test_every_command_answers_a_file(words):
    assert words[0] in PLANNING
    result = run(words[0], "small.yaml", *words[1:])
    assert result.exit_code == 0, result.output
    assert "opt-125m" in result.stdout or words[0] in ("whatif", "minimum", "capacity", "deploy")


# ------------------------------------------------------------------------------------------- layers


def options(text, *sets, flags=()):
    return file_options(write(text), sets, flags)


def test_flags_count_before_set_and_set_before_the_file():
    text = "objective: energy\nfleet: {device: l40s, gpus: 4}\n"
    assert options(text)["gpus"] == 4
    assert options(text, "fleet.gpus=8")["gpus"] == 8
    assert options(text, "fleet.gpus=8", "fleet.gpus=2")["gpus"] == 2
    assert "gpus" not in options(text, flags=["gpus"])
    assert "gpus" not in options(text, "fleet.gpus=null")
    result = run("optimize", "small.yaml", "--set", "fleet.gpus=1", "--objective", "cost")
    assert "on 1 x l40s" in result.stdout and "objective: price" in result.stdout


@pytest.mark.parametrize(
    ("text", "sets", "flags", "gone"),
    [
        ("fleet: {device: l40s, gpus: 4}", ["fleet.nodes=2"], [], ["gpus"]),
        ("fleet: {device: l40s, gpus: 4}", [], ["nodes"], ["gpus"]),
        ("fleet: {device: l40s, gpus: 4}", [], ["fleet_file"], ["device", "gpus"]),
        ("fleet: {pools: [{device: l40s}]}", [], ["device"], ["pools"]),
        ("fleet: {file: fleet.yaml}", ["fleet.device=l40s", "fleet.gpus=1"], [], ["fleet_file"]),
        ("workload: {synthetic: {requests: 5}}", [], ["trace_file"], ["synthetic"]),
        ("workload: {trace: requests.csv}", ["workload.synthetic.requests=9"], [], ["trace_file"]),
        ("engine: {name: none}", [], ["profile"], ["engine"]),
        ("constraints: {deployable_on: [vLLM]}", [], ["deployable"], ["deployable_on"]),
        ("constraints: {forbid: {tp: 2}, deployable_on: [vLLM]}", [], ["plan"], ["forbid", "deployable_on"]),
        ("answer: {form: json}", [], ["as_csv"], ["as_json", "as_csv"]),
        ("search: {exhaustive: true}", [], ["max_simulations"], ["exhaustive"]),
        ("answer: {top: 9}", ["answer.all=true"], [], ["top"]),
        ("constraints: {fix: {tp: 2}}", [], ["fix"], ["fix"]),
        ("slos: {power_mean: 1kW}", [], ["max_power"], ["slos"]),
        ("constraints: {max_power: 1kW}", ["slos.power_mean=2kW"], [], ["max_power"]),
        ("engine: {token_budgets: [512]}", ["constraints.fix.budget=1024"], [], ["token_budgets"]),
    ],
)
def test_what_contradicts_a_later_layer_gives_way(text, sets, flags, gone):
    assert not any(options(text, *sets, flags=flags).get(option) for option in gone)


def test_a_whole_number_may_be_written_with_a_point_or_an_exponent():
    found = options("fleet: {device: l40s, gpus: 4.0}\nworkload: {first: 2e1}", "constraints.max_gpus=2.0")
    assert [(found[name], type(found[name])) for name in ("gpus", "trace_first", "max_gpus")] == [
        (4, int), (20, int), (2, int)
    ]  # fmt: skip


def test_set_adds_to_what_the_file_says():
    found = options(
        "constraints: {fix: {tp: 2}}\nslos: {ttft_p95: 1s}", "constraints.fix.pp=1", "slos.tpot_p99.9=9ms"
    )
    assert found["fix"] == "tp=2,pp=1" and found["slos"] == ("ttft_p95<=1s", "tpot_p99.9<=9ms")
    pools = "fleet: {pools: [{device: l40s, gpus: 2}, {name: b, device: h100}]}"
    assert [pool.devices for pool in options(pools, "fleet.pools.0.gpus=3")["pools"]] == [3, 8]


@pytest.mark.parametrize(
    ("text", "words", "wanted"),
    [
        ("slos: {ttft_p95: 1s}", "--set slos.tpot_p95=2s --slo e2e_mean<=9s",
         {"slos": ("e2e_mean<=9s", "tpot_p95<=2s")}),
        ("constraints: {fix: {dp: 1}}", "--set constraints.fix.pp=1 --fix tp=2", {"fix": "tp=2,pp=1"}),
        ("constraints: {forbid: {dp: 1}}", "--set constraints.forbid.pp=1 --forbid tp=2", {"forbid": "tp=2,pp=1"}),
        ("formats: {weights: [int8], kv: [int8]}", "--set formats.kv=[fp8] --formats weights=fp8",
         {"formats": "weights=fp8,kv=fp8"}),
        ("constraints: {fix: {dp: 1}}", "--fix tp=2", {"fix": "tp=2"}),
        ("formats: {kv: [fp8]}", "--formats weights=fp8", {"formats": "weights=fp8"}),
    ],
)  # fmt: skip
def test_flags_replace_what_the_file_says_and_add_to_what_set_says(text, words, wanted):
    over, given = parsed(*words.split())
    flags = [option for option in given if option != "sets"]
    found = file_options(write(text), over["sets"], flags, over=over)
    assert {option: found[option] for option in wanted} == wanted


# --------------------------------------------------------------------------------------- what it says


def test_a_synthetic_workload_is_that_of_trace_synth():
    text = SMALL.replace("{requests: 20, ", "{arrivals: gamma, cv: 2, seed: 3, prompt_sd: 1k, requests: 20, ")
    expected = synthesize(
        requests=20, rate=4.0, arrivals="gamma", cv=2, prompt_mean=60, prompt_sd=1000, output_mean=20, seed=3
    )
    assert trace_content(load_question(write(text)).trace) == trace_content(expected)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("{window: '10s:60s', first: 30, rate: 4/s}", "--window 10:60 --first 30 --rate 4"),
        ("{first: 30, rate: x2}", "--first 30 --times 2"),
        ("{rate: 30/min}", "--rate 0.5"),
        ("{window: ':1min'}", "--window :60"),
    ],
)
def test_a_scaled_workload_is_that_of_trace_scale(text, flags):
    scaling = yaml.safe_load(text)
    asked = {**yaml.safe_load(SMALL), "workload": {"trace": "requests.csv", **scaling}}
    assert run("trace", "scale", "requests.csv", "scaled.csv", *flags.split()).exit_code == 0
    expected = load_question("small.yaml", "workload.trace=scaled.csv").trace
    found = load_question(write(yaml.safe_dump(asked))).trace
    assert trace_content(found) == trace_content(expected)


def test_pools_with_units_are_those_of_a_fleet_file():
    plain = """pools:
  - {name: a, device: h100, nodes: 2, free: [8, 4], inter_node_gbit_s: 200, inter_node_latency_us: 7,
     price_usd_per_device_hour: 2.5, power_cap_w: 600}
  - {device: l40s}
"""
    expected = load_fleet(write(plain, "plain.yaml"))
    same = "fleet:\n" + "".join(f"  {line}\n" for line in plain.splitlines())
    said = """fleet:
  pools:
    - {name: a, device: h100, gpus: 12, inter_node_bandwidth: 25GB/s, inter_node_latency: 7us,
       price: 60USD/day, power_cap: 0.6kW}
    - {device: l40s}
"""
    assert options(same)["pools"] == expected.pools
    for ours, theirs in zip(options(said)["pools"], expected.pools, strict=True):
        for name in ("name", "device", "nodes", "free", "price_usd_per_device_hour", "power_cap_w"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name)), name
        assert ours.inter_bandwidth == pytest.approx(theirs.inter_bandwidth)
        assert ours.inter_latency_s == pytest.approx(theirs.inter_latency_s)


def test_paths_are_relative_to_the_file(folder):
    (folder / "sub").mkdir()
    write("model: opt-125m\nfleet: {file: fleet.yaml}\nworkload: {trace: ../requests.csv}\n", "sub/q.yaml")
    write("pools: [{device: l40s, nodes: 1}]\n", "sub/fleet.yaml")
    assert load_question("sub/q.yaml").fleet.pools[0].devices == 8


def test_limits_of_a_file_are_arguments_of_optimize():
    text = SMALL + "search: {time_limit: 1min, max_simulations: 5}\n"
    assert load_limits(write(text)) == {"time_limit_s": 60.0, "max_simulations": 5, "silicon": False}
    assert load_limits(write(text), "search.exhaustive=true") == {
        "time_limit_s": 60.0, "everything": True, "silicon": False,
    }  # fmt: skip


def test_an_example_in_python_is_the_same_question():
    asked = load_question("small.yaml", "constraints.max_power=1kW")
    assert [slo.text for slo in asked.slos] == ["ttft_p95<=1s", "power_mean<=1000W"]
    assert content(question_of(file_options(Path("small.yaml")))) == content(load_question("small.yaml"))


# ------------------------------------------------------------------------------------------- mistakes

MISTAKES = [
    # file, line, then what the line names
    ("modle: x", 1, "modle 'model'"),
    ("model: llama-3.1-8", 1, "model llama-3.1-8 'llama-3.1-8b'"),
    ("fleet:\n  device: h10", 2, "fleet.device h10 'h100'"),
    ("fleet:\n  gpus: four", 2, "fleet.gpus 'four' whole"),
    ("fleet:\n  gpus: 0", 2, "fleet.gpus 0 whole 1"),
    ("fleet:\n  gpus: true", 2, "fleet.gpus True whole"),
    ("fleet:\n  gpus: 4\n  nodes: 2", 3, "fleet.nodes fleet.gpus"),
    ("fleet:\n  device: l40s\n  file: fleet.yaml", 3, "fleet.file fleet.device"),
    ("fleet:\n  file: none.yaml", 2, "none.yaml"),
    ("fleet: 4", 1, "fleet 4 keys"),
    ("fleet:\n  pools: []", 2, "fleet.pools pools"),
    ("fleet:\n  pools:\n    - name: a", 3, "device missing"),
    ("fleet:\n  pools:\n    - device: l40s\n      pirce: 3USD/h", 4, "pirce 'price'"),
    ("fleet:\n  pools:\n    - device: l40s\n      price: 3", 4, "fleet.pools.0.price '3' USD/h"),
    ("fleet:\n  pools:\n    - device: l40s\n      power_cap: 1MW", 4, "power_cap 1e+06 350"),
    ("fleet:\n  pools:\n    - device: l40s\n      gpus: 1000000000000", 4, "1000000000000 10000"),
    (f"model: {'x' * 3000}", 1, "model known"),
    (f"workload:\n  trace: {'x' * 3000}", 2, "workload.trace file"),
    (f"answer:\n  output: {'x' * 3000}/a.json", 2, "answer.output folder"),
    ("constraints:\n  fix: {tp: '2,dp=3'}", 2, "fix.tp '2,dp=3' one"),
    ("seed: 1\n# \a", 2, "YAML characters"),
    ("fleet:\n  pools:\n    - device: l40s\n      gpus: 4\n      nodes: 1", 5, "nodes gpus"),
    ("fleet:\n  pools:\n    - device: l40s\n      price: 1USD/h\n      price_usd_per_device_hour: 1", 5, "price"),
    ("fleet:\n  pools:\n    - device: l40s\n      free: [9]", 4, "free [9] number 8"),
    ("fleet:\n  pools:\n    - device: l40s\n      nodes: 9000", 4, "nodes 72000 10000"),
    ("fleet:\n  gpus: 100000000000", 2, "fleet.gpus 100000000000 10000"),
    ("slos:\n  power_mean: 1kW\nconstraints:\n  max_power: 1kW", 4, "max_power slos.power_mean"),
    ("constraints:\n  fix: {budget: 512}\nengine:\n  token_budgets: [512]", 4, "token_budgets fix.budget"),
    ("engine:\n  max_seqs: [1e300]", 2, "max_seqs whole 999999999"),
    ("workload:\n  trace: none.csv", 2, "workload.trace none.csv"),
    ("workload:\n  trace: requests.csv\n  synthetic: {}", 3, "workload.synthetic workload.trace"),
    ("workload:\n  synthetic:\n    rate: 4", 3, "workload.synthetic.rate '4' 4/s"),
    ("workload:\n  synthetic:\n    arrivals: often", 3, "'often' poisson"),
    ("workload:\n  rate: 2", 2, "workload.rate x0.5"),
    ("workload:\n  rate: 2x", 2, "workload.rate x0.5"),
    ("workload:\n  window: 5min", 2, "workload.window START:END"),
    ("objective: latancy", 1, "'latancy' 'latency'"),
    ("slos:\n  tfft_p99: 1s", 2, "tfft_p99 'ttft_p99'"),
    ("slos:\n  ttft_p99: 1", 2, "slos.ttft_p99 '1' ms"),
    ("slos:\n  ttft_p101: 1s", 2, "slos.ttft_p101 percentile"),
    ("slos:\n  - ttft_p99<=1s", 1, "slos metrics"),
    ("slos:\n  power_mean: 1s", 2, "slos.power_mean 's' 700W"),
    ("formats:\n  weights: [bf61]", 2, "formats.weights bf61 'bf16'"),
    ("formats:\n  weights: bf16", 2, "formats.weights bf16 list"),
    ("constraints:\n  max_power: 700w", 2, "max_power 'w' 'W'"),
    ("constraints:\n  max_cost_per_hour: 3EUR/h", 2, "EUR/h"),
    ("constraints:\n  fix: {tpp: 4}", 2, "tpp 'tp'"),
    ("constraints:\n  fix: {tp: four}", 2, "four whole"),
    ("constraints:\n  forbid:\n    pp: [1, x]", 3, "pp=x whole"),
    ("constraints:\n  deployable_on: [vllm]", 2, "'vllm' 'vLLM'"),
    ("constraints:\n  deployable: maybe", 2, "maybe true"),
    ("engine:\n  name: vllm-v3", 2, "vllm-v3 'vllm-v1'"),
    ("engine:\n  policies: [orce]", 2, "'orce' 'orca'"),
    ("engine:\n  gpu_memory_utilization: 120%", 2, "120% share"),
    ("engine:\n  token_budgets: [1.5]", 2, "1.5 whole"),
    ("engine:\n  clocks: [1GHZ]", 2, "'GHZ' 'GHz'"),
    ("costs:\n  tables: none", 2, "costs.tables none"),
    ("search:\n  time_limit: 5 fortnights", 2, "fortnights 60s"),
    ("search:\n  workers: 1000", 2, "1000 256"),
    ("answer:\n  form: xml", 2, "'xml' text"),
    ("answer:\n  output: nowhere/x.json", 2, "nowhere/x.json folder"),
    ("answer:\n  output: my-gpu", 2, "my-gpu folder"),
    ("model: opt-125m\nmodel: opt-125m", 2, "model twice"),
    ("fleet: [1", 3, "YAML"),
    ("- 1", 1, "KEY: VALUE"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "named"), MISTAKES, ids=[repr(text)[-40:] for text, _, _ in MISTAKES]
)
def test_a_mistake_is_one_line_that_names_its_place(text, line, named):
    whole = text + "\n# the end\n"
    before = sorted(Path().rglob("*"))
    write(whole)
    result = run("optimize", "question.yaml")
    assert result.exit_code == 2 and result.stdout == "", result.output
    (message,) = result.stderr.splitlines()
    assert message.startswith(f"Error: question.yaml:{line}: "), message
    assert all(word in message for word in named.split()), message
    assert sorted(Path().rglob("*")) == sorted([*before, Path("question.yaml")])


SYNTHETIC = "prompt_mean: 60, output_mean: 20"
LATER = [
    # in the small file, what in place of what (or at its end); line and key, and what else the message names
    ("gpus: 2", "nodes: 9999", 3, "fleet.nodes", "79992 10000"),
    ("device: l40s, gpus: 2", "pools: [{device: l40s}, {device: l40s}]", 3, "fleet.pools.1", "'l40s' name"),
    ("device: l40s, gpus: 2", "pools: [{device: l40s}, {name: l40s, device: h100}]", 3, "fleet.pools.1.name", "'l40s'"),
    (", gpus: 2", "", 3, "fleet.device", "many --gpus"),
    ("20, rate: 4/s", "20, arrivals: at-once, rate: 4/s", 5, "workload.synthetic.rate", "4 left at once"),
    ("20, rate", "20, cv: 2, rate", 5, "workload.synthetic.cv", "2 poisson gamma"),
    ("20, rate", "20, arrivals: gamma, cv: 1e3, rate", 5, "workload.synthetic.cv", "1000 0.01 100"),
    ("rate: 4/s", "rate: 1e7/s", 5, "workload.synthetic.rate", "1e+07 1e6"),
    (SYNTHETIC, "prompt_mean: 0", 5, "workload.synthetic.prompt_mean", "0 131072"),
    (SYNTHETIC, "output_sd: 1e9", 5, "workload.synthetic.output_sd", "1e+09 1000"),
    (SYNTHETIC, "lengths_of: requests.csv, output_mean: 9", 5, "workload.synthetic.output_mean", "9 drawn"),
    (SYNTHETIC, "lengths_of: fleet.yaml", 5, "workload.synthetic.lengths_of", "fleet.yaml"),
    (f"rate: 4/s, {SYNTHETIC}}}", "arrivals: at-once}\n  rate: 4/s", 6, "workload.rate", "once"),
    (SYNTHETIC + "}", SYNTHETIC + "}\n  rate: x1e-9", 6, "workload.rate", "days 100"),
    (SYNTHETIC + "}", SYNTHETIC + "}\n  window: '1e9:'", 6, "workload.window", "1e+09"),
    ("slos: {ttft_p95: 1s}", "objective: goodput\nslos: {itl_p50: 1s}", 6, "objective", "goodput SLOs"),
    ("{ttft_p95: 1s}", "{ttft_p95: 1s, ttft_p95.0: 2s}", 6, "slos.ttft_p95.0", "ttft_p95.0<=2s ttft_p95<=1s keep"),
    ("", "engine: {token_budgets: [2k, 0]}", 8, "engine.token_budgets.1", "budget=0 whole 1"),
    ("", "engine: {max_seqs: [9000]}", 8, "engine.max_seqs.0", "2048 9000"),
    ("", "engine: {token_budgets: [8]}", 8, "engine.token_budgets.0", "8 256"),
    ("", "engine: {clocks: [0, 9GHz]}", 8, "engine.clocks.1", "9000 l40s 2520"),
    ("", "engine: {profile: requests.csv}", 8, "engine.profile", "requests.csv .yaml"),
    ("costs: {silicon: false}", "costs: {silicon: false, tables: my-gpu}", 7, "costs.tables", "gemm.csv"),
    ("costs: {silicon: false}", "search: {cache: x, use_cache: false}", 7, "search.cache", "--no-cache"),
    ("", "search:\n  max_simulations: 5\n  exhaustive: true", 9, "search.max_simulations", "search.exhaustive keep"),
    ("", "answer: {top: 5, all: true}", 8, "answer.top", "answer.all keep"),
    ("", "constraints: {fix: {clock: 99}}", 8, "constraints.fix.clock", "99 2520"),
    ("", "constraints: {fix: {seqs: 9999}}", 8, "constraints.fix.seqs", "2048 9999"),
    ("", "constraints: {fix: {tp: 1, attn_tp: 2}}", 8, "constraints.fix", "tp two 1 2"),
    ("", "constraints: {fix: {layers: 3/4}}", 8, "constraints.fix.layers", "3/4 7 12"),
    ("", "constraints: {forbid: {queue: fcfs}}", 8, "constraints.forbid.queue", "queue=fcfs searched"),
    ("", "constraints: {deployable_on: [vLLM], deployable: false}", 8, "constraints.deployable_on", "vLLM false keep"),
    ("", "formats: {kv: [int4]}", 8, "formats.kv", "'int4' 'int8'"),
    ("", "formats: {weights: [mxfp4]}", 8, "formats.weights", "mxfp4 opt-125m experts"),
    ("", "formats: {activations: [fp4]}", 8, "formats.activations", "bf16 fp4 l40s"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "named"), LATER, ids=[new[-40:] for _, new, *_ in LATER]
)
def test_a_mistake_that_shows_when_all_is_read_names_its_place_too(old, new, line, key, named):
    assert old in SMALL
    result = run("optimize", write(SMALL.replace(old, new) if old else f"{SMALL}{new}\n"))
    assert result.exit_code == 2 and result.stdout == "", result.output
    *_, message = result.stderr.splitlines()
    assert message.startswith(f"Error: question.yaml:{line}: {key}: "), message
    assert all(word in message for word in named.split()), message


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["fleet.gpuss=2"], "--set fleet.gpuss 'gpus'"),
        (["fleet.gpus"], "fleet.gpus KEY=VALUE"),
        (["=2"], "KEY=VALUE"),
        (["fleet.gpus=two"], "--set fleet.gpus 'two' whole"),
        (["fleet=[1"], "--set fleet YAML"),
        (["model.name=x"], "--set model.name model keys"),
        (["fleet.gpus=2", "fleet.nodes=1"], "--set fleet.nodes fleet.gpus"),
        (["slos.ttft_p99=1"], "--set slos.ttft_p99 ms"),
        (["search.time_limit=5"], "--set search.time_limit 60s"),
        (["0=3"], "--set 0 unknown"),
        (["a.b.c=3"], "--set a unknown"),
        (["fleet.0=3"], "--set fleet.0 unknown"),
        (["constraints.fix.7=3"], "--set constraints.fix.7 axis '7'"),
        (["search.seeds.a=1"], "--set search.seeds 'seed'"),
        (["engine.token_budgets=[0]"], "--set engine.token_budgets budget=0 whole"),
        (["constraints.max_power=1kW", "slos.power_mean=1kW"], "--set slos.power_mean max_power"),
    ],
)
def test_a_mistake_of_an_override_is_one_line(sets, named):
    result = run("optimize", "small.yaml", *(word for text in sets for word in ("--set", text)))
    assert result.exit_code == 2 and result.stdout == ""
    (message,) = result.stderr.splitlines()
    assert all(word in message for word in named.split()), message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fleet: {device: l40s, gpus: 1}", "which model --model"),
        ("model: opt-125m", "which devices --device"),
        ("model: opt-125m\nfleet: {device: l40s, gpus: 1}", "which requests --trace"),
    ],
)
def test_what_is_missing_is_one_line_that_names_the_file(text, named):
    result = run("optimize", write(text))
    assert result.exit_code == 2
    (message,) = result.stderr.splitlines()
    assert message.startswith("Error: question.yaml: ") and all(word in message for word in named.split())
    flagged = run("optimize", "question.yaml", "--top", "3")
    assert flagged.stderr.startswith("Error: question.yaml and flags: ")
    with pytest.raises(InputError, match=r"^question\.yaml: "):
        load_question("question.yaml")


FIXED, AT_MOST = (f"question.yaml:8: constraints.{key}" for key in ("fix.tp", "max_gpus"))


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("max_gpus: 1, fix: {attn_tp: 2}", "", ["question.yaml:8: constraints.fix.attn_tp", AT_MOST]),
        ("max_gpus: 1, fix: {tp: 2}", "--max-gpus 1", [FIXED]),
        ("fix: {tp: 2}", "--set constraints.max_gpus=1", [FIXED, "--set constraints.max_gpus"]),
        ("max_gpus: 1", "--max-gpus 1 --fix tp=2", []),
    ],
)
def test_what_clashes_names_the_lines_that_say_it(text, words, said):
    result = run("optimize", write(f"{SMALL}constraints: {{{text}}}\n"), *words.split(), "--no-cache")
    assert result.exit_code == 3
    *_, line = result.stderr.splitlines()
    assert "--fix tp=2; --max-gpus 1" in line and "Each of these would do: --max-gpus 2" in line
    assert line.partition(" Said by ")[2] == (" and ".join(said) + "." if said else "")


def test_what_is_varied_of_pools_names_their_line():
    write(SMALL.replace("device: l40s, gpus: 2", "pools: [{device: l40s}]"))
    result = run("whatif", "question.yaml", "--vary", "device=l40s,h200")
    assert result.exit_code == 2 and result.stderr == (
        "Error: question.yaml:3: fleet.pools: says what --vary device=l40s would, give one or the other\n"
    )


def test_what_is_varied_takes_the_place_of_what_the_file_says_of_it():
    text = (
        SMALL + "constraints: {max_power: 1kW, fix: {tp: 1}}\nengine: {token_budgets: [512], max_seqs: [8]}\n"
    )
    words = ["--vary", "slo.power_mean=1kW,2kW", "--vary", "budget=512,1024", "--vary", "tp=1,2", "--json"]
    found = json.loads(run("whatif", write(text), *words).stdout)["scenarios"]
    assert len(found) == 8
    for each in found:
        plan = each["answer"]["plans"][0]["plan"]
        assert f"tp={each['values']['tp']}" in plan["name"] and plan["max_seqs"] == 8
        assert plan["token_budget"] == int(each["values"]["budget"])


NAMED = [
    # what the file says besides, the plan, and what it has of tp, pp, budget, weights, activations and kv
    (
        "engine: {token_budgets: [512, 1024], max_seqs: [8], clocks: [1500]}",
        "tp=1",
        (1, 1, 512, "bf16", "bf16", "bf16"),
    ),
    ("engine: {token_budgets: [512], max_seqs: [8]}", "tp=1,budget=64", (1, 1, 64, "bf16", "bf16", "bf16")),
    ("formats: {weights: [fp8], kv: [fp8, bf16]}", "tp=2", (2, 1, 2048, "fp8", "fp8", "fp8")),
    ("formats: {weights: [fp8, bf16]}", "tp=2,weights=bf16,kv=fp8", (2, 1, 2048, "bf16", "bf16", "fp8")),
    ("formats: {weights: [fp8]}", "weights=int8", (1, 1, 2048, "int8", "int8", "bf16")),
    ("constraints: {fix: {attn_tp: 2, weights: fp8}}", "pp=1", (2, 1, 2048, "fp8", "fp8", "bf16")),
    (
        "constraints: {fix: {tp: 2, layers: 7/5, budget: 64}}",
        "tp=1,budget=512",
        (1, 2, 512, "bf16", "bf16", "bf16"),
    ),
    (
        "constraints: {fix: {tp: 1, layers: 7/5}, forbid: {pp: 1}}",
        "ffn_tp=2,pp=1",
        (2, 1, 2048, "bf16", "bf16", "bf16"),
    ),
]


@pytest.mark.parametrize(
    ("text", "plan", "wanted"), NAMED, ids=[f"{text[:60]}-{plan}" for text, plan, _ in NAMED]
)
def test_a_plan_that_is_named_has_of_the_file_what_it_does_not_say(text, plan, wanted):
    result = run("simulate", write(f"{SMALL}{text}\n"), "--plan", plan, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["plans"][0]["plan"]
    names = ("tp", "pp", "token_budget", "weights", "activations", "kv")
    assert tuple(found[name] for name in names) == wanted
    assert found["clock_mhz"] == (1500 if "clocks" in text else 0)


@pytest.mark.parametrize("flag", ["-o", "--html", "--model", "--trace", "--tables"])
def test_a_name_too_long_for_a_file_is_one_line(flag):
    result = run("optimize", "small.yaml", flag, "x" * 300 + "/y")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr


def test_an_objective_that_a_command_does_not_have_is_named():
    write(SMALL + "objective: throughput\n")
    result = run("bound", "question.yaml", "--plan", "tp=1")
    assert result.exit_code == 2 and "question.yaml:8: objective: 'throughput'" in result.stderr
    assert run("bound", "question.yaml", "--plan", "tp=1", "--objective", "energy").exit_code == 0


@pytest.mark.parametrize("data", [b"\xff\xfe", b"model: \xe9\n", b"a: 1\n" * 300_000, b"\x00"])
def test_bytes_that_are_no_text_are_one_line(data):
    Path("q.yaml").write_bytes(data)
    result = run("optimize", "q.yaml")
    assert (
        result.exit_code == 2 and result.stderr.startswith("Error: q.yaml") and result.stderr.count("\n") == 1
    )


LEAVES = sorted(
    (keys for keys in full_template().places
     if keys and not isinstance(full_template().get(keys), (dict, list)) and "device" not in keys),
    key=dotted,
)  # fmt: skip


@pytest.mark.parametrize("keys", LEAVES, ids=dotted)
def test_a_value_of_the_wrong_form_is_named_with_its_line_wherever_it_is(keys):
    full = full_template()
    for rivals in RIVALS:  # one of each
        for side in rivals.sides:
            for key in side:
                if key != keys[: len(key)] and any(keys[: len(k)] == k for s in rivals.sides for k in s):
                    full.drop(key)
    if keys[:2] == ("fleet", "pools"):
        full.drop(("fleet", "pools", 0, "nodes"))
    data = copy.deepcopy(full.data)
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = {"nonsense": "here"}
    lines = yaml.safe_dump(data, sort_keys=False).splitlines()
    place = next(i for i, line in enumerate(lines) if "nonsense" in line)
    with pytest.raises(InputError) as caught:
        file_options(write("\n".join(lines)))
    number = int(str(caught.value).split(":")[1])
    assert number in (place, place + 1), str(caught.value)
    assert dotted(keys).split(".")[0] in str(caught.value) and "\n" not in str(caught.value)


ODD = [0, 1e11, 3.7, "", "x", "1e400", "1e300W", [], [0], {"a": 1}, True]
LIKELY = dict.fromkeys(keys[: -1 if isinstance(keys[-1], int) else None] for keys in LEAVES)
LIKELY |= dict.fromkeys(("constraints", name, axis) for name in ("fix", "forbid") for axis in AXES)


@pytest.mark.parametrize("keys", LIKELY, ids=dotted)
def test_an_odd_value_is_a_question_or_a_line_that_names_its_place(keys):
    """Whatever finds it: the form of the file, the reader of the key, or the question as a whole."""
    for odd in ODD:
        data = {"model": "opt-125m", "fleet": {}, "workload": {}, "costs": {"silicon": False}}
        if keys[:2] != ("fleet", "file") and keys[:2] != ("fleet", "pools"):
            data["fleet"] = {"device": "l40s"} | ({} if keys == ("fleet", "nodes") else {"gpus": 2})
        if keys[:2] == ("fleet", "pools"):
            data["fleet"] = {"pools": [{"device": "l40s"}]}
        if keys[:2] != ("workload", "trace"):
            data["workload"] = {"synthetic": {"requests": 3}}
        inner = data
        for key in keys[:-1]:
            inner = inner[key] if isinstance(key, int) else inner.setdefault(key, {})
        inner[keys[-1]] = odd
        lines = yaml.safe_dump(data, sort_keys=False).splitlines()
        try:
            load_question(write("\n".join(lines)))
        except InputError as error:
            name, number, rest = str(error).split(":", 2)
            assert name == "question.yaml" and "\n" not in rest, error
            assert rest.strip().startswith(dotted(keys)), error
            assert str(keys[-1]) in lines[int(number) - 1] or "  - " in lines[int(number) - 1], error


PIECES = TEMPLATE.read_text().split()
TEXTS = st.lists(
    st.sampled_from([*PIECES, "\n", "\n  ", ": ", "- ", "{", "}", "[", "null", "!!str", "&a", "*a", "\t"])
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(pieces=TEXTS)
def test_any_text_is_options_or_one_line(tmp_path_factory, pieces):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(" ".join(pieces))
    try:
        file_options(file)
    except ZenithError as error:
        assert "\n" not in str(error) and str(error).startswith(str(file))


# ----------------------------------------------------------------------------------------------- init


def test_init_writes_a_question_that_is_answered_and_never_overwrites_one():
    assert run("init").exit_code == 0
    assert Path("question.yaml").read_bytes() == TEMPLATE.read_bytes()
    write("model: mine\n")
    again = run("init")
    assert again.exit_code == 2 and "question.yaml" in again.stderr and "--force" in again.stderr
    assert Path("question.yaml").read_text() == "model: mine\n"
    assert run("init", "--force").exit_code == 0
    assert run("init", "-o", "other.yaml").exit_code == 0
    small = ["workload.synthetic.requests=10", "costs.silicon=false", "fleet.gpus=1"]
    result = run("optimize", "question.yaml", *(word for text in small for word in ("--set", text)))
    assert result.exit_code == 0, result.output
