"""Makes what a blueprint tells of, in the schema that the connection works in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from onegov_orm._ddl import run_script
from onegov_orm._sql import quote_identifier
from onegov_orm.errors import CopyFailed
from onegov_orm.fleet import _sql_blueprint_rest, _sql_cloning
from onegov_orm.fleet.blueprint import Blueprint, Piece, Privilege
from onegov_orm.names import SchemaName
from onegov_orm.provisioning import sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

logger = logging.getLogger(__name__)

#: Lost connections, failed serializations, locks that were not had: trying again may help.
_PASSING: Final = ("08", "40", "53", "55", "57")
_DENIED: Final = "42501"

_OWNER: Final = "CURRENT_USER"
_EVERYBODY: Final = "PUBLIC"


def make(connection: Connection, schema: SchemaName, pieces: Iterable[Piece]) -> None:
    """Make objects; raises `CopyFailed` with the object that could not be made."""
    for piece in pieces:
        with naming(schema, f"{piece.kind} {piece.name}"):
            run_script(connection, piece.statements)


@contextmanager
def naming(schema: str, what: str) -> Iterator[None]:
    """Raise `CopyFailed` for what the server refuses, unless trying again may help."""
    try:
        yield
    except DBAPIError as exc:
        state = sqlstate(exc)
        if exc.connection_invalidated or state is None or state.startswith(_PASSING):
            raise
        raise CopyFailed(schema, what, str(exc.orig)) from exc


def make_privileges(connection: Connection, schema: SchemaName, blueprint: Blueprint) -> bool:
    """Give the privileges of the original, and what it was told about those of new objects.

    Roles that this server does not have are left out with a warning; tells whether there are none.
    """
    _take_what_was_given(connection, schema)
    known = _known_roles(connection, blueprint)
    missing = blueprint.roles - known.keys()
    if missing:
        logger.warning(
            "Roles that do not exist here get no privileges in schema %s: %s",
            schema,
            ", ".join(sorted(missing)),
        )
    statements = [*_grants(blueprint, schema, missing), *_usual_grants(blueprint, schema, known)]
    with naming(schema, "privileges"):
        run_script(connection, statements)
    return not missing


def make_owners(connection: Connection, schema: SchemaName, blueprint: Blueprint) -> bool:
    """Give what belonged to other roles to these, if this role may do so.

    Otherwise all of it belongs to this role; tells whether that makes no difference.
    """
    current = connection.exec_driver_sql(_sql_cloning.CURRENT_ROLE).scalar_one()
    known = _known_roles(connection, blueprint)
    owners = {owner for _, owner in blueprint.owners}
    if all(owner == current or known.get(owner) for owner in owners):
        statements = [
            _sql_cloning.set_owner(target or _schema_target(schema), owner)
            for target, owner in blueprint.owners
            if owner != current
        ]
        try:
            with connection.begin_nested():
                run_script(connection, statements)
        except DBAPIError as exc:
            if sqlstate(exc) != _DENIED:
                raise
        else:
            return True
    if len(owners) > 1:
        logger.warning("All in schema %s belongs to %s now, not to its own roles", schema, current)
    return len(owners) <= 1


def set_sequences(
    connection: Connection, schema: SchemaName, values: Iterable[tuple[str, int, bool]]
) -> None:
    """Let sequences go on where others stand."""
    parameters = [
        {"sequence": _sql_cloning.qualified(schema, name), "value": value, "called": is_called}
        for name, value, is_called in values
    ]
    for each in parameters:
        connection.execute(text(_sql_cloning.SET_VALUE), each)


def _known_roles(connection: Connection, blueprint: Blueprint) -> dict[str, bool]:
    rows = connection.execute(text(_sql_cloning.ROLES), {"names": sorted(blueprint.roles)})
    return {str(name): bool(is_member) for name, is_member in rows}


def _take_what_was_given(connection: Connection, schema: SchemaName) -> None:
    """Take from the new objects what the default privileges of their owner gave to others."""
    query = text(_sql_blueprint_rest.SCHEMA_OID)
    oid = connection.execute(query, {"schema": schema}).scalar_one()
    rows = connection.execute(text(_sql_cloning.GIVEN_BY_DEFAULT), {"namespace": oid}).all()
    statements = []
    for target, role in rows:
        statements.append(_sql_cloning.revoke_all(target, _role(role)))
    for target in dict.fromkeys(target for target, _ in rows):
        statements.append(_sql_cloning.grant("ALL", target, _OWNER, is_grantable=False))
        if target.startswith(("ROUTINE", "TYPE")):
            statements.append(_sql_cloning.grant("ALL", target, _EVERYBODY, is_grantable=False))
    run_script(connection, statements)


def _grants(blueprint: Blueprint, schema: SchemaName, missing: set[str]) -> Iterator[str]:
    for target, privileges in groupby(blueprint.privileges, lambda each: each.target):
        name = target or _schema_target(schema)
        granted = list(privileges)
        if any(each.columns is None for each in granted):
            yield _sql_cloning.revoke_all(name, f"{_EVERYBODY}, {_OWNER}")
        for each in granted:
            if each.privileges is not None and (each.is_owner or each.role not in missing):
                role = _OWNER if each.is_owner else _role(each.role)
                yield _sql_cloning.grant(_named(each), name, role, each.is_grantable)


def _named(privilege: Privilege) -> str:
    """Return the privileges, each with the columns that it is about."""
    words = (privilege.privileges or "").split(", ")
    columns = f" ({privilege.columns})" if privilege.columns is not None else ""
    return ", ".join(f"{word}{columns}" for word in words)


def _usual_grants(
    blueprint: Blueprint, schema: SchemaName, known: dict[str, bool]
) -> Iterator[str]:
    for each in blueprint.default_privileges:
        if each.maker is not None and not known.get(each.maker):
            continue
        if each.is_owner or each.role is None or each.role in known:
            role = _OWNER if each.is_owner else _role(each.role)
            grants = _sql_cloning.grant(each.privileges, each.target, role, each.is_grantable)
            yield _sql_cloning.default_privileges(each.maker, schema, grants)


def _schema_target(schema: str) -> str:
    return f"SCHEMA {quote_identifier(schema)}"


def _role(name: str | None) -> str:
    return _EVERYBODY if name is None else quote_identifier(name)
