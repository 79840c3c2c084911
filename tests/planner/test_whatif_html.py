"""The page of a sweep shows what its text says, scenario by scenario, and needs nothing but itself."""

import dataclasses
import re

import pytest
from click.testing import CliRunner

from cli import main
from planner import whatif_text
from planner.printable import quantity
from planner.question import Question
from planner.vary import parse_axes
from planner.whatif import sweep
from planner.whatif_html import MOST, to_html
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from tests.planner.test_html import ASKED, HOSTILE, ROOT, Page, opens_quietly
from traces.synth import synthesize

pytest.importorskip("vl_convert", reason="the extra 'report' is not installed")


def found_of(*texts, model="opt-125m", **limits):
    trace = dataclasses.replace(synthesize(requests=25, rate=20.0, output_mean=20), name=HOSTILE)
    fleet = homogeneous("l40s", gpus=2)
    return sweep(
        Question(model=load_model(model), fleet=fleet, trace=trace),
        parse_axes(texts),
        silicon=False,
        **limits,
    )


@pytest.fixture(scope="module")
def found():
    return found_of("gpus=1,2", "slo.ttft_p95=1us,1s", "objective=latency,throughput,cost")


@pytest.fixture(scope="module")
def text(found):
    return to_html(found)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_scenario_has_a_row_with_what_the_text_says(found, page):
    for i, scenario in enumerate(found.scenarios):
        (row,) = page.all("tr", id=f"scenario-{i + 1}")
        for cell in whatif_text.row(i, scenario, marked=False):
            assert cell in row["text"]
        assert scenario.change in row["text"]
    assert whatif_text.certificates(found) in " ".join(e["text"] for e in page.all("p"))


def test_every_scenario_has_a_bar_in_the_panel_of_its_objective_that_leads_to_its_row(found, page, text):
    panels = [e["id"] for e in page.all("svg")]
    assert panels == ["chart-latency", "chart-throughput", "chart-cost"]
    for i, scenario in enumerate(found.scenarios):
        (mark,) = page.all("a", href=f"#scenario-{i + 1}")
        assert quantity(scenario.best.value, scenario.answer.objective.unit) in mark["text"]
        assert ("breaks an SLO" in mark["text"]) is not scenario.holds
        (svg,) = re.findall(rf'<svg[^>]*id="chart-{scenario.question.objective}".*?</svg>', text, re.S)
        assert f'"#scenario-{i + 1}"' in svg


def test_bars_are_as_long_as_their_values(found, text):
    """Of the scenarios of one objective, on one axis from zero."""
    for objective in ("latency", "throughput", "cost"):
        (svg,) = re.findall(rf'<svg[^>]*id="chart-{objective}".*?</svg>', text, re.S)
        lengths = [float(x) for x in re.findall(r'd="M0,[\d.]+h([\d.]+)v[^>]*class="m"', svg)]
        values = [s.best.value for s in found.scenarios if s.question.objective == objective]
        shares = [length / value for length, value in zip(lengths, values, strict=True)]
        assert shares == pytest.approx([shares[0]] * len(shares), rel=0.01)


def test_scenarios_without_a_plan_say_why_and_have_no_bar():
    page = Page(to_html(found_of("gpus=1,8", model="llama-3.1-70b")))
    (row,) = page.all("tr", id="scenario-1")
    (mark,) = page.all("a", href="#scenario-1")
    assert "weights of" in row["text"] and "no plan" in mark["text"]
    assert Page(to_html(found_of("gpus=1", model="llama-3.1-70b"))).all("tr", id="scenario-1")


def test_what_is_odd_is_said_below_the_table(found):
    odd = dataclasses.replace(found, breaks=[(0, 3)])
    text = to_html(odd)
    assert "~ 4 asks no more than 1" in " ".join(e["text"] for e in Page(text).all("p"))


def test_many_scenarios_keep_the_page_below_3_mb(found):
    many = dataclasses.replace(found, scenarios=(found.scenarios * (2 * MOST // len(found.scenarios) + 1)))
    text = to_html(many)
    assert len(text.encode()) < 3e6 and f"{len(many.scenarios) - MOST:,} more are in --json" in text


def test_the_page_is_alone_escaped_and_the_same_every_time(found, text, page):
    assert to_html(found) == text and not page.all("script")
    assert HOSTILE in "".join(e["text"] for e in page.all("header"))
    for word in ("http://", "https://", "src=", "@import", "javascript:", "<link", "<script"):
        assert word not in text
    ids = [e["id"] for e in page.elements if e.get("id")]
    assert len(ids) == len(set(ids))
    for e in page.elements:
        if (href := e.get("href")) is not None:
            assert href.startswith("#") and href[1:] in ids
        for name in ("aria-labelledby", "aria-describedby"):
            assert e.get(name) is None or e[name] in ids
    body = text.split("</style>")[1]
    assert not re.findall(r'(?:fill|stroke)="(#[0-9a-f]+|black|white|rgb[^"]*)"', body), (
        "only the page's colours"
    )


def test_a_browser_opens_it_without_a_complaint(text, tmp_path):
    opens_quietly(text, tmp_path)


def test_the_command_writes_it_beside_the_same_text(tmp_path):
    words = [
        "whatif",
        *ASKED,
        "--trace",
        str(ROOT / "traces/samples/chat.csv"),
        "--vary",
        "slo.ttft_p95=1ms,1s",
    ]
    file = tmp_path / "page.html"
    result = CliRunner().invoke(main, [*words, "--html", str(file)])
    assert result.exit_code == 0, result.output
    assert result.stdout == CliRunner().invoke(main, words).stdout
    assert Page(file.read_text(encoding="utf-8")).all("tr", id="scenario-2")
    clash = CliRunner().invoke(main, [*words, "--html", str(file), "-o", str(file)])
    assert clash.exit_code == 2 and "both name" in clash.stderr
