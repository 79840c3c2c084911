"""Which engine can run a plan today, and why not.

Rules, with the place where each engine states them (vLLM 0.11 and later, SGLang 0.5, TensorRT-LLM 1.x):

================  ============================  ===========================  ============================
                  vLLM                          SGLang                       TensorRT-LLM
================  ============================  ===========================  ============================
dense model       attention and feed-forward    as vLLM                      as vLLM
                  cut alike (tp)
MoE, one rank     experts cut by tp, or whole   any tp x ep of the group     any tp x ep of the group
                  experts over all devices
MoE, dp           experts over all ranks,       any tp x ep of all ranks     attention tp must be 1
attention         cut or whole
replicated        no                            no                           no
feed-forward
prompt batching   chunked, mixed                chunked, mixed; prompts      chunked, mixed; whole
                                                first (default)              prompts, mixed
formats W/A       bf16, fp32, fp8/fp8,          as vLLM, and int4/int8,      bf16, fp8/fp8, int4/bf16,
                  fp8/bf16, int8/int8,          int4/fp8                     int4/fp8, fp4/fp4,
                  int8/bf16, int4/bf16,                                      mxfp4/bf16, mxfp4/fp8
                  fp4/fp4, fp4/bf16,
                  mxfp4/bf16, mxfp4/fp8
KV                bf16, fp8                     bf16, fp8                    bf16, fp8
devices           NVIDIA from V100, AMD         NVIDIA from Turing, AMD      NVIDIA from Ampere
layers per stage  VLLM_PP_LAYER_PARTITION       SGLANG_PP_LAYER_PARTITION    first stages hold the rest
KV blocks         multiples of 16 tokens        chunks of whole blocks       powers of two, from 2 on
================  ============================  ===========================  ============================

Sources. vLLM: ``serving/expert_parallel_deployment`` and ``serving/data_parallel_deployment`` of its
documentation (``--enable-expert-parallel`` makes EP = TP x DP; without it the experts of all DP ranks form
one tensor parallel group, ``FusedMoEParallelConfig.make``), ``features/quantization``. SGLang:
``advanced_features/dp_dpa_smg_guide`` and ``server_arguments`` (``--attn-dp-size``, ``tp_size %
attn_dp_size == 0``, ``moe_tp = tp / ep``), ``--enable-mixed-chunk``. TensorRT-LLM:
``features/parallel-strategy`` (``moe_tensor_parallel_size x moe_expert_parallel_size ==
tensor_parallel_size``; ``enable_attention_dp`` replicates attention weights on every device),
``features/quantization`` (PyTorch backend), ``features/paged-attention-ifb-scheduler``,
``models/supported-models``, support matrix. On devices that multiply in fp8, fp8 weights come with fp8
activations in all three; weights alone in fp8 (Marlin kernels) are for those that do not, from Turing on. So
it is with fp4 (NVFP4): both sides on Blackwell, weights alone (Marlin, from Ampere on) in vLLM and
SGLang (its pull request 19652) elsewhere. MXFP4 holds experts alone, beside fp8 activations only on Blackwell.
KV blocks: vLLM 0.33.0, ``get_supported_kernel_block_sizes`` of ``v1/attention/backends``; SGLang 0.5.23,
``arg_groups/validation_hook.py`` (``chunked_prefill_size % page_size == 0``); TensorRT-LLM, ``features/kvcache``.
Replicas of a model are separate processes behind a router in all three.
"""

from profiles.device import Device
from profiles.model import Model, MoE
from profiles.plan import Plan

ENGINES = ("vLLM", "SGLang", "TensorRT-LLM")

_ABSENT = {
    "vLLM": frozenset({"T5ForConditionalGeneration"}),
    "SGLang": frozenset(
        {"BloomForCausalLM", "GPTNeoXForCausalLM", "T5ForConditionalGeneration"},
    ),
}
"""Architectures without a file in ``vllm/model_executor/models`` or ``sglang/srt/models``."""

_TENSORRT_LLM = frozenset(
    {
        "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration", "GptOssForCausalLM", "KimiK25ForConditionalGeneration",
        "LlamaForCausalLM", "Llama4ForConditionalGeneration", "MiniMaxM2ForCausalLM", "MistralForCausalLM",
        "MixtralForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
    }
)  # fmt: skip
"""Of the families known here, those on its page of supported models."""

_FORMATS = {
    "vLLM": {
        ("bf16", "bf16"), ("fp32", "fp32"), ("fp8", "fp8"), ("fp8", "bf16"), ("int8", "int8"),
        ("int8", "bf16"), ("int4", "bf16"), ("fp4", "fp4"), ("fp4", "bf16"), ("mxfp4", "bf16"), ("mxfp4", "fp8"),
    },
    "TensorRT-LLM": {
        ("bf16", "bf16"), ("fp8", "fp8"), ("int4", "bf16"), ("int4", "fp8"), ("fp4", "fp4"), ("mxfp4", "bf16"),
        ("mxfp4", "fp8"),
    },
}  # fmt: skip
_FORMATS["SGLang"] = _FORMATS["vLLM"] | {("int4", "int8"), ("int4", "fp8")}

_WITHOUT = {"SGLang": ("v100",), "TensorRT-LLM": ("v100", "mi")}
"""Devices, by how their name begins, that an engine does not run on."""

_NOT_IN_FP16 = ("Gemma2", "Gemma3", "GptOss")
"""Architectures whose activations overflow fp16 (vLLM refuses it for Gemma), or whose MXFP4 kernels need
Ampere (gpt-oss)."""

_BLACKWELL = ("b200", "gb200", "rtx-pro-6000")
"""Compute capability 10 and up: "INT8 computation is not supported" (vLLM, ``features/quantization/int8``);
SGLang's int8 kernels end at Hopper."""

_CAPABILITY_10 = ("b200", "gb200")
_TRTLLM_MLA = ("DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration")
"""Of the families known here, those to which SGLang gives ``trtllm_mla`` on Blackwell
(``arg_groups/model_overrides/deepseek_v2.py``; its blocks: ``arg_groups/overrides.py``)."""

MIXED = {"vllm-v1", "sarathi"}
POLICIES = {
    "vLLM": MIXED,
    "SGLang": MIXED | {"vllm-v0"},
    "TensorRT-LLM": MIXED | {"orca"},
}


def deployable(plan: Plan, model: Model, device: Device) -> dict[str, str]:
    """The engines that run the plan, and the flags with which they do.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> from profiles.huggingface import load_model
    >>> plan = Plan(layers_per_stage=(32,), attn_dp=8, ffn_ep=8)
    >>> for engine, flags in deployable(plan, load_model("mixtral-8x7b"), load_device("h100")).items():
    ...     print(engine, flags)
    vLLM --data-parallel-size 8 --enable-expert-parallel
    SGLang --tp-size 8 --attn-dp-size 8 --ep-size 8
    TensorRT-LLM --tp_size 8 --ep_size 8 enable_attention_dp
    """
    return {engine: words for engine, (runs, words) in verdicts(plan, model, device).items() if runs}


def verdicts(plan: Plan, model: Model, device: Device) -> dict[str, tuple[bool, str]]:
    """For every engine whether it runs the plan: with its flags if so, with the reason if not.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> from profiles.huggingface import load_model
    >>> plan = Plan(layers_per_stage=(32,), ffn_dp=2, attn_tp=2)
    >>> verdicts(plan, load_model("llama-3.1-8b"), load_device("h100"))["vLLM"]
    (False, 'vLLM does not replicate the feed-forward inside a model replica')
    """
    flags = {"vLLM": _vllm_flags, "SGLang": _sglang_flags, "TensorRT-LLM": _tensorrt_flags}
    verdict = {}
    for engine in ENGINES:
        reason = (
            _common(engine, plan, model)
            or _hardware(engine, plan, model, device)
            or _layout(engine, plan, model)
            or _blocks(engine, plan, model, device)
        )
        verdict[engine] = (not reason, reason or flags[engine](plan))
    return verdict


def _common(engine: str, plan: Plan, model: Model) -> str:
    name = model.architecture
    if name in _ABSENT.get(engine, ()) or (engine == "TensorRT-LLM" and name not in _TENSORRT_LLM):
        return f"{engine} does not have {name}"
    if model.kind != "decoder" and plan.stages > 1:
        return f"{engine} does not run {model.kind} models in stages"
    if plan.engine.policy not in POLICIES[engine]:
        return f"{engine} does not batch as {plan.engine.policy}"
    if (plan.weight_format, plan.activation_format) not in _FORMATS[engine]:
        return f"{engine} has no {plan.weight_format} weights with {plan.activation_format} activations"
    if plan.weight_format == "mxfp4" and not any(isinstance(b.ffn, MoE) for b in model.decoder.blocks):
        return f"{engine} has mxfp4 for experts alone, {model.name} has none"
    if plan.kv_format not in ("bf16", "fp8") and plan.kv_format != plan.weight_format:
        return f"{engine} has no {plan.kv_format} KV cache"
    if plan.kv_format == "int8":
        return f"{engine} has no int8 KV cache"
    return ""


def _hardware(engine: str, plan: Plan, model: Model, device: Device) -> str:
    if device.name.startswith(_WITHOUT.get(engine, ())):
        return f"{engine} does not run on {device.name}"
    for name in ("fp8", "int8", "fp4"):
        if plan.activation_format == name and name not in device.dense_flops:
            return f"{device.name} does not multiply in {name}"
    if plan.weight_format == "fp4" and device.name.startswith(("v100", "mi")):
        return f"{engine} has no fp4 kernels for {device.name}"
    if plan.weight_format == "mxfp4" and plan.activation_format == "fp8" and "fp4" not in device.dense_flops:
        return f"{engine} multiplies mxfp4 weights with bf16 activations on {device.name}"
    if device.name.startswith("v100") and "fp8" in (plan.weight_format, plan.kv_format):
        return f"{engine} has no fp8 kernels for {device.name}"
    if device.name.startswith("v100") and model.architecture.startswith(_NOT_IN_FP16):
        return f"{engine} does not run {model.architecture} in fp16, and {device.name} has no bf16"
    if device.name.startswith(_BLACKWELL) and plan.activation_format == "int8":
        return f"{engine} has no int8 kernels for {device.name}"
    for name in ("fp8", "fp4"):
        if (plan.weight_format, plan.activation_format) == (name, "bf16") and name in device.dense_flops:
            return f"{engine} multiplies {name} weights with {name} activations on {device.name}"
    return ""


def _layout(engine: str, plan: Plan, model: Model) -> str:
    moe = any(isinstance(block.ffn, MoE) for block in model.decoder.blocks)
    if plan.ffn_dp > 1:
        return f"{engine} does not replicate the feed-forward inside a model replica"
    if plan.attn_dp > 1 and not moe:
        return f"{engine} shares a dense feed-forward between attention ranks in no mode"
    if engine == "vLLM" and plan.ffn_ep > 1 and plan.ffn_tp > 1:
        return "vLLM cuts experts over all devices of a stage or not at all"
    if engine == "TensorRT-LLM" and plan.attn_dp > 1 and plan.attn_tp > 1:
        return "TensorRT-LLM has either tensor or data parallel attention"
    return ""


def is_latent_on_blackwell(model: Model, device: Device) -> bool:
    """Whether latent attention (MLA) runs on a device of compute capability 10: its kernels have blocks of their own.

    FlashInfer's in vLLM take 32 or 64 tokens, CUTLASS's 128; others would get the slower ones of Triton.
    """
    latent = any(cell.is_mla for block in model.decoder.blocks for cell in block.attention)
    return latent and device.name.startswith(_CAPABILITY_10)


def sglang_page(plan: Plan, model: Model, device: Device) -> int:
    """Tokens of a KV block in SGLang, which takes 64 for what ``trtllm_mla`` has no kernel for."""
    block = plan.engine.block_size
    family = is_latent_on_blackwell(model, device) and model.architecture in _TRTLLM_MLA
    return 64 if family and block not in (32, 64) else block


def _blocks(engine: str, plan: Plan, model: Model, device: Device) -> str:
    block, budget = plan.engine.block_size, plan.engine.token_budget
    page = sglang_page(plan, model, device)
    if engine == "vLLM" and block % 16:
        return f"vLLM has KV blocks of multiples of 16 tokens, not of {block}"
    if engine == "SGLang" and plan.engine.policy in MIXED and budget % page:
        return f"SGLang takes a token budget of whole KV blocks, {budget} is no multiple of {page}"
    if engine == "TensorRT-LLM" and (block == 1 or block & (block - 1)):
        return f"TensorRT-LLM has KV blocks of 2, 4, 8, ... tokens, a power of two, not of {block}"
    return ""


def _vllm_flags(plan: Plan) -> str:
    return _join(
        ("--tensor-parallel-size", plan.attn_tp),
        ("--data-parallel-size", plan.attn_dp),
        ("--pipeline-parallel-size", plan.stages),
        ("--enable-expert-parallel", plan.ffn_ep > 1),
    )


def _sglang_flags(plan: Plan) -> str:
    return _join(
        ("--tp-size", plan.stage_devices),
        ("--attn-dp-size", plan.attn_dp),
        ("--ep-size", plan.ffn_ep),
        ("--pp-size", plan.stages),
    )


def _tensorrt_flags(plan: Plan) -> str:
    return _join(
        ("--tp_size", plan.stage_devices),
        ("--ep_size", plan.ffn_ep),
        ("--pp_size", plan.stages),
        ("enable_attention_dp", plan.attn_dp > 1),
    )


def _join(*flags: tuple[str, int | bool]) -> str:
    """Flags that differ from their default; a bool is a switch."""
    return " ".join(
        name if isinstance(value, bool) else f"{name} {value}"
        for name, value in flags
        if value is True or (not isinstance(value, bool) and value > 1)
    )
