"""Resampling and writing: what changes, what must not, and files that are whole or not there."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import InputError
from traces import write
from traces.read import read_trace
from traces.trace import Trace
from traces.transform import at_rate, first, scale_rate, window
from traces.write import to_csv, write_trace, write_whole


@st.composite
def traces(draw):
    n = draw(st.integers(1, 12))
    tokens = st.lists(st.integers(1, 2**31 - 1), min_size=n, max_size=n)
    arrivals = sorted(draw(st.lists(st.floats(0, 1e8), min_size=n, max_size=n)))
    prefix = None
    if draw(st.booleans()):
        blocks = st.lists(st.integers(0, 2**64), max_size=4).map(tuple)
        prefix = tuple(draw(st.lists(blocks, min_size=n, max_size=n)))
    return Trace(
        arrival_s=np.array(arrivals), prompt_tokens=np.array(draw(tokens)),
        output_tokens=np.array(draw(tokens)), prefix=prefix, prefix_block_tokens=draw(st.sampled_from([16, 512])),
    )  # fmt: skip


def rows(trace):
    prefix = trace.prefix or [()] * len(trace)
    columns = trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), prefix
    return list(zip(*columns, strict=True))


@settings(deadline=None, max_examples=80, derandomize=True)
@given(trace=traces(), packed=st.booleans())
def test_what_is_written_reads_back_to_the_last_bit(tmp_path_factory, trace, packed):
    path = tmp_path_factory.mktemp("w") / ("t.csv.gz" if packed else "t.csv")
    write_trace(trace, path)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == packed
    again = read_trace(path)
    assert again.format == "zenith" and rows(again.trace) == rows(trace)
    assert (again.trace.prefix is None) == (trace.prefix is None)
    assert trace.prefix is None or again.trace.prefix_block_tokens == trace.prefix_block_tokens


def test_the_same_trace_gives_the_same_bytes(tmp_path):
    trace = Trace(arrival_s=np.array([0.1]), prompt_tokens=np.array([1]), output_tokens=np.array([1]))
    for name in ("a.csv.gz", "b.csv.gz"):
        write_trace(trace, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode() == to_csv(trace)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "replace", full)
    with pytest.raises(InputError, match=f"^{path}: No space left on device$"):
        write_whole(path, b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_links_stay_links_and_folders_are_refused(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_whole(tmp_path / "link.csv", b"x")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_bytes() == b"x"
    for path in (tmp_path, tmp_path / "none" / "t.csv"):
        with pytest.raises(InputError, match=f"^{path}: "):
            write_whole(path, b"x")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(trace=traces(), factor=st.floats(1e-3, 1e3))
def test_scaling_divides_arrivals_and_touches_nothing_else(trace, factor):
    faster = scale_rate(trace, factor)
    assert faster.arrival_s.tolist() == [arrival / factor for arrival in trace.arrival_s]
    assert [row[1:] for row in rows(faster)] == [row[1:] for row in rows(trace)]
    if trace.duration_s > 1e-3:
        assert at_rate(trace, factor).rate_per_s == pytest.approx(factor, rel=1e-6)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(trace=traces(), start=st.floats(0, 1e8), width=st.floats(1e-3, 1e8), n=st.integers(1, 15))
def test_parts_are_the_requests_a_plain_loop_picks(trace, start, width, n):
    assert rows(first(trace, n)) == rows(trace)[:n]
    inside = [(row[0] - start, *row[1:]) for row in rows(trace) if start <= row[0] < start + width]
    if inside:
        assert rows(window(trace, start, start + width)) == inside
    else:
        with pytest.raises(InputError, match="no request arrives from"):
            window(trace, start, start + width)


def test_two_windows_that_meet_hold_every_request_once():
    trace = Trace(arrival_s=np.arange(10.0), prompt_tokens=np.arange(1, 11), output_tokens=np.arange(1, 11))
    left, right = window(trace, 0, 4), window(trace, 4, float("inf"))
    assert (len(left), len(right)) == (4, 6) and right.arrival_s[0] == 0
    assert [*left.prompt_tokens, *right.prompt_tokens] == [*trace.prompt_tokens]


def test_what_cannot_be_is_refused():
    trace = Trace(arrival_s=np.zeros(2), prompt_tokens=np.array([1, 1]), output_tokens=np.array([1, 1]))
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            scale_rate(trace, wrong)
        with pytest.raises(InputError, match="above 0"):
            at_rate(trace, wrong)
    with pytest.raises(InputError, match="all requests arrive at once"):
        at_rate(trace, 1)
    with pytest.raises(InputError, match="at least 1"):
        first(trace, 0)
