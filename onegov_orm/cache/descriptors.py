"""The decorators: properties whose values are kept for all, or for the transaction."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Coroutine
from enum import Enum
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, TypeVar, overload

from sqlalchemy.engine import Result
from sqlalchemy.engine.result import FilterResult
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import Query

from onegov_orm.cache._observers import observe
from onegov_orm.cache.policies import ObjectChange, PolicyLike, policy_of
from onegov_orm.errors import ConfigurationError

if TYPE_CHECKING:
    from onegov_orm.cache.orm_cache import OrmCache

T = TypeVar("T")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)

Role = str | int | bool | None

_ROLES: Final = (str, int, bool, type(None))


class OrmCached(Generic[T_co]):
    """A property whose value is kept until a change outdates it."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        policy: PolicyLike,
        role: Callable[[Any], Role] | None,
    ) -> None:
        self.function = function
        self.policy = policy_of(policy)
        #: What tells the values of this property from those of others, in all processes.
        self.name = _name_of(function, f"{function.__module__}.{function.__qualname__}")
        #: What people read.
        self.title = function.__qualname__
        self._role = role
        self.__doc__ = function.__doc__
        self._is_async = iscoroutinefunction(function)
        if isinstance(self.policy, ObjectChange):
            observe(self)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.title = f"{owner.__qualname__}.{name}"
        self.name = _name_of(self.function, f"{owner.__module__}.{self.title}")

    def __set__(self, instance: Any, value: Any) -> NoReturn:
        raise AttributeError(f"{self.title} is made when it is read, and can't be set")

    @overload
    def __get__(self: S, instance: None, owner: type[Any]) -> S: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T_co: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        return _run(cache_of(instance), self._is_async, "load", self, instance)

    def variant(self, instance: Any) -> tuple[Any, ...]:
        """Return what tells the values of one schema apart."""
        role: Any = None if self._role is None else self._role(instance)
        if isinstance(role, Enum):
            role = role.value
        if type(role) not in _ROLES:
            raise ConfigurationError(
                f"the role that {self.title} is cached by has to be a text, a number or None, "
                f"not {role!r}"
            )
        kind = type(instance)
        return self.name, f"{kind.__module__}.{kind.__qualname__}", type(role).__name__, role

    def create(self, instance: Any, wait: Callable[[Any], Any]) -> Any:
        """Return a new value; queries and results are read to their end."""
        value: Any = self.function(instance)
        if isawaitable(value):
            value = wait(value)
        if isinstance(value, Query):
            return tuple(value)
        is_result = isinstance(value, (Result, FilterResult))
        return list(value) if is_result else value


class RequestCached(Generic[T_co]):
    """A property whose value is kept for the transaction or unit of work."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._is_async = iscoroutinefunction(function)

    @overload
    def __get__(self: S, instance: None, owner: type[Any]) -> S: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T_co: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        return _run(cache_of(instance), self._is_async, "remember", self, instance)

    def create(self, instance: Any, wait: Callable[[Any], Any]) -> Any:
        """Return a new value."""
        value = self.function(instance)
        return wait(value) if isawaitable(value) else value


class OrmCacheDecorator(Protocol):
    """What `orm_cached` returns; a query becomes a tuple of what it finds."""

    @overload
    def __call__(
        self, function: Callable[[Any], Coroutine[Any, Any, T]], /
    ) -> OrmCached[Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, function: Callable[[Any], Query[T]], /) -> OrmCached[tuple[T, ...]]: ...

    @overload
    def __call__(self, function: Callable[[Any], T], /) -> OrmCached[T]: ...


def orm_cached(
    policy: PolicyLike,
    *,
    by_role: bool = False,
    role: Callable[[Any], Role] | None = None,
) -> OrmCacheDecorator:
    """Make a method a property whose value is kept until a committed change outdates it.

    The object, or its attribute ``app``, has an `OrmCache` as ``orm_cache``. Values are plain
    data: an object of the session's in them raises `NotCacheable`. A coroutine function gives
    a property to be awaited.

    :param policy: what outdates the value: ``'on-table-change:users'``, `on_table_change`,
        `on_change`, or a function that is asked about each changed object.
    :param by_role: keep one value for each ``identity.role`` of the object.
    :param role: keep one value for each of what this function returns for the object.
    """
    if by_role and role is not None:
        raise ConfigurationError("give either by_role or role")
    chosen = _role_of if by_role else role

    return _Decorator(policy, chosen)


class _Decorator:
    """Waits for its function; in a class without one it stands for a mistake."""

    def __init__(self, policy: PolicyLike, role: Callable[[Any], Role] | None) -> None:
        self._policy = policy_of(policy)
        self._role = role

    def __call__(self, function: Callable[[Any], Any], /) -> Any:
        return OrmCached(function, self._policy, self._role)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        raise ConfigurationError(
            f"{owner.__qualname__}.{name} needs a policy: @orm_cached('on-table-change:users')"
        )


def request_cached(function: Callable[[Any], T]) -> RequestCached[T]:
    """Make a method a property whose value is kept for the transaction or unit of work.

    Values may be objects of the session's. They belong to the object they were asked of and
    to the current schema, and are forgotten with the transaction, also after a rollback.
    """
    return RequestCached(function)


def cache_of(instance: Any) -> OrmCache:
    """Return the cache of an object or of its ``app``."""
    for holder in (instance, getattr(instance, "app", None)):
        cache: OrmCache | None = getattr(holder, "orm_cache", None)
        if cache is not None:
            return cache
    raise ConfigurationError(
        f"neither the {type(instance).__name__} nor its attribute app has an orm_cache: set "
        "self.orm_cache = OrmCache(mgr, region)"
    )


def _run(cache: OrmCache, is_async: bool, verb: str, descriptor: Any, instance: Any) -> Any:
    if is_async:
        return cache.in_task(getattr(cache, verb), descriptor, instance)
    try:
        return getattr(cache, verb)(descriptor, instance)
    except (MissingGreenlet, StatementError) as exc:
        if MissingGreenlet not in (type(exc), type(getattr(exc, "orig", None))):
            raise
        raise ConfigurationError(
            "with an AsyncSessionManager, cached properties are coroutine functions: "
            "`async def names(self)`, and `await app.names`"
        ) from exc


def _name_of(function: Any, place: str) -> str:
    """Return the place with what tells functions apart that are in the same one."""
    code = getattr(function, "__code__", None)
    if code is None:
        return place
    facts = f"{code.co_firstlineno} {code.co_names}".encode() + code.co_code
    return f"{place}:{zlib.crc32(facts):x}"


def _role_of(instance: Any) -> Role:
    if not hasattr(instance, "identity"):
        raise ConfigurationError(
            f"a value is cached by_role, and {type(instance).__name__} has no attribute identity "
            "to have one: use role=lambda app: ... to say which it is"
        )
    role: Role = getattr(instance.identity, "role", None)
    return role
