"""What a container that tracks changes knows of its owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

__all__ = ["Container", "FirstChange", "Owner", "release"]


class Owner(Protocol):
    """Wants to know about the changes of a container."""

    def changed(self, container: Container) -> None:
        """Take note of a change."""

    def holds(self, container: Container) -> bool:
        """Tell whether the container is still the owner's."""


class Container:
    """What lists and dictionaries that track changes have in common."""

    if not TYPE_CHECKING:
        # The slots are those of the derived classes, for the layouts of list and dict differ.
        __slots__ = ()

    #: A part holds the whole: who changes it later has to learn that the object has another one.
    _owner: Container | Owner | None

    def changed(self) -> None:
        """Tell the owner of the whole that something in it changed."""
        container = self
        owner = self._owner
        while isinstance(owner, Container):
            container, owner = owner, owner._owner
        if owner is not None:
            owner.changed(container)

    def is_owned(self) -> bool:
        """Tell whether the container is a part of what others hold."""
        owner = self._owner
        return isinstance(owner, Container) or (owner is not None and owner.holds(self))

    def is_within(self, other: Container) -> bool:
        """Tell whether the container is a part of another one, or is that one."""
        container: Container | Owner | None = self
        while isinstance(container, Container):
            if container is other:
                return True
            container = container._owner
        return False


class FirstChange:
    """Calls a function once, with a container that is nobody's until then."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[Any], None]) -> None:
        self._call = call

    def changed(self, container: Container) -> None:
        """Let go of the container, and call the function."""
        container._owner = None
        self._call(container)

    def holds(self, container: Container) -> bool:
        """Leave the container to whoever wants it."""
        return False


def release(value: object) -> None:
    """Make a container nobody's; others can't be anybody's."""
    if isinstance(value, Container):
        value._owner = None
