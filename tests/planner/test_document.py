"""Documents: values as PyYAML reads them where both mean the same, every place right, overrides on top."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.document import Document, dotted, read_document, read_value
from profiles.errors import InputError

WORDS = st.text("abcxyz", min_size=1, max_size=6).filter(lambda w: w not in ("y", "n", "x"))
SCALARS = st.integers(-(10**6), 10**6) | st.booleans() | WORDS | st.sampled_from([0.5, -2.25, 1e10])
TREES = st.dictionaries(
    WORDS,
    st.recursive(
        SCALARS,
        lambda child: (
            st.lists(child, min_size=1, max_size=3) | st.dictionaries(WORDS, child, min_size=1, max_size=3)
        ),
        max_leaves=12,
    ),
    min_size=1,
    max_size=4,
)


def leaves(tree, keys=()):
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from leaves(child, (*keys, key))
    elif isinstance(tree, list):
        for i, child in enumerate(tree):
            yield from leaves(child, (*keys, i))
    else:
        yield keys, tree


@settings(deadline=None, max_examples=150, derandomize=True)
@given(tree=TREES)
def test_a_tame_document_is_what_pyyaml_says(tree):
    text = yaml.safe_dump(tree, default_flow_style=False)
    document = read_document(text, "a.yaml")
    assert document.data == yaml.safe_load(text) == tree
    for keys, value in leaves(tree):
        assert document.get(keys) == value
        name, line = document.at(keys).split(": ")[0].split(":")
        assert name == "a.yaml" and str(value).lower()[:4] in text.splitlines()[int(line) - 1].lower()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10:20", "10:20"), ("on", "on"), ("yes", "yes"), ("1e3", 1000), ("012", 12), ("0x1f", "0x1f"),
        ("2026-01-01", "2026-01-01"), ("1_000", "1_000"), ("'5'", "5"), ("True", True), ("~", None), ("", None),
        (".5", 0.5), (".inf", ".inf"), ("123456789012345678901", int(123456789012345678901.0)), ("500ms", "500ms"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text, value):
    read = read_value(text, "--set x")
    assert read == value and type(read) is type(value)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(tree=TREES, data=st.data())
def test_an_override_changes_its_value_alone(tree, data):
    keys, _ = data.draw(st.sampled_from(list(leaves(tree))))
    document = read_document(yaml.safe_dump(tree), "a.yaml")
    others = {path: document.get(path) for path, _ in leaves(tree) if path != keys}
    document.put(list(keys), 77, "--set")
    assert document.get(keys) == 77 and document.at(keys) == f"--set {dotted(keys)}"
    assert {path: document.get(path) for path in others} == others


def test_an_override_makes_the_way_and_null_takes_away():
    document = Document(name="--set")
    document.put(["fleet", "gpus"], 4, "--set")
    assert document.data == {"fleet": {"gpus": 4}}
    document.put(["fleet", "gpus"], None, "--set")
    assert document.get(["fleet", "gpus"]) is None
    document = read_document("a: 1\nb: [1]\n", "a.yaml")
    for keys in (["a", "c"], ["b", 1], ["b", "c"]):
        with pytest.raises(InputError, match=r"^--set "):
            document.put(keys, 1, "--set")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a is there twice"),
        ("a:\n  b: 1\n  b: null\n", 3, "a.b is there twice"),
        ("a: null\na: 1\n", 2, "a is there twice"),
        ("a: [1\n", 2, "not YAML"),
        ("a:\n\tb: 1\n", 2, "not YAML"),
        ("- 1\n", 1, "expected KEY: VALUE"),
        ("word\n", 1, "expected KEY: VALUE"),
        ("a: 1\n? [b]\n: 1\n", 2, "expected KEY: VALUE"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "tag"),
        ("a: !!set {x}\n", 1, "tag"),
        ("a: &x [1]\nb: *x\n", 1, "anchor"),
        ("a: &x\n  b: *x\n", 1, "anchor"),
        ("a: 1\n---\nb: 1\n", 2, "not YAML"),
    ],
)
def test_what_is_not_read_is_one_line_with_its_number(text, line, words):
    with pytest.raises(InputError) as caught:
        read_document(text, "a.yaml")
    message = str(caught.value)
    assert message.startswith(f"a.yaml:{line}:") and words in message and "\n" not in message


def test_deep_and_empty_documents():
    assert read_document("", "a.yaml").data == read_document("# nothing\n", "a.yaml").data == {}
    assert read_document("a:\n  # b: 1\nc: 2\n", "a.yaml").data == {"c": 2}
    with pytest.raises(InputError, match="nested too deeply"):
        read_document("[" * 5000, "a.yaml")
    with pytest.raises(InputError):
        read_document("a: " + "{b: " * 200 + "1" + "}" * 200 + "\x00", "a.yaml")
