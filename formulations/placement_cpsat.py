"""Placement of stages on nodes with CP-SAT.

Sets       r replicas, i stages, g tensor groups of a stage, n nodes
Data       free[n] devices; t devices of a group; a groups in a stage
Variables  c[r,i,g,n] >= 0, integer: devices of group g of stage i of replica r on node n
           u[r,i,g,n], v[r,i,n] binary: the group, the stage, has a device there
           x[r,i] binary: the hand-over from stage i to i + 1 leaves a node
Minimise   M split + sum x, with M above any number of hand-overs, so split comes first
           split = sum_{r,i,g} (sum_n u - 1)  +  sum_{r,i} (sum_n v - 1) where a > 1
Subject    whole[r,i,g]    sum_n c[r,i,g,n] = t
           free[n]         sum_{r,i,g} c[r,i,g,n] <= free[n]
           touch           c[r,i,g,n] <= t u[r,i,g,n];  u[r,i,g,n] <= v[r,i,n]
           handover[r,i]   c[r,i,g,n] = c[r,i+1,g,n] for all g, n, unless x[r,i]
           order           see below

A stage counts beside its groups because the feed-forward of all its attention ranks is one group.
``order`` tells no symmetric solutions apart: alike nodes by load, replicas and the groups of a replica by
the weighted sum of nodes of their first stage. Permuting nodes, then replicas, then groups sorts all three,
and none of them changes the sums that the others are sorted by.
"""

from ortools.sat.python import cp_model

from formulations import cpsat
from formulations.problem import Limits, PlacementInstance, PlacementSolution


class PlacementCpSat:
    """Stages on nodes with the least tensor traffic between nodes, then the fewest hand-overs."""

    def __init__(self, instance: PlacementInstance) -> None:
        self.instance, self.model = instance, cp_model.CpModel()
        self.nodes = range(len(instance.free))
        self.stages = [(r, i) for r in range(instance.replicas) for i in range(instance.stages)]
        self.groups = [(r, i, g) for r, i in self.stages for g in range(instance.groups)]
        t = instance.group_devices
        self.c = {
            (*key, n): self.model.new_int_var(0, min(t, instance.free[n]), f"c{(*key, n)}")
            for key in self.groups
            for n in self.nodes
        }
        self._keep_whole()
        self._stay_in_free()
        self.split = self._touch()
        self.crossings = self._hand_over()
        self._order()
        self.model.minimize((len(self.stages) + 1) * self.split + sum(self.crossings.values()))

    def _keep_whole(self) -> None:
        for key in self.groups:
            row = self.model.add(sum(self.c[*key, n] for n in self.nodes) == self.instance.group_devices)
            row.with_name(f"whole{key}")

    def _load(self, n: int) -> cp_model.LinearExprT:
        return sum(self.c[*key, n] for key in self.groups)

    def _stay_in_free(self) -> None:
        for n in self.nodes:
            self.model.add(self._load(n) <= self.instance.free[n]).with_name(f"free[{n}]")

    def _touch(self) -> cp_model.LinearExpr:
        t = self.instance.group_devices
        u: dict[tuple[int, int, int, int], cp_model.IntVar] = {}
        for key, count in self.c.items():
            u[key] = self.model.new_bool_var(f"u{key}")
            self.model.add(count <= t * u[key]).with_name(f"touch{key}")
        split = cp_model.LinearExpr.sum(list(u.values())) - len(self.groups)
        if self.instance.groups == 1:
            return split
        for r, i in self.stages:
            for n in self.nodes:
                v = self.model.new_bool_var(f"v{(r, i, n)}")
                for g in range(self.instance.groups):
                    self.model.add_implication(u[r, i, g, n], v).with_name(f"touch{(r, i, g, n)}")
                split = split + v
        return split - len(self.stages)

    def _hand_over(self) -> dict[tuple[int, int], cp_model.IntVar]:
        crossings = {}
        for r, i in self.stages:
            if i + 1 == self.instance.stages:
                continue
            crossings[r, i] = self.model.new_bool_var(f"x{(r, i)}")
            for g in range(self.instance.groups):
                for n in self.nodes:
                    row = self.model.add(self.c[r, i, g, n] == self.c[r, i + 1, g, n])
                    row.only_enforce_if(~crossings[r, i]).with_name(f"handover[{r},{i}]")
        return crossings

    def _order(self) -> None:
        free, groups = self.instance.free, range(self.instance.groups)
        for n in self.nodes:
            after = next((m for m in self.nodes if m > n and free[m] == free[n]), None)
            if after is not None:
                self.model.add(self._load(n) >= self._load(after)).with_name(f"order_nodes[{n}]")
        where = {
            (r, g): sum(n * self.c[r, 0, g, n] for n in self.nodes)
            for r in range(self.instance.replicas)
            for g in groups
        }
        for r in range(self.instance.replicas):
            for g in groups[:-1]:
                self.model.add(where[r, g] <= where[r, g + 1]).with_name(f"order_groups[{r},{g}]")
            if r:
                before, own = (sum(where[q, g] for g in groups) for q in (r - 1, r))
                self.model.add(before <= own).with_name(f"order_replicas[{r}]")

    def solve(self, limits: Limits) -> PlacementSolution:
        """The best placement within the limits; ``status`` says whether it is proven."""
        status, solver = cpsat.run(self.model, limits)
        if not status.has_solution:
            return PlacementSolution(status=status)
        instance = self.instance
        return PlacementSolution(
            status=status,
            counts=tuple(
                tuple(
                    tuple(
                        tuple(solver.value(self.c[r, i, g, n]) for n in self.nodes)
                        for g in range(instance.groups)
                    )
                    for i in range(instance.stages)
                )
                for r in range(instance.replicas)
            ),
            split=solver.value(self.split),
            crossings=sum(solver.value(x) for x in self.crossings.values()),
        )
