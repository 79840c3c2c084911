"""Measured runs: each form is read as it was written, and a mistake in it is one line."""

import json
import math

import numpy as np
import pytest

from planner.measured import model_of
from planner.runs import Told, read_runs
from profiles.errors import InputError

HEAD = (
    "engine,engine_version,model,dtype,trace,rate_req_s,plan,replica,"
    "ttft_mean_s,itl_mean_s,e2e_mean_s,flags,requests_csv"
)
ROW = "vllm,v0.6.0,meta-llama/Llama-3.1-70B-Instruct,half,chat,0.5,{plan},{replica},0.05,0.02,1.5,{flags},{file}"
REQUESTS = "request_id,arrival_s,prompt_tokens,output_tokens\nb,5.5,20,3\na,2.5,10,1\nc,6,7,0\n"
H100 = Told(device="h100")


def campaign(folder, *rows, requests=REQUESTS, head=HEAD):
    (folder / "requests").mkdir(exist_ok=True)
    (folder / "requests" / "a.csv").write_text(requests)
    (folder / "runs.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def row(plan="8TP", replica="", flags="gpu-mem-util 0.97", file="a.csv"):
    return ROW.format(plan=plan, replica=replica, flags=flags, file=file)


def one(path, told=H100):
    (run,) = read_runs([path], told)
    return run


def fails(path, told=H100):
    with pytest.raises(InputError) as error:
        read_runs([path], told)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------ campaigns


def test_a_campaign_is_a_run_per_row(tmp_path):
    folder = campaign(tmp_path, row(), row("2DP4TP", "0"), row("2DP4TP", "1"))
    first, second, third = read_runs([folder], H100)
    assert [run.name for run in (first, second, third)] == ["8TP", "2DP4TP r0", "2DP4TP r1"]
    assert second.label == third.label == "2DP4TP" and first.group == second.group == "chat 0.5/s"
    assert first.device == "h100-sxm-80gb" and first.engine == "vllm-v0"
    assert first.plan(model_of(first.model)).label == "tp=8"
    assert second.plan(model_of(second.model)).label == "tp=4"  # a replica is a server of its own
    assert first.mean_s == {"ttft": 0.05, "itl": 0.02, "e2e": 1.5}
    assert first.trace.arrival_s.tolist() == [0.0, 3.0]  # by arrival, from 0, without the one of no output
    assert first.trace.output_tokens.tolist() == [1, 3]
    assert first.notes == ("1 requests without output left out",)


def test_a_server_without_graphs_is_noted(tmp_path):
    flags = ("--enforce-eager", "enforce_eager=False", "")
    runs = read_runs([campaign(tmp_path, *(row(flags=each) for each in flags))], H100)
    assert [any("--enforce-eager" in note for note in run.notes) for run in runs] == [True, False, False]


def test_plan_words_of_a_whole_deployment_keep_their_replicas(tmp_path):
    run = one(campaign(tmp_path, row("2DP2PP2TP")))
    assert run.plan(model_of(run.model)).label == "dp=2 pp=2 tp=2"


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("v0.6.0", "gpu-mem-util 0.97; no max-model-len (auto chunked prefill 512)", ("sarathi", 512, 256, 0.97)),
        ("v0.6.0", "no max-model-len (131072 -> V0 auto chunked prefill; 512 tok budget)", ("sarathi", 512, 256, 0.9)),
        ("v0.6.0", "--max-model-len 24272 (no chunked prefill)", ("vllm-v0", 24272, 256, 0.9)),
        ("v0.6.0", "--max-model-len=1024 --max-num-seqs=64", ("vllm-v0", 2048, 64, 0.9)),
        ("v0.6.0", "", ("sarathi", 512, 256, 0.9)),
        ("v0.8.5", "--enable-chunked-prefill --max-num-batched-tokens 2048", ("sarathi", 2048, 256, 0.9)),
        ("v0.19.0", "--max-num-batched-tokens 4096 --gpu-memory-utilization 0.8", ("vllm-v1", 4096, 256, 0.8)),
        ("0.10.1", "", ("vllm-v1", 8192, 256, 0.9)),
    ],
)  # fmt: skip
def test_flags_become_engine_settings(tmp_path, version, flags, expected):
    settings = one(campaign(tmp_path, row(flags=flags).replace("v0.6.0", version))).settings
    found = settings.policy, settings.token_budget, settings.max_seqs, settings.gpu_memory_utilization
    assert found == expected


def test_what_the_user_says_counts_first(tmp_path):
    told = Told(device="h200", model="llama-3.1-8b", axes={"seqs": 32, "attn_tp": 2}, engine="none",
                gpu_memory_utilization=0.5)  # fmt: skip
    run = one(campaign(tmp_path, row()), told)
    assert (run.device, run.model, run.engine) == ("h200-sxm-141gb", "llama-3.1-8b", "none")
    assert run.axes["attn_tp"] == 2 and run.settings.max_seqs == 32
    assert run.settings.gpu_memory_utilization == 0.5


def test_groups_of_different_models_stay_apart(tmp_path):
    folder = campaign(tmp_path, row(), row().replace("70B-Instruct", "8B").replace("half", "fp8"))
    first, second = read_runs([folder], H100)
    assert first.group != second.group
    assert second.axes["weights"] == second.axes["activations"] == "fp8"


def test_a_device_is_also_said_by_the_folders_name(tmp_path):
    folder = tmp_path / "vllm_llama_h100"
    folder.mkdir()
    run = one(campaign(folder, row()), Told())
    assert run.device == "h100-sxm-80gb" and "by the name" in run.notes[0]
    assert "--device" in fails(campaign(tmp_path, row()), Told())


@pytest.mark.parametrize("name", ["../a.csv", "/etc/passwd", "..", "", "sub/a.csv", "..\\a.csv"])
def test_no_path_leaves_the_directory(tmp_path, name):
    (tmp_path / "a.csv").write_text(REQUESTS)
    folder = tmp_path / "runs"
    folder.mkdir()
    assert "requests_csv" in fails(campaign(folder, row(file=name)))


def test_no_link_leaves_the_directory(tmp_path):
    (tmp_path / "secret.csv").write_text(REQUESTS)
    folder = tmp_path / "runs"
    folder.mkdir()
    campaign(folder, row(file="link.csv"))
    (folder / "requests" / "link.csv").symlink_to(tmp_path / "secret.csv")
    assert "leaves requests/" in fails(folder)


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        ([row(plan="8XP")], {}, "runs.csv:2: plan '8XP'"),
        ([row(plan="0TP")], {}, "plan '0TP'"),
        ([row().replace("0.02", "nan")], {}, "runs.csv:2: itl_mean_s 'nan'"),
        ([row().replace("0.05", "-1")], {}, "ttft_mean_s '-1'"),
        ([row().replace("half", "fp7")], {}, "runs.csv:2: Unknown format 'fp7'"),
        ([row().replace("Llama-3.1-70B", "Lama-3.1-70B")], {}, "--model"),
        ([row() + ",more"], {}, "runs.csv:2: 14 cells, the header has 13"),
        ([], {}, "no rows"),
        ([row()], {"head": HEAD.replace("plan", "plam")}, "runs.csv:1: column 'plan' is missing"),
        ([row(file="b.csv")], {}, "b.csv: No such file"),
        ([row()], {"requests": "arrival_s,prompt_tokens,output_tokens\n0,1.5,1\n"}, "a.csv:2: prompt_tokens 1.5"),
        ([row()], {"requests": "arrival_s,prompt_tokens,output_tokens\n-1,1,1\n"}, "a.csv:2: arrival_s '-1'"),
        ([row()], {"requests": "arrival_s,prompt_tokens,output_tokens\n0,1,0\n"}, "no request that produced"),
        ([row()], {"requests": "arrival_s,prompt_tokens,output_tokens\n0,1,1\n1e9,1,1\n"}, "100 days"),
        ([row(flags="chunked prefill 8")], {}, "token budget 8"),
    ],
)  # fmt: skip
def test_mistakes_in_a_campaign_are_one_line(tmp_path, rows, more, words):
    assert words in fails(campaign(tmp_path, *rows, **more))


def test_a_folder_is_read_as_what_it_holds(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        campaign(tmp_path / name, row())
    (tmp_path / "notes.txt").write_text("hello")
    assert len(read_runs([tmp_path], H100)) == 2
    (tmp_path / "empty").mkdir()
    assert "no runs here" in fails(tmp_path / "empty")
    assert "no measured run" in fails(tmp_path / "notes.txt")


# ------------------------------------------------------------------------------------- logs of requests

LOG = [
    {"input_toks": 8, "output_toks": 1, "queued_ts": 101.0, "scheduled_ts": 101.5, "first_token_ts": 102.0,
     "last_token_ts": 102.0},
    {"input_toks": 4, "output_toks": 5, "queued_ts": 100.0, "scheduled_ts": 100.0, "first_token_ts": 100.5,
     "last_token_ts": 102.5},
]  # fmt: skip
META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {"tensor_parallel_size": 2, "data_parallel_size": 2, "max_num_seqs": 128,
                      "max_num_batched_tokens": 2048, "dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3"},
}  # fmt: skip


def logged(folder, log=LOG, meta=META):
    (folder / "requests.jsonl").write_text("".join(json.dumps(each) + "\n" for each in log))
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_a_log_has_the_times_of_every_request(tmp_path):
    run = one(logged(tmp_path))
    assert run.engine == "vllm-v1" and run.label == "dp=2 tp=2" and run.tables is None
    assert run.axes["kv"] == "fp8" and run.settings.max_seqs == 128 and run.settings.token_budget == 2048
    assert run.trace.arrival_s.tolist() == [0.0, 1.0]
    assert run.request_s["ttft"].tolist() == [0.5, 1.0]
    assert run.request_s["scheduled"].tolist() == [0.0, 1.5]
    np.testing.assert_array_equal(run.request_s["tpot"], [0.5, math.nan])
    assert run.mean_s == pytest.approx({"ttft": 0.75, "tpot": 0.5, "e2e": 1.75, "itl": 0.5})
    (tmp_path / "profile").mkdir()
    assert one(tmp_path).tables == tmp_path / "profile"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first_token_ts": 1.0}, "requests.jsonl:1: first_token_ts"),
        ({"queued_ts": None}, "requests.jsonl:1: queued_ts"),
        ({"output_toks": 0}, "requests.jsonl:1: output_toks"),
        ({"input_toks": True}, "requests.jsonl:1: input_toks"),
    ],
)
def test_mistakes_in_a_log_are_one_line(tmp_path, change, words):
    assert words in fails(logged(tmp_path, [LOG[0] | change]))


def test_mistakes_beside_a_log_are_one_line(tmp_path):
    assert "engine_kwargs" in fails(logged(tmp_path, meta={"model": "gpt2"}))
    kwargs = META["engine_kwargs"] | {"max_num_seqs": 0}
    assert "engine_kwargs.max_num_seqs: 0" in fails(logged(tmp_path, meta=META | {"engine_kwargs": kwargs}))
    (tmp_path / "requests.jsonl").write_text("{]\n")
    assert "requests.jsonl:1: not a whole JSON object" in fails(tmp_path)
    (tmp_path / "meta.json").unlink()
    assert "meta.json" in fails(tmp_path)


# ---------------------------------------------------------------------------------- benchmark clients

BENCH = {
    "backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "request_rate": 2.0, "burstiness": 1.0,
    "max_concurrency": None, "input_lens": [10, 20, 30], "output_lens": [3, 1, 0], "ttfts": [0.5, 0.25, 0.0],
    "itls": [[0.1, 0.3], [], []], "start_times": [50.0, 49.0, 51.0], "errors": ["", "", "refused"],
}  # fmt: skip
TOLD = Told(device="h100", axes={"attn_tp": 1})


def bench(folder, name="result.json", **changes):
    path = folder / name
    record = {key: value for key, value in (BENCH | changes).items() if value is not ...}
    path.write_text(json.dumps(record, indent=1))
    return path


def test_vllm_bench_serve_is_read(tmp_path):
    run = one(bench(tmp_path), TOLD)
    assert run.engine == "vllm-v1" and run.label == "tp=1" and run.group == "requests 2.0/s"
    assert run.trace.arrival_s.tolist() == [0.0, 1.0] and run.trace.prompt_tokens.tolist() == [20, 10]
    assert run.request_s["e2e"] == pytest.approx([0.25, 0.9])
    assert run.mean_s == pytest.approx({"ttft": 0.375, "tpot": 0.2, "itl": 0.2, "e2e": 0.575})
    assert any("client" in note for note in run.notes) and not any("drawn" in note for note in run.notes)


def test_a_plan_in_the_metadata_counts_unless_the_user_says_otherwise(tmp_path):
    path = bench(tmp_path, plan="tp=4,seqs=64")
    assert one(path, H100).label == "tp=4"
    assert one(path, Told(device="h100", axes={"attn_tp": 2})).label == "tp=2"
    assert "--plan" in fails(bench(tmp_path), H100)


def test_arrivals_are_drawn_where_there_are_none_and_it_is_said(tmp_path):
    path = bench(tmp_path, start_times=...)
    first, again, other = (
        one(path, Told(device="h100", axes={"attn_tp": 1}, seed=seed)) for seed in (3, 3, 4)
    )
    assert first.trace.arrival_s.tolist() == again.trace.arrival_s.tolist() != other.trace.arrival_s.tolist()
    assert any("drawn at 2.0/s with seed 3" in note for note in first.notes)
    assert "start_times" in fails(bench(tmp_path, start_times=..., request_rate=...), TOLD)


def test_drawn_arrivals_keep_the_rate(tmp_path):
    n = 4000
    path = bench(tmp_path, start_times=..., input_lens=[9] * n, output_lens=[2] * n, ttfts=[0.1] * n,
                 itls=[[0.1]] * n, errors=[""] * n)  # fmt: skip
    assert one(path, TOLD).trace.rate_per_s == pytest.approx(2.0, rel=0.05)


def test_a_closed_loop_follows_from_what_is_known(tmp_path):
    path = bench(tmp_path, start_times=..., request_rate="inf", max_concurrency=2, input_lens=[1, 1, 1, 1],
                 output_lens=[1, 1, 1, 1], ttfts=[3.0, 1.0, 1.0, 1.0], itls=[[], [], [], []],
                 errors=[""] * 4)  # fmt: skip
    assert one(path, TOLD).trace.arrival_s.tolist() == [0.0, 0.0, 1.0, 2.0]


def test_sglang_writes_an_object_a_line(tmp_path):
    record = {key: value for key, value in BENCH.items() if key not in ("model_id", "start_times")}
    path = tmp_path / "online.jsonl"
    line = json.dumps(record | {"backend": "sglang", "request_rate": math.inf}) + "\n"
    path.write_text(line * 2)
    told = Told(device="h100", model="llama-3.1-8b", axes={"attn_tp": 1})
    first, second = read_runs([path], told)
    assert (first.name, second.name) == ("online 1", "online 2")
    assert first.settings.policy == "vllm-v0" and first.engine == "vllm-v1"
    assert any("no profile of sglang" in note for note in first.notes)
    assert first.trace.arrival_s.tolist() == [0.0, 0.0] and "at once" in first.group
    assert "--model" in fails(path, TOLD)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_lens": ...}, "--save-detailed"),
        ({"ttfts": [0.1]}, "same length"),
        ({"ttfts": [0.1, "x", 0.1]}, "ttfts[1] 'x'"),
        ({"itls": [[0.1], 3, []]}, "itls[1]"),
        ({"output_lens": [1.5, 1, 1]}, "output_lens[0]"),
        ({"output_lens": [0, 0, 0]}, "no request that produced"),
        ({"plan": "tq=3"}, "plan: Unknown axis 'tq'"),
    ],
)
def test_mistakes_in_results_are_one_line(tmp_path, changes, words):
    assert words in fails(bench(tmp_path, **changes), TOLD)


def test_results_cut_short_are_one_line(tmp_path):
    path = bench(tmp_path)
    path.write_text(path.read_text()[:-20])
    assert "not a whole JSON object" in fails(path, TOLD)
    path.write_text("[1]")
    assert "expected the JSON object" in fails(path, TOLD)


# -------------------------------------------------------------------------------- counters of a server

METRICS = """# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="gpt2"} 0.0
vllm:time_to_first_token_seconds_count{model_name="gpt2"} 2.0
vllm:time_to_first_token_seconds_sum{model_name="gpt2"} 0.5
vllm:time_per_output_token_seconds_count{model_name="gpt2"} 8.0
vllm:time_per_output_token_seconds_sum{model_name="gpt2"} 0.4
vllm:e2e_request_latency_seconds_count{engine="0",model_name="gpt2"} 1.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="gpt2"} 2.0
vllm:e2e_request_latency_seconds_count{engine="1",model_name="gpt2"} 1.0
vllm:e2e_request_latency_seconds_sum{engine="1",model_name="gpt2"} 4.0
"""


def test_a_dump_of_counters_gives_means(tmp_path):
    path, trace = tmp_path / "metrics.txt", tmp_path / "sent.csv"
    path.write_text(METRICS)
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n4,10,5\n5,10,5\n6,1,1\n")
    told = Told(device="h100", axes={"attn_tp": 1}, trace=trace)
    run = one(path, told)
    assert run.mean_s == pytest.approx({"ttft": 0.25, "itl": 0.05, "e2e": 3.0})
    assert run.model == "gpt2" and run.trace.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert any("counts 2 requests, the trace has 3" in note for note in run.notes)
    assert "--trace" in fails(path, TOLD)
    assert "--plan" in fails(path, Told(device="h100", trace=trace))
    path.write_text(METRICS.replace('engine="1",model_name="gpt2"', 'model_name="other"'))
    assert "gpt2 and other" in fails(path, told)
    path.write_text("vllm:e2e_request_latency_seconds_count 0\nvllm:e2e_request_latency_seconds_sum 0\n")
    assert "no request was counted" in fails(path, told)


# --------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "llama-3.1-8b"),
        ("/data/models/Qwen2.5-7B-Instruct-AWQ/", "qwen2.5-7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
    ],
)
def test_names_as_people_write_them_find_our_model(written, ours):
    assert model_of(written).name == ours


def test_a_format_in_the_name_is_the_weights(tmp_path):
    run = one(bench(tmp_path, model_id="neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8"), TOLD)
    assert run.axes["weights"] == run.axes["activations"] == "fp8"
