"""Power and clock of the board under measurement, from NVML or ``nvidia-smi``, whichever is there."""

import subprocess
from importlib import import_module
from threading import Thread
from typing import Any

_INSTANT_POWER = 186
"""NVML_FI_DEV_POWER_INSTANT: watts now. nvmlDeviceGetPowerUsage is a mean over a second on many boards."""

_SMI = ["nvidia-smi", "--format=csv,noheader,nounits"]


class Board:
    """One board by its UUID, as torch says it (with or without ``GPU-``); the first where it says none.

    ``driver`` is its version, "unknown" where nothing tells.
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}"
        self.driver = "unknown"
        self._nvml: Any = None
        self._handle: Any = None
        self._smi: subprocess.Popen[str] | None = None
        self._reader: Thread | None = None
        self._latest: tuple[float | None, float | None] = None, None
        if not self._open_nvml():
            self._open_smi()

    def read(self) -> tuple[float | None, float | None]:
        """Watts and MHz of the cores now; None where nothing reads them."""
        if self._nvml is None:
            return self._latest
        try:
            mhz = float(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
            (field,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [_INSTANT_POWER])
            milliwatts = field.value.uiVal if field.nvmlReturn == 0 else 0
            return (milliwatts or self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3, mhz
        except self._nvml.NVMLError:
            return None, None

    def close(self) -> None:
        if self._smi is not None and self._reader is not None:
            self._smi.terminate()
            self._smi.wait()
            self._reader.join()
            if self._smi.stdout is not None:
                self._smi.stdout.close()

    def _open_nvml(self) -> bool:
        try:
            nvml = import_module("pynvml")
        except ImportError:
            return False
        try:
            nvml.nvmlInit()
            version = nvml.nvmlSystemGetDriverVersion()
            self._handle = (
                nvml.nvmlDeviceGetHandleByUUID(self.uuid) if self.uuid else nvml.nvmlDeviceGetHandleByIndex(0)
            )
        except nvml.NVMLError:
            return False
        self.driver = version.decode() if isinstance(version, bytes) else str(version)
        self._nvml = nvml
        return True

    def _open_smi(self) -> None:
        """A process that prints power and clock every 50 ms, and a thread that keeps the latest line."""
        which = [f"--id={self.uuid or 0}"]
        try:
            version = [*_SMI, *which, "--query-gpu=driver_version"]
            done = subprocess.run(version, capture_output=True, text=True, timeout=20, check=True)
            query = "--query-gpu=power.draw.instant,clocks.sm"
            self._smi = subprocess.Popen(
                [*_SMI, *which, query, "--loop-ms=50"], stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return
        self.driver = done.stdout.strip() or "unknown"
        self._reader = Thread(target=self._follow, args=(self._smi,), daemon=True)
        self._reader.start()

    def _follow(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            try:
                watts, mhz = (float(word) for word in line.split(","))
            except ValueError:  # "[N/A]" where a board does not say
                continue
            self._latest = watts, mhz
