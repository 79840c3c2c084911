"""What the commands do: options to a question, a question to text. One function per command."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import planner
from planner import units
from planner.asking import engine_name, read_file
from planner.errors import NoFeasiblePlan
from planner.question import Question, parse_axes
from profiles.errors import InputError, about

if TYPE_CHECKING:
    from planner.measured import Run
    from planner.pipeline import Answer
    from planner.store import Store
    from simulator.outcome import Outcome
    from traces.trace import Trace

Progress = Callable[[str], None]
Options = Mapping[str, Any]

EXACT_WORK = 20.0
"""What ``zenith bound --exact`` may take, in deterministic seconds: the answer is the same everywhere. About a minute
on two cores."""

EXACT_WORKERS = 8
"""Strategies of CP-SAT that take turns, whatever the cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Text for stdout and the exit status."""

    text: str
    exit_code: int = 0


def optimize(options: Options, *, progress: Progress) -> Reply:
    """``zenith optimize``. Where every simulated plan misses an SLO the answer shows the nearest; its status
    is 3, or 4 when the search was cut short and a plan that was not simulated might meet them."""
    _check_html(options)
    started = time.monotonic()
    question = _question(options, progress)
    try:
        answer = planner.optimize(
            question,
            max_simulations=options["max_simulations"],
            time_limit_s=options["time_limit"],
            everything=options["exhaustive"],
            workers=options["workers"] or os.cpu_count() or 1,
            tables=options["tables"],
            silicon=not options["no_silicon"],
            progress=progress,
            store=_store(options, progress),
        )
    except NoFeasiblePlan as error:
        return _no_plan(error, options, progress)
    if options["html"]:
        from planner.html import records_of_best

        progress("simulating the best plan again for the page")
        records = records_of_best(
            question, answer, tables=options["tables"], silicon=not options["no_silicon"]
        )
        _write_html(options, answer, question, records)
    progress(f"done in {time.monotonic() - started:.1f} s")
    return _reply(answer, options, top=None if options["list_all"] else options["top"])


def _no_plan(error: NoFeasiblePlan, options: Options, progress: Progress) -> Reply:
    """The one line of any error; for programs besides, on stdout, what clashes and what would do."""
    from planner import report
    from traces.write import write_whole

    text = json.dumps(report.none_dict(error), indent=2)
    if options["output"]:
        write_whole(options["output"], (text + "\n").encode())
    if not options["as_json"]:
        raise error
    progress(f"Error: {error}")
    return Reply(text=text, exit_code=error.exit_code)


def _store(options: Options, progress: Progress) -> "Store":
    """What plans share, with the cache on disk unless it is declined."""
    from planner.cache import Cache, usual_folder
    from planner.store import Store

    folder = options["cache"]
    if options["no_cache"]:
        if folder:
            raise InputError("--cache keeps results, --no-cache does not: give one of them", about=["cache"])
        return Store()
    return Store(cache=Cache(folder or usual_folder(), warn=progress))


def _limits(options: Options, progress: Progress) -> dict[str, Any]:
    """How far to search, by which profile, and what is shared."""
    return {
        "max_simulations": options["max_simulations"],
        "time_limit_s": options["time_limit"],
        "workers": options.get("workers") or os.cpu_count() or 1,
        "tables": options["tables"],
        "silicon": not options["no_silicon"],
        "store": _store(options, progress),
    }


def _done(started: float, store: "Store", progress: Progress) -> None:
    """How long it took, and what of it was there already."""
    counts = {"made": store.made, "shared": store.reused, "from the cache": store.loaded}
    simulations = ", ".join(f"{count['simulation']} {words}" for words, count in counts.items())
    progress(f"done in {time.monotonic() - started:.1f} s; simulations: {simulations}")


def whatif(options: Options, *, progress: Progress) -> Reply:
    """``zenith whatif``. Its status is 0 where a plan holds in some scenario."""
    from planner import vary, whatif_text
    from planner.bar import Counted

    _check_html(options)
    started = time.monotonic()
    axes = vary.parse_axes(options["vary"])
    question = _question(vary.first_options(options, axes), progress)
    limits = _limits(options, progress)
    found = planner.what_if(
        question, {axis.name: axis.values for axis in axes}, **limits, everything=options["exhaustive"],
        progress=lambda done, of, words: progress(Counted(f"{done} of {of}: {words}", done, of)),
    )  # fmt: skip
    found = replace(found, rate=options.get("trace_rate"), replaced=options["places"].replaced)
    _done(started, limits["store"], progress)
    if options["html"]:
        from planner.whatif_html import to_html
        from traces.write import write_whole

        write_whole(options["html"], to_html(found).encode())
    cut = any(not s.proven or (s.answer and s.answer.certificate.unexamined) for s in found.scenarios)
    holds = any(scenario.holds for scenario in found.scenarios)
    return _print(whatif_text, found, options, exit_code=0 if holds else 4 if cut else 3)


def minimum(options: Options, *, progress: Progress) -> Reply:
    """``zenith minimum``."""
    from planner import minimum_text

    started = time.monotonic()
    question = _question(options, progress)
    limits = _limits(options, progress)
    found = planner.find_minimum(question, options["of"], **limits, progress=progress)
    _done(started, limits["store"], progress)
    status = 0 if found.least is not None else 4 if found.certificate.unexamined else 3
    return _print(minimum_text, found, options, exit_code=status)


def capacity(options: Options, *, progress: Progress) -> Reply:
    """``zenith capacity``."""
    from planner import capacity_text

    started = time.monotonic()
    question = _question(options, progress)
    plan = options["plan"] or None
    limits = _limits(options, progress)
    del limits["workers"]
    found = planner.find_capacity(question, plan, tolerance=options["tolerance"], **limits, progress=progress)
    _done(started, limits["store"], progress)
    status = 0 if found.answer is not None else 4 if found.unexamined else 3
    return _print(capacity_text, found, options, exit_code=status)


def sensitivity(options: Options, *, progress: Progress) -> Reply:
    """``zenith sensitivity``. Its status is that of ``zenith optimize``."""
    from planner import sensitivity_text

    _check_html(options)
    started = time.monotonic()
    question = _question(options, progress)
    limits = _limits(options, progress)
    found = planner.find_sensitivity(question, draws=options["draws"], **limits, progress=progress)
    if options["html"]:
        from planner.html import records_of_best
        from planner.sensitivity_html import sections

        progress("simulating the best plan again for the page")
        profile = {"tables": options["tables"], "silicon": not options["no_silicon"]}
        records = records_of_best(question, found.answer, **profile)
        _write_html(options, found.answer, question, records, more=sections(found))
    progress(f"done in {time.monotonic() - started:.1f} s")
    return _print(sensitivity_text, found, options, exit_code=_status(found.answer))


def _print(words: Any, found: Any, options: Options, *, exit_code: int) -> Reply:
    """What was found, in the form asked for, by a module that has ``to_text``, ``to_csv`` and ``to_json``."""
    from traces.write import write_whole

    if options["output"]:
        write_whole(options["output"], (words.to_json(found) + "\n").encode())
    if options["as_json"]:
        text = words.to_json(found)
    elif options["as_csv"]:
        text = words.to_csv(found).rstrip("\n")
    else:
        text = words.to_text(found, colour=_colour())
    return Reply(text=text, exit_code=exit_code)


def simulate(options: Options, *, progress: Progress) -> Reply:
    """``zenith simulate``."""
    _check_html(options)
    question = _question(options, progress)
    found = planner.simulate(
        question, options["plan"], tables=options["tables"], silicon=not options["no_silicon"]
    )
    answer, outcome = found.answer, found.outcome
    if options["requests"]:
        from planner.report import records_csv
        from traces.write import write_whole

        write_whole(options["requests"], records_csv(outcome).encode())
    if options["html"]:
        _write_html(options, answer, question, outcome)
    return _reply(answer, options, top=None)


def deploy(options: Options, *, progress: Progress) -> Reply:
    """``zenith deploy``: of the best plan, or of the one that ``--plan`` names."""
    from planner import deployment_text
    from planner.deployment import deployment

    folder, engines = options["folder"], options["engines"]
    if folder:
        deployment_text.check_folder(folder)
    asked = {**options, "as_csv": False}
    if engines and options["deployable_on"] and not set(engines) & set(options["deployable_on"]):
        wanted = ", ".join(options["deployable_on"])
        raise InputError(f"--on {', '.join(engines)}: --deployable-on asks for {wanted}, keep one of them")
    if options["deployable"] and not options["deployable_on"]:
        asked["deployable_on"] = engines
    question = _question(asked, progress)
    if options["plan"]:
        source = {"tables": options["tables"], "silicon": not options["no_silicon"]}
        answer = planner.simulate(question, options["plan"], **source).answer
    else:
        answer = planner.optimize(question, **_limits(options, progress), progress=progress)
    found = deployment(question, answer, engines)
    if folder:
        files = deployment_text.to_files(found)
        deployment_text.write_folder(folder, files)
        progress(f"{folder}: {len(files)} files")
    if options["as_json"]:
        return Reply(text=deployment_text.to_json(found), exit_code=_status(answer))
    return Reply(text=deployment_text.to_text(found, files=not folder), exit_code=_status(answer))


def _check_html(options: Options) -> None:
    """That a page can be drawn is known before the work, not after."""
    if options["html"]:
        from planner.figures import check_library

        output = options.get("output")
        if output and options["html"].resolve() == output.resolve():
            raise InputError(f"--html and -o both name {output}")
        check_library()


def _write_html(
    options: Options, answer: "Answer", question: Question, outcome: "Outcome", *, more: Sequence[Any] = ()
) -> None:
    """``more``: sections besides those of the answer."""
    from planner.energy_parts import energy_by_part
    from planner.html import to_html
    from traces.write import write_whole

    profile = {"tables": options["tables"], "silicon": not options["no_silicon"]}
    energy = energy_by_part(question, answer.results[0], **profile)
    write_whole(options["html"], to_html(answer, question, outcome, energy=energy, more=more).encode())


def bound(options: Options, *, progress: Progress) -> Reply:
    """``zenith bound``: every scheduler on one plan, or every plan of a shortlist, beside what none can beat."""
    from formulations.problem import Limits
    from planner import bound_curve, bound_plans, bound_report, bound_text
    from planner.objective import OBJECTIVES

    _check_html(options)
    objective = options["objective"]
    if bool(options["plan"]) == options["all_plans"]:
        raise InputError("which plan? give either --plan, as in tp=4, or --all-plans")
    single = [f"--{name}" for name in ("window", "exact", "unit", "vary", "html") if options[name]]
    if options["all_plans"] and single:
        raise InputError(f"{' and '.join(single)}: for one plan, which --plan names, not for --all-plans")
    if options["unit"] and not options["exact"]:
        raise InputError(f"--unit {options['unit']}: the unit of --exact, which is not given")
    vary = [bound_curve.parse_vary(text) for text in options["vary"]]
    limits = Limits(time_s=600.0, work=EXACT_WORK, workers=EXACT_WORKERS) if options["exact"] else None
    window_s = bound_report.parse_window(options["window"]) if options["window"] else None
    unasked = {"preemption": "recompute", "queue": "fcfs", "seed": 0, "as_csv": False}
    searched = objective if objective in OBJECTIVES else "latency"
    question = _question({**options, **unasked, "objective": searched}, progress)
    source: dict[str, Any] = {"tables": options["tables"], "silicon": not options["no_silicon"]}
    if options["all_plans"]:
        bound_plans.check_objective(objective)
        answer = planner.optimize(question, workers=os.cpu_count() or 1, progress=progress, **source)
        return _print(bound_plans, answer, {**options, "as_csv": False}, exit_code=0)
    found = planner.bound(
        question, options["plan"], objective, window_s=window_s, limits=limits, unit=options["unit"] or 1, vary=vary,
        progress=progress, **source,
    )  # fmt: skip
    if options["html"]:
        from planner.bound_html import to_html
        from traces.write import write_whole

        write_whole(options["html"], to_html(found).encode())
    return _print(bound_text, found, {**options, "as_csv": False}, exit_code=0)


def _reply(answer: Any, options: Options, *, top: int | None) -> Reply:
    from planner import report
    from traces.write import write_whole

    if options["output"]:
        write_whole(options["output"], (report.to_json(answer) + "\n").encode())
    if options["as_json"]:
        text = report.to_json(answer)
    elif options["as_csv"]:
        text = report.to_csv(answer).rstrip("\n")
    else:
        text = report.to_text(answer, top=top, colour=_colour())
    return Reply(text=text, exit_code=_status(answer))


def _status(answer: "Answer") -> int:
    """Of the program: 0 where the first plan meets every SLO."""
    met = bool(answer.results) and answer.results[0].meets_slos
    return 0 if met else 4 if answer.certificate.unexamined else 3


def _colour() -> bool:
    """A terminal that has not declined (no-color.org: set and not empty)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _question(options: Options, progress: Progress) -> Question:
    from planner.asking import question_of

    if options["as_json"] and options["as_csv"]:
        raise InputError("--json and --csv: give one of them")
    with options["places"].named(whole=True):
        return question_of(options, progress=progress)


def init(output: Path, *, force: bool) -> str:
    """``zenith init``: a question file with every key, explained."""
    from planner.question_file import TEMPLATE
    from traces.write import write_whole

    if output.exists() and not force:
        raise InputError(f"{output} is there already: give another name with -o, or --force")
    write_whole(output, TEMPLATE.read_bytes())
    return f"{output}: edit it, then zenith optimize {output}"


def schema() -> str:
    """``zenith init --schema``: the form of a question file."""
    from planner.question_file import SCHEMA

    return SCHEMA.read_text(encoding="utf-8").rstrip()


def validate(paths: tuple[Path, ...], options: Options, *, progress: Progress) -> Reply:
    """``zenith validate``: measured runs against the simulator."""
    from planner import fidelity, fidelity_text
    from traces.write import write_whole

    found = fidelity.validate(
        _runs(paths, options),
        model=options["model"],
        tables=options["tables"],
        silicon=not options["no_silicon"],
        progress=progress,
    )
    if options["html"]:
        from planner.fidelity_html import to_html

        write_whole(options["html"], to_html(found).encode())
    if options["as_json"]:
        return Reply(text=fidelity_text.to_json(found))
    return Reply(text=fidelity_text.to_text(found, colour=_colour()))


def calibrate(paths: tuple[Path, ...], options: Options, *, progress: Progress) -> Reply:
    """``zenith calibrate``: constants of an engine from measured runs, as a file for ``--profile``."""
    from planner import calibrate_text
    from planner.calibrate import calibrate as fit
    from traces.write import write_whole

    if options["output"].suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {options['output']}: expected a name that ends in .yaml")
    found = fit(
        _runs(paths, options),
        patterns=options["fit"],
        model=options["model"],
        tables=options["tables"],
        silicon=not options["no_silicon"],
        progress=progress,
    )
    write_whole(options["output"], calibrate_text.to_yaml(found).encode())
    return Reply(text=calibrate_text.to_json(found) if options["as_json"] else calibrate_text.to_text(found))


def _runs(paths: tuple[Path, ...], options: Options) -> list["Run"]:
    """Measured runs, with the constants of ``--profile`` where it is given."""
    from planner.runs import Told, read_runs
    from profiles.engine import load_engine

    engine = engine_name(options)
    with about("plan"):
        axes = parse_axes(options["plan"]) if options["plan"] else {}
    told = Told(
        device=options["device"],
        model=options["model"],
        axes=axes,
        engine=options["engine"],
        trace=options["trace"],
        gpu_memory_utilization=options["gpu_memory_utilization"],
        seed=options["seed"],
    )
    runs = read_runs(paths, told)
    if not options["profile"]:
        return runs
    base = load_engine(str(engine)).base
    found = []
    for run in runs:
        other = () if run.engine == base else (f"a profile of {base} stands in for {run.engine}",)
        found.append(replace(run, engine=str(engine), notes=(*run.notes, *other)))
    return found


def devices(*, as_json: bool) -> str:
    """``zenith devices``: a line each, with what its times and its power rest on."""
    from profiles.device import known_devices, load_device
    from profiles.power import PowerModel
    from profiles.silicon import silicon_available

    rows: list[dict[str, Any]] = []
    times: list[str] = []
    for name in known_devices():
        device = load_device(name)
        measured: dict[str, str] = {}
        tables = device.silicon_system if silicon_available() else None
        times.append("measured" if tables else "roofline")
        if tables and as_json:  # reads every table; the list for people only says whether there are any
            from profiles.silicon import coverage

            measured = {row.operation: f"{row.engine} {row.version}" for row in coverage(tables)}
        rows.append(
            {
                "name": device.name,
                "aliases": list(device.aliases),
                "memory_bytes": device.memory_bytes,
                "bandwidth_bytes_per_s": device.bandwidth,
                "flops": dict(device.dense_flops),
                "tdp_w": device.tdp_w,
                "idle_w": device.idle_w,
                "price_usd_per_hour": device.price_usd_per_hour,
                "measured_operations": measured,
                "power_fitted_on": PowerModel(device).fitted_on,
                "sources": dict(device.sources),
            }
        )
    if as_json:
        return json.dumps({"devices": rows}, indent=2)
    lines = [
        f"{'device':<19}{'memory':>10}{'bandwidth':>11}{'bf16':>7}{'fp8':>7}{'W':>5}{'USD/h':>11}  times"
    ]
    for row, source in zip(rows, times, strict=True):
        price, flops = row["price_usd_per_hour"], row["flops"]
        rates = [f"{flops[form] / 1e12:.0f}T" if form in flops else "-" for form in ("bf16", "fp8")]
        lines.append(
            f"{row['name']:<19}{row['memory_bytes'] / 2**30:>6.1f} GiB"
            f"{row['bandwidth_bytes_per_s'] / 1e12:>6.2f} TB/s{rates[0]:>7}{rates[1]:>7}{row['tdp_w']:>5.0f}"
            + (f"{price[0]:g}-{price[1]:g}" if price else "none").rjust(11)
            + f"  {source}"
        )
    lines.append("T: 1e12 dense FLOP/s. Operations measured, sources of all figures: --json,")
    lines.append("docs/devices.md")
    return "\n".join(lines)


def models(words: tuple[str, ...], *, as_json: bool) -> str:
    """``zenith models``: known models whose name holds every word."""
    from dataclasses import asdict

    from profiles.huggingface import known_models

    records = [r for r in known_models() if all(word.lower() in r.name.lower() for word in words)]
    if not records:
        raise InputError(f"no known model has {' '.join(words)!r} in its name; zenith models lists all")
    if as_json:
        return json.dumps({"models": [asdict(record) for record in records]}, indent=2, default=str)
    lines = [f"{'model':<36}{'kind':<8}{'parameters':>10}{'active':>8}{'KV/token':>9}{'length':>9}"]
    for r in records:
        name = r.name if len(r.name) < 36 else f"{r.name}\n{'':36}"
        lines.append(
            f"{name:<36}{r.kind.replace('encoder-decoder', 'enc-dec'):<8}{r.parameters / 1e9:>9.4g}B"
            f"{r.active_parameters / 1e9:>7.4g}B{r.kv_bytes_per_token / 1024:>5.0f} KiB{r.max_positions:>9}"
        )
    lines.append("KV/token: all layers in bf16; length: positions at most. Any config.json of")
    lines.append("these architectures works too: docs/models.md")
    return "\n".join(lines)


def describe_trace(file: Path, *, skip_bad_rows: bool, as_json: bool, progress: Progress) -> str:
    """``zenith trace describe``."""
    from dataclasses import asdict

    from traces.describe import describe
    from traces.picture import to_text

    read = read_file(file, skip_bad_rows, progress)
    figures = describe(read.trace)
    if as_json:
        return json.dumps({"name": read.trace.name, "format": read.format} | asdict(figures), indent=2)
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return to_text(figures, name=read.trace.name, form=read.format, colour=_colour(), unicode=unicode)


def convert_trace(file: Path, output: Path, *, skip_bad_rows: bool, progress: Progress) -> None:
    """``zenith trace convert``."""
    _write(read_file(file, skip_bad_rows, progress).trace, output, progress)


def synthesize_trace(output: Path, options: Options, *, progress: Progress) -> None:
    """``zenith trace synth``."""
    from traces.synth import synthesize

    lengths = read_file(options["lengths_of"], False, progress).trace if options["lengths_of"] else None
    _write(synthesize(**{**options, "lengths_of": lengths}), output, progress)


def scale_trace(file: Path, output: Path, options: Options, *, progress: Progress) -> None:
    """``zenith trace scale``: window, then first, then rate."""
    from traces import transform

    if options["rate"] and options["times"]:
        raise InputError("--rate and --times: give one of them")
    span = _window(options["window"]) if options["window"] else None
    trace = read_file(file, options["skip_bad_rows"], progress).trace
    if span:
        trace = transform.window(trace, *span)
    if options["first"]:
        trace = transform.first(trace, options["first"])
    if options["rate"]:
        trace = transform.at_rate(trace, options["rate"])
    elif options["times"]:
        trace = transform.scale_rate(trace, options["times"])
    _write(trace, output, progress)


def _window(text: str) -> tuple[float, float]:
    try:
        return units.read_window(text)
    except InputError as error:
        raise InputError(f"--window {error}") from None


def _write(trace: "Trace", output: Path, progress: Progress) -> None:
    from traces.write import write_trace

    write_trace(trace, output)
    progress(f"{output}: {len(trace)} requests in {trace.duration_s:.1f} s")
