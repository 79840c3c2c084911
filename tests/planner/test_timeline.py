"""Series derived from records: what they hold adds up to what the records say, whatever the spans."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.timeline import timeline
from profiles.stepcost import PS

LAWFUL = settings(deadline=None, max_examples=60, derandomize=True)
REQUEST = st.tuples(*[st.integers(0, 50)] * 4, st.integers(1, 100), st.integers(1, 100))


def records(rows):
    """Arrival, then what passes until the first iteration, first and last token; prompt and output tokens."""
    arrival, wait, prefill, decode, prompt, output = (
        np.array(column, np.int64) for column in zip(*rows, strict=True)
    )
    decode = np.where(output == 1, 0, decode)
    times = np.cumsum([arrival, wait, prefill, decode], axis=0) * (PS // 1000)
    return SimpleNamespace(
        arrival_ps=times[0], scheduled_ps=times[1], first_token_ps=times[2], finish_ps=times[3], prompt_tokens=prompt,
        output_tokens=output, served=np.ones(len(rows), bool), end_ps=int(times[3].max()),
    )  # fmt: skip


def held_at(records, t):
    """Tokens in the cache just after ``t``, request by request."""
    total = 0.0
    for s, f, e, p, o in zip(
        records.scheduled_ps / PS, records.first_token_ps / PS, records.finish_ps / PS, records.prompt_tokens,
        records.output_tokens, strict=True,
    ):  # fmt: skip
        if s <= t < f:
            total += p * (t - s) / (f - s)
        elif f <= t < e:
            total += p + (o - 1) * (t - f) / (e - f)
    return total


@LAWFUL
@given(st.lists(REQUEST, min_size=1, max_size=12), st.integers(1, 40))
def test_request_seconds_add_up_to_the_waits_and_runs_of_the_requests(rows, spans):
    r = records(rows)
    line = timeline(r, spans=spans)
    width = np.diff(line.edges_s)
    assert (line.waiting.mean * width).sum() == pytest.approx(
        (r.scheduled_ps - r.arrival_ps).sum() / PS, abs=1e-9
    )
    assert (line.running.mean * width).sum() == pytest.approx(
        (r.finish_ps - r.scheduled_ps).sum() / PS, abs=1e-9
    )
    prefill, decode = (r.first_token_ps - r.scheduled_ps) / PS, (r.finish_ps - r.first_token_ps) / PS
    held = (prefill * r.prompt_tokens / 2 + decode * (r.prompt_tokens + (r.output_tokens - 1) / 2)).sum()
    assert (line.kv_tokens.mean * width).sum() == pytest.approx(held, abs=1e-7)


@LAWFUL
@given(st.lists(REQUEST, min_size=1, max_size=8), st.integers(1, 9))
def test_each_span_is_what_a_slow_look_at_every_moment_finds(rows, spans):
    r = records(rows)
    if not r.end_ps:
        return
    line = timeline(r, spans=spans)
    for i in range(spans):
        moments = np.linspace(line.edges_s[i], line.edges_s[i + 1], 60, endpoint=False)[1:]
        count = [((r.scheduled_ps / PS <= t) & (t < r.finish_ps / PS)).sum() for t in moments]
        held = [held_at(r, t) for t in moments]
        assert line.running.most[i] >= max(count) - 1e-6 and line.kv_tokens.most[i] >= max(held) - 1e-6
    assert (line.running.mean <= line.running.most + 1e-6).all()
    assert (line.kv_tokens.mean <= line.kv_tokens.most + 1e-6).all()
    assert line.running.most.max() <= len(rows) + 1e-6
    assert line.kv_tokens.most.max() <= (r.prompt_tokens + r.output_tokens - 1).sum() + 1e-6


def test_nobody_served_is_a_line_of_zeros():
    r = records([(0, 1, 1, 1, 5, 5)])
    r.served[:] = False
    assert not timeline(r).running.most.any() and not timeline(r).kv_tokens.mean.any()
