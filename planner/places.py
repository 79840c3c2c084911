"""Where what is asked was said: a line of a question file, an override, or a flag; so that a mistake names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from planner.axes import spellings
from planner.document import SET, Document, Keys
from planner.errors import NoFeasiblePlan
from planner.file_keys import KEYS
from profiles.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What said each option.

    Parameters
    ----------
    document
        What the file and ``--set`` say.
    flags
        Options that are given as flags, with their words: ``{"gpus": "--gpus"}``.
    replaced
        Words of the command whose place its ``--vary`` takes.
    """

    document: Document = field(default_factory=lambda: Document(name=SET))
    flags: Mapping[str, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    def of(self, about: str) -> str:
        """Where an option of ``InputError.about`` was said, empty where it was not.

        Examples
        --------
        >>> from planner.document import read_document
        >>> places = Places(document=read_document("fleet:\\n  gpus: 4\\n", "q.yaml"), flags={"fix": "--fix"})
        >>> places.of("gpus"), places.of("fix/tp"), places.of("nodes")
        ('q.yaml:2: fleet.gpus', '--fix', '')
        """
        return self._of(about)[0]

    def _of(self, about: str) -> tuple[str, bool]:
        """The place, and whether all of ``about`` was said, or only the option that it would be in."""
        option, *inside = about.split("/")
        way, whole = self._way(option, inside)
        if option in self.flags and not (inside and whole):  # beside a flag there may be some of --set
            return self.flags[option], True
        return (self.document.at(way), whole) if way else ("", False)

    def _way(self, option: str, inside: list[str]) -> tuple[Keys, bool]:
        """As far as the document has it."""
        if option not in KEYS or self.document.get(KEYS[option].key) is None:
            return (), False
        way: Keys = KEYS[option].key
        for part in inside:
            words = (int(part),) if part.isdecimal() else spellings(part)
            said = [(*way, word) for word in words if self.document.get((*way, word)) is not None]
            if not said:
                return way, False
            way = said[0]
        return way, True

    @contextmanager
    def named(self, *, whole: bool = False) -> Iterator[None]:
        """Puts in front of an InputError where that was said which it is about: the first of its options that
        was said, at least in part. Of no one option, with ``whole``, it is the file's, or of what it and flags say
        together.
        """
        try:
            yield
        except InputError as error:
            name = self.document.name if whole and self.document.name != SET else ""
            other = f"{name} and flags" if name and self.flags else name
            said = [(*self._of(about), about) for about in error.about]
            said = sorted((each for each in said if each[0]), key=lambda each: not each[1])
            place, _, about = said[0] if said else (other, False, "")
            text = str(error)
            if not place or text.startswith(place):
                raise
            subject = about.rpartition("/")[2].replace("_", " ")  # that the place ends with
            raise InputError(f"{place}: {text.removeprefix(f'{subject}: ')}") from error
        except NoFeasiblePlan as error:
            where = [self._of(_about_clash(clash.constraint)) for clash in error.core]
            of_file = [place for place, found in where if found and place not in self.flags.values()]
            if not of_file:
                raise
            text = f"{error} Said by {' and '.join(dict.fromkeys(of_file))}."
            raise NoFeasiblePlan(text, core=error.core, relaxations=error.relaxations) from error


def _about_clash(constraint: str) -> str:
    """The option that a constraint of a core is of, as in ``InputError.about``.

    Examples
    --------
    >>> _about_clash("fix attn_tp=16"), _about_clash("max_gpus")
    ('fix/attn_tp', 'max_gpus')
    """
    name, _, axis = constraint.partition("=")[0].partition(" ")
    return f"{name}/{axis}" if axis else name
