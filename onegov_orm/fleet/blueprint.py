"""The structure of one schema, written down as statements that do not name the schema.

Executed with another schema on the search path, they make the same there. The server writes
them: with the schema alone on the search path, it names what lives there without a schema,
and everything else with one. See `_sql_blueprint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from onegov_orm.errors import SchemaNotFound, UncloneableObject
from onegov_orm.fleet import (
    _sql_blueprint,
    _sql_blueprint_parts,
    _sql_blueprint_rest,
    _sql_cloning,
)
from onegov_orm.fleet._blueprint_order import Address, Dependency, Node, Order
from onegov_orm.fleet._blueprint_prelude import work_in
from onegov_orm.names import SchemaName

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_QUERIES: Final = (
    _sql_blueprint.TYPES,
    _sql_blueprint.SEQUENCES,
    _sql_blueprint.FUNCTIONS,
    _sql_blueprint.AGGREGATES,
    _sql_blueprint.TABLES,
    _sql_blueprint_parts.PARTITIONS,
    _sql_blueprint_parts.DEFAULTS,
    _sql_blueprint_parts.VIEWS,
    _sql_blueprint_parts.INDEXES,
    _sql_blueprint_parts.CONSTRAINTS,
    _sql_blueprint_parts.INDEX_PARTITIONS,
    _sql_blueprint_parts.STATISTICS,
    _sql_blueprint_parts.SETTINGS,
    _sql_blueprint.SEQUENCE_OWNERS,
    _sql_blueprint_parts.REFRESHES,
    _sql_blueprint_parts.RULES,
    _sql_blueprint_parts.TRIGGERS,
    _sql_blueprint_parts.TRIGGER_STATES,
    _sql_blueprint_parts.POLICIES,
    _sql_blueprint_parts.ROW_SECURITY,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One object of a schema: what it is, its name, and the statements that make it."""

    kind: str
    name: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table that holds rows: its columns, and the table that takes its rows.

    A column comes with its type, if that lives in the schema itself.
    """

    name: str
    columns: tuple[tuple[str, str | None], ...]
    into: str
    is_row_security_active: bool = False

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns that are not generated."""
        return tuple(name for name, _ in self.columns)


@dataclass(frozen=True, slots=True)
class Privilege:
    """What a role may do with an object; no role means everybody, no privileges nothing.

    ``target`` is the object as a statement names it, empty for the schema itself. The owner is
    not named: in another schema it is who made that.
    """

    target: str
    columns: str | None
    role: str | None
    is_owner: bool
    privileges: str | None
    is_grantable: bool


@dataclass(frozen=True, slots=True)
class DefaultPrivilege:
    """What a role may do with objects that will be made; the maker is None for the owner."""

    maker: str | None
    target: str
    role: str | None
    is_owner: bool
    privileges: str
    is_grantable: bool


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The structure of a schema: what the rows need, and what is made after them."""

    schema: str
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    tables: tuple[TableRows, ...]
    sequences: tuple[str, ...]
    extensions: tuple[tuple[str, str], ...] = ()
    privileges: tuple[Privilege, ...] = ()
    default_privileges: tuple[DefaultPrivilege, ...] = ()
    owners: tuple[tuple[str, str], ...] = ()

    @property
    def pieces(self) -> Iterator[Piece]:
        """All objects."""
        yield from self.before
        yield from self.after

    @property
    def roles(self) -> set[str]:
        """The roles that privileges and owners are about."""
        named = {each.role for each in self.privileges if not each.is_owner}
        named |= {each.role for each in self.default_privileges if not each.is_owner}
        named |= {each.maker for each in self.default_privileges}
        return {name for name in named if name is not None} | {owner for _, owner in self.owners}

    def digest(self) -> str:
        """Return what is equal for equal structures, whatever made them in which order."""
        lines = sorted(
            f"{piece.kind}\0{piece.name}\0{sql}"
            for piece in self.pieces
            for sql in piece.statements
        )
        return hashlib.sha256("\0\0".join(lines).encode()).hexdigest()

    def difference(self, other: Blueprint) -> str | None:
        """Return the name of the first object that another structure has not, or has otherwise."""
        own = {(piece.kind, piece.name): set(piece.statements) for piece in self.pieces}
        others = {(piece.kind, piece.name): set(piece.statements) for piece in other.pieces}
        different = [key for key in own.keys() | others.keys() if own.get(key) != others.get(key)]
        return " ".join(min(different)) if different else None


def read_blueprint(connection: Connection, schema: SchemaName) -> Blueprint:
    """Write down the structure of a schema, in the connection's transaction.

    Raises `SchemaNotFound`, and `UncloneableObject` for what can't be written down. The
    connection works with the schema alone afterwards, until its transaction ends.
    """
    oid = connection.execute(text(_sql_blueprint_rest.SCHEMA_OID), {"schema": schema}).scalar()
    if oid is None:
        raise SchemaNotFound(schema)
    reader = _Reader(connection, oid)
    # What the schema has of the server's own kind could come between, hence before the path.
    strangers = reader.rows(_sql_blueprint_rest.UNCLONEABLE)
    if strangers:
        raise UncloneableObject([(kind, name) for kind, name in strangers])
    work_in(connection, schema)
    return reader.read(schema)


class _Reader:
    """Asks for all parts of one schema."""

    def __init__(self, connection: Connection, oid: int) -> None:
        self._connection = connection
        self._parameters = {"namespace": oid}

    def rows(self, query: str) -> list[Any]:
        return list(self._connection.execute(text(query), self._parameters).all())

    def read(self, schema: SchemaName) -> Blueprint:
        rest = _sql_blueprint_rest
        before, after = self._order()
        tables = [_table_rows(row) for row in self.rows(_sql_cloning.TABLE_ROWS)]
        granted = [*self.rows(rest.SCHEMA_PRIVILEGES), *self.rows(rest.PRIVILEGES)]
        return Blueprint(
            str(schema),
            tuple(before),
            (*after, *self._comments()),
            tuple(tables),
            tuple(name for (name,) in self.rows(_sql_cloning.SEQUENCE_NAMES)),
            tuple((name, home) for name, home in self.rows(rest.EXTENSIONS)),
            tuple(Privilege(*row) for row in granted),
            tuple(DefaultPrivilege(*row) for row in self.rows(rest.DEFAULT_PRIVILEGES)),
            tuple((target, owner) for target, owner in self.rows(rest.OWNERS)),
        )

    def _order(self) -> tuple[list[Piece], list[Piece]]:
        nodes = [_node(row) for query in _QUERIES for row in self.rows(query)]
        dependencies = [Dependency(*row) for row in self.rows(_sql_blueprint_rest.DEPENDENCIES)]
        before, after = Order([node for node in nodes if node.statements], dependencies).split()
        return [_piece(node) for node in before], [_piece(node) for node in after]

    def _comments(self) -> Iterator[Piece]:
        for target, comment in self.rows(_sql_blueprint_rest.COMMENTS):
            yield Piece("comment", target, (_sql_cloning.comment_on(target, comment),))


def _node(row: Any) -> Node:
    catalog, oid, kind, name, rank, needs, statements = row
    present = tuple(sql for sql in statements if sql is not None)
    return Node(Address(catalog, oid), kind, name, rank, tuple(needs), present)


def _piece(node: Node) -> Piece:
    return Piece(node.kind, node.name, node.statements)


def _table_rows(row: Any) -> TableRows:
    name, columns, own_types, into, is_row_security_active = row
    pairs = tuple(zip(columns or (), own_types or (), strict=True))
    return TableRows(name, pairs, into, is_row_security_active)
