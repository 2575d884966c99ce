"""Writes a statement such that SQLAlchemy's `text()` finds its parameters, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from onegov_orm._lexer import Token

#: A colon there is part of a cast, or of a slice, or was escaped already.
_NO_PARAMETER_BEHIND = re.compile(r"[:\w$\\]")
_BREAK = re.compile(r"[^\S\n]*\n")


class Bindable(NamedTuple):
    """A text for `text()`, and the names of its parameters."""

    text: str
    parameters: frozenset[str]


def bindable(query: str, statement: Sequence[Token]) -> Bindable:
    """Return the statement without its comments; only a parameter has a colon that counts."""
    parts: list[str] = []
    names: set[str] = set()
    blank = ""
    position = statement[0].start
    for number, token in enumerate(statement):
        blank += query[position : token.start]
        position = token.end
        if token.kind == "comment":
            # What it stood between stays apart.
            blank += " "
            continue
        parts.append(_BREAK.sub("\n", blank))
        blank = ""
        name = _parameter(query, statement, number)
        if name is not None:
            names.add(name)
        parts.append(token.text if name is not None else _escaped(query, token))
    return Bindable("".join(parts).strip(), frozenset(names))


def _parameter(query: str, statement: Sequence[Token], number: int) -> str | None:
    """Return the name of the parameter that begins with this colon, if it is one."""
    token = statement[number]
    following = statement[number + 1] if number + 1 < len(statement) else None
    if token.text != ":" or following is None or following.kind != "word":
        return None
    # SQLAlchemy's versions do not agree on names with a dollar sign.
    is_name = following.start == token.end and "$" not in following.text
    if not is_name or _NO_PARAMETER_BEHIND.match(query, token.start - 1):
        return None
    return following.text


def _escaped(query: str, token: Token) -> str:
    # Who is used to text() may have written the backslash.
    if token.text == ":" and query[token.start - 1 : token.start] == "\\":
        return ":"
    return token.text.replace(":", r"\:")
