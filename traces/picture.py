"""A trace as a picture for a terminal of 80 columns."""

from collections.abc import Iterator
from itertools import zip_longest

from traces.describe import Description, Lengths

WIDTH = 80
CHART_ROWS = 6
BAR_WIDTH = 20
BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " ...:::##"
BARS, ASCII_BARS = " ▏▎▍▌▋▊▉█", "     ####"
FRAME, ASCII_FRAME = "┤│└─", "|||-"
CYAN, BOLD, FAINT = "36", "1", "2"


def to_text(figures: Description, *, name: str, form: str, colour: bool = False, unicode: bool = True) -> str:
    """The picture: rates over time, burstiness, lengths.

    Parameters
    ----------
    name, form
        Of the trace and of its format, for the first line.
    colour, unicode
        Escape codes of colours, and characters beyond ASCII, may be used.
    """

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and text.strip() else text

    rate = "all at once" if figures.rate_per_s is None else (
        f"in {_seconds(figures.duration_s)}, {figures.rate_per_s:.3g} requests/s"
    )  # fmt: skip
    title = f": {form}, {figures.requests:,} requests {rate}"
    lines = [paint(_fit(name, WIDTH - len(title), unicode) + title, BOLD)]
    if figures.rates:
        lines += ["", paint(f"requests/s, a column is {figures.slot_s:.3g} s", BOLD)]
        frame = FRAME if unicode else ASCII_FRAME
        peak = max(figures.rates)
        for at, cells in enumerate(chart(figures.rates, CHART_ROWS, BLOCKS if unicode else ASCII_BLOCKS)):
            label, edge = (f"{peak:.3g}", frame[0]) if at == 0 else ("", frame[1])
            lines.append(paint(f"{label:>8} {edge}", FAINT) + paint(cells, CYAN))
        lines.append(paint(f"{'0':>8} {frame[2]}{frame[3] * len(figures.rates)}", FAINT))
        end = _seconds(figures.duration_s)
        lines.append(paint(f"{'':10}0 s{end:>{len(figures.rates) - 3}}", FAINT))
    if figures.gap_cv is not None:
        counts = [f"counts {width}" for width in figures.dispersion]
        values = (figures.gap_cv, *figures.dispersion.values())
        head = f"{'burstiness':<12}" + "".join(f"{word:>13}" for word in ("gaps", *counts))
        row = f"{'Poisson: 1':<12}" + "".join(f"{value:>13.3g}" for value in values)
        lines += ["", paint(head, BOLD), row]
    lines += ["", paint(_table_head(figures.prompt), BOLD)]
    lines += [_table_row("prompt", figures.prompt), _table_row("output", figures.output), ""]
    lines.append(paint(f"{'prompt tokens from':<40}output tokens from", BOLD))
    bars = BARS if unicode else ASCII_BARS
    blank = (" " * 32, "", "")
    for pair in zip_longest(_bars(figures.prompt, bars), _bars(figures.output, bars), fillvalue=blank):
        left, right = (edge + paint(bar, CYAN) + share for edge, bar, share in pair)
        lines.append(f"{left}{'':8}{right}")
    if figures.shared_prefix is not None:
        share = f"{figures.shared_prefix:.0%} of prompt tokens lie in prefix blocks seen before"
        lines += ["", paint("prefixes", BOLD) + f"    {share}"]
    return "\n".join(line.rstrip() for line in lines)


def chart(values: tuple[float, ...], rows: int, blocks: str) -> Iterator[str]:
    """Columns as high as the values, the largest as high as all rows; from the top row down.

    Examples
    --------
    >>> list(chart((0.0, 1.0, 3.0, 4.0), 2, BLOCKS))
    ['  ▄█', ' ▄██']
    """
    full = len(blocks) - 1
    top = max(values) or 1.0
    heights = [round(value / top * rows * full) or int(value > 0) for value in values]
    for row in reversed(range(rows)):
        yield "".join(blocks[min(max(height - row * full, 0), full)] for height in heights)


def _bars(lengths: Lengths, marks: str) -> Iterator[tuple[str, str, str]]:
    """Label, bar and share of each range of lengths: 32 columns in all."""
    full = len(marks) - 1
    top = max(count for _, count in lengths.histogram)
    total = sum(count for _, count in lengths.histogram)
    for edge, count in lengths.histogram:
        eighths = round(count / top * BAR_WIDTH * full) or int(count > 0)
        share = f"{count / total:>5.0%}" if count == 0 or count / total >= 0.005 else "  <1%"
        bar = marks[full] * (eighths // full) + (marks[eighths % full] if eighths % full else "")
        yield f"{_short(edge):>6} ", f"{bar:<{BAR_WIDTH}}", share


def _short(edge: int) -> str:
    """A power of two, short: 512, 4k, 2M."""
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if edge >= unit:
            return f"{edge // unit}{name}"
    return str(edge)


def _seconds(duration_s: float) -> str:
    return f"{duration_s:,.0f} s" if duration_s >= 100 else f"{duration_s:.3g} s"


def _table_head(lengths: Lengths) -> str:
    return "tokens  " + "".join(f"{word:>9}" for word in ("mean", "sd", *_percentiles(lengths), "max"))


def _table_row(name: str, lengths: Lengths) -> str:
    values = (lengths.mean, lengths.sd, *_percentiles(lengths).values(), float(lengths.most))
    return f"{name:<8}" + "".join(f"{value:>9{',.0f' if value < 1e6 else '.3g'}}" for value in values)


def _percentiles(lengths: Lengths) -> dict[str, float]:
    return {name: lengths.percentiles[name] for name in ("p10", "p50", "p90", "p95", "p99")}


def _fit(name: str, columns: int, unicode: bool) -> str:
    if not unicode:
        name = name.encode("ascii", "replace").decode()
    return name if len(name) <= columns else "..." + name[-max(columns - 3, 0) :]
