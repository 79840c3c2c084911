"""Contradictions: keys that say one thing, of which one is to be given.

A later layer counts over an earlier one (``planner.question_file``), and what it contradicts there gives way. Within
the file, or among the words of a command, a contradiction is a mistake, and one line names both sides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.axes import parse_pairs, spellings, together
from planner.document import SET, Document, Keys, dotted
from planner.file_keys import KEYS
from planner.slo import parse_slo
from profiles.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """Sides of which one is given. ``exclusive``: both in one layer contradict each other whatever they say.
    ``yields``: what an earlier layer says gives way."""

    sides: tuple[tuple[Keys, ...], ...]
    exclusive: bool = True
    yields: bool = True


PLAN: Keys = ("plan",)
"""What ``--plan`` says; no file does."""

_SEARCH = ("max_simulations", "time_limit", "workers", "exhaustive", "cache", "use_cache")
_FIXED = {
    "policy": ("engine", "policies"),
    "budget": ("engine", "token_budgets"),
    "seqs": ("engine", "max_seqs"),
    "clock": ("engine", "clocks"),
    "block": ("engine", "block_size"),
    "queue": ("engine", "queue"),
    "preemption": ("engine", "preemption"),
    "routing": ("engine", "routing"),
    "allreduce": ("engine", "custom_all_reduce"),
    "weights": ("formats", "weights"),
    "activations": ("formats", "activations"),
    "kv": ("formats", "kv"),
}
"""Axes of ``constraints.fix`` that have a key of their own."""

RIVALS = (
    Rivals(sides=((("fleet", "gpus"),), (("fleet", "nodes"),))),
    Rivals(
        sides=(
            (("fleet", "device"), ("fleet", "gpus"), ("fleet", "nodes"), ("fleet", "gpus_per_node")),
            (("fleet", "file"),),
            (("fleet", "pools"),),
        )
    ),
    Rivals(sides=((("workload", "trace"),), (("workload", "synthetic"),))),
    Rivals(sides=((("engine", "name"),), (("engine", "profile"),))),
    Rivals(sides=((("slos", "power_mean"),), (("constraints", "max_power"),))),
    *(Rivals(sides=((("constraints", "fix", axis),), (key,))) for axis, key in _FIXED.items()),
    Rivals(sides=((("constraints", "deployable"),), (("constraints", "deployable_on"),)), exclusive=False),
    Rivals(sides=((("search", "cache"),), (("search", "use_cache"),)), exclusive=False),
    Rivals(sides=((("search", "exhaustive"),), (("search", "max_simulations"),)), exclusive=False),
    Rivals(sides=((("answer", "all"),), (("answer", "top"),)), exclusive=False),
    # A plan that --plan names is not searched; a file's axes and formats are those that it leaves open.
    Rivals(sides=((PLAN,), (("constraints", "forbid"), ("constraints", "deployable_on")))),
    Rivals(sides=((PLAN,), (("constraints", "fix"), ("formats",))), yields=False),
)

UNSEARCHED = Rivals(sides=((PLAN,), tuple(("search", name) for name in _SEARCH)))
"""Where a plan that is named is simulated once, limits of a search mean nothing."""

_VARIED = {
    **{name: (name,) for name in ("model", "objective")},
    **{name: ("fleet", name) for name in ("device", "gpus", "nodes")},
    **{name: ("constraints", name) for name in ("max_gpus", "max_cost_per_hour")},
    "rate": ("workload", "rate"),
    "engine": ("engine", "name"),
}
"""Keys that axes of ``--vary`` vary, where they are not those of ``constraints.fix``."""

SEARCHED = ("policies", "token_budgets", "max_seqs", "clocks")
"""Options with values to search."""

OF_PLAN = (*SEARCHED, "formats", "fix", "forbid", "deployable_on")
"""Options of a file that count where one plan is asked, or what is left of them beside it."""

ALL = {"exhaustive": "max_simulations", "list_all": "top"}
"""Options that ask for all, and those that ask for fewer."""

MERGED = ("slos", "fix", "forbid", "formats")
"""Options with keys of their own: those of ``--set`` and those of flags count together."""


def check_file(document: Document) -> None:
    """Raise InputError for keys of a document that contradict each other."""
    for rivals in RIVALS:
        given = [next((key for key in side if document.get(key) is not None), None) for side in rivals.sides]
        named = [key for key in given if key is not None]
        if rivals.exclusive and len(named) > 1:
            raise InputError(f"{document.at(named[1])}: {dotted(named[0])} is given too, keep one of them")


def check_words(
    document: Document, flags: Mapping[str, str], options: Mapping[str, Any], more: Sequence[Rivals] = ()
) -> tuple[str, ...]:
    """Raise InputError where two words of a command, of flags and ``--set``, say one thing or contradict each other.

    What is varied may be said too, with one of the values that are varied: these words are returned.

    Parameters
    ----------
    flags
        Options that are given as flags, with their words.
    options
        Values of the options.
    more
        Besides ``RIVALS``, of the command at hand.
    """
    said = [word for option in sorted(flags, key=lambda option: option != "plan")
            for word in _flagged(flags[option], option, options.get(option))]  # fmt: skip
    wide = [_Word(flag=flag, keys=KEYS[option].key) for option, flag in flags.items()
            if option in KEYS and option not in MERGED]  # fmt: skip
    sets = [
        _Word(flag=document.at(keys), keys=_plain(keys), value=document.get(keys))
        for keys in document.leaves()
        if document.place(keys) == SET
    ]
    for word in sets:  # a flag takes the place of all that its key holds
        _refuse(word, [*wide, *said], more)
    varied = [(word, name, values) for name, keys, values in keys_varied(options)
              for word in (*said, *sets) if word.keys == keys]  # fmt: skip
    for word, name, values in varied:
        if _meant(name, word.value) not in [_meant(name, value) for value in values]:
            raise InputError(
                f"--vary {name}: {word.text} is given too, with a value that is not varied; keep one"
            )
    for name, keys, _ in keys_varied(options):
        others = [word for word in (*said, *sets) if word.keys != keys]
        _refuse(_Word(flag=f"--vary {name}", keys=keys), others, more)
    for i, word in enumerate(said):
        _refuse(word, said[:i], more)
    for option in SEARCHED:
        if "plan" in flags and option in flags and len(set(options.get(option) or ())) > 1:
            raise InputError(f"{flags[option]}: --plan names one plan, give one value")
    return tuple(word.text for word, _, _ in varied)


def _meant(name: str, value: Any) -> Any:
    """What a value of an axis means, however it is written.

    Examples
    --------
    >>> _meant("slo.ttft_p95", "30ms") == _meant("slo.ttft_p95", "0.03s"), _meant("gpus", "2"), _meant("tp", "2")
    (True, 2, 2)
    """
    from planner import units
    from profiles.device import load_device

    if not isinstance(value, str):
        return value
    try:
        if name in ("gpus", "nodes", "max_gpus"):
            return int(value)
        if name == "max_cost_per_hour":
            return units.read(value, units.PRICE)
        if name == "device":
            return load_device(value).name
        if name.startswith("slo."):
            return parse_slo(f"{name.removeprefix('slo.')}<={value}").limit
        return value if name in _VARIED else parse_pairs(f"{name}={value}")[0][1]
    except (InputError, ValueError):  # said where it is read
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """A key that a flag, or part of its value, says, and what it says there."""

    flag: str
    keys: Keys
    part: str = ""
    value: Any = None

    @property
    def text(self) -> str:
        return f"{self.flag} {self.part}".rstrip()


def _flagged(flag: str, option: str, value: Any) -> Iterator[_Word]:
    for i, keys in enumerate(keys_said(option, value)):
        whole = keys == PLAN or (option in KEYS and keys == KEYS[option].key)
        whole |= option == "plan" and keys[-1] not in _FIXED
        own = value
        if option == "slos":
            own = parse_slo(value[i]).limit
        elif option == "fix":
            own = parse_pairs(value)[i][1]
        yield _Word(flag=flag, keys=keys, part="" if whole else str(keys[-1]), value=own)


def _refuse(word: _Word, others: Sequence[_Word], more: Sequence[Rivals]) -> None:
    against = [
        other.text
        for other in others
        if other.flag != word.flag
        and (_same(word.keys, other.keys) or _contradict(word.keys, other.keys, more))
    ]
    if against:
        given = " and ".join(dict.fromkeys(against)) + (" are" if len(set(against)) > 1 else " is")
        raise InputError(f"{word.text}: {given} given too, keep one of them")


def _plain(keys: Keys) -> Keys:
    """The key with an axis, or an SLO, in the one of its words that is used here."""
    if keys[:2] in (("constraints", "fix"), ("constraints", "forbid")) and len(keys) > 2:
        return (*keys[:2], spellings(str(keys[2]))[0], *keys[3:])
    if keys[:1] == ("slos",) and len(keys) == 2:
        return _of_slo(str(keys[1]))
    return keys


def _same(one: Keys, other: Keys) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def _contradict(one: Keys, other: Keys, more: Sequence[Rivals]) -> bool:
    for rivals in (*RIVALS, *more):
        ours, theirs = (_sides(rivals, keys) for keys in (one, other))
        if rivals.exclusive and ours and theirs and not ours & theirs:
            return True
    return False


def _sides(rivals: Rivals, keys: Keys) -> set[int]:
    """Sides that have the key, or one that it is within."""
    return {i for i, side in enumerate(rivals.sides) if any(keys[: len(key)] == key for key in side)}


def keys_said(option: str, value: Any) -> Iterator[Keys]:
    """Keys of which the value of an option is.

    Examples
    --------
    >>> list(keys_said("fix", "attn_tp=2,kv=fp8"))
    [('constraints', 'fix', 'tp'), ('constraints', 'fix', 'kv')]
    >>> list(keys_said("slos", ("tpot_p95.0<=1s",)))
    [('slos', 'tpot_p95')]
    """
    try:
        if option == "plan":
            yield PLAN
            axes = parse_pairs(value) if value else ()
            named = (each for axis, _ in axes for each in together(axis))
            yield from (("constraints", "fix", spellings(axis)[0]) for axis in named)
        elif option in ("fix", "forbid"):
            axes = parse_pairs(value) if value else ()
            yield from ((*KEYS[option].key, spellings(axis)[0]) for axis, _ in axes)
        elif option == "slos":
            yield from (("slos", parse_slo(text).name) for text in value or ())
        elif option == "formats":
            yield from (
                ("formats", part.partition("=")[0].strip()) for part in (value or "").split(",") if part
            )
        elif option in KEYS:
            yield KEYS[option].key
    except InputError:  # said where the option is read
        return


def keys_varied(options: Mapping[str, Any]) -> Iterator[tuple[str, Keys, list[str]]]:
    """Axes of ``--vary``, their keys and values, but for factors: these are of what is asked otherwise.

    Examples
    --------
    >>> list(keys_varied({"vary": ("rate=x1,x2", "attn_tp=1,2")}))
    [('attn_tp', ('constraints', 'fix', 'tp'), ['1', '2'])]
    """
    if "plan" in options:  # zenith bound varies by factors alone
        return
    for text in options.get("vary") or ():
        name, _, values = (part.strip() for part in text.partition("="))
        if name != "rate" or not values.startswith("x"):
            yield name, _varied(name), [value.strip() for value in values.split(",")]


def _varied(name: str) -> Keys:
    """The key that an axis of ``--vary`` varies."""
    if name.startswith("slo."):
        return _of_slo(name.removeprefix("slo."))
    return _VARIED.get(name, ("constraints", "fix", spellings(name)[0]))


def _of_slo(metric: str) -> Keys:
    """The key of a metric and its statistic."""
    some = f"{metric}<=1{'W' if metric == 'power_mean' else 's'}"
    return next(keys_said("slos", (some,)), ("slos", metric))


def give_way(
    document: Document, given: Keys, *, only_of_file: bool = False, more: Sequence[Rivals] = ()
) -> None:
    """Drop the keys that contradict one that is given now; of ``--set`` the earlier ones stay, and clash."""
    if given[:2] == ("constraints", "fix"):  # ``--plan`` says axes that the file may fix
        for word in spellings(str(given[-1])):
            if document.place((*given[:2], word)) != SET:
                document.drop((*given[:2], word))
    for rivals in (*RIVALS, *more):
        mine = [
            side for side in rivals.sides if any(given[: len(key)] == key or key == given for key in side)
        ]
        if not mine or not rivals.yields:
            continue
        for side in rivals.sides:
            for key in side:
                if key not in mine[0] and not (only_of_file and document.places.get(key) == SET):
                    document.drop(key)
