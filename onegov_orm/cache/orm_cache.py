"""The cache of one manager: values by schema, outdated by commits."""

from __future__ import annotations

import hashlib
import json
import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dogpile.cache import CacheRegion

from onegov_orm._units import sync_session
from onegov_orm.cache._codec import Codec
from onegov_orm.cache._events import BEGAN, MEMO, CacheEvents
from onegov_orm.cache._generations import Generations
from onegov_orm.cache._identities import Identities
from onegov_orm.cache._memo import MISSING, Memo
from onegov_orm.cache._observers import concerned
from onegov_orm.cache._stampede import Stampede, unstamped
from onegov_orm.cache.policies import TableChange
from onegov_orm.cache.regions import refuse_pickles
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
        self._memos: weakref.WeakKeyDictionary[Any, Memo] = weakref.WeakKeyDictionary()
        self._tables: weakref.WeakKeyDictionary[Any, list[Table]] = weakref.WeakKeyDictionary()
        self._events = CacheEvents(self)
        # The manager keeps what is to hear of its changes.
        manager.companions.append(self)
        manager._announcer.on_bulk_change.append(self._events.after_bulk_change)
        self.register_session(manager.session_factory)

    def register_session(self, session: Any) -> None:
        """Hear of what other sessions change, such as those given to ``register_session``."""
        self._events.attach(self.manager._synchronous(session))

    def invalidate(self, schema: str | None = None, *tables: str | type[Any]) -> None:
        """Outdate values by hand, after changes that no session of the manager made.

        Without tables all of the schema's, without a schema those of all customers. With an
        AsyncSessionManager: ``await greenlet_spawn(cache.invalidate, ...)``.
        """
        scope = _ALL if schema is None else str(self.manager.parse_schema(schema))
        found = list(TableChange(tables).resolve(self.catalogs()))
        keys = [self._table_key(scope, table) for table in found] or [f"{scope}:{_ALL}"]
        self._generations.renew(self._full_keys(None, keys))

    # -- for the decorators

    def load(self, descriptor: OrmCached[Any], instance: Any) -> Any:
        """Return the value of a cached property, for the current schema."""
        request = self._request()
        if request.session.new or request.session.dirty or request.session.deleted:
            request.session.flush()
        place = (request.schema, *descriptor.variant(instance))
        value = request.memo.get(place)
        if value is not MISSING:
            return value
        keys = self._keys(request, descriptor)
        text = self._find(request, place, keys, lambda: self._make(descriptor, instance))
        return request.memo.put(place, self._codec.decode(text), keys)

    def remember(self, descriptor: RequestCached[Any], instance: Any) -> Any:
        """Return the value of a property that is kept for the transaction alone."""
        request = self._request()
        place = (request.schema, descriptor, id(instance))
        found = request.memo.get(place)
        if found is MISSING:
            value = descriptor.create(instance, self.manager.signals.wait)
            # Its owner is kept too, so that nobody else gets the owner's number.
            found = request.memo.put(place, (instance, value))
        return found[1]

    async def in_task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of these functions where SQLAlchemy awaits the driver."""
        # Needs greenlet, which who has no asynchronous code may not have.
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(function, *arguments)

    # -- for the listener

    def catalogs(self) -> list[MetaData]:
        """Return the tables that there are."""
        return [base.metadata for base in self.manager.bases]

    def touch(
        self, session: Session, tables: Collection[Table], objects: Collection[Any] | None
    ) -> None:
        """Note that the session changes tables; without objects, it is not known which."""
        schema = session.info.get("schema")
        if schema is None or not tables:
            return
        names = [self._table_key(schema, table) for table in tables]
        names += [f"{schema}:{name}" for name in concerned(tables, objects)]
        completion = self.manager._completions.completion_of(session)
        memo = self._memo_of(completion, session)
        is_first = not memo.touched
        new = memo.touch(self._full_keys(session, names))
        if is_first and new:
            completion.after_commit(schema, lambda: self._renew(memo))
            completion.after_abort(schema, lambda: self._renew(memo))
        if new:
            self._generations.mark(new)

    # -- inside

    def _request(self) -> _Request:
        schema = self.manager._current.require_schema()
        session: Session = sync_session(self.manager.session())
        return _Request(schema, session, self._memo_of(self.manager._completion(), session))

    def _memo_of(self, completion: Any, session: Session) -> Memo:
        """Return what is known in the transaction or unit of work."""
        memo = self._memos.get(completion)
        if memo is None:
            memo = self._memos[completion] = Memo()
        session.__dict__[MEMO] = memo
        return memo

    def _renew(self, memo: Memo) -> None:
        """Renew what the transaction changed, now that it is over."""
        keys, memo.touched = memo.touched, set()
        memo.forget()
        self._generations.renew(keys)

    def _make(self, descriptor: OrmCached[Any], instance: Any) -> str:
        """Make a value anew, and return it as it is kept."""
        with self._fresh_replicas():
            value = descriptor.create(instance, self.manager.signals.wait)
        return self._codec.encode(value, descriptor.name)

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
        self, request: _Request, place: tuple[Any, ...], keys: set[str], make: Callable[[], str]
    ) -> str:
        """Return a value from the region, or a new one.

        A new one is kept for others if all that it depends on was known to this process before
        the transaction began. Else it may be older than a change that was announced meanwhile.
        """
        if not request.memo.touched.isdisjoint(keys):
            return make()
        schema, name, *variant = place
        [kept_in] = self._full_keys(request.session, [f"{schema}:{name}:{_digest(variant)}"])
        observed = self._generations.observe(sorted(keys), kept_in)
        if observed is None:
            return make()
        number = self._identities.schema(request.session, schema, request.memo.identities)
        stamp = _digest([self._version, number, *observed.generations])
        kept = unstamped(observed.kept, stamp)
        if kept is not None:
            return kept
        if observed.known_since < self._began():
            return self._stampede.get(kept_in, stamp, make)
        return make()

    def _began(self) -> float:
        """Return when the sessions at work here took their first look at the database."""
        sessions = self.manager._store().all()
        return min((each.__dict__.get(BEGAN, math.inf) for each in sessions), default=math.inf)

    def _keys(self, request: _Request, descriptor: OrmCached[Any]) -> set[str]:
        """Return the keys of the generations that a value depends on."""
        schema, policy = request.schema, descriptor.policy
        names = [f"{_ALL}:{_ALL}", f"{schema}:{_ALL}"]
        if isinstance(policy, TableChange):
            tables = self._tables.get(descriptor)
            if tables is None:
                tables = self._tables[descriptor] = list(policy.resolve(self.catalogs()))
            for scope in (_ALL, schema):
                names += [self._table_key(scope, table) for table in tables]
        else:
            names.append(f"{schema}:{descriptor.name}")
        return self._full_keys(request.session, names)

    @staticmethod
    def _table_key(schema: str, table: Table) -> str:
        # A table that all customers share is outdated for all of them.
        return f"{_ALL if table.schema else schema}:table:{table.fullname}"

    def _full_keys(self, session: Session | None, names: Iterable[str]) -> set[str]:
        if session is None:
            with self.manager.sync_engine.connect() as connection:
                database = self._identities.database(lambda: connection)
        else:
            database = self._identities.database(session.connection)
        return {f"{database}:{name}" for name in names}


@dataclass(frozen=True, slots=True)
class _Request:
    """For which schema, in which session and transaction something is asked."""

    schema: SchemaName
    session: Session
    memo: Memo


def _digest(facts: Sequence[Any]) -> str:
    """Return a short text that stands for the facts."""
    text = json.dumps(facts, separators=(",", ":")).encode()
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
