"""HTML and SVG, built so that whatever is not markup is escaped."""

import html

VOID = ("img", "wbr")  # elements without a content, and so without an end


class Markup(str):
    """Text that is markup already; any other gets into a page escaped."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        content: what is in it, one after the other; what is not :class:`Markup` is escaped.
        attributes: an underscore stands for a hyphen, one at the end for nothing (``class_``).
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(content)}</{name}>")


def join(parts) -> Markup:
    """Parts one after the other; what is not :class:`Markup` is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(str(part)) for part in parts))
