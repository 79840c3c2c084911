"""How far predictions were off on measured servers, by kind of server: what intervals of predicted times are made of.

``residuals.json`` holds quantiles of predicted / measured - 1 for groups of the servers that
``tests/benchmarks/steady.py`` replays; nothing was fitted to them (``python -m tests.benchmarks.steady
--write-residuals`` writes it). A group is told by its serving engine, its feed-forward (dense or experts), its
chips (``profiles.efficiency.family``) and where operation times came from (tables or the roofline). Where a group
is small the next wider one speaks. An engine's own residuals (``profiles.engine``) count where they were found; what a
file has from the engine that it is based on counts as that engine's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from profiles.efficiency import family
from profiles.engine import EngineProfile, Residual, load_engine

PATH = Path(__file__).parent / "residuals.json"

SERVES = {"vllm-v1": "vLLM", "sarathi": "vLLM", "vllm-v0": "SGLang", "orca": "TensorRT-LLM", "static": "vLLM"}
"""Whose servers a batching policy stands for; where that engine's own profile speaks this does not count."""

MOSTLY = 0.5
"""Share of modelled time from which a prediction is one of the roofline."""


SHAPE = {"ttft": 0.06, "tpot": 0.03, "e2e": 0.01}
"""How far predicted / measured of p50, p90, p95 and p99 was from that of their mean, as a share of it, at most: of 300
requests of a loaded vLLM 0.19 server (Llama-3.1-8B, RTX PRO 6000), the only one whose single requests are known
(``tests/laws/test_measured.py`` computes it). Beyond p99 it is assumed; below the median they are further off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What tells how sure a prediction is.

    Parameters
    ----------
    device
        Name of the device, one that ships or not.
    policy
        Of batching (``profiles.plan``).
    experts
        Whether the model has routed experts.
    modelled
        Share of the predicted time that comes from the roofline.
    """

    device: str
    policy: str
    experts: bool
    modelled: float

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Engine, feed-forward, chips and source of times, as in the file."""
        chips = family(self.device) or "other"
        times = "roofline" if self.modelled > MOSTLY else "tables"
        return SERVES[self.policy], "experts" if self.experts else "dense", chips, times


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Metric (ttft, tpot, itl, e2e) -> quantiles of its error, and which servers that was seen on.

    Of a group, ``source`` says too how many servers of a model lay between the quantiles of E2E of the others.
    """

    residuals: Mapping[str, Residual]
    source: str


def residuals_of(engine: EngineProfile, kind: Kind) -> Found | None:
    """What is known of the errors of means of such a server; None where nothing was measured with this engine.

    Examples
    --------
    >>> from profiles.engine import load_engine
    >>> kind = Kind(device="h100-sxm-80gb", policy="vllm-v1", experts=False, modelled=0.2)
    >>> residuals_of(load_engine("vllm-v1"), kind).source
    '216 servers (vLLM, dense, hopper), 82% of those of another model'
    >>> residuals_of(load_engine("none"), kind) is None
    True
    """
    if not engine.residuals:
        return None
    facts = _facts()
    own = _with_tpot(engine.residuals)
    inherited = engine.base and engine.residuals == load_engine(engine.base).residuals
    name = engine.base if inherited else engine.name
    runs = facts["runs"].get(name)
    if name != facts["host"] and (runs is None or runs == list(kind.group[1:])):
        return Found(residuals=own, source=engine.residuals_of or engine.name)
    groups = [_group(*key) for key in _wider(*kind.group)]
    found = next(group for group in groups if group is not None)
    if name == facts["host"]:
        return found
    both = {name: _widest(own[name], each) for name, each in found.residuals.items()}
    return Found(residuals=both, source=f"{found.source}; {name} was measured on {', '.join(runs)} alone")


def of_percentiles(residuals: Mapping[str, Residual], metric: str) -> Residual | None:
    """Errors of percentiles of a metric, of those of means: wider by ``SHAPE``.

    A gap between tokens (itl) is one iteration; those with prompts in them are taken to err as TTFT does, those
    without as TPOT does, so of the two the wider.

    Examples
    --------
    >>> known = dict.fromkeys(("ttft", "tpot"), Residual(low=-0.1, high=0.2))
    >>> found = of_percentiles(known, "tpot")
    >>> round(found.low, 4), round(found.high, 4)
    (-0.127, 0.236)
    >>> of_percentiles(known, "itl") == of_percentiles(known, "ttft")
    True
    """
    if metric == "itl":
        both = [of_percentiles(residuals, name) for name in ("ttft", "tpot")]
        return _widest(both[0], both[1]) if both[0] and both[1] else None
    if metric not in residuals:
        return None
    mean, shape = residuals[metric], SHAPE[metric]
    return Residual(low=(1 + mean.low) * (1 - shape) - 1, high=(1 + mean.high) * (1 + shape) - 1)


def _wider(engine: str, ffn: str, chips: str, times: str) -> list[tuple[str, str, str, str]]:
    """Groups from the one that is asked for to all servers; chips that no server had are taken as modelled."""
    known = {group["chips"] for group in _facts()["groups"]}
    times = times if chips in known else "roofline"
    wider = ((engine, ffn, chips), (engine, ffn, "all"), ("all", ffn, "all"), ("all", "all", "all"))
    return [(*group, times) for group in wider]


@cache
def _group(engine: str, ffn: str, chips: str, times: str) -> Found | None:
    for group in _facts()["groups"]:
        if (group["engine"], group["ffn"], group["chips"], group["times"]) == (engine, ffn, chips, times):
            residuals = {name: Residual(**quantiles) for name, quantiles in group["residuals"].items()}
            source = f"{group['servers']} servers ({_words(group)})"
            return Found(
                residuals=_with_tpot(residuals),
                source=f"{source}, {group['held']['e2e']:.0%} of those of another model",
            )
    return None


def _words(group: Mapping[str, str]) -> str:
    named = [group[name] for name in ("engine", "ffn", "chips") if group[name] != "all"]
    return ", ".join([*named, *(["roofline"] if group["times"] == "roofline" else [])]) or "all"


def _with_tpot(residuals: Mapping[str, Residual]) -> dict[str, Residual]:
    """ITL and TPOT are two means of the same gaps; where one is known it holds for the other."""
    found = dict(residuals)
    for one, other in (("itl", "tpot"), ("tpot", "itl")):
        if other in found:
            found.setdefault(one, found[other])
    return found


def _widest(one: Residual, other: Residual) -> Residual:
    return Residual(low=min(one.low, other.low), high=max(one.high, other.high))


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return facts
