"""A real device under measurement: kernels of PyTorch, timed in CUDA graphs.

Imported only by ``zenith profile`` without ``--dry-run``; torch only when a ``TorchBench`` is made.

How a kernel is timed: operands are copied until they exceed twice the L2 cache, and launches take the copies in
turn, since a served model finds its weights and its KV cache in memory, not in the cache. About ``REPLAY_S``
of launches make one CUDA graph, as engines run decodes; a sample is the time of one replay between two events,
divided by its launches. Replays go on for ``WINDOW_S`` and at least ``SAMPLES`` times, while the board's power
and clock are read. What cannot be captured is launched one by one, and its kernel is named ``eager``. Of
several kernels of an operation the fastest counts, by median.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from statistics import median
from types import ModuleType
from typing import Any

from profiles.board import Board
from profiles.errors import InputError
from profiles.profiler import Reading, Shape, Unmeasurable
from profiles.torch_collectives import Gang
from profiles.torch_decoder import iteration
from profiles.torch_kernels import KERNELS, Kernel, Maker

MAKERS: dict[str, tuple[Maker, ...]] = KERNELS | {"iteration": (iteration,)}

REPLAY_S = 1e-3
WINDOW_S = 0.15
SAMPLES = 5
WARM_UP = 2
_MOST_LAUNCHES = 256
_MOST_CACHED = 4 * 2**30
_L2_BYTES = 64 * 2**20
"""Where the driver does not say: more than any device before B200 has."""


def torch_with_gpu() -> ModuleType:
    """The module torch, where it finds a device.

    Raises
    ------
    InputError
        When it is not installed or finds none.
    """
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise InputError(
            f"zenith profile measures with PyTorch, which cannot be imported ({error}); "
            "pip install 'zenith-planner[profile]'"
        ) from error
    if not torch.cuda.is_available():
        raise InputError(
            "zenith profile needs a GPU, and PyTorch finds none here; --dry-run lists what it would measure"
        )
    return torch


class TorchBench:
    """``profiles.profiler.Bench`` of the first visible device; collectives use all of this node.

    Raises
    ------
    InputError
        See ``torch_with_gpu``.
    """

    def __init__(self) -> None:
        self.torch = torch_with_gpu()
        self.gpus = int(self.torch.cuda.device_count())
        self.torch.cuda.set_device(0)
        self.torch.manual_seed(0)  # of operands and of the routing of tokens to experts
        properties = self.torch.cuda.get_device_properties(0)
        self.l2_bytes = int(getattr(properties, "L2_cache_size", 0)) or _L2_BYTES
        self.board = Board(str(getattr(properties, "uuid", "")))
        self._name = str(properties.name)
        self._gangs: dict[int, Gang] = {}

    def facts(self) -> Mapping[str, str | int]:
        torch = self.torch
        facts: dict[str, str | int] = {
            "device": self._name,
            "gpus": self.gpus,
            "driver": self.board.driver,
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda or torch.version.hip),
        }
        for name in ("flashinfer-python", "flash-attn", "vllm"):
            try:
                facts[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                facts[name] = "absent"
        return facts

    def measure(self, operation: str, shape: Shape) -> Reading:
        if operation == "collective":
            return self._collective(str(shape["kind"]), int(shape["ranks"]), int(shape["bytes"]))
        readings, reasons = [], []
        for make in MAKERS[operation]:
            try:
                readings.append(self._timed(make, shape))
            except self.torch.cuda.OutOfMemoryError:
                reasons.append("out of memory")
            except (
                ImportError,
                AttributeError,
                RuntimeError,
                TypeError,
                ValueError,
                AssertionError,
                OSError,
            ) as e:
                # Which shapes and formats a library takes differs by version and device; it says so by raising.
                first = (str(e).strip().splitlines() or [type(e).__name__])[0]
                reasons.append(f"{make.__name__}: {first}"[:200])
            self._tidy(reasons)
        if not readings:
            raise Unmeasurable("; ".join(dict.fromkeys(reasons)))
        return min(readings, key=lambda reading: median(reading.samples_s))

    def _tidy(self, reasons: list[str]) -> None:
        """Gives back memory of large operands.

        Raises
        ------
        InputError
            When an error has left the device unusable: all that follows would fail, and say nothing.
        """
        try:
            self.torch.cuda.synchronize()
        except RuntimeError as error:
            raise InputError(f"the device no longer answers after {'; '.join(reasons)}") from error
        if self.torch.cuda.memory_reserved() > _MOST_CACHED:
            self.torch.cuda.empty_cache()

    def close(self) -> None:
        """Ends the processes of collectives and the reading of power."""
        for gang in self._gangs.values():
            gang.close()
        self._gangs.clear()
        self.board.close()

    def _timed(self, make: Maker, shape: Shape) -> Reading:
        kernel: Kernel = make(self.torch, shape, 2 * self.l2_bytes)
        torch, launch, name = self.torch, kernel.launch, kernel.name
        for i in range(WARM_UP):
            launch(i % kernel.copies)
        torch.cuda.synchronize()
        each = max(self._elapsed(lambda: launch(0)), 1e-6)
        launches = max(math.ceil(REPLAY_S / each), min(kernel.copies, _MOST_LAUNCHES))
        launches = min(launches, _MOST_LAUNCHES) if each < REPLAY_S else 1

        def run() -> None:
            for i in range(launches):
                launch(i % kernel.copies)

        replay = self._captured(run) if kernel.captured else None
        if replay is None and shape.get("launch") == "graph":
            raise ValueError("cannot be captured in a CUDA graph")
        if replay is None:
            name, replay = f"{name} eager", run
        each = max(self._elapsed(replay) / launches, 1e-7)
        return self._window(replay, launches, each, name)

    def _captured(self, run: Callable[[], Any]) -> Callable[[], Any] | None:
        """Replays of a graph of this work, which ran before; None where it cannot be captured."""
        torch = self.torch
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            graph.replay()
            torch.cuda.synchronize()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        return graph.replay  # type: ignore[no-any-return]

    def _elapsed(self, work: Callable[[], Any]) -> float:
        """Seconds of one call on the device."""
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    def _window(self, replay: Callable[[], Any], launches: int, each: float, name: str) -> Reading:
        """Samples of several replays in a row, so that the device is never idle while its power is read."""
        in_row = min(max(int(0.03 / (each * launches)), 1), 16)
        samples: list[float] = []
        power: list[float] = []
        clocks: list[float] = []
        started = time.perf_counter()
        while len(samples) < SAMPLES or time.perf_counter() - started < WINDOW_S:
            events = [self.torch.cuda.Event(enable_timing=True) for _ in range(in_row + 1)]
            events[0].record()
            for event in events[1:]:
                replay()
                event.record()
            watts, mhz = self.board.read()
            if watts is not None and time.perf_counter() - started > WINDOW_S / 2:
                power.append(watts)
            if mhz is not None:
                clocks.append(mhz)
            events[-1].synchronize()
            samples += [float(a.elapsed_time(b)) * 1e-3 / launches for a, b in itertools.pairwise(events)]
        return Reading(
            samples_s=tuple(samples),
            power_w=median(power) if power else None,
            clock_mhz=median(clocks) if clocks else None,
            kernel=name,
        )

    def _collective(self, kind: str, ranks: int, size: int) -> Reading:
        if ranks not in self._gangs:
            self._gangs[ranks] = Gang(ranks)
        try:
            samples = self._gangs[ranks].measure(kind, size)
        except Unmeasurable:
            self._gangs.pop(ranks).close()
            raise
        return Reading(samples_s=samples, kernel="nccl")
