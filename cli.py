"""Command line: parse, call one function, print. No arithmetic here."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from planner import __version__, units
from planner.printable import printable
from profiles.errors import InputError, ZenithError

if TYPE_CHECKING:
    from planner.clashes import Rivals
    from planner.commands import Reply

F = TypeVar("F", bound=Callable[..., Any])


class Output(click.Path):
    """A file to write. Its folder is looked for before any work is done."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        if os.path.isdir(path):  # an empty name is the folder at hand
            self.fail(f"{str(path)!r} is a folder, expected a file to write.", param, ctx)
        if not os.path.isdir(path.parent):  # a name too long for a folder is none
            self.fail(f"{str(path)!r}: there is no folder {str(path.parent)!r}.", param, ctx)
        return path


class Measured(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit (``planner.units``)."""

    def __init__(self, kind: units.Kind) -> None:
        self.kind, self.name = kind, kind.base

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return units.read(value, self.kind)
        except InputError as error:
            self.fail(f"{error}.", param, ctx)


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**31 - 1)  # as wide as CP-SAT takes
OUTPUT = Output(dir_okay=False, path_type=Path)


@contextmanager
def one_line() -> Iterator[None]:
    """Turns what a user can mend into one line on stderr and an exit status."""
    try:
        yield
    except (ZenithError, click.UsageError) as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            raise
        text = error.format_message() if isinstance(error, click.UsageError) else str(error)
        failure = click.ClickException(printable(" ".join(text.splitlines())))
        failure.exit_code = error.exit_code  # type: ignore[misc]
        raise failure from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has left: click ends quietly
            raise
        where = printable(str(error.filename)) if error.filename else "output"
        if not error.filename:  # what is left in the buffer goes nowhere, instead of failing again at exit
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"{where}: {error.strerror or error}") from error


class Command(click.Command):
    """A command of which no option that has one value is given twice: the first would be lost in silence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[2] if not ctx.resilient_parsing else []
        for param in given:
            single = isinstance(param, click.Option) and not param.multiple
            says_the_same = isinstance(param, click.Option) and param.is_flag and not param.secondary_opts
            if single and not says_the_same and given.count(param) > 1:
                words = " or ".join(
                    max(names, key=len) for names in (param.opts, param.secondary_opts) if names
                )
                raise click.UsageError(f"{words}: given more than once, keep one of them", ctx)
        return super().parse_args(ctx, args)


class Commands(click.Group):
    """A group of such commands."""

    command_class = Command


class Main(Commands):
    """The program: its own options, and everything below it, fail in one line."""

    group_class = Commands

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


def example(*lines: str) -> str:
    """The end of a command's help: one command that runs where this repository is checked out."""
    return "\b\nExample:\n  " + " \\\n    ".join(lines)


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=example(
        "zenith optimize --model llama-3.1-8b --device h100-sxm-80gb --gpus 4",
        "--trace traces/samples/chat.csv",
    ),
)
@click.version_option(__version__, prog_name="zenith")
def main() -> None:
    """Find the best deployment of a large language model, with a proof of how good it is."""


def question_options(command: F) -> F:
    """Options that say what is asked; every command that plans takes them."""
    options = [
        click.argument("question_file", metavar="[QUESTION]", required=False, type=FILE),
        click.option("--set", "sets", multiple=True, metavar="KEY=VALUE",
                     help="Over QUESTION, e.g. fleet.gpus=8; may be repeated."),
        click.option("--model", "model_name", help="Name (zenith models) or config.json."),
        click.option("--device", help="Kind of device (zenith devices), with --gpus or --nodes."),
        click.option("--gpus", type=click.IntRange(min=1), help="Devices in all, node after node."),
        click.option("--nodes", type=click.IntRange(min=1), help="Whole nodes, instead of --gpus."),
        click.option("--gpus-per-node", type=click.IntRange(min=1), help="Default: what is usual."),
        click.option("--fleet", "fleet_file", type=FILE, help="YAML file of pools, instead of --device."),
        click.option("--trace", "trace_file", type=FILE, help="Requests, in any known format."),
        click.option("--skip-bad-rows", is_flag=True, help="Drop bad rows of the trace and report them."),
        click.option("--objective", default="latency", help="Also p99-e2e, ttft, tpot, throughput, goodput, "
                     "energy, cost."),
        click.option("--slo", "slos", multiple=True, help="Hard limit, e.g. ttft_p99<=500ms, e2e_mean<=3s."),
        click.option("--max-gpus", type=click.IntRange(min=1), help="Most devices of a plan."),
        click.option("--max-cost-per-hour", type=Measured(units.PRICE), help="Of a plan's devices, e.g. 12USD/h."),
        click.option("--max-power", type=Measured(units.POWER), help="Mean draw of a plan's boards, e.g. 2kW."),
        click.option("--engine", help="Host overheads: vllm-v1, vllm-v0 or none. Default: vllm-v1."),
        click.option("--profile", type=FILE, help="Constants from zenith calibrate, instead of --engine."),
        click.option("--tables", type=FOLDER, help="Operation tables (docs/profile.md), used first."),
        click.option("--no-silicon", is_flag=True, help="Do not use the tables of aiconfigurator-core."),
        click.option("--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True), default=0.9,
                     help="Share of device memory for the engine, as in vLLM."),
        click.option("--block-size", type=click.IntRange(min=1), default=16, help="Tokens in a KV block."),
        click.option("--watermark", type=click.FloatRange(0, 1, max_open=True), default=0.01,
                     help="KV blocks that admission keeps free (vllm-v0, sarathi)."),
        click.option("--preemption", type=click.Choice(["recompute", "swap"]), default="recompute",
                     help="What happens to the KV of a preempted sequence."),
        click.option("--queue", type=click.Choice(["fcfs", "sjf"]), default="fcfs", help="Queue order."),
        click.option("--routing", type=click.Choice(["round-robin", "least-outstanding"]),
                     default="round-robin", help="Of requests to replicas."),
        click.option("--no-custom-all-reduce", is_flag=True, help="All-reduces by NCCL alone."),
        click.option("--cross-node-tensor", is_flag=True, help="Tensor and expert groups may span nodes."),
        click.option("--seed", type=SEED, default=0, help="Seed of every random choice."),
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
        click.option("--csv", "as_csv", is_flag=True, help="Print the plans as CSV."),
        click.option("-o", "--output", type=OUTPUT, help="Write the JSON to this file as well."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, str]:
    """Options that are given as flags, by name, with their words."""
    ctx = click.get_current_context()
    found = {}
    for param in ctx.command.params:
        if (
            ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
            and param.opts[0][:1] == "-"
        ):
            words = param.secondary_opts if options[str(param.name)] is False else param.opts
            found[str(param.name)] = max(words, key=len)
    return found


def flags_named(options: dict[str, Any]) -> AbstractContextManager[None]:
    """Puts the flag in front of a mistake in what it says."""
    from planner.places import Places

    return Places(flags=given(options)).named()


def answer(command: Callable[..., "Reply"], options: dict[str, Any], *rivals: "Rivals") -> None:
    """Print what a command says to its options, with what a question file and ``--set`` say where no flag says
    otherwise; ``rivals``: what contradicts each other in this command alone."""
    from planner.bar import bar
    from planner.question_file import placed_options

    choices = {p.name: p.type.choices for p in click.get_current_context().command.params
               if isinstance(p.type, click.Choice)}  # fmt: skip
    flags = {name: flag for name, flag in given(options).items() if name != "sets"}
    file, sets = options["question_file"], options["sets"]
    asked, places = placed_options(file, sets, flags, over=options, choices=choices, rivals=rivals)
    with places.named(), bar(progress) as told:
        reply = command(asked | {"places": places}, progress=told)
    show(reply)


def joined(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str:
    """What an option says that is given several times, as if once."""
    return ",".join(value for value in values if value)


def search_options(command: F) -> F:
    """Options that say which plans are searched, and for how long."""
    options = [
        click.option("--formats", multiple=True, callback=joined, help="Allowed formats, e.g. "
                     "weights=bf16|fp8,kv=bf16|fp8."),
        click.option("--fix", multiple=True, callback=joined, help="Axes that must have a value, e.g. tp=4,pp=1."),
        click.option("--forbid", multiple=True, callback=joined, help="Values that must not be taken, e.g. pp=2."),
        click.option("--policy", "policies", multiple=True,
                     help="Batching policies to search. Default: vllm-v1."),
        click.option("--token-budget", "token_budgets", type=click.IntRange(min=1), multiple=True,
                     help="Default: 2048 and 8192."),
        click.option("--max-seqs", "max_seqs", type=click.IntRange(min=1), multiple=True,
                     help="Default: 256."),
        click.option("--clock", "clocks", type=click.IntRange(min=0), multiple=True,
                     help="MHz to search. Default: the maximum."),
        click.option("--deployable/--no-deployable", default=True,
                     help="Only plans that an engine runs today."),
        click.option("--deployable-on", multiple=True, help="Only plans that this engine runs; may be repeated.",
                     type=click.Choice(["vLLM", "SGLang", "TensorRT-LLM"], case_sensitive=False)),
        click.option("--use-all-devices", is_flag=True, help="Every device, instead of at most all."),
        click.option("--max-simulations", type=click.IntRange(min=1),
                     help="Stop after so many; the gap is then stated."),
        click.option("--time-limit", type=Measured(units.SPAN),
                     help="Time of simulation, e.g. 90s; the gap is then stated."),
        click.option("--workers", type=click.IntRange(1, 256),
                     help="Threads that simulate. Default: the cores."),
        click.option("--cache", type=click.Path(file_okay=False, path_type=Path),
                     help="Folder of finished work. Default: zenith in $XDG_CACHE_HOME or ~/.cache."),
        click.option("--no-cache", is_flag=True, help="Neither use nor keep finished work."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def without(*names: str) -> Callable[[F], F]:
    """Takes options away that a command has no use for."""

    def take(command: F) -> F:
        params: list[click.Parameter] = command.__click_params__  # type: ignore[attr-defined]
        params[:] = [param for param in params if param.name not in names]
        return command

    return take


def plan_options(command: F) -> F:
    """Of ``question_options`` those that also make sense where every scheduler is compared on one plan."""
    own: list[click.Parameter] = list(getattr(command, "__click_params__", []))
    params: list[click.Parameter] = question_options(command).__click_params__  # type: ignore[attr-defined]
    limits = ("max_gpus", "max_cost_per_hour", "max_power")
    unused = ("objective", *limits, "preemption", "queue", "seed", "as_csv")
    params[len(own) :] = [p for p in params[len(own) :] if p.name not in unused]
    return command


@main.command(
    epilog=example(
        "zenith optimize --model llama-3.1-8b --device h100-sxm-80gb --gpus 4",
        "--trace traces/samples/chat.csv",
    )
)
@question_options
@search_options
@click.option("--exhaustive", is_flag=True, help="Simulate every feasible plan, whatever the bounds prove.")
@click.option("--top", type=click.IntRange(min=1), default=5, help="Plans listed.")
@click.option("--all", "list_all", is_flag=True, help="List every simulated plan.")
@click.option("--html", type=OUTPUT, help="Write the answer with pictures as one page (docs/report.md).")
def optimize(**options: Any) -> None:
    """Find the best plan, prove it, and show the runners-up.

    Exits 0 with a plan, 2 on bad input, 3 when no plan can exist or meet the SLOs, 4 when a limit ended the
    search before the first that does.
    """
    from planner import commands

    answer(commands.optimize, options)


@main.command(
    epilog=example(
        "zenith whatif --model llama-3.1-8b --gpus 2 --objective cost",
        "--trace traces/samples/chat.csv --vary device=l40s,h200",
        '--vary "slo.tpot_p95=15ms,30ms"',
    )
)
@question_options
@search_options
@click.option(
    "--vary",
    multiple=True,
    required=True,
    help="Axis and values, e.g. device=h100,h200, gpus=4,8, rate=x0.5,x2 or 4/s, slo.tpot_p95=20ms,30ms, "
    "objective=latency,energy, tp=1,2; may be repeated.",
)
@click.option("--exhaustive", is_flag=True, help="Simulate every feasible plan, whatever the bounds prove.")
@click.option("--html", type=OUTPUT, help="Write the table and a chart as one page (docs/questions.md).")
def whatif(**options: Any) -> None:
    """Answer every combination of the values varied, and say what changes against the first, and why.

    Exits 0 where some plan holds in some combination, 2 on bad input, 3 when none can in any, 4 when a limit
    ended a search before the first that does.
    """
    from planner import commands

    answer(commands.whatif, options)


@main.command(
    epilog=example(
        "zenith minimum --model llama-3.1-8b --device l40s --gpus 4",
        '--trace traces/samples/chat.csv --slo "tpot_p95<=15ms"',
    )
)
@question_options
@search_options
@click.option("--of", type=click.Choice(["gpus", "cost", "power"]), default="gpus",
              help="GPUs, price per hour, or mean power.")  # fmt: skip
def minimum(**options: Any) -> None:
    """Find the least of the fleet that serves the trace within the SLOs, and prove that less does not.

    Exits 0 with the least, 2 on bad input, 3 when not even the whole fleet has a plan that holds, 4 when a limit
    left that open.
    """
    from planner import commands

    answer(commands.minimum, options)


@main.command(
    epilog=example(
        "zenith capacity --model llama-3.1-8b --device l40s --gpus 2",
        '--slo "ttft_p95<=500ms" --slo "e2e_p95<=8s"',
        "--trace traces/samples/chat.csv",
    )
)
@without("workers")
@question_options
@search_options
@click.option("--plan", default="", help="Only this plan, e.g. tp=2,dp=2 (docs/plans.md). Default: the best.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0.001, 1),
    default=0.02,
    help="Between a rate that holds and the next tried.",
)
def capacity(**options: Any) -> None:
    """Find the highest rate of the same requests that a plan sustains within the SLOs, and one that none can.

    Exits 0 with the rate, 2 on bad input, 3 when there is none or no plan, 4 when a limit left that open.
    """
    from planner import commands

    answer(commands.capacity, options)


@main.command(
    epilog=example(
        "zenith sensitivity --model llama-3.1-8b --device l40s --gpus 2",
        "--trace traces/samples/chat.csv --draws 10",
    )
)
@question_options
@search_options
@click.option(
    "--draws",
    type=click.IntRange(0, 10_000),
    default=100,
    help="Perturbed profiles; 0 leaves the stability of the ranking out.",
)
@click.option("--html", type=OUTPUT, help="Write all of it with pictures as one page (docs/report.md).")
def sensitivity(**options: Any) -> None:
    """Show what binds the best plan, what one step more of each constraint is worth, and how sure its rank is.

    Exits 0 with a plan, 2 on bad input, 3 when no plan can exist or meet the SLOs, 4 when a limit ended the
    search before the first that does.
    """
    from planner import commands

    answer(commands.sensitivity, options)


@main.command(
    epilog=example(
        "zenith simulate --model llama-3.1-8b --device l40s --gpus 2",
        "--trace traces/samples/chat.csv --plan tp=2",
    )
)
@question_options
@click.option("--plan", required=True, help="Axes of the plan, e.g. tp=4,dp=2,budget=2048 (docs/plans.md).")
@click.option("--requests", type=OUTPUT, help="Write the times of every request to this CSV file.")
@click.option("--html", type=OUTPUT, help="Write the answer with pictures as one page (docs/report.md).")
def simulate(**options: Any) -> None:
    """Simulate one named plan and bound what any scheduler could get out of it.

    Exits 0 with the figures, 2 on bad input, 3 when the plan does not fit or breaks an SLO.
    """
    from planner import commands

    answer(commands.simulate, options)


@main.command(
    epilog=example(
        "zenith deploy --model llama-3.1-8b --device l40s --gpus 4 --plan tp=2,dp=2",
        "--trace traces/samples/chat.csv --on vllm -o deployment",
    )
)
@without("output", "as_csv")
@question_options
@search_options
@click.option(
    "--plan", default="", help="Deploy this plan, e.g. tp=4,dp=2 (docs/plans.md). Default: the best."
)
@click.option(
    "--on",
    "engines",
    multiple=True,
    help="Only on this engine; may be repeated. Default: all that run the plan.",
    type=click.Choice(["vLLM", "SGLang", "TensorRT-LLM"], case_sensitive=False),
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    help="Write scripts, options and manifests into this new folder.",
)
def deploy(**options: Any) -> None:
    """Show how to start a plan: commands of every replica, and a Kubernetes manifest (docs/deploy.md).

    Exits 0 with the commands, 2 on bad input, 3 when there is no plan, no engine runs it or it breaks an SLO, 4
    when a limit ended the search before the first that does not.
    """
    from planner import clashes, commands

    answer(commands.deploy, options, clashes.UNSEARCHED)


@main.command(
    epilog=example(
        "zenith bound --model llama-3.1-8b --device l40s --gpus 1 --plan tp=1",
        "--trace traces/samples/chat.csv",
    )
)
@plan_options
@click.option("--plan", default="", help="Axes of the plan, e.g. tp=8,budget=2048 (docs/plans.md).")
@click.option("--all-plans", is_flag=True, help="Instead of one plan, all that optimize simulates.")
@click.option(
    "--objective",
    type=click.Choice(["makespan", "latency", "ttft", "tpot", "p99-e2e", "energy", "goodput"]),
    default="latency",
    help="What is bounded.",
)
@click.option(
    "--vary", multiple=True, help="The same with other memory or load: kv=x0.5,x1,x2 or rate=x0.5,x1,x2."
)
@click.option("--window", help="Only requests that arrive so long after the first, e.g. 60s.")
@click.option("--exact", is_flag=True, help="Also ask CP-SAT for the best schedule; for small windows.")
@click.option(
    "--unit", type=click.IntRange(min=2), help="With --exact: also in units of so many tokens, e.g. 16."
)
@click.option("--html", type=OUTPUT, help="Write the report with pictures as one page.")
def bound(**options: Any) -> None:
    """Show how far each scheduler is from the best that any could do, and why.

    Exits 0 with the table, 2 on bad input, 3 when the plan does not fit.
    """
    from planner import commands

    answer(commands.bound, options)


@main.command(epilog=example("zenith init -o question.yaml"))
@click.option("-o", "--output", type=OUTPUT, default="question.yaml", help="The file to write.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of question files instead.")
def init(output: Path, force: bool, schema: bool) -> None:
    """Write a question file with every key explained, to edit and to give to the other commands.

    Keys, units and errors: docs/question-file.md.
    """
    from planner import commands

    if schema:
        click.echo(commands.schema())
    else:
        progress(commands.init(output, force=force))


def run_options(command: F) -> F:
    """Options of commands that replay measured runs: what the files leave open."""
    options = [
        click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)),
        click.option("--device", help="What was measured (zenith devices), unless a file's name says it."),
        click.option("--model", help="Name or config.json, instead of what the runs name."),
        click.option("--plan", default="", help="Axes and settings the files leave open, e.g. tp=8,seqs=128."),
        click.option("--engine", help="Host overheads: vllm-v1, vllm-v0 or none. Default: by the version."),
        click.option("--profile", type=FILE, help="Constants from zenith calibrate, instead of --engine."),
        click.option("--trace", type=FILE, help="What was sent, for a dump of /metrics."),
        click.option("--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True),
                     help="Instead of what the runs say."),
        click.option("--tables", type=FOLDER, help="Operation tables, instead of a run's own."),
        click.option("--no-silicon", is_flag=True, help="Do not use the tables of aiconfigurator-core."),
        click.option("--seed", type=SEED, default=0, help="Of arrivals a file does not have."),
        click.option("--json", "as_json", is_flag=True, help="Print as JSON."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command(epilog=example("zenith validate traces/samples/campaign --device l40s"))
@run_options
@click.option("--html", type=OUTPUT, help="Write predicted against measured as a page with a picture.")
def validate(runs: tuple[Path, ...], **options: Any) -> None:
    """Replay measured runs and show how far predictions are off.

    RUNS: folders of runs, results of vllm bench serve or SGLang's bench_serving, or dumps of vLLM's /metrics
    (docs/fidelity.md).
    """
    from planner import commands

    with flags_named(options):
        show(commands.validate(runs, options, progress=progress))


@main.command(epilog=example("zenith calibrate traces/samples/campaign --device l40s -o profile.yaml"))
@run_options
@click.option(
    "--fit", multiple=True, help="Only runs of this traffic or plan, e.g. 'lmsys*'; may be repeated."
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The profile, a YAML file for --profile.")
def calibrate(runs: tuple[Path, ...], **options: Any) -> None:
    """Fit an engine's constants to measured runs and say how well.

    RUNS: as for zenith validate. What the runs do not identify is not fitted (docs/calibrate.md).
    """
    from planner import commands

    with flags_named(options):
        show(commands.calibrate(runs, options, progress=progress))


@main.command(epilog=example("zenith profile -o my-gpu --dry-run"))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of tables; an earlier run in it goes on.",
)
@click.option("--budget", default="10m", help="Time to spend in this run, e.g. 90s, 10m, 2h.")
@click.option("--ops", default="", help="Operations, e.g. gemm,decode. Default: all but iteration.")
@click.option("--dry-run", is_flag=True, help="Show the grid and about how long it takes; needs no GPU.")
@click.option(
    "--compare", is_flag=True, help="Compare what the folder holds with what is predicted; needs no GPU."
)
@click.option("--device", default="", help="Of --compare, where the folder's may be several.")
@click.option(
    "--no-silicon", is_flag=True, help="Of --compare: do not use the tables of aiconfigurator-core."
)
@click.option("--json", "as_json", is_flag=True, help="Of --compare: print as JSON.")
def profile(
    output: Path, budget: str, ops: str, dry_run: bool, compare: bool, device: str, no_silicon: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure the operations of the GPU at hand, for --tables.

    Needs PyTorch (extra "profile"). Time goes where interpolation is expected to be furthest off. Exits 2
    where there is no PyTorch or no GPU (docs/profile.md). --ops iteration measures whole iterations of a
    model, and --compare says how far predictions are off all that was measured.
    """
    if dry_run and compare:
        raise InputError(
            "--dry-run and --compare: one measures nothing yet, the other nothing more; give one"
        )
    if not compare and (device or no_silicon or as_json):
        raise InputError("--device, --no-silicon and --json belong to --compare, which is not given")
    if compare and click.get_current_context().get_parameter_source("budget") is ParameterSource.COMMANDLINE:
        raise InputError("--budget: --compare measures nothing; give one")
    from planner import profile_run

    operations = profile_run.parse_operations(ops)
    if compare:
        from planner import profile_compare

        found = profile_compare.compare(
            output,
            operations=operations if ops else (),
            device=device,
            silicon=not no_silicon,
            progress=progress,
        )
        click.echo(profile_compare.to_json(found) if as_json else profile_compare.to_text(found))
        return
    budget_s = profile_run.parse_budget(budget)
    if dry_run:
        click.echo(profile_run.plan(output, operations))
    else:
        click.echo(profile_run.run(output, operations=operations, budget_s=budget_s, progress=progress))


@main.command(epilog=example("zenith devices"))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def devices(as_json: bool) -> None:
    """List known devices and how well each is known."""
    from planner import commands

    click.echo(commands.devices(as_json=as_json))


@main.command(epilog=example("zenith models llama 70b"))
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models(words: tuple[str, ...], as_json: bool) -> None:
    """List known models, or those whose name holds every word."""
    from planner import commands

    click.echo(commands.models(words, as_json=as_json))


@main.group(epilog=example("zenith trace describe traces/samples/chat.csv"))
def trace() -> None:
    """Describe, convert, make and scale request traces."""


@trace.command(epilog=example("zenith trace describe traces/samples/chat.csv"))
@click.argument("file", type=FILE)
@click.option("--skip-bad-rows", is_flag=True, help="Drop bad rows and report them.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def describe(file: Path, skip_bad_rows: bool, as_json: bool) -> None:
    """Show rates over time, lengths and burstiness of a trace."""
    from planner import commands

    click.echo(commands.describe_trace(file, skip_bad_rows=skip_bad_rows, as_json=as_json, progress=progress))


@trace.command(epilog=example("zenith trace convert traces/samples/chat.csv chat.csv.gz"))
@click.argument("file", type=FILE)
@click.argument("output", type=OUTPUT)
@click.option("--skip-bad-rows", is_flag=True, help="Drop bad rows and report them.")
def convert(file: Path, output: Path, skip_bad_rows: bool) -> None:
    """Write a trace as our CSV; a name that ends in .gz is compressed."""
    from planner import commands

    commands.convert_trace(file, output, skip_bad_rows=skip_bad_rows, progress=progress)


@trace.command(
    epilog=example(
        "zenith trace synth bursty.csv --requests 200 --rate 4", "--arrivals gamma --cv 3 --prompt-mean 300"
    )
)
@click.argument("output", type=OUTPUT)
@click.option("--requests", type=click.IntRange(1, 100_000_000), default=1000, help="How many.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests per second. Default: 1.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "gamma", "at-once"]),
    default="poisson",
    help="How requests arrive.",
)
@click.option("--cv", type=click.FloatRange(0, min_open=True), help="Of the gaps, for gamma. Default: 1.")
@click.option("--prompt-mean", type=click.FloatRange(1), help="Tokens. Default: 512.")
@click.option("--prompt-sd", type=click.FloatRange(0), help="Tokens; 0 makes them all alike. Default: 0.")
@click.option("--output-mean", type=click.FloatRange(1), help="Tokens. Default: 128.")
@click.option("--output-sd", type=click.FloatRange(0), help="Tokens; 0 makes them all alike. Default: 0.")
@click.option("--lengths-of", type=FILE, help="Draw lengths from this trace instead.")
@click.option("--seed", type=SEED, default=0, help="Of every random choice.")
def synth(output: Path, **options: Any) -> None:
    """Make a trace: Poisson or bursty arrivals, log-normal, fixed or borrowed lengths."""
    from planner import commands

    with flags_named(options):
        commands.synthesize_trace(output, options, progress=progress)


@trace.command(epilog=example("zenith trace scale traces/samples/chat.csv rush.csv --rate 5 --first 100"))
@click.argument("file", type=FILE)
@click.argument("output", type=OUTPUT)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests per second on average.")
@click.option("--times", type=click.FloatRange(0, min_open=True), help="Times as fast, instead of --rate.")
@click.option("--first", type=click.IntRange(min=1), help="Keep the first so many requests.")
@click.option("--window", help="Keep arrivals from START to END seconds, e.g. 600:1200 or 600:")
@click.option("--skip-bad-rows", is_flag=True, help="Drop bad rows and report them.")
def scale(file: Path, output: Path, **options: Any) -> None:
    """Write part of a trace, or the same requests faster or slower: window, then first, then rate."""
    from planner import commands

    commands.scale_trace(file, output, options, progress=progress)


def progress(text: str) -> None:
    """Progress goes to stderr, so that stdout is the answer alone."""
    click.echo(printable(text), err=True)


def show(reply: "Reply") -> None:
    """Print an answer and leave with its status."""
    click.echo(reply.text)
    if reply.exit_code:
        sys.exit(reply.exit_code)


if __name__ == "__main__":
    main()
