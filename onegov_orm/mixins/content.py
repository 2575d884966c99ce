"""Dictionaries for what is not worth a column: one loaded with the object, one on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from markupsafe import Markup
from sqlalchemy.orm import Mapped, mapped_column

from onegov_orm.mixins.dict_properties import dict_markup_property, dict_property
from onegov_orm.types import JSON

__all__ = [
    "ContentMixin",
    "content_markup_property",
    "content_property",
    "data_property",
    "dict_markup_property_factory",
    "dict_property_factory",
    "meta_markup_property",
    "meta_property",
]

T = TypeVar("T")


class ContentMixin:
    """Adds the dictionaries ``meta`` and ``content``."""

    #: What is small, and needed wherever the object is: it is loaded with the object.
    meta: Mapped[dict[str, Any]] = mapped_column(JSON, insert_default=dict)

    #: What is long, such as texts: it is loaded when it is first asked for.
    content: Mapped[dict[str, Any]] = mapped_column(JSON, insert_default=dict, deferred=True)


class DictPropertyFactory(Protocol):
    """Makes properties of one dictionary, as `dict_property` does."""

    @overload
    def __call__(
        self, key: str | None = None, default: None = None, value_type: None = None
    ) -> dict_property[Any]: ...

    @overload
    def __call__(
        self, key: str | None = None, default: None = None, *, value_type: type[T]
    ) -> dict_property[T | None]: ...

    @overload
    def __call__(
        self,
        key: str | None = None,
        *,
        default: Callable[[], T],
        value_type: type[T] | None = None,
    ) -> dict_property[T]: ...

    @overload
    def __call__(
        self, key: str | None = None, *, default: T, value_type: type[T] | None = None
    ) -> dict_property[T]: ...


class DictMarkupPropertyFactory(Protocol):
    """Makes properties of markup of one dictionary, as `dict_markup_property` does."""

    @overload
    def __call__(
        self, key: str | None = None, default: None = None
    ) -> dict_markup_property[Markup | None]: ...

    @overload
    def __call__(
        self, key: str | None = None, *, default: str
    ) -> dict_markup_property[Markup]: ...


def dict_property_factory(attribute: str) -> DictPropertyFactory:
    """Return what makes properties of the dictionary with this name."""

    def factory(key: str | None = None, default: Any = None, value_type: Any = None) -> Any:
        return dict_property(attribute, key, default=default, value_type=value_type)

    return factory


def dict_markup_property_factory(attribute: str) -> DictMarkupPropertyFactory:
    """Return what makes properties of markup of the dictionary with this name."""

    def factory(key: str | None = None, default: Any = None) -> Any:
        return dict_markup_property(attribute, key, default=default)

    return factory


meta_property = dict_property_factory("meta")
content_property = dict_property_factory("content")
data_property = dict_property_factory("data")
meta_markup_property = dict_markup_property_factory("meta")
content_markup_property = dict_markup_property_factory("content")
