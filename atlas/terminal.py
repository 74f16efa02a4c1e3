"""Text from elsewhere, as it may be shown to people."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""On one line, with what does not print escaped, as in `\n` and `\x1b`.

    A workspace's name may hold anything: raw it could move the cursor, recolour the terminal or turn the
    direction of writing, and make one row look like two.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
