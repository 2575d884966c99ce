"""JSON whose dates, decimals and UUIDs survive, and whose changes are noticed at any depth."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ARRAY, Dialect, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import operators
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from onegov_orm._serializers import Serializers, default_serializers
from onegov_orm.errors import NotSerializable
from onegov_orm.types._loading import loaded
from onegov_orm.types._tracked_attributes import track

__all__ = ["JSON"]

#: What operators of PostgreSQL's have on their right side, unless it is JSON.
_RIGHT_SIDES: Final[dict[str, TypeEngine[Any]]] = {
    "?": Text(),
    "?|": ARRAY(Text()),
    "?&": ARRAY(Text()),
    "@?": JSONB.JSONPathType(),
    "@@": JSONB.JSONPathType(),
}

#: Those that compare JSON with JSON; others know better what they want.
_WITH_JSON: Final = frozenset(
    {
        operators.eq,
        operators.ne,
        operators.lt,
        operators.le,
        operators.gt,
        operators.ge,
        operators.in_op,
        operators.not_in_op,
        operators.and_,  # of BETWEEN
        operators.is_distinct_from,
        operators.is_not_distinct_from,
        operators.concat_op,
        operators.add,
    }
)
_WITH_JSON_SYMBOLS: Final = ("@>", "<@")


class JSON(TypeDecorator[Any]):
    """JSONB with dates, times, datetimes, decimals, UUIDs and what else has a serializer.

    Changes in dictionaries and lists of an object mark the object as changed. None is NULL, in
    both directions. In filters values are compared as they are written: a date with the text
    that stands for it.
    """

    impl = JSONB
    cache_ok = True
    hashable = False

    def __init__(self, serializers: Serializers = default_serializers) -> None:
        super().__init__(none_as_null=True)
        self.serializers = serializers

    def __repr__(self) -> str:
        own = "" if self.serializers == default_serializers else repr(self.serializers)
        return f"{type(self).__name__}({own})"

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return what JSON knows; raises `NotSerializable`."""
        return self.serializers.encode(value)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str] | None:
        """Return what writes values into SQL; SQLAlchemy has nothing for JSON."""
        text: TypeEngine[str] = String()
        quoted = text.literal_processor(dialect)
        if quoted is None:
            return None
        return lambda value: f"JSONB {quoted(json.dumps(self.serializers.encode(value)))}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the values that were written."""
        return loaded(value, self.serializers.decode_text)

    def compare_values(self, x: Any, y: Any) -> bool:
        """Tell whether two values are written alike: 1 is not true, and 1.0 is not 1."""
        return x is y or (bool(x == y) and self._text(x) == self._text(y))

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """Return the type of what stands on the right side of an operator."""
        symbol = getattr(op, "opstring", None)
        if op in _WITH_JSON or symbol in _WITH_JSON_SYMBOLS:
            return self
        if symbol in _RIGHT_SIDES:
            return _RIGHT_SIDES[symbol]
        return self.impl_instance.coerce_compared_value(op, value)

    def _text(self, value: Any) -> str | None:
        try:
            return json.dumps(self.serializers.encode(value), sort_keys=True)
        except NotSerializable:
            # Whatever it is, it is not what the row has; writing it says what is wrong.
            return None


track(JSON)
