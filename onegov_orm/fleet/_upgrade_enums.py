"""Changes the values of an enum of one schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ARRAY, Text, cast, column, func, select, table, text
from sqlalchemy.exc import DBAPIError

from onegov_orm._ddl import run_script
from onegov_orm.errors import ConfigurationError, OrmError
from onegov_orm.fleet import _sql_upgrades
from onegov_orm.provisioning import sqlstate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: What an enum is called while another one takes its place.
_OLD_SUFFIX: Final = ":old"

#: ``undefined_function``: an index or a constraint still compares with the old enum.
_UNDEFINED_FUNCTION: Final = "42883"


@dataclass(frozen=True, slots=True)
class _Use:
    """A column whose type is the enum, or an array of it."""

    schema: str
    table: str
    column: str
    is_array: bool
    default: str | None

    @property
    def target(self) -> tuple[str, str, str]:
        return self.schema, self.table, self.column


class EnumChange:
    """Gives an enum other values; raises `ConfigurationError` if it does not exist."""

    def __init__(self, connection: Connection, schema: str, name: str) -> None:
        self._connection = connection
        self._name = name
        self._parameters = {"schema": schema, "name": name}
        self._kind = _sql_upgrades.enum_name(schema, name)
        self._old_name = f"{name.encode()[:59].decode(errors='ignore')}{_OLD_SUFFIX}"
        self._old_kind = _sql_upgrades.enum_name(schema, self._old_name)
        found = enum_values(connection, schema, name)
        if found is None:
            raise ConfigurationError(f'the schema "{schema}" has no enum "{name}"')
        self._values = found

    def change(self, wanted: Sequence[str], *, rewrite: bool) -> bool:
        """Bring the values to those that are wanted; tell whether there was anything to do."""
        if not wanted or len(set(wanted)) != len(wanted):
            raise ConfigurationError(
                f'the values of the enum "{self._name}" have to be different ones, at least one, '
                f"not {list(wanted)}"
            )
        if list(wanted) == self._values:
            return False
        if rewrite:
            self._replace(wanted)
        else:
            self._extend(wanted)
        return True

    def _extend(self, wanted: Sequence[str]) -> None:
        """Add the values that are missing, and leave the tables alone."""
        if [value for value in wanted if value in self._values] != self._values:
            raise ConfigurationError(
                f'the enum "{self._name}" has the values {self._values}: without rewriting the '
                f"tables, values can only be added, and {list(wanted)} lacks some or has them in "
                "another order"
            )
        statements: list[str] = []
        before: str | None = None
        for value in reversed(wanted):
            if value not in self._values:
                statements.append(_sql_upgrades.add_enum_value(self._kind, value, before))
            before = value
        run_script(self._connection, statements)

    def _replace(self, wanted: Sequence[str]) -> None:
        """Make the enum anew, and have the columns take it: its values are usable at once."""
        rows = self._connection.execute(text(_sql_upgrades.ENUM_COLUMNS), self._parameters)
        uses = [_Use(*row) for row in rows]
        self._refuse_if_used(uses, [value for value in self._values if value not in wanted])
        statements = [
            _sql_upgrades.rename_enum(self._kind, self._old_name),
            _sql_upgrades.create_enum(self._kind, wanted),
        ]
        for use in uses:
            if use.default is not None:
                statements.append(_sql_upgrades.drop_default(*use.target))
            statements.append(_sql_upgrades.set_enum_type(*use.target, self._kind, use.is_array))
            if use.default is not None:
                statements.append(_sql_upgrades.set_default(*use.target, use.default))
        statements.append(_sql_upgrades.drop_enum(self._old_kind))
        try:
            run_script(self._connection, statements)
        except DBAPIError as exc:
            if sqlstate(exc) != _UNDEFINED_FUNCTION:
                raise
            raise OrmError(
                f'the enum "{self._name}" can\'t be made anew, since an index or a constraint '
                "compares with one of its values: drop that before and make it again afterwards, "
                f"or only add values, with rewrite=False ({exc.orig})"
            ) from exc

    def _refuse_if_used(self, uses: Sequence[_Use], removed: Sequence[str]) -> None:
        for use in uses if removed else ():
            rows = self._count(use, removed)
            if rows:
                raise OrmError(
                    f'the enum "{self._name}" can\'t lose {", ".join(removed)}: {rows} rows of '
                    f"{use.table}.{use.column} have such a value; change these rows first"
                )

    def _count(self, use: _Use, removed: Sequence[str]) -> int:
        used: Any = column(use.column)
        if use.is_array:
            is_used = cast(used, ARRAY(Text)).op("&&")(cast(list(removed), ARRAY(Text)))
        else:
            is_used = cast(used, Text).in_(removed)
        statement = select(func.count()).select_from(table(use.table, schema=use.schema))
        return int(self._connection.execute(statement.where(is_used)).scalar_one())


def enum_values(connection: Connection, schema: str, name: str) -> list[str] | None:
    """Return the values of an enum in their order, None if there is no such enum."""
    found: list[str] | None = connection.execute(
        text(_sql_upgrades.ENUM_VALUES), {"schema": schema, "name": name}
    ).scalar()
    return found
