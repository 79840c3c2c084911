"""The page shows what the answer holds, escapes what it was given, and needs nothing but itself."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from planner import figures
from planner.drawing import roles
from planner.energy_parts import energy_by_part
from planner.html import distribution, records_of_best, to_html
from planner.launch_text import engine_lines
from planner.pipeline import optimize, simulate_plan
from planner.printable import quantity
from planner.question import Question, parse_axes, parse_slo, plan_from_axes
from planner.report import winner_rows
from planner.sensitivity import sensitivity
from planner.sensitivity_html import sections
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from simulator import metrics
from traces.trace import Trace

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script> & \"q\" </svg> 'x'.csv"


class Page(HTMLParser):
    """Elements with their text, and whether tags close as they open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())
        ]


def question(**changes):
    trace = Trace(
        arrival_s=np.arange(30) ** 2 * 1e-3,
        prompt_tokens=np.arange(30) * 9 + 20,
        output_tokens=np.arange(30) + 1,
        name=HOSTILE,
    )
    asked = {
        "engine": "none",
        "model": replace(load_model("opt-125m"), name="opt <b>125m</b>"),
        "fleet": homogeneous("l40s", gpus=4),
        "trace": trace,
        "slos": (parse_slo("ttft_p95<=300ms"), parse_slo("itl_p99<=20ms"), parse_slo("e2e_mean<=3s")),
    }
    return Question(**{**asked, **changes})


def made(**changes):
    asked = question(**changes)
    answer = optimize(asked, silicon=False, everything=True)
    records = records_of_best(asked, answer, silicon=False)
    energy = energy_by_part(asked, answer.results[0], silicon=False)
    return asked, answer, records, to_html(answer, asked, records, energy=energy)


@pytest.fixture(scope="module")
def whole():
    return made()


@pytest.fixture(scope="module")
def page(whole):
    return Page(whole[3])


def panels(page):
    return [e["id"] for e in page.all("svg") if e["id"].startswith("front-")]


# ------------------------------------------------------------------------------- numbers and marks


def test_the_words_are_those_of_the_text(whole, page):
    said = [e["text"] for e in page.all("dd")]
    for name, words in winner_rows(whole[1]):
        assert words in said, name
    lines = ["".join(engine_lines(each)) for each in whole[1].launch.engines]
    assert lines and [e["text"] for e in page.all("pre")] == lines


def test_every_plan_has_a_row_with_its_figures_and_a_mark_in_every_panel(whole, page):
    _, answer, _, text = whole
    for rank, result in enumerate(answer.results, start=1):
        (row,) = page.all("tr", id=f"plan-{rank}")
        m = result.metrics
        for value in (quantity(m["e2e_mean_s"], "s"), quantity(m["energy_j"], "J"), quantity(m["cost_usd"], "USD"),
                      quantity(result.bound, "s")):  # fmt: skip
            assert value in row["text"]
        assert len(page.all("a", href=f"#plan-{rank}")) == len(panels(page)) == 3
    for name in panels(page):
        (svg,) = re.findall(rf'<svg[^>]*id="{name}".*?</svg>', text, re.S)
        assert svg.count('class="m"') == svg.count("<title>") == len(answer.results)


def test_hovers_of_marks_say_the_values_of_the_plan(whole, page):
    for rank, result in enumerate(whole[1].results, start=1):
        said = " ".join(e["text"] for e in page.all("a", href=f"#plan-{rank}"))
        for value in (quantity(result.metrics["e2e_mean_s"], "s"), quantity(result.metrics["energy_j"], "J")):
            assert value in said


def test_every_metric_is_listed_with_its_value_meaning_and_ground(whole, page):
    rows = [e["text"] for e in page.all("tr")]
    for name, value in whole[1].results[0].metrics.items():
        (row,) = [text for text in rows if text.startswith(name) and not text[len(name)].isalpha() and
                  text[len(name)] != "_"]  # fmt: skip
        if name.endswith("_s") and "per" not in name:
            assert quantity(value, "s") in row


def test_the_records_are_those_of_the_best_plan(whole):
    _, answer, records, _ = whole
    best = answer.results[0].metrics
    assert metrics.slo_value(records, "e2e", None) == best["e2e_mean_s"]
    assert records.energy_j == best["energy_j"]
    parts = re.findall(r"(above idle power|idle power, [a-z ]+): ([\d.]+) (J|kJ)", whole[3])
    joules = {name: float(value) * {"J": 1, "kJ": 1e3}[unit] for name, value, unit in parts}
    assert len(joules) == 3 and sum(joules.values()) == pytest.approx(best["energy_j"], rel=0.02)


def test_what_binds_and_energy_by_part_stand_with_their_numbers(whole, page):
    asked, answer, _, _ = whole
    rows = [e["text"] for e in page.all("tr")]
    for name, s in answer.binding.seconds.items():
        assert any(row.startswith(f"{name}{quantity(s, 's')}") for row in rows)
    parts = energy_by_part(asked, answer.results[0], silicon=False)
    (drawn,) = page.all("svg", id="parts-energy-parts")
    for name, joules in parts.items():
        assert f"{name}: {quantity(joules, 'J')}" in drawn["text"]


@pytest.mark.parametrize("name", ["ttft", "tpot", "e2e", "itl"])
def test_curves_pass_through_the_percentiles(whole, name):
    curve = distribution(whole[2], name)
    values, shares = np.array(curve).T
    assert (np.diff(values) >= 0).all() and (np.diff(shares) >= 0).all() and shares[-1] == 1
    for q in (50, 95):
        low = values[shares <= q / 100 - 0.05].max(initial=0.0)
        high = values[shares >= q / 100 + 0.05 if q < 95 else shares >= 1].min()
        assert low * 0.99 <= whole[1].results[0].metrics[f"{name}_p{q}_s"] <= high * 1.01


def test_every_device_of_the_plan_is_drawn_once(page, whole):
    best = whole[1].results[0]
    drawn = list(roles(best))
    assert len({(role.node, role.device) for role in drawn}) == len(drawn) == best.plan.devices
    boxes = [e for e in page.all("li") if (e.get("class") or "").startswith("gpu")]
    assert len(boxes) == 4 and sum("not used" not in e["text"] for e in boxes) == best.plan.devices


def test_stages_and_shards_of_a_device_are_named():
    asked = question(fleet=homogeneous("l40s", gpus=8), slos=())
    plan = plan_from_axes(asked.model, parse_axes("dp=2,pp=2,tp=2"))
    answer, records = simulate_plan(asked, plan, silicon=False)
    drawn = list(roles(answer.results[0]))
    assert len(drawn) == 8 and len({role.words for role in drawn}) == 8
    assert drawn[-1].words == (
        "replica 2 of 2",
        "stage 2 of 2",
        "layers 7-12",
        "attention shard 2/2",
        "FFN shard 2/2",
    )
    page = Page(to_html(answer, asked, records))
    assert not panels(page) and not page.all("section", id="certificate"), "one plan is no search"


@pytest.mark.parametrize("objective", ["throughput", "energy", "cost", "ttft", "goodput"])
def test_every_objective_has_its_axis(objective):
    _, answer, _, text = made(objective=objective, slos=(parse_slo("ttft_p95<=300ms"),))
    page = Page(text)
    assert len(panels(page)) == 3 and answer.objective.words in text
    for rank in range(1, len(answer.results) + 1):
        assert len(page.all("a", href=f"#plan-{rank}")) == 3


def test_plans_that_break_every_limit_are_drawn_too():
    *_, text = made(slos=(parse_slo("itl_p99<=1us"),))
    assert (
        text.count('href="#plan-1"') == 3
        and "NOT met" in text
        and len(Page(text).all("tr", id="plan-1")) == 1
    )


@pytest.mark.parametrize("lost", [range(10), range(30)])
def test_rejected_requests_never_come_within_a_time(whole, lost):
    """Also where none is served: nothing is finite then, and the page still has all its parts."""
    asked, answer, records, _ = whole
    finish, gaps = records.finish_ps.copy(), records.gaps
    finish[list(lost)] = -1
    records = replace(
        records,
        finish_ps=finish,
        rejected=dict.fromkeys(lost, "too long"),
        gaps=gaps * (len(lost) < 30),
    )
    assert [share for _, share in distribution(records, "e2e")[-1:]] == [2 / 3][: len(lost) < 30]
    unserved = {"rejected": float(len(lost)), "e2e_mean_s": math.inf, "ttft_mean_s": math.inf}
    results = [replace(r, metrics={**r.metrics, **unserved}, value=math.inf) for r in answer.results]
    page = Page(to_html(replace(answer, results=results), asked, records))
    assert len(page.all("a", href="#plan-1")) == 3 and "none" in page.all("tr", id="plan-1")[0]["text"]
    for e in page.elements:
        assert not any("nan" in (value or "").lower() for value in e.values() if value != e["text"])


# ---------------------------------------------------------------------------------- one page, alone


def test_names_from_files_are_text(whole, page):
    assert not page.all("script") and not page.all("b", text="125m")
    assert HOSTILE in "".join(e["text"] for e in page.all("header"))
    assert "opt <b>125m</b>" in page.all("h1")[0]["text"]


def test_nothing_leads_off_the_page(whole, page):
    text = whole[3]
    for word in ("http://", "https://", "src=", "@import", "javascript:", "<link", "<script", "//cdn"):
        assert word not in text.replace("&lt;script", "")
    ids = [e["id"] for e in page.elements if e.get("id")]
    assert len(ids) == len(set(ids))
    for e in page.elements:
        if (href := e.get("href")) is not None:
            assert href.startswith("#") and href[1:] in ids
        for name in ("aria-labelledby", "aria-describedby"):
            assert e.get(name) is None or e[name] in ids
        for value in e.values():
            assert all(found in ids for found in re.findall(r"url\(#(.*?)\)", value or ""))
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]


def test_the_page_is_small_and_the_same_every_time(whole):
    asked, answer, records, text = whole
    energy = energy_by_part(asked, answer.results[0], silicon=False)
    assert len(text.encode()) < 3e6 and to_html(answer, asked, records, energy=energy) == text


def test_thousands_of_plans_keep_the_page_below_3_mb(whole):
    asked, answer, records, _ = whole
    many = replace(answer, results=answer.results * (4000 // len(answer.results)))
    text = to_html(many, asked, records)
    assert len(text.encode()) < 3e6 and f"{len(many.results) - 1000:,} more are in" in text


def test_figures_are_named_and_have_tables_beside_them(page):
    drawn = [e for e in page.all("svg")]
    assert len(drawn) == 3 + 4 + 3 + 6
    for svg in drawn:
        assert (
            svg["aria-labelledby"] == f"{svg['id']}-title" and svg["aria-describedby"] == f"{svg['id']}-desc"
        )
        assert page.all("title", id=f"{svg['id']}-title")[0]["text"]
        assert page.all("desc", id=f"{svg['id']}-desc")[0]["text"]
    assert len(page.all("table")) >= 8 and all(e["text"] for e in page.all("caption"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == len(page.all("h1")) == 1


def test_both_schemes_and_paper_have_colours_of_their_own(whole):
    style = whole[3].split("<style>")[1].split("</style>")[0]
    dark = style.split("prefers-color-scheme:dark")[1].split("}}")[0]
    assert "@media print" in style
    for name in re.findall(r"(--[a-z0-9]+):", style.split("}")[0]):
        assert name in dark
    body = whole[3].split("</style>")[1]
    assert not re.findall(r'(?:fill|stroke)="(#[0-9a-f]+|black|white|rgb[^"]*)"', body), (
        "only the page's colours"
    )


def test_a_missing_library_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"pip install 'zenith-planner\[report\]'"):
        figures.check_library()


@pytest.fixture(scope="module")
def sensitive():
    """The page of a sensitivity."""
    asked = question(token_budgets=(2048,))
    found = sensitivity(asked, draws=4, silicon=False)
    records = records_of_best(asked, found.answer, silicon=False)
    return found, to_html(found.answer, asked, records, more=sections(found))


def test_a_sensitivity_has_sections_of_its_own(sensitive):
    found, text = sensitive
    page = Page(text)
    (worth,), (stable,) = (page.all("section", id=name) for name in ("worth", "stability"))
    for each in found.worth:
        assert f"{each.step.name}{each.step.words}" in worth["text"]
    for each in found.stability.overthrows:
        assert each.number in stable["text"]
    for each in found.stability.constants:
        assert each.name in stable["text"] and each.source in stable["text"]
    assert f"in {found.stability.wins} of 4" in stable["text"]
    for name in ("worth", "stability"):
        assert page.all("a", href=f"#{name}")
    for name in ("worth", "draws"):
        (svg,) = re.findall(rf'<svg[^>]*id="{name}".*?</svg>', text, re.S)
        assert svg.count('class="m"') == svg.count("<title>") > 0
    assert len(text.encode()) < 3e6


def opens_quietly(text, folder):
    """A browser, where there is one, opens the page without a complaint and finds every mark of every chart."""
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here")
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={folder / 'user'}", "--enable-logging=stderr", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    for mark in ('class="m"', "<svg"):
        assert done.stdout.count(mark) == text.count(mark) > 0


@pytest.mark.parametrize("which", ["whole", "sensitive"])
def test_a_browser_opens_it_without_a_complaint(which, request, tmp_path):
    opens_quietly(request.getfixturevalue(which)[-1], tmp_path)


# ------------------------------------------------------------------------------------ command line

ROOT = Path(__file__).parents[2]
ASKED = ("--model", "opt-125m", "--device", "l40s", "--gpus", "2", "--no-silicon")


def run(*words):
    return CliRunner().invoke(main, [*words, *ASKED, "--trace", str(ROOT / "traces/samples/chat.csv")])


@pytest.mark.parametrize(
    "words", [("optimize",), ("simulate", "--plan", "tp=2"), ("sensitivity", "--draws", "2")]
)
def test_the_page_is_written_beside_the_same_text(words, tmp_path):
    file = tmp_path / "report.html"
    result = run(*words, "--html", str(file))
    assert result.exit_code == 0, result.output
    assert result.stdout == run(*words).stdout
    page = Page(file.read_text(encoding="utf-8"))
    assert bool(panels(page)) == (words[0] != "simulate")
    assert page.all("svg", id="parts-energy-parts") and page.all("svg", id="parts-binds")
    assert len(page.all("section", id="worth")) == (words[0] == "sensitivity")


def test_without_the_library_nothing_is_searched(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    result = run("optimize", "--html", str(tmp_path / "report.html"))
    assert result.exit_code == 2 and "enumerating" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "zenith-planner[report]" in result.stderr
    assert not list(tmp_path.iterdir())
