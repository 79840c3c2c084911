"""Kernels of PyTorch and of serving libraries for every operation of ``profiles.own_rows``.

Each maker takes torch, a shape and how many bytes its operands must exceed (by copies), and returns what to
launch. A library that is not installed, or does not take the shape, raises; the others are timed.
Operands are random: zeros would draw less power, and clock higher.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from profiles.profiler import Shape

PAGE = 16
"""Tokens in a page of the KV cache, as engines set it."""

MOST_COPIES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """``launch(i)`` queues the work on the i-th of ``copies`` sets of operands; ``captured``: in a CUDA graph."""

    name: str
    copies: int
    launch: Callable[[int], Any]
    captured: bool = True


Maker = Callable[[Any, Shape, int], Kernel]


def _copies(operand_bytes: float, least_bytes: int) -> int:
    """Sets of operands that exceed ``least_bytes``.

    Examples
    --------
    >>> _copies(30, 100), _copies(200, 100), _copies(1, 10**9)
    (4, 1, 256)
    """
    return min(max(math.ceil((least_bytes + 1) / operand_bytes), 1), MOST_COPIES)


def _random(torch: Any, *size: int) -> Any:
    return torch.randn(*size, dtype=torch.bfloat16, device="cuda")


# ------------------------------------------------------------------------------------------------- matrices


def matmul(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """The library's product in bf16, weights as a linear layer keeps them: n rows of k."""
    if (shape["weight"], shape["activation"]) != ("bf16", "bf16"):
        raise ValueError("multiplies bf16 only")
    m, n, k = (int(shape[name]) for name in ("m", "n", "k"))
    copies = _copies(2 * (n * k + m * (n + k)), least_bytes)
    inputs = [_random(torch, m, k) for _ in range(copies)]
    weights = [_random(torch, n, k).t() for _ in range(copies)]
    outputs = [torch.empty(m, n, dtype=torch.bfloat16, device="cuda") for _ in range(copies)]
    return Kernel(
        name="torch.matmul",
        copies=copies,
        launch=lambda i: torch.matmul(inputs[i], weights[i], out=outputs[i]),
    )


def scaled_matmul(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """fp8 with one scale for each operand. Activations come in bf16 and are narrowed first, as in an engine."""
    if (shape["weight"], shape["activation"]) != ("fp8", "fp8"):
        raise ValueError("multiplies fp8 only")
    m, n, k = (int(shape[name]) for name in ("m", "n", "k"))
    copies = _copies(n * k + 2 * m * (n + k), least_bytes)
    one = torch.ones((), dtype=torch.float32, device="cuda")
    inputs = [_random(torch, m, k) for _ in range(copies)]
    weights = [_random(torch, n, k).to(torch.float8_e4m3fn).t() for _ in range(copies)]

    def launch(i: int) -> Any:
        return torch._scaled_mm(
            inputs[i].to(torch.float8_e4m3fn), weights[i], scale_a=one, scale_b=one,
            out_dtype=torch.bfloat16, use_fast_accum=True,
        )  # fmt: skip

    return Kernel(name="torch._scaled_mm", copies=copies, launch=launch)


# ------------------------------------------------------------------------------------------------ attention


@dataclass(frozen=True, slots=True)
class _Heads:
    """Of a shape of attention; ``rows`` sequences of ``queries`` new and ``keys`` seen tokens each."""

    q: int
    kv: int
    width: int
    rows: int
    queries: int
    keys: int

    @property
    def bytes(self) -> int:
        """Keys and values; queries and outputs."""
        return 4 * self.rows * self.width * (self.keys * self.kv + self.queries * self.q)


def _heads(shape: Shape) -> _Heads:
    if shape["kv"] != "bf16":
        raise ValueError("attends in bf16 only")
    kv, width = int(shape["kv_heads"]), int(shape["head_dim"])
    q = kv * int(shape["group"])
    if "tokens" in shape:
        tokens = int(shape["tokens"])
        return _Heads(q, kv, width, 1, tokens, tokens)
    return _Heads(q, kv, width, int(shape["batch"]), 1, int(shape["context"]))


def sdpa(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """PyTorch's choice among its own kernels; never the one that keeps all scores."""
    h = _heads(shape)
    copies = _copies(h.bytes, least_bytes)
    attention = import_module("torch.nn.attention")
    backend = attention.SDPBackend
    backends = [backend.FLASH_ATTENTION, backend.CUDNN_ATTENTION, backend.EFFICIENT_ATTENTION]
    queries = [_random(torch, h.rows, h.q, h.queries, h.width) for _ in range(copies)]
    keys, values = ([_random(torch, h.rows, h.kv, h.keys, h.width) for _ in range(copies)] for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention

    def launch(i: int) -> Any:
        with attention.sdpa_kernel(backends):
            return attend(
                queries[i], keys[i], values[i], is_causal=h.queries > 1, enable_gqa=h.q != h.kv
            )  # fmt: skip

    return Kernel(name="torch sdpa", copies=copies, launch=launch)


def flash_attention(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """The package flash-attn: a prompt over itself, or new tokens over a contiguous cache."""
    flash = import_module("flash_attn")
    h = _heads(shape)
    copies = _copies(h.bytes, least_bytes)
    queries = [_random(torch, h.rows, h.queries, h.q, h.width) for _ in range(copies)]
    keys, values = ([_random(torch, h.rows, h.keys, h.kv, h.width) for _ in range(copies)] for _ in range(2))
    if h.queries > 1:
        return Kernel(
            name="flash_attn",
            copies=copies,
            launch=lambda i: flash.flash_attn_func(queries[i], keys[i], values[i], causal=True),
        )
    lengths = torch.full((h.rows,), h.keys, dtype=torch.int32, device="cuda")
    return Kernel(
        name="flash_attn",
        copies=copies,
        launch=lambda i: flash.flash_attn_with_kvcache(
            queries[i], keys[i], values[i], cache_seqlens=lengths, causal=True
        ),
    )


def flashinfer_prefill(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """FlashInfer, one prompt over itself."""
    flashinfer = import_module("flashinfer")
    h = _heads(shape)
    copies = _copies(h.bytes, least_bytes)
    queries = [_random(torch, h.queries, h.q, h.width) for _ in range(copies)]
    keys, values = ([_random(torch, h.keys, h.kv, h.width) for _ in range(copies)] for _ in range(2))
    return Kernel(
        name="flashinfer",
        copies=copies,
        launch=lambda i: flashinfer.single_prefill_with_kv_cache(queries[i], keys[i], values[i], causal=True),
    )


def flashinfer_decode(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """FlashInfer over a paged cache, on tensor cores where it takes them; pages lie in order."""
    flashinfer = import_module("flashinfer")
    h = _heads(shape)
    copies = _copies(h.bytes, least_bytes)
    pages = math.ceil(h.keys / PAGE)
    queries = [_random(torch, h.rows, h.q, h.width) for _ in range(copies)]
    caches = [_random(torch, h.rows * pages, 2, PAGE, h.kv, h.width) for _ in range(copies)]
    workspace = torch.zeros(128 * 2**20, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace, kv_layout="NHD", use_tensor_cores=h.q >= 4 * h.kv
    )
    wrapper.plan(
        torch.arange(h.rows + 1, dtype=torch.int32, device="cuda") * pages,
        torch.arange(h.rows * pages, dtype=torch.int32, device="cuda"),
        torch.full((h.rows,), h.keys - (pages - 1) * PAGE, dtype=torch.int32, device="cuda"),
        h.q, h.kv, h.width, PAGE, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
    )  # fmt: skip
    return Kernel(name="flashinfer", copies=copies, launch=lambda i: wrapper.run(queries[i], caches[i]))


# ------------------------------------------------------------------------------------------ element by element


def element_wise(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """Reads half of the bytes, adds one, writes the other half."""
    size = int(shape["bytes"])
    copies = _copies(size, least_bytes)
    inputs = [_random(torch, size // 4) for _ in range(copies)]
    outputs = [torch.empty_like(x) for x in inputs]
    return Kernel(name="torch.add", copies=copies, launch=lambda i: torch.add(inputs[i], 1.0, out=outputs[i]))


# -------------------------------------------------------------------------------------------------- experts


@dataclass(frozen=True, slots=True)
class _Experts:
    """Operands of one layer: tokens, weights as (experts, rows, columns), and a routing that is uniformly random."""

    tokens: Any  # [m, hidden]
    up: Any  # [experts, 2 inner, hidden]
    down: Any  # [experts, hidden, inner]
    weights: Any  # [m, top_k]
    chosen: Any  # [m, top_k]


def _experts(torch: Any, shape: Shape) -> _Experts:
    if (shape["weight"], shape["activation"]) != ("bf16", "bf16"):
        raise ValueError("multiplies bf16 only")
    names = ("tokens", "hidden", "inner", "experts", "top_k")
    m, hidden, inner, experts, top_k = (int(shape[name]) for name in names)
    weights, chosen = torch.rand(m, experts, device="cuda").softmax(-1).topk(top_k)
    return _Experts(
        _random(torch, m, hidden), _random(torch, experts, 2 * inner, hidden),
        _random(torch, experts, hidden, inner), weights, chosen,
    )  # fmt: skip


def vllm_experts(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """vLLM's fused Triton kernels."""
    fused = import_module("vllm.model_executor.layers.fused_moe").fused_experts
    e = _experts(torch, shape)
    chosen = e.chosen.to(torch.int32)
    return Kernel(
        name="vllm fused_experts",
        copies=1,
        launch=lambda _: fused(e.tokens, e.up, e.down, e.weights, chosen),
    )


def _gated(torch: Any, both: Any) -> Any:
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def grouped_matmul(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """Rows sorted by expert, PyTorch's grouped products, and the weighted sum of each token's rows."""
    e = _experts(torch, shape)
    order = e.chosen.flatten().argsort(stable=True)
    token = order // e.chosen.shape[1]
    ends = e.chosen.flatten().bincount(minlength=e.up.shape[0]).cumsum(0).to(torch.int32)
    share = e.weights.flatten()[order].to(torch.bfloat16)[:, None]
    up, down = e.up.transpose(1, 2), e.down.transpose(1, 2)

    def launch(_: int) -> Any:
        both = torch._grouped_mm(e.tokens[token], up, offs=ends)
        rows = torch._grouped_mm(_gated(torch, both), down, offs=ends)
        return torch.zeros_like(e.tokens).index_add_(0, token, rows * share)

    return Kernel(name="torch._grouped_mm", copies=1, launch=launch)


def looped_matmul(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """One pair of products for each expert that is hit: what every version and device can do."""
    e = _experts(torch, shape)
    order = e.chosen.flatten().argsort(stable=True)
    token = order // e.chosen.shape[1]
    counts = e.chosen.flatten().bincount(minlength=e.up.shape[0]).tolist()
    share = e.weights.flatten()[order].to(torch.bfloat16)[:, None]

    def launch(_: int) -> Any:
        out, start = torch.zeros_like(e.tokens), 0
        for expert, count in enumerate(counts):
            if count:
                rows = slice(start, start + count)
                inner = _gated(torch, e.tokens[token[rows]] @ e.up[expert].t())
                out.index_add_(0, token[rows], (inner @ e.down[expert].t()) * share[rows])
                start += count
        return out

    return Kernel(name="torch.matmul per expert", copies=1, launch=launch)


KERNELS: dict[str, tuple[Maker, ...]] = {
    "gemm": (matmul, scaled_matmul),
    "prefill": (sdpa, flash_attention, flashinfer_prefill),
    "decode": (sdpa, flash_attention, flashinfer_decode),
    "stream": (element_wise,),
    "moe": (vllm_experts, grouped_matmul, looped_matmul),
}
