"""Placement of stages on nodes with PuLP: the problem and names of ``placement_cpsat``, solved by HiGHS.

``handover`` is ``-t x[r,i] <= c[r,i,g,n] - c[r,i+1,g,n] <= t x[r,i]``; nodes are not ordered.
"""

import pulp

from formulations.problem import Limits, PlacementInstance, PlacementSolution, Status


class PlacementMilp:
    """Stages on nodes with the least tensor traffic between nodes, then the fewest hand-overs."""

    def __init__(self, instance: PlacementInstance) -> None:
        self.instance = instance
        self.model = pulp.LpProblem("placement", pulp.LpMinimize)
        self.nodes = range(len(instance.free))
        self.stages = [(r, i) for r in range(instance.replicas) for i in range(instance.stages)]
        self.groups = [(r, i, g) for r, i in self.stages for g in range(instance.groups)]
        keys = [(*key, n) for key in self.groups for n in self.nodes]
        top = {key: min(instance.group_devices, instance.free[key[3]]) for key in keys}
        self.c = {key: self._integer("c", key, top[key]) for key in keys}
        self.u = {key: self._integer("u", key, 1) for key in keys}
        self.v = {(*key, n): self._integer("v", (*key, n), 1) for key in self.stages for n in self.nodes}
        self.x = {key: self._integer("x", key, 1) for key in self.stages if key[1] + 1 < instance.stages}
        split = pulp.lpSum(self.u.values())
        if instance.groups > 1:
            split += pulp.lpSum(self.v.values())
        self.model += (len(self.stages) + 1) * split + pulp.lpSum(self.x.values())
        self._constrain()

    def _integer(self, name: str, key: tuple[int, ...], top: int) -> pulp.LpVariable:
        return self.model.add_variable(f"{name}_{'_'.join(map(str, key))}", 0, top, pulp.LpInteger)

    def _constrain(self) -> None:
        t = self.instance.group_devices
        for key in self.groups:
            self.model += pulp.lpSum(self.c[*key, n] for n in self.nodes) == t
        for n in self.nodes:
            self.model += pulp.lpSum(self.c[*key, n] for key in self.groups) <= self.instance.free[n]
        for (r, i, g, n), count in self.c.items():
            self.model += count <= t * self.u[r, i, g, n]
            self.model += self.u[r, i, g, n] <= self.v[r, i, n]
            if (r, i) in self.x:
                self.model += count - self.c[r, i + 1, g, n] <= t * self.x[r, i]
                self.model += self.c[r, i + 1, g, n] - count <= t * self.x[r, i]

    def solve(self, limits: Limits) -> PlacementSolution:
        """The best placement within the limits; ``status`` says whether it is proven."""
        self.model.solve(pulp.HiGHS(msg=False, timeLimit=limits.time_s, threads=limits.workers))
        status = self._status()
        if not status.has_solution:
            return PlacementSolution(status=status)
        instance = self.instance
        split = sum(round(u.value()) for u in self.u.values()) - len(self.groups)
        if instance.groups > 1:
            split += sum(round(v.value()) for v in self.v.values()) - len(self.stages)
        return PlacementSolution(
            status=status,
            counts=tuple(
                tuple(
                    tuple(
                        tuple(round(self.c[r, i, g, n].value()) for n in self.nodes)
                        for g in range(instance.groups)
                    )
                    for i in range(instance.stages)
                )
                for r in range(instance.replicas)
            ),
            split=split,
            crossings=sum(round(x.value()) for x in self.x.values()),
        )

    def _status(self) -> Status:
        """``status`` alone calls a time-limited incumbent Optimal; ``sol_status`` does not."""
        if self.model.sol_status == pulp.LpSolutionOptimal:
            return Status.OPTIMAL
        if self.model.sol_status == pulp.LpSolutionIntegerFeasible:
            return Status.FEASIBLE
        if self.model.status == pulp.LpStatusInfeasible:
            return Status.INFEASIBLE
        return Status.UNKNOWN
