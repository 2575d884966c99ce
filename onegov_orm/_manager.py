"""What both managers share: options, engine, session class and listeners; no I/O."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from sqlalchemy.orm import Session, sessionmaker

from onegov_orm._bulk import BulkEvents
from onegov_orm._changes import Announcer, FlushEvents
from onegov_orm._connecting import ConnectEvents, Kind
from onegov_orm._engine import (
    DEFAULT_ISOLATION_LEVEL,
    make_engine,
    parse_dsn,
    refuse_owned,
)
from onegov_orm._flush_hooks import FlushHookEvents
from onegov_orm._identity import IdentityEvents
from onegov_orm._manager_context import ManagerContext
from onegov_orm._pool import Holders, PoolEvents
from onegov_orm._prelude import Access
from onegov_orm._readonly import ReadOnlyEvents
from onegov_orm._search_path import SearchPathEvents
from onegov_orm._session import SchemaSession
from onegov_orm._stamp import RevisionStamp
from onegov_orm._standing import DEFAULT_MAX_SCHEMAS
from onegov_orm._upgrade_state import UpgradeStamp
from onegov_orm.context import Current
from onegov_orm.errors import ConfigurationError
from onegov_orm.names import (
    EXTENSIONS_SCHEMA,
    RESERVED,
    SHARED_SCHEMA,
    SchemaName,
    broken_rule,
    parsed,
)
from onegov_orm.provisioning import Provisioner
from onegov_orm.replicas import Replicas
from onegov_orm.signals import Signals
from onegov_orm.transactions import CompletionEvents, JoiningEvents
from onegov_orm.typing import DeclarativeBase, IsolationLevel

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

REQUIRED_EXTENSIONS: Final = frozenset({"btree_gist", "hstore", "unaccent"})

#: How old the data of a replica may be.
MAX_LAG_SECONDS: Final = 10.0

#: The strictest one that a hot standby can have.
_STANDBY_ISOLATION_LEVEL: Final = "REPEATABLE READ"

#: For how many schemas the derived engine, which has no connections of its own, is kept.
_MAX_KEPT_ENGINES: Final = 256

#: What a session's configuration can't set: these make a session work in its schema.
_OWNED_BY_MANAGER: Final = ("bind", "binds", "info")


class SessionFactory(sessionmaker[Any]):
    """Makes sessions that work in the current schema, unless they are bound otherwise."""

    def __init__(self, options: Callable[[], dict[str, Any]], **config: Any) -> None:
        super().__init__(**config)
        self._options = options

    def __call__(self, **config: Any) -> Any:
        """Make a session; raises `NoCurrentSchema` without a schema to work in."""
        return super().__call__(**(config if "bind" in config else self._options() | config))


class BaseSessionManager(ManagerContext):
    """The state and the decisions of a manager; see `SessionManager` for the options."""

    _is_async: ClassVar[bool] = False
    _known_bases: tuple[DeclarativeBase, ...] = ()

    def __init__(
        self,
        dsn: str | URL,
        base: DeclarativeBase,
        engine_config: Mapping[str, Any] | None = None,
        session_config: Mapping[str, Any] | None = None,
        pool_config: Mapping[str, Any] | None = None,
        *,
        isolation_level: IsolationLevel = DEFAULT_ISOLATION_LEVEL,
        transaction_manager: Any | None = None,
        keep_session: bool = False,
        strict: bool = False,
        pipeline: bool | None = None,
        reserved: Collection[str] = (),
        extensions_schema: str = EXTENSIONS_SCHEMA,
        shared_schema: str = SHARED_SCHEMA,
        migrations: str | os.PathLike[str] | None = None,
        pooler: Literal["external"] | None = None,
        replicas: Iterable[str | URL] = (),
        max_lag_seconds: float = MAX_LAG_SECONDS,
        trace_connections: bool = False,
        upgrades: Iterable[str | ModuleType] | None = None,
        max_schemas_per_connection: int = DEFAULT_MAX_SCHEMAS,
        scopes: Collection[str] = (),
    ) -> None:
        self.url = parse_dsn(dsn, self._is_async)
        #: The database's URL as it was given, password included.
        self.dsn = dsn if isinstance(dsn, str) else dsn.render_as_string(hide_password=False)
        #: What the engine was made with, for processes and threads that make one like it.
        self.engine_config = dict(engine_config or {})
        self.isolation_level = isolation_level
        self.pooler = pooler
        self.bases: list[DeclarativeBase] = [base]
        self.required_extensions = set(REQUIRED_EXTENSIONS)
        #: What lives as long as the manager, such as caches that hear of its changes.
        self.companions: list[Any] = []
        self.signals = Signals(self._wait, self._shell)
        self.transaction_manager = transaction_manager
        own = {extensions_schema, shared_schema}
        self.reserved = RESERVED | own | _collection("reserved", reserved)
        #: The scopes whose observers run in the flushes of the sessions.
        self.scopes = _collection("scopes", scopes)
        self._current = Current()
        self._announcer = Announcer(self.signals, self._current)
        self.provisioner = self._new_provisioner(extensions_schema, shared_schema)
        self._stamp_new_schemas(migrations, upgrades)
        self._holders = Holders(trace_connections)
        self._pool_events = PoolEvents(self._holders)
        self._kind = Kind(
            extensions_schema,
            strict,
            pipeline,
            is_external=pooler is not None,
            max_schemas=max_schemas_per_connection,
            forget=self.provisioner.forget,
        )
        self._identity = IdentityEvents()
        self.listen_to_bases()
        self._keep_session = keep_session
        self._completions = CompletionEvents(self.signals, self._announcer, transaction_manager)
        self._make_engines(pool_config, replicas, max_lag_seconds)
        self._engine_of = lru_cache(maxsize=_MAX_KEPT_ENGINES)(self._derive_engine)
        self.session_factory = self._make_session_factory(session_config)
        self.register_session(self.session_factory)

    def _new_provisioner(self, extensions_schema: str, shared_schema: str) -> Provisioner:
        return Provisioner(
            self.bases,
            self.required_extensions,
            self.signals,
            str(SchemaName(extensions_schema, reserved=())),
            str(SchemaName(shared_schema, reserved=())),
        )

    def _stamp_new_schemas(
        self,
        migrations: str | os.PathLike[str] | None,
        upgrades: Iterable[str | ModuleType] | None,
    ) -> None:
        """Have new schemas begin at the newest revision, with all upgrade tasks done."""
        #: The folder of the Alembic environment, and the modules with upgrade tasks.
        self.migrations = migrations
        if isinstance(upgrades, (str, ModuleType)):
            raise ConfigurationError(f"upgrades takes a list of modules, not {upgrades!r}")
        self.upgrades = upgrades if upgrades is None else tuple(upgrades)
        if self.migrations is not None:
            self.provisioner.stamps.append(RevisionStamp(self.migrations))
        self.provisioner.stamps.append(UpgradeStamp(self.upgrades))

    # -- names

    def parse_schema(self, schema: object) -> SchemaName:
        """Return the name of a customer's schema; raises `InvalidSchemaName`."""
        if type(schema) is str:
            return parsed(schema, self.reserved)
        return SchemaName(schema, self.reserved)

    def is_valid_schema(self, schema: object) -> bool:
        """Tell whether a customer's schema may have this name."""
        return broken_rule(schema, self.reserved) is None

    # -- engines and sessions

    def register_engine(self, engine: Engine) -> None:
        """Make an engine's connections work in the schema of the session they are used for."""
        self._attach_to_engine(getattr(engine, "sync_engine", engine), self._kind)

    def _attach_to_engine(self, engine: Engine, kind: Kind) -> None:
        for listener in (
            ConnectEvents(kind),
            SearchPathEvents(kind.extensions_schema, self._holders),
            self._pool_events,
        ):
            listener.attach(engine)

    def register_session(self, session: Any) -> None:
        """Make sessions take part in transactions and signals.

        Takes a session, a session class, a sessionmaker or a scoped session; an asynchronous
        manager takes an asynchronous session or sessionmaker too.
        """
        session = self._synchronous(session)
        if self.transaction_manager is not None:
            JoiningEvents(self.transaction_manager, self._keep_session).attach(session)
        for listener in (
            ReadOnlyEvents(),
            self._completions,
            FlushEvents(self._announcer),
            FlushHookEvents(self.scopes, self._announcer),
            BulkEvents(self._announcer),
            self._identity,
        ):
            listener.attach(session)

    def options_of(self, schema: SchemaName, access: Access | None = None) -> dict[str, Any]:
        """Return what makes a session work in the schema, as its constructor takes it."""
        return {
            "bind": self._engine_of(schema, access),
            "info": {"schema": schema},
        }

    def _derive_engine(self, schema: SchemaName, access: Access | None) -> Any:
        """Return the engine as it is for one schema: the same pool, other options."""
        options: dict[str, Any] = {"schema": schema}
        if access is not None:
            options["access"] = access
            # A standby can't be serializable.
            options["route"] = self.replicas if access is Access.READ_ONLY else None
        return self.sync_engine.execution_options(**options)

    def _make_engines(
        self,
        pool_config: Mapping[str, Any] | None,
        replicas: Iterable[str | URL],
        max_lag_seconds: float,
    ) -> None:
        make = partial(
            make_engine,
            engine_config=self.engine_config,
            pool_config=pool_config,
            holders=self._holders,
            is_async=self._is_async,
            pooler=self.pooler,
        )
        #: The synchronous engine; an asynchronous one is a shell around it.
        self.sync_engine = make(self.url, isolation_level=self.isolation_level)
        self.register_engine(self.sync_engine)
        self.replicas = self._make_replicas(make, replicas, max_lag_seconds)
        self._completions.on_write = self.replicas.wrote if self.replicas else None

    def _make_replicas(
        self, make: Callable[..., Engine], dsns: Iterable[str | URL], max_lag_seconds: float
    ) -> Replicas | None:
        """Return the route of the reading sessions, None without replicas."""
        if isinstance(dsns, str):
            raise ConfigurationError(f"replicas takes a collection of URLs, not {dsns!r}")
        if not max_lag_seconds > 0:
            raise ConfigurationError(f"max_lag_seconds has to be positive, not {max_lag_seconds}")
        urls = [parse_dsn(dsn, self._is_async) for dsn in dsns]
        if any(url.drivername != self.url.drivername for url in urls):
            raise ConfigurationError("the replicas' URLs have to name the driver of the dsn")
        engines = []
        for url in urls:
            engine = make(url, isolation_level=_STANDBY_ISOLATION_LEVEL)
            self._attach_to_engine(engine, replace(self._kind, is_replica=True))
            engines.append(engine)
        if not engines:
            return None
        launch = self._launcher()
        return Replicas(self.sync_engine, engines, self._current, max_lag_seconds, launch)

    def _synchronous(self, session: Any) -> Any:
        """Return what has the events of a session, or of what makes sessions."""
        return session

    # What listeners keep has no way back to the manager: sessions' events live for ever.

    @staticmethod
    def _wait(awaitable: Any) -> Any:
        """Wait for what a hook returned; raises `ConfigurationError` where that can't be."""
        raise NotImplementedError

    @staticmethod
    def _shell(value: Any) -> Any:
        """Return what coroutine functions get in the place of a session or a connection."""
        return value

    def _launcher(self) -> Callable[[Callable[[], Any]], None]:
        """Return what runs work in the background."""
        raise NotImplementedError

    def _make_session_factory(self, session_config: Mapping[str, Any] | None) -> Any:
        config = dict(session_config or {})
        refuse_owned(config)
        for name in _OWNED_BY_MANAGER:
            if name in config:
                raise ConfigurationError(
                    f"{name} can't be set in session_config: the manager sets it for each session"
                )
        self._expires = config.get("expire_on_commit")
        bases = self._session_bases(config)
        attributes = {
            "announcer": self._announcer,
            "manager": weakref.ref(self),
            "joins_transaction": self.transaction_manager is not None,
        }
        session_class = type("SchemaSession", bases, attributes)
        return self._new_factory(session_class, config)

    def _session_bases(self, config: dict[str, Any]) -> tuple[type[Any], ...]:
        """Take the caller's session class out of the configuration, and add ours."""
        return with_base(SchemaSession, Session, config.pop("class_", Session))

    def _new_factory(self, session_class: type[Any], config: dict[str, Any]) -> Any:
        return SessionFactory(self._current_options, class_=session_class, **config)

    def _current_options(self) -> dict[str, Any]:
        return self.options_of(self._current.require_schema())

    def listen_to_bases(self) -> None:
        """Listen to the bases that were added since the last time."""
        if len(self._known_bases) != len(self.bases):
            for base in self.bases:
                if base not in self._known_bases:
                    self._known_bases = (*self._known_bases, base)
                    self._identity.attach_base(base)


def _collection(option: str, names: Collection[str]) -> frozenset[str]:
    """Return the names that an option has; raises `ConfigurationError` for a single text."""
    if isinstance(names, str):
        raise ConfigurationError(f"{option} takes a collection of names, not {names!r}")
    return frozenset(names)


def with_base(own: type[Any], default: type[Any], given: type[Any]) -> tuple[type[Any], ...]:
    """Return the bases of a class of ours that may have a base class of the caller's."""
    return (own,) if given is default else (own, given)
