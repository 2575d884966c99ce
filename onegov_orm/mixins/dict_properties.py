"""Properties that are kept under a key of a dictionary, in Python and in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from markupsafe import Markup, escape
from sqlalchemy import ColumnElement
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict

from onegov_orm.errors import MutableDefault, NaiveDatetime
from onegov_orm.mixins._dict_defaults import PendingDefaults
from onegov_orm.mixins._dict_slot import assignment, escaped, value_at
from onegov_orm.types.tracking import TrackedDict
from onegov_orm.types.utcdatetime import GIVE_ZONE

if TYPE_CHECKING:
    from typing import Self

__all__ = ["dict_markup_property", "dict_property"]

T = TypeVar("T")
ValueT = TypeVar("ValueT")
MarkupT = TypeVar("MarkupT", bound="Markup | None")

_MISSING: Final[Any] = object()

#: Where a class keeps the expressions of its properties, which go when it does.
_EXPRESSIONS: Final = "_onegov_orm_expressions"

#: Dictionaries that notice what is put into them.
_TRACKED: Final = (TrackedDict, MutableDict)


class dict_property(hybrid_property[T], Generic[T]):  # noqa: N801
    """A property that is kept under a key of a dictionary, by default under its own name.

    Without a value its default is read: a value, or what a callable returns. In SQL it has the
    ``value_type``, or the type of the default, or else is JSON. As with a `property`, ``getter``,
    ``setter`` and ``deleter`` replace what it does; as with a hybrid, ``expression`` and others
    do, and each can be had ``inplace``.
    """

    @overload
    def __init__(
        self: dict_property[Any],
        attribute: str,
        key: str | None = None,
        default: None = None,
        value_type: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: dict_property[ValueT | None],
        attribute: str,
        key: str | None = None,
        default: None = None,
        *,
        value_type: type[ValueT],
    ) -> None: ...

    @overload
    def __init__(
        self: dict_property[ValueT],
        attribute: str,
        key: str | None = None,
        *,
        default: Callable[[], ValueT],
        value_type: type[ValueT] | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: dict_property[ValueT],
        attribute: str,
        key: str | None = None,
        *,
        default: ValueT,
        value_type: type[ValueT] | None = None,
    ) -> None: ...

    def __init__(
        self, attribute: str, key: str | None = None, default: Any = None, value_type: Any = None
    ) -> None:
        if isinstance(default, (dict, list, set)):
            raise MutableDefault(default)
        self._set_up(attribute, key, default, value_type)

    def _set_up(self, attribute: str, key: str | None, default: Any, value_type: Any) -> None:
        self.attribute = attribute
        self.key: Any = key
        self.default = default
        self._value_type = value_type
        self._is_float = value_type is float or isinstance(default, float)
        self._pending = PendingDefaults()
        super().__init__(**self._accessors())
        # That of the accessor is no name for the property.
        self.__name__ = ""

    @property
    def value_type(self) -> Any | None:
        """The type of the values in SQL, None for JSON."""
        if self._value_type is not None:
            return self._value_type
        default = self._default()
        return None if default is None else type(default)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        """Take the name in the class, unless there was one before (``inplace`` gives others)."""
        self.__name__ = self.__name__ or name
        if self.key is None:
            self.key = name

    # -- copies with another accessor, for a class or for one that derives from it

    def getter(self, fget: Callable[[Any], T]) -> Self:
        """Return a property that is read by a function."""
        return self._with(fget=fget)

    def setter(self, fset: Callable[[Any, Any], None]) -> Self:
        """Return a property that is set by a function."""
        return self._with(fset=fset)

    def deleter(self, fdel: Callable[[Any], None]) -> Self:
        """Return a property that is deleted by a function."""
        return self._with(fdel=fdel)

    def expression(self, expr: Callable[[Any], Any]) -> Self:
        """Return a property that is another expression in SQL."""
        return self._with(expr=expr)

    def comparator(self, comparator: Callable[[Any], Any]) -> Self:
        """Return a property that is compared otherwise in SQL."""
        return self._with(custom_comparator=comparator)

    def update_expression(self, meth: Callable[[Any, Any], list[tuple[Any, Any]]]) -> Self:
        """Return a property that an UPDATE sets otherwise."""
        return self._with(update_expr=meth)

    def _with(self, **accessors: Any) -> Self:
        clone = type(self).__new__(type(self))
        clone._set_up(self.attribute, self.key, self.default, self._value_type)
        own = self._accessors()
        kept = {name: getattr(self, name) for name in (*own, "custom_comparator")}
        changed = {name: value for name, value in kept.items() if value != own.get(name)}
        for name, value in {**changed, **accessors}.items():
            setattr(clone, name, value.__func__ if isinstance(value, classmethod) else value)
        return clone

    def _accessors(self) -> dict[str, Any]:
        return {
            "fget": self._read,
            "fset": self._write,
            "fdel": self._delete,
            "expr": self._expression,
            "update_expr": self._assign,
        }

    # -- what is done if nothing else was said

    def _default(self) -> Any:
        return self.default() if callable(self.default) else self.default

    def _read(self, instance: Any) -> Any:
        data = getattr(instance, self.attribute)
        value = _MISSING if data is None else data.get(self.key, _MISSING)
        if value is not _MISSING:
            # JSON has one kind of numbers: a float from 1e16 comes back from the server as a
            # whole number, and not even an equal one.
            return _as_float(value) if self._is_float and type(value) is int else value
        value = self._default()
        if isinstance(value, (dict, list)):
            return self._pending.give(instance, value, self._store)
        return value

    def _store(self, instance: Any, value: Any) -> None:
        """Store a default that was changed, unless there is a value by now."""
        data = getattr(instance, self.attribute)
        if data is None or self.key not in data:
            self._write(instance, value)

    def _write(self, instance: Any, value: Any) -> None:
        self._refuse_naive(value)
        data = getattr(instance, self.attribute)
        if isinstance(data, _TRACKED):
            data[self.key] = value
        else:
            # Nobody else would notice the change of a dictionary that is not tracked.
            setattr(instance, self.attribute, {**(data or {}), self.key: value})

    def _delete(self, instance: Any) -> None:
        data = getattr(instance, self.attribute)
        if data is None or self.key not in data:
            raise AttributeError(f"{type(instance).__name__}.{self.__name__} is not set")
        if isinstance(data, _TRACKED):
            del data[self.key]
        else:
            rest = {key: value for key, value in data.items() if key != self.key}
            setattr(instance, self.attribute, rest)

    def _expression(self, owner: Any) -> ColumnElement[Any]:
        known = {} if self._may_vary() else _known_expressions(owner)
        if self not in known:
            column = getattr(owner, self.attribute)
            known[self] = value_at(column, self.key, self._default(), self.value_type)
        return known[self]

    def _may_vary(self) -> bool:
        return callable(self.default) and self.default not in (dict, list)

    def _refuse_naive(self, value: Any) -> None:
        """Raise `NaiveDatetime` for what no query would find."""
        is_moment = self.value_type is datetime and isinstance(value, datetime)
        if is_moment and value.utcoffset() is None:
            raise NaiveDatetime(value, GIVE_ZONE)

    def _assign(self, owner: Any, value: Any) -> list[tuple[Any, Any]]:
        self._refuse_naive(value)
        column = getattr(owner, self.attribute)
        return [assignment(column, self.key, value, self.value_type)]


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return number


def _known_expressions(owner: Any) -> dict[Any, ColumnElement[Any]]:
    """Return the expressions that a class keeps: its constructor asks for them each time."""
    if "__mapper__" not in vars(owner):
        return {}
    if _EXPRESSIONS not in vars(owner):
        setattr(owner, _EXPRESSIONS, {})
    known: dict[Any, ColumnElement[Any]] = vars(owner)[_EXPRESSIONS]
    return known


class dict_markup_property(dict_property[MarkupT]):  # noqa: N801
    """A property of markup: a plain text that is set is escaped, what is read is `Markup`."""

    @overload
    def __init__(
        self: dict_markup_property[Markup | None],
        attribute: str,
        key: str | None = None,
        default: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: dict_markup_property[Markup],
        attribute: str,
        key: str | None = None,
        *,
        default: str,
    ) -> None: ...

    def __init__(self, attribute: str, key: str | None = None, default: str | None = None) -> None:
        self._set_up(attribute, key, None if default is None else escape(default), Markup)

    if not TYPE_CHECKING:

        def __get__(self, instance: Any, owner: Any) -> Any:
            value = super().__get__(instance, owner)
            return value if instance is None or value is None else Markup(value)  # noqa: S704

    def __set__(self, instance: object, value: Any) -> None:
        markup: Any = None if value is None else escape(value)
        super().__set__(instance, markup)

    def _assign(self, owner: Any, value: Any) -> list[tuple[Any, Any]]:
        return super()._assign(owner, escaped(value))
