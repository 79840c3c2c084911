"""Compile a plan into its StepCost: cells of every distinct layer, once, times how often a stage has it.

``Compiler`` keeps what plans share: operations by shape, layers by shard. Two stages with the same layers
are built once; a deep model costs no more to compile than a shallow one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from profiles import work
from profiles.calibrated import calibrated
from profiles.cells import Layout, Ledger, head_cells, send_cells
from profiles.device import Device
from profiles.engine import EngineProfile
from profiles.memory import Longest, kv_blocks, kv_bytes_per_token
from profiles.meter import Meter, compute_format
from profiles.model import Model
from profiles.ops import FloatArray, IntArray, Link, Operations
from profiles.plan import Plan
from profiles.power import PowerModel
from profiles.shards import stage_blocks
from profiles.stages import LayerCache, Stage, StageCosts, host, parts
from profiles.stepcost import PS, StepCost
from profiles.tables import NJ, integers, load_grid, shares, spread

Array = TypeVar("Array", IntArray, FloatArray)


class Compiler:
    """Compiles plans of one model on one kind of device.

    Parameters
    ----------
    model, device, operations, engine, power
        What is served, where, what its operations cost, what the engine adds, what the device draws.
    meter
        How operations are charged.
    """

    def __init__(
        self, model: Model, device: Device, operations: Operations, *,
        engine: EngineProfile, power: PowerModel, meter: type[Meter] = Meter,
    ) -> None:  # fmt: skip
        self.model, self.device, self._bare, self._charging = model, device, operations, meter
        self.operations = calibrated(operations, engine, device)
        self.engine, self.power = engine, power
        self._meters: dict[int, Meter] = {}
        self._layers: dict[int, LayerCache] = {}

    def with_engine(self, engine: EngineProfile) -> "Compiler":
        """The same with other constants of the engine."""
        return Compiler(self.model, self.device, self._bare, engine=engine, power=self.power)

    @property
    def overhead_words(self) -> str:
        """Which constants of the engine count, for a person."""
        words = f"engine overhead {self.engine.name}"
        if self.engine.holds_mixing and self.operations.knows_mixing:
            words += ", without iteration_s and prefill_s where mixed batches were measured"
        return words

    def compile(
        self, plan: Plan, *, link_tensor: Link, link_ffn: Link, stage_links: tuple[Link, ...] = (),
        max_length: int, max_prompt: int | None = None,
    ) -> StepCost:  # fmt: skip
        """Tables of one replica.

        Parameters
        ----------
        link_tensor, link_ffn
            Of the devices of one attention rank, and of one feed-forward group.
        stage_links
            Between each stage and the next.
        max_length
            Longest sequence of the trace, prompt and output together. >= 1.
        max_prompt
            Longest prompt, from 1 to ``max_length``: memory for activations follows it. None: ``max_length``.

        Raises
        ------
        InputError
            When the plan's stages do not add up to the model's layers.
        ValueError
            When there is not one link between two stages, or a length is out of range.
        """
        if len(stage_links) != plan.stages - 1 or max_length < 1:
            raise ValueError("Need a link between any two stages and a max_length of at least 1.")
        longest = Longest(prompt=max_length if max_prompt is None else max_prompt, request=max_length)
        model, engine, meter = self.model, plan.engine, self._meter(plan.clock_mhz)
        own = engine.all_reduce == "custom"
        layout = Layout(
            plan=plan,
            hidden=model.decoder.hidden,
            link_tensor=replace(link_tensor, custom_all_reduce=own),
            link_ffn=replace(link_ffn, custom_all_reduce=own),
            meter=meter,
        )
        chunkable = model.kind == "decoder"
        tokens = max(engine.token_budget, engine.max_seqs)
        if not (chunkable and engine.chunks_prefill):
            # A whole prompt may run alone, or beside the decodes of everyone else.
            tokens = max(tokens, max_length + engine.max_seqs)
        costs = StageCosts(
            model, layout, self.engine, self._layers[plan.clock_mhz], tokens=tokens, max_length=max_length
        )
        stages = self._stages(costs, plan)
        local_ps, local_parts = _tables([s.own_parts for s in stages])
        shared_ps, shared_parts = _tables([s.shared_parts for s in stages])
        head_grid = load_grid(plan.attn_dp * engine.max_seqs)
        head = self._head(layout, head_grid)
        head_parts = parts(head_grid, head)
        send_ps, send_nj = _send(layout, stage_links, costs.shared_grid)
        block_bytes = max(kv_bytes_per_token(model, plan)) * engine.block_size
        compute = compute_format(plan.weight_format, plan.activation_format)
        return StepCost(
            stages=plan.stages,
            ranks=plan.attn_dp,
            max_seqs=engine.max_seqs,
            knots=costs.knots,
            local_ps=local_ps,
            shared_ps=shared_ps,
            head_ps=_sum(head_parts.values()),
            send_ps=send_ps,
            decode_value_ps=_stack([s.decode[0] for s in stages]),
            decode_slope_ps=_stack([s.decode[1] for s in stages]),
            prefill_launch_ps=np.array([s.prefill[0] for s in stages]),
            prefill_ps=_stack([s.prefill[1] for s in stages]),
            idle_w=self.power.idle_w * plan.replica_devices,
            local_nj=_stack([s.own_nj for s in stages]),
            shared_nj=_stack([s.shared_nj for s in stages]),
            head_nj=integers(head_grid, head.joules * plan.stage_devices, NJ),
            send_nj=send_nj,
            decode_value_nj=_stack([s.decode_nj[0] for s in stages]),
            decode_slope_nj=_stack([s.decode_nj[1] for s in stages]),
            prefill_launch_nj=np.array([s.prefill_nj[0] for s in stages]),
            prefill_nj=_stack([s.prefill_nj[1] for s in stages]),
            **_mixed(stages),
            kv_blocks=kv_blocks(model, plan, self.device, longest),
            swap_block_ps=int(np.ceil(block_bytes / self.device.host_bandwidth * PS)),
            chunkable=chunkable,
            local_parts=local_parts,
            shared_parts=shared_parts,
            head_parts=head_parts,
            local_provenance=spread(costs.own_grid, _sum(s.own_seconds for s in stages)),
            shared_provenance=spread(costs.shared_grid, _sum(s.shared_seconds for s in stages)),
            head_provenance=spread(head_grid, head.provenance),
            decode_provenance=shares(_sum(s.decode_seconds for s in stages)),
            prefill_provenance=shares(_sum(s.prefill_seconds for s in stages)),
            flops_per_token=work.flops_per_token(model),
            attention=work.attention_work(model, plan),
            weight_bytes=work.weight_bytes(model, plan),
            experts=work.routed_experts(model, plan),
            ffn_groups=plan.ffn_dp,
            peak_flops=self.device.flops(compute) * plan.replica_devices,
            peak_bandwidth=self.device.bandwidth * plan.replica_devices,
        )

    def _meter(self, clock_mhz: int) -> Meter:
        if clock_mhz not in self._meters:
            self._meters[clock_mhz] = self._charging(self.operations, self.device, self.power, clock_mhz)
            self._layers[clock_mhz] = LayerCache()
        return self._meters[clock_mhz]

    def _stages(self, costs: StageCosts, plan: Plan) -> list[Stage]:
        """Every stage; those with the same layers in the same role are one object."""
        made: dict[tuple[frozenset[tuple[object, int]], bool], Stage] = {}
        stages = []
        for p, blocks in enumerate(stage_blocks(self.model, plan)):
            key = (frozenset(blocks.items()), p == 0)
            if key not in made:
                made[key] = costs.build(blocks, first=p == 0)
            stages.append(made[key])
        return stages

    def _head(self, layout: Layout, sequences: IntArray) -> Ledger:
        vocab = self.model.vocab if self.model.lm_head else 0
        ledger = head_cells(layout, vocab, sequences)
        ledger.add("host", host(sequences * self.engine.sequence_s))
        return ledger


def _send(layout: Layout, links: tuple[Link, ...], tokens: IntArray) -> tuple[IntArray, IntArray]:
    """Picoseconds and nanojoules of the hand-over between stages; devices of both take part."""
    made = {link: send_cells(layout, link, tokens) for link in links}
    times = {link: integers(tokens, ledger.total(), PS) for link, ledger in made.items()}
    devices = 2 * layout.plan.stage_devices
    energies = {link: integers(tokens, ledger.joules * devices, NJ) for link, ledger in made.items()}
    shape = (len(links), int(tokens[-1]) + 1)
    return (
        np.array([times[link] for link in links], dtype=np.int64).reshape(shape),
        np.array([energies[link] for link in links], dtype=np.int64).reshape(shape),
    )


def _tables(stages: list[dict[str, IntArray]]) -> tuple[IntArray, dict[str, IntArray]]:
    """Rows of all stages ``[P, ...]``, and their parts summed over stages; alike stages are added once."""
    distinct = {id(parts): parts for parts in stages}
    rows = {key: _sum(parts.values()) for key, parts in distinct.items()}
    totals: dict[str, IntArray] = {}
    for key, count in Counter(map(id, stages)).items():
        for name, part in distinct[key].items():
            totals[name] = totals[name] + count * part if name in totals else count * part
    return _stack([rows[id(parts)] for parts in stages]), totals


def _mixed(stages: list[Stage]) -> dict[str, IntArray]:
    """Tables of ``mixed`` by name; no stage has one, or all have."""
    tables = [stage.mixed for stage in stages if stage.mixed]
    names = ("mixed_value_ps", "mixed_slope_ps", "mixed_token_ps")
    return {name: _stack(list(rows)) for name, rows in zip(names, zip(*tables, strict=True), strict=False)}


def _stack(rows: list[IntArray]) -> IntArray:
    """``[P, ...]``, without a copy where there is one stage."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _sum(arrays: Iterable[Array]) -> Array:
    first, *rest = arrays
    total = first.copy()
    for array in rest:
        total += array
    return total


def compile_plan(
    model: Model, plan: Plan, device: Device, operations: Operations, *, link_tensor: Link, link_ffn: Link,
    stage_links: tuple[Link, ...], engine: EngineProfile, power: PowerModel, max_length: int,
) -> StepCost:  # fmt: skip
    """Compile one plan; of several plans of one model, ``Compiler`` shares the work."""
    compiler = Compiler(model, device, operations, engine=engine, power=power)
    return compiler.compile(
        plan, link_tensor=link_tensor, link_ffn=link_ffn, stage_links=stage_links, max_length=max_length
    )
