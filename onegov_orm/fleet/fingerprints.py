"""Fingerprints: two schemas have the same one if they hold the same, whatever their names.

The rows are left out, the values of sequences, and the tables ``alembic_version`` and
``upgrades``. So are the order of columns, objects that belong to extensions, who owns the
schema, and its own comment, which is the library's mark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import TextClause, text

from onegov_orm.errors import PermissionDenied, SchemaNotFound
from onegov_orm.fleet import _sql_fingerprints

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row


# Made once: SQLAlchemy reads each of these long texts for its parameters.
_HASHES: Final = {group: text(sql) for group, sql in _sql_fingerprints.HASHES.items()}
_DETAILS: Final = {group: text(sql) for group, sql in _sql_fingerprints.DETAILS.items()}


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """One thing that a schema holds: what kind it is of, its name, and all the rest.

    Kinds are ``table``, ``column``, ``default``, ``constraint``, ``index``, ``type``,
    ``enum value``, ``sequence``, ``view``, ``function``, ``trigger``, and so on; ``comment``,
    ``privileges`` and ``owner`` are about another item. What belongs to a table is named
    after it: ``documents.title``.
    """

    kind: str
    name: str
    definition: str

    def as_dict(self) -> dict[str, str]:
        """Return the item, as JSON has it."""
        return {"kind": self.kind, "name": self.name, "definition": self.definition}


def fingerprints(connection: Connection, schemas: Iterable[str]) -> dict[str, str]:
    """Return the fingerprint of each schema; the server computes them, few queries for all.

    Schemas that do not exist are left out. Raises `PermissionDenied` for one that the role
    may not look into. The search path is the same afterwards. A transaction that looks at
    views keeps a lock on each that ends with it.
    """
    names = list(dict.fromkeys(str(schema) for schema in schemas))
    hashes = {name: hashlib.sha256() for name in _reachable(connection, names)}
    for group, row in _ask(connection, _HASHES, list(hashes)):
        hashes[row.schema].update(f"{group} {row.digest}\n".encode())
    return {name: hashes[name].hexdigest() for name in names if name in hashes}


def structure(connection: Connection, schema: str) -> tuple[Item, ...]:
    """Return all that the fingerprint of a schema is made of, sorted.

    Raises `SchemaNotFound` and `PermissionDenied`.
    """
    found = structures(connection, [schema])
    if schema not in found:
        raise SchemaNotFound(schema)
    return found[schema]


def structures(connection: Connection, schemas: Iterable[str]) -> dict[str, tuple[Item, ...]]:
    """Return the same for several schemas; those that do not exist are left out."""
    names = _reachable(connection, [str(schema) for schema in schemas])
    found: dict[str, list[Item]] = {name: [] for name in names}
    for _group, row in _ask(connection, _DETAILS, names):
        found[row.schema].append(Item(row.kind, row.name, row.definition))
    return {name: tuple(sorted(items)) for name, items in found.items()}


def usable(connection: Connection, schemas: Sequence[str]) -> dict[str, bool]:
    """Return which of the schemas exist, and whether the role may look into them."""
    rows = connection.execute(text(_sql_fingerprints.REACHABLE), {"schemas": list(schemas)})
    return {name: is_usable for name, is_usable, _role in rows}


def _reachable(connection: Connection, schemas: Sequence[str]) -> list[str]:
    """Return the schemas that exist; raises `PermissionDenied`."""
    sql = text(_sql_fingerprints.REACHABLE)
    rows = connection.execute(sql, {"schemas": list(schemas)}).all()
    for name, is_usable, role in rows:
        if not is_usable:
            advice = _sql_fingerprints.grant_usage(name, role)
            raise PermissionDenied(f"permission denied for schema {name}", advice)
    return [name for name, *_ in rows]


def _ask(
    connection: Connection, queries: Mapping[str, TextClause], schemas: Sequence[str]
) -> Iterator[tuple[str, Row[Any]]]:
    """Yield what each of the queries finds in the schemas, with the query's name."""
    if not schemas:
        return
    settings = connection.execute(text(_sql_fingerprints.SETTINGS)).one()
    connection.execute(text(_sql_fingerprints.SET_JIT), {"jit": "off"})
    parameters = {
        "schemas": list(schemas),
        "bookkeeping": list(_sql_fingerprints.BOOKKEEPING),
        "path": settings.path,
    }
    for name, sql in queries.items():
        # A query that found nothing returns a row of nulls.
        for row in connection.execute(sql, parameters):
            if row[0] is not None:
                yield name, row
    connection.execute(text(_sql_fingerprints.SET_JIT), {"jit": settings.jit})
