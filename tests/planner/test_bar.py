"""Progress is a bar on a terminal and lines elsewhere, on stderr alone."""

import io

import pytest

from planner.bar import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    said = []
    with bar(2, said.append) as advance:
        advance(1, 2, "gpus=1")
        advance(2, 2, "gpus=2")
    assert said == ["1 of 2: gpus=1", "2 of 2: gpus=2"]


def test_a_bar_on_a_terminal_counts_says_where_it_is_and_goes(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with bar(2, pytest.fail) as advance:
        advance(1, 2, "[red]gpus=1[/red]\x1b[2J")
        advance(2, 2, "gpus=2")
    drawn = terminal.getvalue()
    assert "2/2" in drawn and "gpus=2" in drawn and "\x1b[2J" not in drawn
    assert capsys.readouterr().out == ""


def test_work_that_fails_leaves_the_terminal_as_it_was(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(RuntimeError), bar(2, pytest.fail) as advance:
        advance(1, 2, "one")
        raise RuntimeError
    assert terminal.getvalue().rstrip().endswith(("\x1b[?25h", "\x1b[2K", "\x1b[1A\x1b[2K"))
