"""Power of a device board as a function of what it does and of its clock.

With u_mem and u_comp the shares of memory bandwidth and of peak FLOP/s that an operation uses,
m = min(1, alpha u_mem^ROOT) and c = min(1 - m, beta u_comp)::

    P = idle + (cap - idle) (m g(f) + c h(f))

At full clock g = h = 1: power is the sum of both parts, cut off at the cap. The root makes a board that
streams a little draw much: that is measured, and stands for everything that is awake while a kernel
runs. At clock f, with x = f / f_max::

    h(x) = x V(x)^2,  V(x) = max(x, FLOOR)             the cores: voltage falls with the clock down to a floor
    g(x) = MEMORY_SHARE + (1 - MEMORY_SHARE) h(x)      memory runs on a clock of its own

Law: idle <= P <= cap, non-decreasing in u_mem, u_comp and f. How alpha and beta are fitted, and how far
they are off: docs/energy.md.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from profiles.device import Device
from profiles.ops import FloatArray

ROOT = 0.2
"""Exponent of u_mem. Least error on models left out, with 0.15 to 0.25; docs/energy.md compares forms."""

FLOOR = 0.6
"""Clock, as a share of the highest, below which voltage stays. Assumed: with it a compute-bound kernel takes
the least energy at 0.65 of the highest clock, and published optima of prefill are 0.65 to 0.8 (A100: 1050 of
1410 MHz, throttLL'eM). No voltage curve is public."""

MEMORY_SHARE = 0.6
"""Of the power of memory traffic above idle that does not fall with the clock of the cores. Derived: with it,
locking an H200 from 1980 to 780 MHz saves about a third of the energy of decode; measured: up to 32 %
(arXiv 2605.11999)."""

_FITS = Path(__file__).parent / "power.json"
_DEFAULT = "h100-sxm-80gb"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """Constants of one device, >= 0, where they come from, and how far they are off."""

    alpha: float
    beta: float
    source: str
    error: str

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < np.inf and 0 <= self.beta < np.inf):
            raise ValueError("alpha and beta must not be negative.")


class PowerModel:
    """Watts of one device, see the module.

    ``fitted_on`` is the device whose constants it uses: its own, else those of H100, and ``fit.source``
    then says so. Idle power and cap are always its own.

    Parameters
    ----------
    device
        What draws.
    fit
        Constants of your own.
    cap_w
        Power limit, between idle and ``device.tdp_w``, which is the default. Power above it is cut off;
        what the device slows down to stay below is not modelled.

    Examples
    --------
    >>> from profiles.device import load_device
    >>> power = PowerModel(load_device("h100"))
    >>> [round(float(w)) for w in power.watts([0, 0.7, 0.3], [0, 0.02, 0.8])]  # idle, decode, prefill
    [75, 556, 700]
    >>> round(float(power.watts(0.7, 0.02, 990)))
    394
    """

    def __init__(self, device: Device, fit: PowerFit | None = None, cap_w: float | None = None) -> None:
        self.idle_w, self.cap_w = device.idle_w, device.tdp_w if cap_w is None else cap_w
        if not self.idle_w < self.cap_w <= device.tdp_w:
            raise ValueError(f"cap_w must be above {self.idle_w:g} and at most {device.tdp_w:g} W.")
        self.swing_w, self.max_clock_mhz = device.tdp_w - self.idle_w, device.max_clock_mhz
        fits = _fits()
        self.fitted_on = device.name if fit or device.name in fits else _DEFAULT
        self.fit = fit or fits[self.fitted_on]
        if self.fitted_on != device.name:
            self.fit = replace(self.fit, source=f"borrowed from {_DEFAULT}: {self.fit.source}")

    def watts(self, u_mem: ArrayLike, u_comp: ArrayLike, clock_mhz: int = 0) -> FloatArray:
        """Board power, the shares in [0, 1] and broadcast; ``clock_mhz`` 0 is the highest."""
        x = min(clock_mhz / self.max_clock_mhz, 1.0) if clock_mhz else 1.0
        cores = x * max(x, FLOOR) ** 2
        memory = MEMORY_SHARE + (1.0 - MEMORY_SHARE) * cores
        moving = np.minimum(self.fit.alpha * np.asarray(u_mem, np.float64) ** ROOT, 1.0)
        computing = np.minimum(self.fit.beta * np.asarray(u_comp, np.float64), 1.0 - moving)
        drawn = self.idle_w + self.swing_w * (moving * memory + computing * cores)
        return np.asarray(np.minimum(drawn, self.cap_w))


@cache
def _fits() -> dict[str, PowerFit]:
    return {name: PowerFit(**fit) for name, fit in json.loads(_FITS.read_text(encoding="utf-8")).items()}
