"""Work of a forward pass, for utilization (MFU, MBU): what must be computed and read at the least."""

from profiles.memory import plain_bytes, stage_weight_bytes
from profiles.model import Model
from profiles.plan import Plan


def flops_per_token(model: Model) -> float:
    """2 per parameter that a token meets in the layers: of routed experts ``top_k``. Look-ups of the
    embedding are none; the LM head runs once per sequence and is left out.

    Where an encoder reads the prompt, a prompt token meets the encoder and a generated one the decoder:
    the decoder's count stands for both.
    """
    decoder = model.decoder
    return 2.0 * (decoder.active_parameters() - decoder.extra_parameters)


def attention_flops_per_pair(model: Model) -> float:
    """2 per query-key product and 2 per value weighed, all heads and layers; windows are not subtracted."""
    each = [
        sum(2.0 * c.q_heads * (c.head_dim + c.value_dim) for c in block.attention if not c.cross)
        for block in model.decoder.blocks
    ]
    return sum(each[i] for i in model.decoder.layers)


def weight_bytes(model: Model, plan: Plan) -> float:
    """Weights of all devices of a replica that a full iteration reads: all but the embedding's table,
    which is looked up; a tied one is read as the LM head."""
    held = plan.stage_devices * sum(stage_weight_bytes(model, plan))
    if model.tied and plan.stages == 1:
        return held
    return held - plan.attn_dp * model.embedding_parameters * plain_bytes(plan)
