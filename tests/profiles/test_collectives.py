"""Collectives: laws of the model, and public measurements of NCCL on H100 within a stated factor."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.collectives import DIRECT_BYTES, KINDS, collective_s, nccl_s
from profiles.fleet import homogeneous
from profiles.ops import Link

LAWS = settings(deadline=None, max_examples=80, derandomize=True)
KIB = 1024.0

# Microseconds at (ranks, KiB), NCCL on H100 SXM, from the CSV files that APEX+ publishes.
MEASURED = {
    "all_reduce": {
        (8, 0): 14, (4, 0): 10, (2, 0): 8, (8, 64): 21, (4, 64): 13, (2, 64): 9, (8, 1024): 34, (4, 1024): 20,
        (2, 1024): 25, (8, 8192): 80, (4, 8192): 82, (2, 8192): 48, (8, 131072): 597, (4, 131072): 611,
        (2, 131072): 465,
    },
    "all_gather": {(8, 0): 12, (8, 1024): 21, (8, 131072): 375},
    "p2p": {(2, 0): 6, (2, 1024): 12, (2, 8192): 32, (2, 131072): 379},
}  # fmt: skip
FACTOR = 1.6

LINKS = st.builds(
    lambda nodes, inside, intra, inter: Link(
        ranks=nodes * inside, nodes=nodes, intra_bandwidth=intra, inter_bandwidth=inter,
        intra_latency_s=1e-6, inter_latency_s=5e-6,
    ),
    st.integers(1, 16), st.integers(1, 8), st.floats(1e10, 1e12), st.floats(1e9, 1e11),
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ranks", "kib", "measured"),
    [(kind, *point, us) for kind, points in MEASURED.items() for point, us in points.items()],
)
def test_within_a_factor_of_nccl_on_h100(kind, ranks, kib, measured):
    link = homogeneous("h100").pools[0].link(ranks, 1)
    modelled = float(nccl_s(kind, np.array(kib * KIB), link)) * 1e6
    assert measured / FACTOR < modelled < measured * FACTOR


@LAWS
@given(link=LINKS, kind=st.sampled_from(KINDS))
def test_non_decreasing_in_bytes_and_nothing_for_nothing(link, kind):
    payload = np.concatenate([[0.0], np.geomspace(1, 1e10, 60), [DIRECT_BYTES, DIRECT_BYTES + 1]])
    payload.sort()
    seconds = collective_s(kind, payload, link)
    assert seconds[0] == 0 and (np.diff(seconds) >= 0).all()
    assert (seconds == 0).all() == (link.ranks == 1)


@LAWS
@given(link=LINKS, kind=st.sampled_from(KINDS), size=st.floats(1, 1e9), more=st.floats(1, 8))
def test_faster_links_never_hurt(link, kind, size, more):
    payload = np.array([size])
    slow = collective_s(kind, payload, link)
    for name in ("intra_bandwidth", "inter_bandwidth"):
        better = replace(link, **{name: getattr(link, name) * more})
        assert collective_s(kind, payload, better) <= slow * (1 + 1e-12)


@LAWS
@given(link=LINKS.filter(lambda link: link.ranks > 1), size=st.floats(1, 1e9))
def test_an_all_reduce_is_at_most_its_two_halves(link, size):
    payload = np.array([size])
    halves = collective_s("reduce_scatter", payload, link) + collective_s("all_gather", payload, link)
    assert collective_s("all_reduce", payload, link) <= halves


@LAWS
@given(link=LINKS.filter(lambda link: link.ranks > 1), size=st.floats(1, 1e10), kind=st.sampled_from(KINDS))
def test_no_faster_than_the_wire(link, size, kind):
    """What a rank must send at least, over all of its links at full rate."""
    wire = size if kind == "p2p" else size * (link.ranks - 1) / link.ranks * (1 + (kind == "all_reduce"))
    best = link.intra_bandwidth + link.inter_bandwidth
    assert collective_s(kind, np.array([size]), link) >= wire / best


def test_crossing_nodes_costs_more():
    pool = homogeneous("h100", nodes=2).pools[0]
    sizes = np.geomspace(1e3, 1e9, 20)
    for kind in KINDS:
        inside, across = (collective_s(kind, sizes, pool.link(8, nodes)) for nodes in (1, 2))
        assert (across > inside).all()


def test_engines_reduce_small_tensors_themselves():
    link = homogeneous("h100").pools[0].link(8, 1)
    small, large = np.array([16 * KIB]), np.array([64 * 2.0**20])
    assert collective_s("all_reduce", small, link) < 0.5 * nccl_s("all_reduce", small, link)
    assert collective_s("all_reduce", large, link) == nccl_s("all_reduce", large, link)
    pcie = homogeneous("l40s").pools[0].link(8, 1)
    assert collective_s("all_reduce", small, pcie) == nccl_s("all_reduce", small, pcie)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="known: all_reduce"):
        collective_s("broadcast", np.ones(1), homogeneous("h100").pools[0].link(2, 1))
