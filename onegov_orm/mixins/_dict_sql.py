"""What a value inside of a JSON column is in SQL, by its Python type.

The texts are those of `onegov_orm._serializers`. What does not look like a value of the type is
NULL: one odd row must not end a query of a thousand.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from markupsafe import Markup
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Date,
    Double,
    Numeric,
    Text,
    Time,
    TypeDecorator,
    case,
    cast,
    func,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnClause
from sqlalchemy.types import TypeEngine

from onegov_orm import types
from onegov_orm._sql import quote_literal

_dialect: Any = postgresql.dialect
_SERVER: Final = _dialect()

_NUMBER: Final = "^-?[0-9]+(?:[.][0-9]+)?$"
_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK: Final = "[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.][0-9]+)?)?"
_OFFSET: Final = "(?:Z|[+-][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)"
_MARK: Final = "__[A-Za-z]+__@"


class WholeNumber(TypeDecorator[Any]):
    """A whole number of any size, as Python and JSON have them."""

    impl = Numeric
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Give the server what Python would compare with, to the last digit."""
        return Decimal(repr(value)) if isinstance(value, float) else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Return a whole number, if it is one; a quotient may be none."""
        return int(value) if value is not None and value == value.to_integral_value() else value


@dataclass(frozen=True)
class Scalar:
    """How a value is read from the text of what is stored, and how it is written as JSON."""

    sql_type: type[TypeEngine[Any]]
    #: What the text looks like; its first group, if any, is the value.
    pattern: str | None = None
    #: The name of the serializer, for what JSON has no form for.
    mark: str | None = None
    #: How the server writes a value after the mark.
    layout: str | None = None

    def read(self, text: ColumnElement[str]) -> ColumnElement[Any]:
        """Return the value of a text, NULL for one that looks different."""
        if self.pattern is None:
            # A text that begins like a mark is stored behind another.
            pattern = inlined(f"^__str__@(?={_MARK})")
            return func.regexp_replace(text, pattern, inlined(""), type_=self.sql_type())
        # SQLAlchemy names a CAST after what is in there, and an operator after the property.
        kind = self.sql_type()
        name: Any = Inlined(kind.compile(dialect=_SERVER), is_literal=True)
        return func.substring(text, inlined(self.pattern)).op("::", return_type=kind)(name)

    def write(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the JSON of an expression, as Python would have written it."""
        if self.pattern is None:
            escaped = inlined("__str__@").concat(value)
            starts_like_mark = value.regexp_match(inlined(f"^{_MARK}"))
            return func.to_jsonb(cast(case((starts_like_mark, escaped), else_=value), Text))
        if self.mark is None:
            return func.to_jsonb(value)
        if self.sql_type is types.UTCDateTime:
            value = func.timezone(inlined("UTC"), value)
        text = func.to_char(value, inlined(self.layout)) if self.layout else cast(value, Text)
        return func.to_jsonb(inlined(f"__{self.mark}__@").concat(text))


SCALARS: Final[Mapping[type, Scalar]] = MappingProxyType(
    {
        bool: Scalar(Boolean, "^(?:true|false)$"),
        int: Scalar(WholeNumber, _NUMBER),
        float: Scalar(Double, "^-?[0-9]{1,255}[0-9]{0,54}(?:[.][0-9]+)?$"),
        Markup: Scalar(types.MarkupText),
        str: Scalar(Text),
        Decimal: Scalar(
            Numeric,
            "^(?:__decimal__@)?(-?[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]{1,5})?)$",
            mark="decimal",
        ),
        datetime: Scalar(
            types.UTCDateTime,
            f"^__datetime__@({_DAY}T{_CLOCK}{_OFFSET})$",
            mark="datetime",
            layout='YYYY-MM-DD"T"HH24:MI:SS.US"Z"',
        ),
        date: Scalar(Date, f"^__date__@({_DAY})$", mark="date", layout="YYYY-MM-DD"),
        time: Scalar(Time, f"^__time__@({_CLOCK})$", mark="time"),
        uuid.UUID: Scalar(
            types.UUID,
            "^(?:__uuid__@)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$",
            mark="uuid",
        ),
    }
)


class Inlined(ColumnClause[str]):
    """A text that stands in the statement: the same wherever it is grouped by, or indexed.

    SQLAlchemy looks for the columns of an index, and takes a literal column for one.
    """

    __visit_name__ = "onegov_orm_inlined"
    inherit_cache = True


@compiles(Inlined)
def _compile_inlined(text: Inlined, compiler: SQLCompiler, **options: Any) -> str:
    as_column: Any = compiler.visit_column
    return str(as_column(text, **options))


def inlined(text: str) -> ColumnElement[str]:
    """Return a text as a part of the statement."""
    quoted = quote_literal(text)
    if "%" in quoted:
        # It might be taken for the beginning of a parameter.
        quoted = f"E{quoted.removeprefix('E')}".replace("%", "\\x25")
    return Inlined(quoted, Text(), is_literal=True)


def scalar_of(value_type: Any) -> Scalar | None:
    """Return how values of a type are stored, None for what is compared as JSON."""
    bases = getattr(value_type, "__mro__", ())
    return next((SCALARS[base] for base in bases if base in SCALARS), None)
