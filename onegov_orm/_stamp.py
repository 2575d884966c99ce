"""Notes in a new schema that it is at the newest revision of the migrations."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table
from sqlalchemy.schema import CreateTable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.names import SchemaName

#: Alembic's own table, as Alembic makes it.
_VERSIONS: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


#: What Alembic takes for a revision, and where else it may look for them.
_SCRIPT: Final = re.compile(r"(?!\.\#|__init__)(.*\.py)$")
_ELSEWHERE: Final = re.compile(
    r"^\s*(version_locations|recursive_version_locations|sourceless)\s*=", re.MULTILINE
)


class RevisionStamp:
    """Stamps a new schema with the heads of an Alembic environment.

    Alembic is loaded only if the heads can't be told from the text of the scripts. They are read
    again when a script has changed.
    """

    def __init__(self, migrations: str | os.PathLike[str]) -> None:
        self._migrations = migrations
        self._known: tuple[object, list[str]] | None = None

    def __call__(self, connection: Connection, schema: SchemaName) -> None:
        """Write the heads into Alembic's table."""
        heads = self._heads
        connection.execute(CreateTable(_VERSIONS, if_not_exists=True))
        connection.execute(_VERSIONS.delete())
        if heads:
            connection.execute(_VERSIONS.insert(), [{"version_num": head} for head in heads])

    def identity(self) -> str:
        """Return the heads."""
        return " ".join(self._heads)

    @property
    def _heads(self) -> list[str]:
        signature = _signature(self._migrations)
        known = self._known
        if known is None or signature is None or known[0] != signature:
            known = self._known = (signature, sorted(read_heads(self._migrations)))
        return known[1]


def read_heads(migrations: str | os.PathLike[str]) -> frozenset[str]:
    """Return the newest revisions; raises Alembic's ``CommandError``."""
    quick = quick_heads(migrations)
    if quick is not None:
        return quick
    # Alembic costs time and memory that only those have to pay who need it.
    from alembic.script import ScriptDirectory

    scripts: Any = ScriptDirectory(os.fspath(migrations)).get_revisions("heads")
    return frozenset(script.revision for script in scripts)


def quick_heads(migrations: str | os.PathLike[str]) -> frozenset[str] | None:
    """Return the newest revisions as the text of the scripts tells; None if it does not."""
    configuration = Path(migrations).absolute().parent / "alembic.ini"
    if configuration.is_file() and _ELSEWHERE.search(configuration.read_text(errors="replace")):
        return None
    try:
        nodes = [_node_of(path) for path in _script_files(migrations)]
    except (OSError, SyntaxError, ValueError, LookupError, TypeError):
        return None
    revisions = {revision for revision, _ in nodes}
    previous = {name for _, names in nodes for name in names}
    if len(revisions) != len(nodes) or not previous <= revisions:
        return None
    return frozenset(revisions - previous)


def _node_of(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return a revision and what it needs; raises an error unless both are plain values."""
    values: dict[str, Any] = {}
    for node in ast.parse(path.read_bytes()).body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in _NAMES:
                values[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    needed: list[str] = []
    for name in ("down_revision", "depends_on"):
        value = values.get(name) or ()
        needed.extend([value] if isinstance(value, str) else value)
    return str(values["revision"]), tuple(needed)


_NAMES: Final = ("revision", "down_revision", "depends_on")


def _script_files(migrations: str | os.PathLike[str]) -> list[Path]:
    return sorted(
        path for path in (Path(migrations) / "versions").iterdir() if _SCRIPT.match(path.name)
    )


def _signature(migrations: str | os.PathLike[str]) -> object:
    """Return what changes with the scripts on disk, None if there are none."""
    try:
        stats = [(path.name, path.stat()) for path in _script_files(migrations)]
    except OSError:
        return None
    return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]
