"""Parameters of the vision towers of multimodal models, projector to the text part included.

Engines load them with the text part. They take memory, no time: traces count text tokens. Sizes are those of
Hugging Face's modules, checked against them. ``hidden`` is the width of the text part.
"""

from profiles.hfconfig import Config


def siglip(c: Config, hidden: int) -> int:
    """Gemma 3: SigLIP without its pooling head, a norm and one matrix."""
    width, patch = c.integer("hidden_size"), c.integer("patch_size")
    positions = (c.integer("image_size") // patch) ** 2
    stem = c.integer("num_channels") * patch * patch * width + width + positions * width
    layers = c.layers("num_hidden_layers") * _layer(width, c.integer("intermediate_size"))
    return stem + layers + 2 * width + width + width * hidden


def llama4(c: Config, hidden: int) -> int:
    """Llama 4: patches by one matrix, a class token, pixel shuffle, two matrices, and one to the text part."""
    width, patch, inner = c.integer("hidden_size"), c.integer("patch_size"), c.integer("intermediate_size")
    positions = (c.integer("image_size") // patch) ** 2 + 1
    stem = c.integer("num_channels") * patch * patch * width + width + positions * width
    layers = c.layers("num_hidden_layers") * _layer(width, inner)
    shuffled, out = c.integer("projector_input_dim"), c.integer("projector_output_dim")
    adapter = inner * shuffled + out * out
    return stem + layers + 4 * width + adapter + c.integer("vision_output_dim") * hidden


def qwen3_vl(c: Config, hidden: int) -> int:
    """Qwen3-VL: patches of two frames, a merger to the text part, and one more per deepstack level."""
    width, patch = c.integer("hidden_size"), c.integer("patch_size")
    stem = c.integer("in_channels") * c.integer("temporal_patch_size") * patch * patch * width + width
    stem += c.integer("num_position_embeddings") * width
    layers = c.layers("depth") * _layer(width, c.integer("intermediate_size"))
    merged = c.integer("spatial_merge_size") ** 2 * width
    merger = merged * merged + merged + merged * hidden + hidden
    levels = len(c.items("deepstack_visual_indexes", int) or ())
    return stem + layers + 2 * width + merger + levels * (2 * merged + merger)


def _layer(width: int, inner: int) -> int:
    """Attention and a plain feed-forward with biases, a LayerNorm before each."""
    return 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
