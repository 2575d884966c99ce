"""What both managers share: options, engine, session class and listeners; no I/O."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.orm import Session, sessionmaker

from onegov_orm._bulk import BulkEvents
from onegov_orm._changes import Announcer, FlushEvents
from onegov_orm._engine import (
    DEFAULT_ISOLATION_LEVEL,
    ConnectEvents,
    make_engine,
    parse_dsn,
    refuse_owned,
)
from onegov_orm._identity import IdentityEvents
from onegov_orm._pool import Holders, PoolEvents
from onegov_orm._search_path import SearchPathEvents
from onegov_orm._session import SchemaSession
from onegov_orm._stamp import revision_stamp
from onegov_orm.context import Current, switched_on
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
from onegov_orm.signals import Signals
from onegov_orm.transactions import CompletionEvents, JoiningEvents
from onegov_orm.typing import DeclarativeBase, IsolationLevel

if TYPE_CHECKING:
    from blinker import Signal
    from sqlalchemy.engine import URL, Engine

REQUIRED_EXTENSIONS: Final = frozenset({"btree_gist", "hstore", "unaccent"})

#: For how many schemas the derived engine, which has no connections of its own, is kept.
_MAX_KEPT_ENGINES: Final = 256

#: What a session's configuration can't set: these make a session work in its schema.
_OWNED_BY_MANAGER: Final = ("bind", "binds", "info")

_active: ContextVar[weakref.ref[BaseSessionManager] | None] = ContextVar("active", default=None)


class SessionFactory(sessionmaker[Any]):
    """Makes sessions that work in the current schema, unless they are bound otherwise."""

    def __init__(self, options: Callable[[], dict[str, Any]], **config: Any) -> None:
        super().__init__(**config)
        self._options = options

    def __call__(self, **config: Any) -> Any:
        """Make a session; raises `NoCurrentSchema` without a schema to work in."""
        return super().__call__(**(config if "bind" in config else self._options() | config))


class BaseSessionManager:
    """The state and the decisions of a manager; see `SessionManager` for the options."""

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
    ) -> None:
        self.url = parse_dsn(dsn)
        #: The database's URL as it was given, password included.
        self.dsn = dsn if isinstance(dsn, str) else dsn.render_as_string(hide_password=False)
        self.bases: list[DeclarativeBase] = [base]
        self.required_extensions = set(REQUIRED_EXTENSIONS)
        self.signals = Signals()
        self.transaction_manager = transaction_manager
        if isinstance(reserved, str):
            raise ConfigurationError(f"reserved takes a collection of names, not {reserved!r}")
        self.reserved = RESERVED | {extensions_schema, shared_schema} | frozenset(reserved)
        self._current = Current()
        self._announcer = Announcer(self.signals, self._current)
        self.provisioner = Provisioner(
            self.bases,
            self.required_extensions,
            self.signals,
            str(SchemaName(extensions_schema, reserved=())),
            str(SchemaName(shared_schema, reserved=())),
        )
        if migrations is not None:
            self.provisioner.stamps.append(revision_stamp(migrations))
        self._holders = Holders()
        self._pool_events = PoolEvents(self._holders)
        self._engine_listeners = (
            ConnectEvents(extensions_schema, strict, pipeline),
            SearchPathEvents(extensions_schema, self._holders),
            self._pool_events,
        )
        self._identity = IdentityEvents()
        self._known_bases: list[DeclarativeBase] = []
        self._listen_to_bases()
        self._keep_session = keep_session
        self._completions = CompletionEvents(self.signals, self._announcer, transaction_manager)
        self.engine = make_engine(
            self.url, engine_config, pool_config, isolation_level, self._holders
        )
        self.register_engine(self.engine)
        self._engine_of = lru_cache(maxsize=_MAX_KEPT_ENGINES)(self._derive_engine)
        self.session_factory = self._make_session_factory(session_config)
        self.register_session(self.session_factory)

    # -- names kept for callers

    @property
    def on_schema_init(self) -> Signal:
        """The signal of a new schema, with its connection, before the commit."""
        return self.signals.on_schema_init

    @property
    def on_transaction_join(self) -> Signal:
        """The signal of a session that begins a transaction."""
        return self.signals.on_transaction_join

    @property
    def on_insert(self) -> Signal:
        """The signal of an object that was inserted."""
        return self.signals.on_insert

    @property
    def on_update(self) -> Signal:
        """The signal of an object that was updated."""
        return self.signals.on_update

    @property
    def on_delete(self) -> Signal:
        """The signal of an object that was deleted."""
        return self.signals.on_delete

    @property
    def on_commit(self) -> Signal:
        """The signal of a committed transaction, with its net changes."""
        return self.signals.on_commit

    @property
    def on_hook_error(self) -> Signal:
        """The signal of post-processing that failed."""
        return self.signals.on_hook_error

    @property
    def created_schemas(self) -> set[str]:
        """The schemas that this process made, or found complete."""
        return self.provisioner.created_schemas

    @property
    def created_extensions(self) -> set[str]:
        """The extensions that this process made, or found."""
        return self.provisioner.created_extensions

    @property
    def current_schema(self) -> str | None:
        """The schema that is current in this thread or task, None if there is none."""
        return self._current.schema

    @property
    def default_locale(self) -> str | None:
        """The locale that translations fall back to, in this thread or task."""
        return self._current.default_locale.get()

    @default_locale.setter
    def default_locale(self, value: str | None) -> None:
        self._current.default_locale.set(value)

    @property
    def current_locale(self) -> str | None:
        """The locale of this thread or task."""
        return self._current.current_locale.get()

    @current_locale.setter
    def current_locale(self, value: str | None) -> None:
        self._current.current_locale.set(value)

    def set_locale(self, default_locale: str | None, current_locale: str | None) -> None:
        """Set the locales of this thread or task."""
        self.default_locale = default_locale
        self.current_locale = current_locale

    # -- the active manager

    def set_active(self) -> None:
        """Make this the active manager of this thread or task; it is held weakly."""
        _active.set(weakref.ref(self))

    @staticmethod
    def get_active() -> Any | None:
        """Return the active manager of this thread or task, None if there is none."""
        reference = _active.get()
        return None if reference is None else reference()

    def activate(self) -> None:
        """Make this the active manager; the same as `set_active`."""
        self.set_active()

    def deactivate(self) -> None:
        """Have no active manager any more, if it is this one."""
        if self.get_active() is self:
            _active.set(None)

    # -- switches, each for the current thread or task alone

    def ignore_bulk_updates(self) -> AbstractContextManager[None]:
        """Let bulk updates through inside the block, without announcing them."""
        return switched_on(self._current.ignores_bulk_updates)

    def ignore_bulk_deletes(self) -> AbstractContextManager[None]:
        """Let bulk deletes through inside the block, without announcing them."""
        return switched_on(self._current.ignores_bulk_deletes)

    def disable_change_signals(self) -> AbstractContextManager[None]:
        """Announce no changes made inside the block, not in ``on_commit`` either."""
        return switched_on(self._current.is_silent)

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
        for listener in self._engine_listeners:
            listener.attach(engine)

    def register_session(self, session: Any) -> None:
        """Make sessions take part in transactions and signals.

        Takes a session, a session class, a sessionmaker or a scoped session.
        """
        if self.transaction_manager is not None:
            JoiningEvents(self.transaction_manager, self._keep_session).attach(session)
        for listener in (
            self._completions,
            FlushEvents(self._announcer),
            BulkEvents(self._announcer),
            self._identity,
        ):
            listener.attach(session)

    def options_of(self, schema: SchemaName) -> dict[str, Any]:
        """Return what makes a session work in the schema, as its constructor takes it."""
        return {
            "bind": self._engine_of(schema),
            "info": {"schema": schema},
        }

    def _derive_engine(self, schema: SchemaName) -> Engine:
        """Return the engine as it is for one schema: the same pool, other options."""
        return self.engine.execution_options(schema=schema)

    def _make_session_factory(self, session_config: Mapping[str, Any] | None) -> SessionFactory:
        config = dict(session_config or {})
        refuse_owned(config)
        for name in _OWNED_BY_MANAGER:
            if name in config:
                raise ConfigurationError(
                    f"{name} can't be set in session_config: the manager sets it for each session"
                )
        self._expires = config.get("expire_on_commit")
        given = config.pop("class_", Session)
        bases = (SchemaSession,) if given is Session else (SchemaSession, given)
        attributes = {
            "announcer": self._announcer,
            "joins_transaction": self.transaction_manager is not None,
        }
        session_class = type("SchemaSession", bases, attributes)
        return SessionFactory(self._current_options, class_=session_class, **config)

    def _current_options(self) -> dict[str, Any]:
        return self.options_of(self._current.require_schema())

    def _listen_to_bases(self) -> None:
        """Listen to the bases that were added since the last time."""
        if len(self._known_bases) != len(self.bases):
            for base in self.bases:
                if base not in self._known_bases:
                    self._known_bases.append(base)
                    self._identity.attach_base(base)
