"""The question file: YAML in (docs/question-file.md), options of the commands out, or a ``Question``.

Three layers say what is asked, each over the one before: the file, ``--set KEY=VALUE``, flags. A key that one
layer gives takes the place of those that would contradict it in an earlier one. ``question.schema.json`` has the
form of the file; what a value means (a device, an axis, an amount) is checked here, and every mistake is one
line with the place of the key.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from planner.clashes import (
    ALL,
    MERGED,
    OF_PLAN,
    Rivals,
    check_file,
    check_words,
    give_way,
    keys_said,
    keys_varied,
)
from planner.document import SET, Document, Keys, read_document, read_value
from planner.file_keys import FILE_ONLY, KEYS
from planner.places import Places
from profiles.errors import InputError, nearest

if TYPE_CHECKING:
    from planner.question import Question

FOLDER = Path(__file__).parent
SCHEMA = FOLDER / "question.schema.json"
TEMPLATE = FOLDER / "question.template.yaml"
MOST_BYTES = 2**20
"""Of a question file: a longer one is something else."""


@cache
def schema() -> dict[str, Any]:
    """The published JSON Schema of a question file."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return found


def file_options(
    file: Path | None, sets: Sequence[str] = (), flags: Collection[str] = (), *,
    over: Mapping[str, Any] | None = None, choices: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a file and ``--set`` say, as options of the commands: ``placed_options`` without the places."""
    return placed_options(file, sets, {name: f"--{name}" for name in flags}, over=over, choices=choices)[0]


def placed_options(
    file: Path | None, sets: Sequence[str] = (), flags: Mapping[str, str] = MappingProxyType({}), *,
    over: Mapping[str, Any] | None = None, choices: Mapping[str, Collection[str]] | None = None,
    rivals: Sequence[Rivals] = (),
) -> tuple[dict[str, Any], Places]:  # fmt: skip
    """What a file and ``--set`` say, as options of the commands, and where each was said.

    Parameters
    ----------
    file
        None for ``--set`` alone.
    flags
        Options that are given as flags, with their words: what the file says of them, or against them, does not
        count.
    over
        Options of the command at hand, in whose place the file's come; it has no others. None takes all.
    choices
        Values that the command allows an option, where they are fewer than the schema's.
    rivals
        Contradictions of the command at hand, besides those of all.

    Raises
    ------
    InputError
        One line: file and line, key, value, what was expected, the nearest choice.
    """
    document = _read(file)
    for text in sets:
        _set(document, text)
    check(document)
    replaced = check_words(document, flags, over or {}, rivals)
    for option in flags:
        for keys in keys_said(option, (over or {}).get(option)):
            give_way(document, keys, only_of_file=True, more=rivals)
        if option in KEYS:
            _drop(document, KEYS[option].key, only_of_file=option in MERGED)
    for _, keys, _ in keys_varied(over or {}):
        if keys[0] != "fleet":  # what is varied of a fleet is one that the rest of it says
            give_way(document, keys, more=rivals)
    folder = file.parent if file else Path()
    found = dict(over or {})
    for option, entry in KEYS.items():
        value = document.get(entry.key)
        if value is None:
            continue
        of_plan = "plan" in (over or {}) and option in OF_PLAN
        if not (over is None or option in over or option in FILE_ONLY or of_plan):
            if document.place(entry.key) == SET and not any(
                KEYS[own].key == entry.key for own in KEYS.keys() & over
            ):
                raise InputError(f"{document.at(entry.key)}: of no use to this command")
            continue
        allowed = (choices or {}).get(option)
        if allowed and isinstance(value, str) and value not in allowed:
            hint = nearest(value, allowed)
            raise InputError(f"{document.at(entry.key)}: {value!r} is not known to this command, {hint}")
        said = {option: value} if entry.read is None else entry.read(document, entry.key, value, folder)
        if option in MERGED and option in flags and found.get(option):
            both = (found[option], said[option])
            said = {
                option: ",".join(filter(None, both)) if isinstance(both[0], str) else (*both[0], *both[1])
            }
        found |= said
    places = Places(document=document, flags=flags, replaced=replaced)
    for every, fewer in ALL.items():
        if found.get(every) and places.of(fewer):
            raise InputError(f"{places.of(fewer)}: {places.of(every)} is given too, keep one of them")
    return found, places


def load_question(file: str | Path, *sets: str) -> "Question":
    """The question that a file asks, with overrides.

    Parameters
    ----------
    sets
        ``KEY=VALUE`` as for ``--set``, e.g. ``fleet.gpus=8``.

    Raises
    ------
    InputError
        As ``file_options``, or when the question contradicts itself or leaves something open.
    """
    from planner.asking import question_of

    options, places = placed_options(Path(file), sets)
    with places.named(whole=True):
        return question_of(options)


def load_limits(file: str | Path, *sets: str) -> dict[str, Any]:
    """How far the same file says to search, as arguments of ``optimize`` and its kin.

    Those of a command that it has no use for are to be left out.
    """
    options = file_options(Path(file), sets)
    names = {"max_simulations": "max_simulations", "time_limit": "time_limit_s", "workers": "workers",
             "exhaustive": "everything", "tables": "tables"}  # fmt: skip
    limits = {names[option]: value for option, value in options.items() if option in names}
    return limits | ({"silicon": False} if options.get("no_silicon") else {})


def check(document: Document) -> None:
    """Raise InputError for what the schema does not allow, the first in the file, or for keys that contradict
    each other."""
    if not document.data:
        return
    from jsonschema import Draft202012Validator

    errors = list(Draft202012Validator(schema()).iter_errors(document.data))
    if errors:
        raise InputError(min((_words(document, error) for error in errors), key=_line))
    check_file(document)


def _line(words: str) -> tuple[int, str]:
    """Order of messages: by line, those without one first."""
    number = words.partition(":")[2].partition(":")[0]
    return (int(number) if number.isdecimal() else 0), words


def _words(document: Document, error: Any) -> str:
    """One error of the schema, in one line."""
    from planner import units

    keys: Keys = tuple(error.absolute_path)
    rules, value = error.schema, error.instance
    if error.validator in ("additionalProperties", "minProperties") and isinstance(value, dict) and value:
        known = [*rules.get("properties", {}), *_examples(rules)]
        unknown = min(
            (key for key in value if not _known(rules, key)), key=lambda key: _line(document.at((*keys, key)))
        )
        return f"{document.at((*keys, unknown))}: unknown key, {nearest(unknown, known)}"
    if error.validator == "required":
        missing = next(name for name in rules["required"] if name not in value)
        return f"{document.at(keys)}: {missing} is missing"
    if error.validator == "enum":
        hint = nearest(str(value), rules["enum"])
        return f"{document.at(keys)}: {value!r:.80} is unknown, {hint}"
    if "quantity" in rules and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            units.read(str(value), units.KINDS[rules["quantity"]])
        except InputError as wrong:
            return f"{document.at(keys)}: {wrong}"
    return f"{document.at(keys)}: {value!r:.80} is not {rules.get('expected', error.message)}"


def _known(rules: Mapping[str, Any], key: str) -> bool:
    import re

    patterns = rules.get("patternProperties", {})
    return key in rules.get("properties", {}) or any(re.search(pattern, key) for pattern in patterns)


def _examples(rules: Mapping[str, Any]) -> Iterator[str]:
    """Keys near those that patterns allow: of SLOs."""
    if "patternProperties" in rules:
        for metric in ("ttft", "tpot", "itl", "e2e"):
            yield from (f"{metric}_{statistic}" for statistic in ("mean", "p50", "p90", "p95", "p99"))
        yield "power_mean"


def _read(file: Path | None) -> Document:
    if file is None:
        return Document(name=SET)
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{file}: no question, it has more than {MOST_BYTES >> 20} MiB")
        return read_document(data.decode("utf-8-sig"), str(file))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{file}:{line}: not UTF-8") from error


def _drop(document: Document, keys: Keys, *, only_of_file: bool) -> None:
    """Forget a key, or with ``only_of_file`` what of it ``--set`` does not say."""
    if not only_of_file:
        document.drop(keys)
        return
    for leaf in [leaf for leaf in document.leaves(keys) if document.place(leaf) != SET]:
        document.drop(leaf)


def _set(document: Document, text: str) -> None:
    """Apply one ``KEY=VALUE``; contradicting keys of the file give way."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InputError(f"--set {text!r}: expected KEY=VALUE, as in fleet.gpus=8")
    parts: list[str | int] = [int(part) if part.isdecimal() else part for part in name.split(".")]
    if parts[0] == "slos" and len(parts) > 2:  # percentiles have points: slos.ttft_p99.9
        parts = ["slos", name.partition(".")[2]]
    read = read_value(value, f"--set {name}")
    if read is not None:
        give_way(document, tuple(parts), only_of_file=True)
    document.put(parts, read, SET)
