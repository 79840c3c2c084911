"""The README's bound report, word for word; ``ZENITH_REGENERATE=1`` writes it and the README's block anew."""

import os
from pathlib import Path

from click.testing import CliRunner

from cli import main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = (
    "zenith bound --model llama-3.1-8b --device l40s --gpus 1 --plan tp=1 "
    "--trace traces/samples/summarization.csv --no-silicon"
)


def test_the_readme_shows_this_bound_report(monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(main, COMMAND.split()[1:])
    assert result.exit_code == 0, result.output
    golden, readme = HERE / "bound.txt", ROOT / "README.md"
    head = f"`{COMMAND}` says\n\n```\n"
    before, after = readme.read_text().split(head, 1)
    shown, rest = after.split("```\n", 1)
    if os.environ.get("ZENITH_REGENERATE") == "1":
        golden.write_bytes(result.stdout_bytes)
        if shown != result.stdout:
            readme.write_text(f"{before}{head}{result.stdout}```\n{rest}")
            shown = result.stdout
    assert result.stdout == golden.read_text() == shown
