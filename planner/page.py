"""Elements of a page: text is escaped because it is never markup; one way to write a table, a figure, a list."""

import re
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, tostring

from planner.printable import printable

Child = Element | str


def node(tag: str, *children: Child, **attributes: str) -> Element:
    """An element. Attribute names that Python keeps for itself end in ``_``; ``_`` inside stands for ``-``.

    Examples
    --------
    >>> tostring(node("p", "a < b ", node("b", "<i>"), class_="x"), encoding="unicode", method="html")
    '<p class="x">a &lt; b <b>&lt;i&gt;</b></p>'
    """
    element = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + printable(child)
        else:
            element.text = (element.text or "") + printable(child)
    return element


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Child]], *, ids: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> Element:  # fmt: skip
    """Rows whose first cell names them. Numbers stand at the right, and the names of columns of numbers."""
    lines = list(rows)
    numeric = [False, *(all(map(_number, column)) for column in list(zip(*lines, strict=True))[1:])]
    head = node(
        "tr",
        *(
            node("th", name, scope="col", **({"class": "n"} if right else {}))
            for name, right in zip(columns, numeric, strict=True)
        ),
    )
    body = []
    for i, cells in enumerate(lines):
        line = node("tr", node("th", cells[0], scope="row"))
        for cell in cells[1:]:
            line.append(node("td", cell, **({"class": "n"} if _number(cell) else {})))
        if ids:
            line.set("id", ids[i])
        if classes and classes[i]:
            line.set("class", classes[i])
        body.append(line)
    whole = node("table", node("caption", caption), node("thead", head), node("tbody", *body))
    return node("div", whole, class_="wide", tabindex="0", role="region", aria_label=caption)


def _number(cell: Child) -> bool:
    """A number alone or with its unit."""
    return isinstance(cell, str) and re.fullmatch(r"-?[\d.,]+( ?\S+)?|n/a", cell) is not None


def pairs(rows: Iterable[tuple[str, str]]) -> Element:
    """Names and what is said of them; an empty name continues the one before."""
    whole = node("dl")
    for name, words in rows:
        if name:
            whole.append(node("dt", name))
        whole.append(node("dd", words))
    return whole


def section(name: str, title: str, *children: Child) -> Element:
    return node("section", node("h2", title, id=f"{name}-h"), *children, id=name, aria_labelledby=f"{name}-h")


def figure(*children: Child, caption: str) -> Element:
    return node("figure", *children, node("figcaption", caption))


def folded(title: str, *children: Child) -> Element:
    return node("details", node("summary", title), *children)


def document(title: str, style: str, *children: Child) -> str:
    """A page that may load nothing and run nothing, whatever stands in it."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=policy),
        node("meta", name="viewport", content="width=device-width,initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("title", title),
    )
    sheet = Element("style")
    sheet.text = style
    head.append(sheet)
    whole = node("html", head, node("body", *children), lang="en")
    return "<!DOCTYPE html>\n" + tostring(whole, encoding="unicode", method="html") + "\n"


__all__ = ["Element", "document", "figure", "folded", "node", "pairs", "section", "table"]
