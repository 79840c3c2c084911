"""The decoder whose iterations are measured computes what a decoder does; on a CPU, where PyTorch is installed."""

from dataclasses import replace

import pytest

from profiles import torch_decoder
from profiles.huggingface import load_model
from profiles.model import Attention, Block, FeedForward, Stack
from tests.profiles.handmade import LLAMA_8B

torch = pytest.importorskip("torch", reason="PyTorch is an extra")

CELL = Attention(q_heads=4, kv_heads=2, head_dim=16, value_dim=16)
BLOCK = Block(attention=(CELL,), ffn=FeedForward(inner=96, gated=True), norm_parameters=128)


@pytest.fixture
def decoder(monkeypatch):
    monkeypatch.setattr(torch_decoder, "DEVICE", "cpu")
    monkeypatch.setattr(torch_decoder, "SCALE", 0.15)  # so that every part of a layer counts
    torch.manual_seed(0)
    model = replace(LLAMA_8B, decoder=Stack.of(64, [BLOCK] * 3), vocab=50)
    return torch_decoder.Decoder(torch, model, rows=2, longest=9)


def test_a_token_after_a_cached_prompt_is_as_in_the_prompt(decoder):
    tokens = torch.randint(0, 50, (2, 9))
    whole = decoder.logits(tokens, 0)
    decoder.logits(tokens[:, :8], 0)
    decoder.layers[0].keys[:, :, 8].fill_(3.0)  # what an iteration writes it does not read before
    step = decoder.logits(tokens[:, 8:], 8)
    assert whole.shape == (2, 50) and torch.allclose(whole, step, atol=0.01)
    assert whole.float().std() > 0.05 and torch.isfinite(whole).all()


def test_logits_are_those_of_the_definition(decoder):
    """Written out in float64: every head, key and place on its own."""
    tokens = torch.randint(0, 50, (2, 9))
    at = decoder.embedding.double()

    def norm(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    def turned(x, place):
        rates = 10000.0 ** (-torch.arange(0, 16, 2).double() / 16)
        a, b, angle = x[:8], x[8:], place * rates
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])

    found = []
    for row in tokens:
        x = at[row]
        for layer in decoder.layers:
            qkv = norm(x) @ layer.qkv.double().T
            heads = torch.zeros(9, 64, dtype=torch.float64)
            for i in range(9):
                for head in range(4):
                    kv = head // 2
                    q = turned(qkv[i, 16 * head : 16 * head + 16], i)
                    keys = [turned(qkv[j, 64 + 16 * kv : 80 + 16 * kv], j) for j in range(i + 1)]
                    weights = torch.stack([q @ k / 4 for k in keys]).softmax(0)
                    values = qkv[: i + 1, 96 + 16 * kv : 112 + 16 * kv]
                    heads[i, 16 * head : 16 * head + 16] = weights @ values
            x = x + heads @ layer.out.double().T
            both = norm(x) @ layer.up.double().T
            gate = both[:, :96]
            x = x + (gate * gate.sigmoid() * both[:, 96:]) @ layer.down.double().T
        found.append(norm(x[-1]) @ decoder.head.double().T)
    exact, ours = torch.stack(found), decoder.logits(tokens, 0).double()
    off = ((exact - ours).pow(2).mean().sqrt() / exact.std()).item()
    assert off < 0.03, off


def test_order_and_places_matter(decoder):
    tokens = torch.arange(9)[None].repeat(2, 1)
    ordered, reversed_ = decoder.logits(tokens, 0), decoder.logits(tokens.flip(1)[:, [*range(8), 8]], 0)
    assert not torch.allclose(ordered, reversed_, atol=0.01)
    swapped = tokens[:, [1, 0, *range(2, 9)]]
    assert not torch.equal(decoder.logits(tokens, 0), decoder.logits(swapped, 0))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="dense decoders"):
        torch_decoder.Decoder(torch, load_model("mixtral-8x7b"), rows=1, longest=4)
