"""Spreads are those that the documents state, and grow with what is not known."""

import re
from pathlib import Path

import pytest

from profiles.device import known_devices, load_device
from profiles.efficiency import efficiency_of
from profiles.moved import FAMILIES
from profiles.uncertainty import EXTRAPOLATED, HIDDEN_ON, INTERPOLATED, LENT, MOVES, TYPICAL, sigma, spreads

DOCS = Path(__file__).parents[2] / "docs"
SILICON = (DOCS / "silicon.md").read_text()
EFFICIENCY = (DOCS / "efficiency.md").read_text()
WORDS = {
    "gemm": "GEMM bf16", "prefill_attention": "prefill attention", "decode_attention": "decode attention",
    "encoder_attention": "encoder attention", "mla_prefill": "MLA prefill", "mla_decode": "MLA decode",
    "moe": "experts bf16", "all_reduce": "all-reduce of the engine", "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter", "all_to_all": "all-to-all",
}  # fmt: skip
"""Families by the names of the documents."""

LOAD = {"gemm": "n and k", "decode_attention": "batch", "mla_decode": "batch"}
LOAD |= dict.fromkeys(("prefill_attention", "encoder_attention", "mla_prefill", "moe"), "tokens")
LOAD |= dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), "bytes")
SHAPE = {"gemm": "n and k", "decode_attention": "all with these KV heads", "moe": "the whole model"}
SHAPE |= dict.fromkeys(("prefill_attention", "encoder_attention", "mla_prefill", "mla_decode"), "heads")
SHAPE |= dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), "ranks")
"""What was hidden."""


def rows(text):
    """(first cell, or that of the row above where it is empty; the other cells) of the tables of a text."""
    name, found = "", []
    for line in text.splitlines():
        if line.startswith("|"):
            first, *rest = (cell.strip() for cell in line.strip().strip("|").split("|"))
            name = first or name
            found.append((name, rest))
    return found


def shares(cell):
    return tuple(round(float(number) / 100, 6) for number in re.findall(r"[\d.]+", cell))


def hidden(family, what):
    """Median and 90th percentile on each device."""
    text = SILICON.split("## Leave-one-out error")[1].split("## ")[0]
    (cells,) = [cells for name, cells in rows(text) if name == WORDS[family] and cells[0] == what]
    return tuple(map(shares, cells[1:]))


def test_the_columns_are_of_these_devices():
    text = SILICON.split("## Leave-one-out error")[1]
    assert [cell.lower() for cell in rows(text)[0][1][1:]] == list(HIDDEN_ON)


@pytest.mark.parametrize("family", WORDS)
def test_interpolation_is_as_off_as_when_a_load_was_hidden(family):
    assert INTERPOLATED[family] == hidden(family, LOAD[family])


@pytest.mark.parametrize("family", WORDS)
def test_extrapolation_is_as_off_as_when_a_shape_was_hidden(family):
    assert EXTRAPOLATED[family] == hidden(family, SHAPE[family])


@pytest.mark.parametrize("family", WORDS)
def test_measured_points_are_off_by_what_made_them_monotone(family):
    text = SILICON.split("## Monotone")[1].split("## ")[0]
    (cells,) = [cells for name, cells in rows(text) if name == WORDS[family]]
    assert MOVES[family] == tuple(shares(cell)[1] for cell in cells)


def test_lent_and_typical_laws_are_as_off_as_stated():
    kin = {name: cells for name, cells in rows(EFFICIENCY.split("Leave one device out")[1])}
    of_device = {name: shares(cells[1]) for name, cells in kin.items() if len(cells) == 3}
    assert LENT["hopper"] == max(of_device["H100"], of_device["H200"])
    assert LENT["blackwell"] == max(of_device["B200"], of_device["GB200"])
    assert LENT["rtx"] == max(of_device["L40S"], of_device["RTX PRO 6000"])
    assert LENT[None] == of_device["A100"]
    words = " ".join(EFFICIENCY.split())
    stated = re.search(r"Median of the medians (\d+) %.*?of the 90th percentiles (\d+) %", words)
    assert tuple(float(number) / 100 for number in stated.groups()) == TYPICAL


@pytest.mark.parametrize("device", known_devices())
def test_every_family_has_a_spread_on_every_device(device):
    found = spreads(load_device(device))
    assert {each.family for each in found if not each.form} == set(FAMILIES)
    assert len({(each.family, each.form) for each in found}) == len(found)
    for each in found:
        assert all(0 <= s < 1 for s in each.sigma) and each.sigma[0] <= max(each.sigma[1:])
        if efficiency_of(load_device(device)).borrowed:
            assert each.sigma[3] in {sigma(quantiles) for quantiles in LENT.values()}


def test_a_device_of_its_own_is_better_known_than_one_that_borrows():
    own, lent, across = (
        {(s.family, s.form): s.sigma[3] for s in spreads(load_device(name))}["gemm", ""]
        for name in ("h100", "h100-nvl", "mi300x")
    )
    assert own < lent < across


def test_a_device_whose_tables_were_hidden_has_errors_of_its_own():
    h100, b200, gb200, l40s = (
        {(s.family, s.form): s.sigma[:3] for s in spreads(load_device(name))}["gemm", "bf16"]
        for name in ("h100", "b200", "gb200", "l40s")
    )
    assert h100 == l40s != b200 == gb200
