"""Methods that are called in the flush that changes what they observe.

::

    class Person(Base):
        first_name: Mapped[str]
        last_name: Mapped[str]
        full_name: Mapped[str]

        @observes('first_name', 'last_name')
        def update_full_name(self, first_name: str, last_name: str) -> None:
            self.full_name = f'{first_name} {last_name}'

They run for the sessions of managers, and for no others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import FunctionType
from typing import Any, TypeVar, cast

from onegov_orm._derived.observing import MARK, Observed, observers
from onegov_orm._flush_hooks import register
from onegov_orm.errors import ConfigurationError

__all__ = ["observes"]

F = TypeVar("F", bound=Callable[..., Any])


def observes(*paths: str, scope: str | None = None) -> Callable[[F], F]:
    """Have a method of a model called when one of the paths leads to something else.

    A path is the name of a column or a relationship, or several with dots between, such as
    ``pages.author.name``. The method gets one value for each path: a list where a collection
    is on the way, and None where an object is missing. What it sets is written by the same
    flush.

    :param scope: run only for managers that are made with this one among their ``scopes``.

    Raises `ConfigurationError` for what is no path or no method; a path that leads nowhere
    raises it in the first flush.
    """
    given: tuple[object, ...] = paths
    if not given or not all(isinstance(path, str) and path for path in given):
        raise ConfigurationError(
            f"observes takes the names of what is observed, not {paths!r}: @observes('name')"
        )

    def decorate(function: F) -> F:
        if not isinstance(function, FunctionType) or iscoroutinefunction(function):
            raise ConfigurationError(
                f"{function!r} can't observe anything: it has to be a method, and no coroutine, "
                "for it is called in the middle of a flush"
            )
        if hasattr(function, MARK):
            raise ConfigurationError(
                f"{function.__qualname__} observes something already: name all paths at once"
            )

        @wraps(function)
        def observer(self: Any, *values: Any) -> Any:
            return function(self, *values)

        setattr(observer, MARK, Observed(paths, scope))
        return cast("F", observer)

    observers.follow()
    register(observers, is_first=True)
    return decorate
