"""From options, of flags or of a question file, to a ``Question``."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.axes import parse_axes, parse_pairs
from planner.printable import printable
from planner.question import Question
from planner.slo import Slo, parse_slo, power_limit
from profiles.errors import InputError, about, nearest

if TYPE_CHECKING:
    from profiles.fleet import Fleet
    from traces.read import ReadResult
    from traces.trace import Trace

Options = Mapping[str, Any]
Progress = Callable[[str], None]

_FLEET_FLAGS = ("device", "gpus", "nodes", "gpus-per-node")
_FIELDS = {
    "objective": "objective",
    "max_gpus": "max_gpus",
    "max_cost_per_hour": "max_usd_per_hour",
    "policies": "policies",
    "token_budgets": "token_budgets",
    "max_seqs": "max_seqs",
    "clocks": "clocks",
    "deployable": "deployable",
    "deployable_on": "deployable_on",
    "use_all_devices": "use_all_devices",
    "cross_node_tensor": "cross_node_tensor",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "block_size": "block_size",
    "watermark": "watermark",
    "preemption": "preemption",
    "queue": "queue",
    "routing": "routing",
    "seed": "seed",
}
"""Options that are fields of the question. What is not given has the question's default."""


def question_of(options: Options, *, progress: Progress = lambda text: None) -> Question:
    """The question that options ask.

    Parameters
    ----------
    options
        By the names of the flags of ``zenith optimize``, and those that only a file has (``planner.file_keys``).
        One that is not there, None or empty is not given.
    progress
        Told of rows that were dropped.

    Raises
    ------
    InputError
        When something is missing or contradicts the rest.
    """
    from profiles.huggingface import load_model

    chosen: dict[str, Any] = {"engine": engine_name(options) or "vllm-v1"}
    if not options.get("model_name"):
        raise InputError("which model? give --model, or model: in a question file")
    with about("model_name"):
        model = load_model(options["model_name"])
    chosen |= {"model": replace(model, name=printable(model.name)), "fleet": _fleet(options)}
    chosen["slos"] = _slos(options)
    chosen["trace"] = _workload(options, progress)
    for option, field in _FIELDS.items():
        value = options.get(option)
        if value is not None and value != ():
            chosen[field] = tuple(value) if isinstance(value, list) else value
    if options.get("no_custom_all_reduce"):
        chosen["all_reduce"] = "nccl"
    if options.get("formats"):
        with about("formats"):
            chosen |= _formats(options["formats"])
    if options.get("fix"):
        with about("fix"):
            chosen["fix"] = parse_axes(options["fix"])
    if options.get("forbid"):
        with about("forbid"):
            chosen["forbid"] = parse_pairs(options["forbid"])
    return Question(**chosen)


def _slos(options: Options) -> tuple[Slo, ...]:
    """Those of ``--slo``, and ``--max-power`` as the one that it is."""
    with about("slos"):
        slos = tuple(parse_slo(text) for text in options.get("slos") or ())
    if not options.get("max_power"):
        return slos
    limit = power_limit(options["max_power"])
    if same := next((slo.text for slo in slos if slo.name == limit.name), ""):
        raise InputError(f"{same} limits the same, keep one of them", about=["max_power"])
    return (*slos, limit)


def engine_name(options: Options) -> str | None:
    """Whose constants count: the name of ``--engine``, or the file of ``--profile``. A bad one is said
    before the work, not after."""
    from profiles.engine import load_engine

    name, file = options.get("engine"), options.get("profile")
    if file and name is not None:
        raise InputError("--profile says what --engine would: give one of them")
    if file and file.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"{str(file)!r}: expected a file that ends in .yaml, from zenith calibrate", about=["profile"]
        )
    name = str(file) if file else name
    if name is not None:
        with about("profile" if file else "engine"):
            load_engine(name)
    return name


def _formats(text: str) -> dict[str, tuple[str, ...]]:
    """``weights=bf16|fp8,kv=fp8`` as fields of the question."""
    fields = {"weights": "weight_formats", "activations": "activation_formats", "kv": "kv_formats"}
    chosen = {}
    for part in text.split(","):
        name, equals, values = part.partition("=")
        if name.strip() not in fields:
            raise InputError(f"--formats {part!r}: expected NAME=A|B, {nearest(name.strip(), fields)}")
        if not equals:
            raise InputError(f"--formats {part!r}: expected NAME=A|B, as in {name.strip()}=bf16|fp8")
        if fields[name.strip()] in chosen:
            raise InputError(
                f"{name.strip()} is given twice, list its formats in one, as in {name.strip()}=bf16|fp8"
            )
        words = {"fp16": "bf16", "half": "bf16"}
        chosen[fields[name.strip()]] = tuple(
            words.get(value.strip(), value.strip()) for value in values.split("|")
        )
    return chosen


def _fleet(options: Options) -> "Fleet":
    from profiles.fleet import Fleet, homogeneous, load_fleet

    device, gpus, nodes, per_node = (options.get(flag.replace("-", "_")) for flag in _FLEET_FLAGS)
    for whole in ("fleet_file", "pools"):
        said = options["places"].flags if "places" in options else {}
        names = [(flag, flag.replace("-", "_")) for flag in _FLEET_FLAGS]
        given = [said.get(name, f"--{flag}") for flag, name in names if options.get(name)]
        if options.get(whole) and given:
            raise InputError(
                f"{whole.replace('_', ' ')}: says what {' and '.join(given)} would, give one or the other",
                about=[whole],
            )
    if options.get("pools"):
        pools = options["pools"]
        names = [pool.name for pool in pools]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(
                    f"{name!r} is another pool, expected a name of its own", about=[f"pools/{i}/name"]
                )
        return Fleet(pools=pools)
    if options.get("fleet_file"):
        try:
            with about("fleet_file"):
                return load_fleet(options["fleet_file"])
        except RecursionError:
            raise InputError(
                f"{options['fleet_file']}: nested too deeply, expected a list of pools", about=["fleet_file"]
            ) from None
    if not device:
        raise InputError(
            "which devices? give --device with --gpus or --nodes, or --fleet FILE",
            about=["gpus", "nodes", "gpus_per_node"],
        )
    if gpus and nodes:
        raise InputError("--gpus counts devices, --nodes whole nodes: give one of them")
    with about("device"):
        if gpus:
            return homogeneous(device, gpus=gpus, gpus_per_node=per_node)
        if nodes:
            return homogeneous(device, nodes=nodes, gpus_per_node=per_node)
    raise InputError(
        "how many devices? give --gpus or --nodes, or fleet.gpus in a question file", about=["device"]
    )


def _workload(options: Options, progress: Progress) -> "Trace":
    """The trace, or a synthetic one; of it the window, the first requests, at another rate: in this order."""
    from traces import transform
    from traces.synth import synthesize

    if options.get("trace_file"):
        with about("trace_file"):
            trace = read_file(options["trace_file"], bool(options.get("skip_bad_rows")), progress).trace
    elif options.get("synthetic"):
        asked = dict(options["synthetic"])
        with about(inside="synthetic"):
            if "lengths_of" in asked:
                with about("lengths_of"):
                    asked["lengths_of"] = read_file(asked["lengths_of"], False, progress).trace
            trace = synthesize(**asked)
    else:
        raise InputError("which requests? give --trace, or workload: in a question file")
    if span := options.get("trace_window"):
        with about("trace_window"):
            trace = transform.window(trace, *span)
    if most := options.get("trace_first"):
        trace = transform.first(trace, most)
    if scaling := options.get("trace_rate"):
        kind, value = scaling
        words = f"x{value:.12g}" if kind == "times" else f"{value:.12g}/s"
        with about("trace_rate"):
            scaled = (transform.scale_rate if kind == "times" else transform.at_rate)(trace, value)
        trace = replace(scaled, name=f"{trace.name} {words}")
    return trace


def read_file(file: Path, skip_bad_rows: bool, progress: Progress) -> "ReadResult":
    """A trace from a file, and what was dropped of it."""
    from traces.read import read_trace

    read = read_trace(file, skip_bad_rows=skip_bad_rows)
    if read.dropped:
        fields = ", ".join(f"{field} {count}" for field, count in read.dropped_by_field)
        progress(f"{file}: {read.dropped} bad rows dropped ({fields}), the first:")
        for message in read.first_drops:
            progress(f"  {message}")
    return replace(read, trace=replace(read.trace, name=printable(read.trace.name)))
