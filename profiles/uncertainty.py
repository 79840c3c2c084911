"""How far operation times are off, as a spread of each family and provenance: from errors stated elsewhere.

Measured, interpolated and extrapolated times: errors of ``profiles.silicon`` on what was hidden from it
(``docs/silicon.md``), by the largest move of monotone regression where a point was measured. Modelled ones: errors of
the laws on shapes that their fit did not see (``efficiency.json``), of borrowed laws what leaving a device out showed
(``docs/efficiency.md``). ``tests/profiles/test_uncertainty.py`` compares the numbers here with those documents.
"""

from dataclasses import dataclass

from profiles.device import Device
from profiles.efficiency import efficiency_of, family
from profiles.moved import COLLECTIVES, FAMILIES

MEDIAN, P90 = 0.6745, 1.6449
"""Quantiles of |x| of a standard normal x."""

Quantiles = tuple[float, float]

MOVES = {
    "gemm": 0.060, "prefill_attention": 0.0, "decode_attention": 0.015, "encoder_attention": 0.039,
    "mla_prefill": 0.0, "mla_decode": 0.006, "moe": 0.007, "all_gather": 0.0, "reduce_scatter": 0.01,
    "all_to_all": 0.26,
}  # fmt: skip
"""90th percentile of what made a measured point monotone (docs/silicon.md, Monotone)."""

INTERPOLATED: dict[str, Quantiles] = {
    "gemm": (0.046, 0.149), "prefill_attention": (0.030, 0.105), "decode_attention": (0.023, 0.147),
    "encoder_attention": (0.083, 0.240), "mla_prefill": (0.018, 0.072), "mla_decode": (0.013, 0.092),
    "moe": (0.020, 0.104), "all_gather": (0.018, 0.081), "reduce_scatter": (0.023, 0.087),
    "all_to_all": (0.020, 0.354),
}  # fmt: skip
"""Median and 90th percentile where a load was hidden, of GEMM both sides of its shape."""

EXTRAPOLATED: dict[str, Quantiles] = {
    "gemm": (0.046, 0.149), "prefill_attention": (0.066, 0.332), "decode_attention": (0.029, 0.143),
    "encoder_attention": (0.095, 0.212), "mla_prefill": (0.048, 0.486), "mla_decode": (0.014, 0.131),
    "moe": (0.098, 0.465), "all_gather": (0.19, 0.59), "reduce_scatter": (0.23, 0.53), "all_to_all": (0.16, 0.55),
}  # fmt: skip
"""The same where a shape was hidden: heads, ranks, a whole model."""

TYPICAL: Quantiles = (0.08, 0.24)
"""Of all laws, for what has none of its own (streams, transfers between stages)."""

LENT: dict[str | None, Quantiles] = {
    "hopper": (0.10, 0.28), "blackwell": (0.09, 0.27), "rtx": (0.19, 0.57), None: (0.29, 0.62)
}  # fmt: skip
"""By the family that lends, on the device of it that was left out; None: across families. A100 was never
measured beside another of its family, so what it lends counts as across."""

_LAWS = {
    "gemm": "gemm", "prefill_attention": "prefill", "encoder_attention": "encoder", "decode_attention": "decode",
    "mla_prefill": "mla_prefill", "mla_decode": "mla_decode", "moe": "moe",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviation of the logarithm of a family's times, by provenance, best first.

    ``form``: the format that the modelled part holds for, "" for any.
    """

    family: str
    form: str
    sigma: tuple[float, float, float, float]


def sigma(quantiles: Quantiles) -> float:
    """Of a normal error whose median or whose 90th percentile is this, whichever is wider: tails are heavy.

    Examples
    --------
    >>> round(sigma((0.07, 0.22)), 3), round(sigma((0.05, 0.05)), 3)
    (0.134, 0.074)
    """
    return max(quantiles[0] / MEDIAN, quantiles[1] / P90)


def spreads(device: Device) -> tuple[Spread, ...]:
    """Of every family on a device, for each format that its laws have, and "" for any other.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> found = {(s.family, s.form): s.sigma for s in spreads(load_device("h100"))}
    >>> [round(x, 3) for x in found["gemm", "bf16"]]
    [0.036, 0.091, 0.091, 0.134]
    """
    found = []
    errors = dict(efficiency_of(device).errors)
    for name in FAMILIES:
        like = (
            "reduce_scatter" if name == "all_reduce" else name
        )  # it has no table of its own in the documents
        known = (
            MOVES.get(like, 0.0) / P90,
            sigma(INTERPOLATED.get(like, TYPICAL)),
            sigma(EXTRAPOLATED.get(like, TYPICAL)),
        )
        law = _LAWS.get(name, name)
        forms = [key.partition(" ")[2] for key in errors if key.partition(" ")[0] == law]
        if name in COLLECTIVES or not forms:
            forms = []
        for form in (*forms, ""):
            found.append(Spread(family=name, form=form, sigma=(*known, _modelled(device, law, form))))
    return tuple(found)


def _modelled(device: Device, law: str, form: str) -> float:
    laws = efficiency_of(device)
    if laws.borrowed:
        lender = family(laws.kin)
        same = lender == family(device.name)
        return sigma(LENT.get(lender if same else None, LENT[None]))
    own = laws.errors.get(f"{law} {form}", laws.errors.get(f"{law} bf16", laws.errors.get(law, TYPICAL)))
    return sigma(own)
