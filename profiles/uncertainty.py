"""How far operation times are off, as a spread of each family and provenance: from errors stated elsewhere.

Measured, interpolated and extrapolated times: errors of ``profiles.silicon`` on what was hidden from it
(``docs/silicon.md``), by the largest move of monotone regression where a point was measured. Modelled ones: errors of
the laws on shapes that their fit did not see (``efficiency.json``), of borrowed laws what leaving a device out showed
(``docs/efficiency.md``). ``tests/profiles/test_uncertainty.py`` compares the numbers here with those documents.
"""

from dataclasses import dataclass

from profiles.device import Device
from profiles.efficiency import efficiency_of, family
from profiles.moved import FAMILIES
from profiles.ops import COLLECTIVES

MEDIAN, P90 = 0.6745, 1.6449
"""Quantiles of |x| of a standard normal x."""

Quantiles = tuple[float, float]

HIDDEN_ON = ("h100", "h200", "b200")
"""Devices on whose tables errors were measured, the columns below. GB200 takes B200's, any other H100's."""

MOVES: dict[str, tuple[float, float, float]] = {
    "gemm": (0.06, 0.052, 0.077),
    "prefill_attention": (0.0, 0.0, 0.002),
    "decode_attention": (0.015, 0.013, 0.045),
    "encoder_attention": (0.039, 0.041, 0.025),
    "mla_prefill": (0.0, 0.0, 0.003),
    "mla_decode": (0.006, 0.008, 0.025),
    "moe": (0.007, 0.007, 0.023),
    "all_reduce": (0.008, 0.0, 0.014),
    "all_gather": (0.0, 0.054, 0.034),
    "reduce_scatter": (0.007, 0.035, 0.025),
    "all_to_all": (0.26, 0.13, 0.009),
}  # fmt: skip
"""90th percentile of what made a measured point monotone (docs/silicon.md, Monotone)."""

INTERPOLATED: dict[str, tuple[Quantiles, Quantiles, Quantiles]] = {
    "gemm": ((0.046, 0.15), (0.046, 0.14), (0.056, 0.17)),
    "prefill_attention": ((0.028, 0.11), (0.029, 0.098), (0.033, 0.11)),
    "decode_attention": ((0.022, 0.14), (0.022, 0.13), (0.029, 0.11)),
    "encoder_attention": ((0.084, 0.23), (0.083, 0.24), (0.062, 0.19)),
    "mla_prefill": ((0.018, 0.072), (0.015, 0.077), (0.019, 0.089)),
    "mla_decode": ((0.013, 0.093), (0.017, 0.074), (0.038, 0.12)),
    "moe": ((0.019, 0.094), (0.019, 0.089), (0.025, 0.12)),
    "all_reduce": ((0.013, 0.096), (0.016, 0.067), (0.019, 0.2)),
    "all_gather": ((0.025, 0.081), (0.035, 0.14), (0.028, 0.16)),
    "reduce_scatter": ((0.021, 0.087), (0.029, 0.091), (0.03, 0.13)),
    "all_to_all": ((0.02, 0.35), (0.036, 0.17), (0.025, 0.1)),
}  # fmt: skip
"""Median and 90th percentile where a load was hidden, of GEMM both sides of its shape."""

EXTRAPOLATED: dict[str, tuple[Quantiles, Quantiles, Quantiles]] = {
    "gemm": ((0.046, 0.15), (0.046, 0.14), (0.056, 0.17)),
    "prefill_attention": ((0.063, 0.33), (0.06, 0.33), (0.057, 0.33)),
    "decode_attention": ((0.029, 0.14), (0.029, 0.15), (0.016, 0.096)),
    "encoder_attention": ((0.096, 0.21), (0.086, 0.21), (0.096, 0.16)),
    "mla_prefill": ((0.048, 0.49), (0.05, 0.52), (0.035, 0.49)),
    "mla_decode": ((0.014, 0.12), (0.017, 0.12), (0.018, 0.26)),
    "moe": ((0.091, 0.43), (0.1, 0.47), (0.15, 0.62)),
    "all_reduce": ((0.088, 0.32), (0.063, 0.27), (0.12, 0.47)),
    "all_gather": ((0.18, 0.59), (0.19, 0.61), (0.24, 0.71)),
    "reduce_scatter": ((0.22, 0.53), (0.23, 0.56), (0.26, 0.7)),
    "all_to_all": ((0.12, 0.55), (0.1, 0.51), (0.13, 0.62)),
}  # fmt: skip
"""The same where a shape was hidden: heads, ranks, a whole model."""

TYPICAL: Quantiles = (0.08, 0.24)
"""Of all laws, for what has none of its own (streams, transfers between stages)."""

LENT: dict[str | None, Quantiles] = {
    "hopper": (0.10, 0.28), "blackwell": (0.09, 0.27), "rtx": (0.19, 0.54), None: (0.29, 0.62)
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
    column = next((i for i, name in enumerate(HIDDEN_ON) if name in device.name), 0)
    for name in FAMILIES:
        stated = name in MOVES
        known = (
            MOVES[name][column] / P90 if stated else 0.0,
            sigma(INTERPOLATED[name][column] if stated else TYPICAL),
            sigma(EXTRAPOLATED[name][column] if stated else TYPICAL),
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
