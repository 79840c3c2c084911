"""Write a trace as our CSV, wholly or not at all."""

import gzip
import os
import tempfile
from pathlib import Path

from profiles.errors import InputError
from traces.trace import Trace


def to_csv(trace: Trace) -> str:
    """One line a request under a header; what ``read_trace`` gives back is the same to the last bit.

    Prefix blocks, where the trace has them, are a fourth column named after their size.

    Examples
    --------
    >>> import numpy as np
    >>> print(to_csv(Trace(arrival_s=np.array([0.5]), prompt_tokens=np.array([7]), output_tokens=np.array([3]),
    ...                    prefix=((4, 1),))))
    arrival_s,prompt_tokens,output_tokens,prefix_512
    0.5,7,3,4 1
    <BLANKLINE>
    """
    header, tails = "arrival_s,prompt_tokens,output_tokens", [""] * len(trace)
    if trace.prefix is not None:
        header += f",prefix_{trace.prefix_block_tokens}"
        tails = ["," + " ".join(map(str, blocks)) for blocks in trace.prefix]
    columns = trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), tails
    lines = [
        f"{arrival!r},{prompt},{output}{tail}" for arrival, prompt, output, tail in zip(*columns, strict=True)
    ]
    return "\n".join([header, *lines, ""])


def write_trace(trace: Trace, path: Path) -> None:
    """Write the CSV, compressed when the name ends in ``.gz``; the same trace gives the same bytes."""
    data = to_csv(trace).encode()
    write_whole(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, so that nothing half-written is ever seen.

    A link stays a link, and a device or pipe (``/dev/stdout``) is written to, not replaced.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    temporary = ""
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: {error.strerror}") from error
