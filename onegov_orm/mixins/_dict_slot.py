"""The place of a key in a JSON column: what it holds in SQL, and how it is assigned to."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import escape
from sqlalchemy import JSON, ColumnElement, Text, cast, func, literal, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from onegov_orm.mixins._dict_sql import Scalar, inlined, scalar_of
from onegov_orm.types import MarkupText


def value_at(column: Any, key: str, default: Any, value_type: Any) -> ColumnElement[Any]:
    """Return what is at a key, as SQL; the default if the key or the whole value is missing."""
    scalar = scalar_of(value_type)
    if default is None and scalar is not None:
        return scalar.read(column.op("->>", return_type=Text())(inlined(key)))
    found = column.op("->", return_type=column.type)(inlined(key))
    if default is not None:
        # It stands in for a key that is missing, not for a null that was stored.
        found = func.coalesce(found, _json_of(column, default), type_=column.type)
    if scalar is not None:
        return scalar.read(found.op("#>>", return_type=Text())(inlined("{}")))
    return func.nullif(found, cast(inlined("null"), JSONB), type_=column.type)


def assignment(column: Any, key: str, value: Any, value_type: Any) -> tuple[Any, Any]:
    """Return what an UPDATE sets to assign a value, or an expression, to a key."""
    expression = _expression(value)
    if expression is not None:
        value = _json_of_expression(expression, value_type)
    else:
        value = cast(literal(value, column.type), JSONB)
    return Slot(column, inlined(key)), value


def escaped(value: Any) -> Any:
    """Return a value, or an expression, as markup: escaped unless it says that it is some."""
    expression = _expression(value)
    if expression is None:
        return None if value is None else escape(value)
    if isinstance(expression.type, MarkupText):
        return expression
    text = expression
    for character in "&<>'\"":
        text = func.replace(text, inlined(character), inlined(escape(character)))
    return type_coerce(text, MarkupText())


class Slot(FunctionElement[Any]):
    """A key of a JSON column, to be assigned to: several of one column can be, at once.

    After an UPDATE the session looks for the attributes of the columns that were set, and loads
    them anew. It finds that of a slot too, which has the hash of its column.
    """

    type = JSONB()
    inherit_cache = True

    def __eq__(self, other: object) -> Any:
        return self is other

    def __hash__(self) -> int:
        column, _ = self.clauses
        return hash(column)


@compiles(Slot)
def _compile_slot(slot: Slot, compiler: SQLCompiler, **options: Any) -> str:
    column, key = slot.clauses
    place = compiler.process(column, **{**options, "include_table": False})
    return f"{place}[{compiler.process(key)}]"


def _expression(value: Any) -> ColumnElement[Any] | None:
    """Return the expression that a value is, None for other values."""
    if hasattr(value, "__clause_element__"):
        value = value.__clause_element__()
    return value if isinstance(value, ColumnElement) else None


def _json_of(column: Any, value: Any) -> ColumnElement[Any]:
    """Return a value as the column's type writes it, as a part of the statement."""
    serializers = getattr(column.type, "serializers", None)
    structure = value if serializers is None else serializers.encode(value)
    return cast(inlined(json.dumps(structure)), JSONB)


def _json_of_expression(value: ColumnElement[Any], value_type: Any) -> ColumnElement[Any]:
    is_json = isinstance(getattr(value.type, "impl", value.type), JSON)
    scalar = None if is_json else scalar_of(value_type) or _scalar_of_expression(value)
    return func.to_jsonb(value) if scalar is None else scalar.write(value)


def _scalar_of_expression(value: ColumnElement[Any]) -> Scalar | None:
    try:
        return scalar_of(value.type.python_type)
    except NotImplementedError:
        return None
