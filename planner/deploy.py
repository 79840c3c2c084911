"""How an engine is told a plan: its flags for one replica. What it cannot express is said, never dropped.

Every flag is in the argument list of the version it was checked against (``VERSIONS``): vLLM,
``vllm/engine/arg_utils.py`` and ``vllm/entrypoints/common/cli_args.py``; SGLang, ``sglang/srt/arg_groups/fields``
(``--attn-dp-size`` took the place of ``--dp-size --enable-dp-attention``, which goes after 2026);
TensorRT-LLM, ``tensorrt_llm/commands/serve.py`` at commit 00209af of its repository (not the tag itself) and
``TorchLlmArgs`` of its LLM API reference, whose fields are the keys of the file that ``--extra_llm_api_options``
names.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from planner.deployable import MIXED, POLICIES, is_latent_on_blackwell, sglang_page
from profiles.device import Device
from profiles.memory import Footprint, Longest, iteration_tokens
from profiles.model import Model, MoE
from profiles.plan import Plan

VERSIONS = {"vLLM": "0.33.0", "SGLang": "0.5.23", "TensorRT-LLM": "1.2.1"}
"""Releases whose argument lists have every flag used here."""

_VLLM_KV = {"bf16": "auto", "fp8": "fp8"}
_QUANTIZATION = {"fp8": "fp8"}
_CHECKPOINT = "needs a checkpoint quantized to {}"
_SCHEMES = {"fp4": "fp4 (NVFP4: ModelOpt or llm-compressor)"}
_MXFP8 = {"VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8": "1"}
"""Without it vLLM computes gpt-oss with activations in bf16 (``vllm/envs.py``)."""

SURE_OF_KV = 0.9
"""Share of the KV tokens counted here that an engine surely has too, rounding and buffers of its own apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One replica to launch: ``memory`` is that of its fullest device, ``longest`` what it must take."""

    model: Model
    plan: Plan
    device: Device
    memory: Footprint
    longest: Longest

    @property
    def context(self) -> int | None:
        """Context to ask for, in tokens, where the KV cache is too small for the model's own; else None.

        Engines refuse to start, or requests, that do not fit the cache of a rank.
        """
        sure = int(self.memory.kv_tokens * SURE_OF_KV)
        if sure >= self.model.max_positions:
            return None
        return min(max(sure // 1024 * 1024, self.longest.request), self.model.max_positions)

    @property
    def dtype(self) -> str | None:
        """What to compute in where the device lacks the checkpoint's bf16."""
        return "half" if self.device.name.startswith(_WITHOUT_BF16) else None


_WITHOUT_BF16 = ("v100",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program and its flags for one replica on one node, without addresses.

    Parameters
    ----------
    environment, words
        What it runs with and is.
    options
        For the file that ``--extra_llm_api_options`` names; only TensorRT-LLM has one.
    notes
        What the command leaves out, one sentence each.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line of a shell."""
        return shell_line(self.environment, self.words)


def shell_line(environment: Mapping[str, str], words: Iterable[str]) -> str:
    """Variables and words as one line of a shell.

    Examples
    --------
    >>> shell_line({"CUDA_VISIBLE_DEVICES": "0,1"}, ["serve", "a model"])
    "CUDA_VISIBLE_DEVICES=0,1 serve 'a model'"
    """
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in environment.items()), shlex.join(words)])


def vllm_command(server: Server) -> Command:
    """``vllm serve``."""
    model, plan = server.model, server.plan
    notes = []
    engine = plan.engine
    words = ["vllm", "serve", model.checkpoint]
    words += ["--tensor-parallel-size", str(plan.attn_tp)]
    if plan.stages > 1:
        words += ["--pipeline-parallel-size", str(plan.stages)]
    if plan.attn_dp > 1:
        words += ["--data-parallel-size", str(plan.attn_dp)]
    if plan.ffn_ep > 1:
        words += ["--enable-expert-parallel"]
    sequences = engine.max_seqs * plan.stages  # of all micro-batches
    if sequences > engine.token_budget:  # vLLM refuses to start: SchedulerConfig.verify_max_model_len
        notes.append(
            f"{sequences} sequences are simulated in flight, vLLM takes no more than --max-num-batched-tokens"
        )
    words += ["--max-num-seqs", str(min(sequences, engine.token_budget))]
    words += ["--max-num-batched-tokens", str(engine.token_budget)]
    words += ["--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"]
    if is_latent_on_blackwell(model, server.device) and engine.block_size % 32:
        notes.append(
            "vLLM picks KV blocks of 32 tokens or more for MLA on Blackwell,"
            f" {engine.block_size} were simulated: --block-size is left out"
        )
    else:
        words += ["--block-size", str(engine.block_size)]
    if engine.all_reduce == "nccl":
        words += ["--disable-custom-all-reduce"]
    words += _given(("--max-model-len", server.context), ("--dtype", server.dtype))
    if plan.kv_format != "bf16":
        if plan.kv_format in _VLLM_KV:
            words += ["--kv-cache-dtype", _VLLM_KV[plan.kv_format]]
        else:
            notes.append(f"vLLM has no {plan.kv_format} KV cache")
    if plan.weight_format != model.weight_format:
        if plan.weight_format in _QUANTIZATION:
            words += ["--quantization", _QUANTIZATION[plan.weight_format]]
        else:
            notes.append(_CHECKPOINT.format(_SCHEMES.get(plan.weight_format, plan.weight_format)))
    if plan.attn_dp > 1 and not any(isinstance(block.ffn, MoE) for block in model.decoder.blocks):
        notes.append("vLLM shares a dense feed-forward between attention ranks in no mode")
    environment = _split("VLLM_PP_LAYER_PARTITION", plan)
    if (plan.weight_format, plan.activation_format) == ("mxfp4", "fp8"):
        environment |= _MXFP8
    return Command(words=tuple(words), environment=environment, notes=tuple(notes))


def _split(variable: str, plan: Plan) -> dict[str, str]:
    """The environment variable that names layers per stage, where they differ."""
    layers = plan.layers_per_stage
    return {variable: ",".join(map(str, layers))} if len(set(layers)) > 1 else {}


def _given(*flags: tuple[str, object]) -> list[str]:
    """Flags that have a value."""
    return [word for name, value in flags if value is not None for word in (name, str(value))]


def sglang_command(server: Server) -> Command:
    """``sglang.launch_server``.

    Its memory fraction is that of weights and KV cache together.
    """
    model, plan, memory = server.model, server.plan, server.memory
    notes = []
    engine = plan.engine
    words = ["python", "-m", "sglang.launch_server", "--model-path", model.checkpoint]
    words += ["--tp-size", str(plan.stage_devices)]
    if plan.stages > 1:
        words += ["--pp-size", str(plan.stages)]
    if plan.attn_dp > 1:
        words += ["--attn-dp-size", str(plan.attn_dp)]
    if plan.ffn_ep > 1:
        words += ["--ep-size", str(plan.ffn_ep)]
    words += ["--max-running-requests", str(engine.max_seqs * plan.attn_dp * plan.stages)]
    if engine.policy in MIXED:
        words += ["--chunked-prefill-size", str(engine.token_budget * plan.attn_dp), "--enable-mixed-chunk"]
    else:
        # divided by the attention ranks is the former alone (``arg_groups/parallel_hook.py``)
        words += ["--chunked-prefill-size", "-1", "--max-prefill-tokens", str(engine.token_budget)]
    static = (memory.weight_bytes + memory.kv_bytes) / server.device.memory_bytes
    page = sglang_page(plan, model, server.device)
    if page != engine.block_size:
        notes.append(
            f"SGLang takes KV blocks of {page} tokens for {model.architecture} on Blackwell,"
            f" {engine.block_size} were simulated"
        )
    words += ["--mem-fraction-static", f"{static:.3f}", "--page-size", str(page)]
    if engine.all_reduce == "nccl":
        words += ["--disable-custom-all-reduce"]
    words += _given(("--context-length", server.context), ("--dtype", server.dtype))
    if plan.kv_format == "fp8":
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    elif plan.kv_format != "bf16":
        notes.append(f"SGLang has no {plan.kv_format} KV cache")
    if plan.weight_format != model.weight_format:
        if plan.weight_format == "fp8":
            words += ["--quantization", "fp8"]
        else:
            notes.append(_CHECKPOINT.format(_SCHEMES.get(plan.weight_format, plan.weight_format)))
    return Command(
        words=tuple(words), environment=_split("SGLANG_PP_LAYER_PARTITION", plan), notes=tuple(notes)
    )


def tensorrt_llm_command(server: Server) -> Command:
    """``trtllm-serve``.

    Its memory fraction is the KV cache's of what is free beside weights, activations and buffers; the file of
    options has it too, because its ``kv_cache_config`` stands in for what flags said of the cache.
    """
    model, plan, memory = server.model, server.plan, server.memory
    notes = []
    engine = plan.engine
    words = ["trtllm-serve", model.checkpoint, "--backend", "pytorch", "--tp_size", str(plan.stage_devices)]
    if plan.stages > 1:
        words += ["--pp_size", str(plan.stages)]
    if plan.ffn_ep > 1:
        words += ["--ep_size", str(plan.ffn_ep)]
    tokens = iteration_tokens(model, engine, server.longest)  # where prompts stay whole it must hold one
    words += ["--max_batch_size", str(engine.max_seqs), "--max_num_tokens", str(tokens)]
    used = memory.weight_bytes + memory.activation_bytes + memory.reserve_bytes
    fraction = round(memory.kv_bytes / (server.device.memory_bytes - used), 3)
    words += ["--kv_cache_free_gpu_memory_fraction", f"{fraction:.3f}"]
    words += _given(("--max_seq_len", server.context))
    cache: dict[str, object] = {"free_gpu_memory_fraction": fraction}
    options: dict[str, object] = {"kv_cache_config": cache}
    if engine.policy in MIXED:
        options["enable_chunked_prefill"] = True
    if plan.attn_dp > 1:
        options["enable_attention_dp"] = True
    if engine.all_reduce == "nccl":
        options["allreduce_strategy"] = "NCCL"
    if plan.kv_format == "fp8":
        cache["dtype"] = "fp8"
    elif plan.kv_format != "bf16":
        notes.append(f"TensorRT-LLM has no {plan.kv_format} KV cache")
    if plan.weight_format != model.weight_format:
        notes.append(_CHECKPOINT.format(_SCHEMES.get(plan.weight_format, plan.weight_format)))
    cache["tokens_per_block"] = engine.block_size
    if len(set(plan.layers_per_stage)) > 1:
        options["pp_partition"] = list(plan.layers_per_stage)
    return Command(words=tuple(words), options=options, notes=tuple(notes))


COMMANDS = {"vLLM": vllm_command, "SGLang": sglang_command, "TensorRT-LLM": tensorrt_llm_command}


def command(server: Server, engine: str) -> Command:
    """Of one engine in ``COMMANDS``, with every note."""
    made = COMMANDS[engine](server)
    return replace(made, notes=(*made.notes, *_beyond_flags(server, engine)))


def _beyond_flags(server: Server, name: str) -> list[str]:
    """What was simulated and no flag of any of these engines sets, and what a flag takes away."""
    plan, notes = server.plan, []
    engine = plan.engine
    if server.context is not None:
        notes.append(
            f"the KV cache of a rank holds {server.memory.kv_tokens:,} tokens, less than the model's context of"
            f" {server.model.max_positions:,}: longer requests are refused"
        )
    if engine.policy not in POLICIES[name]:
        notes.append(f"{name} does not batch by policy {engine.policy} today")
    if engine.queue != "fcfs":
        notes.append(f"{name} has no {engine.queue} queue: order the requests before it")
    if engine.preemption != "recompute":
        notes.append(f"{name} recomputes what it preempts, it does not {engine.preemption}")
    if plan.clock_mhz:
        amd = server.device.vendor == "AMD"
        lock = "rocm-smi --setperfdeterminism " if amd else "nvidia-smi --lock-gpu-clocks="
        notes.append(f"lock the clock first: {lock}{plan.clock_mhz}")
    return notes
