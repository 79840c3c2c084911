"""Write a trace as our CSV, wholly or not at all."""

import gzip
import os
import tempfile
from pathlib import Path

from profiles.errors import InputError
from traces.trace import Trace


def to_csv(trace: Trace) -> str:
    """``arrival_s,prompt_tokens,output_tokens``, one line a request; arrivals to the microsecond.

    Examples
    --------
    >>> import numpy as np
    >>> print(to_csv(Trace(arrival_s=np.array([0.5]), prompt_tokens=np.array([7]), output_tokens=np.array([3]))))
    arrival_s,prompt_tokens,output_tokens
    0.500000,7,3
    <BLANKLINE>
    """
    rows = zip(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, strict=True)
    lines = [f"{arrival:.6f},{prompt},{output}" for arrival, prompt, output in rows]
    return "\n".join(["arrival_s,prompt_tokens,output_tokens", *lines, ""])


def write_trace(trace: Trace, path: Path) -> None:
    """Write the CSV, compressed when the name ends in ``.gz``."""
    data = to_csv(trace).encode()
    write_whole(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, so that nothing half-written is ever seen.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: {error.strerror}") from error
