"""StepCost of compiled plans: the contract of its tables, and laws against work counted by hand."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.compile import Compiler, compile_plan
from profiles.device import load_device
from profiles.engine import EngineProfile, engines, load_engine
from profiles.errors import InputError
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerModel
from profiles.roofline import Roofline
from profiles.stepcost import PS
from tests.profiles.fakes import LAUNCH_S, FakeDevice, FakeOperations, FakePower, link
from tests.profiles.handmade import (
    CLIP,
    DEEPSEEK_V3,
    EVERY_KIND,
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL,
    NEOX,
    SLIDING,
    T5,
    TINY,
    WHISPER,
)

SMALL = EngineSettings(max_seqs=24, token_budget=300)
LENGTH = 2000


def compiled(model, device=None, *, engine=None, max_length=LENGTH, faster=1.0, **layout):
    device = device or FakeDevice()
    layout.setdefault("layers_per_stage", (len(model.decoder.layers),))
    plan = Plan(**{"engine": SMALL} | layout)
    fast = [
        replace(one, intra_bandwidth=one.intra_bandwidth * faster)
        for one in (link(plan.attn_tp), link(plan.ffn_tp * plan.ffn_ep), link(2))
    ]
    return compile_plan(
        model,
        plan,
        device,
        FakeOperations(device),
        link_tensor=fast[0],
        link_ffn=fast[1],
        stage_links=(fast[2],) * (plan.stages - 1),
        engine=engine or load_engine("none"),
        power=FakePower(),
        max_length=max_length,
    )


def decode(step, p, b, s):
    if not b:
        return 0
    j = np.searchsorted(b * step.knots, s, side="right") - 1
    return step.decode_value_ps[p, b, j] + step.decode_slope_ps[p, b, j] * (s - b * step.knots[j])


def decode_nj(step, p, b, s):
    j = np.searchsorted(b * step.knots, s, side="right") - 1
    return step.decode_value_nj[p, b, j] + step.decode_slope_nj[p, b, j] * (s - b * step.knots[j])


def iteration_ps(step, *, decodes=0, context=0, chunks=()):
    """One iteration in which every rank has the same batch, stage after stage."""
    tokens = decodes + sum(c for c, _ in chunks)
    total = 0
    for p in range(step.stages):
        work = step.local_ps[p, tokens] + decode(step, p, decodes, decodes * context)
        if chunks:
            g = step.prefill_ps[p]
            work += step.prefill_launch_ps[p] + sum(max(g[c], g[x + c] - g[x]) for c, x in chunks)
        total += work + step.shared_ps[p, step.ranks * tokens]
        if p + 1 < step.stages:
            total += step.send_ps[p, step.ranks * tokens]
    return int(total + step.head_ps[step.ranks * (decodes + len(chunks))])


LAYOUTS = {
    "one": {},
    "tp": {"attn_tp": 4, "ffn_tp": 4},
    "gathered": {"attn_tp": 2, "attn_dp": 2, "ffn_tp": 4},
    "experts": {"attn_dp": 4, "ffn_ep": 4},
    "mixed": {"attn_tp": 2, "attn_dp": 2, "ffn_tp": 2, "ffn_ep": 2},
    "scattered": {"attn_tp": 4, "ffn_tp": 2, "ffn_dp": 2},
}


@cache
def every(kind, layout, stages=1):
    model = EVERY_KIND[kind]
    layers = len(model.decoder.layers)
    first = layers // 2 + 1 if stages == 2 else layers
    return compiled(
        model,
        layers_per_stage=(first, layers - first)[:stages] if stages > 1 else (layers,),
        **LAYOUTS[layout],
    )


CASES = [(kind, layout, 1) for kind in EVERY_KIND for layout in LAYOUTS]
CASES += [(kind, "tp", 2) for kind in EVERY_KIND]


@pytest.mark.parametrize(("kind", "layout", "stages"), CASES)
def test_tables_are_whole_numbers_that_never_fall(kind, layout, stages):
    step = every(kind, layout, stages)
    for name in ("local", "shared", "head", "send", "prefill"):
        for unit in ("ps", "nj"):
            table = getattr(step, f"{name}_{unit}")
            assert table.dtype == np.int64
            assert (np.diff(table, axis=-1) >= 0).all(), name
            assert (table[..., 0] == 0).all(), name
    assert step.local_ps.shape == step.local_nj.shape == (stages, step.max_tokens + 1)
    assert step.shared_ps.shape == step.shared_nj.shape == (stages, step.ranks * step.max_tokens + 1)
    assert step.send_ps.shape == (stages - 1, step.ranks * step.max_tokens + 1)
    assert step.head_ps.shape == (step.ranks * step.max_seqs + 1,)
    assert step.prefill_ps.shape == (stages, LENGTH + 1)
    assert step.decode_value_ps.shape == (stages, step.max_seqs + 1, len(step.knots))
    assert step.prefill_launch_ps.shape == (stages,)
    assert step.knots[0] == 0 and step.knots[-1] == LENGTH and (np.diff(step.knots) > 0).all()


@pytest.mark.parametrize(("kind", "layout", "stages"), CASES)
def test_decode_pieces_join_without_a_jump(kind, layout, stages):
    step = every(kind, layout, stages)
    for unit in ("ps", "nj"):
        value, slope = getattr(step, f"decode_value_{unit}"), getattr(step, f"decode_slope_{unit}")
        assert value.dtype == slope.dtype == np.int64
        assert (slope >= 0).all() and (value[:, 0] == 0).all() and (slope[:, 0] == 0).all()
        widths = np.arange(step.max_seqs + 1)[:, None] * np.diff(step.knots)
        assert (value[..., :-1] + slope[..., :-1] * widths == value[..., 1:]).all()


@pytest.mark.parametrize(("kind", "layout", "stages"), CASES)
def test_parts_add_up_and_provenance_is_whole(kind, layout, stages):
    step = every(kind, layout, stages)
    for name in ("local", "shared", "head"):
        parts = getattr(step, f"{name}_parts")
        table = getattr(step, f"{name}_ps")
        assert (sum(parts.values()) == (table if name == "head" else table.sum(axis=0))).all()
        shares = getattr(step, f"{name}_provenance")
        assert shares.sum(axis=0)[1:] == pytest.approx(1.0)
    if step.decode_value_ps.any():
        assert step.decode_provenance.sum(axis=0)[1:] == pytest.approx(1.0)
    assert step.prefill_provenance.sum() == pytest.approx(1.0)


BATCHES = st.tuples(
    st.integers(0, 22),
    st.integers(1, 1500),
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 900)), max_size=2),
)


@pytest.mark.parametrize(("kind", "layout"), [(k, x) for k in EVERY_KIND for x in LAYOUTS])
@settings(deadline=None, max_examples=15, derandomize=True)
@given(batch=BATCHES)
def test_more_bandwidth_never_takes_longer(kind, layout, batch):
    decodes, context, chunks = batch
    model = EVERY_KIND[kind]
    slow, fast = every(kind, layout), faster(kind, layout)
    if model.kind == "encoder":
        decodes = 0
    if model.kind != "decoder":
        chunks = [(c, 0) for c, _ in chunks]
    if decodes + len(chunks):
        one = iteration_ps(slow, decodes=decodes, context=context, chunks=chunks)
        # Each table and slope is rounded on its own: half a picosecond per KV token and table.
        rounding = 1 + decodes * context + 20
        assert iteration_ps(fast, decodes=decodes, context=context, chunks=chunks) <= one + rounding


@cache
def faster(kind, layout):
    return compiled(EVERY_KIND[kind], FakeDevice(bandwidth=4e12), faster=2.0, **LAYOUTS[layout])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    batch=BATCHES.filter(lambda b: b[0] + len(b[2])),
    width=st.sampled_from([1, 2, 4]),
    form=st.sampled_from(["bf16", "fp8", "int4"]),
)
def test_iteration_takes_at_least_its_compute_and_its_memory(batch, width, form):
    decodes, context, chunks = batch
    activation = "bf16" if form == "int4" else form
    step = small_llama(width, form, activation)
    seconds = iteration_ps(step, decodes=decodes, context=context, chunks=chunks) / PS
    tokens = decodes + sum(c for c, _ in chunks)
    pairs = decodes * context + sum(c * x + c * (c + 1) // 2 for c, x in chunks)
    head = 2 * LLAMA_8B.vocab * LLAMA_8B.decoder.hidden
    sequences = decodes + len(chunks)
    linear = tokens * step.flops_per_token / step.peak_flops
    # Attention and head compute in bf16.
    (attention,) = step.attention
    rest = pairs * attention.flops_per_pair * 0.999 + head * sequences
    compute = linear * 0.999 + rest / (FakeDevice().flops("bf16") * width)
    kv = decodes * context * attention.kv_bytes_per_token
    memory = (step.weight_bytes + kv) / step.peak_bandwidth
    assert seconds >= max(compute, memory * 0.999)


@cache
def small_llama(width, form, activation):
    return compiled(LLAMA_8B, attn_tp=width, ffn_tp=width, weight_format=form, activation_format=activation)


def test_one_iteration_by_hand():
    """TINY: 4 layers, hidden 256, 4 heads and 2 KV heads of 64, inner 512, vocabulary 1000, on one device:
    8 sequences decode with 100 tokens each (every number is bf16: 2 bytes), one prompt of 64 begins."""
    step = compiled(TINY)
    rate, bandwidth = 4e14, 2e12

    def kernel(flops, moved):
        return max(flops / rate, moved / bandwidth) + LAUNCH_S

    def gemm(m, n, k):
        return kernel(2 * m * n * k, 2 * (m * k + k * n + m * n))

    m = 8 + 64
    layer = (
        2 * kernel(0, 4 * m * 256 * 2)  # norms
        + gemm(m, 256 + 2 * 128, 256)
        + kernel(0, m * 2 * (2 * (256 + 128) + 2 * 256))  # rotate q, k; read and write k, v
        + gemm(m, 256, 256)
        + gemm(m, 2 * 512, 256)
        + kernel(0, m * 2 * 3 * 512)  # activation
        + gemm(m, 256, 512)
        + kernel(2 * 8 * 100 * 4 * 128, 8 * 100 * 2 * 128 * 2)  # decode attention
        + kernel(64 * 64 * 4 * 128, 64 * 2 * (4 + 2) * 128)  # prefill attention
    )
    lookup = kernel(0, 2 * m * 256 * 2)
    head = kernel(0, 4 * 9 * 256 * 2) + gemm(9, 1000, 256) + kernel(0, 9 * 1000 * 18)
    expected = 4 * layer + lookup + head
    seconds = iteration_ps(step, decodes=8, context=100, chunks=[(64, 0)]) / PS
    assert seconds == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["llama-256", "mixtral", "deepseek-v3", "neox", "sliding"])
def test_stages_of_a_pipeline_add_up_to_one_stage(kind):
    whole, split = every(kind, "tp"), every(kind, "tp", 2)
    for decodes, context, chunks in [(1, 50, []), (24, 900, []), (3, 10, [(200, 700)])]:
        one = iteration_ps(whole, decodes=decodes, context=context, chunks=chunks)
        tokens = decodes + sum(c for c, _ in chunks)
        two = iteration_ps(split, decodes=decodes, context=context, chunks=chunks) - int(
            split.send_ps[0, tokens]
        )
        assert two == pytest.approx(one, rel=1e-6)
    assert split.send_ps[0, 1] > 0


@pytest.mark.parametrize(("kind", "layout"), [(k, x) for k in EVERY_KIND for x in LAYOUTS])
def test_power_stays_between_idle_and_cap(kind, layout):
    step = every(kind, layout)
    devices = Plan(layers_per_stage=(1,), **LAYOUTS[layout]).stage_devices
    assert step.idle_w == 100 * devices
    above = 600e-3 * devices  # nJ per ps
    rank = above / step.ranks
    assert (step.local_nj <= rank * step.local_ps + 1).all() and step.local_nj[0, 1] > 0
    assert (step.shared_nj <= above * step.shared_ps + 1).all() and step.shared_nj[0, 1] > 0
    assert (step.head_nj <= above * step.head_ps + 1).all()
    assert (step.decode_value_nj <= rank * step.decode_value_ps + 1e5).all()
    assert (step.prefill_nj <= rank * step.prefill_ps + 2 + rank).all()
    growth = np.diff(step.prefill_nj) - rank * np.diff(step.prefill_ps)
    assert growth.max() <= 2 + rank


def test_formats_change_memory_and_time():
    base = compiled(LLAMA_8B)
    for change in ({"weight_format": "int4"}, {"weight_format": "fp8", "activation_format": "fp8"}):
        step = compiled(LLAMA_8B, **change)
        assert step.kv_blocks > base.kv_blocks and step.weight_bytes < base.weight_bytes
        assert iteration_ps(step, decodes=4, context=100) < 0.8 * iteration_ps(base, decodes=4, context=100)
    step = compiled(LLAMA_8B, kv_format="fp8")
    assert step.kv_blocks == pytest.approx(2 * base.kv_blocks, abs=1)
    assert step.swap_block_ps == pytest.approx(base.swap_block_ps / 2, abs=1)
    many = {"decodes": 24, "context": 1900}
    assert iteration_ps(step, **many) < iteration_ps(base, **many)


def test_engine_adds_its_time_where_it_says():
    engine = EngineProfile(
        name="slow", iteration_s=5e-3, sequence_s=1e-5, prefill_s=2e-2, source="test", error="none"
    )
    plain, slow = compiled(TINY), compiled(TINY, engine=engine)
    one = {"decodes": 10, "context": 100}
    assert iteration_ps(slow, **one) - iteration_ps(plain, **one) == round(5.1e-3 * PS)
    first = {"chunks": [(100, 0)]}
    assert iteration_ps(slow, **first) - iteration_ps(plain, **first) == round(25.01e-3 * PS)
    assert slow.local_parts["host"][1] == 5e-3 * PS
    assert slow.local_nj[0, 1] == plain.local_nj[0, 1]


def test_engines_load_and_unknown_ones_are_named():
    assert "none" in engines()
    for name in engines():
        assert load_engine(name).source
    with pytest.raises(InputError, match="did you mean 'none'"):
        load_engine("nome")


def test_parallel_block_reduces_once():
    """NEOX adds attention and feed-forward before one all-reduce; a serial block needs two."""
    step = compiled(NEOX, attn_tp=4, ffn_tp=4)
    assert "attention_allreduce" not in step.local_parts
    serial = replace(NEOX.decoder.blocks[0], parallel=False)
    model = replace(NEOX, decoder=replace(NEOX.decoder, blocks=(serial,)))
    assert "attention_allreduce" in compiled(model, attn_tp=4, ffn_tp=4).local_parts


def test_a_window_bounds_what_decode_reads():
    step = compiled(SLIDING, max_length=8000)
    reads = np.diff([int(decode(step, 0, 8, 8 * c)) for c in (500, 1000, 2000, 3000)]) / (500, 1000, 1000)
    assert reads[0] == pytest.approx(2 * reads[1], rel=1e-2)  # both kinds of layer, then one of them
    assert reads[1] == pytest.approx(reads[2], rel=1e-2)


def test_policies_that_do_not_chunk_take_the_longest_prompt():
    orca = replace(SMALL, policy="orca")
    assert compiled(TINY).max_tokens == 300
    assert compiled(TINY, engine=None, max_length=700).max_length == 700
    step = compile_plan(
        TINY,
        Plan(layers_per_stage=(4,), engine=orca),
        FakeDevice(),
        FakeOperations(FakeDevice()),
        link_tensor=link(1),
        link_ffn=link(1),
        stage_links=(),
        engine=load_engine("none"),
        power=FakePower(),
        max_length=700,
    )
    assert step.max_tokens == 700 + 24 and step.max_length == 700
    assert compiled(T5).max_tokens == LENGTH + 24 and not compiled(T5).chunkable


def test_whisper_encodes_its_fixed_input_once_per_request():
    step = compiled(WHISPER)
    one, two = iteration_ps(step, chunks=[(4, 0)]), iteration_ps(step, chunks=[(4, 0), (4, 0)])
    linear = 2 * 1500 * sum(b.parameters(512) for b in [WHISPER.encoder.blocks[0]] * 6)
    assert two - one >= linear / 4e14 * PS
    assert step.prefill_ps[0, 1] > 0.9 * step.prefill_ps[0, 8]
    # A decode step reads the encoder's keys however short the text is.
    assert decode(step, 0, 8, 8) / PS > 8 * 1500 * 6 * 2 * 512 * 2 / 2e12


def test_t5_prefill_costs_what_the_encoder_does():
    """Only the encoder and the cross projections see the prompt; the decoder runs one token."""
    step = compiled(T5)
    encoder = compiled(
        replace(T5, decoder=T5.encoder, encoder=None, lm_head=False, vocab=0, embedding_parameters=0)
    )
    for length in (500, 2000):
        ours = iteration_ps(step, chunks=[(length, 0)])
        true = iteration_ps(encoder, chunks=[(length, 0)]) + iteration_ps(step, decodes=1, context=1)
        assert 0.98 * true < ours < 1.2 * true


def test_encoder_only_has_one_pass_and_no_decode():
    step = compiled(CLIP)
    assert not step.decode_value_ps.any() and not step.decode_slope_ps.any()
    assert not step.chunkable and "head" not in step.head_parts


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("clock", [0, 990])
@pytest.mark.parametrize("measured", [False, True])
def test_real_costs_keep_the_contract(kind, clock, measured):
    """The roofline and the measured tables are less tame than the fake: noisy, tiled, saturating."""
    device, step = load_device("h100-sxm-80gb"), real(kind, measured, clock)
    above = (device.tdp_w - device.idle_w) * 2e-3
    for name in ("local", "shared", "head", "prefill"):
        times, joules = getattr(step, f"{name}_ps"), getattr(step, f"{name}_nj")
        assert (np.diff(times, axis=-1) >= 0).all() and (np.diff(joules, axis=-1) >= 0).all()
        assert (joules <= above * times + 2 + above).all()
    assert (step.decode_slope_ps >= 0).all() and (step.decode_slope_nj >= 0).all()
    assert step.local_ps[0, 1] > 1.1e-3 * PS
    if clock:
        fast = real(kind, measured, 0)
        assert (step.shared_ps >= fast.shared_ps - 1).all() and (step.prefill_ps >= fast.prefill_ps - 1).all()
        assert step.shared_nj[0, -1] < fast.shared_nj[0, -1]


@cache
def silicon():
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra: pip install .[silicon]")
    from profiles.silicon import Silicon

    return Silicon("h100_sxm", fallback=Roofline(load_device("h100-sxm-80gb")))


@cache
def real(kind, measured, clock):
    device, model = load_device("h100-sxm-80gb"), EVERY_KIND[kind]
    return compile_plan(
        model,
        Plan(
            layers_per_stage=(len(model.decoder.layers),), attn_tp=2, ffn_tp=2, clock_mhz=clock, engine=SMALL
        ),
        device,
        silicon() if measured else Roofline(device),
        link_tensor=link(2),
        link_ffn=link(2),
        stage_links=(),
        engine=load_engine("vllm-v1"),
        power=PowerModel(device),
        max_length=LENGTH,
    )


class Counting(FakeOperations):
    def __init__(self, device):
        super().__init__(device)
        self.calls = 0

    def _cost(self, *args, **more):
        self.calls += 1
        return super()._cost(*args, **more)


def test_depth_costs_nothing_and_plans_share_their_shards():
    device = FakeDevice()
    calls = []
    for layers in (2, 80):
        operations = Counting(device)
        model = replace(LLAMA_70B, decoder=replace(LLAMA_70B.decoder, layers=(0,) * layers))
        compiler = Compiler(model, device, operations, engine=load_engine("none"), power=FakePower())
        plan = Plan(layers_per_stage=(layers // 2, layers // 2), attn_tp=8, ffn_tp=8, engine=SMALL)
        one = {"link_tensor": link(8), "link_ffn": link(8), "max_length": LENGTH}
        compiler.compile(plan, stage_links=(link(2),), **one)
        calls.append(operations.calls)
        compiler.compile(replace(plan, layers_per_stage=(layers,), replicas=2), **one)
    assert calls == [operations.calls] * 2


def test_expert_parallelism_sends_tokens_to_their_experts():
    together = compiled(MIXTRAL, attn_tp=4, ffn_ep=4)
    apart = compiled(MIXTRAL, attn_dp=4, ffn_ep=4)
    assert "ffn_allreduce" in together.shared_parts and "dispatch" not in together.shared_parts
    assert {"dispatch", "combine"} <= set(apart.shared_parts)
    dense_first = compiled(DEEPSEEK_V3, attn_dp=4, ffn_ep=4)
    assert {"dispatch", "combine", "ffn_all_gather", "ffn_reduce_scatter"} <= set(dense_first.shared_parts)


def test_blocks_follow_the_longest_prompt_where_it_runs_whole():
    """1,700 tokens more of activations, in blocks of 16; a prompt of unknown length may be the whole request."""
    for policy, differ in (("static", True), ("vllm-v1", False)):
        plan = Plan(layers_per_stage=(32,), engine=replace(SMALL, policy=policy))
        device = replace(load_device("h100-sxm-80gb"), memory_bytes=40e9)
        compiler = Compiler(LLAMA_8B, device, Roofline(device), engine=load_engine("none"), power=FakePower())
        one = {"link_tensor": link(1), "link_ffn": link(1), "max_length": LENGTH}
        short, long, unsaid = (
            compiler.compile(plan, **one, **more).kv_blocks
            for more in ({"max_prompt": 300}, {"max_prompt": LENGTH}, {})
        )
        assert long == unsaid
        fewer = 1700 * 2 * (2 * 4096 + 3 * 14_336) / (16 * 128 * 1024) if differ else 0
        assert short - long == pytest.approx(fewer, abs=1)
    with pytest.raises(ValueError, match="longest prompt"):
        compiler.compile(plan, **one, max_prompt=LENGTH + 1)


def test_wrong_layouts_are_refused():
    with pytest.raises(InputError, match="expected 4"):
        compiled(TINY, layers_per_stage=(3,))
    with pytest.raises(ValueError, match="link between"):
        compile_plan(
            TINY,
            Plan(layers_per_stage=(2, 2)),
            FakeDevice(),
            FakeOperations(FakeDevice()),
            link_tensor=link(1),
            link_ffn=link(1),
            stage_links=(),
            engine=load_engine("none"),
            power=FakePower(),
            max_length=10,
        )
