"""Names without the blanks that people type around them."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import event
from sqlalchemy.orm.attributes import QueryableAttribute

__all__ = ["StripWhitespaceMixin"]


class StripWhitespaceMixin:
    """Strips the values of columns when they are set on an object, also by its constructor."""

    #: The attributes whose values are stripped; a model may name others.
    stripped_columns: ClassVar[tuple[str, ...]] = ("first_name", "last_name")

    def strip_names(self, key: str, value: str | None) -> str | None:
        """Return what to keep of a value; a model may override it."""
        return value.strip() if isinstance(value, str) else value


class StripEvents:
    """Listens to the attributes of the mixin's models."""

    def attach(self) -> None:
        """Listen to all classes of the mixin."""
        event.listen(
            StripWhitespaceMixin, "attribute_instrument", self.attribute_instrument, propagate=True
        )

    def attribute_instrument(
        self, model: type[StripWhitespaceMixin], key: str, attribute: QueryableAttribute[Any]
    ) -> None:
        """Listen to an attribute whose values are stripped."""
        if key in model.stripped_columns:
            event.listen(attribute, "set", self.set, retval=True)

    def set(self, target: StripWhitespaceMixin, value: Any, old: Any, initiator: Any) -> Any:
        """Strip what is set."""
        return target.strip_names(initiator.key, value)


StripEvents().attach()
