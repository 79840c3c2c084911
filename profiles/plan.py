"""A plan: how one model is laid out on devices and which engine settings serve it."""

from dataclasses import dataclass, field
from typing import Literal

Policy = Literal["static", "orca", "vllm-v0", "vllm-v1", "sarathi"]
Format = Literal["fp32", "bf16", "fp8", "int8", "int4", "fp4", "mxfp4"]

POLICIES: tuple[Policy, ...] = ("static", "orca", "vllm-v0", "vllm-v1", "sarathi")
FORMAT_BYTES: dict[str, float] = {
    "fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "fp4": 0.5, "mxfp4": 0.5,
}  # fmt: skip
"""Bytes of one number, scales not counted. fp16 and bf16 are one format here: same bytes, same rates. ``fp4`` is
NVFP4, whose scales cover 16 numbers; ``mxfp4`` is OCP's MXFP4 (32 numbers), which holds routed experts alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the serving engine is told; one per plan, the same on every replica.

    Parameters
    ----------
    policy
        Batch former, see ``simulator.batching``.
    max_seqs
        Most sequences that run at once, per attention rank. >= 1.
    token_budget
        Most new tokens in one iteration, per attention rank. >= 1. Policies that do not chunk let a
        longer prompt run alone.
    block_size
        Tokens in a KV block. >= 1.
    gpu_memory_utilization
        Share of device memory the engine may use, as in vLLM. In (0, 1].
    watermark
        Share of KV blocks that admission keeps free. In [0, 1).
    preemption
        ``recompute`` drops the KV of the victim, ``swap`` moves it to the host.
    queue
        ``fcfs`` by arrival, ``sjf`` by prompt length, then arrival.
    routing
        Of requests to replicas: ``round-robin`` or ``least-outstanding``.
    all_reduce
        ``custom``: inside a node the faster of the engine's own kernel and NCCL, as engines choose by size;
        ``nccl``: that library alone (vLLM and SGLang: ``--disable-custom-all-reduce``).
    """

    policy: Policy = "vllm-v1"
    max_seqs: int = 256
    token_budget: int = 8192
    block_size: int = 16
    gpu_memory_utilization: float = 0.9
    watermark: float = 0.01
    preemption: Literal["recompute", "swap"] = "recompute"
    queue: Literal["fcfs", "sjf"] = "fcfs"
    routing: Literal["round-robin", "least-outstanding"] = "round-robin"
    all_reduce: Literal["custom", "nccl"] = "custom"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}.")
        if self.max_seqs < 1 or self.token_budget < 1 or self.block_size < 1:
            raise ValueError("max_seqs, token_budget and block_size must be at least 1.")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError("gpu_memory_utilization must be in (0, 1].")
        if not 0 <= self.watermark < 1:
            raise ValueError("watermark must be in [0, 1).")

    @property
    def chunks_prefill(self) -> bool:
        """Whether a prompt may be processed in several iterations."""
        return self.policy in ("vllm-v1", "sarathi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Model replicas x pipeline stages x per-cell sharding x formats x engine settings x clock.

    One stage has ``attn_tp * attn_dp == ffn_tp * ffn_ep * ffn_dp`` devices. ``attn_dp`` attention
    ranks share one model replica: each holds whole sequences and their KV cache.

    Parameters
    ----------
    replicas
        Copies of the whole model, requests are routed between them. >= 1.
    layers_per_stage
        Transformer layers of each pipeline stage, in order. Its length is the pipeline degree.
    attn_tp, attn_dp
        Tensor parallel width of attention, and attention ranks in one stage. >= 1.
    ffn_tp, ffn_ep, ffn_dp
        Feed-forward: tensor parallel width, expert parallel width, replicas in one stage. >= 1.
    weight_format, activation_format, kv_format
        Keys of ``FORMAT_BYTES``.
    clock_mhz
        Locked clock of every device, 0 for the device's maximum.

    Examples
    --------
    >>> plan = Plan(replicas=2, layers_per_stage=(40, 40), attn_tp=2, ffn_tp=2)
    >>> plan.devices, plan.stages, plan.label
    (8, 2, 'dp=2 pp=2 tp=2')
    """

    replicas: int = 1
    layers_per_stage: tuple[int, ...]
    attn_tp: int = 1
    attn_dp: int = 1
    ffn_tp: int = 1
    ffn_ep: int = 1
    ffn_dp: int = 1
    weight_format: Format = "bf16"
    activation_format: Format = "bf16"
    kv_format: Format = "bf16"
    clock_mhz: int = 0
    engine: EngineSettings = field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        widths = (self.replicas, self.attn_tp, self.attn_dp, self.ffn_tp, self.ffn_ep, self.ffn_dp)
        if min(widths) < 1 or not self.layers_per_stage or min(self.layers_per_stage) < 1:
            raise ValueError("Every parallel degree and every stage must be at least 1.")
        if self.attn_tp * self.attn_dp != self.ffn_tp * self.ffn_ep * self.ffn_dp:
            raise ValueError("Attention and feed-forward must use the same devices of a stage.")
        for name in (self.weight_format, self.activation_format, self.kv_format):
            if name not in FORMAT_BYTES:
                raise ValueError(f"Unknown format {name!r}, known: {', '.join(FORMAT_BYTES)}.")

    @property
    def stages(self) -> int:
        return len(self.layers_per_stage)

    @property
    def stage_devices(self) -> int:
        return self.attn_tp * self.attn_dp

    @property
    def replica_devices(self) -> int:
        return self.stages * self.stage_devices

    @property
    def devices(self) -> int:
        return self.replicas * self.replica_devices

    @property
    def label(self) -> str:
        """Shortest name that says how the devices are used; ``--plan`` reads the same words."""
        words = []
        if self.replicas > 1:
            words.append(f"dp={self.replicas}")
        if self.stages > 1:
            words.append(f"pp={self.stages}")
        if self.attn_dp == 1 and self.ffn_ep == 1 and self.ffn_dp == 1:
            words.append(f"tp={self.attn_tp}")
        else:
            words.append(f"attn_tp={self.attn_tp}")
            words += [
                f"{name}={value}"
                for name, value in (
                    ("attn_dp", self.attn_dp),
                    ("ffn_tp", self.ffn_tp),
                    ("ep", self.ffn_ep),
                    ("ffn_dp", self.ffn_dp),
                )
                if value > 1
            ]
        return " ".join(words)
