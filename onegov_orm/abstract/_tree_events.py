"""What happens to the items of a tree when they are mapped and written."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, event, inspect
from sqlalchemy.orm import Mapper

from onegov_orm._url_names import normalize_for_url
from onegov_orm.abstract._bounded import bounded_name
from onegov_orm.abstract._mapped import table_of
from onegov_orm.abstract._siblings import end_of_siblings
from onegov_orm.abstract._walks import tree_of

#: The name of an item whose title has no letter and no digit.
NAMELESS = "page"


class TreeEvents:
    """Listens to the mappers of trees."""

    def attach(self, target: Any) -> None:
        """Listen to a mixin and the classes made with it."""
        for name in ("after_mapper_constructed", "before_insert", "before_update"):
            event.listen(target, name, getattr(self, name), propagate=True)

    def after_mapper_constructed(self, mapper: Mapper[Any], model: type[Any]) -> None:
        """Add the indexes to the table, whatever else the model writes about its table."""
        if tree_of(model) is model:
            _add_indexes(mapper, model.__name__.lower())

    def before_insert(self, mapper: Mapper[Any], connection: Any, target: Any) -> None:
        """Name an item without a name, and append one without a place."""
        if target.name is None and target.title is not None:
            target.name = name_of(target.title)
        if target.order is None:
            self._append(target)

    def before_update(self, mapper: Mapper[Any], connection: Any, target: Any) -> None:
        """Append an item that was given another parent, and no place there."""
        attributes = inspect(target).attrs
        has_moved = attributes.parent_id.history.has_changes()
        if has_moved and not attributes.order.history.has_changes():
            self._append(target)

    def _append(self, target: Any) -> None:
        # A subquery, so that each row of a flush sees those before without another statement.
        target.order = end_of_siblings(tree_of(type(target)), target.parent_id)


def name_of(title: str) -> str:
    """Return the name that a title yields."""
    return normalize_for_url(title) or NAMELESS


def _add_indexes(mapper: Mapper[Any], prefix: str) -> None:
    name, parent_id, order = (mapper.columns[key] for key in ("name", "parent_id", "order"))
    # Roots need an index of their own: NULL is not equal to NULL, and is never a duplicate.
    Index(
        bounded_name(f"{prefix}_children_name"),
        name,
        parent_id,
        unique=True,
        postgresql_where=parent_id.is_not(None),
    )
    Index(
        bounded_name(f"{prefix}_root_name"),
        name,
        unique=True,
        postgresql_where=parent_id.is_(None),
    )
    Index(bounded_name(f"{prefix}_order"), parent_id, order, *table_of(mapper).primary_key)
