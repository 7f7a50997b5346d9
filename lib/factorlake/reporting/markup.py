"""HTML that is escaped by construction: text becomes markup only through ``tag`` and ``join``."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = {"meta", "br", "hr", "col", "img"}


class Html(str):
    """Text that is already markup. Everything else is escaped where it enters a tag."""

    __slots__ = ()


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """Return one element. Children that are not ``Html`` are escaped; None and "" are left out.

    Attributes: ``class_`` is class, other underscores become hyphens, None leaves the attribute out, values
    are escaped and quoted.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{join(children)}</{element}>")


def join(parts: Iterable[object]) -> Html:
    """Return the parts one after the other, each escaped unless it is ``Html``."""
    kept = (part for part in parts if part is not None)
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part), quote=False) for part in kept))


def name(text: str) -> Html:
    """Return a foreign name, isolated so that its writing direction does not turn the text around it."""
    return tag("bdi", text)


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    numeric: Sequence[int] = (),
    limit: int = 200,
    rest: str = "",
) -> Html:
    """Return a table with a caption, column heads and a row head in the first column.

    ``numeric`` names the columns set flush right. At most ``limit`` rows are written, then one that says how
    many more there are and where (``rest``). No rows give an empty text.
    """
    body = [tuple(row) for row in rows]
    if not body:
        return Html("")

    def cell(position: int, content: object) -> Html:
        kind = "n" if position in numeric else None
        if position == 0:
            return tag("th", content, scope="row", class_=kind)
        return tag("td", content, class_=kind)

    lines = [tag("tr", *(cell(at, content) for at, content in enumerate(row))) for row in body[:limit]]
    if len(body) > limit:
        lines.append(tag("tr", tag("td", f"and {len(body) - limit:,} more{rest}", colspan=len(heads))))
    kinds = ("n" if at in numeric else None for at in range(len(heads)))
    head = (tag("th", text, scope="col", class_=kind) for text, kind in zip(heads, kinds, strict=True))
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *lines))
    # On a phone a wide table scrolls in a frame of its own, which must be reachable by keyboard.
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def captioned(picture: Html, caption: str) -> Html:
    """Return a figure with its caption, or empty markup when there is no picture."""
    return tag("figure", picture, tag("figcaption", caption)) if picture else Html("")


def section(title: str, lead: str | None, *parts: object) -> Html:
    """Return a section of the page: heading, one or two sentences, content."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else None, *parts)
