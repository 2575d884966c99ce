"""Reads the columns that a query selects: their names, and the comments that tell their types."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Final, NamedTuple

from onegov_orm._lexer import Token
from onegov_orm._selecting.select_list import CLOSING, Entry, entries_of, word_of, words
from onegov_orm.errors import SelectableError

#: After these words the expression goes on: what follows is no name for it.
_GOES_ON: Final = words(
    "all and any array as at between bit char character collate distinct double else escape from"
    " ilike in interval is like local national nchar not operator or over similar some symmetric"
    " then time to varying when with without zone"
)

#: What belongs to the expression when it stands at its end.
_NO_NAMES: Final = words(
    "array day document end false hour isnull json local minute month normalized notnull null"
    " precision second true unknown varying within year zone"
)

_FOLDED: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class Column(NamedTuple):
    """A column that a query selects."""

    name: str
    #: What the comment behind it says.
    comment: str
    #: As it is written, and where.
    text: str
    line: int


def columns_of(query: str, statement: Sequence[Token]) -> list[Column]:
    """Return the columns of a SELECT; raises `SelectableError` for those without name or type."""
    code = [token for token in statement if token.kind != "comment"]
    comments = [token for token in statement if token.kind == "comment"]
    columns = [_column(query, entry, comments) for entry in entries_of(code)]
    seen: set[str] = set()
    for column in columns:
        if column.name in seen:
            reason = f'another column is called "{column.name}" too: rename one of them with AS'
            raise SelectableError(reason, column.text, column.line)
        seen.add(column.name)
    return columns


def _column(query: str, entry: Entry, comments: Sequence[Token]) -> Column:
    if not entry.tokens:
        raise SelectableError(
            "a column is missing in the select list: take the comma away, or write the column",
            line=_line(query, entry.behind.start) if entry.behind else None,
        )
    first, last = entry.tokens[0], entry.tokens[-1]
    text = " ".join(query[first.start : last.end].split())
    line = _line(query, first.start)
    name = _name(entry.tokens)
    if name is None:
        mending = (
            "write the columns out, each with its type"
            if last.text == "*"
            else f"write {text} AS name"
        )
        raise SelectableError(f"the column has no name: {mending}", text, line)
    comment = _comment(query, entry, comments)
    if not comment:
        raise SelectableError(
            "no comment tells the type of this column: write one behind it on the same line, as "
            f"in `{name},  -- Text`",
            text,
            line,
        )
    return Column(name, comment, text, line)


def _comment(query: str, entry: Entry, comments: Sequence[Token]) -> str:
    """Return the comment on the entry's last line, or on that of the comma behind it."""
    last = entry.tokens[-1]
    lines = {_line(query, last.end)}
    if entry.behind is not None and entry.behind.text == ",":
        lines.add(_line(query, entry.behind.start))
    found = [
        comment.text
        for comment in comments
        if last.end <= comment.start < entry.limit and _line(query, comment.start) in lines
    ]
    # In the midst of a line, a block comment may be about anything.
    for text in found:
        if text.startswith("--"):
            return text[2:].strip()
    return found[0].removeprefix("/*").removesuffix("*/").strip() if found else ""


def _name(entry: Sequence[Token]) -> str | None:
    """Return the name of a column, None for an expression that has none."""
    *others, last = entry
    if last.kind not in ("word", "name"):
        return None
    if not others:
        return _identifier(last) if word_of(last) not in _NO_NAMES else None
    before = others[-1]
    is_named = (
        word_of(before) == "as"
        or (before.text == "." and _is_dotted(entry))
        or (_ends_operand(before) and before.end < last.start and word_of(last) not in _NO_NAMES)
    )
    return _identifier(last) if is_named else None


def _is_dotted(entry: Sequence[Token]) -> bool:
    """Tell whether this is a column of a table, which may be of a schema."""
    names, dots = entry[::2], entry[1::2]
    return all(each.kind in ("word", "name") for each in names) and all(
        each.text == "." for each in dots
    )


def _ends_operand(token: Token) -> bool:
    if token.kind == "word":
        return word_of(token) not in _GOES_ON
    return token.kind in ("literal", "number", "name") or token.text in CLOSING


def _identifier(token: Token) -> str:
    """Return a name as the server has it: without quotes it is in lower case."""
    if token.kind == "name":
        return token.text[1:-1].replace('""', '"')
    return token.text.translate(_FOLDED)


def _line(query: str, position: int) -> int:
    return query.count("\n", 0, position) + 1
