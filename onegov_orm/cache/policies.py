"""What makes a cached value outdated: changes of tables, or of certain objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from sqlalchemy import Table, inspect

from onegov_orm.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData

M = TypeVar("M")

_PREFIX: Final = "on-table-change:"


@dataclass(frozen=True, slots=True)
class TableChange:
    """Outdated by any change of these tables, each given itself, by its name, or by a model.

    A model stands for the tables of its subclasses too.
    """

    tables: tuple[str | type[Any] | Table, ...]

    def resolve(self, catalogs: list[MetaData]) -> Iterator[Table]:
        """Yield the tables; raises `ConfigurationError` for one that no base has."""
        for each in self.tables:
            if isinstance(each, str):
                yield _find_table(each, catalogs)
            elif isinstance(each, Table):
                yield each
            else:
                yield from _tables_of(each)


@dataclass(frozen=True, slots=True)
class ObjectChange(Generic[M]):
    """Outdated by a change of an object of this model for which ``when`` is true.

    A bulk statement does not tell its objects: each one on the model's tables counts.
    """

    model: type[M]
    when: Callable[[M], bool]

    def concerns(self, obj: object) -> bool:
        """Tell whether the change of the object counts."""
        return isinstance(obj, self.model) and self.when(obj)

    def concerns_table(self, table: Table) -> bool:
        """Tell whether a bulk statement on the table may count."""
        return self.model is object or table in _tables_of(self.model)


Policy: TypeAlias = TableChange | ObjectChange[Any]

#: What a decorator takes: a policy, ``'on-table-change:users'``, or a function of an object.
PolicyLike: TypeAlias = Policy | str | Callable[[Any], bool]


def on_table_change(*tables: str | type[Any] | Table) -> TableChange:
    """Return the policy of values that any change of these tables outdates."""
    if not tables:
        raise ConfigurationError("on_table_change() takes the names of tables, or models")
    return TableChange(tables)


def always(_obj: object) -> bool:
    """Say that each change counts."""
    return True


def on_change(model: type[M], when: Callable[[M], bool] = always) -> ObjectChange[M]:
    """Return the policy of values that the change of an object outdates, if it matters."""
    return ObjectChange(model, when)


def policy_of(given: PolicyLike) -> Policy:
    """Return the policy that is meant; raises `ConfigurationError` if none is."""
    meant: Any = given
    if isinstance(given, (TableChange, ObjectChange)):
        return given
    if isinstance(given, str):
        names = [name.strip() for name in given.removeprefix(_PREFIX).split(",")]
        if given.startswith(_PREFIX) and all(names):
            return TableChange(tuple(names))
    elif callable(meant) and not isinstance(meant, type):
        return ObjectChange(object, meant)
    raise ConfigurationError(
        f"{given!r} is not a policy: use 'on-table-change:users', on_table_change(User), "
        "on_change(User, when=...), or a function that takes an object and returns a bool"
    )


def _tables_of(model: type[Any]) -> set[Table]:
    mapper = inspect(model, raiseerr=False)
    if mapper is not None:
        return {table for each in mapper.self_and_descendants for table in each.tables}
    raise ConfigurationError(f"{model.__name__} is not a mapped class: it has no table")


def _find_table(name: str, catalogs: list[MetaData]) -> Table:
    tables = {table.fullname: table for catalog in catalogs for table in catalog.tables.values()}
    if name in tables:
        return tables[name]
    found = [each for each in tables.values() if name == each.name]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(sorted(each.fullname for each in found))
        raise ConfigurationError(f'the table "{name}" is there more than once: say {names}')
    near = get_close_matches(name, tables, n=1)
    hint = f': is it "{near[0]}"?' if near else f", which has {', '.join(sorted(tables))}"
    raise ConfigurationError(f'no base of the manager has a table "{name}"{hint}')
