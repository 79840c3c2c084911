"""Moving a profile moves what is named, by the factor that is said, and nothing else."""

import numpy as np
import pytest

from profiles.device import load_device
from profiles.engine import load_engine
from profiles.moved import AS_IT_IS, COLLECTIVES, FAMILIES, Moved, Noise
from profiles.ops import Link
from profiles.roofline import Roofline

TOKENS = np.array([1, 64, 4096])
HEADS = {"q_heads": 8, "kv_heads": 2, "head_dim": 128, "value_dim": 128, "window": 0, "kv": "bf16"}
MLA = {"heads": 8, "head_dim": 128, "value_dim": 128, "kv_rank": 512, "rope_dim": 64, "kv": "bf16"}
LINK = Link(
    ranks=4, nodes=1, intra_bandwidth=4e11, inter_bandwidth=5e10, intra_latency_s=1e-6, inter_latency_s=5e-6
)
ASKED = {
    "gemm": lambda o: o.gemm(TOKENS, n=4096, k=4096, weight="bf16", activation="bf16"),
    "prefill_attention": lambda o: o.prefill_attention(TOKENS, causal=True, **HEADS),
    "encoder_attention": lambda o: o.prefill_attention(TOKENS, causal=False, **HEADS),
    "decode_attention": lambda o: o.decode_attention(TOKENS, TOKENS * 2, **HEADS),
    "mla_prefill": lambda o: o.mla_prefill(TOKENS, **MLA),
    "mla_decode": lambda o: o.mla_decode(TOKENS, TOKENS, **MLA),
    "moe": lambda o: o.moe(
        TOKENS, hidden=4096, inner=1024, experts=8, top_k=2, tp=1, ep=1, gated=True, weight="bf16", activation="bf16"
    ),
    "stream": lambda o: o.stream(TOKENS * 8192.0),
    **{kind: (lambda o, kind=kind: o.collective(kind, TOKENS * 8192.0, LINK)) for kind in COLLECTIVES},
}  # fmt: skip
ROOFLINE = Roofline(load_device("h100"))


def test_every_family_is_asked_for_here():
    assert set(ASKED) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_factor_moves_its_family_alone(family):
    moved = Moved(factors=((family, 1.25),)).operations(ROOFLINE)
    for name, ask in ASKED.items():
        before, after = ask(ROOFLINE), ask(moved)
        assert after.seconds == pytest.approx(before.seconds * (1.25 if name == family else 1.0), rel=1e-12)
        assert (after.bytes == before.bytes).all() and (after.provenance == before.provenance).all()


def test_constants_of_the_engine_move_alone():
    engine = load_engine("vllm-v0")
    moved = Moved(factors=(("prefill_s", 2.0), ("memory_scale", 0.5))).engine(engine)
    assert moved.prefill_s == 2 * engine.prefill_s and moved.memory_scale == 0.5
    assert (moved.iteration_s, moved.sequence_s) == (engine.iteration_s, engine.sequence_s)
    assert AS_IT_IS.engine(engine) is engine and AS_IT_IS.operations(ROOFLINE) is ROOFLINE


def noise(draw=0, seed=0, sigma=0.1):
    return Noise(sigma=((("gemm", "bf16"), (sigma,) * 4), (("stream", ""), (0.0,) * 4)), seed=seed, draw=draw)


def test_noise_is_the_same_every_time_and_another_for_other_shapes_draws_and_seeds():
    def factor(shape, **which):
        moved = Moved(noise=noise(**which)).operations(ROOFLINE)
        ask = {"n": shape, "k": 4096, "weight": "bf16", "activation": "bf16"}
        return (moved.gemm(TOKENS, **ask).seconds / ROOFLINE.gemm(TOKENS, **ask).seconds)[0]

    assert factor(4096) == factor(4096)
    assert len({factor(4096), factor(2048), factor(4096, draw=1), factor(4096, seed=1)}) == 4


def test_noise_has_the_spread_that_is_said():
    logs = []
    for draw in range(400):
        moved = Moved(noise=noise(draw=draw)).operations(ROOFLINE)
        logs.append(np.log(ASKED["gemm"](moved).seconds[0] / ASKED["gemm"](ROOFLINE).seconds[0]))
    assert abs(np.mean(logs)) < 0.02 and np.std(logs) == pytest.approx(0.1, rel=0.1)


def test_what_has_no_spread_stays():
    moved = Moved(noise=noise()).operations(ROOFLINE)
    for name in ("stream", "all_reduce", "decode_attention"):
        assert (ASKED[name](moved).seconds == ASKED[name](ROOFLINE).seconds).all()


@pytest.mark.parametrize("factors", [(("gem", 1.0),), (("gemm", 0.0),), (("gemm", float("inf")),)])
def test_what_is_no_number_of_a_profile_is_refused(factors):
    with pytest.raises(ValueError, match="gem"):
        Moved(factors=factors)
