"""Values as bytes and back: numbers, text, tuples, dictionaries, arrays, and records of the classes named.

A JSON document says what the value is; arrays stand beside it in NumPy's ``npz`` format, without pickle. What
comes back equals what went in, to the last bit and in the same order, but that arrays are plain and numbers of
NumPy are Python's.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Classes = Mapping[str, type[Any]]
"""Dataclasses by name: those that may be in a value."""


def pack(value: object, classes: Classes) -> bytes:
    """The bytes of a value; the same value gives the same bytes.

    Raises
    ------
    TypeError
        When something in it has no form here.

    Examples
    --------
    >>> from profiles.memory import Longest
    >>> known = {"Longest": Longest}
    >>> unpack(pack((Longest(prompt=3, request=7), {1: "one"}), known), known)
    (Longest(prompt=3, request=7), {1: 'one'})
    """
    arrays: list[np.ndarray[Any, Any]] = []
    text = json.dumps(_plain(value, classes, arrays)).encode()
    if not arrays:
        return text
    file = io.BytesIO()
    named = {str(i): array for i, array in enumerate(arrays)}
    np.savez(file, json=np.frombuffer(text, np.uint8), **named)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes, classes: Classes) -> Any:
    """The value of these bytes.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile
        When ``pack`` did not make them.
    """
    if data.startswith(b"PK"):
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        data = arrays["json"].tobytes()
    else:
        arrays = {}
    return _value(json.loads(data), classes, arrays)


def _plain(value: Any, classes: Classes, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """As JSON; what JSON lacks is an object of one member that says what it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays.append(value)
        return {"array": str(len(arrays) - 1)}
    if isinstance(value, list):
        return [_plain(each, classes, arrays) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, classes, arrays) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(part, classes, arrays) for part in pair] for pair in value.items()]}
    name = type(value).__name__
    if classes.get(name) is type(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {"record": name, "of": {key: _plain(getattr(value, key), classes, arrays) for key in fields}}
    raise TypeError(f"{name} has no form as bytes.")


def _value(plain: Any, classes: Classes, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(plain, list):
        return [_value(each, classes, arrays) for each in plain]
    if not isinstance(plain, dict):
        return plain
    if "array" in plain:
        return arrays[plain["array"]]
    if "tuple" in plain:
        return tuple(_value(each, classes, arrays) for each in plain["tuple"])
    if "dict" in plain:
        pairs = plain["dict"]
        return {_value(key, classes, arrays): _value(each, classes, arrays) for key, each in pairs}
    fields = {key: _value(each, classes, arrays) for key, each in plain["of"].items()}
    return classes[plain["record"]](**fields)
