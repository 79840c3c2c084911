"""Power of a device board as a function of what it is doing.

    P(u_mem, u_comp, f) = idle + (cap - idle) * (1 - exp(-(alpha u_mem + beta u_comp))) * (f / f_max)^GAMMA

with u_mem and u_comp the shares of memory bandwidth and of peak FLOP/s in use. It saturates: measured
decode power is near the board limit at 15-25 % of peak FLOP/s, so power is not linear in utilization
(ML.ENERGY leaderboard, 565 points on H100 and B200).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from profiles.device import Device
from profiles.ops import FloatArray

GAMMA = 2.0
"""Dynamic power over clock: f V(f)^2 with V rising about as f^0.5 above the voltage floor. Published fits
(GreenLLM, VoltanaLLM) lie between 2 and 3; 2 is the cautious end. Not measured here."""

_FITS = Path(__file__).parent / "power.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """alpha and beta of one device, with the source and the error of the fit."""

    alpha: float
    beta: float
    source: str


class PowerModel:
    """Watts of one device. ``fitted_on`` names the device whose constants it uses (its own or H100's).

    Law: idle <= watts <= cap.
    """

    def __init__(self, device: Device, fit: PowerFit | None = None) -> None:
        fits = json.loads(_FITS.read_text(encoding="utf-8"))
        self.fitted_on = device.name if device.name in fits else "h100-sxm-80gb"
        self.fit = fit or PowerFit(**fits[self.fitted_on])
        self.idle_w, self.cap_w = float(device.idle_w), float(device.tdp_w)
        self.max_clock_mhz = device.max_clock_mhz

    def watts(self, u_mem: FloatArray, u_comp: FloatArray, clock_mhz: int = 0) -> FloatArray:
        """Board power while an operation uses these shares of the peak rates, both in [0, 1]."""
        clock = min(clock_mhz, self.max_clock_mhz) if clock_mhz else self.max_clock_mhz
        load = 1.0 - np.exp(-(self.fit.alpha * np.asarray(u_mem) + self.fit.beta * np.asarray(u_comp)))
        return self.idle_w + (self.cap_w - self.idle_w) * load * (clock / self.max_clock_mhz) ** GAMMA


def fit_power(
    device: Device, u_mem: NDArray[np.float64], u_comp: NDArray[np.float64], watts: NDArray[np.float64]
) -> tuple[PowerFit, float]:
    """alpha, beta >= 0 that best explain measured watts of whole runs, and the mean absolute error in watts.

    Least squares of the model by coordinate search on a shrinking grid: two bounded parameters need no
    solver. Utilizations are means over the run, as the simulator reports them.
    """
    best = (np.inf, 1.0, 5.0)
    low, high = np.array([0.0, 0.0]), np.array([6.0, 40.0])
    for _ in range(12):
        for alpha in np.linspace(low[0], high[0], 13):
            for beta in np.linspace(low[1], high[1], 13):
                model = PowerModel(device, PowerFit(alpha=float(alpha), beta=float(beta), source=""))
                error = float(np.square(model.watts(u_mem, u_comp) - watts).sum())
                best = min(best, (error, float(alpha), float(beta)))
        centre, span = np.array(best[1:]), (high - low) / 3
        low, high = np.maximum(centre - span / 2, 0.0), centre + span / 2
    fit = PowerFit(alpha=best[1], beta=best[2], source="")
    return fit, float(np.abs(PowerModel(device, fit).watts(u_mem, u_comp) - watts).mean())
