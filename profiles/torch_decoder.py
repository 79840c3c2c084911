"""A decoder of random weights in PyTorch, one iteration at a time: what ``StepCost`` predicts, measured whole.

Dense decoders with gated feed-forward and grouped queries (Llama, Qwen, Mistral). bf16; a static KV cache, filled
with random numbers as far as an iteration reads and does not write; greedy sampling. Kernels are PyTorch's own,
none fused beyond its attention, so element-wise work takes more launches than in a serving engine.
"""

from collections.abc import Callable
from typing import Any

from profiles.huggingface import load_model
from profiles.model import Block, FeedForward, Model
from profiles.profiler import Shape
from profiles.torch_kernels import Kernel

DEVICE = "cuda"

SCALE = 0.02
"""Standard deviation of a weight, as models are initialized: what comes out stays finite."""

BASE = 10000.0
"""Of the rotary embedding; its value takes no time."""


def iteration(torch: Any, shape: Shape, least_bytes: int) -> Kernel:
    """One iteration of a model: a token of each of ``sequences`` that read ``each``, or as many prompts of ``each``."""
    rows, each = int(shape["sequences"]), int(shape["each"])
    decoder = Decoder(torch, load_model(str(shape["model"])), rows=rows, longest=each)
    new = 1 if shape["phase"] == "decode" else each
    tokens = torch.randint(0, decoder.model.vocab, (rows, new), device=DEVICE)
    return Kernel(
        name="torch decoder",
        copies=1,  # weights alone exceed every cache
        launch=lambda _: decoder.next(tokens, each - new),
        captured=shape["launch"] == "graph",
    )


class Decoder:
    """Weights and KV cache of ``rows`` sequences of ``longest`` tokens.

    Raises
    ------
    ValueError
        When the model is of another kind than the module says.
    """

    def __init__(self, torch: Any, model: Model, *, rows: int, longest: int) -> None:
        self.torch, self.model = torch, model
        stack = model.decoder
        if model.kind != "decoder" or not all(map(_runs, stack.blocks)):
            raise ValueError("runs dense decoders with gated feed-forward and grouped queries only")
        self.layers = [_Layer(torch, stack.hidden, stack.blocks[i], rows, longest) for i in stack.layers]
        self.embedding = _weight(torch, model.vocab, stack.hidden)
        self.head = self.embedding if model.tied else _weight(torch, model.vocab, stack.hidden)
        self.norm = torch.ones(stack.hidden, dtype=torch.bfloat16, device=DEVICE)
        width = stack.blocks[0].attention[0].head_dim
        places = torch.arange(longest, dtype=torch.float32, device=DEVICE)
        rates = BASE ** (-torch.arange(0, width, 2, dtype=torch.float32, device=DEVICE) / width)
        angles = places[:, None] * rates[None, :]
        self.turn = (
            angles.cos().to(torch.bfloat16),
            angles.sin().to(torch.bfloat16),
        )  # [longest, width / 2] each

    def logits(self, tokens: Any, start: int) -> Any:
        """[rows, vocab] after tokens [rows, new], the first of them at place ``start``."""
        nn = self.torch.nn.functional
        new = tokens.shape[1]
        cos, sin = (table.narrow(0, start, new) for table in self.turn)
        x = nn.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, start, lambda part: _turned(self.torch, part, cos, sin))
        last = nn.rms_norm(x.narrow(1, new - 1, 1), self.norm.shape, self.norm)
        return nn.linear(last, self.head).squeeze(1)

    def next(self, tokens: Any, start: int) -> Any:
        """The likeliest token of each row."""
        return self.logits(tokens, start).argmax(-1)


class _Layer:
    def __init__(self, torch: Any, hidden: int, block: Block, rows: int, longest: int) -> None:
        assert isinstance(block.ffn, FeedForward)
        self.torch, self.cell = torch, block.attention[0]
        q, kv = self.cell.q_heads * self.cell.head_dim, self.cell.kv_heads * self.cell.head_dim
        self.widths = [q, kv, kv]
        self.qkv, self.out = _weight(torch, q + 2 * kv, hidden), _weight(torch, hidden, q)
        self.up = _weight(torch, 2 * block.ffn.inner, hidden)
        self.down = _weight(torch, hidden, block.ffn.inner)
        self.norms = [torch.ones(hidden, dtype=torch.bfloat16, device=DEVICE) for _ in range(2)]
        cache = (rows, self.cell.kv_heads, longest, self.cell.head_dim)
        self.keys, self.values = _weight(torch, *cache), _weight(torch, *cache)

    def __call__(self, x: Any, start: int, turned: Callable[[Any], Any]) -> Any:
        """[rows, new, hidden] to the same; writes new tokens from place ``start`` of the cache."""
        nn, cell = self.torch.nn.functional, self.cell
        rows, new = x.shape[0], x.shape[1]
        qkv = nn.linear(nn.rms_norm(x, self.norms[0].shape, self.norms[0]), self.qkv)
        q, k, v = (
            part.reshape(rows, new, -1, cell.head_dim).transpose(1, 2) for part in qkv.split(self.widths, -1)
        )
        self.keys.narrow(2, start, new).copy_(turned(k))
        self.values.narrow(2, start, new).copy_(v)
        seen = start + new
        attended = nn.scaled_dot_product_attention(
            turned(q), self.keys.narrow(2, 0, seen), self.values.narrow(2, 0, seen),
            is_causal=new > 1, enable_gqa=cell.q_heads != cell.kv_heads,
        )  # fmt: skip
        x = x + nn.linear(attended.transpose(1, 2).reshape(rows, new, -1), self.out)
        gate, up = nn.linear(nn.rms_norm(x, self.norms[1].shape, self.norms[1]), self.up).chunk(2, -1)
        return x + nn.linear(nn.silu(gate) * up, self.down)


def _runs(block: Block) -> bool:
    cell = block.attention[0]
    plain = len(block.attention) == 1 and cell.causal and cell.value_dim == cell.head_dim
    other = cell.cross or cell.is_mla or cell.window or cell.bias or block.parallel
    return plain and not other and isinstance(block.ffn, FeedForward) and block.ffn.gated


def _weight(torch: Any, *size: int) -> Any:
    return torch.randn(*size, dtype=torch.bfloat16, device=DEVICE).mul_(SCALE)


def _turned(torch: Any, x: Any, cos: Any, sin: Any) -> Any:
    """[rows, heads, new, width] with the two halves of every head turned by the angles of its place."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
