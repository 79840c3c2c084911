"""The flow: question -> plans -> bounds -> simulation by bound -> ranking -> answer.

One small function per step of the design; nothing here prints. ``optimize`` answers a question,
``simulate_plan`` one named plan.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.bar import Counted, simulated
from planner.binding import Binding, binding_of
from planner.bounds import PlanBound, PlanBounds
from planner.cache import folder_content
from planner.deployable import deployable
from planner.errors import Clash, NoFeasiblePlan, NoPlanInTime
from planner.intervals import Intervals, intervals
from planner.launch import Launch, launch_of
from planner.layouts import longest_of
from planner.objective import OBJECTIVES, Objective
from planner.placement import Placement, place
from planner.question import Question, Slo, check_clocks
from planner.ranking import Metrics, PlanResult, SloResult, doubts, rank, rivals, untried
from planner.reach import Shortfall, shortfall
from planner.shares import TraceStats
from planner.slo import REQUEST_METRICS
from planner.space import plans_of
from planner.store import (
    Store,
    array_bytes,
    content,
    lengths_content,
    space_content,
    trace_content,
    without_tables,
)
from planner.verify import Bounded, Certificate, verify
from profiles.compile import Compiler
from profiles.engine import load_engine
from profiles.errors import InputError, about
from profiles.fleet import Pool
from profiles.memory import footprint
from profiles.model import Model, MoE
from profiles.moved import AS_IT_IS, Moved
from profiles.ops import Operations
from profiles.plan import Plan
from profiles.power import PowerModel
from profiles.residuals import Kind
from profiles.stepcost import PS, StepCost
from simulator import metrics
from simulator.engine import LONGEST_S, simulate
from simulator.outcome import Outcome

if TYPE_CHECKING:
    import pandas as pd

_BOUND_OF_MEAN = {"e2e": "latency", "ttft": "ttft", "tpot": "tpot", "itl": "itl", "power": "power"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked and found. ``results``: simulated plans in rank order; ``searched``: whether they
    are the best of a space (``among`` and the certificate say of what), or one plan that was named; ``shortfall``: how
    near plans get where a space has none that meets every SLO; ``binding``: what binds the first result."""

    headline: str
    question: dict[str, object]
    objective: Objective
    slo_text: str
    results: list[PlanResult]
    certificate: Certificate
    launch: Launch
    profile_text: str
    notes: list[str]
    searched: bool = True
    among: str = "all feasible plans"
    shortfall: Shortfall | None = None
    binding: Binding | None = None

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import answer_frame

        return answer_frame(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan on the devices of one pool."""

    plan: Plan
    pool: int
    placement: Placement


class Evaluator:
    """Compiles, bounds and simulates plans of one question; what plans share is computed once.

    Parameters
    ----------
    tables
        Directory of CSV operation tables in APEX+'s format, before anything else; None for none.
    silicon
        Use the measured tables of ``aiconfigurator-core`` where it is installed and knows the device.
    store
        Shared with evaluators of other questions; None keeps no tables and no simulations.
    moved
        How far the profile is moved from what it says (``zenith sensitivity``).
    """

    def __init__(
        self, question: Question, *, tables: Path | None = None, silicon: bool = True,
        store: Store | None = None, moved: Moved = AS_IT_IS,
    ) -> None:  # fmt: skip
        self.question, self.moved = question, moved
        self.store = store or Store(most_bytes=0)
        self.objective = OBJECTIVES[question.objective]
        self.stats = TraceStats(question.trace)
        trace = question.trace
        self.longest = longest_of(trace)
        self.sources: list[str] = []
        self._last: tuple[Candidate, PlanBounds] | None = None
        self.trace_key = trace_content(trace)
        measured = tables and self.store.get("folder", tables, lambda: folder_content(tables))
        engine = load_engine(question.engine)
        self.profiles = [
            content(question.model, pool.device, pool.power_cap_w, engine, measured, silicon)
            for pool in question.fleet.pools
        ]
        if moved != AS_IT_IS:
            self.profiles = [content(key, moved) for key in self.profiles]
        self.compilers: list[Compiler] = []
        self._alone: list[Lock] = []
        for pool, key in zip(question.fleet.pools, self.profiles, strict=True):
            make = partial(self._compiler, pool, tables, silicon)
            compiler, words, alone = self.store.get("profile", key, make)
            self.compilers.append(compiler)
            self._alone.append(alone)
            self.sources.append(words)

    def _compiler(self, pool: Pool, tables: Path | None, silicon: bool) -> tuple[Compiler, str, Lock]:
        """With its words, and what a thread holds while it compiles: compilers fill caches of their own."""
        operations, words = self.store.get(
            "operations",
            content(self.question.model, pool.device, tables, silicon),
            lambda: operations_of(pool, self.question.model, tables=tables, silicon=silicon),
        )
        power = PowerModel(pool.device, cap_w=pool.power_cap_w)
        watts = (
            "fitted to runs" if power.fitted_on == pool.device.name else f"modelled after {power.fitted_on}"
        )
        compiler = Compiler(
            self.question.model,
            pool.device,
            self.moved.operations(operations),
            engine=self.moved.engine(load_engine(self.question.engine)),
            power=power,
        )
        return compiler, f"{pool.device.name}: {words}, power {watts}", Lock()

    @property
    def overheads(self) -> list[str]:
        """Which constants of the engine count, in words; once where all pools have the same."""
        return list(dict.fromkeys(compiler.overhead_words for compiler in self.compilers))

    def _links(self, candidate: Candidate) -> dict[str, Any]:
        """Of the placement: inside an attention rank, a feed-forward group, and between stages."""
        plan, pool = candidate.plan, self.question.fleet.pools[candidate.pool]
        placed = candidate.placement
        return {
            "link_tensor": pool.link(plan.attn_tp, placed.tensor_nodes),
            "link_ffn": pool.link(plan.ffn_tp * plan.ffn_ep, placed.ffn_nodes),
            "stage_links": tuple(pool.link(2, 2 if crosses else 1) for crosses in placed.crossings),
        }

    def candidate(self, result: PlanResult, candidates: Iterable[Candidate]) -> Candidate:
        """Which of the candidates a result is of."""
        pools = [pool.name for pool in self.question.fleet.pools]
        return next(c for c in candidates if (c.plan, pools[c.pool]) == (result.plan, result.pool))

    def step_key(self, candidate: Candidate) -> tuple[object, ...]:
        """All that the cost tables of one replica follow from."""
        links = tuple(self._links(candidate).values())
        return self.profiles[candidate.pool], candidate.plan, links, self.longest

    def step(self, candidate: Candidate) -> StepCost:
        """The cost tables of one replica, with the links of the placement."""
        compiler = self.compilers[candidate.pool]
        return self.store.get(
            "cost tables",
            self.step_key(candidate),
            lambda: self.compiled(compiler, candidate),
            size=array_bytes,
        )

    def compiled(self, compiler: Compiler, candidate: Candidate) -> StepCost:
        """The cost tables of one replica by another compiler."""
        links, longest = self._links(candidate), self.longest
        with self._alone[candidate.pool]:
            return compiler.compile(
                candidate.plan, max_length=longest.request, max_prompt=longest.prompt, **links
            )

    def bounded(self, candidate: Candidate) -> Bounded[Candidate]:
        """The plan with its bound, and whether an SLO is proven out of its reach."""
        hopeless = any(
            self.bound(candidate, name).value > slo.limit
            for slo in self.question.slos
            if (name := bound_name(slo)) is not None
        )
        bound = self.objective_bound(candidate)
        return Bounded(item=candidate, bound=self.objective.score(bound.value), hopeless=hopeless)

    def objective_bound(self, candidate: Candidate) -> PlanBound:
        """What no scheduler of this plan beats in the objective."""
        limits = goodput_limits(self.question.slos) if self.objective.name == "goodput" else {}
        usd = self._price_usd(candidate.pool) if self.objective.name == "cost" else None
        return self.bound(candidate, self.objective.name, limits, (usd or 0.0) / 3600)

    def bound(
        self, candidate: Candidate, name: str, slo_s: Mapping[str, float] | None = None,
        device_usd_per_s: float = 0.0,
    ) -> PlanBound:  # fmt: skip
        """A bound of ``planner.bounds`` by its name."""
        limits = slo_s or {}
        key = (
            self.step_key(candidate),
            self.trace_key,
            name,
            tuple(sorted(limits.items())),
            device_usd_per_s,
        )
        return self.store.get(
            "bound",
            key,
            lambda: self._plan_bounds(candidate).bound(name, slo_s=limits, device_usd_per_s=device_usd_per_s),
            lasting=True,
        )

    def _plan_bounds(self, candidate: Candidate) -> PlanBounds:
        """Of the plan asked for last: its bounds share most of their work."""
        last = self._last
        if last is None or last[0] != candidate:
            last = (candidate, PlanBounds(self.step(candidate), candidate.plan, self.stats))
            self._last = last
        return last[1]

    def simulated(self, candidate: Candidate) -> tuple[float, bool, PlanResult]:
        """Score (lower is better), whether every SLO is met and every request served, and the record."""
        return self.judged(candidate, *self.outcome(candidate))

    def outcome(self, candidate: Candidate) -> tuple[StepCost, Outcome]:
        """What happens when the plan serves the trace, behind what its metrics take from the cost tables."""

        def served() -> tuple[StepCost, Outcome]:
            plan, step = candidate.plan, self.step(candidate)
            outcome = simulate(self.question.trace, step, plan.engine, replicas=plan.replicas)
            return without_tables(step), outcome

        return self.store.get(
            "simulation",
            (self.step_key(candidate), self.trace_key),
            served,
            size=lambda pair: array_bytes(pair[1]),
            lasting=True,
        )

    def judged(
        self, candidate: Candidate, step: StepCost, outcome: Outcome
    ) -> tuple[float, bool, PlanResult]:
        """``simulated``, of an outcome that is at hand; of ``step`` no table is read."""
        question, plan = self.question, candidate.plan
        values = metrics.summary(
            outcome,
            step,
            devices=plan.devices,
            usd_per_device_hour=self._price_usd(candidate.pool),
            goodput_bounds_s=goodput_limits(question.slos),
        )
        slos = tuple(
            SloResult(
                key=slo.key,
                text=slo.text,
                value=metrics.slo_value(outcome, slo.metric, slo.percentile),
                limit=slo.limit,
                unit=slo.unit,
            )
            for slo in question.slos
        )
        value = values[self.objective.metric]
        assert value is not None, "Question refuses objectives that a pool cannot have"
        bound = self.objective_bound(candidate)
        served = outcome.served
        waits = outcome.scheduled_ps[served] - outcome.arrival_ps[served]
        result = PlanResult(
            plan=plan,
            pool=question.fleet.pools[candidate.pool].name,
            device=question.fleet.pools[candidate.pool].device.name,
            placement=candidate.placement.assignment,
            metrics=values,
            value=value,
            bound=bound.value,
            bound_name=bound.name,
            slos=slos,
            deployable=deployable(plan, question.model, question.fleet.pools[candidate.pool].device),
            breakdown_s={name: ps / PS for name, ps in outcome.breakdown_ps.items()},
            provenance=outcome.provenance,
            wait_s=float(waits.mean() / PS) if served.any() else 0.0,
            memory=footprint(question.model, plan, step.kv_blocks, self.longest),
            intervals=self.intervals(
                candidate.pool, plan, values | {slo.key: slo.value for slo in slos}, outcome.provenance
            ),
        )
        return self.objective.score(value), result.acceptable, result

    def intervals(self, pool: int, plan: Plan, values: Metrics, provenance: Mapping[str, float]) -> Intervals:
        """Of times of a plan, by the errors of servers of this kind."""
        question = self.question
        kind = Kind(
            device=question.fleet.pools[pool].device.name,
            policy=plan.engine.policy,
            experts=any(isinstance(block.ffn, MoE) for block in question.model.decoder.blocks),
            modelled=provenance["modelled"] / (sum(provenance.values()) or 1.0),
        )
        return intervals(values, float(question.trace.arrival_s[-1]), self.compilers[pool].engine, kind)

    def lowest(self, candidates: Sequence[Candidate]) -> list[tuple[float, Candidate] | None]:
        """For each SLO what no scheduler of any plan gets below, and whose bound that is; None without a bound."""
        best: list[tuple[float, Candidate] | None] = [None for _ in self.question.slos]
        for candidate in candidates:  # the bounds of one plan share most of their work
            for i, slo in enumerate(self.question.slos):
                if name := bound_name(slo):
                    value = self.bound(candidate, name).value
                    if (known := best[i]) is None or value < known[0]:
                        best[i] = value, candidate
        return best

    def _price_usd(self, pool: int) -> float | None:
        """Of a device and hour."""
        return self.question.fleet.pools[pool].price_usd_per_device_hour


def operations_of(pool: Pool, model: Model, *, tables: Path | None, silicon: bool) -> tuple[Operations, str]:
    """The best source of operation times for a pool's device, and its name for people.

    ``tables``: what ``zenith profile`` wrote (with ``profile.json``), a profile of one model by vLLM (with
    ``attention.csv``), or CSV in APEX+'s format.
    """
    from profiles.roofline import Roofline

    device = pool.device
    roofline = Roofline(device)
    operations: Operations = roofline
    words = roofline.words
    if silicon and device.silicon_system is not None:
        from profiles.silicon import Silicon, silicon_available

        if silicon_available():
            scales = "block" if model.weight_format == "fp8" else "tensor"  # as Hugging Face's fp8 has them
            operations = Silicon(device.silicon_system, fallback=roofline, fp8_scales=scales)
            words = f"measured tables of aiconfigurator-core ({device.silicon_system}), roofline elsewhere"
        else:
            words += " (install the extra 'silicon' for measured tables)"
    if tables is not None:
        with about("tables"):
            if (tables / "profile.json").exists():
                from profiles.own_tables import OwnTables

                operations = OwnTables(tables, device=device, fallback=operations)
            elif (tables / "attention.csv").exists():
                from profiles.vllm_profile import VllmProfile

                operations = VllmProfile(tables, model=model, fallback=operations)
            else:
                from profiles.apex_tables import ApexTables

                operations = ApexTables(tables, device=device, fallback=operations)
        words = f"tables of {tables.name}, then {words}"
    return operations, words


def bound_name(slo: Slo) -> str | None:
    """Objective of ``planner.bounds`` that bounds this SLO's metric, None where there is none."""
    if slo.percentile is None:
        return _BOUND_OF_MEAN[slo.metric]
    return None if slo.metric == "itl" else f"p{slo.percentile:g}-{slo.metric}"


def goodput_limits(slos: tuple[Slo, ...]) -> dict[str, float]:
    """Per-request limits of a question: its SLOs, whatever their percentile. ITL and power are not per request."""
    limits: dict[str, float] = {}
    for slo in slos:
        if slo.metric in REQUEST_METRICS:
            limits[slo.metric] = min(slo.limit, limits.get(slo.metric, math.inf))
    return limits


def candidates_of(
    question: Question, store: Store | None = None, *, ways_out: bool = True
) -> list[Candidate]:
    """Every feasible plan of every pool, placed; enumerated, or explained, once for all questions of a store.

    Raises
    ------
    NoFeasiblePlan
        When no pool has one: the reasons of each, and unless ``ways_out`` is off what would do.
    """
    store = store or Store(most_bytes=0)
    errors: list[tuple[Pool, NoFeasiblePlan]] = []
    key = space_content(question)
    found = store.get("plan space", key, lambda: _placed(question, errors), lasting=True)
    if found:
        return found

    def why() -> tuple[str, tuple[Clash, ...], tuple[str, ...]]:
        if not errors:  # another question found that there is none
            _placed(question, errors)
        error = _no_plan(question, errors, ways_out=ways_out)
        return str(error), error.core, error.relaxations

    text, core, changes = store.get(
        "no plan", (key, lengths_content(question.trace), ways_out), why, lasting=True
    )
    raise NoFeasiblePlan(text, core=core, relaxations=changes)


def _placed(question: Question, errors: list[tuple[Pool, NoFeasiblePlan]]) -> list[Candidate]:
    """Every feasible plan; ``errors`` takes the pools that have none."""
    found: list[Candidate] = []
    for i, pool in enumerate(question.fleet.pools):
        try:
            plans = plans_of(question, pool)
        except NoFeasiblePlan as error:
            errors.append((pool, error))
            continue
        placements: dict[tuple[object, ...], Placement] = {}
        for plan in plans:
            key = (plan.replicas, plan.layers_per_stage, plan.attn_tp, plan.attn_dp, plan.ffn_tp, plan.ffn_ep)
            if key not in placements:
                placements[key] = place(plan, pool)
            found.append(Candidate(plan=plan, pool=i, placement=placements[key]))
    return found


def _no_plan(
    question: Question, errors: list[tuple[Pool, NoFeasiblePlan]], *, ways_out: bool
) -> NoFeasiblePlan:
    """The reasons of all pools in one line, with what would do."""
    from planner.relax import relaxations

    several = len(errors) > 1
    text = "; ".join(f"{pool.name}: {error}" if several else str(error) for pool, error in errors)
    changes = relaxations(question, errors) if ways_out else []
    if changes:
        text += f" {'This' if len(changes) == 1 else 'Each of these'} would do: {'; '.join(changes)}."
    core = [clash for _, error in errors for clash in error.core]
    return NoFeasiblePlan(text, core=core, relaxations=changes)


def optimize(
    question: Question, *, max_simulations: int | None = None, time_limit_s: float | None = None,
    everything: bool = False, workers: int = 1, tables: Path | None = None, silicon: bool = True,
    progress: Callable[[str], None] = lambda text: None, store: Store | None = None, moved: Moved = AS_IT_IS,
) -> Answer:  # fmt: skip
    """The certified answer to a question; a ``store`` shares work with other questions, ``moved`` asks it of
    another profile.

    Raises
    ------
    NoFeasiblePlan, NoPlanInTime
        See there.
    """
    question, notes = fitted(question)
    progress("enumerating plans")
    candidates = candidates_of(question, store)
    progress(f"{len(candidates)} feasible plans; bounding")
    evaluator = Evaluator(question, tables=tables, silicon=silicon, store=store, moved=moved)
    bounded = []
    for candidate in candidates:
        bounded.append(evaluator.bounded(candidate))
        if len(bounded) % 500 == 0:
            progress(Counted(f"{len(bounded)} of {len(candidates)} bounded", len(bounded), len(candidates)))
    progress("simulating by bound (the first run ever compiles the simulator: about 20 s)")
    verified, certificate = verify(
        bounded,
        evaluator.simulated,
        max_simulations=max_simulations,
        time_limit_s=time_limit_s,
        everything=everything,
        workers=workers,
        progress=lambda done, left: progress(simulated(done, left)),
    )
    if not verified and certificate.excluded_by_slo < certificate.feasible:
        raise NoPlanInTime("the limit ran out before the first plan was simulated")
    results = [v.result for v in verified]
    missed = None
    if not any(r.acceptable for r in results) and question.slos:
        progress("no plan meets the SLOs; looking for how near they get")
        lowest = evaluator.lowest(candidates)
        if not certificate.unexamined:
            seen = {v.item for v in verified}
            best = [] if verified else [min(bounded, key=lambda b: b.bound).item]
            best += [entry[1] for entry in lowest if entry]
            more = [candidate for candidate in dict.fromkeys(best) if candidate not in seen]
            results += [evaluator.simulated(candidate)[2] for candidate in more]
            certificate = replace(
                certificate,
                simulated=certificate.simulated + len(more),
                excluded_by_slo=certificate.excluded_by_slo - len(more),
            )
        results = rank(results, evaluator.objective)
        missed = shortfall(question, results, [entry and entry[0] for entry in lowest])
    if not verified:
        notes.append("no plan can meet the SLOs, whatever its scheduler; shown: plans with the best bounds")
    bounds = [(b.item.plan.label, b.bound) for b in bounded if not b.hopeless]
    answer = answer_of(question, evaluator, rank(results, evaluator.objective), certificate, notes, bounds)
    binding = binding_of(evaluator, evaluator.candidate(answer.results[0], candidates))
    return replace(answer, shortfall=missed, binding=binding)


def simulate_plan(
    question: Question, plan: Plan, *, tables: Path | None = None, silicon: bool = True
) -> tuple[Answer, Outcome]:
    """One named plan, simulated and bounded, with the records of its requests.

    Raises
    ------
    NoFeasiblePlan
        When it does not fit the fleet or the memory of its devices.
    """
    from planner.validate import complaints

    question, notes = fitted(question)
    evaluator = Evaluator(question, tables=tables, silicon=silicon)
    reasons = []
    for i, pool in enumerate(question.fleet.pools):
        check_clocks(pool, [plan.clock_mhz], ["plan"])
        found = complaints(question, pool, plan)
        if not found:
            candidate = Candidate(plan=plan, pool=i, placement=place(plan, pool))
            step = evaluator.step(candidate)
            outcome = simulate(question.trace, step, plan.engine, replicas=plan.replicas)
            score, meets, result = evaluator.judged(candidate, step, outcome)
            certificate = Certificate(
                feasible=1, simulated=1, excluded_by_bound=0, excluded_by_slo=0, unexamined=0,
                best=score if meets else None, proven=score if meets else None, gap=0.0,
            )  # fmt: skip
            answer = answer_of(question, evaluator, [result], certificate, notes)
            binding = binding_of(evaluator, candidate)
            return replace(answer, searched=False, binding=binding), outcome
        reasons += [f"{pool.name}: {reason}" for reason in found]
    raise NoFeasiblePlan(f"{plan.label}: " + "; ".join(reasons))


def fitted(question: Question) -> tuple[Question, list[str]]:
    """The question with the trace as this kind of model sees it, from its first arrival on, and what was
    changed or looks wrong.

    An encoder has no decode: every request is one pass, over as many tokens as its input always has.
    """
    model, trace, notes = question.model, question.trace, []
    if trace.arrival_s[-1] > LONGEST_S:
        raise InputError(
            f"{trace.name}: arrivals span {trace.arrival_s[-1] / 86_400:.4g} days, at most {LONGEST_S / 86_400:.0f} "
            "are simulated; cut it with zenith trace scale --window",
            about=["trace_rate", "trace_file", "synthetic"],
        )
    if trace.arrival_s[0] > 0:  # idle devices before anyone asks are nobody's energy or cost
        trace = replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0])
        question = replace(question, trace=trace)
    if model.kind == "encoder":
        prompt = trace.prompt_tokens
        if model.encoder_tokens:
            prompt = np.full_like(prompt, model.encoder_tokens)
        trace = replace(trace, prompt_tokens=prompt, output_tokens=np.ones_like(trace.output_tokens))
        notes.append(
            f"{model.name} is an encoder: each request is one pass of {int(prompt.mean())} tokens on average"
        )
        return replace(question, trace=trace), notes
    beyond = int((trace.prompt_tokens + trace.output_tokens > model.max_positions).sum())
    if beyond and model.kind == "decoder":
        notes.append(
            f"{beyond} requests are longer than the {model.max_positions} positions that {model.name} was made for"
        )
    return question, notes


def answer_of(
    question: Question,
    evaluator: Evaluator,
    results: list[PlanResult],
    certificate: Certificate,
    notes: list[str],
    bounds: Iterable[tuple[str, float]] = (),
) -> Answer:
    """``bounds``: of plans that may meet every SLO, label and least score."""
    trace, model = question.trace, question.model
    fleet = " + ".join(f"{pool.devices} x {pool.device.name}" for pool in question.fleet.pools)
    headline = (
        f"{model.name} ({model.parameters() / 1e9:.1f}B parameters) on {fleet}{_at_most(question)}\n"
        f"trace {trace.name}: {len(trace):,} requests"
        + (f" at {trace.rate_per_s:.3g}/s" if trace.rate_per_s else " at once")
        + f", prompt {trace.prompt_tokens.mean():.0f} and output {trace.output_tokens.mean():.0f} tokens on average"
    )
    if any(result.metrics["rejected"] for result in results[:1]):
        lost = results[0].metrics["rejected"]
        notes = [*notes, f"{lost:.0f} requests cannot be served (zenith simulate --requests says why)"]
    if results and (served := results[0].metrics["requests_per_s"]) and trace.rate_per_s:
        late_s = (results[0].metrics["makespan_s"] or 0.0) - trace.duration_s
        wait_s, m = results[0].wait_s, results[0].metrics
        late = late_s > 0.1 * trace.duration_s and wait_s > (m["ttft_mean_s"] or 0.0) / 2
        if late or wait_s > (m["e2e_mean_s"] or 0.0) / 2:
            notes = [
                *notes,
                f"overloaded: {trace.rate_per_s:.3g} requests/s arrive, {served:.3g} are served; requests wait, and "
                "would wait longer in a longer trace",
            ]
    if results and results[0].acceptable:
        close = [result.plan.label for result in rivals(results, evaluator.objective)]
        perhaps = untried(results, bounds, evaluator.objective)
        if words := doubts(close, perhaps, results[0].intervals.source):
            notes = [*notes, words]
    return Answer(
        headline=headline,
        question={
            "model": model.name,
            "fleet": fleet,
            "trace": trace.name,
            "requests": len(trace),
            "objective": question.objective,
            "slos": [slo.text for slo in question.slos],
            **({} if question.max_gpus is None else {"max_gpus": question.max_gpus}),
            **({} if question.max_usd_per_hour is None else {"max_usd_per_hour": question.max_usd_per_hour}),
            "engine": question.engine,
            "seed": question.seed,
        },
        objective=evaluator.objective,
        slo_text=", ".join(slo.text for slo in question.slos),
        results=results,
        certificate=certificate,
        launch=launch_of(question, results[0], first=question.deployable_on) if results else Launch(),
        profile_text="; ".join([*evaluator.sources, *evaluator.overheads]),
        notes=notes,
    )


def _at_most(question: Question) -> str:
    """Limits on the devices of a plan, as the end of a line."""
    gpus, usd = question.max_gpus, question.max_usd_per_hour
    return ("" if gpus is None else f", at most {gpus} of them") + (
        "" if usd is None else f", at most {usd:.12g} USD/h"
    )


__all__ = ["Answer", "Evaluator", "candidates_of", "optimize", "simulate_plan"]
