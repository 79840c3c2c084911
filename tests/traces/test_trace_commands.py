"""``zenith trace``: results on stdout, counts and mistakes in one line on stderr."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from traces.read import read_trace

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
BAD = "arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,1,0\n2,-3,1\n4,4,4\n"


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, ["trace", *map(str, arguments)])


@pytest.mark.parametrize("name", ["chat", "creation", "summarization"])
def test_describe_draws_the_samples(run, name, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    result = run("describe", SAMPLES / f"{name}.csv")
    assert result.exit_code == 0 and result.stderr == "" and "\x1b" not in result.stdout
    for word in ("requests/s", "burstiness", "p99", "prompt tokens from", f"{name}.csv: zenith"):
        assert word in result.stdout


def test_describe_as_json_is_the_same_figures(run):
    figures = json.loads(run("describe", SAMPLES / "chat.csv", "--json").stdout)
    trace = read_trace(SAMPLES / "chat.csv").trace
    assert figures["requests"] == len(trace) and figures["format"] == "zenith"
    assert figures["prompt"]["most"] == trace.prompt_tokens.max()


def test_convert_keeps_every_request(run, tmp_path):
    result = run("convert", SAMPLES / "chat.csv", tmp_path / "c.csv.gz")
    assert result.exit_code == 0 and result.stdout == "" and "300 requests" in result.stderr
    assert run("convert", tmp_path / "c.csv.gz", tmp_path / "d.csv").exit_code == 0
    assert (tmp_path / "d.csv").read_bytes() == (SAMPLES / "chat.csv").read_bytes()


def test_bad_rows_stop_a_command_in_one_line_unless_skipped(run, tmp_path):
    bad, out = tmp_path / "bad.csv", tmp_path / "out.csv"
    bad.write_text(BAD)
    for command in (("describe", bad), ("convert", bad, out), ("scale", bad, out, "--times", "2")):
        result = run(*command)
        assert result.exit_code == 2 and result.stdout == "" and not out.exists()
        assert result.stderr.startswith(f"Error: {bad}: line 3: output_tokens: '0' is not")
        assert result.stderr.count("\n") == 1
        result = run(*command, "--skip-bad-rows")
        assert result.exit_code == 0
        assert f"{bad}: 2 bad rows dropped (output_tokens 1, prompt_tokens 1)" in result.stderr
        assert f"{bad}: line 4: prompt_tokens: '-3' is not" in result.stderr
        if out.exists():
            assert len(read_trace(out).trace) == 2
            out.unlink()


def test_synth_takes_lengths_from_another_trace(run, tmp_path):
    result = run("synth", tmp_path / "s.csv", "--requests", 20, "--lengths-of", SAMPLES / "chat.csv")
    assert result.exit_code == 0, result.output
    made, chat = read_trace(tmp_path / "s.csv").trace, read_trace(SAMPLES / "chat.csv").trace
    pairs = set(zip(chat.prompt_tokens, chat.output_tokens, strict=True))
    assert len(made) == 20 and pairs.issuperset(zip(made.prompt_tokens, made.output_tokens, strict=True))


def test_synth_in_static_mode(run, tmp_path):
    run("synth", tmp_path / "s.csv", "--requests", 4, "--arrivals", "at-once", "--prompt-mean", 128)
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == ["0.0,128,128"] * 4


def test_scale_takes_the_window_then_the_first_then_the_rate(run, tmp_path):
    out, chat = tmp_path / "out.csv", read_trace(SAMPLES / "chat.csv").trace
    result = run("scale", SAMPLES / "chat.csv", out, "--window", "10:60", "--first", 40, "--rate", 8)
    assert result.exit_code == 0, result.output
    made = read_trace(out).trace
    begin = int(chat.arrival_s.searchsorted(10))
    assert made.prompt_tokens.tolist() == chat.prompt_tokens[begin : begin + 40].tolist()
    assert made.rate_per_s == pytest.approx(8)
    assert run("scale", SAMPLES / "chat.csv", out, "--times", 2).exit_code == 0
    assert read_trace(out).trace.arrival_s == pytest.approx(chat.arrival_s / 2)
    assert run("scale", SAMPLES / "chat.csv", out, "--window", "100:").exit_code == 0
    assert len(read_trace(out).trace) == (chat.arrival_s >= 100).sum()


@pytest.mark.parametrize(
    "options", [("--window", "5"), ("--window", "9:3"), ("--window", "a:b"), ("--window", "nan:"),
                ("--window", "1e6:"), ("--rate", "2", "--times", "2"), ("--rate", "nan")],
)  # fmt: skip
def test_scale_refuses_what_makes_no_sense_in_one_line(run, tmp_path, options):
    result = run("scale", SAMPLES / "chat.csv", tmp_path / "out.csv", *options)
    assert result.exit_code == 2 and result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_what_is_no_trace_is_refused_by_every_command(run, tmp_path):
    (tmp_path / "empty").write_text("")
    for command in (("describe",), ("convert", tmp_path / "o"), ("scale", tmp_path / "o")):
        for wrong in (tmp_path / "empty", tmp_path, tmp_path / "none"):
            result = run(command[0], wrong, *command[1:])
            assert result.exit_code == 2 and "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["describe", "convert", "synth", "scale"])
def test_every_command_explains_itself_with_an_example(run, command):
    text = run(command, "-h").stdout
    assert "Example:" in text and f"zenith trace {command} " in text
