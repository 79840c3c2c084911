"""Fleets from flags and YAML: what they mean, and one line for every mistake."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.device import load_device
from profiles.errors import InputError
from profiles.fleet import Fleet, homogeneous, load_fleet

LAWS = settings(deadline=None, max_examples=60, derandomize=True)


@LAWS
@given(gpus=st.integers(1, 200), per_node=st.integers(1, 16))
def test_flags_put_devices_on_as_few_nodes_as_hold_them(gpus, per_node):
    (pool,) = homogeneous("h100", gpus=gpus, gpus_per_node=per_node).pools
    assert pool.devices == gpus == sum(pool.free)
    assert pool.nodes == -(-gpus // per_node) and max(pool.free) <= per_node
    assert 1 <= pool.domain <= max(per_node, 8)


def test_whole_nodes_and_wrong_numbers():
    assert homogeneous("h100", nodes=3).pools[0].free == (8, 8, 8)
    for wrong in ({"gpus": 0}, {"nodes": 0}, {"gpus": 4, "gpus_per_node": 0}):
        with pytest.raises(InputError, match="at least 1"):
            homogeneous("h100", **wrong)


def test_domain_is_what_no_network_divides():
    def domain(name, **more):
        return homogeneous(name, **more).pools[0].domain

    assert domain("h100") == 8 and domain("h100", gpus_per_node=4) == 4
    assert domain("h100", gpus_per_node=16) == 8  # two NVSwitch islands
    assert domain("l40s") == domain("a100-pcie") == 8  # PCIe joins the node, slowly
    assert domain("gb200", nodes=18) == 72  # the fabric spans nodes


def test_links_follow_the_fabric():
    def rate(name, ranks, nodes=1):
        return homogeneous(name, nodes=max(nodes, 1)).pools[0].link(ranks, nodes).intra_bandwidth / 1e9

    assert rate("h100", 2) == rate("h100", 8) == 450
    assert [rate("mi300x", n) for n in (2, 4, 8)] == [64, 192, 448]
    assert [rate("v100", n) for n in (2, 4, 8)] == [50, 150, 150]
    assert [rate("a100-pcie", n) for n in (2, 4)] == [300, 25]
    assert [rate("rtx-pro-6000", n) for n in (2, 8)] == [55, 36]
    pool = homogeneous("h100", nodes=4).pools[0]
    link = pool.link(16, 2)
    assert (link.nodes, link.inter_bandwidth) == (2, 50e9)
    assert pool.link(2, 2).nodes == 2
    rack = homogeneous("gb200", nodes=36).pools[0]
    assert rack.link(64, 16).nodes == 1 and rack.link(144, 36).nodes == 2
    with pytest.raises(ValueError, match="every node"):
        pool.link(2, 4)


def write(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_everything_or_only_the_device(tmp_path):
    fleet = load_fleet(
        write(
            tmp_path,
            """
pools:
  - name: leftovers
    device: h100-sxm-80gb
    nodes: 2
    devices_per_node: 8
    free: [8, 3]
    inter_node_gbit_s: 200
    inter_node_latency_us: 10
    price_usd_per_device_hour: 2.5
    power_cap_w: 600
  - device: L40S
""",
        )
    )
    first, second = fleet.pools
    assert (first.name, first.free, first.devices) == ("leftovers", (8, 3), 11)
    assert first.inter_bandwidth == 25e9 and first.inter_latency_s == pytest.approx(1e-5)
    assert (first.price_usd_per_device_hour, first.power_cap_w) == (2.5, 600)
    assert (second.name, second.nodes, second.free) == ("l40s", 1, (8,))
    assert second.inter_bandwidth == load_device("l40s").nic_bandwidth


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a list of pools under the key 'pools'"),
        ("pools: []", "expected a list of pools"),
        ("pools: {device: h100}", "expected a list of pools"),
        ("pools:\n  - device: [", r":2: not YAML"),
        ("pools:\n  - device: h100\npool: 1", r":3: unknown key 'pool', did you mean 'pools'"),
        ("pools:\n  - h100", r":2: 'h100' is no pool"),
        ("pools:\n  - name: a", r":2: 'device' is missing"),
        ("pools:\n  - device: h100\n    node: 2", r":3: node: unknown key, did you mean 'nodes'"),
        ("pools:\n  - device: h900", r":2: device: Unknown device 'h900', did you mean"),
        ("pools:\n  - device: h100\n    nodes: 2.5", r":3: nodes: 2.5 is not a whole number above 0"),
        ("pools:\n  - device: h100\n    nodes: true", r":3: nodes: True is not a whole number"),
        ("pools:\n  - device: h100\n    nodes: 0", r":3: nodes: 0 is not a whole number above 0"),
        (
            "pools:\n  - device: h100\n    inter_node_gbit_s: 400 Gb/s",
            r":3: inter_node_gbit_s: '400 Gb/s' is not a number above 0, in Gb/s of one device",
        ),
        ("pools:\n  - device: h100\n    power_cap_w: .inf", r":3: power_cap_w: inf is not"),
        (
            "pools:\n  - device: h100\n    power_cap_w: 900",
            r":3: power_cap_w: power cap 900 W must be above 75 W and at most 700 W",
        ),
        ("pools:\n  - device: h100\n    free: [9]", r":3: free: \[9\] is not 1 number from 0 to 8"),
        ("pools:\n  - device: h100\n    free: [-1]", r":3: free: \[-1\] is not a list of free devices"),
        ("pools:\n  - device: h100\n    nodes: 2\n    free: [8]", r":4: free: \[8\] is not 2 numbers"),
        ("pools:\n  - device: h100\n    device: a100", r":3: key 'device' is there twice"),
        (
            "pools:\n  - device: h100\n  - device: h100",
            r":3: name: 'h100-sxm-80gb' is another pool, expected a name",
        ),
        ("pools: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_mistakes_are_one_line_with_file_line_and_key(tmp_path, text, expected):
    with pytest.raises(InputError, match=expected) as caught:
        load_fleet(write(tmp_path, text))
    assert "\n" not in str(caught.value) and "fleet.yaml" in str(caught.value)


def test_a_missing_file_and_an_empty_fleet(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: No such file"):
        load_fleet(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="at least one pool"):
        Fleet(pools=())


def test_fleets_beyond_what_can_be_enumerated_are_refused(tmp_path):
    with pytest.raises(InputError, match="100000000 devices: expected at most 10000"):
        homogeneous("h100", gpus=10**8)
    (tmp_path / "fleet.yaml").write_text("pools:\n  - device: h100\n    nodes: 5000\n")
    with pytest.raises(InputError, match=r"fleet.yaml:3: nodes: 40000 devices, expected at most 10000"):
        load_fleet(tmp_path / "fleet.yaml")
