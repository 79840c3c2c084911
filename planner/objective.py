"""Objectives: what is optimized, in which direction, in which unit."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One objective. ``metric`` is its key in ``simulator.metrics.summary``, ``error_of`` the measured metric
    whose error it has (``EngineProfile.worst``), None where none says."""

    name: str
    metric: str
    unit: str
    words: str
    maximize: bool = False
    error_of: str | None = "e2e"

    def score(self, value: float) -> float:
        """Lower is better, whatever the direction."""
        return -value if self.maximize else value


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective(name="latency", metric="e2e_mean_s", unit="s", words="mean end-to-end latency"),
        Objective(
            name="p99-e2e", metric="e2e_p99_s", unit="s", words="99th percentile of end-to-end latency"
        ),
        Objective(
            name="ttft", metric="ttft_mean_s", unit="s", words="mean time to first token", error_of="ttft"
        ),
        Objective(
            name="tpot", metric="tpot_mean_s", unit="s", words="mean time per output token", error_of="itl"
        ),
        Objective(
            name="energy",
            metric="energy_j",
            unit="J",
            words="device energy for the whole trace",
            error_of=None,
        ),
        Objective(name="cost", metric="cost_usd", unit="USD", words="price of the devices for the makespan"),
        Objective(
            name="throughput",
            metric="generated_tokens_per_s",
            unit="tokens/s",
            words="generated tokens per second of the makespan",
            maximize=True,
        ),
        Objective(
            name="goodput",
            metric="goodput_requests_per_s",
            unit="requests/s",
            words="requests per second that meet every SLO",
            maximize=True,
        ),
    )
}
