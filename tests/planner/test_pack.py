"""What comes back is what went in, to the last bit; what no one packed is refused."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.pack import pack, unpack
from profiles.memory import Longest
from simulator.outcome import Outcome

CLASSES = {"Longest": Longest, "Outcome": Outcome}
LAWFUL = settings(deadline=None, max_examples=200, derandomize=True)

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.integers(1, 9).map(lambda n: Longest(prompt=n, request=9))
)  # fmt: skip
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def same(a, b):
    """Equal in type, order and value, not-a-number included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(str, a)) == list(map(str, b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)


@given(VALUES)
@LAWFUL
def test_plain_values_come_back(value):
    assert same(unpack(pack(value, CLASSES), CLASSES), value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["int64", "int32", "float64", "bool", "uint8"]),
            st.lists(st.integers(0, 4), min_size=1, max_size=3),
        ),
        max_size=4,
    )
)
@LAWFUL
def test_arrays_come_back(shapes):
    arrays = [np.arange(math.prod(shape)).reshape(shape).astype(dtype) for dtype, shape in shapes]
    value = {"some": tuple(arrays), "more": [a[::-1] for a in arrays]}
    data = pack(value, CLASSES)
    assert same(unpack(data, CLASSES), value) and pack(value, CLASSES) == data


def test_numbers_of_numpy_become_pythons():
    back = unpack(pack([np.float64(0.1), np.int32(3), np.bool_(True)], CLASSES), CLASSES)
    assert same(back, [0.1, 3, True])


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", np.array([object()]), math, np.array(["text"]), lambda: 0]
)
def test_what_has_no_form_is_refused(value):
    with pytest.raises(TypeError, match="no form"):
        pack([value], CLASSES)


def test_a_record_of_another_class_of_the_same_name_is_refused():
    other = dataclasses.make_dataclass("Longest", ["prompt"])
    with pytest.raises(TypeError):
        pack(other(prompt=1), CLASSES)
    with pytest.raises(KeyError):
        unpack(pack(Longest(prompt=1, request=2), CLASSES), {})


def test_no_file_makes_objects_of_its_own():
    """Arrays of objects would be unpickled; they are refused."""
    import io

    file = io.BytesIO()
    np.savez(file, json=np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        unpack(file.getvalue(), CLASSES)
