"""Words that came from files and flags, made fit for a terminal."""


def printable(text: str) -> str:
    r"""The text with control and invisible characters as escapes: it stays on its line and moves no cursor.

    Examples
    --------
    >>> printable("chat\x1b[2J\nbest plan.csv")
    'chat\\x1b[2J\\nbest plan.csv'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
