"""Text that is HTML: plain text is escaped on its way in."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from onegov_orm.types._normalized_attributes import normalize

__all__ = ["MarkupText"]


class MarkupText(TypeDecorator[Markup]):
    """Markup of markupsafe: plain text is escaped when written, and when compared with.

    What is read is trusted, as all markup is: clean what users give before it is made markup.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Return the markup as text, for drivers and literals would escape quotes as in HTML."""
        return None if value is None else str(escape(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Markup | None:
        """Return the text as markup."""
        return None if value is None else Markup(value)  # noqa: S704

    def normalized(self, value: Any) -> Any:
        """Return texts as markup, escaped if they are not."""
        return escape(value) if isinstance(value, str) else value


normalize(MarkupText)
