"""The table between a model and an associable one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, Table
from sqlalchemy.orm import Mapper

from onegov_orm.abstract._bounded import bounded_name
from onegov_orm.abstract._mapped import table_of
from onegov_orm.errors import ConfigurationError

#: Where the table says what it was made for.
_INFO = "onegov_orm.association"


@dataclass(frozen=True)
class Ends:
    """What a table links: two primary keys, and how."""

    #: Of the table that has a row for each linking object.
    owner: Column[Any]
    #: Of the associable model.
    associated: Column[Any]
    associated_cls: type[Any]
    attribute: str
    #: Whether an associated object belongs to a single other one.
    is_owning: bool
    #: Whether an object can be linked to several.
    is_to_many: bool
    onupdate: str | None

    @property
    def table_name(self) -> str:
        """The name of the table in between."""
        return bounded_name(
            f"{self.associated.table.name}_for_{self.owner.table.name}_{self.attribute}"
        )

    @property
    def schema(self) -> str | None:
        """Where that table lives: with its ends, or at the customer's if one of them is there."""
        owner, associated = self.owner.table.schema, self.associated.table.schema
        return owner if owner == associated else None

    def find(self) -> Table | None:
        """Return the table if another class of the same hierarchy made it.

        Raises `ConfigurationError` if it was made for something else.
        """
        name = self.table_name if self.schema is None else f"{self.schema}.{self.table_name}"
        table = self.owner.table.metadata.tables.get(name)
        if table is not None and table.info.get(_INFO) != self:
            raise ConfigurationError(
                f"the table {name} exists already for something else than the "
                f"{self.attribute!r} that are {self.associated_cls.__name__}: give that attribute "
                "another name"
            )
        return table

    def make(self) -> Table:
        """Make the table: its two columns are its primary key."""
        owner_id = bounded_name(f"{self.owner.table.name}_{self.owner.name}")
        associated_id = bounded_name(
            f"{self.associated_cls.__name__.lower()}_{self.associated.name}"
        )
        if associated_id == owner_id:
            associated_id = bounded_name(f"associated_{owner_id}")
        to_owner = ForeignKey(self.owner, ondelete="CASCADE", onupdate=self.onupdate)
        to_associated = ForeignKey(self.associated, ondelete="CASCADE")
        table = Table(
            self.table_name,
            self.owner.table.metadata,
            Column(owner_id, to_owner, primary_key=True),
            Column(associated_id, to_associated, primary_key=True),
            schema=self.schema,
            info={_INFO: self},
        )
        # The primary key serves the other direction.
        _add_index(table, associated_id, is_unique=self.is_owning)
        if not self.is_to_many:
            _add_index(table, owner_id, is_unique=True)
        return table


def primary_key_of(mapper: Mapper[Any]) -> Column[Any]:
    """Return the only column of a primary key; raises `ConfigurationError` if there are more."""
    columns = list(table_of(mapper).primary_key)
    if len(columns) != 1:
        named = ", ".join(column.name for column in columns)
        raise ConfigurationError(
            f"{mapper.class_.__name__} can't be linked by associated(), for its primary key has "
            f"several columns ({named}): give it an id of its own, and make these unique"
        )
    return columns[0]


def _add_index(table: Table, column: str, is_unique: bool) -> None:
    Index(bounded_name(f"ix_{table.name}_{column}"), table.columns[column], unique=is_unique)
