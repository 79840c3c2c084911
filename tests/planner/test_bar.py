"""Progress is a bar on a terminal and lines elsewhere, on stderr alone."""

import io

import pytest
from click.testing import CliRunner

from cli import main
from planner.bar import Counted, bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal_of(monkeypatch):
    """In the test itself: between its parts the capture of output takes stderr back."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    said = []
    with bar(said.append) as progress:
        progress("2 feasible plans")
        progress(Counted("1 of 2: gpus=1", 1, 2))
    assert said == ["2 feasible plans", "1 of 2: gpus=1"]


def test_a_bar_on_a_terminal_says_where_it_is_and_goes(monkeypatch, capsys):
    said, terminal = [], terminal_of(monkeypatch)
    with bar(said.append) as progress:
        progress("2 feasible plans")
        assert terminal.getvalue() == "", "nothing is drawn of work whose length is not known"
        progress(Counted("1 of 2: [red]gpus=1[/red]\x1b[2J", 1, 2))
        progress("[red] a warning\x1b[2J")
        progress(Counted("2 of 2: gpus=2", 2, 2))
    drawn = terminal.getvalue()
    assert said == ["2 feasible plans"] and "[red] a warning\\x1b[2J\n" in drawn
    assert "━" in drawn and "2 of 2: gpus=2" in drawn and "\x1b[2J" not in drawn
    assert capsys.readouterr().out == ""


def test_work_that_fails_leaves_the_terminal_as_it_was(monkeypatch):
    terminal = terminal_of(monkeypatch)
    with pytest.raises(RuntimeError), bar(pytest.fail) as progress:
        progress(Counted("one", 1, 2))
        raise RuntimeError
    assert terminal.getvalue().rstrip().endswith(("\x1b[?25h", "\x1b[2K", "\x1b[1A\x1b[2K"))


MORE = {
    "optimize": [],
    "whatif": ["--vary", "objective=latency,cost"],
    "minimum": [],
    "capacity": ["--slo", "ttft_p95<=1s", "--tolerance", "0.5"],
    "sensitivity": ["--draws", "1"],
    "deploy": [],
    "bound": ["--all-plans"],
}


@pytest.mark.parametrize("command", MORE)
def test_every_long_command_counts_what_it_does(command, tmp_path, monkeypatch):
    """Work done never exceeds what there is, and its end is reached."""
    counted = []

    class Told:
        def __enter__(self):
            return lambda text: counted.append(text) if isinstance(text, Counted) else None

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("planner.bar.bar", lambda lines: Told())
    trace = tmp_path / "few.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,20,5\n0.5,30,5\n")
    asked = ["--model", "opt-125m", "--device", "l40s", "--gpus", "2", "--no-silicon", "--trace", str(trace)]
    result = CliRunner().invoke(main, [command, *asked, *MORE[command]])
    assert result.exit_code == 0, result.output
    assert counted and all(0 <= each.done <= each.of for each in counted)
    assert any(each.done for each in counted) or command == "sensitivity"
