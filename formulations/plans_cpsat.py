"""Every feasible plan layout with CP-SAT, or the constraints that clash.

Data       D devices, L layers, G group limit, room_k free devices of node k, heads (q_c, k_c) of attention
           cells c, inner widths of dense cells v and of routed experts u, numbers of experts x,
           need[pp, widths, e] and capacity C in KiB
Variables  dp, pp, attn_tp, attn_dp, ffn_tp, ep, ffn_dp >= 1 and e, the setting; integer
           stage = attn_tp attn_dp,  group = ffn_tp ep
Subject    cells        stage = group ffn_dp
           devices      dp pp stage <= D  (= D where all must be used)
           at_most      dp pp stage <= m  for every further limit m, by its name
           stages       pp <= L
           groups       attn_tp <= G and group <= G
           nodes        dp pp <= sum_k floor(room_k / stage), where stages may not spread over nodes
           heads        attn_tp | q_c, and attn_tp | k_c or k_c | attn_tp, for every c
           dense_inner  group | v         for every v
           routed_inner ffn_tp | u        for every u;  without experts this family is absent
           experts      ep | x            for every x;  ep = 1 without experts
           sharing      attn_dp = 1 or ffn_dp = 1
           memory       need[pp, widths, e] is tabulated and <= C
           deployable   (pp, widths, e) is runnable, where plans must be
           fix, forbid  an axis equals, or differs from, a value

``sharing`` is what remains, with two kinds of cells, of two rules on their replica counts: their greatest
common divisor is 1 (a common factor d is the same plan with d times the model replicas), and one divides
the other (or tokens of one replica would be torn apart between two). A stage then is itself a tensor or an
expert group, so groups stay on a node exactly when stages do. The clock, which meets none of these
constraints, is crossed with the solutions afterwards.

Devices bound every variable, so that a width larger than the pool clashes with what asked for it alone.

Every family has a literal. Assumed true, the families are the model; the core is a subset of them that
stays infeasible and becomes feasible whichever one is dropped, found by deletion. What engines run and memory
are tried first, the user's own rules last: what is cheapest to change stays in the answer.
"""

import math
from collections.abc import Iterable

from ortools.sat.python import cp_model

from formulations import cpsat
from formulations.problem import WIDTHS, Limits, PlanInstance, PlanSolutions, Status


def divisors(number: int) -> list[int]:
    """All of them, ascending.

    Examples
    --------
    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def common_divisors(numbers: tuple[int, ...]) -> list[int]:
    """Divisors that all numbers share."""
    return divisors(math.gcd(*numbers))


def head_widths(heads: tuple[tuple[int, int], ...]) -> list[int]:
    """Tensor widths of attention that cut every cell evenly; KV heads may be copied evenly instead.

    Examples
    --------
    >>> head_widths(((12, 4),))
    [1, 2, 4, 12]
    """
    widths = common_divisors(tuple(q for q, _ in heads))
    return [t for t in widths if all(k % t == 0 or t % k == 0 for _, k in heads)]


class PlansCpSat:
    """All layouts of the instance."""

    def __init__(self, instance: PlanInstance) -> None:
        self.instance, self.model = instance, cp_model.CpModel()
        top = max(instance.devices, 1)
        self.width = {axis: self.model.new_int_var(1, top, axis) for axis in WIDTHS}
        self.setting = self.model.new_int_var(0, instance.settings - 1, "setting")
        self.stage = self._product("stage", "attn_tp", "attn_dp")
        self.group = self._product("group", "ffn_tp", "ep")
        self.family: dict[str, cp_model.IntVar] = {}
        self._ask_of_user()
        self._cut_heads()
        self._cut_inner()
        self._spread_experts()
        self._stack_stages()
        self._stay_in_domain()
        self._share_tokens()
        self._fill_nodes()
        self._fill_devices()
        self._fit_memory()

    def _product(self, name: str, one: str, other: str) -> cp_model.IntVar:
        product = self.model.new_int_var(1, max(self.instance.devices, 1), name)
        self.model.add_multiplication_equality(product, self.width[one], self.width[other])
        return product

    def _named(self, name: str) -> cp_model.IntVar:
        return self.family.setdefault(name, self.model.new_bool_var(name))

    def _one_of(self, name: str, expression: cp_model.IntVar, values: list[int]) -> None:
        domain = cp_model.Domain.from_values(values)
        row = self.model.add_linear_expression_in_domain(expression, domain)
        row.only_enforce_if(self._named(name)).with_name(name)

    def _ask_of_user(self) -> None:
        for axis, value in self.instance.fixed:
            name = f"fix {axis}={value}"
            self.model.add(self.width[axis] == value).only_enforce_if(self._named(name)).with_name(name)
        for axis, value in self.instance.forbidden:
            name = f"forbid {axis}={value}"
            self.model.add(self.width[axis] != value).only_enforce_if(self._named(name)).with_name(name)

        for name, _ in self.instance.at_most:
            self._named(name)

    def _cut_heads(self) -> None:
        self._one_of("heads", self.width["attn_tp"], head_widths(self.instance.heads))

    def _cut_inner(self) -> None:
        if self.instance.dense_inner:
            self._one_of("dense_inner", self.group, common_divisors(self.instance.dense_inner))
        if self.instance.routed_inner:
            self._one_of("routed_inner", self.width["ffn_tp"], common_divisors(self.instance.routed_inner))

    def _spread_experts(self) -> None:
        values = common_divisors(self.instance.experts) if self.instance.experts else [1]
        self._one_of("experts", self.width["ep"], values)

    def _stack_stages(self) -> None:
        row = self.model.add(self.width["pp"] <= self.instance.layers)
        row.only_enforce_if(self._named("stages")).with_name("stages")

    def _stay_in_domain(self) -> None:
        for group in (self.width["attn_tp"], self.group):
            row = self.model.add(group <= self.instance.group_limit)
            row.only_enforce_if(self._named("groups")).with_name("groups")

    def _share_tokens(self) -> None:
        alone = {axis: self.model.new_bool_var(f"{axis}_alone") for axis in ("attn_dp", "ffn_dp")}
        for axis, literal in alone.items():
            self.model.add(self.width[axis] == 1).only_enforce_if(literal)
            self.model.add(self.width[axis] > 1).only_enforce_if(~literal)
        row = self.model.add_bool_or(list(alone.values()))
        row.only_enforce_if(self._named("sharing")).with_name("sharing")

    def _fill_nodes(self) -> None:
        if not self.instance.nodes:
            return
        top = max(self.instance.devices, 1)
        held = [top, *(sum(room // stage for room in self.instance.nodes) for stage in range(1, top + 1))]
        slots, placed = (self.model.new_int_var(0, top, name) for name in ("slots", "placed"))
        self.model.add_element(self.stage, held, slots)
        self.model.add_multiplication_equality(placed, self.width["dp"], self.width["pp"])
        self.model.add(placed <= slots).only_enforce_if(self._named("nodes")).with_name("nodes")

    def _fill_devices(self) -> None:
        self.model.add_multiplication_equality(self.stage, self.group, self.width["ffn_dp"]).with_name(
            "cells"
        )
        top = max(self.instance.devices, 1)
        replica = self.model.new_int_var(1, top, "replica")
        self.model.add_multiplication_equality(replica, self.width["pp"], self.stage)
        used = self.model.new_int_var(1, top, "used")
        self.model.add_multiplication_equality(used, self.width["dp"], replica)
        least = self.instance.devices if self.instance.exact_devices else 0
        row = self.model.add_linear_constraint(used, least, self.instance.devices)
        row.only_enforce_if(self._named("devices")).with_name("devices")
        for name, most in self.instance.at_most:
            self.model.add(used <= most).only_enforce_if(self._named(name)).with_name(name)

    def _fit_memory(self) -> None:
        columns = [*(self.width[axis] for axis in WIDTHS[1:]), self.setting]
        capacity, runnable = self.instance.capacity_kib, self.instance.runnable
        rows = [key for key, need in self.instance.need_kib.items() if need <= capacity]
        table = self.model.add_allowed_assignments(columns, rows)
        table.only_enforce_if(self._named("memory")).with_name("memory")
        if runnable is not None:
            table = self.model.add_allowed_assignments(columns, sorted(runnable))
            table.only_enforce_if(self._named("deployable")).with_name("deployable")

    def feasible(self, limits: Limits, families: Iterable[str] | None = None) -> Status:
        """Whether there is a layout at all, of these families of constraints or of all."""
        asked = self.family if families is None else [name for name in families if name in self.family]
        self.model.clear_assumptions()
        self.model.add_assumptions([self.family[name] for name in asked])
        return cpsat.run(self.model, limits)[0]

    def solve(self, limits: Limits) -> PlanSolutions:
        """Every layout, or a core. The model is changed: call it once."""
        status = self.feasible(limits)
        if status is Status.INFEASIBLE:
            return PlanSolutions(status=status, core=self._core(limits))
        if status is Status.UNKNOWN:
            return PlanSolutions(status=status)
        self.model.clear_assumptions()
        for literal in self.family.values():
            self.model.add(literal == 1)
        variables = [*(self.width[axis] for axis in WIDTHS), self.setting]
        status, rows = cpsat.enumerate_all(self.model, variables, limits)
        found = tuple(((row[0], row[1], row[2], row[3], row[4], row[5], row[6]), row[7]) for row in rows)
        return PlanSolutions(status=status, found=found)

    def _core(self, limits: Limits) -> tuple[str, ...]:
        kept = list(self.family)
        for name in reversed(tuple(self.family)):
            without = [other for other in kept if other != name]
            if self.feasible(limits, without) is Status.INFEASIBLE:
                kept = without
        return tuple(kept)
