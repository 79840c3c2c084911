"""Device facts: complete, in sane ranges, each number with its unit and source; errors name the key."""

import json
import re
from dataclasses import fields, replace

import pytest

from profiles.device import BANDWIDTH_SHARE, UNITS, Device, known_devices, load_device, read_device
from profiles.errors import InputError

REQUIRED = {
    "v100-sxm-16gb", "v100-sxm-32gb", "v100-pcie-16gb", "a100-sxm-40gb", "a100-sxm-80gb", "a100-pcie-80gb",
    "h100-sxm-80gb", "h100-pcie-80gb", "h100-nvl-94gb", "h200-sxm-141gb", "b200-sxm-180gb", "gb200-nvl72",
    "l4", "l40s", "a10", "rtx-4090", "mi300x", "mi325x", "rtx-pro-6000-96gb",
}  # fmt: skip


def facts_of(device: Device) -> dict:
    from profiles.device import _DIRECTORY

    return json.loads((_DIRECTORY / f"{device.name}.json").read_text(encoding="utf-8"))


@pytest.fixture(params=known_devices())
def device(request):
    return load_device(request.param)


def test_all_required_devices_ship():
    assert set(known_devices()) >= REQUIRED


def test_every_number_has_a_unit_and_a_source(device):
    for key, fact in facts_of(device).items():
        if key in ("aliases", "vendor", "silicon_system", "scaleup_kind", "note"):
            continue
        assert fact["unit"] in UNITS and len(fact["source"]) > 3, key
        assert device.sources[key] == fact["source"]


def test_memory_is_what_a_program_gets_not_what_the_box_says(device):
    """GiB against the name's GB: below 1.074 of the label in decimal, above 0.95 of it in binary."""
    label = re.search(r"(\d+)gb", device.name)
    if label:
        said = int(label[1])
        assert 0.95 * said * 2**30 < device.memory_bytes <= said * 2**30


def test_orders_of_magnitude(device):
    assert 10e9 < device.memory_bytes < 300e9
    assert 0.2e12 < device.bandwidth < 9e12
    assert 60 < device.flops("bf16") / device.bandwidth < 600  # FLOP per byte at the ridge
    assert device.flops("fp32") < device.flops("bf16") <= min(device.flops("fp8"), device.flops("int8"))
    assert device.sustained_flops("bf16") < device.flops("bf16")
    assert device.p2p_bandwidth <= max(device.scaleup_bandwidth, device.host_bandwidth)
    assert device.idle_w < 0.3 * device.tdp_w
    assert 0.3 < device.clocks_mhz[0] / device.max_clock_mhz < 1
    if device.price_usd_per_hour:
        low, high = device.price_usd_per_hour
        assert 0 < low <= device.price <= high < 20


def test_formats_without_units_are_widened():
    v100, a100, h100 = load_device("v100"), load_device("a100"), load_device("h100")
    assert v100.flops("fp8") == v100.flops("int8") == v100.flops("int4") == v100.flops("bf16")
    assert a100.flops("fp8") == a100.flops("bf16") and a100.flops("int8") == 2 * a100.flops("bf16")
    assert h100.sustained_flops("fp8") == 1402.6e12
    assert a100.sustained_flops("int8") == pytest.approx(624e12 * 271.2 / 312)


def test_names_and_aliases_lead_to_one_device():
    seen = {}
    for name in known_devices():
        for alias in (name, *load_device(name).aliases):
            assert alias == alias.lower() and alias not in seen, f"{alias}: {name} and {seen.get(alias)}"
            seen[alias] = name
            assert load_device(alias.upper().replace("-", "_")).name == name
    with pytest.raises(InputError, match="did you mean 'h100'"):
        load_device("h1000")


def test_a_device_can_be_hashed_and_sent_to_a_process():
    import pickle  # as multiprocessing does; nothing is read from files this way

    h100 = load_device("h100")
    assert pickle.loads(pickle.dumps(h100)) == h100 and hash(h100) == hash(load_device("h100-sxm"))


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 0},
        {"dense_flops": {"bf16": 1e12}},
        {"dense_flops": {"bf16": 1e12, "fp32": 1e12, "fp6": 1e12}},
        {"bandwidth_share": 1.5},
        {"idle_w": 800.0},
        {"clocks_mhz": (1980, 780)},
        {"clocks_mhz": (780,)},
        {"scaleup_kind": "ring"},
    ],
)
def test_wrong_numbers_are_refused(change):
    with pytest.raises(ValueError):
        replace(load_device("h100"), **change)


def test_wrong_facts_name_the_file_and_the_key(tmp_path):
    good = facts_of(load_device("l4"))

    def read(**change):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(good | change), encoding="utf-8")
        return read_device(path)

    assert read().name == "mine" and read().bandwidth_share == BANDWIDTH_SHARE
    with pytest.raises(InputError, match=r"mine.json: memory: .*'GB' is missing or not a unit .*GiB"):
        read(memory={"value": 24, "unit": "GB", "source": "x"})
    with pytest.raises(InputError, match=r"mine.json: tdp: could not convert"):
        read(tdp={"value": "hot", "unit": "W", "source": "x"})
    with pytest.raises(InputError, match=r"mine.json: .*positive"):
        read(nic_bandwidth={"value": -1, "unit": "Gb/s", "source": "x"})
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.json"):
        read_device(tmp_path / "broken.json")


def test_fields_are_documented():
    for field in fields(Device):
        assert field.name in Device.__doc__, field.name
