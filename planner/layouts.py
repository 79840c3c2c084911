"""From numbers to plans: what a layout and a setting of the plan space are, and what memory they need."""

import dataclasses
import math
from itertools import product
from typing import Any

from planner.axes import even_layers
from planner.question import Question
from profiles import memory
from profiles.device import Device
from profiles.model import Model
from profiles.plan import Plan, Policy
from traces.trace import Trace


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What besides the layout decides memory; fields are axes of ``planner.axes``. The policy does by whether
    a prompt longer than the token budget runs whole."""

    weights: str
    activations: str
    kv: str
    budget: int
    seqs: int
    policy: Policy


def settings(question: Question, device: Device) -> tuple[Setting, ...]:
    """Allowed combinations of formats, token budget, sequences and policy, in the order of the question."""
    rest = product(*(question.options(axis) for axis in ("kv", "budget", "seqs", "policy")))
    found = (
        Setting(
            weights=w,
            activations=a,
            kv=str(kv),
            budget=int(str(budget)),
            seqs=int(str(seqs)),
            policy=policy,  # type: ignore[arg-type]
        )
        for (w, a), (kv, budget, seqs, policy) in product(question.pairs_of_formats(device), rest)
    )
    return tuple(
        s for s in found if not any(getattr(s, axis, None) == value for axis, value in question.forbid)
    )


def longest_of(trace: Trace) -> memory.Longest:
    """What of a trace decides memory.

    Examples
    --------
    >>> import numpy as np
    >>> columns = {"prompt_tokens": np.array([9, 5]), "output_tokens": np.array([1, 8])}
    >>> longest_of(Trace(arrival_s=np.zeros(2), **columns))
    Longest(prompt=9, request=13)
    """
    requests = trace.prompt_tokens + trace.output_tokens
    return memory.Longest(prompt=int(trace.prompt_tokens.max()), request=int(requests.max()))


def blocks_needed(question: Question) -> int:
    """KV blocks that one attention rank must have to admit the longest request above the watermark."""
    engine = question.settings()
    own = -(-longest_of(question.trace).request // engine.block_size)
    return math.ceil(own / (1 - engine.watermark))


def stage_parts(model: Model, plan: Plan) -> tuple[tuple[float, ...], ...]:
    """Weights, cross-attention cache, and KV of one token: bytes on one device of each stage."""
    return (
        memory.stage_weight_bytes(model, plan),
        memory.cross_kv_bytes(model, plan),
        memory.kv_bytes_per_token(model, plan),
    )


def fullest_need_bytes(model: Model, plan: Plan, blocks: int, longest: memory.Longest) -> float:
    """Bytes of the fullest device: weights, activations, reserve, and KV of ``blocks`` blocks."""
    tokens = blocks * plan.engine.block_size
    stages = zip(*stage_parts(model, plan), strict=True)
    fullest: float = max(weights + cross + tokens * per_token for weights, cross, per_token in stages)
    return fullest + memory.activation_bytes(model, plan, longest) + memory.reserve_bytes(plan)


def layers_of(question: Question, stages: int) -> tuple[int, ...]:
    """Layers per stage: those the user fixed, or as even as they can be."""
    fixed = question.fix.get("layers")
    return fixed if isinstance(fixed, tuple) else even_layers(len(question.model.decoder.layers), stages)


def plan_of(question: Question, layout: tuple[int, ...], setting: Setting) -> Plan:
    """The plan of a layout (``formulations.problem.Layout``) and a setting, at the first clock."""
    replicas, stages, attn_tp, attn_dp, ffn_tp, ep, ffn_dp = layout
    formats: dict[str, Any] = {
        "weight_format": setting.weights,
        "activation_format": setting.activations,
        "kv_format": setting.kv,
    }
    engine = dataclasses.replace(
        question.settings(), token_budget=setting.budget, max_seqs=setting.seqs, policy=setting.policy
    )
    return Plan(
        replicas=replicas,
        layers_per_stage=layers_of(question, stages),
        attn_tp=attn_tp,
        attn_dp=attn_dp,
        ffn_tp=ffn_tp,
        ffn_ep=ep,
        ffn_dp=ffn_dp,
        engine=engine,
        **formats,
    )
