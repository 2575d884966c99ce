"""Gets the manager that the configuration speaks of, from the user's own modules."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onegov_orm.cli._exits import Exit, Problem
from onegov_orm.cli._settings import Settings

if TYPE_CHECKING:
    from onegov_orm import SessionManager
    from onegov_orm._manager import BaseSessionManager
    from onegov_orm.fleet import Fleet

_FRAMES_SHOWN = 3

_NO_DATABASE = "which database? Nothing says so."
_HOW_TO_SAY = (
    'Set manager = "app.db:mgr", or dsn and base, in [tool.onegov_orm] of pyproject.toml; or '
    "ONEGOV_ORM_DSN; or use --dsn. `onegov-orm doctor` shows what is set, and where."
)


def load_fleet(settings: Settings, manager: BaseSessionManager) -> Fleet:
    """Return the fleet of a manager; an asynchronous one gets a synchronous companion."""
    # The help is shown without SQLAlchemy.
    from onegov_orm.fleet import Fleet
    from onegov_orm.fleet._companion import companion

    options = {name: settings[name] for name in ("migrations", "upgrades")}
    return Fleet(companion(manager), **options)


def load_manager(settings: Settings, needs_models: bool) -> BaseSessionManager:
    """Return the manager that is configured; one made here if there are dsn and base.

    It is not connected yet.
    """
    _prepend(settings)
    manager, dsn = settings.setting("manager"), settings.setting("dsn")
    if manager.value is None and dsn.value is None:
        raise Problem(_NO_DATABASE, hint=_HOW_TO_SAY)
    if manager.value is not None and dsn.value is not None and manager.rank == dsn.rank:
        raise Problem(
            f"{dsn.source}: manager and dsn are both set, and the manager has a dsn of its own",
            hint="Keep one of them.",
        )
    if dsn.rank > manager.rank:
        return _new_manager(settings, needs_models)
    return _given_manager(manager.value)


def load_object(path: str) -> Any:
    """Return what a text such as ``app.models:Base`` names; the user's modules print to stderr."""
    module_name, colon, attributes = path.partition(":")
    if not (module_name and colon and attributes):
        raise Problem(f'"{path}" has to look like "package.module:name"')
    found = _import(module_name)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise Problem(
                f'"{path}": {module_name} has nothing named {attribute}', Exit.USAGE
            ) from None
    return found


def _prepend(settings: Settings) -> None:
    folders = [settings.root / folder for folder in settings["pythonpath"] or ()]
    for folder in (Path.cwd(), settings.root, *reversed(folders)):
        text = str(folder)
        if text in sys.path:
            sys.path.remove(text)
        sys.path.insert(0, text)


def _given_manager(path: str) -> BaseSessionManager:
    # The help is shown without SQLAlchemy.
    from onegov_orm._manager import BaseSessionManager

    found = load_object(path)
    if not isinstance(found, BaseSessionManager) and callable(found):
        try:
            with redirect_stdout(sys.stderr):
                found = found()
        except Exception as exc:
            raise Problem(f"calling {path} failed: {_told(exc)}") from exc
    if not isinstance(found, BaseSessionManager):
        kind = type(found).__name__
        raise Problem(
            f'"{path}" is a {kind}, not a SessionManager, nor a function that returns one'
        )
    return found


def _new_manager(settings: Settings, needs_models: bool) -> SessionManager:
    # The help is shown without SQLAlchemy.
    from onegov_orm import SessionManager

    bases = [_load_base(path) for path in settings["base"] or ()]
    if not bases:
        if needs_models:
            raise Problem(
                "which models? This command has to know them.",
                hint='Set base = "app.models:Base", or use --base.',
            )
        bases = [_empty_base()]
    options = {
        name: settings[name]
        for name in ("reserved", "extensions_schema", "shared_schema", "migrations", "pooler")
        if settings[name] is not None
    }
    manager = SessionManager(settings["dsn"], bases[0], pool_config=_pool(settings), **options)
    manager.bases.extend(bases[1:])
    if settings["required_extensions"] is not None:
        manager.required_extensions.clear()
        manager.required_extensions.update(settings["required_extensions"])
    return manager


def _pool(settings: Settings) -> dict[str, Any] | None:
    """Return a pool that has a connection for each worker, and some for those who look on."""
    if settings["pooler"] is not None:
        return None
    return {"pool_size": settings["workers"] + 1, "max_overflow": 10}


def _load_base(path: str) -> Any:
    base = load_object(path)
    if not hasattr(base, "metadata"):
        raise Problem(f'"{path}" is a {type(base).__name__}, not a declarative base')
    return base


def _empty_base() -> Any:
    # The help is shown without SQLAlchemy.
    from sqlalchemy.orm import declarative_base

    return declarative_base()


def _import(name: str) -> Any:
    try:
        # What a module prints must not get between a script and its JSON.
        with redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise Problem(f"importing {name} failed: {_told(exc)}") from exc
        raise Problem(
            f"there is no module {exc.name}",
            hint=f"It was looked for in {os.pathsep.join(sys.path[:3])} and what is installed.",
        ) from None
    except (Exception, SystemExit) as exc:
        raise Problem(f"importing {name} failed: {_told(exc)}") from exc


def _told(exc: BaseException) -> str:
    """Return an error with the last places of the user's own files that led to it."""
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith(("<frozen", ours))
        and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    lines = "".join(traceback.format_list(frames[-_FRAMES_SHOWN:])).rstrip()
    told = "".join(traceback.format_exception_only(exc)).strip()
    return f"{told}\n{lines}" if lines else told
