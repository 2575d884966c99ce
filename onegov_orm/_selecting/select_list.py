"""Finds the entries of the select list in the text of a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from onegov_orm._lexer import Token, tokens
from onegov_orm.errors import SelectableError


def words(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case."""
    return frozenset(text.split())


#: What ends the list, unless it is a name or part of an expression.
_ENDS: Final = words(
    "from into where group having window order limit offset fetch for union intersect except"
)

_OPENING: Final = frozenset("([")
CLOSING: Final = frozenset(")]")


class Entry(NamedTuple):
    """What stands between two commas of the list."""

    tokens: Sequence[Token]
    #: The comma behind it, or else what ends the list; None at the end of the text.
    behind: Token | None
    #: Where the comments end that are about this entry.
    limit: float


def statement_of(query: str) -> list[Token]:
    """Return the tokens of the only statement in a text; raises `SelectableError` for several."""
    statements: list[list[Token]] = [[]]
    for token in tokens(query):
        if token.text == ";":
            statements.append([])
        else:
            statements[-1].append(token)
    found = [each for each in statements if any(token.kind != "comment" for token in each)]
    if len(found) != 1:
        raise SelectableError(
            "a selectable is one SELECT, and this text has "
            f"{len(found) or 'no'} statements: run the others by themselves"
        )
    return found[0]


def entries_of(code: Sequence[Token]) -> list[Entry]:
    """Return the entries of the select list that the result has its names from."""
    entries: list[Entry] = []
    begin = _list_start(code)
    end = len(code)
    depth = 0
    for position in range(begin, len(code)):
        change = _nesting(code, position)
        if depth + change < 0 or (depth == 0 and _is_end(code, position)):
            end = position
            break
        if depth == 0 and code[position].text == ",":
            limit = code[position + 1].start if position + 1 < len(code) else math.inf
            entries.append(Entry(code[begin:position], code[position], limit))
            begin = position + 1
        depth += change
    behind = code[end] if end < len(code) else None
    entries.append(Entry(code[begin:end], behind, behind.start if behind else math.inf))
    return entries


def _list_start(code: Sequence[Token]) -> int:
    """Return where the list of the outermost SELECT begins, that of the first one of a UNION."""
    position = 0
    while position < len(code):
        if code[position].text == "(":
            position += 1
        elif word_of(code[position]) == "with":
            position = _behind_with(code, position)
        else:
            break
    if position == len(code) or word_of(code[position]) != "select":
        raise SelectableError("this is no SELECT: only what a SELECT returns can be selected from")
    position += 1
    if _word_at(code, position) == "all":
        return position + 1
    if _word_at(code, position) != "distinct":
        return position
    if _word_at(code, position + 1) != "on":
        return position + 1
    return _behind_bracket(code, position + 2)


def _behind_with(code: Sequence[Token], position: int) -> int:
    """Return where the query begins behind its WITH."""
    position += 1
    while position < len(code):
        if code[position].text == "(":
            position = _behind_bracket(code, position)
            # A name for the next query, the query of a name, or how it is searched.
            if _word_at(code, position) not in ("as", "search", "cycle", ","):
                break
        elif word_of(code[position]) == "select":
            break
        else:
            position += 1
    return position


def _behind_bracket(code: Sequence[Token], position: int) -> int:
    depth = 0
    while position < len(code):
        depth += _nesting(code, position)
        position += 1
        if depth == 0:
            break
    return position


def _nesting(code: Sequence[Token], position: int) -> int:
    """Return 1 for what opens a part of an expression, -1 for what closes it, else 0."""
    token = code[position]
    if token.text in _OPENING:
        return 1
    if token.text in CLOSING:
        return -1
    if _is_name(code, position):
        return 0
    return {"case": 1, "end": -1}.get(word_of(token), 0)


def _is_end(code: Sequence[Token], position: int) -> bool:
    word = word_of(code[position])
    if word not in _ENDS or _is_name(code, position):
        return False
    before = _word_at(code, position - 1)
    # IS DISTINCT FROM compares, and WITHIN GROUP belongs to an aggregate.
    return (before, word) not in (("distinct", "from"), ("within", "group"))


def _is_name(code: Sequence[Token], position: int) -> bool:
    """Tell whether a word is a name by where it stands, whatever it means elsewhere."""
    return position > 0 and (code[position - 1].text == "." or word_of(code[position - 1]) == "as")


def word_of(token: Token) -> str:
    """Return the word in lower case, an empty text for what is none."""
    return token.text.lower() if token.kind == "word" else ""


def _word_at(code: Sequence[Token], position: int) -> str:
    """Return the word or sign there, and nothing outside of the text."""
    if not 0 <= position < len(code):
        return ""
    token = code[position]
    return token.text if token.kind == "sign" else word_of(token)
