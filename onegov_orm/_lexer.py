"""Reads SQL text as the server does: which parts are comments and literals, and which count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

_E_STRING: Final = r"'(?:[^'\\]|\\.|'')*(?:'|\Z)"
_STRING: Final = r"'(?:[^']|'')*(?:'|\Z)"
#: A literal goes on after a line break, by the rules with which it began. What stands between
#: can be read in one way only, else a line of dashes takes for ever.
_CONTINUED: Final = r"(?:(?:\s|--[^\n\r]*+)++{string})*"


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


#: A name is one in quotes, and a sign a single character.
Kind = Literal["comment", "literal", "name", "word", "number", "sign"]


class Token(NamedTuple):
    """A part of a text."""

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where the token ends."""
        return self.start + len(self.text)


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


def tokens(text: str) -> Iterator[Token]:
    """Yield the parts of a text, all but the spaces between them."""
    position = 0
    while (match := _USUAL.match(text, position)) is not None:
        start, position = match.span()
        if match.lastgroup == "nested":
            position = _end_of_comment(text, position)
        part = text[start:position]
        if not part.isspace():
            yield Token(_kind(match.lastgroup, part[0]), part, start)


def _kind(group: str | None, first: str) -> Kind:
    if group in ("nested", "comment"):
        return "comment"
    if group is not None:
        return "name" if first == '"' else "literal"
    if first.isdecimal():
        return "number"
    return "word" if first == "_" or first.isalnum() else "sign"


def _end_of_comment(text: str, position: int) -> int:
    depth = 1
    while depth:
        match = _NESTING.search(text, position)
        if match is None:
            return len(text)
        position = match.end()
        depth += 1 if match.group() == "/*" else -1
    return position
