"""Typed reading of a Hugging Face ``config.json``: a wrong field is named in one line.

As in Hugging Face, a family's default stands in for a field that is absent, while ``null`` overrides it
and says "none" (no window, no grouping of heads).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.errors import InputError, nearest

MOST = 10**12
MOST_LAYERS = 10_000
"""Bounds against nonsense: of any integer, and of layers, since each becomes an entry of a list."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError names the file and, for a syntax error, the line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read, {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text") from None
    except RecursionError:
        raise InputError(f"{path}: expected JSON, it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: expected JSON, {error.msg.lower()}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"{path}: expected JSON, {str(error).splitlines()[0].lower()}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {_show(value)}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Fields of one configuration; ``where`` begins every error message.

    Where several names are given the first that is present counts: families name one thing differently.

    Examples
    --------
    >>> config = Config(where="config.json", fields={"n_embd": 768, "n_inner": None})
    >>> config.integer("hidden_size", "n_embd"), config.integer("n_inner", default=4 * 768)
    (768, 3072)
    """

    where: str
    fields: Mapping[str, Any]

    def otherwise(self, **defaults: Any) -> "Config":
        """With these defaults for fields that are absent."""
        return Config(where=self.where, fields={**defaults, **self.fields})

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(name) is not None

    def present(self, *names: str) -> str:
        """The first of these names that has a value, else the first of all."""
        return next((name for name in names if self.has(name)), names[0])

    def integer(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """An integer in [``least``, 10^12], or ``default`` where all of the names are absent or null."""
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
        name, value = self._get(names, default, expected)
        if default is not None and not self.has(name):
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise self.wrong(name, expected)
        return value

    def layers(self, *names: str, default: int | None = None) -> int:
        """A number of layers, at most 10,000."""
        count = self.integer(*names, default=default)
        if count > MOST_LAYERS:
            raise self.wrong(self.present(*names), f"at most {MOST_LAYERS} layers")
        return count

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        name, value = self._get((name,), default, "true or false")
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        """A string."""
        name, value = self._get((name,), default, "a string")
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def items(self, name: str, kind: type, *, length: int | None = None) -> list[Any] | None:
        """A list of ``kind``, of the given length if any; None where the field is absent."""
        if not self.has(name):
            return None
        value = self.fields[name]
        if (
            not isinstance(value, list)
            or not all(type(item) is kind for item in value)
            or (length is not None and len(value) != length)
        ):
            count = "" if length is None else f"{length} "
            raise self.wrong(name, f"a list of {count}{kind.__name__}")
        return value

    def section(self, name: str) -> "Config":
        """A nested object, such as ``text_config``."""
        name, value = self._get((name,), None, "an object")
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Config(where=f"{self.where}: {name}", fields=value)

    def wrong(self, name: str, expected: str) -> InputError:
        """The error for a field whose value is not what was expected."""
        return InputError(f"{self.where}: {name}={_show(self.fields.get(name))}, expected {expected}")

    def _get(self, names: tuple[str, ...], default: Any, expected: str) -> tuple[str, Any]:
        name = self.present(*names)
        if self.has(name):
            return name, self.fields[name]
        if default is None:
            near = nearest(names[0], self.fields)
            hint = f"; {near}" if near.startswith("did") else ""
            raise InputError(f"{self.where}: field {names[0]!r} is missing, expected {expected}{hint}")
        return name, default


def _show(value: object) -> str:
    """The value as JSON, cut so that the message stays one line."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
