"""How to start a plan, as lines to paste into a shell and for programs. What is no command is a comment.

Replicas differ in their devices and ports alone. Commands that differ in few words are one function of these words and
a call for each: what the shell then runs is word for word what ``planner.launch`` says.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from planner.launch import EngineLaunch, Launch
from planner.printable import WIDTH, printable
from planner.processes import OPTIONS_FILE, Process

RAY = ("ray", "start")
HEADING = "paste the lines of one engine; zenith deploy has scripts and Kubernetes (docs/deploy.md)"


def to_lines(launch: Launch, name: str = "launch") -> list[str]:
    """Every engine's lines below a row of the answer; lines are longer than 80 only where one word is."""
    said = HEADING if launch.engines else "no engine runs this plan today"
    lines = wrap(f"{name:<13} {said}", WIDTH, subsequent_indent=" " * 14)
    for note in launch.notes if launch.engines else ():
        lines += _comment(note)
    for engine in launch.engines:
        lines += engine_lines(engine)
    for words in refusals(launch):
        lines += _comment(words)
    return [printable(line) for line in lines]


def refusals(launch: Launch) -> list[str]:
    """Why engines do not run the plan, each by its name."""
    return [words if name in words else f"{name}: {words}" for name, words in launch.refused.items()]


def engine_lines(found: EngineLaunch) -> list[str]:
    """Of one engine: where each command runs, and what it leaves out."""
    nodes = list(dict.fromkeys(process.node for process in found.processes))
    if not any(process.words[:2] == RAY for process in found.processes):  # its head comes before the others
        nodes.sort()
    where = f", on node {nodes[0]}" if len(nodes) == 1 else ""
    lines = _comment(f"{found.engine} {found.version}{where}")
    for note in found.notes:
        lines += _comment(note)
    if not nodes:
        return lines
    if found.options:
        options = "\n".join(wrap(json.dumps(dict(found.options)), WIDTH - 8, break_on_hyphens=False))
        lines += f"echo {shlex.quote(options)} > {OPTIONS_FILE}".split("\n")
    calls: dict[int, list[list[str]]] = {node: [] for node in nodes}
    functions = 0
    for group in _alike(found.processes):
        if len(group) == 1:
            tokens = [*(f"{k}={shlex.quote(v)}" for k, v in group[0].environment.items()),
                      *map(shlex.quote, group[0].words)]  # fmt: skip
            calls[group[0].node].append(_broken([*tokens, *_beside(group[0], len(found.processes))]))
            continue
        functions += 1
        name = f"replica{functions if functions > 1 else ''}"
        tokens, arguments = _function(group)
        lines += _broken([f"{name}()", "{", *tokens[:-1], f"{tokens[-1]};", "}"])
        for process, own in zip(group, arguments, strict=True):
            calls[process.node].append(_broken([name, *own, *_beside(process, len(found.processes))]))
    for node, commands in calls.items():
        lines += [f"# on node {node}"] if len(nodes) > 1 else []
        lines += _filled(commands)
    return lines


def _comment(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _beside(process: Process, count: int) -> list[str]:
    """What lets the shell go on: servers stay, ``ray start`` returns."""
    return ["&"] if count > 1 and process.words[:2] != RAY else []


def _alike(processes: Sequence[Process]) -> Iterator[list[Process]]:
    """Processes of the same flags, in order."""
    groups: dict[object, list[Process]] = {}
    for process in processes:
        flags = tuple(word for word in process.words if word.startswith("-"))
        groups.setdefault((tuple(process.environment), len(process.words), flags), []).append(process)
    yield from groups.values()


def _function(group: Sequence[Process]) -> tuple[list[str], list[list[str]]]:
    """Words of all, parameters where they differ, and of each its arguments."""
    names = [*(f"{name}=" for name in group[0].environment), *("" for _ in group[0].words)]
    columns = list(zip(*([*p.environment.values(), *p.words] for p in group), strict=True))
    differing = list(dict.fromkeys(column for column in columns if len(set(column)) > 1))
    tokens = []
    for name, column in zip(names, columns, strict=True):
        if column in differing:
            number = differing.index(column) + 1
            parameter = f"${number}" if number < 10 else f"${{{number}}}"
            plain = all(shlex.quote(word) == word for word in column)
            tokens.append(f"{name}{parameter}" if plain else f'{name}"{parameter}"')
        else:
            tokens.append(f"{name}{shlex.quote(column[0])}")
    return tokens, [[shlex.quote(word) for word in own] for own in zip(*differing, strict=True)]


def _broken(tokens: Sequence[str]) -> list[str]:
    """One command in lines, of which all but the last end in a backslash; a flag and its value stay together."""
    parts: list[str] = []
    for token in tokens:
        if parts and parts[-1].startswith("-") and " " not in parts[-1] and not token.startswith("-"):
            parts[-1] += f" {token}"
        else:
            parts.append(token)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + len("  \\") > WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return lines


def _filled(commands: Sequence[list[str]]) -> list[str]:
    """Short commands that run beside each other share a line."""
    lines: list[str] = []
    for command in commands:
        if (
            lines and lines[-1].endswith(" &") and not lines[-1].startswith(" ") and len(command) == 1
            and len(lines[-1]) + 1 + len(command[0]) <= WIDTH
        ):  # fmt: skip
            lines[-1] += f" {command[0]}"
        else:
            lines += command
    return lines


def to_dict(launch: Launch) -> dict[str, Any]:
    """As in the published schema of answers."""
    return {
        "engines": [
            {
                "engine": each.engine,
                "version": each.version,
                "processes": [
                    {"replica": p.replica, "node": p.node, "command": p.text} for p in each.processes
                ],
                "options": dict(each.options) or None,
                "notes": list(each.notes),
            }
            for each in launch.engines
        ],
        "refused": dict(launch.refused),
        "notes": list(launch.notes),
    }
