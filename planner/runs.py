"""Measured runs: what a server was sent, how it was started, what was measured.

Forms, told apart by content:

==================================  ==================================================================
directory with ``runs.csv``         a campaign: one row per server process, its requests in ``requests/``
directory with ``requests.jsonl``   one run with the times of every request, ``meta.json`` and, where it was
                                    profiled, ``profile/`` with operation times (``profiles.vllm_profile``)
JSON or JSON lines                  results of ``vllm bench serve`` or SGLang's ``bench_serving``
text                                a dump of vLLM's ``/metrics``
any other directory                 the runs it holds
==================================  ==================================================================

The last two forms are read by ``planner.run_files``. What a file does not say comes from ``Told``.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.axes import AxisValue, read_format
from planner.measured import (
    METRICS,
    Run,
    Told,
    device_of,
    eager_note,
    engine_of,
    finished,
    formats_of,
    means_of,
    model_of,
    number_of,
    settings_of,
    text_of,
    tokens_of,
    trace_of,
)
from planner.run_files import bench_runs, is_metrics, metrics_run
from profiles.errors import InputError
from profiles.hfconfig import read_json
from profiles.model import Model
from profiles.plan import EngineSettings
from traces.trace import Trace

__all__ = ["Run", "Told", "read_runs"]


def read_runs(paths: Sequence[Path], told: Told) -> list[Run]:
    """The runs of all paths.

    Raises
    ------
    InputError
        One line: what is wrong in which file and line, or which flag would say what no file does.
    """
    return [run for path in paths for run in _read(path, told)]


def _read(path: Path, told: Told) -> list[Run]:
    if path.is_dir():
        if (path / "runs.csv").is_file():
            return list(_campaign(path, told))
        if (path / "requests.jsonl").is_file():
            return [_logged(path, told)]
        inside = sorted(each for each in path.iterdir() if _is_run(each))
        if not inside:
            raise InputError(
                f"{path}: no runs here; expected runs.csv, requests.jsonl with meta.json, or benchmark results"
            )
        return read_runs(inside, told)
    text = text_of(path)
    if text.lstrip()[:1] in ("{", "["):
        return bench_runs(path, text, told)
    if is_metrics(text):
        return [metrics_run(path, text, told)]
    raise InputError(
        f"{path}: no measured run; expected the JSON of vllm bench serve or SGLang's bench_serving, "
        "or a dump of vLLM's /metrics"
    )


def _is_run(path: Path) -> bool:
    if path.is_dir():
        return (path / "runs.csv").is_file() or (path / "requests.jsonl").is_file()
    return path.suffix in (".json", ".jsonl")


# --- a campaign -------------------------------------------------------------------------------------------

_EAGER = re.compile(r"enforce[-_]eager(?![ =]*false)", re.IGNORECASE)
_ROW = ("model", "trace", "rate_req_s", "plan", "requests_csv")


def _campaign(folder: Path, told: Told) -> Iterator[Run]:
    path = folder / "runs.csv"
    rows = list(_csv(path, _ROW))
    device, guess = device_of(folder, told)
    kinds = [
        (row.get("engine", ""), model_of(row["model"], told).name, row.get("dtype", "")) for _, row in rows
    ]
    for (line, row), kind in zip(rows, kinds, strict=True):
        where = f"{path}:{line}"
        axes = _plan_words(where, row["plan"], whole=not row.get("replica"))
        if row.get("dtype"):
            axes |= formats_of(where, row["dtype"])
        mean = {name: number_of(where, f"{name}_mean_s", row.get(f"{name}_mean_s")) for name in METRICS}
        measured = {name: value for name, value in mean.items() if value is not None}
        if not measured:
            raise InputError(f"{where}: no measured mean; expected ttft_mean_s, itl_mean_s or e2e_mean_s")
        model = model_of(row["model"], told)
        engine, notes = engine_of(row.get("engine", "vllm"), row.get("engine_version", ""), told)
        settings = settings_of(row.get("flags", ""), row.get("engine", "vllm"), engine, model)
        trace, dropped = _requests(where, folder / "requests", row["requests_csv"])
        traffic = f"{row['trace']} {row['rate_req_s']}/s"
        replica = f" r{row['replica']}" if row.get("replica") else ""
        yield finished(
            where, told, axes,
            name=f"{row['plan']}{replica}",
            group=" ".join([traffic, *(word for word in kind if word)] if len(set(kinds)) > 1 else [traffic]),
            label=row["plan"],
            model=row["model"],
            device=device,
            engine=engine,
            settings=settings,
            trace=trace,
            mean_s=measured,
            notes=(*guess, *notes, *dropped, *eager_note(_EAGER.search(row.get("flags", "")) is not None)),
        )  # fmt: skip


def _csv(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells by column of each row that is not blank."""
    reader = csv.reader(text_of(path).splitlines())
    names: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                for name in needed:
                    if name not in names:
                        raise InputError(f"{path}:{reader.line_num}: column {name!r} is missing")
                continue
            if len(cells) != len(names):
                raise InputError(f"{path}:{reader.line_num}: {len(cells)} cells, the header has {len(names)}")
            yield reader.line_num, dict(zip(names, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: no CSV: {error}") from None
    if not names or reader.line_num < 2:
        raise InputError(f"{path}: no rows; expected a header and one row per run")


def _plan_words(where: str, words: str, *, whole: bool) -> dict[str, AxisValue]:
    """``2DP4TP`` as axes. A row of one replica leaves ``dp`` out: the replicas are servers of their own."""
    parts = re.findall(r"(\d+)(DP|PP|TP|EP)", words.upper())
    if not parts or "".join(map("".join, parts)) != words.upper() or any(int(n) < 1 for n, _ in parts):
        raise InputError(f"{where}: plan {words!r}: expected words like 8TP, 2DP4TP or 2PP4TP")
    axes: dict[str, AxisValue] = {_AXIS[kind]: int(count) for count, kind in parts}
    if not whole:
        axes.pop("dp", None)
    return axes


_AXIS = {"DP": "dp", "PP": "pp", "TP": "attn_tp", "EP": "ep"}


def _requests(where: str, folder: Path, name: str) -> tuple[Trace, tuple[str, ...]]:
    """Requests of one server, by arrival; those that produced nothing are left out."""
    path = folder / name
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise InputError(f"{where}: requests_csv {name!r}: expected the name of a file in requests/")
    if path.resolve().parent != folder.resolve():
        raise InputError(f"{where}: requests_csv {name!r}: a link that leaves requests/")
    columns = "arrival_s", "prompt_tokens", "output_tokens"
    rows = []
    for line, cells in _csv(path, columns):
        at = f"{path}:{line}"
        arrival = number_of(at, columns[0], cells[columns[0]], least=0.0)
        prompt, output = (
            tokens_of(at, column, number_of(at, column, cells[column], least=0.0)) for column in columns[1:]
        )
        rows.append((arrival or 0.0, prompt, output))
    return trace_of(str(path), rows)


# --- one run with the times of every request --------------------------------------------------------------

_STAMPS = "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"


def _logged(folder: Path, told: Told) -> Run:
    path, meta = folder / "requests.jsonl", read_json(folder / "meta.json")
    where, started = f"{folder / 'meta.json'}", meta.get("engine_kwargs")
    if not isinstance(started, dict):
        raise InputError(f"{where}: engine_kwargs: expected an object with how the engine was started")
    rows = sorted(_log_lines(path))
    stamps = np.array([row[0:4] for row in rows])
    queued, scheduled, first, last = stamps.T
    prompt, output = np.array([row[4:6] for row in rows], np.int64).T
    trace, _ = trace_of(
        str(path), [(q, p, o) for q, p, o in zip(queued, prompt.tolist(), output.tolist(), strict=True)]
    )
    gaps = output - 1
    tpot = np.full(len(rows), np.nan)
    tpot[gaps > 0] = (last - first)[gaps > 0] / gaps[gaps > 0]
    times = {"ttft": first - queued, "tpot": tpot, "e2e": last - queued}
    engine, notes = engine_of("vllm", str(meta.get("vllm_version", "")), told)
    device, guess = device_of(folder, told)
    model = str(meta.get("model") or started.get("model") or "")
    axes, settings = _started(where, started, engine, model_of(model, told, where))
    return finished(
        where, told, axes,
        name=folder.name,
        group=folder.name,
        label="",
        model=model,
        device=device,
        engine=engine,
        settings=settings,
        trace=replace(trace, name=folder.name),
        mean_s=means_of(times, gaps),
        request_s=times | {"scheduled": scheduled - queued[0]},
        tables=folder / "profile" if (folder / "profile").is_dir() else None,
        notes=(*guess, *notes, *eager_note(started.get("enforce_eager") is True)),
    )  # fmt: skip


def _log_lines(path: Path) -> Iterator[tuple[float, ...]]:
    """Stamps, prompt and output tokens of every request."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        at = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{at}: not a whole JSON object") from None
        if not isinstance(record, dict):
            raise InputError(f"{at}: expected a JSON object")
        stamps: list[float] = []
        for name in _STAMPS:
            value = number_of(at, name, record.get(name), least=0.0)
            if value is None or (stamps and value < stamps[-1]):
                raise InputError(f"{at}: {name}: expected seconds, not before the stamp that precedes it")
            stamps.append(value)
        prompt, output = (
            tokens_of(at, name, number_of(at, name, record.get(name), least=1.0))
            for name in ("input_toks", "output_toks")
        )
        yield (*stamps, prompt, output)


def _started(
    where: str, started: Mapping[str, Any], engine: str, model: Model
) -> tuple[dict[str, AxisValue], EngineSettings]:
    """Axes and settings from the keyword arguments of vLLM's engine."""

    def count(name: str, default: int) -> int:
        value = started.get(name)
        if value is None:
            return default
        if type(value) is not int or value < 1:
            raise InputError(f"{where}: engine_kwargs.{name}: {value!r}: expected a whole number above 0")
        return value

    tp, dp = count("tensor_parallel_size", 1), count("data_parallel_size", 1)
    pp = count("pipeline_parallel_size", 1)
    axes: dict[str, AxisValue] = {"attn_tp": tp, "pp": pp}
    if started.get("enable_expert_parallel"):
        axes |= {"attn_dp": dp, "ep": tp * dp}
    else:
        axes |= {"dp": dp}
    dtype, cache = str(started.get("dtype", "auto")), str(started.get("kv_cache_dtype", "auto"))
    if dtype != "auto":
        axes |= formats_of(where, dtype)
    if cache != "auto":
        axes["kv"] = read_format(cache.partition("_")[0])
    base = settings_of("", "vllm", engine, model)
    share = started.get("gpu_memory_utilization", base.gpu_memory_utilization)
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise InputError(f"{where}: engine_kwargs.gpu_memory_utilization: {share!r}: expected 0 to 1")
    return axes, replace(
        base,
        max_seqs=count("max_num_seqs", base.max_seqs),
        token_budget=count("max_num_batched_tokens", base.token_budget),
        block_size=count("block_size", base.block_size),
        all_reduce="nccl" if started.get("disable_custom_all_reduce") else "custom",
        gpu_memory_utilization=share,
    )
