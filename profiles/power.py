"""Power of a device board as a function of what it does and of its clock.

With u_mem and u_comp the shares of memory bandwidth and of peak FLOP/s in use, m = alpha u_mem,
c = beta u_comp and the swing cap - idle::

    P = idle + (cap - idle) ((1 - e^-m) g(f) + e^-m (1 - e^-c) h(f))

At full clock g = h = 1, so P = idle + (cap - idle) (1 - e^-(m + c)): it saturates, because measured
decode power is near the cap at 15-25 % of peak FLOP/s (ML.ENERGY leaderboard, H100 and B200). At clock f,
with x = f / f_max::

    h(x) = x V(x)^2,  V(x) = max(x, FLOOR)             the cores: voltage falls with the clock down to a floor
    g(x) = MEMORY_SHARE + (1 - MEMORY_SHARE) h(x)      memory runs on a clock of its own

Law: idle <= P <= cap, non-decreasing in u_mem, u_comp and f.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from profiles.device import Device
from profiles.ops import FloatArray

FLOOR = 0.6
"""Clock, as a share of the highest, below which voltage stays. Assumed: with it a compute-bound kernel takes
the least energy at 0.6 of the highest clock, and published optima of prefill are 0.65 to 0.8 (A100: 1050 of
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
    [75, 488, 700]
    >>> round(float(power.watts(0.7, 0.02, 990)))
    330
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
        left = np.exp(-self.fit.alpha * np.asarray(u_mem, np.float64))
        busy = -np.expm1(-self.fit.beta * np.asarray(u_comp, np.float64))
        drawn = self.idle_w + self.swing_w * ((1.0 - left) * memory + left * busy * cores)
        return np.asarray(np.minimum(drawn, self.cap_w))


def fit_power(
    u_mem: ArrayLike, u_comp: ArrayLike, watts: ArrayLike, *, idle_w: float, cap_w: float, source: str
) -> PowerFit:
    """alpha and beta that best explain measured mean power at full clock, by least squares.

    Two bounded parameters need no solver: a grid over alpha in [0, 10] and beta in [0, 60], narrowed
    around the best point until it is finer than 0.001 of either range. ``error`` states what remains.

    Parameters
    ----------
    u_mem, u_comp
        [N] shares in use, means over a run, in [0, 1].
    watts
        [N] mean board power of one device.
    idle_w, cap_w, source
        Of the device; and who measured.

    Examples
    --------
    >>> fit = fit_power([0.1, 0.9, 0.5], [0.0, 0.05, 0.3], [150.3, 655.7, 699.5],
    ...                 idle_w=75, cap_w=700, source="made up")
    >>> round(fit.alpha, 1), round(fit.beta)
    (1.3, 30)

    Raises
    ------
    ValueError
        When there are fewer than two points or they are not of one shape.
    """
    memory, compute, measured = (np.asarray(x, np.float64).ravel() for x in (u_mem, u_comp, watts))
    if len(measured) < 2 or not memory.shape == compute.shape == measured.shape:
        raise ValueError("Need the same number of utilizations and watts, at least two.")

    def predicted(alpha: FloatArray, beta: FloatArray) -> FloatArray:
        exponent = alpha[..., None] * memory + beta[..., None] * compute
        return np.asarray(idle_w + (cap_w - idle_w) * -np.expm1(-exponent))

    low, high = np.zeros(2), np.array([10.0, 60.0])
    centre = low
    for _ in range(8):
        axes = [np.linspace(low[i], high[i], 41) for i in range(2)]
        grid = np.meshgrid(*axes, indexing="ij")
        errors = np.square(predicted(*grid) - measured).sum(axis=-1)
        best = np.unravel_index(np.argmin(errors), errors.shape)
        centre = np.array([grid[0][best], grid[1][best]])
        reach = (high - low) / 8
        low, high = np.maximum(centre - reach, 0.0), centre + reach
    off = predicted(centre[:1], centre[1:])[0] - measured
    spread = np.square(measured - measured.mean()).sum()
    share = np.abs(off / measured).mean()
    error = f"mean absolute error {np.abs(off).mean():.0f} W, {share:.1%}, {len(measured)} points"
    if spread > 0:
        error += f", R2 {1 - np.square(off).sum() / spread:.2f}"
    return PowerFit(alpha=float(centre[0]), beta=float(centre[1]), source=source, error=error)


@cache
def _fits() -> dict[str, PowerFit]:
    return {name: PowerFit(**fit) for name, fit in json.loads(_FITS.read_text(encoding="utf-8")).items()}
