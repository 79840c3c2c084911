"""Which builder reads which architecture, and Hugging Face's defaults for what a file leaves out.

Defaults are those of the configuration classes of transformers 5.23, tabulated in ``docs/models.md``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from profiles import family_encoder, family_layernorm, family_rms, towers
from profiles.hfconfig import Config
from profiles.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How an architecture is read.

    Parameters
    ----------
    build
        Makes the model from a configuration that holds ``defaults``.
    defaults
        Values of fields that a file may leave out.
    section
        The object of a composite configuration that is planned, ``""`` for the whole.
    tower
        Counts the parameters of the tower that ``vision_config``, with ``tower_defaults``, describes.
    left_out
        What the model lacks compared with the checkpoint; part of ``Model.source``.
    """

    build: Callable[[Config], Model]
    defaults: dict[str, Any]
    section: str = ""
    tower: Callable[[Config, int], int] | None = None
    tower_defaults: dict[str, Any] = field(default_factory=dict)
    left_out: str = ""


def _family(build: Callable[[Config], Model], **defaults: Any) -> Family:
    return Family(build=build, defaults=defaults)


def _text_of(
    family: Family, tower: Callable[[Config, int], int] | None = None, **tower_defaults: Any
) -> Family:
    """The text part of a multimodal model, and the parameters of its tower where they can be counted."""
    return Family(
        build=family.build,
        defaults=family.defaults,
        section="text_config",
        tower=tower,
        tower_defaults=tower_defaults,
        left_out="text part, vision left out",
    )


_QWEN = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_DEEPSEEK_V3 = Family(
    build=family_rms.deepseek,
    defaults={
        "q_lora_rank": 1536,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "topk_method": "noaux_tc",
        "max_position_embeddings": 4096,
    },
    left_out="multi-token prediction layers left out",
)
_GEMMA2 = {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True}
_GEMMA3 = _family(
    family_rms.gemma3,
    **_GEMMA2,
    num_attention_heads=8,
    vocab_size=262208,
    max_position_embeddings=131072,
)
_LLAMA4 = _family(
    family_rms.llama4,
    num_key_value_heads=8,
    head_dim=128,
    attention_chunk_size=8192,
    intermediate_size_mlp=16384,
    max_position_embeddings=131072,
)
_QWEN3 = _family(family_rms.qwen3, **_QWEN, head_dim=128)
_QWEN3_MOE = _family(family_rms.qwen3_moe, **{**_QWEN, "num_key_value_heads": 4})
_QWEN3_VL = {
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
}
_T5 = _family(family_encoder.t5, n_positions=512)
_CLIP = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
ARCHITECTURES: dict[str, Family] = {
    "BloomForCausalLM": _family(family_layernorm.bloom, seq_length=2048),
    "CLIPModel": Family(
        build=family_encoder.clip_vision,
        defaults=_CLIP,
        section="vision_config",
        left_out="image tower, text tower and projections left out",
    ),
    "CLIPVisionModel": Family(build=family_encoder.clip_vision, defaults=_CLIP, section="vision_config"),
    "DeepseekV2ForCausalLM": _family(
        family_rms.deepseek, q_lora_rank=1536, n_shared_experts=2, max_position_embeddings=2048
    ),
    "DeepseekV3ForCausalLM": _DEEPSEEK_V3,
    "GPT2LMHeadModel": _family(family_layernorm.gpt2, n_positions=1024),
    "GPTBigCodeForCausalLM": _family(family_layernorm.gpt2, n_positions=1024, multi_query=True),
    "GPTJForCausalLM": _family(family_layernorm.gptj, n_positions=2048, tie_word_embeddings=False),
    "GPTNeoXForCausalLM": _family(
        family_layernorm.gpt_neox, max_position_embeddings=2048, tie_word_embeddings=False
    ),
    "GemmaForCausalLM": _family(
        family_rms.gemma,
        num_key_value_heads=16,
        head_dim=256,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "Gemma2ForCausalLM": _family(family_rms.gemma2, **_GEMMA2, max_position_embeddings=8192),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _text_of(
        _GEMMA3, towers.siglip, num_channels=3, image_size=224, patch_size=16
    ),
    "GptOssForCausalLM": _family(family_rms.gpt_oss, num_key_value_heads=8, head_dim=64, sliding_window=128),
    "KimiK25ForConditionalGeneration": _text_of(_DEEPSEEK_V3),
    "Llama4ForCausalLM": _LLAMA4,
    "Llama4ForConditionalGeneration": _text_of(
        _LLAMA4,
        towers.llama4,
        num_channels=3,
        image_size=448,
        patch_size=14,
        intermediate_size=5632,
        num_hidden_layers=34,
        projector_input_dim=4096,
        projector_output_dim=4096,
        vision_output_dim=7680,
    ),
    "LlamaForCausalLM": _family(family_rms.llama, max_position_embeddings=2048),
    "MiMoForCausalLM": _family(family_rms.qwen2, **_QWEN),
    "MiniMaxM2ForCausalLM": _family(
        family_rms.mixtral, num_key_value_heads=8, use_qk_norm=True, use_routing_bias=True
    ),
    "MistralForCausalLM": _family(
        family_rms.mistral, num_key_value_heads=8, sliding_window=4096, max_position_embeddings=131072
    ),
    "MixtralForCausalLM": _family(family_rms.mixtral, num_key_value_heads=8, max_position_embeddings=131072),
    "OPTForCausalLM": _family(family_layernorm.opt, max_position_embeddings=2048),
    "Phi3ForCausalLM": _family(family_rms.mistral, max_position_embeddings=4096),
    "Qwen2ForCausalLM": _family(family_rms.qwen2, **_QWEN),
    "Qwen2MoeForCausalLM": _family(family_rms.qwen2_moe, **{**_QWEN, "num_key_value_heads": 16}),
    "Qwen3ForCausalLM": _QWEN3,
    "Qwen3MoeForCausalLM": _QWEN3_MOE,
    "Qwen3VLForConditionalGeneration": _text_of(_QWEN3, towers.qwen3_vl, **_QWEN3_VL),
    "Qwen3VLMoeForConditionalGeneration": _text_of(_QWEN3_MOE, towers.qwen3_vl, **_QWEN3_VL),
    "T5ForConditionalGeneration": _T5,
    "T5WithLMHeadModel": _T5,
    "WhisperForConditionalGeneration": _family(
        family_encoder.whisper, max_source_positions=1500, max_target_positions=448
    ),
}
"""By the word in ``architectures`` of a configuration."""
