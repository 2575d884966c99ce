"""The session class of both managers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import insert, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from onegov_orm._bulk import load, primary_keys, refuse_aggregates
from onegov_orm._identity import refuse_foreign, refuse_foreign_graph, stamp
from onegov_orm._model_manager import last_manager
from onegov_orm._prelude import Access
from onegov_orm._readonly import reads_only
from onegov_orm.changes import Kind
from onegov_orm.errors import ReadOnlySession

if TYPE_CHECKING:
    from onegov_orm._changes import Announcer
    from onegov_orm._units import SessionStore
    from onegov_orm.transactions import Completion


class SchemaSession(Session):
    """A session that works in one schema, for as long as it lives.

    It adds to SQLAlchemy's session what no event tells: merges, and the methods whose
    names start with ``bulk_``.
    """

    announcer: ClassVar[Announcer]
    #: The manager that the session is of; None when that is gone.
    manager: ClassVar[weakref.ref[Any]]
    #: Whether commit and rollback are left to the ``transaction`` package.
    joins_transaction: bool = False
    #: How the session reads, None if it can write.
    access: Access | None = None
    #: To whom a reading session belongs.
    store: Callable[[], SessionStore | None] | None = None
    #: What is to be done when the open transaction ended; see `transactions`.
    completion: Completion | None = None

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return the engine, for what is about to be executed on behalf of this manager."""
        last_manager.set(self.manager)
        return super().get_bind(*args, **kwargs)

    def merge(self, instance: Any, **kwargs: Any) -> Any:
        """Merge an object; raises `CrossSchemaError` for one of another schema."""
        refuse_foreign_graph(self, instance)
        return super().merge(instance, **kwargs)

    def merge_all(self, instances: Iterable[Any], **kwargs: Any) -> Any:
        """Merge objects, all of them or none; SQLAlchemy 2.0 has no such method itself."""
        instances = list(instances)
        for instance in instances:
            refuse_foreign_graph(self, instance)
        return [super(SchemaSession, self).merge(each, **kwargs) for each in instances]

    def bulk_save_objects(
        self,
        objects: Iterable[Any],
        return_defaults: bool = False,
        update_changed_only: bool = True,
        preserve_order: bool = True,
    ) -> None:
        """Write objects without the unit of work, and announce them."""
        self._refuse_if_reading()
        objects = list(objects)
        for obj in objects:
            refuse_foreign(self, inspect(obj))
        inserts = [obj for obj in objects if inspect(obj).key is None]
        updates = [
            obj for obj in objects if inspect(obj).key is not None and self.is_modified(obj)
        ]
        self._refuse_aggregates(Kind.INSERT, {inspect(obj).mapper for obj in inserts})
        self._refuse_aggregates(Kind.UPDATE, {inspect(obj).mapper for obj in updates})
        self.announcer.note_bulk_change(self, {inspect(obj).mapper for obj in objects})
        heard = bool(inserts) and self._announces(Kind.INSERT)
        super().bulk_save_objects(
            objects, return_defaults or heard, update_changed_only, preserve_order
        )
        if heard:
            self.announcer.announce(self, Kind.INSERT, inserts)
        if updates and self._announces(Kind.UPDATE):
            self.announcer.announce(self, Kind.UPDATE, updates)

    def bulk_insert_mappings(
        self,
        mapper: Any,
        mappings: Iterable[dict[str, Any]],
        return_defaults: bool = False,
        render_nulls: bool = False,
    ) -> None:
        """Insert rows given as dictionaries, and announce them as objects."""
        self._refuse_if_reading()
        mappings = list(mappings)
        target: Any = inspect(mapper)
        self.announcer.note_bulk_change(self, [target])
        if not mappings or not self._announces(Kind.INSERT):
            self._refuse_aggregates(Kind.INSERT, {target})
            super().bulk_insert_mappings(mapper, mappings, return_defaults, render_nulls)
            return
        statement = insert(target.entity).returning(target.entity, sort_by_parameter_order=True)
        options = {"render_nulls": render_nulls}
        objects = self.scalars(statement, mappings, execution_options=options).all()
        if return_defaults:
            _fill_primary_keys(target, mappings, objects)

    def bulk_update_mappings(self, mapper: Any, mappings: Iterable[dict[str, Any]]) -> None:
        """Update rows by primary key, given as dictionaries, and announce them as objects."""
        self._refuse_if_reading()
        mappings = list(mappings)
        target: Any = inspect(mapper)
        self._refuse_aggregates(Kind.UPDATE, {target})
        self.announcer.note_bulk_change(self, [target])
        super().bulk_update_mappings(mapper, mappings)
        if mappings and self._announces(Kind.UPDATE):
            objects = list(load(self, target, primary_keys(target, mappings)))
            self.announcer.announce(self, Kind.UPDATE, objects)

    def rollback(self) -> None:
        """Roll back; hooks of a transaction that did not even begin are dropped too."""
        self._end(super().rollback)
        self._end_completion()

    def close(self) -> None:
        """Close; hooks of a transaction that did not even begin are dropped too."""
        self._end(super().close)
        self._end_completion()

    def _refuse_if_reading(self) -> None:
        if reads_only(self):
            raise ReadOnlySession

    def _end(self, end: Callable[[], None]) -> None:
        """Let a reading session end in peace if its connection is lost: nothing else is."""
        try:
            end()
        except DBAPIError as exc:
            if self.access is None or not exc.connection_invalidated:
                raise
            self.invalidate()

    def _end_completion(self) -> None:
        completion = self.completion
        if completion is not None and not completion.is_deferred and not self.in_transaction():
            self.completion = None
            completion.finish(is_committed=False)

    def _refuse_aggregates(self, kind: Kind, mappers: Iterable[Any]) -> None:
        if not (kind is Kind.UPDATE and self.announcer.current.ignores_bulk_updates.get()):
            for mapper in mappers:
                refuse_aggregates(mapper, kind)

    def _announces(self, kind: Kind) -> bool:
        return self.announcer.is_heard(self, kind) and not (
            kind is Kind.UPDATE and self.announcer.current.ignores_bulk_updates.get()
        )

    def _before_attach(self, state: Any, obj: Any) -> bool:
        # SQLAlchemy's event of this name comes after its own check, which knows of no
        # schemas: an object that is still in its session would get that other error.
        refuse_foreign(self, state)
        return super()._before_attach(state, obj)

    def __del__(self) -> None:
        # No event tells that a session went away without being closed.
        identity_map = self.__dict__.get("identity_map")
        if identity_map is not None:
            for state in identity_map.all_states():
                stamp(state, self.info.get("schema"))


def _fill_primary_keys(mapper: Any, mappings: list[dict[str, Any]], objects: Any) -> None:
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    for mapping, obj in zip(mappings, objects, strict=True):
        mapping.update({name: getattr(obj, name) for name in names})
