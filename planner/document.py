"""A YAML document with the place of every key, and overrides on top: what a person wrote, and where.

Scalars are read by the core schema of YAML 1.2 (``10:20`` and ``on`` are words, ``1e3`` is a number). Nothing is
built from tags; anchors are not followed, and a key that comes twice is an error.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from profiles.errors import InputError

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings, and indices of lists."""

SET = "--set"
"""Place of what an override says."""

_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


@dataclass(slots=True, kw_only=True)
class Document:
    """Values, and for the way to each where it was written: ``question.yaml:12``, or ``SET``."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Keys, str] = field(default_factory=dict)
    name: str = ""

    def at(self, keys: Sequence[str | int]) -> str:
        """Place and key of a value, as the start of a message; the nearest known place above it.

        Examples
        --------
        >>> read_document("fleet:\\n  gpus: 4\\n", "question.yaml").at(["fleet", "gpus"])
        'question.yaml:2: fleet.gpus'
        """
        place = self.place(keys)
        if place:
            return f"{place}{'' if place == SET else ':'} {dotted(keys)}"
        return f"{self.name}: {dotted(keys)}" if keys else self.name

    def place(self, keys: Sequence[str | int]) -> str:
        """The nearest known place, empty where there is none."""
        known = (self.places.get(tuple(keys[:length])) for length in range(len(keys), 0, -1))
        return next((place for place in known if place), "")

    def leaves(self, keys: Keys = ()) -> Iterator[Keys]:
        """The way to every value that has no keys of its own."""
        value = self.get(keys)
        if isinstance(value, dict):
            for key in value:
                yield from self.leaves((*keys, key))
        else:
            yield keys

    def get(self, keys: Sequence[str | int]) -> Any:
        """The value there, None where there is none."""
        value: Any = self.data
        for key in keys:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def drop(self, keys: Sequence[str | int]) -> None:
        """Forget a value, where there is one; mappings that it leaves empty stay."""
        parent = self.get(keys[:-1])
        if isinstance(parent, dict):
            parent.pop(keys[-1], None)
        for known in [known for known in self.places if known[: len(keys)] == tuple(keys)]:
            del self.places[known]

    def put(self, keys: Sequence[str | int], value: Any, place: str) -> None:
        """Set a value; mappings on the way are made. None forgets it.

        Raises
        ------
        InputError
            When the way leads through something that has no keys.
        """
        keys = self._own(keys)
        self.drop(keys)
        if value is None:
            return
        parent: Any = self.data
        for i, key in enumerate(keys[:-1]):
            if isinstance(parent, dict):
                if key not in parent:
                    self.places[keys[: i + 1]] = place
                parent = parent.setdefault(key, {})
            elif isinstance(parent, list) and isinstance(key, int) and key < len(parent):
                parent = parent[key]
            if not isinstance(parent, (dict, list)):
                raise InputError(f"{place} {dotted(keys)}: {dotted(keys[: i + 1])} has no keys of its own")
        last = keys[-1]
        if isinstance(parent, list) and not (isinstance(last, int) and last < len(parent)):
            raise InputError(f"{place} {dotted(keys)}: expected an index below {len(parent)}")
        parent[last] = value
        self.places[keys] = place

    def _own(self, keys: Sequence[str | int]) -> Keys:
        """The way with numbers as indices where lists are, and as words where mappings are, or would be made."""
        own: list[str | int] = []
        for key in keys:
            own.append(key if isinstance(self.get(own), list) else str(key))
        return tuple(own)


def dotted(keys: Sequence[str | int]) -> str:
    """As in ``--set``.

    Examples
    --------
    >>> dotted(["fleet", "pools", 0, "device"])
    'fleet.pools.0.device'
    """
    return ".".join(map(str, keys))


def read_document(text: str, name: str) -> Document:
    """The document of a file of this name.

    Raises
    ------
    InputError
        One line with its number, when the text is not YAML, not keys and values, or says something twice.

    Examples
    --------
    >>> read_document("workload: {rate: x2, window: 10:20}", "question.yaml").data
    {'workload': {'rate': 'x2', 'window': '10:20'}}
    """
    document = Document(name=name)
    node = _compose(text, name)
    if node is None:
        return document
    value = _value(node, (), document, set())
    if not isinstance(value, dict):
        raise InputError(f"{name}:{node.start_mark.line + 1}: {value!r:.60} is no key, expected KEY: VALUE")
    document.data = value
    return document


def read_value(text: str, name: str) -> Any:
    """One value, as after a key.

    Examples
    --------
    >>> read_value("[1, 2]", "--set"), read_value("500ms", "--set"), read_value("null", "--set")
    ([1, 2], '500ms', None)
    """
    node = _compose(text, name)
    return None if node is None else _value(node, (), Document(name=name), set())


def _compose(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = getattr(error, "position", None)  # of a character that no YAML has
        line = f":{mark.line + 1}" if mark else f":{text[:at].count(chr(10)) + 1}" if at is not None else ""
        words = getattr(error, "problem", None) or getattr(error, "reason", None) or "no text"
        raise InputError(f"{name}{line}: not YAML: {words}") from error
    except RecursionError:
        raise InputError(f"{name}: nested too deeply") from None


def _value(node: Any, keys: Keys, document: Document, seen: set[int]) -> Any:
    """The value of a node; ``seen`` are nodes met before, which come again through an anchor."""
    import yaml

    here = f"{document.name}:{node.start_mark.line + 1}"
    document.places.setdefault(keys, here)
    if node.tag not in _TAGS:
        raise InputError(f"{here}: tag {node.tag!r} is not read, expected a plain value")
    if id(node) in seen:
        raise InputError(f"{here}: what an anchor names is used again; write it out")
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style is not None else _scalar(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*keys, i), document, seen) for i, child in enumerate(node.value)]
    found: dict[str, Any] = {}
    for key_node, child in node.value:
        place = f"{document.name}:{key_node.start_mark.line + 1}"
        key = key_node.value
        if not isinstance(key, str):
            raise InputError(f"{place}: a key is one word, expected KEY: VALUE")
        if (*keys, key) in document.places:
            raise InputError(f"{place}: {dotted((*keys, key))} is there twice")
        document.places[(*keys, key)] = place
        if (value := _value(child, (*keys, key), document, seen)) is not None:
            found[key] = value
    return found


def _scalar(word: str) -> Any:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if _INT.fullmatch(word):
        return int(word)
    if not _FLOAT.fullmatch(word):
        return word
    number = float(word)
    return int(number) if number.is_integer() else number  # the schema takes 4.0 as the whole number it is
