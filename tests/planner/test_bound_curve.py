"""Curves, shortlists and pages of bound reports: what they say is what other commands say."""

import json
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner

from cli import main
from planner.bound_curve import Vary, parse_vary
from planner.bound_text import sparkline
from profiles.errors import InputError
from tests.planner.test_html import opens_quietly

SCHEMA = json.loads((Path(__file__).parents[2] / "planner" / "bound.schema.json").read_text())
WORDS = ["--model", "opt-125m", "--device", "l40s", "--gpus", "1", "--no-silicon", "--trace", "t.csv"]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Runs zenith beside a made trace."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*words):
        return runner.invoke(main, [str(word) for word in words])

    made = ["--requests", "40", "--rate", "100", "--output-mean", "60"]
    assert run("trace", "synth", "t.csv", *made).exit_code == 0
    return run


def test_points_of_a_curve_are_reports_of_their_own(ask):
    vary = ("--vary", "kv=x0.5,x1", "--vary", "rate=x0.5,x2")
    reply = ask("bound", *WORDS, "--plan", "tp=1", *vary, "--json")
    found = json.loads(reply.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    points = {(each["axis"], each["factor"]): each for each in found["curve"]}
    assert list(points) == [("kv", 0.5), ("kv", 1.0), ("rate", 0.5), ("rate", 2.0)]
    assert points["kv", 1.0]["bound"]["value"] == found["bound"]["value"]
    assert 2 * points["kv", 0.5]["kv_tokens"] == pytest.approx(points["kv", 1.0]["kv_tokens"], rel=0.01)
    assert points["rate", 2.0]["rate_per_s"] == pytest.approx(4 * points["rate", 0.5]["rate_per_s"])
    for each in points.values():
        assert each["bound"]["value"] <= each["best"]["value"] <= each["own"]["value"]
        assert each["own"]["name"] == "vllm-v1 fcfs"
    assert ask("trace", "scale", "t.csv", "t2.csv", "--times", "2").exit_code == 0
    faster = [word.replace("t.csv", "t2.csv") for word in WORDS]
    other = json.loads(ask("bound", *faster, "--plan", "tp=1", "--json").stdout)
    assert other["bound"]["value"] == pytest.approx(points["rate", 2.0]["bound"]["value"], rel=1e-6)
    own = next(each for each in other["schedulers"] if each["name"] == "vllm-v1 fcfs")
    assert own["value"] == pytest.approx(points["rate", 2.0]["own"]["value"], rel=1e-6)


def test_a_curve_is_printed_within_80_columns(ask):
    text = ask("bound", *WORDS, "--plan", "tp=1", "--vary", "kv=x0.0001,x1", "--vary", "rate=x1,x3").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "all reject requests" in text and "·" in text and "x0.0001" in text


def test_arrivals_all_at_once_have_no_rate(ask):
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,40,3\n0,30,2\n")
    words = ["bound", *WORDS, "--plan", "tp=1", "--vary", "rate=x1,x2", "--html", "page.html"]
    lines = [line for line in ask(*words).stdout.splitlines() if line.startswith("x")]
    assert len(lines) == 2 and all(line.split()[1:3] == ["at", "once"] for line in lines)
    assert Path("page.html").read_text().count("at once") >= 2
    assert [each["rate_per_s"] for each in json.loads(ask(*words, "--json").stdout)["curve"]] == [None, None]


def test_the_best_of_a_curve_is_a_line_of_the_table(ask):
    found = json.loads(ask("bound", *WORDS, "--plan", "tp=1", "--vary", "kv=x1,x2", "--json").stdout)
    shown = {each["name"] for each in found["schedulers"] if each["same_as"] is None}
    assert found["curve"][0]["best"]["name"] in shown
    assert all(each["best"]["same_as"] is None for each in found["curve"])


def test_all_plans_are_those_of_optimize(ask):
    words = ["--all-plans", "--objective", "ttft"]
    found = json.loads(ask("bound", *WORDS, *words, "--json").stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    best = json.loads(ask("optimize", *WORDS, "--objective", "ttft", "--json", "--all").stdout)
    assert [each["value"] for each in found["plans"]] == [each["value"] for each in best["plans"]]
    for each in found["plans"]:
        assert each["bound"] <= each["value"] and each["ratio"] == each["value"] / each["bound"]
    text = ask("bound", *WORDS, *words).stdout
    assert max(map(len, text.splitlines())) <= 80 and "certificate:" in text


def test_a_page_has_every_scheduler_and_every_point(ask):
    words = ["--plan", "tp=1", "--vary", "kv=x0.5,x1", "--html", "page.html"]
    found = json.loads(ask("bound", *WORDS, *words, "--json").stdout)
    page = Path("page.html").read_text()
    assert "<script" not in page and page.count("<svg") == 2
    for each in found["schedulers"]:
        assert each["name"] in page
    ids = {part.get("id") for part in ElementTree.fromstring(_closed(page)).iter() if part.get("id")}
    assert {"bound", "schedulers", "curve-kv", "gaps"} <= ids


def test_a_browser_opens_the_page_without_a_complaint(ask):
    ask("bound", *WORDS, "--plan", "tp=1", "--vary", "kv=x1", "--html", "page.html")
    opens_quietly(Path("page.html").read_text(), Path.cwd())


def _closed(page):
    """HTML leaves a few tags open that XML wants closed."""
    body = page[page.index("<main>") : page.index("</main>") + len("</main>")]
    return body.replace("<br>", "<br/>")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give either --plan, as in tp=4, or --all-plans"),
        (["--plan", "tp=1", "--all-plans"], "give either --plan"),
        (["--all-plans", "--exact"], "--exact: for one plan"),
        (["--plan", "tp=1", "--unit", "16"], "--unit 16: the unit of --exact"),
        (["--all-plans", "--objective", "makespan"], "known: energy, goodput, latency, p99-e2e, tpot, ttft"),
        (["--plan", "tp=1", "--vary", "tp=x1"], "unknown axis 'tp'"),
        (["--plan", "tp=1", "--vary", "kv=2"], "expected kv=x0.5,x1,x2"),
        (["--plan", "tp=1", "--vary", "rate=x0"], "expected rate=x0.5,x1,x2"),
        (["--plan", "tp=1", "--vary", "rate=x1e-9"], "arrivals span more than 100 days, at least x"),
        (["--plan", "tp=1", "--vary", "kv=x1e300"], "more than 2,147,483,648 KV blocks, at most x"),
    ],
)
def test_a_mistake_is_one_line(ask, words, said):
    reply = ask("bound", *WORDS, *words)
    assert reply.exit_code == 2
    assert said in reply.stderr.splitlines()[-1] and "Traceback" not in reply.output


def test_factors_come_once_and_sparklines_end_where_values_do():
    assert parse_vary("kv=x1,x1,x0.5") == Vary(axis="kv", factors=(1.0, 0.5))
    with pytest.raises(InputError, match="'xx'"):
        parse_vary("kv=xx")
    assert sparkline([1.0, 1.0], 1.0, 1.0) == "▁▁"
    assert sparkline([0.0, 4.0], 0.0, 4.0) == "▁█"
