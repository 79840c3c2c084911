"""Spreads are those that the documents state, and grow with what is not known."""

import re
from pathlib import Path

import pytest

from profiles.device import known_devices, load_device
from profiles.efficiency import efficiency_of
from profiles.moved import FAMILIES
from profiles.uncertainty import EXTRAPOLATED, INTERPOLATED, LENT, MOVES, TYPICAL, sigma, spreads

DOCS = Path(__file__).parents[2] / "docs"
SILICON = (DOCS / "silicon.md").read_text()
EFFICIENCY = (DOCS / "efficiency.md").read_text()


def row(text, *starts):
    """Cells of the first line of a table that starts like this, or of the line below it."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(starts[0]))
    if len(starts) > 1:
        at = next(i for i in range(at, len(lines)) if starts[1] in lines[i])
    return [cell.strip() for cell in lines[at].strip("|").split("|")]


def percents(cell):
    return [round(float(number) / 100, 6) for number in re.findall(r"[\d.]+", cell)]


LOO = SILICON.split("## Leave-one-out error")[1]


@pytest.mark.parametrize(
    ("family", "starts", "which"),
    [
        ("prefill_attention", ("| prefill attention", "| tokens |"), 0),
        ("decode_attention", ("| decode attention",), 0),
        ("encoder_attention", ("| encoder attention",), 0),
        ("mla_prefill", ("| MLA prefill",), 0),
        ("mla_decode", ("| MLA decode",), 0),
        ("moe", ("| experts", "| tokens |"), 0),
        ("all_gather", ("| all-gather",), 0),
        ("reduce_scatter", ("| all-gather",), 1),
        ("all_to_all", ("| all-gather",), 2),
        ("gemm", ("| GEMM", "| | n; k; both |"), 2),
    ],
)
def test_interpolation_is_as_off_as_when_a_load_was_hidden(family, starts, which):
    cells = row(LOO, *starts)
    assert INTERPOLATED[family] == (percents(cells[-2])[which], percents(cells[-1])[which])


@pytest.mark.parametrize(
    ("family", "starts", "which"),
    [
        ("gemm", ("| GEMM", "| | n; k; both |"), 2),
        ("prefill_attention", ("| prefill attention", "| | heads |"), 0),
        ("decode_attention", ("| decode attention", "| | heads; all with these KV heads"), 1),
        ("encoder_attention", ("| encoder attention",), 1),
        ("mla_prefill", ("| MLA prefill",), 1),
        ("mla_decode", ("| MLA decode",), 2),
        ("moe", ("| experts", "the whole model"), 1),
        ("all_gather", ("| all-gather", "| | ranks |"), 0),
        ("reduce_scatter", ("| all-gather", "| | ranks |"), 1),
        ("all_to_all", ("| all-gather", "| | ranks |"), 2),
    ],
)
def test_extrapolation_is_as_off_as_when_a_shape_was_hidden(family, starts, which):
    cells = row(LOO, *starts)
    assert EXTRAPOLATED[family] == (percents(cells[-2])[which], percents(cells[-1])[which])


def test_measured_points_are_off_by_what_made_them_monotone():
    table = SILICON.split("## Monotone")[1]
    stated = {
        name: percents(row(table, f"| {words}")[2])[which]
        for name, words, which in (
            ("gemm", "GEMM", 0), ("prefill_attention", "prefill", 0), ("decode_attention", "decode", 0),
            ("encoder_attention", "encoder", 0), ("mla_prefill", "MLA", 0), ("mla_decode", "MLA", 1),
            ("moe", "experts", 0), ("all_gather", "all-gather", 0), ("reduce_scatter", "all-gather", 1),
            ("all_to_all", "all-gather", 2),
        )
    }  # fmt: skip
    assert stated == pytest.approx(MOVES)


def test_lent_and_typical_laws_are_as_off_as_stated():
    kin = EFFICIENCY.split("Leave one device out")[1]
    for lender, device in (("hopper", "H100"), ("blackwell", "GB200"), ("rtx", "L40S"), (None, "A100")):
        assert list(LENT[lender]) == percents(row(kin, f"| {device} |")[2])
    words = " ".join(EFFICIENCY.split())
    assert f"Median of the medians {TYPICAL[0]:.0%}".replace("%", " %") in words
    assert f"of the 90th percentiles {TYPICAL[1]:.0%}".replace("%", " %") in words


@pytest.mark.parametrize("device", known_devices())
def test_every_family_has_a_spread_on_every_device(device):
    found = spreads(load_device(device))
    assert {each.family for each in found if not each.form} == set(FAMILIES)
    assert len({(each.family, each.form) for each in found}) == len(found)
    for each in found:
        assert all(0 <= s < 1 for s in each.sigma) and each.sigma[0] <= each.sigma[1]
        if efficiency_of(load_device(device)).borrowed:
            assert each.sigma[3] in {sigma(quantiles) for quantiles in LENT.values()}


def test_a_device_of_its_own_is_better_known_than_one_that_borrows():
    own, lent, across = (
        {(s.family, s.form): s.sigma[3] for s in spreads(load_device(name))}["gemm", ""]
        for name in ("h100", "h100-nvl", "mi300x")
    )
    assert own < lent < across
