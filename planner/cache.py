"""What was computed, kept on disk: one file a value, named after everything that the value follows from.

A file is a line with the SHA-256 of its name and the rest, then the value as ``planner.pack`` writes it. It is
written under another name and moved into place, so processes that share a folder never see half of one, and one
that is killed leaves no more than a stray temporary file. A file that is torn, foreign, changed or renamed does
not have its own sum: it counts as absent and is written anew. Nothing is ever stale, for the name holds a
digest of the program that computed it too.
"""

import hashlib
import os
import platform
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from planner.pack import pack, unpack

MOST_BYTES = 2 * 2**30
"""In one folder. Files used longest ago go first."""

SUFFIX = ".zenith"
_MAGIC = b"zenith-cache-1 "
_STALE_S = 3600.0
"""Age of a temporary file that no writer can still be at."""

_PACKAGES = ("formulations", "planner", "profiles", "simulator", "traces")
_LIBRARIES = ("aiconfigurator-core", "numba", "numpy", "ortools", "pyarrow")


class Cache:
    """A folder of values. Safe among threads and processes.

    Parameters
    ----------
    folder
        Made when it is first written to.
    most_bytes
        Of all files together. A value of more than a quarter is not kept.
    warn
        Called once, with a line, where the folder cannot be used; answers go on without it.
    """

    def __init__(
        self, folder: Path, *, most_bytes: int = MOST_BYTES, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self.folder, self.most_bytes, self._warn = folder, most_bytes, warn
        self._written: int | None = None
        """Bytes since files were last counted; None: never were."""
        self._usable = True

    def read(self, kind: str, key: object) -> tuple[bool, Any]:
        """Whether the value of a key is here, and the value."""
        path = self._path(kind, key)
        try:
            data = path.read_bytes()
        except OSError:
            return False, None
        head = len(_MAGIC) + 65
        if data[:head] != _head(path, data[head:]):
            return False, None
        try:
            value = unpack(data[head:], _classes())
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile):
            return False, None
        with suppress(OSError):  # a folder that is only read is not pruned from here either
            os.utime(path)
        return True, value

    def write(self, kind: str, key: object, value: object) -> None:
        """Keep a value."""
        if not self._usable:
            return
        data = pack(value, _classes())
        if len(data) > self.most_bytes // 4:
            return
        temporary, path = "", self._path(kind, key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=SUFFIX)
            with os.fdopen(handle, "wb") as file:
                file.write(_head(path, data) + data)
            os.replace(temporary, path)
            if self._written is None or self._written > self.most_bytes // 16:
                self._written = 0
                self.prune()
            self._written += len(data)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            if self._usable:
                self._usable = False
                self._warn(f"{self.folder}: {error.strerror}; results are not kept (--cache, --no-cache)")

    def prune(self) -> None:
        """Remove files used longest ago until what is left, and what may come before the next look, has room."""
        now = time.time()
        files: list[tuple[float, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX):
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # another process was faster
                if entry.name.startswith(".") and now - found.st_mtime < _STALE_S:
                    continue
                used = 0.0 if entry.name.startswith(".") else found.st_mtime
                files.append((used, found.st_size, entry.path))
        room = self.most_bytes - self.most_bytes // 8
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if used and total <= room:
                break
            with suppress(OSError):  # another process was faster
                os.unlink(path)
            total -= size

    def _path(self, kind: str, key: object) -> Path:
        name = hashlib.sha256(repr((program_content(), kind, key)).encode()).hexdigest()
        return self.folder / f"{name}{SUFFIX}"


def _head(path: Path, data: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(path.name.encode() + b"\n" + data).hexdigest().encode() + b"\n"


def usual_folder() -> Path:
    """``$XDG_CACHE_HOME/zenith``, or ``~/.cache/zenith`` (XDG Base Directory Specification 0.8)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
    return base / "zenith"


@lru_cache(maxsize=1)
def program_content() -> str:
    """A short name of what computes: every file of ours, data included, Python, the kind of machine, and the
    versions of the libraries that numbers pass through."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(
                    f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes()
                )
    facts = [platform.python_version(), platform.machine(), os.environ.get("NUMBA_DISABLE_JIT", "")]
    for library in _LIBRARIES:
        try:
            facts.append(metadata.version(library))
        except metadata.PackageNotFoundError:
            facts.append("none")
    digest.update(repr(facts).encode())
    return digest.hexdigest()


def folder_content(folder: Path) -> str:
    """A short name of the files of a folder and what is in them.

    Examples
    --------
    >>> folder_content(Path("traces/samples")) == folder_content(Path("traces"))
    False
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _classes() -> dict[str, type[Any]]:
    """What a file may hold besides numbers, text and arrays."""
    from planner.binding import Binding
    from planner.bounds import PlanBound
    from planner.errors import Clash
    from planner.pipeline import Candidate
    from planner.placement import Placement
    from profiles.plan import EngineSettings, Plan
    from profiles.stepcost import AttentionWork, RoutedExperts, StepCost
    from simulator.outcome import Outcome

    known = (
        AttentionWork,
        Binding,
        Candidate,
        Clash,
        EngineSettings,
        Outcome,
        Placement,
        Plan,
        PlanBound,
        RoutedExperts,
        StepCost,
    )
    return {each.__name__: each for each in known}
