"""Models by name or from a Hugging Face ``config.json``.

A name is looked up among our own facts (``profiles/models/*.json``), then among the configurations that
``aiconfigurator-core`` ships, which are read as files: the package itself is heavy and is not imported.
"""

import os.path
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from profiles.architectures import ARCHITECTURES
from profiles.errors import InputError
from profiles.hfconfig import Config, read_json
from profiles.model import Model
from profiles.quantization import weight_format

FACTS = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One line of ``zenith models``; KV bytes are of bf16, all layers."""

    name: str
    source: str
    kind: str
    parameters: int
    active_parameters: int
    kv_bytes_per_token: float
    max_positions: int


def load_model(name_or_path: str) -> Model:
    """The model of a name, or of a ``config.json`` or the directory that holds it.

    Names do not distinguish case: our short names (``llama-3.1-8b``), Hugging Face identifiers
    (``meta-llama/Llama-3.1-8B``) or their last part.

    Raises
    ------
    InputError
        When nothing has that name (with the nearest that has), the architecture is not known, or a field
        is missing or wrong.

    Examples
    --------
    >>> model = load_model("llama-3.1-8b")
    >>> model.parameters(), model.kv_bytes_per_token(), model.checkpoint
    (8030261248, 131072.0, 'meta-llama/Llama-3.1-8B')
    """
    path = Path(name_or_path)
    if os.path.isdir(path) and os.path.exists(path / "config.json"):  # a name may be too long for a file
        path /= "config.json"
    if os.path.isfile(path):
        name = path.parent.resolve().name if path.name == "config.json" else path.stem
        checkpoint = str(path.parent) if path.name == "config.json" else name
        return _read(path, name=name, source=str(path), checkpoint=checkpoint)
    names = _names()
    known = names.get(name_or_path.lower())
    if known is not None:
        checkpoint = name_or_path if "/" in name_or_path else known.checkpoint
        return _read(known.path, name=known.name, source=known.source, checkpoint=checkpoint)
    if os.path.isdir(path):
        raise InputError(f"{path}: the directory has no config.json")
    if path.suffix == ".json":
        raise InputError(f"{path}: no such file")
    near = get_close_matches(name_or_path.lower(), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "'zenith models' lists what is known"
    raise InputError(f"model {name_or_path!r} is not known; {hint}")


def known_models() -> list[ModelRecord]:
    """What ``load_model`` can load by name, ours first, then by name.

    Shipped configurations of architectures that are not known are left out.
    """
    records = []
    for known in dict.fromkeys(_names().values()):
        try:
            model = _read(known.path, name=known.name, source=known.source, checkpoint=known.checkpoint)
        except InputError:
            if known.path.parent == FACTS:
                raise
            continue
        records.append(
            ModelRecord(
                name=model.name,
                source=model.source,
                kind=model.kind,
                parameters=model.parameters(),
                active_parameters=model.active_parameters(),
                kv_bytes_per_token=model.kv_bytes_per_token(),
                max_positions=model.max_positions,
            )
        )
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A configuration that has a name."""

    name: str
    path: Path
    source: str
    checkpoint: str


@cache
def _names() -> dict[str, _Known]:
    """Lower-case name to configuration; the first claim to a name counts."""
    names: dict[str, _Known] = {}
    for known, aliases in (*_own(), *_shipped()):
        if aliases[0].lower() in names:
            continue
        for alias in aliases:
            names.setdefault(alias.lower(), known)
    return names


def _own() -> Iterator[tuple[_Known, list[str]]]:
    for path in sorted(FACTS.glob("*.json")):
        config = Config(where=str(path), fields=read_json(path))
        ids = config.items("names", str) or []
        known = _Known(
            name=path.stem, path=path, source=config.text("source"), checkpoint=ids[0] if ids else path.stem
        )
        yield known, [path.stem, *ids, *(_short(each) for each in ids)]


def _shipped() -> Iterator[tuple[_Known, list[str]]]:
    spec = find_spec("aiconfigurator_core")
    for root in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(root, "model_configs").glob("*--*_config.json")):
            if not path.name.endswith("_hf_quant_config.json"):
                name = path.name.removesuffix("_config.json").replace("--", "/")
                source = f"config.json of {name}, from aiconfigurator-core"
                known = _Known(name=name, path=path, source=source, checkpoint=name)
                yield known, [name, _short(name)]


def _short(identifier: str) -> str:
    return identifier.rpartition("/")[2]


def _read(path: Path, *, name: str, source: str, checkpoint: str) -> Model:
    """The model in a configuration file."""
    config = Config(where=str(path), fields=read_json(path))
    architectures = config.items("architectures", str)
    if not architectures:
        raise config.wrong("architectures", "a list with the name of the architecture")
    architecture = architectures[0]
    family = ARCHITECTURES.get(architecture)
    if family is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(f"{path}: architectures[0]={architecture!r} is not known; known: {known}")
    part = config
    if family.section and config.has(family.section):
        part = config.section(family.section)
        if config.has("tie_word_embeddings"):  # the whole decides, as in Hugging Face
            part = replace(
                part, fields={**part.fields, "tie_word_embeddings": config.fields["tie_word_embeddings"]}
            )
    try:
        model = family.build(part.otherwise(**family.defaults))
    except ValueError as error:  # a law of the dataclasses that no single field decides
        raise InputError(f"{path}: {error}") from None
    tower, left_out = 0, family.left_out
    if family.tower and config.has("vision_config"):
        vision = config.section("vision_config").otherwise(**family.tower_defaults)
        tower, left_out = family.tower(vision, model.decoder.hidden), "its tower takes memory, no time"
    return replace(
        model,
        name=name,
        checkpoint=checkpoint,
        architecture=architecture,
        tower_parameters=tower,
        weight_format=weight_format(config, _modelopt(path)),
        source=f"{source}; {left_out}" if left_out else source,
    )


def _modelopt(path: Path) -> Config | None:
    """What ModelOpt wrote beside the configuration, if it did."""
    beside = path.with_name(path.name.removesuffix("config.json") + "hf_quant_config.json")
    return Config(where=str(beside), fields=read_json(beside)) if beside.is_file() else None
