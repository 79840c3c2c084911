"""Collectives of NCCL among the devices of one node, one process each (``torch.distributed``).

Processes of a gang wait for orders on a pipe. A sample is the time of ``_IN_ROW`` collectives in a row divided
by their number, on the rank that took longest.
"""

import socket
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from profiles.profiler import Unmeasurable

_SAMPLES, _IN_ROW, _WARM_UP = 15, 10, 5
_PATIENCE_S = 120.0
"""For an answer: the first call of a gang sets up its links, which takes some seconds."""


class Gang:
    """``ranks`` processes on the first devices."""

    def __init__(self, ranks: int) -> None:
        context = get_context("spawn")
        port = _free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_member, args=(rank, ranks, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def measure(self, kind: str, size: int) -> tuple[float, ...]:
        """Seconds of a collective of ``size`` bytes, as ``Operations.collective`` counts them.

        Raises
        ------
        Unmeasurable
            When a process fails, is gone or does not answer.
        """
        answers: list[list[float]] = []
        try:
            for pipe in self._pipes:
                pipe.send((kind, size))
            for pipe in self._pipes:
                answer = pipe.recv() if pipe.poll(_PATIENCE_S) else "no answer"
                if isinstance(answer, str):
                    raise Unmeasurable(f"{kind}: {answer}")
                answers.append(answer)
        except (OSError, EOFError) as error:
            raise Unmeasurable(f"{kind}: a process ended ({type(error).__name__})") from error
        return tuple(max(sample) for sample in zip(*answers, strict=True))

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _member(rank: int, ranks: int, port: int, pipe: Connection) -> None:
    """One process: joins, then answers orders until the pipe closes."""
    torch = import_module("torch")
    distributed = import_module("torch.distributed")
    try:
        torch.cuda.set_device(rank)
        distributed.init_process_group(
            "nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
        )
        while True:
            kind, size = pipe.recv()
            pipe.send(_samples(torch, distributed, kind, size, ranks))
    except (EOFError, BrokenPipeError):
        return
    except (RuntimeError, ValueError) as error:
        pipe.send((str(error).strip().splitlines() or [type(error).__name__])[0][:200])


def _samples(torch: Any, distributed: Any, kind: str, size: int, ranks: int) -> list[float]:
    part = max(size // 2 // ranks, 1)
    whole = torch.randn(part * ranks, dtype=torch.bfloat16, device="cuda")
    other, slice_ = torch.empty_like(whole), torch.empty(part, dtype=torch.bfloat16, device="cuda")
    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: distributed.all_reduce(whole),
        "all_gather": lambda: distributed.all_gather_into_tensor(whole, slice_),
        "reduce_scatter": lambda: distributed.reduce_scatter_tensor(slice_, whole),
        "all_to_all": lambda: distributed.all_to_all_single(other, whole),
    }
    call = calls[kind]
    for _ in range(_WARM_UP):
        call()
    samples = []
    for _ in range(_SAMPLES):
        distributed.barrier()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_IN_ROW):
            call()
        end.record()
        end.synchronize()
        samples.append(float(start.elapsed_time(end)) * 1e-3 / _IN_ROW)
    return samples
