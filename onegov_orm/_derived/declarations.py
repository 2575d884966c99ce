"""What models declare for the flushes of their objects, by the classes that it concerns.

Mappers are followed from the first declaration on. What is derived from them is derived when a
flush first asks, and kept with the mapper, so that it goes away together with its class.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapper

from onegov_orm.errors import ConfigurationError

D = TypeVar("D")
C = TypeVar("C")


class Declarations(Generic[D, C]):
    """The declarations of one kind (``D``), and how they concern a class (``C``)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._declaring: weakref.WeakSet[Mapper[Any]] = weakref.WeakSet()
        # Grows whenever mappers are configured: older answers may be stale then.
        self._generation = 0

    def follow(self) -> None:
        """Have mappers tell when they are configured."""
        for name in ("mapper_configured", "after_configured"):
            if not event.contains(Mapper, name, getattr(self, name)):
                event.listen(Mapper, name, getattr(self, name))

    def mapper_configured(self, mapper: Mapper[Any], class_: type[Any]) -> None:
        """Remember a class that declares something of its own."""
        if self.declares(mapper):
            with self._lock:
                self._declaring.add(mapper)

    def after_configured(self) -> None:
        """Look again at everything: any class may concern any other."""
        self._generation += 1

    def concerning(self, mapper: Mapper[Any]) -> tuple[C, ...]:
        """Return what concerns the objects of a class.

        Raises `ConfigurationError` if a declaration in the same registry can't be understood.
        """
        info = mapper.class_manager.info
        known = info.get(self)
        if known is None or known[0] != self._generation:
            generation = self._generation
            found = tuple(self._concerning(mapper))
            known = info[self] = (generation, found)
        found_before: tuple[C, ...] = known[1]
        return found_before

    def _concerning(self, mapper: Mapper[Any]) -> Iterable[C]:
        with self._lock:
            mappers = sorted(self._declaring, key=lambda each: each.class_.__qualname__)
        for declaring in mappers:
            declarations, error = self._declared(declaring)
            if error is not None and declaring.registry is mapper.registry:
                raise ConfigurationError(error)
            for declaration in declarations:
                yield from self.relate(declaration, mapper)

    def _declared(self, mapper: Mapper[Any]) -> tuple[list[D], str | None]:
        """Return what a class declares, understood once, or why it can't be understood."""
        info = mapper.class_manager.info
        key = (self, "declared")
        if key not in info:
            try:
                mapper.registry.configure(cascade=True)
                info[key] = (list(self.declared(mapper)), None)
            except ConfigurationError as error:
                info[key] = ([], str(error))
            except SQLAlchemyError:
                # The models of somebody else, which can't be used until they are mended.
                return [], None
        result: tuple[list[D], str | None] = info[key]
        return result

    # -- what subclasses know

    def declares(self, mapper: Mapper[Any]) -> bool:
        """Tell whether a class declares something of its own."""
        raise NotImplementedError

    def declared(self, mapper: Mapper[Any]) -> Iterable[D]:
        """Return what a class declares; raises `ConfigurationError`."""
        raise NotImplementedError

    def relate(self, declaration: D, mapper: Mapper[Any]) -> Iterable[C]:
        """Return how a declaration concerns the objects of a class."""
        raise NotImplementedError
