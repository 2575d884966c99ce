"""What is configured, and where each value comes from."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from onegov_orm.cli._exits import Problem
from onegov_orm.cli._files import ConfigFile, find_files

PREFIX: Final = "ONEGOV_ORM_"

Kind = Literal["text", "texts", "path", "integer", "number"]


@dataclass(frozen=True)
class Key:
    """One thing that can be configured."""

    name: str
    kind: Kind
    help: str
    default: Any = None

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()


KEYS: Final = {
    key.name: key
    for key in (
        Key("manager", "text", "a SessionManager, or a function that returns one: app.db:mgr"),
        Key("dsn", "text", "the database's URL, if there is no manager"),
        Key("base", "texts", "the declarative bases of the models: app.models:Base"),
        Key("migrations", "path", "the folder of the Alembic environment"),
        Key("upgrades", "texts", "the modules with upgrade tasks"),
        Key("shared_schema", "text", "where the tables live that all customers share"),
        Key("extensions_schema", "text", "where the extensions live"),
        Key("required_extensions", "texts", "the extensions that a database has to have"),
        Key("reserved", "texts", "more names that no customer may have"),
        Key("pooler", "text", "external: behind a PgBouncer"),
        Key("pythonpath", "texts", "more folders to import from"),
        Key("namespace", "text", "work with the schemas of this namespace"),
        Key("workers", "integer", "how many schemas are worked on at the same time", 4),
        Key("lock_timeout_seconds", "number", "how long to wait for a lock", 10.0),
        Key("tries", "integer", "how often a schema is tried whose locks are taken", 3),
    )
}


@dataclass(frozen=True)
class Setting:
    """A value and where it comes from."""

    value: Any
    source: str
    rank: int


class Settings:
    """The configuration: flags before environment, pyproject.toml, setup.cfg, defaults."""

    def __init__(
        self, flags: Mapping[str, Any], environment: Mapping[str, str], directory: Path
    ) -> None:
        given = flags.get("config") or environment.get(f"{PREFIX}CONFIG")
        self.files = find_files(directory, Path(given) if given else None)
        #: What relative paths in the files start from.
        self.root = self.files[0].path.parent if self.files else directory
        self._values = {name: Setting(key.default, "default", 0) for name, key in KEYS.items()}
        for file in reversed(self.files):
            self._read_file(file)
        for key in KEYS.values():
            text = environment.get(key.variable)
            if text:
                self._set(key, text, f"environment: {key.variable}", directory, 3)
            if flags.get(key.name):
                flag = f"flag: --{key.name.replace('_', '-')}"
                self._set(key, flags[key.name], flag, directory, 4)
        self._find_migrations()

    def __getitem__(self, name: str) -> Any:
        """Return a value; None if it is not configured and has no default."""
        return self._values[name].value

    def setting(self, name: str) -> Setting:
        """Return a value with its source."""
        return self._values[name]

    def as_rows(self) -> list[dict[str, Any]]:
        """Return all values with their sources, passwords masked."""
        return [
            {"name": name, "value": _masked(setting.value), "source": setting.source}
            for name, setting in self._values.items()
        ]

    def _read_file(self, file: ConfigFile) -> None:
        if not isinstance(file.values, dict):
            raise Problem(f"{file.path}: {file.section} has to be a table")
        for name, value in file.values.items():
            key = KEYS.get(name)
            if key is None:
                raise Problem(
                    f'{file.path}: there is no option "{name}" in [{file.section}]{nearest(name)}'
                )
            self._set(key, value, file.path.name, file.path.parent, file.rank)

    def _set(self, key: Key, value: Any, source: str, directory: Path, rank: int) -> None:
        try:
            parsed = _parse(key.kind, value, directory)
        except (TypeError, ValueError):
            raise Problem(f"{source}: {key.name} has to be {_WANTED[key.kind]}") from None
        self._values[key.name] = Setting(parsed, source, rank)

    def _find_migrations(self) -> None:
        folder = self.root / "migrations"
        if self["migrations"] is None and (folder / "env.py").is_file():
            self._values["migrations"] = Setting(folder, "found beside the configuration", 0)


_WANTED: Final = {
    "text": "a text",
    "texts": "a text or a list of texts",
    "path": "a path",
    "integer": "a whole number from 1 up",
    "number": "a number above 0",
}


def nearest(name: str) -> str:
    """Return a question that names the option that was meant, if one looks like it."""
    found = difflib.get_close_matches(name, KEYS, n=1)
    known = f". The options are: {', '.join(KEYS)}"
    return f': did you mean "{found[0]}"?' if found else known


def mask(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    text = re.sub(r"(://[^:/@\s]*:)[^\s/]*@", r"\1***@", text)
    return re.sub(r"(\bpassword=)('[^']*'|[^\s&]+)", r"\1***", text)


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(each) for each in value]
    return mask(os.fspath(value)) if isinstance(value, (str, Path)) else value


def _parse(kind: Kind, value: Any, directory: Path) -> Any:
    if kind == "texts":
        return _texts(value)
    if kind == "integer":
        return _positive(int(str(value)), value)
    if kind == "number":
        return _positive(float(value), value)
    if not isinstance(value, (str, Path)):
        raise TypeError
    return (directory / value).resolve() if kind == "path" else str(value).strip()


def _positive(number: float, given: Any) -> float:
    # A truth value is a number to Python, but hardly one to who wrote it.
    if isinstance(given, bool) or not 0 < number < math.inf:
        raise ValueError
    return number


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value) if part]
    if not all(isinstance(each, str) for each in value):
        raise TypeError
    return list(value)
