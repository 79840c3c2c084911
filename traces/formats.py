"""The trace formats, told by the names of their columns or keys, never by a flag or a file name.

==========  ===========================================================  =========================
format      a file has                                                   arrival
==========  ===========================================================  =========================
zenith      ``arrival_s,prompt_tokens,output_tokens`` and, where         seconds
            prefixes are known, ``prefix_512``: hashes of its blocks
            of 512 tokens, separated by spaces
azure       ``TIMESTAMP,ContextTokens,GeneratedTokens`` (2023, 2024)     date and time, with or
                                                                         without an offset from
                                                                         UTC; the first is 0
burstgpt    ``Timestamp``, ``Request tokens``, ``Response tokens``;      seconds
            ``Model``, ``Session ID`` and others are not read
apex        JSON lines with ``StartTimeOffset``, ``ContextTokens``,      nanoseconds
            ``GeneratedTokens``
mooncake    JSON lines with ``timestamp``, ``input_length``,             milliseconds
            ``output_length``, ``hash_ids`` (blocks of 512 tokens)
==========  ===========================================================  =========================

Sources: Azure/AzurePublicDataset (AzureLLMInferenceDataset2023.md, 2024.md), HPMLL/BurstGPT (README; a failed
request has 0 response tokens), microsoft/apex_plus (evaluation traces), kvcache-ai/Mooncake (FAST25-release).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

PREFIX_COLUMN = re.compile(r"prefix_([1-9]\d{0,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What the three columns that count are called, and the unit of arrival.

    Parameters
    ----------
    ticks_per_s
        Units of the arrival column in a second; of a wall clock: nanoseconds, counted from its first row.
    prefix
        Column of prefix blocks, None where there is none.
    zero_output
        What 0 output tokens mean there, said to the user.
    """

    name: str
    arrival: str
    prompt: str
    output: str
    ticks_per_s: float
    wall_clock: bool = False
    prefix: str | None = None
    prefix_block_tokens: int = 512
    zero_output: str = ""

    @property
    def fields(self) -> tuple[str, str, str]:
        return self.arrival, self.prompt, self.output


CSV_FORMATS = (
    Format(name="zenith", arrival="arrival_s", prompt="prompt_tokens", output="output_tokens", ticks_per_s=1),
    Format(name="azure", arrival="TIMESTAMP", prompt="ContextTokens", output="GeneratedTokens",
           ticks_per_s=1e9, wall_clock=True),
    Format(name="burstgpt", arrival="Timestamp", prompt="Request tokens", output="Response tokens",
           ticks_per_s=1, zero_output="a failed request"),
)  # fmt: skip
JSON_FORMATS = (
    Format(name="apex", arrival="StartTimeOffset", prompt="ContextTokens", output="GeneratedTokens",
           ticks_per_s=1e9),
    Format(name="mooncake", arrival="timestamp", prompt="input_length", output="output_length",
           ticks_per_s=1e3, prefix="hash_ids"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a CSV: its last line in the file, its names, the format with its names as spelled here.

    ``at`` are the positions of arrival, prompt and output, ``prefix_at`` that of the prefix blocks;
    ``twice`` is a needed column that is there twice, or empty.
    """

    line: int
    names: tuple[str, ...]
    form: Format
    at: tuple[int, int, int]
    prefix_at: int | None
    twice: str


def csv_header(names: Iterable[str], line: int = 1) -> Header | None:
    """What a header says, whatever its case and order; None when it is of no format of ours.

    Examples
    --------
    >>> header = csv_header(["Output_Tokens", "arrival_s", " prompt_tokens", "prefix_16"])
    >>> header.form.name, header.at, header.form.output, header.form.prefix_block_tokens
    ('zenith', (1, 2, 0), 'Output_Tokens', 16)
    >>> csv_header(["a", "b", "c"]) is None
    True
    """
    names = tuple(name.strip() for name in names)
    lower = [name.lower() for name in names]
    for form in CSV_FORMATS:
        if not all(field.lower() in lower for field in form.fields):
            continue
        arrival, prompt, output = at = tuple(lower.index(field.lower()) for field in form.fields)
        form = replace(form, arrival=names[arrival], prompt=names[prompt], output=names[output])
        prefix_at = None
        if form.name == "zenith":
            prefix_at = next((i for i, name in enumerate(lower) if PREFIX_COLUMN.fullmatch(name)), None)
        if prefix_at is not None:
            block_tokens = int(lower[prefix_at].removeprefix("prefix_"))
            form = replace(form, prefix=names[prefix_at], prefix_block_tokens=block_tokens)
        twice = next((names[i] for i in at if lower.count(lower[i]) > 1), "")
        return Header(
            line=line, names=names, form=form, at=(arrival, prompt, output), prefix_at=prefix_at, twice=twice
        )
    return None


def json_format(keys: Iterable[str]) -> Format | None:
    """The format of a JSON record by its keys; None when it is none of ours.

    Examples
    --------
    >>> json_format({"timestamp": 0, "input_length": 1, "output_length": 1}).name
    'mooncake'
    """
    present = set(keys)
    return next((form for form in JSON_FORMATS if present.issuperset(form.fields)), None)


def expected(formats: Iterable[Format]) -> str:
    """What a file may have, for messages.

    Examples
    --------
    >>> expected(JSON_FORMATS)
    'StartTimeOffset,ContextTokens,GeneratedTokens or timestamp,input_length,output_length'
    """
    return " or ".join(",".join(form.fields) for form in formats)
