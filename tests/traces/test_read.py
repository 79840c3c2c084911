"""Readers: formats told by content, faults named by line and field, quick and slow reading alike."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import InputError
from traces import read
from traces.formats import csv_header
from traces.read import longest_sorted, read_trace
from traces.rows import Row, csv_rows

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared")) / "traces"
OURS = "arrival_s,prompt_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
ONE = {"arrival": [0.0, 1.5], "prompt": [10, 20], "output": [5, 6]}

SAME = {
    "ours": OURS + "0,10,5\n1.5,20,6\n",
    "azure 2023": AZURE + "2023-11-16 18:15:46.6805900,10,5\n2023-11-16 18:15:48.1805900,20,6\n",
    "azure 2024": AZURE + "2024-05-10 00:00:00+00:00,10,5\n2024-05-10 00:00:01.500000+00:00,20,6\n",
    "azure 2024, Z": AZURE + "2024-05-10T00:00:00Z,10,5\n2024-05-10T00:00:01.5Z,20,6\n",
    "two offsets": AZURE + "2024-05-10 02:00:00+02:00,10,5\n2024-05-09 19:00:01.5-05:00,20,6\n",
    "burstgpt": BURST + "0,GPT-4,10,5,15,API log\n1.5,ChatGPT,20,6,26,Conversation log\n",
    "burstgpt with sessions": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
    "Total tokens,Log Type\n0,,1.2,GPT-4,10,5,15,API log\n1.5,77,3,ChatGPT,20,6,26,Conversation log\n",
    "apex": '{"StartTimeOffset": 0, "RequestID": "a", "ContextTokens": 10, "GeneratedTokens": 5}\n'
    '{"StartTimeOffset": 1500000000, "RequestID": "b", "ContextTokens": 20, "GeneratedTokens": 6}\n',
    "mooncake": '{"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [3]}\n'
    '{"timestamp": 1500, "input_length": 20, "output_length": 6, "hash_ids": [4]}\n',
    "CRLF": (OURS + "0,10,5\n1.5,20,6\n").replace("\n", "\r\n"),
    "CR": (OURS + "0,10,5\n1.5,20,6\n").replace("\n", "\r"),
    "header over two lines": '"more\nwords",arrival_s,prompt_tokens,output_tokens\na,0,10,5\nb,1.5,20,6\n',
    "byte order mark": "\ufeff" + OURS + "0,10,5\n1.5,20,6\n",
    "blank lines": "\n" + OURS + "\n0,10,5\n\n1.5,20,6\n\n  \n",
    "no last newline": OURS + "0,10,5\n1.5,20,6",
    "quoted": '"arrival_s","prompt_tokens","output_tokens"\n"0","10","5"\n"1.5","20","6"\n',
    "case and spaces": "Arrival_S, PROMPT_TOKENS ,output_tokens\n0, 10, 5\n1.5, 20 ,6\n",
    "other columns, order": 'text,output_tokens,arrival_s,prompt_tokens\n"a, ""b""\nc",5,0,10\nd,6,1.5,20\n',
    "decimals": OURS + "0,10.0,5\n1.5e0,2e1,6\n",
    "trailing commas": OURS + "0,10,5,\n1.5,20,6,\n",
}


@pytest.fixture
def file(tmp_path):
    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def columns(trace):
    return {
        "arrival": trace.arrival_s.tolist(),
        "prompt": trace.prompt_tokens.tolist(),
        "output": trace.output_tokens.tolist(),
    }


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("text", SAME.values(), ids=SAME.keys())
def test_formats_and_spellings_of_the_same_requests_read_alike(file, text, packed):
    result = read_trace(file(gzip.compress(text.encode()) if packed else text, "any.name"))
    assert columns(result.trace) == ONE
    assert result.dropped == 0 and result.trace.name == "any.name"
    assert all(c.dtype == t for c, t in zip(
        (result.trace.arrival_s, result.trace.prompt_tokens, result.trace.output_tokens),
        (np.float64, np.int64, np.int64), strict=True))  # fmt: skip


def test_prefix_blocks_are_kept(file):
    mooncake = read_trace(file(SAME["mooncake"])).trace
    assert mooncake.prefix == ((3,), (4,)) and mooncake.prefix_block_tokens == 512
    ours = "arrival_s,prompt_tokens,output_tokens,prefix_16\n0,40,1,7 8 9\n1,5,1,\n"
    trace = read_trace(file(ours)).trace
    assert trace.prefix == ((7, 8, 9), ()) and trace.prefix_block_tokens == 16


GOOD = "0,1,1\n"
FAULTS = {
    "negative": (OURS + GOOD + "1,-5,1\n", 3, "prompt_tokens", "'-5' is not a whole number"),
    "negative arrival": (OURS + "-1,5,1\n", 2, "arrival_s", "'-1' is not a time of 0 or later"),
    "NaN": (OURS + GOOD + "1,NaN,1\n", 3, "prompt_tokens", "'NaN'"),
    "NaN arrival": (OURS + "nan,1,1\n", 2, "arrival_s", "'nan' is not a time"),
    "infinite": (OURS + "inf,1,1\n", 2, "arrival_s", "'inf' is not a time"),
    "zero output": (OURS + GOOD + "1,1,0\n", 3, "output_tokens", "'0' is not a whole number from 1"),
    "failed request": (BURST + "5,GPT-4,10,0,10,API log\n", 2, "Response tokens", "0 means a failed request"),
    "fraction": (OURS + "0,1.5,1\n", 2, "prompt_tokens", "'1.5'"),
    "huge": (OURS + "0,1,99999999999999999999\n", 2, "output_tokens", "from 1 to 2147483647"),
    "empty cell": (OURS + "0,,1\n", 2, "prompt_tokens", "empty"),
    "word": (OURS + "0,ten,1\n", 2, "prompt_tokens", "'ten' is not a number"),
    "underscores": (OURS + "1_0,1,1\n", 2, "arrival_s", "'1_0' is not a number"),
    "underscore": (OURS + "0,1_0,1\n", 2, "prompt_tokens", "'1_0' is not a number"),
    "unsorted": (OURS + "1,1,1\n0.5,1,1\n", 3, "arrival_s", "goes back in time"),
    "header again": (OURS + GOOD + OURS + GOOD, 3, "arrival_s", "the header stands there again"),
    "truncated": (OURS + GOOD + "1,1", 3, "output_tokens", "missing: 2 of 3 columns"),
    "truncated behind": (BURST + "0,a,1,1,2,b\n5,GPT-4,10,7", 3, "Total tokens", "missing: 4 of 6"),
    "too many": (OURS + "0,1,1,9\n", 2, "output_tokens", "4 columns where the header has 3"),
    "open quote": (OURS + GOOD + '1,"1,1\n2,1,1\n', 4, "arrival_s", "no CSV"),
    "encoding": (BURST.encode() + b"0,caf\xe9,1,1,2,x\n", 2, "Model", "byte 0xe9 is not UTF-8"),
    "clock": (AZURE + "yesterday,1,1\n", 2, "TIMESTAMP", "'yesterday' is not a date and time"),
    "clock as number": (AZURE + "1700000000,1,1\n", 2, "TIMESTAMP", "is not a date and time"),
    "no such day": (AZURE + "2023-02-30 00:00:00,1,1\n", 2, "TIMESTAMP", "is not a date and time"),
    "JSON cut": (SAME["apex"][:-40], 2, "ContextTokens", "cut short?"),
    "JSON cut late": (SAME["apex"][:-2], 2, "column", "cut short?"),
    "JSON key": (SAME["apex"].replace('"ContextTokens": 20, ', ""), 2, "ContextTokens", "missing"),
    "JSON NaN": (SAME["apex"].replace("20,", "NaN,"), 2, "ContextTokens", "nan"),
    "JSON true": (SAME["apex"].replace("20,", "true,"), 2, "ContextTokens", "True"),
    "JSON null": (SAME["apex"].replace("20,", "null,"), 2, "ContextTokens", "None"),
    "JSON huge": (SAME["apex"].replace("1500000000", "1" + "0" * 400), 2, "StartTimeOffset", "not a time"),
    "JSON list": (SAME["apex"] + "[1]\n", 3, "StartTimeOffset", "is not a JSON object"),
    "JSON hash": (SAME["mooncake"].replace("[4]", '["x"]'), 2, "hash_ids", "are not whole numbers"),
    "JSON encoding": (SAME["apex"].encode().replace(b'"b"', b'"\xff"'), 2, "column", "byte 0xff"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "field", "what"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_line_that_names_file_line_and_field(file, text, line, field, what):
    path = file(text)
    with pytest.raises(InputError) as error:
        read_trace(path)
    message = str(error.value)
    assert message.startswith(f"{path}: line {line}: {field}")
    assert what in message and "--skip-bad-rows" in message and "\n" not in message
    assert error.value.exit_code == 2


def test_skipping_drops_bad_rows_counts_them_and_says_which(file):
    rows = ["0,1,1", "1,-1,1", "2,2,2", "3,0,1", "3,1,0", "x,1,1", "4,3,3"]
    path = file(OURS + "\n".join(rows))
    result = read_trace(path, skip_bad_rows=True)
    assert columns(result.trace) == {"arrival": [0, 2, 4], "prompt": [1, 2, 3], "output": [1, 2, 3]}
    assert result.dropped == 4
    assert dict(result.dropped_by_field) == {"prompt_tokens": 2, "output_tokens": 1, "arrival_s": 1}
    assert [m.split(": ")[1] for m in result.first_drops] == ["line 3", "line 5", "line 6"]


def test_skipping_leaves_out_as_few_rows_out_of_order_as_possible(file):
    result = read_trace(file(OURS + "1,1,1\n900,2,2\n2,3,3\n3,4,4\n"), skip_bad_rows=True)
    assert result.trace.prompt_tokens.tolist() == [1, 3, 4]
    assert result.dropped == 1 and "line 3: arrival_s: goes back" in result.first_drops[0]


def test_a_file_of_bad_rows_alone_is_refused_even_when_skipping(file):
    with pytest.raises(InputError, match=r"no request in the file \(1 bad rows dropped\)"):
        read_trace(file(OURS + "0,0,0\n"), skip_bad_rows=True)


def test_json_lines_that_begin_badly_are_still_recognized(file):
    result = read_trace(file('{"StartTi\n' + SAME["apex"]), skip_bad_rows=True)
    assert columns(result.trace) == ONE and result.dropped == 1


UNREADABLE = {
    "empty": (b"", "the file is empty"),
    "blank": (b"\n \r\n", "the file is empty"),
    "header alone": (OURS.encode(), "no request in the file"),
    "binary": (bytes(range(256)) * 20, "binary file"),
    "UTF-16": (OURS.encode("utf-16"), "UTF-16"),
    "gzip cut": (gzip.compress(SAME["ours"].encode())[:-9], "broken gzip"),
    "gzip broken": (b"\x1f\x8bnot really gzip", "broken gzip"),
    "empty gzip": (gzip.compress(b""), "the file is empty"),
    "unknown columns": (b"a,b,c\n1,2,3\n", "'a,b,c' are of no known format; expected arrival_s,"),
    "semicolons": (OURS.replace(",", ";").encode(), "separated by commas"),
    "no header": (b"0,1,1\n", "no known format"),
    "column twice": (b"arrival_s,prompt_tokens,output_tokens,Output_Tokens\n0,1,1,1\n", "column twice"),
    "unknown keys": (b'{"a": 1}\n', "expected one JSON object a line"),
    "JSON array": (b'[{"a": 1}]', "expected one JSON object a line"),
    "text": ("Sehr geehrte Damen und Herren, \u00e9".encode("latin-1"), "no known format"),
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("data", "what"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_trace_is_refused_in_one_line(file, data, what, skip):
    path = file(data)
    with pytest.raises(InputError, match=r".") as error:
        read_trace(path, skip_bad_rows=skip)
    assert str(error.value).startswith(f"{path}: ") and what in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).isascii()


def test_a_missing_file_and_a_directory_are_refused_in_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(InputError, match=f"^{path}: "):
            read_trace(path)


ROWS = st.lists(
    st.tuples(
        st.floats(0, 1e9, allow_nan=False), st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1),
        st.sampled_from(["x", "", '"a,b"']),
    ), min_size=1, max_size=30,
)  # fmt: skip


@settings(deadline=None, max_examples=60, derandomize=True)
@given(rows=ROWS, clock=st.booleans(), crlf=st.booleans())
def test_quick_and_slow_reading_give_the_same_bits(tmp_path_factory, rows, clock, crlf):
    rows = sorted(rows)
    if clock:
        times = (
            np.datetime64("2024-02-28T12:00:00", "ns") + np.int64(t * 1e9) // 100 * 100 for t, *_ in rows
        )
        arrivals, header = [str(t)[:-2] for t in times], AZURE
    else:
        arrivals, header = [repr(t) for t, *_ in rows], OURS
    lines = [header.strip() + ",more"] + [
        f"{arrival},{prompt},{output},{more}"
        for arrival, (_, prompt, output, more) in zip(arrivals, rows, strict=True)
    ]
    path = tmp_path_factory.mktemp("same") / "t.csv"
    path.write_bytes(("\r\n" if crlf else "\n").join(lines).encode())
    result = read_trace(path)
    head = csv_header(lines[0].split(","))
    form = head.form
    slow = list(csv_rows(path.read_bytes(), head))
    assert all(isinstance(row, Row) for row in slow)
    start = slow[0].ticks if clock else 0
    expected = [(row.ticks - start) / form.ticks_per_s for row in slow]
    assert result.trace.arrival_s.tolist() == expected
    assert result.trace.prompt_tokens.tolist() == [row.prompt for row in slow] == [r[1] for r in rows]
    assert result.trace.output_tokens.tolist() == [row.output for row in slow] == [r[2] for r in rows]
    assert [row.line for row in slow] == list(range(2, len(rows) + 2))


def test_a_faultless_file_is_never_read_row_by_row(file, monkeypatch):
    def refuse(*_):
        raise AssertionError("the slow pass ran")

    monkeypatch.setattr(read, "csv_rows", refuse)
    for name in (
        "ours",
        "azure 2023",
        "azure 2024",
        "two offsets",
        "burstgpt",
        "CRLF",
        "quoted",
        "blank lines",
    ):
        assert columns(read_trace(file(SAME[name]), skip_bad_rows=True).trace) == ONE


@settings(deadline=None, max_examples=80, derandomize=True)
@given(values=st.lists(st.integers(0, 6), max_size=9))
def test_longest_sorted_equals_brute_force(values):
    chosen = longest_sorted(values).tolist()
    picked = [values[at] for at in chosen]
    assert chosen == sorted(set(chosen)) and picked == sorted(picked)
    best = 0
    for mask in range(2 ** len(values)):
        some = [value for at, value in enumerate(values) if mask >> at & 1]
        best = max(best, len(some) if some == sorted(some) else 0)
    assert len(chosen) == best


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    data=st.binary(max_size=60),
    start=st.sampled_from([b"", OURS.encode(), AZURE.encode(), b"\x1f\x8b", b"{"]),
)
def test_any_bytes_give_a_trace_or_one_line(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("noise") / "t"
    path.write_bytes(start + data)
    for skip in (False, True):
        try:
            assert len(read_trace(path, skip_bad_rows=skip).trace) >= 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


REAL = {
    "AzureLLMInferenceTrace_conv.csv": ("azure", 19366),
    "AzureLLMInferenceTrace_code.csv": ("azure", 8819),
    "apex_llama_lmsys_05.jsonl": ("apex", 1024),
    "apex_llama_creation_025.jsonl": ("apex", 512),
    "mooncake_conversation.jsonl": ("mooncake", 12031),
}


@pytest.mark.skipif(not SHARED.exists(), reason="real traces are not beside the checkout")
@pytest.mark.parametrize("name", REAL)
def test_real_traces_read_whole_and_their_sums_equal_a_plain_count(name):
    result = read_trace(SHARED / name)
    assert (result.format, len(result.trace)) == REAL[name]
    if name.endswith("jsonl"):
        records = [json.loads(line) for line in (SHARED / name).read_text().splitlines()]
        form = next(f for f in read.JSON_FORMATS if f.name == result.format)
        prompt, output = (sum(r[k] for r in records) for k in (form.prompt, form.output))
        last = records[-1][form.arrival] / form.ticks_per_s
    else:
        rows = [line.split(",") for line in (SHARED / name).read_text().splitlines()[1:]]
        prompt, output = (sum(int(row[k]) for row in rows) for k in (1, 2))
        clock = [
            int(r[0][14:16]) * 60 + float(r[0][17:]) + 3600 * int(r[0][11:13]) for r in (rows[0], rows[-1])
        ]
        last = clock[1] - clock[0]
    assert (result.trace.total_prompt_tokens, result.trace.total_output_tokens) == (prompt, output)
    assert result.trace.arrival_s[-1] == pytest.approx(last, abs=1e-6)
    if result.trace.prefix is not None:
        blocks = [len(prefix) for prefix in result.trace.prefix]
        assert blocks == [-(-int(p) // 512) for p in result.trace.prompt_tokens]
