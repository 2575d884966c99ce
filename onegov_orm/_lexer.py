"""Reads SQL text as the server does: which parts are comments and literals, and which count."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_E_STRING: Final = r"'(?:[^'\\]|\\.|'')*(?:'|\Z)"
_STRING: Final = r"'(?:[^']|'')*(?:'|\Z)"
#: A literal goes on after a line break, by the rules with which it began.
_CONTINUED: Final = r"(?:(?:\s|--[^\n\r]*)+{string})*"


def _pattern(plain: str) -> re.Pattern[str]:
    literals = (
        "[eE]" + _E_STRING + _CONTINUED.format(string=_E_STRING),
        plain + _CONTINUED.format(string=plain),
        r'"(?:[^"]|"")*(?:"|\Z)',
        r"\$(?P<tag>(?:[^\W\d][\w]*)?)\$.*?(?:\$(?P=tag)\$|\Z)",
    )
    return re.compile(
        r"(?P<comment>--[^\n\r]*)|(?P<nested>/\*)"
        rf"|(?P<literal>{'|'.join(literals)})"
        # A dollar sign inside a name begins no literal.
        r"|[^\W\d][\w$]*|\d+|.",
        re.DOTALL,
    )


_USUAL: Final = _pattern(_STRING)
#: With standard_conforming_strings off, a backslash escapes the next character.
_ESCAPING: Final = _pattern(_E_STRING)

_NESTING: Final = re.compile(r"/\*|\*/")


class Reading(NamedTuple):
    """A text without its comments."""

    text: str
    #: The statements, literals and quoted names left out.
    statements: tuple[str, ...]


def read(text: str, backslashes_escape: bool = False) -> Reading:
    """Read the text; a setting of the connection's decides what a backslash means there."""
    pattern = _ESCAPING if backslashes_escape else _USUAL
    uncommented: list[str] = []
    bare: list[str] = []
    position = 0
    # Any character is a token at least, so that there is no match at the end alone.
    while (match := pattern.match(text, position)) is not None:
        position = match.end()
        kind = match.lastgroup
        part = match.group()
        if kind == "nested":
            position = _end_of_comment(text, position)
        is_comment = kind in ("nested", "comment")
        uncommented.append(" " if is_comment else part)
        bare.append(" " if is_comment else "''" if kind in ("literal", "tag") else part)
    statements = "".join(bare).split(";")
    return Reading("".join(uncommented), tuple(each.strip() for each in statements))


def _end_of_comment(text: str, position: int) -> int:
    depth = 1
    while depth:
        match = _NESTING.search(text, position)
        if match is None:
            return len(text)
        position = match.end()
        depth += 1 if match.group() == "/*" else -1
    return position
