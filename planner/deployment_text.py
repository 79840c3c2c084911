"""A deployment as text, JSON and files. Formatting only: all that is said comes from ``planner.deployment``."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from textwrap import indent, wrap
from typing import Any

from planner import report
from planner.deploy import shell_line
from planner.deployment import Deployment, EngineDeployment
from planner.printable import WIDTH, printable
from planner.processes import OPTIONS_FILE, Process
from planner.report import answer_dict
from profiles.errors import InputError

MANIFEST_FILE = "kubernetes.yaml"
TEXT_FILE = "deployment.txt"


def to_text(found: Deployment, *, files: bool = True) -> str:
    """The plan, then per engine its commands, one a line, what they leave out, and ``files`` as they are."""
    best = found.answer.results[0]
    lines = [short for line in found.answer.headline.splitlines() for short in wrap(printable(line), WIDTH)]
    lines.append("")
    lines += _row("plan", f"{best.plan.label} on {best.plan.devices} x {best.device}")
    lines += _row("placement", report.placement_text(best))
    if not best.acceptable:
        lines += _row("warning", "the plan breaks an SLO or rejects requests")
    if found.answer.searched:
        lines += _row("certificate", report.certificate_text(found.answer))
    for note in found.notes:
        lines += _row("note", note)
    for engine, reason in found.refused.items():
        lines += _row("not on", f"{engine}: {reason}")
    for engine_found in found.engines:
        lines += ["", engine_text(engine_found, files=files)]
    return "\n".join(lines)


def engine_text(found: EngineDeployment, *, files: bool = True) -> str:
    """What one engine needs. Commands are not wrapped, so that they can be copied."""
    lines = [f"{found.engine} {found.version}, image {found.image}"]
    for process in found.processes:
        lines += [f"  replica {process.replica}, on node {process.node}:", f"    {process.text}"]
    for note in found.notes:
        lines += wrap(
            note, WIDTH, initial_indent="  note: ", subsequent_indent="    ", break_on_hyphens=False
        )
    for name, text in _files_of(found).items() if files else ():
        lines += [f"  {name}:", *indent(text.rstrip("\n"), "    ").splitlines()]
    return "\n".join(printable(line) for line in lines)


def _files_of(found: EngineDeployment) -> dict[str, str]:
    """YAML that there is, by file name."""
    files = {OPTIONS_FILE: found.options, MANIFEST_FILE: found.manifest}
    return {name: text for name, text in files.items() if text}


def _row(name: str, text: str) -> list[str]:
    return wrap(
        printable(text),
        WIDTH,
        initial_indent=f"{name:14}",
        subsequent_indent=" " * 14,
        break_on_hyphens=False,
    )


def to_json(found: Deployment) -> str:
    """Everything, and the answer as in ``planner/answer.schema.json``."""
    return json.dumps(
        {
            "schema": "zenith-deploy-1",
            "engines": [_engine_dict(engine) for engine in found.engines],
            "refused": dict(found.refused),
            "notes": list(found.notes),
            "answer": answer_dict(found.answer),
        },
        indent=2,
        allow_nan=False,
    )


def _engine_dict(found: EngineDeployment) -> dict[str, Any]:
    return {
        "engine": found.engine,
        "version": found.version,
        "image": found.image,
        "processes": [
            {
                "replica": process.replica,
                "node": process.node,
                "environment": dict(process.environment),
                "words": list(process.words),
                "command": process.text,
            }
            for process in found.processes
        ],
        "options_yaml": found.options or None,
        "kubernetes_yaml": found.manifest or None,
        "notes": list(found.notes),
    }


def to_files(found: Deployment) -> dict[str, str]:
    """Contents by path: of each engine a script per replica and node, its options and its manifest."""
    files = {TEXT_FILE: to_text(found, files=False) + "\n"}
    for engine in found.engines:
        folder = engine.engine.lower()
        scripts: dict[str, list[Process]] = {}
        for process in engine.processes:
            scripts.setdefault(f"replica-{process.replica}-node-{process.node}.sh", []).append(process)
        for name, processes in scripts.items():
            files[f"{folder}/{name}"] = _script(processes)
        for name, text in _files_of(engine).items():
            files[f"{folder}/{name}"] = text
    return files


def _script(processes: list[Process]) -> str:
    """Runs beside the options; the last command stays."""
    *before, last = processes
    lines = ["#!/bin/sh", "set -e", 'cd "$(dirname "$0")"', *(process.text for process in before)]
    if last.environment:
        lines.append("export " + shell_line(last.environment, ()).rstrip())
    return "\n".join([*lines, "exec " + shell_line({}, last.words).lstrip(), ""])


def check_folder(path: Path) -> None:
    """Raise InputError where ``write_folder`` would have to overwrite, or has nowhere to write."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there and not empty, nothing is overwritten; name a new folder")


def write_folder(path: Path, files: dict[str, str]) -> None:
    """All files or none: they are written beside ``path``, which then takes their folder's place.

    Raises
    ------
    InputError
        When ``path`` holds anything, or cannot be written.
    """
    check_folder(path)
    target, temporary = path.resolve(), None
    try:
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        for name, text in files.items():
            file = temporary / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if file.suffix == ".sh" else 0o644)
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"{path}: {error.strerror}") from error
