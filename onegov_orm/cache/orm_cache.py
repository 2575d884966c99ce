"""The cache of one manager: values by schema, outdated by commits."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dogpile.cache import CacheRegion

from onegov_orm._units import Unit, sync_session
from onegov_orm.cache._codec import Codec
from onegov_orm.cache._events import CacheEvents, Objects
from onegov_orm.cache._generations import Generations, Observation
from onegov_orm.cache._identities import Identities
from onegov_orm.cache._memo import MISSING, Memo
from onegov_orm.cache._observers import concerned
from onegov_orm.cache._stampede import Stampede, unstamped
from onegov_orm.cache.policies import TableChange
from onegov_orm.cache.regions import refuse_pickles
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.orm import Session

    from onegov_orm._serializers import Serializer
    from onegov_orm.cache.descriptors import OrmCached, RequestCached
    from onegov_orm.session_manager import SessionManager
    from onegov_orm.session_manager_async import AsyncSessionManager

#: Stands for all tables of a schema, and for all schemas; none is called so.
_ALL: Final = "*"

_DIGEST_BYTES: Final = 20

_numbers = itertools.count()

#: What is being made here, so that nothing waits for itself.
_making: ContextVar[frozenset[Any]] = ContextVar("making", default=frozenset())


class OrmCache:
    """Keeps the values of `orm_cached` properties, for all customers of a manager.

    ::

        class App:
            def __init__(self, mgr):
                self.mgr = mgr
                self.orm_cache = OrmCache(mgr, redis_region('redis://localhost'))

            @orm_cached(policy='on-table-change:users')
            def names(self):
                return self.mgr.session().scalars(select(User.name)).all()

    :param manager: whose sessions' changes outdate values.
    :param region: see `memory_region` and `redis_region`.
    :param version: of the application: another one finds none of the values.
    :param serializers: for values of types of your own.
    :param trust_seconds: for how long a schema's name is taken for the same customer's
        without asking the server. By default each transaction asks once, so that a customer
        who got another one's name never sees what was kept for that one.
    """

    def __init__(
        self,
        manager: SessionManager | AsyncSessionManager,
        region: CacheRegion,
        *,
        version: str = "",
        serializers: Iterable[Serializer[Any]] = (),
        trust_seconds: float = 0.0,
    ) -> None:
        refuse_pickles(region)
        self.manager = manager
        self.region = region
        self._version = version
        self._codec = Codec(serializers)
        self._generations = Generations(region)
        self._stampede = Stampede(region, is_async=manager._is_async)
        self._identities = Identities(trust_seconds)
        self._memo_slot = f"_onegov_cache_memo_{next(_numbers)}"
        self._tables: weakref.WeakKeyDictionary[Any, list[Table]] = weakref.WeakKeyDictionary()
        self._events = CacheEvents(self)
        # The manager keeps what is to hear of its changes.
        manager.companions.append(self)
        manager._announcer.on_bulk_change.append(self._events.after_bulk_change)
        self.register_session(manager.session_factory)

    def register_session(self, session: Any) -> None:
        """Hear of what other sessions change, such as those given to ``register_session``."""
        self._events.attach(self.manager._synchronous(session))

    def invalidate(self, schema: str | None = None, *tables: str | type[Any] | Table) -> None:
        """Outdate values by hand, after changes that no session of the manager made.

        Without tables all of the schema's, without a schema those of all customers. Inside a
        transaction it is done now, and again when that ends. With an AsyncSessionManager:
        ``await greenlet_spawn(cache.invalidate, ...)``.
        """
        with self._somewhere() as (session, connect):
            scope = _ALL
            if schema is not None:
                name = str(self.manager.parse_schema(schema))
                scope = self._identities.schema(connect, name, {})
            found = set(TableChange(tables).resolve(self.catalogs()))
            names = [self._table_key(scope, table) for table in found] or [f"{scope}:{_ALL}"]
            names += [f"{scope}:{name}" for name in concerned(found, None)] if found else []
            keys = self._full_keys(connect, names)
        self._generations.renew(keys)
        if session is not None:
            self._mark(session, self._memo(session), keys)

    # -- for the decorators

    def load(self, descriptor: OrmCached[Any], instance: Any) -> Any:
        """Return the value of a cached property, for the current schema."""
        request = self._request()
        session = request.session
        if session.autoflush and not session._flushing and _has_changes(session):
            session.flush()
        place = (request.schema, *descriptor.variant(instance))
        value = request.memo.get(place)
        if value is not MISSING:
            return value
        text, keys = self._find(request, place, descriptor, instance)
        value = self._codec.decode(text)
        # Where no transaction or block begins, none would end what is remembered.
        ends = request.store.joins or isinstance(request.store, Unit) or session.in_transaction()
        return request.memo.put(place, value, keys) if ends else value

    def remember(self, descriptor: RequestCached[Any], instance: Any) -> Any:
        """Return the value of a property that is kept for the transaction alone."""
        request = self._request()
        place = (request.schema, descriptor, id(instance))
        found = request.memo.get_object(place)
        if found is MISSING:
            value = descriptor.create(instance, self.manager.signals.wait)
            # Its owner is kept too, so that nobody else gets the owner's number.
            found = request.memo.put_object(place, (instance, value))
        return found[1]

    async def in_task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of these functions where SQLAlchemy awaits the driver."""
        # Needs greenlet, which who has no asynchronous code may not have.
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(function, *arguments)

    # -- for the listener

    @property
    def reads_replicas(self) -> bool:
        """Whether readers may see the database as it was some time ago."""
        return self.manager.replicas is not None

    def catalogs(self) -> list[MetaData]:
        """Return the tables that there are."""
        return [base.metadata for base in self.manager.bases]

    def touch(self, session: Session, tables: Collection[Table], objects: Objects | None) -> None:
        """Note that the session changes tables; without objects, it is not known which."""
        schema = session.info.get("schema")
        if schema is None or not tables:
            return
        memo = self._memo(session)
        number = self._identities.schema(session.connection, schema, memo.identities)
        names = {self._table_key(number, table) for table in tables}
        scopes = {number, *(_ALL for table in tables if table.schema)}
        for name in concerned(tables, objects):
            names.update(f"{scope}:{name}" for scope in scopes)
        self._mark(session, memo, self._full_keys(session.connection, names))

    def renew(self, keys: set[str], memo: Memo) -> None:
        """Renew what a transaction changed, now that it is over."""
        memo.touched -= keys
        self._generations.renew(keys, memo.mark)

    # -- inside

    def _request(self) -> _Request:
        schema = self.manager._current.require_schema()
        session: Session = sync_session(self.manager.session())
        store = self.manager._store()
        memo = self._memo_of(self.manager._completion())
        self._events.use(session, memo)
        return _Request(schema, session, store, memo)

    def _memo(self, session: Session) -> Memo:
        return self._memo_of(self.manager._completions.completion_of(session))

    def _memo_of(self, completion: Any) -> Memo:
        """Return what is known in the transaction or unit of work."""
        memo: Memo | None = completion.__dict__.get(self._memo_slot)
        if memo is None:
            memo = completion.__dict__[self._memo_slot] = Memo()
        return memo

    def _mark(self, session: Session, memo: Memo, keys: set[str]) -> None:
        """Say that the session changes this, and have it renewed when that is over."""
        new = memo.touch(keys)
        self._events.note(session, keys, memo)
        if new:
            self._generations.mark(new, memo.mark)

    def _make(self, descriptor: OrmCached[Any], instance: Any, place: tuple[Any, ...]) -> str:
        """Make a value anew, and return it as it is kept."""
        making = _making.get()
        if place in making:
            raise ConfigurationError(f"{descriptor.title} reads itself, and never comes to an end")
        token = _making.set(making | {place})
        try:
            with self._fresh_replicas():
                value = descriptor.create(instance, self.manager.signals.wait)
        finally:
            _making.reset(token)
        return self._codec.encode(value, descriptor.title)

    @contextmanager
    def _fresh_replicas(self) -> Iterator[None]:
        """Read from no replica that is late: what is kept for all has to be up to date."""
        last_write = self.manager._current.last_write
        before = last_write.get()
        last_write.set(time.monotonic())
        try:
            yield
        finally:
            last_write.set(before)

    def _find(
        self, request: _Request, place: tuple[Any, ...], descriptor: OrmCached[Any], instance: Any
    ) -> tuple[str, set[str]]:
        """Return a value from the region, or a new one, and what it depends on.

        A new one is kept for others if all that it depends on was known to this process before
        the transaction began. Else it may be older than a change that was announced meanwhile.
        """

        def make() -> str:
            return self._make(descriptor, instance, place)

        number, keys, kept_in, observed = self._look(request, place, descriptor)
        is_own = place in _making.get() or not request.memo.touched.isdisjoint(keys)
        if is_own or observed is None:
            return make(), keys
        stamp = _digest(observed.generations)
        kept = unstamped(observed.kept, stamp)
        if kept is not None:
            return kept, keys
        if observed.known_since >= self._began(request.store):
            return make(), keys
        # Nobody waits for a connection who has the lock: those who wait have connections.
        request.session.connection()

        def make_and_judge() -> tuple[str, bool]:
            value = make()
            return value, self._may_keep(request, number)

        return self._stampede.get(kept_in, stamp, make_and_judge), keys

    def _look(
        self, request: _Request, place: tuple[Any, ...], descriptor: OrmCached[Any]
    ) -> tuple[str, set[str], str, Observation | None]:
        """Return the schema's number, what the value depends on, its place, and what is there.

        That is looked at before the transaction begins, if it has not: under the number that
        the schema had the last time, which is compared with the one that it has.
        """
        connect, memo = request.session.connection, request.memo
        schema, name, *variant = place
        number = self._identities.last_known(schema) or self._number(request)
        while True:
            keys = self._keys(request, descriptor, number)
            facts = _digest([self._version, *variant])
            [kept_in] = self._full_keys(connect, [f"{number}:{name}:{facts}"])
            observed = None
            if memo.touched.isdisjoint(keys):
                observed = self._generations.observe(sorted(keys), kept_in)
            actual = self._number(request)
            if actual == number:
                return number, keys, kept_in, observed
            number = actual

    def _may_keep(self, request: _Request, number: str) -> bool:
        """Tell whether a value that was made just now is what all others would get.

        It is not if the name is another customer's by now, nor if the transaction has written
        something that nobody saw.
        """
        session = request.session
        is_same, has_written_nothing = self._identities.is_unchanged(
            session.connection, request.schema, number
        )
        return is_same and (has_written_nothing or self._events.is_changing(session))

    def _began(self, store: Any) -> float:
        """Return when the sessions at work here took their first look at the database."""
        found = []
        while store is not None:
            found += [self._events.began(session) for session in store.all()]
            store = store.outer
        return min(found, default=0)

    def _number(self, request: _Request) -> str:
        memo = request.memo
        return self._identities.schema(request.session.connection, request.schema, memo.identities)

    def _keys(self, request: _Request, descriptor: OrmCached[Any], number: str) -> set[str]:
        """Return the keys of the generations that a value depends on."""
        policy = descriptor.policy
        names = [f"{_ALL}:{_ALL}", f"{number}:{_ALL}"]
        for scope in (_ALL, number):
            if isinstance(policy, TableChange):
                tables = self._tables.get(descriptor)
                if tables is None:
                    tables = self._tables[descriptor] = list(policy.resolve(self.catalogs()))
                names += [self._table_key(scope, table) for table in tables]
            else:
                names.append(f"{scope}:{descriptor.name}")
        return self._full_keys(request.session.connection, names)

    @staticmethod
    def _table_key(scope: str, table: Table) -> str:
        # A table that all customers share is outdated for all of them.
        return f"{_ALL if table.schema else scope}:table:{table.fullname}"

    def _full_keys(self, connect: Any, names: Iterable[str]) -> set[str]:
        server = self._identities.server(connect)
        return {f"{server}:{name}" for name in names}

    @contextmanager
    def _somewhere(self) -> Iterator[tuple[Session | None, Any]]:
        """Yield the session that works here and what connects; without one, a connection."""
        if self.manager.current_schema is not None:
            session: Session = sync_session(self.manager.session())
            if session.in_transaction():
                yield session, session.connection
                return
        with self.manager.sync_engine.connect() as connection:
            yield None, lambda: connection


@dataclass(frozen=True, slots=True)
class _Request:
    """For which schema, in which session and transaction something is asked."""

    schema: SchemaName
    session: Session
    store: Any
    memo: Memo


def _has_changes(session: Session) -> bool:
    return bool(session.new or session.dirty or session.deleted)


def _digest(facts: Sequence[Any]) -> str:
    """Return a short text that stands for the facts."""
    text = json.dumps(facts, separators=(",", ":")).encode()
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
