"""Weight format of a checkpoint, from ``quantization_config`` or ModelOpt's ``hf_quant_config.json``."""

from collections.abc import Mapping

from profiles.hfconfig import Config

_METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "awq": "bits",
    "gptq": "bits",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "groups",
    "modelopt": "algorithm",
    "modelopt_fp4": "algorithm",
}
_ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "INT8_SQ": "int8",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "NVFP4": "fp4",
    "W4A16_NVFP4": "fp4",
    "W4A16": "int4",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
}
"""Of ModelOpt. What activations are in is the plan's choice, not the checkpoint's."""


def weight_format(config: Config, modelopt: Config | None = None) -> str:
    """Format in which an engine holds the weights, key of ``FORMAT_BYTES``.

    An unquantized checkpoint is ``bf16`` even where it is stored in fp32 (GPT-2, T5): engines load it in 16
    bits by default. ``modelopt`` is the content of ``hf_quant_config.json`` and counts where the
    configuration itself says nothing.

    Raises
    ------
    InputError
        When the method is unknown or differs from layer to layer: a guess would be wrong silently.

    Examples
    --------
    >>> weight_format(Config(where="config.json", fields={"quantization_config": {"quant_method": "fp8"}}))
    'fp8'
    """
    if config.has("quantization_config"):
        quantization = config.section("quantization_config")
    elif config.has("text_config") and config.section("text_config").has("quantization_config"):
        quantization = config.section("text_config").section("quantization_config")
    elif modelopt is not None:
        return _algorithm(modelopt.section("quantization"))
    else:
        return "bf16"
    method = quantization.text("quant_method", default="modelopt")
    rule = _choose(quantization, "quant_method", method, _METHODS)
    if quantization.fields.get("quant_algo") == "MIXED_PRECISION" or rule == "algorithm":
        return _algorithm(quantization)
    if rule == "bits":
        return _of_bits(quantization, "bits")
    if rule == "bitsandbytes":
        return "int4" if quantization.flag("load_in_4bit", default=False) else "int8"
    if rule == "groups":
        return _groups(quantization)
    return rule


def _algorithm(quantization: Config) -> str:
    algorithm = quantization.text("quant_algo")
    return _choose(quantization, "quant_algo", algorithm, _ALGORITHMS)


def _groups(quantization: Config) -> str:
    """compressed-tensors: groups of layers, each with its number of bits; all must agree."""
    groups = quantization.section("config_groups")
    formats: set[str] = set()
    for name in groups.fields:
        weights = groups.section(name).section("weights")
        bits = _of_bits(weights, "num_bits")
        formats.add("fp8" if bits == "int8" and weights.text("type", default="int") == "float" else bits)
    if len(formats) != 1:
        raise quantization.wrong("config_groups", "groups of one weight format")
    return formats.pop()


def _of_bits(config: Config, name: str) -> str:
    bits = config.integer(name)
    if bits not in (4, 8):
        raise config.wrong(name, "4 or 8")
    return f"int{bits}"


def _choose(config: Config, field: str, value: str, known: Mapping[str, str]) -> str:
    if value not in known:
        raise config.wrong(field, f"one of {', '.join(known)}")
    return known[value]
