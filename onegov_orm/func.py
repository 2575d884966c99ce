"""Functions of the server's that SQLAlchemy does not know the types of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnExpressionArgument, Text
from sqlalchemy.sql.functions import Function

__all__ = ["unaccent"]


def unaccent(text: ColumnExpressionArgument[Any] | str) -> Function[str]:
    """Return a text without its accents, as the extension ``unaccent`` has it.

    ``sqlalchemy.func.unaccent`` is the same without a type; nothing is registered there.
    """
    return Function("unaccent", text, type_=Text())
