"""Models against published totals, exact totals, hand-listed tensors, and broken files."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import huggingface
from profiles.architectures import ARCHITECTURES
from profiles.errors import InputError
from profiles.huggingface import FACTS, known_models, load_model
from profiles.model import Attention, Block, FeedForward, Model, MoE, Stack

ROOT = Path(__file__).parents[2]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}

# name, parameters in 1e9 as published, where
PUBLISHED = [
    ("gpt2", 0.124, "release of GPT-2, names of its models"),
    ("gpt2-medium", 0.355, "release of GPT-2, names of its models"),
    ("gpt2-large", 0.774, "release of GPT-2, names of its models"),
    ("gpt2-xl", 1.558, "release of GPT-2, names of its models"),
    ("gpt-j-6b", 6.053381344, "model card of EleutherAI/gpt-j-6b"),
    ("gpt-neox-20b", 20.55456768, "model card of EleutherAI/gpt-neox-20b"),
    ("starcoder-15.5b", 15.5, "arXiv:2305.06161"),
    ("opt-125m", 0.125, "arXiv:2205.01068"),
    ("opt-6.7b", 6.7, "arXiv:2205.01068"),
    ("opt-30b", 30, "arXiv:2205.01068"),
    ("opt-66b", 66, "arXiv:2205.01068"),
    ("opt-175b", 175, "arXiv:2205.01068"),
    ("bloom-7b1", 7.069016064, "model card of bigscience/bloom-7b1"),
    ("bloom-176b", 176.247271424, "model card of bigscience/bloom"),
    ("llama-7b", 6.7, "arXiv:2302.13971, table 2"),
    ("llama-13b", 13.0, "arXiv:2302.13971, table 2"),
    ("llama-30b", 32.5, "arXiv:2302.13971, table 2"),
    ("llama-65b", 65.2, "arXiv:2302.13971, table 2"),
    ("llama-2-70b", 69, "model card of meta-llama/Llama-2-70b-hf, safetensors"),
    ("llama-3.1-8b", 8.03, "model card of meta-llama/Llama-3.1-8B, safetensors"),
    ("llama-3.1-70b", 70.6, "model card of meta-llama/Llama-3.1-70B, safetensors"),
    ("llama-3.1-405b", 405, "arXiv:2407.21783"),
    ("llama-3.2-1b", 1.23, "model card of meta-llama/Llama-3.2-1B"),
    ("llama-3.2-3b", 3.21, "model card of meta-llama/Llama-3.2-3B"),
    ("mistral-7b", 7.24, "model card of mistralai/Mistral-7B-v0.1, safetensors"),
    ("mistral-large-123b", 123, "announcement of Mistral Large 2"),
    ("mixtral-8x7b", 46.7, "announcement of Mixtral 8x7B"),
    ("mixtral-8x22b", 141, "announcement of Mixtral 8x22B"),
    ("qwen2.5-0.5b", 0.49, "model card of Qwen/Qwen2.5-0.5B"),
    ("qwen2.5-7b", 7.61, "model card of Qwen/Qwen2.5-7B"),
    ("qwen2.5-14b", 14.7, "model card of Qwen/Qwen2.5-14B"),
    ("qwen2.5-32b", 32.5, "model card of Qwen/Qwen2.5-32B"),
    ("qwen2.5-72b", 72.7, "model card of Qwen/Qwen2.5-72B"),
    ("qwen3-0.6b", 0.6, "model card of Qwen/Qwen3-0.6B"),
    ("qwen3-4b", 4.0, "model card of Qwen/Qwen3-4B"),
    ("qwen3-8b", 8.2, "model card of Qwen/Qwen3-8B"),
    ("qwen3-14b", 14.8, "model card of Qwen/Qwen3-14B"),
    ("qwen3-32b", 32.8, "model card of Qwen/Qwen3-32B"),
    ("qwen3-30b-a3b", 30.5, "model card of Qwen/Qwen3-30B-A3B"),
    ("qwen3-235b-a22b", 235, "model card of Qwen/Qwen3-235B-A22B"),
    ("deepseek-v2-lite", 15.7, "arXiv:2405.04434"),
    ("deepseek-v2", 236, "arXiv:2405.04434"),
    ("deepseek-v3", 671, "arXiv:2412.19437"),
    ("gpt-oss-20b", 20.91, "arXiv:2508.10925, table 1"),
    ("gpt-oss-120b", 116.83, "arXiv:2508.10925, table 1"),
    ("gemma-2-2b", 0.590 + 2.024, "arXiv:2408.00118, table 2"),
    ("gemma-2-9b", 0.918 + 8.324, "arXiv:2408.00118, table 2"),
    ("gemma-2-27b", 1.180 + 26.047, "arXiv:2408.00118, table 2"),
    ("gemma-3-1b", 0.302 + 0.698, "arXiv:2503.19786, table 1"),
    ("gemma-3-4b", 0.675 + 3.209 + 0.417, "arXiv:2503.19786, table 1"),
    ("gemma-3-12b", 1.012 + 10.759 + 0.417, "arXiv:2503.19786, table 1"),
    ("gemma-3-27b", 1.416 + 25.600 + 0.417, "arXiv:2503.19786, table 1"),
    ("phi-3-mini", 3.8, "arXiv:2404.14219"),
    ("phi-3-medium", 14, "arXiv:2404.14219"),
    ("minimax-m2", 230, "model card of MiniMaxAI/MiniMax-M2"),
    ("flan-t5-base", 0.248, "model card of google/flan-t5-base, safetensors"),
    ("whisper-large-v3", 1.550, "table of models of openai/whisper"),
    ("whisper-large-v3-turbo", 0.809, "table of models of openai/whisper"),
    ("clip-vit-l-14", 0.30397 - 0.00079, "table of models of open_clip, without the projection"),
    ("clip-vit-b-32", 0.08785 - 0.00039, "table of models of open_clip, without the projection"),
]

# name, number of elements of all parameters (and of the router's correction bias, a buffer) of the module
# that transformers 5.23 builds on torch's meta device from the same fields
EXACT = {
    "bloom-176b": 176247271424,
    "bloom-7b1": 7069016064,
    "clip-vit-b-32": 87456000,
    "clip-vit-l-14": 303179776,
    "deepseek-v2": 235741434880,
    "deepseek-v2-lite": 15706484224,
    "deepseek-v3": 671026404352 + 58 * 256,
    "gemma-2-2b": 2614341888,
    "gemma-2-9b": 9241705984,
    "gemma-2-27b": 27227128320,
    "gemma-3-1b": 999885952,
    "gemma-3-4b": 3880263168 + 419816304,
    "gemma-3-12b": 11766034176 + 421290864,
    "gemma-3-27b": 27009346304 + 423060336,
    "gpt-j-6b": 6050882784,
    "gpt-neox-20b": 20554567680,
    "gpt-oss-20b": 20914757184,
    "gpt-oss-120b": 116829156672,
    "gpt2": 124439808,
    "gpt2-xl": 1557611200,
    "kimi-k2": 1026408209408 + 60 * 384,
    "llama-2-7b": 6738415616,
    "llama-3.1-8b": 8030261248,
    "llama-3.1-70b": 70553706496,
    "llama-3.1-405b": 405853388800,
    "llama-3.2-1b": 1235814400,
    "llama-4-scout": 107769861120 + 871932416,
    "minimax-m2": 228689748992 + 62 * 256,
    "mistral-7b": 7241732096,
    "mistral-large-123b": 122610069504,
    "mixtral-8x7b": 46702792704,
    "mixtral-8x22b": 140620634112,
    "opt-125m": 125239296,
    "opt-350m": 331196416,
    "opt-30b": 29974540288,
    "opt-175b": 174604468224,
    "phi-3-mini": 3821079552,
    "phi-3-medium": 13960238080,
    "qwen2.5-0.5b": 494032768,
    "qwen2.5-72b": 72706203648,
    "qwen3-0.6b": 596049920,
    "qwen3-32b": 32762123264,
    "qwen3-30b-a3b": 30532122624,
    "qwen3-235b-a22b": 235093634560,
    "starcoder-15.5b": 15517456384,
    "t5-11b": 11307321344,
    "flan-t5-base": 247577856,  # transformers 4: version 5 ties its LM head against its configuration
    "whisper-large-v3": 1543490560,
}

# name, active parameters in 1e9 as published, whether the embedding is part of them, where
ACTIVE = [
    ("mixtral-8x7b", 12.9, True, "announcement of Mixtral 8x7B"),
    ("mixtral-8x22b", 39, True, "announcement of Mixtral 8x22B"),
    ("deepseek-v2", 21, True, "arXiv:2405.04434"),
    ("deepseek-v3", 37, True, "arXiv:2412.19437"),
    ("kimi-k2", 32.6, True, "arXiv:2507.20534, table 2"),
    ("qwen3-30b-a3b", 3.3, True, "model card of Qwen/Qwen3-30B-A3B"),
    ("qwen3-235b-a22b", 22, True, "model card of Qwen/Qwen3-235B-A22B"),
    ("gpt-oss-20b", 3.61, False, "arXiv:2508.10925, table 1"),
    ("gpt-oss-120b", 5.13, False, "arXiv:2508.10925, table 1"),
    ("llama-4-scout", 17, True, "model card of meta-llama/Llama-4-Scout-17B-16E"),
]

# name, bytes of bf16 KV per token, where
KV = [
    ("deepseek-v3", 70_272, "arXiv:2505.09343, table 1"),
    ("qwen2.5-72b", 327_680, "arXiv:2505.09343, table 1"),
    ("llama-3.1-405b", 516_096, "arXiv:2505.09343, table 1"),
    ("opt-13b", 800 * 1024, "arXiv:2309.06180, section 1"),
    ("gpt2", 2 * 2 * 12 * 768, "2 bytes of K and V in 12 layers 768 wide"),
    ("gpt-j-6b", 2 * 2 * 28 * 4096, "as above, 28 x 4096"),
    ("gpt-neox-20b", 2 * 2 * 44 * 6144, "as above, 44 x 6144"),
    ("starcoder-15.5b", 2 * 2 * 40 * 128, "one head of 128 in 40 layers"),
    ("bloom-176b", 2 * 2 * 70 * 14336, "as above, 70 x 14336"),
    ("llama-7b", 2 * 2 * 32 * 4096, "as above, 32 x 4096"),
    ("llama-3.1-8b", 2 * 2 * 32 * 8 * 128, "8 heads of 128 in 32 layers"),
    ("llama-3.1-70b", 2 * 2 * 80 * 8 * 128, "8 heads of 128 in 80 layers"),
    ("mistral-7b", 2 * 2 * 32 * 8 * 128, "8 heads of 128 in 32 layers"),
    ("mixtral-8x22b", 2 * 2 * 56 * 8 * 128, "8 heads of 128 in 56 layers"),
    ("qwen3-30b-a3b", 2 * 2 * 48 * 4 * 128, "4 heads of 128 in 48 layers"),
    ("gpt-oss-120b", 2 * 2 * 36 * 8 * 64, "8 heads of 64 in 36 layers"),
    ("gemma-2-9b", 2 * 2 * 42 * 8 * 256, "8 heads of 256 in 42 layers"),
    ("gemma-3-27b", 2 * 2 * 62 * 16 * 128, "16 heads of 128 in 62 layers"),
    ("phi-3-medium", 2 * 2 * 40 * 10 * 128, "10 heads of 128 in 40 layers"),
    ("flan-t5-xxl", 2 * 2 * 24 * 64 * 64, "64 heads of 64 in 24 decoder layers"),
    ("whisper-large-v3", 2 * 2 * 32 * 1280, "32 decoder layers 1280 wide"),
    ("clip-vit-l-14", 0, "an encoder caches nothing"),
]


def read(tmp_path, config, quant=None):
    """The model of a configuration written to a directory of its own."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    if quant:
        (tmp_path / "hf_quant_config.json").write_text(json.dumps(quant))
    return load_model(str(tmp_path))


@pytest.mark.parametrize(("name", "billions", "source"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_parameters_are_the_published_ones_within_1_percent(name, billions, source):
    assert load_model(name).parameters() == pytest.approx(billions * 1e9, rel=0.01), source


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_those_of_the_reference_implementation_exactly(name):
    assert load_model(name).parameters() == EXACT[name]


@pytest.mark.parametrize(("name", "billions", "embedding", "source"), ACTIVE, ids=[row[0] for row in ACTIVE])
def test_active_parameters_are_the_published_ones_within_3_percent(name, billions, embedding, source):
    model = load_model(name)
    active = model.active_parameters() - (0 if embedding else model.embedding_parameters)
    assert active == pytest.approx(billions * 1e9, rel=0.03), source


@pytest.mark.parametrize(("name", "kv_bytes", "source"), KV, ids=[row[0] for row in KV])
def test_kv_bytes_per_token(name, kv_bytes, source):
    model = load_model(name)
    assert model.kv_bytes_per_token() == kv_bytes, source
    assert model.kv_bytes_per_token("fp8") == kv_bytes / 2


def test_the_trillion_parameter_model_is_one_and_costs_no_more_to_plan():
    model = load_model("dense-1t")
    assert 1e12 < model.parameters() < 1.1e12
    assert len(model.decoder.blocks) == 1
    assert model.active_parameters() == model.parameters()


def rms_tensors(c):
    """Tensor shapes of a Llama-like decoder, written down one by one."""
    h, dim, kv = c["hidden_size"], c["head_dim"], c["num_key_value_heads"]
    shapes = [(c["vocab_size"], h), (h,)]
    if not c["tie_word_embeddings"]:
        shapes.append((c["vocab_size"], h))
    for _ in range(c["num_hidden_layers"]):
        q = c["num_attention_heads"] * dim
        shapes += [(q, h), (kv * dim, h), (kv * dim, h), (h, q), (h,), (h,)]
        if c["architectures"] == ["Qwen3MoeForCausalLM"]:
            shapes += [(dim,), (dim,), (c["num_experts"], h)]
            shapes += [(c["moe_intermediate_size"], h)] * 3 * c["num_experts"]
        else:
            shapes += [(c["intermediate_size"], h)] * 3
            if c["attention_bias"]:
                shapes += [(q,), (kv * dim,), (kv * dim,), (h,)]
            if c["mlp_bias"]:
                shapes += [(c["intermediate_size"],)] * 2 + [(h,)]
    return shapes


@st.composite
def decoders(draw):
    kv = draw(st.integers(1, 4))
    experts = draw(st.integers(1, 6))
    size = st.integers(1, 40)
    return {
        "architectures": [draw(st.sampled_from(["LlamaForCausalLM", "Qwen3MoeForCausalLM"]))],
        "hidden_size": draw(size),
        "num_hidden_layers": draw(st.integers(1, 5)),
        "num_attention_heads": kv * draw(st.integers(1, 4)),
        "num_key_value_heads": kv,
        "head_dim": draw(size),
        "intermediate_size": draw(size),
        "vocab_size": draw(size),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": False,
        "mlp_bias": draw(st.booleans()),
        "num_experts": experts,
        "num_experts_per_tok": draw(st.integers(1, experts)),
        "moe_intermediate_size": draw(size),
    }


@settings(deadline=None, max_examples=80, derandomize=True)
@given(config=decoders())
def test_parameters_equal_the_sum_over_listed_tensors(tmp_path_factory, config):
    model = read(tmp_path_factory.mktemp("m"), config)
    assert model.parameters() == sum(math.prod(shape) for shape in rms_tensors(config))


@pytest.mark.parametrize("record", known_models(), ids=lambda record: record.name)
def test_laws_of_every_model_that_is_listed(record):
    model = load_model(record.name)
    assert 0 < model.active_parameters() <= model.parameters() == record.parameters
    moe = any(isinstance(block.ffn, MoE) for block in model.decoder.blocks)
    assert (model.active_parameters() < model.parameters() - model.tower_parameters) == moe
    assert record.source and record.max_positions >= 1
    assert len(model.decoder.blocks) <= 4  # layers that are alike share one block
    assert record.kv_bytes_per_token == model.kv_bytes_per_token()
    assert (model.kind == "encoder") == (model.kv_bytes_per_token() == 0)
    assert (model.kind == "encoder-decoder") == (model.cross_kv_bytes_per_token() > 0)


def test_each_fact_loads_under_each_of_its_names_and_no_two_share_one():
    seen = {}
    for path in FACTS.glob("*.json"):
        fields = json.loads(path.read_text())
        for name in {path.stem, *fields["names"]}:
            assert seen.setdefault(name.lower(), path) == path
            assert load_model(name.upper()).name == path.stem


@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="the silicon extra is not installed")
def test_shipped_configurations_are_read_without_importing_their_package():
    model = load_model("qwen/QWEN3-32b-fp8")
    assert (model.name, model.weight_format) == ("Qwen/Qwen3-32B-FP8", "fp8")
    assert load_model("qwen3-coder-480b-a35b-instruct").parameters() == pytest.approx(480e9, rel=0.01)
    script = "import sys; from profiles.huggingface import known_models; known_models(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {"aiconfigurator_core", "numpy", "pandas"}.isdisjoint(loaded.stdout.split())
    for name, tower in (
        ("Qwen/Qwen3-VL-8B-Instruct", 576388336),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 538631408),
    ):
        assert load_model(name).tower_parameters == tower, "transformers 5.23"
    assert "vision left out" in load_model("moonshotai/Kimi-K2.5").source
    listed = {record.name for record in known_models()}
    assert "nvidia/Nemotron-H-56B-Base-8K" not in listed and "Qwen/Qwen3.5-27B" not in listed


def test_fewer_names_without_the_extra(monkeypatch):
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    huggingface._names.cache_clear()
    try:
        assert {record.name for record in known_models()} == {path.stem for path in FACTS.glob("*.json")}
    finally:
        huggingface._names.cache_clear()


def windows(name):
    model = load_model(name)
    return [model.decoder.blocks[i].attention[0].window for i in model.decoder.layers]


def test_layers_keep_their_order():
    assert windows("gemma-2-9b") == [4096, 0] * 21
    assert windows("gemma-3-27b") == ([1024] * 5 + [0]) * 10 + [1024, 1024]
    assert windows("gpt-oss-20b") == [128, 0] * 12
    assert windows("mistral-7b") == [4096] * 32
    assert windows("mistral-7b-v0.3") == [0] * 32
    assert windows("llama-4-scout") == [8192, 8192, 8192, 0] * 12
    v3 = load_model("deepseek-v3").decoder
    assert [isinstance(v3.blocks[i].ffn, MoE) for i in v3.layers] == [False] * 3 + [True] * 58


def test_encoders_see_what_the_configuration_fixes():
    whisper, clip, t5 = map(load_model, ("whisper-large-v3", "clip-vit-l-14", "flan-t5-xxl"))
    assert (whisper.kind, whisper.encoder_tokens, whisper.max_positions) == ("encoder-decoder", 1500, 448)
    assert (clip.kind, clip.encoder_tokens) == ("encoder", 16 * 16 + 1)
    assert (t5.kind, t5.encoder_tokens) == ("encoder-decoder", 0)
    own, cross = t5.decoder.blocks[0].attention
    assert own.causal and cross.cross and not cross.causal
    assert not t5.encoder.blocks[0].attention[0].causal
    assert t5.cross_kv_bytes_per_token() == t5.kv_bytes_per_token()


def test_defaults_of_families_differ(tmp_path):
    assert not read(tmp_path, LLAMA).tied
    gemma = read(tmp_path, {**LLAMA, "architectures": ["Gemma2ForCausalLM"]})
    assert gemma.tied and gemma.decoder.blocks[0].attention[0].head_dim == 256
    qwen = read(tmp_path, {**LLAMA, "architectures": ["Qwen3ForCausalLM"]})
    assert qwen.decoder.blocks[0].attention[0].head_dim == 128
    without = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert read(tmp_path, without).decoder.blocks[0].attention[0].kv_heads == 4
    mistral = {**without, "architectures": ["MistralForCausalLM"], "num_attention_heads": 8}
    cell = read(tmp_path, mistral).decoder.blocks[0].attention[0]
    assert (cell.kv_heads, cell.window) == (8, 4096)
    null = {**mistral, "num_attention_heads": 4, "num_key_value_heads": None, "sliding_window": None}
    cell = read(tmp_path, null).decoder.blocks[0].attention[0]
    assert (cell.kv_heads, cell.window) == (4, 0)


def test_gemma_3_as_published_with_most_fields_left_out(tmp_path):
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    model = read(tmp_path, {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    assert model.parameters() == EXACT["gemma-3-4b"] - 419816304
    assert "vision left out" in model.source


def test_qwen_windows_its_last_layers_only_when_asked(tmp_path):
    fields = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "max_window_layers": 1}
    assert len(read(tmp_path, fields).decoder.blocks) == 1
    model = read(tmp_path, {**fields, "use_sliding_window": True})
    assert [model.decoder.blocks[i].attention[0].window for i in model.decoder.layers] == [0, 8]


FP8_GROUPS = {"a": {"weights": {"num_bits": 8, "type": "float"}}}
INT4_GROUPS = {"a": {"weights": {"num_bits": 4, "type": "int"}}}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": FP8_GROUPS}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": INT4_GROUPS}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_algo": "FP8"}, "fp8"),
        (None, "bf16"),
    ],
)
def test_weight_format_of_quantized_checkpoints(tmp_path, quantization, expected):
    model = read(tmp_path, {**LLAMA, "quantization_config": quantization, "torch_dtype": "float32"})
    assert model.weight_format == expected
    beside = read(tmp_path, LLAMA, quant={"quantization": {"quant_algo": "W4A16_AWQ"}})
    assert beside.weight_format == "int4"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["FooForCausalLM"]}, ["architectures[0]='FooForCausalLM'", "LlamaForCausalLM"]),
        ({"architectures": ["NemotronHForCausalLM"]}, ["NemotronHForCausalLM", "known: "]),
        ({"architectures": None}, ["architectures=null"]),
        ({"architectures": "LlamaForCausalLM"}, ["architectures="]),
        ({"hidden_size": "4096"}, ['hidden_size="4096"', "positive integer"]),
        ({"hidden_size": 4096.5}, ["hidden_size=4096.5"]),
        ({"hidden_size": True}, ["hidden_size=true"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers=0"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers=1000000000", "at most"]),
        ({"vocab_size": 10**40}, ["vocab_size=1"]),
        ({"vocab_size": None}, ["'vocab_size' is missing"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads=3", "divisor"]),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, ["num_attention_heads=5", "hidden_size=64"]),
        ({"tie_word_embeddings": "yes"}, ['tie_word_embeddings="yes"', "true or false"]),
        ({"quantization_config": {"quant_method": "magic"}}, ['quant_method="magic"', "awq"]),
        ({"quantization_config": {"quant_method": "awq", "bits": 3}}, ["bits=3", "4 or 8"]),
        ({"quantization_config": {"quant_algo": "MIXED_PRECISION"}}, ["MIXED_PRECISION"]),
        ({"quantization_config": []}, ["quantization_config=[]", "object"]),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, change, words):
    with pytest.raises(InputError) as error:
        read(tmp_path, {**LLAMA, **change})
    message = str(error.value)
    assert "\n" not in message and "config.json" in message
    assert all(word in message for word in words), message


def test_a_misspelt_field_is_recognized(tmp_path):
    config = {**LLAMA, "hidden_sizes": 64}
    del config["hidden_size"]
    with pytest.raises(InputError, match=r"'hidden_size' is missing.*did you mean 'hidden_sizes'"):
        read(tmp_path, config)


def test_linear_attention_layers_are_refused(tmp_path):
    config = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}
    with pytest.raises(InputError, match="layer_types has 'linear_attention'"):
        read(tmp_path, {**config, "layer_types": ["linear_attention", "full_attention"]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "config.json:1: expected JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[1]", "JSON object"),
        (b"", "expected JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "expected JSON"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, words):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_model(str(tmp_path / "config.json"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_names_that_nothing_has(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'llama-3.1-70b'"):
        load_model("llama-3.1-70")
    with pytest.raises(InputError, match="zenith models"):
        load_model("zzzzzz")
    with pytest.raises(InputError, match=r"has no config.json"):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        load_model(str(tmp_path / "other.json"))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.just(10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(0, 9), st.just("full_attention")), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
FACT_PATHS = sorted(FACTS.glob("*.json"))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_a_damaged_configuration_gives_a_model_or_one_line(tmp_path_factory, data):
    fields = json.loads(data.draw(st.sampled_from(FACT_PATHS)).read_text())
    part = fields.get("text_config") or fields.get("vision_config") or fields
    extra = ["layer_types", "quantization_config", "no_rope_layers", "mlp_only_layers", "head_dim"]
    for name in data.draw(st.lists(st.sampled_from([*part, *extra]), max_size=3)):
        if data.draw(st.booleans()):
            part.pop(name, None)
        else:
            part[name] = data.draw(JUNK)
    try:
        model = read(tmp_path_factory.mktemp("m"), fields)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert 0 < model.active_parameters() <= model.parameters()


def test_every_architecture_has_a_fact_or_a_sibling_that_has():
    facts = {json.loads(path.read_text())["architectures"][0] for path in FACT_PATHS}
    builders = {ARCHITECTURES[name].build for name in facts}
    untested = {name for name, family in ARCHITECTURES.items() if family.build not in builders}
    assert untested == {"GemmaForCausalLM", "Qwen2MoeForCausalLM"}


def test_families_without_a_fact(tmp_path):
    gemma = {  # google/gemma-7b: 8.54e9 by its model card
        "architectures": ["GemmaForCausalLM"],
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "intermediate_size": 24576,
        "vocab_size": 256000,
    }
    assert read(tmp_path, gemma).parameters() == 8537680896
    qwen = {  # Qwen/Qwen1.5-MoE-A2.7B: 14.3e9, of which 2.7e9 active, by its model card
        "architectures": ["Qwen2MoeForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "vocab_size": 151936,
    }
    model = read(tmp_path, qwen)
    assert model.parameters() == 14315784192
    assert model.active_parameters() == pytest.approx(2.7e9, rel=0.03)


CELL = Attention(q_heads=4, kv_heads=2, head_dim=8, value_dim=8)
BLOCK = Block(attention=(CELL,), ffn=FeedForward(inner=8, gated=True), norm_parameters=64)


def test_a_stack_stores_equal_layers_once_and_counts_them_all():
    other = replace(BLOCK, norm_parameters=65)
    stack = Stack.of(32, [BLOCK, other, replace(BLOCK)], 7)
    assert (stack.blocks, stack.layers) == ((BLOCK, other), (0, 1, 0))
    assert stack.parameters() == 2 * BLOCK.parameters(32) + other.parameters(32) + 7


@pytest.mark.parametrize(
    "build",
    [
        lambda: replace(CELL, kv_heads=3),
        lambda: replace(CELL, head_dim=0),
        lambda: replace(CELL, kv_rank=4, rope_dim=8),
        lambda: MoE(experts=4, top_k=5, inner=8, gated=True),
        lambda: Stack(hidden=8, blocks=(BLOCK,), layers=()),
        lambda: Stack(hidden=8, blocks=(BLOCK,), layers=(0, 1)),
        lambda: replace(load_model("gpt2"), weight_format="fp17"),
        lambda: replace(load_model("gpt2"), vocab=0),
    ],
)
def test_a_model_that_cannot_be_is_not_built(build):
    with pytest.raises(ValueError):
        build()


def test_model_is_a_value():
    assert load_model("gpt2") == load_model("openai-community/gpt2")
    assert isinstance(hash(load_model("gpt2")), int)
    assert isinstance(load_model("gpt2"), Model)
