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
_MARK: Final = "__[A-Za-z]+__@"

#: What times of day and distances from UTC look like, a zero standing for any digit.
_CLOCKS: Final = ("00:00:00", "00:00:00.000000")
_OFFSETS: Final = ("Z", "+00:00", "-00:00", "+00:00:00", "-00:00:00")


class WholeNumber(TypeDecorator[Any]):
    """A whole number of any size, as Python and JSON have them."""

    impl = Numeric
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Give the server what Python would compare with, to the last digit."""
        return Decimal(repr(value)) if isinstance(value, float) else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Return a whole number, if it is one: what is reckoned from it may be none."""
        is_number = isinstance(value, Decimal) and value.is_finite()
        return int(value) if is_number and value == value.to_integral_value() else value


@dataclass(frozen=True)
class Scalar:
    """How a value is read from the text of what is stored, and how it is written as JSON."""

    sql_type: type[TypeEngine[Any]]
    #: The regular expression of what is short; the server takes its time with longer texts.
    pattern: str | None = None
    #: What the text looks like, a zero standing for any digit.
    shapes: tuple[str, ...] = ()
    digits: str = "0123456789"
    #: The name of the serializer, for what JSON has no form for.
    name: str | None = None
    #: Whether a text with a shape may lack the mark, as other applications write it.
    may_be_bare: bool = False
    #: How the server writes a value after the mark.
    layout: str | None = None

    @property
    def mark(self) -> str:
        """What the text begins with."""
        return f"__{self.name}__@" if self.name else ""

    def read(self, text: ColumnElement[str]) -> ColumnElement[Any]:
        """Return the value of a text, NULL for one that looks different."""
        if self.pattern is None and not self.shapes:
            # A text that begins like a mark is stored behind another.
            pattern, kept = inlined(f"^__str__@({_MARK})"), inlined(r"\1")
            return func.regexp_replace(text, pattern, kept, type_=self.sql_type())
        bare = func.replace(text, inlined(self.mark), inlined("")) if self.mark else text
        if self.pattern:
            checked: ColumnElement[Any] = func.substring(bare, inlined(self.pattern))
        else:
            checked = case((self._has_shape(text), bare))
        # SQLAlchemy names a CAST after what is in there, and an operator after the property.
        kind = self.sql_type()
        kind_name: Any = Inlined(kind.compile(dialect=_SERVER), is_literal=True)
        return checked.op("::", return_type=kind)(kind_name)

    def _has_shape(self, text: ColumnElement[str]) -> ColumnElement[bool]:
        zeros = "0" * len(self.digits)
        marks = (self.mark, "") if self.may_be_bare else (self.mark,)
        shapes = [f"{mark}{shape}" for mark in marks for shape in self.shapes]
        table = str.maketrans(self.digits, zeros)
        found = func.translate(text, inlined(self.digits), inlined(zeros))
        return found.in_([inlined(shape.translate(table)) for shape in shapes])

    def write(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the JSON of an expression, as Python would have written it."""
        if self.pattern is None and not self.shapes:
            escaped = inlined("__str__@").concat(value)
            starts_like_mark = value.regexp_match(inlined(f"^{_MARK}"))
            return func.to_jsonb(cast(case((starts_like_mark, escaped), else_=value), Text))
        if not self.mark:
            return func.to_jsonb(value)
        if self.sql_type is types.UTCDateTime:
            value = func.timezone(inlined("UTC"), value)
        text = func.to_char(value, inlined(self.layout)) if self.layout else cast(value, Text)
        return func.to_jsonb(inlined(self.mark).concat(text))


SCALARS: Final[Mapping[type, Scalar]] = MappingProxyType(
    {
        bool: Scalar(Boolean, "^(?:true|false)$"),
        int: Scalar(WholeNumber, _NUMBER),
        float: Scalar(Double, "^-?[0-9]{1,255}[0-9]{0,54}(?:[.][0-9]+)?$"),
        Markup: Scalar(types.MarkupText),
        str: Scalar(Text),
        Decimal: Scalar(
            Numeric,
            "^-?[0-9]+(?:[.][0-9]+)?(?:[eE][+-]?[0-9]{1,5})?$",
            name="decimal",
        ),
        datetime: Scalar(
            types.UTCDateTime,
            shapes=tuple(f"0000-00-00T{c}{o}" for c in _CLOCKS for o in _OFFSETS),
            name="datetime",
            layout='YYYY-MM-DD"T"HH24:MI:SS.US"Z"',
        ),
        date: Scalar(Date, shapes=("0000-00-00",), name="date", layout="YYYY-MM-DD"),
        time: Scalar(Time, shapes=_CLOCKS, name="time", layout="HH24:MI:SS.US"),
        uuid.UUID: Scalar(
            types.UUID,
            shapes=("00000000-0000-0000-0000-000000000000",),
            digits="0123456789abcdef",
            name="uuid",
            may_be_bare=True,
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
