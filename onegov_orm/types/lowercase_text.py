"""Text that is lowercase, whichever way it is written or asked for."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Dialect,
    Select,
    SelectBase,
    Text,
    func,
    select,
    type_coerce,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import CollectionAggregate, Null
from sqlalchemy.sql.operators import OperatorType, custom_op
from sqlalchemy.types import NullType, TypeDecorator

from onegov_orm.types._normalized_attributes import normalize

__all__ = ["LowercaseText"]

#: What is more, or something else, than lowercase text.
_TEXT_OPERATORS: Final = frozenset(
    {
        operators.add,
        operators.concat_op,
        operators.match_op,
        operators.not_match_op,
        operators.regexp_match_op,
        operators.not_regexp_match_op,
        operators.regexp_replace_op,
    }
)


class LowercaseText(TypeDecorator[str]):
    """Text that is written in lowercase, and compared with lowercase.

    Comparisons take ``lower()`` of expressions on their right side; indexes on the column stay
    usable. Concatenations, regular expressions and operators of ``op()`` see ordinary text.
    """

    impl = Text
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Any], Text.Comparator[Any]):
        """Compares with lowercase."""

        def operate(self, op: OperatorType, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
            """Apply an operator, to what is lowercase if it compares."""
            if op in _TEXT_OPERATORS or isinstance(op, custom_op):
                result: ColumnElement[Any] = self._text(*other).operate(op, *other, **kwargs)
                return result
            if kwargs.get("escape"):
                kwargs["escape"] = kwargs["escape"].lower()
            return super().operate(op, *map(_lowered, other), **kwargs)

        def reverse_operate(
            self, op: OperatorType, other: Any, **kwargs: Any
        ) -> ColumnElement[Any]:
            """Apply an operator from the right side, to ordinary text."""
            result: ColumnElement[Any] = self._text().reverse_operate(op, other, **kwargs)
            return result

        def _text(self, *other: Any) -> Any:
            others = [getattr(each, "type", None) for each in other]
            if isinstance(self.expr, BindParameter) and not any(map(_is_lowercase_type, others)):
                # Values that SQLAlchemy makes a pattern of are still to become lowercase.
                return Text.Comparator(self.expr)
            return type_coerce(self.expr, Text())

    comparator_factory = Comparator

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the value in lowercase."""
        return None if value is None else value.lower()

    def normalized(self, value: Any) -> Any:
        """Return texts in lowercase."""
        return value.lower() if isinstance(value, str) else value


def _lowered(other: Any) -> Any:
    """Return ``lower()`` of an expression; values are left to the type."""
    if isinstance(other, (list, tuple, set, frozenset)):
        return [_lowered(each) for each in other]
    expression = other.__clause_element__() if hasattr(other, "__clause_element__") else other
    if isinstance(expression, SelectBase):
        return _lowered_select(expression)
    if not isinstance(expression, ColumnElement) or _is_lowercase(expression):
        return other
    return func.lower(other)


def _is_lowercase(expression: ColumnElement[Any]) -> bool:
    """Tell whether an expression is lowercase, is going to be, or is no text at all."""
    if isinstance(expression, BindParameter) and isinstance(expression.type, NullType):
        return True
    is_text = not isinstance(expression, (CollectionAggregate, Null))
    return _is_lowercase_type(expression.type) or not is_text


def _is_lowercase_type(sql_type: object) -> bool:
    return isinstance(sql_type, LowercaseText)


def _lowered_select(statement: SelectBase) -> SelectBase:
    column = statement.selected_columns[0]
    if _is_lowercase(column):
        return statement
    if isinstance(statement, Select):
        return statement.with_only_columns(func.lower(column))
    return select(func.lower(statement.subquery().c[0]))


normalize(LowercaseText)
