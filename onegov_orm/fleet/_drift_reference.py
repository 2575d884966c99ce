"""Makes what the models describe, looks at it, and undoes it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from onegov_orm import _sql
from onegov_orm._ddl import Inventory
from onegov_orm.errors import OrmError, PermissionDenied
from onegov_orm.fleet._drift_comparison import Items, by_key
from onegov_orm.fleet.fingerprints import structures
from onegov_orm.fleet.runner import one_line
from onegov_orm.names import hidden_schema
from onegov_orm.provisioning import Plan, create_schema, schema_exists, translated_errors

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from onegov_orm.fleet._context import FleetContext

_EMPTY: Final = Inventory(exists=False, relations=frozenset(), types=frozenset())


@dataclass(frozen=True, slots=True)
class Reference:
    """What a customer's schema and the shared one hold, by the models.

    None for what could not be made; ``notes`` tell why.
    """

    customer: Items | None
    shared: Items | None = None
    notes: tuple[str, ...] = ()


def reference(context: FleetContext, lock_timeout_seconds: float) -> Reference:
    """Make all tables of the models in a scratch schema, and describe them; nothing stays.

    Listeners of ``on_schema_init`` are not called. Shared tables are made anew too, while the
    real ones are out of the way under another name, so that no foreign key locks them.
    """
    scratch = hidden_schema("scratch")
    provisioner = context.manager.provisioner
    with context.connected(scratch, lock_timeout_seconds=lock_timeout_seconds) as connection:
        plan = Plan(provisioner.bases, provisioner.shared_schema, connection.dialect)
        transaction = connection.begin()
        try:
            has_shared, notes = _make_shared(connection, provisioner.shared_schema, plan)
            create_schema(connection, scratch)
            for script in plan.scripts:
                script.make(connection, _EMPTY)
            wanted: Sequence[str] = [scratch, provisioner.shared_schema][: 1 + has_shared]
            found = structures(connection, wanted)
        except (DBAPIError, OrmError) as exc:
            reason = f"nothing was compared with the models: {one_line(exc)}"
            return Reference(None, notes=(reason,))
        finally:
            transaction.rollback()
    shared = by_key(found[provisioner.shared_schema]) if has_shared else None
    return Reference(by_key(found[scratch]), shared, notes)


def _make_shared(connection: Connection, schema: str, plan: Plan) -> tuple[bool, tuple[str, ...]]:
    """Make the shared tables anew; tell whether that worked, and why not."""
    if not any(script.entries for script in plan.shared_scripts):
        return False, ()
    administrator = "make this role the owner of the schema"
    try:
        with translated_errors(administrator), connection.begin_nested():
            if schema_exists(connection, schema):
                aside = hidden_schema("scratch")
                connection.exec_driver_sql(_sql.rename_schema(schema, aside))
            create_schema(connection, schema)
            for script in plan.shared_scripts:
                script.make(connection, _EMPTY)
    except PermissionDenied as exc:
        return False, (f"the schema {schema} was not compared with the models: {exc}",)
    return True, ()
