"""Figures against plain counting, and a picture that fits a terminal."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.test_transform import traces
from traces.describe import SLOTS, describe
from traces.picture import to_text
from traces.trace import Trace


def trace_of(arrivals, prompt=None, **more):
    tokens = np.array(prompt or [1] * len(arrivals))
    return Trace(arrival_s=np.array(arrivals, float), prompt_tokens=tokens, output_tokens=tokens, **more)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(trace=traces())
def test_figures_equal_plain_counting(trace):
    figures = describe(trace)
    assert figures.requests == len(trace) and figures.duration_s == trace.duration_s
    for lengths, tokens in ((figures.prompt, trace.prompt_tokens), (figures.output, trace.output_tokens)):
        assert lengths.mean == pytest.approx(sum(map(int, tokens)) / len(trace))
        assert (lengths.least, lengths.most) == (min(tokens), max(tokens))
        for edge, count in lengths.histogram:
            assert count == sum(edge <= t < 2 * edge for t in tokens)
        assert sum(count for _, count in lengths.histogram) == len(trace)
        assert lengths.histogram[0][1] > 0 and lengths.histogram[-1][1] > 0
        p = [lengths.percentiles[f"p{q}"] for q in (1, 10, 50, 90, 95, 99)]
        assert p == sorted(p) and p[2] == pytest.approx(np.median(tokens))
    if trace.duration_s:
        assert len(figures.rates) == SLOTS
        assert sum(figures.rates) * figures.slot_s == pytest.approx(len(trace))
    else:
        assert figures.rates == () and figures.rate_per_s is None and figures.gap_cv is None


def test_a_regular_trace_has_no_burstiness_and_a_clumped_one_has_much():
    regular = describe(trace_of(np.arange(0, 1000.5, 0.5)))
    assert regular.gap_cv == 0 and regular.rate_per_s == 2 and set(regular.dispersion) == {"1s", "10s", "60s"}
    assert all(value < 0.01 for value in regular.dispersion.values())
    # Ten at once every 10 s: counts per second are 10 or 0, so their variance over mean is 9.
    clumped = describe(trace_of(np.repeat(np.arange(0, 1001, 10), 10)))
    assert clumped.gap_cv > 2.9 and clumped.dispersion["1s"] == pytest.approx(9)
    assert clumped.dispersion["10s"] == 0


def test_shared_prefix_counts_tokens_of_blocks_seen_before_up_to_the_first_new_one():
    trace = trace_of([0, 1, 2], [1024, 1000, 1024], prefix=((1, 2), (1, 2), (3, 2)), prefix_block_tokens=512)
    assert describe(trace).shared_prefix == pytest.approx(1000 / 3048)
    assert describe(trace_of([0])).shared_prefix is None


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    trace=traces(), colour=st.booleans(), unicode=st.booleans(),
    name=st.text(alphabet=st.characters(categories=["L", "N", "P"]), min_size=1, max_size=120),
)  # fmt: skip
def test_the_picture_fits_80_columns_with_and_without_colour_and_unicode(trace, colour, unicode, name):
    text = to_text(describe(trace), name=name, form="mooncake", colour=colour, unicode=unicode)
    plain = re.sub(r"\x1b\[\d+m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert (plain != text) == colour
    assert unicode or text.isascii()
    assert colour or all(line == line.rstrip() for line in text.splitlines())


def test_the_picture_shows_where_the_rush_was():
    calm, rush = np.arange(0, 65.0, 1), np.arange(32, 33, 0.05)
    text = to_text(describe(trace_of(np.sort(np.concatenate([calm, rush])))), name="t", form="zenith")
    top = next(line for line in text.splitlines() if "┤" in line)
    assert top.index("█") - top.index("┤") - 1 == 32 and top.count("█") == 1


def test_the_smallest_traces_have_a_picture():
    for arrivals in ([0], [5, 5], [0, 1e-9], [0, 3e7]):
        assert "prompt" in to_text(describe(trace_of(arrivals)), name="t", form="zenith")
