"""What all models have in common, and how to find them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, overload

from markupsafe import Markup
from sqlalchemy import Text
from sqlalchemy.orm import DeclarativeBase, registry

from onegov_orm import types
from onegov_orm._model_manager import manager_of
from onegov_orm.errors import ModelNotFound

if TYPE_CHECKING:
    from typing import Self, TypeGuard

    from typing_extensions import TypeIs

__all__ = ["Base", "ModelBase", "find_models"]

T = TypeVar("T")
ModelT = TypeVar("ModelT")
FoundT = TypeVar("FoundT")

MISSING: Final[Any] = object()

#: What containers are annotated to hold. SQLAlchemy looks annotations up as they are written, and
#: does not derive ``dict[str, int]`` from ``dict``.
_CONTENTS: Final = (Any, object, str, int, float, bool, Decimal, date, datetime, uuid.UUID)


def _containers() -> Iterator[Any]:
    """Yield the usual annotations of what is kept as JSON."""
    # Made at run time, and no types in the eyes of a type checker.
    table: Any = dict
    sequence: Any = list
    yield from (table, sequence)
    for content in _CONTENTS:
        for inner in (content, content | None, table[str, content], sequence[content]):
            yield from (table[str, inner], sequence[inner])


class ModelBase:
    """Adds to a declarative base what the library's models have, and the types of annotations.

    An application with a base of its own writes ``class Base(DeclarativeBase, ModelBase)``. What
    its ``type_annotation_map`` or registry says itself comes first.
    """

    #: The types of columns that are annotated with a Python type alone.
    TYPE_ANNOTATION_MAP: ClassVar[Mapping[Any, Any]] = MappingProxyType(
        {
            datetime: types.UTCDateTime,
            Markup: types.MarkupText,
            uuid.UUID: types.UUID,
            str: Text,
            **dict.fromkeys(_containers(), types.JSON),
        }
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("registry")
        if isinstance(own, registry):
            merged = {**cls.TYPE_ANNOTATION_MAP, **own.type_annotation_map}
            own.update_type_annotation_map(merged)

    @overload
    @classmethod
    def get_polymorphic_class(cls, identity: Any) -> type[Self]: ...

    @overload
    @classmethod
    def get_polymorphic_class(cls, identity: Any, default: T) -> type[Self] | T: ...

    @classmethod
    def get_polymorphic_class(cls, identity: Any, default: Any = MISSING) -> Any:
        """Return the class of a polymorphic identity, anywhere in the hierarchy of this one.

        Raises `ModelNotFound` if there is none and no default.
        """
        mapper = vars(cls).get("__mapper__")
        known = {} if mapper is None else mapper.polymorphic_map
        if identity in known:
            return known[identity].class_
        if default is MISSING:
            raise ModelNotFound(cls, identity, known)
        return default

    @property
    def session_manager(self) -> Any | None:
        """The manager of the object's session, or else the active one; None without any."""
        return manager_of(self)


class Base(DeclarativeBase, ModelBase):
    """A declarative base that is ready to use; an application may well have its own."""


@overload
def find_models(
    base: type[ModelT], is_match: Callable[[type[ModelT]], TypeGuard[type[FoundT]]]
) -> Iterator[type[FoundT]]: ...


@overload
def find_models(
    base: type[ModelT], is_match: Callable[[type[ModelT]], TypeIs[type[FoundT]]]
) -> Iterator[type[FoundT]]: ...


@overload
def find_models(
    base: type[ModelT], is_match: Callable[[type[ModelT]], bool]
) -> Iterator[type[ModelT]]: ...


def find_models(base: type[Any], is_match: Callable[[type[Any]], bool]) -> Iterator[type[Any]]:
    """Yield the mapped classes below a base, or below a mixin, that match.

    Each comes once: a class, then what derives from it, in the order of definition.
    """
    seen: set[type[Any]] = set()
    ahead = base.__subclasses__()[::-1]
    while ahead:
        model = ahead.pop()
        if model in seen:
            continue
        seen.add(model)
        if "__mapper__" in vars(model) and is_match(model):
            yield model
        ahead.extend(model.__subclasses__()[::-1])
