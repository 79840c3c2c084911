"""Every console block of the README, word for word; ``ZENITH_REGENERATE=1`` writes them anew."""

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n(\$ zenith (?:[^\n]*\\\n)*[^\n]*\n)(.*?)```\n", re.DOTALL)
COMMANDS = [command for command, _ in BLOCK.findall(README.read_text())]


def printed(command: str) -> str:
    """What the command of a block prints, shortened as its ``| head -N`` says."""
    words = shlex.split(command.removeprefix("$ zenith").replace("\\\n", " "))
    lines = None
    if "|" in words:
        assert words[-3:-1] == ["|", "head"]
        lines = -int(words[-1])
        words = words[:-3]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return "".join(result.stdout.splitlines(keepends=True)[:lines])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[2])
def test_the_readme_shows_what_its_commands_print(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    text, now = README.read_text(), printed(command)
    shown = next(after for before, after in BLOCK.findall(text) if before == command)
    if os.environ.get("ZENITH_REGENERATE") == "1" and shown != now:
        README.write_text(
            text.replace(f"```console\n{command}{shown}```\n", f"```console\n{command}{now}```\n")
        )
        shown = now
    assert now == shown


def test_the_readme_asks_five_questions_in_a_row():
    assert [command.split()[2] for command in COMMANDS] == [
        "optimize",
        "bound",
        "whatif",
        "whatif",
        "minimum",
    ]
