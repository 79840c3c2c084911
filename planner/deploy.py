"""Launch commands of real engines for a plan. What an engine cannot express is said, never dropped.

Flag names as documented for vLLM 0.19 (``vllm serve``), SGLang 0.5 (``sglang.launch_server``) and
TensorRT-LLM 1.x (``trtllm-serve``).
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from planner.deployable import MIXED, POLICIES
from profiles.device import Device
from profiles.memory import Footprint, Longest, iteration_tokens
from profiles.model import Model, MoE
from profiles.plan import Plan

_VLLM_KV = {"bf16": "auto", "fp8": "fp8"}
_QUANTIZATION = {"fp8": "fp8"}

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


def vllm_command(server: Server) -> tuple[str, list[str]]:
    """``vllm serve`` for one replica, and notes on what the command leaves out."""
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
    words += ["--max-num-seqs", str(engine.max_seqs * plan.stages)]  # of all micro-batches
    words += ["--max-num-batched-tokens", str(engine.token_budget)]
    words += ["--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"]
    words += ["--block-size", str(engine.block_size)]
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
            notes.append(f"needs a checkpoint quantized to {plan.weight_format}")
    if plan.attn_dp > 1 and not any(isinstance(block.ffn, MoE) for block in model.decoder.blocks):
        notes.append("vLLM shares a dense feed-forward between attention ranks in no mode")
    return _split("VLLM_PP_LAYER_PARTITION", plan) + shlex.join(words), notes


def _split(variable: str, plan: Plan) -> str:
    """The environment variable that names layers per stage, where they differ."""
    layers = plan.layers_per_stage
    return f"{variable}={','.join(map(str, layers))} " if len(set(layers)) > 1 else ""


def _given(*flags: tuple[str, object]) -> list[str]:
    """Flags that have a value."""
    return [word for name, value in flags if value is not None for word in (name, str(value))]


def sglang_command(server: Server) -> tuple[str, list[str]]:
    """``sglang.launch_server`` for one replica, and notes on what the command leaves out.

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
        words += ["--dp-size", str(plan.attn_dp), "--enable-dp-attention"]
    if plan.ffn_ep > 1:
        words += ["--ep-size", str(plan.ffn_ep)]
    words += ["--max-running-requests", str(engine.max_seqs * plan.attn_dp * plan.stages)]
    if engine.policy in MIXED:
        words += ["--chunked-prefill-size", str(engine.token_budget * plan.attn_dp), "--enable-mixed-chunk"]
    else:
        words += [
            "--chunked-prefill-size",
            "-1",
            "--max-prefill-tokens",
            str(engine.token_budget * plan.attn_dp),
        ]
    static = (memory.weight_bytes + memory.kv_bytes) / server.device.memory_bytes
    words += ["--mem-fraction-static", f"{static:.3f}", "--page-size", str(engine.block_size)]
    words += _given(("--context-length", server.context), ("--dtype", server.dtype))
    if plan.kv_format == "fp8":
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    elif plan.kv_format != "bf16":
        notes.append(f"SGLang has no {plan.kv_format} KV cache")
    if plan.weight_format != model.weight_format:
        if plan.weight_format == "fp8":
            words += ["--quantization", "fp8"]
        else:
            notes.append(f"needs a checkpoint quantized to {plan.weight_format}")
    return _split("SGLANG_PP_LAYER_PARTITION", plan) + shlex.join(words), notes


def tensorrt_llm_command(server: Server) -> tuple[str, list[str]]:
    """``trtllm-serve`` for one replica, and notes on what the command leaves out.

    Its memory fraction is the KV cache's of what is free beside weights, activations and buffers.
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
    fraction = memory.kv_bytes / (server.device.memory_bytes - used)
    words += ["--kv_cache_free_gpu_memory_fraction", f"{fraction:.3f}"]
    words += _given(("--max_seq_len", server.context))
    if engine.policy in MIXED:
        notes.append("set enable_chunked_prefill: true in --extra_llm_api_options")
    if plan.attn_dp > 1:
        notes.append("set enable_attention_dp: true in --extra_llm_api_options")
    if plan.kv_format != "bf16":
        notes.append(f"set kv_cache_config.dtype: {plan.kv_format} in --extra_llm_api_options")
    if plan.weight_format != model.weight_format:
        notes.append(f"needs a checkpoint quantized to {plan.weight_format}")
    notes.append(f"set kv_cache_config.tokens_per_block: {engine.block_size} in --extra_llm_api_options")
    if len(set(plan.layers_per_stage)) > 1:
        notes.append("set pp_partition in --extra_llm_api_options to the layers of each stage")
    return shlex.join(words), notes


COMMANDS = {"vLLM": vllm_command, "SGLang": sglang_command, "TensorRT-LLM": tensorrt_llm_command}


def launch_commands(server: Server, engines: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """(engine, command, notes) for each of ``engines`` that has one."""
    found = []
    for name in engines:
        if name in COMMANDS:
            command, notes = COMMANDS[name](server)
            found.append((name, command, [*notes, *_beyond_flags(server, name)]))
    return found


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
        notes.append(f"lock the clock first: nvidia-smi --lock-gpu-clocks={plan.clock_mhz}")
    return notes
