"""The demo's answer: its text word for word, its numbers as JSON and CSV to a millionth.

``ZENITH_REGENERATE=1 python -m pytest tests/golden`` writes the files and the README's block anew; look at the
difference before you keep it. The case with measured tables needs the extra ``silicon``; the other never uses it.
"""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from profiles.silicon import silicon_available

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEMO = ["optimize", "--model", "llama-3.1-8b", "--device", "h100-sxm-80gb", "--gpus", "4",
        "--trace", "traces/samples/chat.csv", "--slo", "ttft_p95<=300ms"]  # fmt: skip
FORMS = {"txt": [], "json": ["--json"], "csv": ["--csv"]}
REGENERATE = os.environ.get("ZENITH_REGENERATE") == "1"
CASES = {"roofline": ["--no-silicon"], "measured": []}

needs_tables = pytest.mark.skipif(not silicon_available(), reason="needs the extra 'silicon'")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["roofline", pytest.param("measured", marks=needs_tables)])
def test_the_demo_says_what_it_said(case, form, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, [*DEMO, *CASES[case], *FORMS[form]])
    assert result.exit_code == 0, result.output
    golden = HERE / f"demo_{case}.{form}"
    if REGENERATE:
        golden.write_bytes(result.stdout_bytes)
    if form == "txt":
        assert result.stdout == golden.read_text()
    words, numbers = parted(result.stdout)
    golden_words, golden_numbers = parted(golden.read_text())
    assert words == golden_words and numbers == pytest.approx(golden_numbers, rel=1e-6)


def parted(text):
    """The text with its decimals cut out, and they as numbers: other processors round the last bit otherwise."""
    decimal = r"-?\d+\.\d+(?:e[-+]?\d+)?"
    return re.sub(decimal, "#", text), [float(number) for number in re.findall(decimal, text)]


def test_the_readme_shows_this_answer():
    golden = (HERE / "demo_measured.txt").read_text()
    before, after = (ROOT / "README.md").read_text().split("`make demo` ends with\n\n```\n", 1)
    shown, rest = after.split("```\n", 1)
    if REGENERATE and shown != golden:
        text = f"{before}`make demo` ends with\n\n```\n{golden}```\n{rest}"
        (ROOT / "README.md").write_text(text)
        shown = golden
    assert shown == golden


def test_the_demo_is_what_make_runs():
    recipe = (ROOT / "Makefile").read_text().split("\ndemo:", 1)[1].split("\n\n", 1)[0]
    words = recipe.replace("\\\n", " ").replace('"', "").split()
    assert words[words.index("$(BIN)/zenith") + 1 :] == DEMO
