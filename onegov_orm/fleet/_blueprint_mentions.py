"""Finds where a structure names its own schema, so that a copy would use the original.

What the server has parsed, it writes without the schema. Left are texts: the bodies of
functions, and string literals. There a name counts as a reference where it leads to an object
that is there, or to the search path, or where a statement is put together at run time. Where
it is only a value, such as the customer's name, it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from onegov_orm.errors import PointsBack
from onegov_orm.fleet.blueprint import Blueprint, Piece

_LITERAL: Final = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL
)

#: With one of these, a function makes a reference out of a text.
_DYNAMIC: Final = re.compile(
    r"\bexecute\b|\bformat\s*\(|\bquote_ident\b|\breg(?:class|proc|procedure|type|namespace)\b"
    r"|\bdblink|\bquery_to_xml|\btable_to_xml|\bcursor_to_xml",
    re.IGNORECASE,
)
_PATH: Final = re.compile(r"search_path|\bset\s+schema\b", re.IGNORECASE)

_ROUTINES: Final = ("function",)


def refuse_mentions(blueprint: Blueprint) -> None:
    """Raise `PointsBack` if the structure names its schema where that matters."""
    finder = _Finder(blueprint)
    places = [f"{piece.kind} {piece.name}" for piece in blueprint.pieces if finder.is_in(piece)]
    if places:
        raise PointsBack(blueprint.schema, places)


class _Finder:
    """Knows how references to one schema look."""

    def __init__(self, blueprint: Blueprint) -> None:
        schema = re.escape(blueprint.schema)
        self._names = {name.casefold() for name in _object_names(blueprint)}
        #: The schema's name and a dot, and what follows.
        self._qualified = re.compile(
            rf"""(?<![\w$"])(?:{schema}|"{schema}")\s*\.\s*(?:([^\W\d][\w$]*)|"((?:[^"]|"")+)")""",
            re.IGNORECASE,
        )
        self._whole = re.compile(rf"""(?:'|")\s*"?{schema}"?\s*(?:'|")""", re.IGNORECASE)
        self._word = re.compile(rf"(?<![\w$-]){schema}(?![\w$-])", re.IGNORECASE)

    def is_in(self, piece: Piece) -> bool:
        """Tell whether a piece refers to the schema."""
        if piece.kind == "comment":
            return False
        if piece.kind in _ROUTINES:
            return any(self._is_in_routine(sql) for sql in piece.statements)
        literals = (found.group() for sql in piece.statements for found in _LITERAL.finditer(sql))
        return any(self._refers(text) for text in literals if not text.startswith('"'))

    def _is_in_routine(self, sql: str) -> bool:
        if self._refers(sql):
            return True
        if _PATH.search(sql) is not None and self._word.search(sql) is not None:
            return True
        return _DYNAMIC.search(sql) is not None and self._whole.search(sql) is not None

    def _refers(self, text: str) -> bool:
        return any(
            name.casefold() in self._names
            for bare, quoted in self._qualified.findall(text)
            # Inside a literal, quotes stand twice. A dollar sign may end what stands in dollars.
            for name in (bare, bare.partition("$")[0], quoted.replace('""', '"'))
        )


def _object_names(blueprint: Blueprint) -> Iterator[str]:
    """Yield the names that may follow the schema's."""
    for piece in blueprint.pieces:
        # A function's name comes with the types of its arguments.
        name = (
            piece.name.partition("(")[0] if piece.kind in ("function", "aggregate") else piece.name
        )
        yield name.strip('"').replace('""', '"')
    yield from blueprint.sequences
