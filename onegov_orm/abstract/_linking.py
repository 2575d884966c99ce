"""One attribute of one class that links to an associable model, and what leads back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import Table, event, inspect
from sqlalchemy.orm import Mapper, RelationshipProperty, relationship

from onegov_orm.abstract._association_table import Ends, primary_key_of
from onegov_orm.abstract._mapped import has_mapped_base, table_owner
from onegov_orm.errors import ConfigurationError

Cardinality: TypeAlias = Literal["one-to-many", "one-to-one", "many-to-many"]
CARDINALITIES = ("one-to-many", "one-to-one", "many-to-many")

#: As for ``relationship``: an expression, a function that returns one, or text to evaluate.
OrderBy: TypeAlias = Any


@dataclass(frozen=True, kw_only=True)
class Association:
    """What `associated` was given, for all classes that inherit the attribute."""

    associated_cls: type[Any]
    attribute: str
    cardinality: Cardinality
    uselist: bool
    backref_suffix: str
    onupdate: str | None
    order_by: OrderBy

    @property
    def is_owning(self) -> bool:
        """Whether what is linked to belongs to a single object, and goes away with it."""
        return self.cardinality != "many-to-many"

    def link(self, model: type[Any]) -> RelationshipProperty[Any]:
        """Return the relationship of a class that is being mapped."""
        linking = Linking(self, model)
        # Its primary key and its table are known when the mapper is there, and not before.
        event.listen(model, "after_mapper_constructed", linking.after_mapper_constructed)
        return linking.relationship()

    def backref_name(self, table_name: str) -> str:
        """Return the name of the attribute that leads back to the rows of a table."""
        is_default = self.backref_suffix == "__tablename__"
        return f"linked_{table_name if is_default else self.backref_suffix}"

    def associated_mapper(self) -> Mapper[Any]:
        """Return the mapper of the associable model; raises `ConfigurationError` without any."""
        mapper = inspect(self.associated_cls, False)
        if not isinstance(mapper, Mapper):
            raise ConfigurationError(
                f"{self.associated_cls.__name__} is no model with a table: link one that is"
            )
        return mapper

    def ends(self, owner: Mapper[Any]) -> Ends:
        """Return what the table has to link."""
        return Ends(
            owner=primary_key_of(owner),
            associated=primary_key_of(self.associated_mapper()),
            associated_cls=self.associated_cls,
            attribute=self.attribute,
            is_owning=self.is_owning,
            is_to_many=self.uselist,
            onupdate=self.onupdate,
        )


class Linking:
    """The link of one class, which becomes complete with its mapper."""

    def __init__(self, association: Association, model: type[Any]) -> None:
        self.association = association
        #: Whether what leads back leads to this very class, and can be written to.
        self.is_two_way = not has_mapped_base(model)
        self._model = model
        self._table: Table
        self._joins: tuple[Any, Any]

    def relationship(self) -> RelationshipProperty[Any]:
        """Return the relationship; what it needs of the mapper, it asks for later."""
        association = self.association
        back = association.backref_name(_table_name(self._model)) if self.is_two_way else None
        return relationship(
            association.associated_cls,
            secondary=lambda: self._table,
            primaryjoin=lambda: self._joins[0],
            secondaryjoin=lambda: self._joins[1],
            cascade="all, delete-orphan" if association.is_owning else "save-update, merge",
            single_parent=association.is_owning,
            passive_deletes=not association.is_owning,
            uselist=association.uselist,
            order_by=_resolved(association.order_by, association.associated_cls),
            back_populates=back,
        )

    def after_mapper_constructed(self, mapper: Mapper[Any], model: type[Any]) -> None:
        """Make the table, the attribute that leads back, and a note of the link."""
        association = self.association
        if not mapper.has_property(association.attribute):
            raise ConfigurationError(
                f"{model.__name__} has no attribute {association.attribute!r}: give associated() "
                "the name of the attribute that it is assigned to"
            )
        owner = table_owner(mapper)
        ends = association.ends(owner)
        found = ends.find()
        self._table = ends.make() if found is None else found
        key, associated_key = self._table.columns
        self._joins = (key == ends.owner, associated_key == ends.associated)
        back = association.backref_name(ends.owner.table.name)
        if found is None:
            self._lead_back(back, owner.class_)
        association.associated_cls.register_link(
            back, model, self._table, key.name, association.attribute, association.cardinality
        )

    def _lead_back(self, name: str, owner: type[Any]) -> None:
        """Add the attribute that leads back to the associable model."""
        mapper, attribute = self.association.associated_mapper(), self.association.attribute
        if any(each.has_property(name) for each in mapper.self_and_descendants):
            raise ConfigurationError(
                f"{mapper.class_.__name__}.{name} exists already, and can't lead back from "
                f"{self._model.__name__}.{attribute}: give associated() another backref_suffix"
            )
        two_way = {"back_populates": attribute, "passive_deletes": True}
        back: RelationshipProperty[Any] = relationship(
            owner,
            secondary=self._table,
            primaryjoin=self._joins[1],
            secondaryjoin=self._joins[0],
            **(two_way if self.is_two_way else {"viewonly": True}),
        )
        mapper.add_property(name, back)
        if not self.is_two_way:
            for change in ("append", "remove"):
                event.listen(
                    getattr(mapper.class_, name), change, self._refuse_change, propagate=True
                )

    def _refuse_change(self, target: Any, value: Any, initiator: Any) -> None:
        raise ConfigurationError(
            "what leads back to several kinds of objects can't be changed: change the "
            f"{self.association.attribute!r} of {value!r} instead"
        )


def _table_name(model: Any) -> str:
    """Return the name of the table of a class that is being mapped."""
    return str(getattr(model, "__tablename__", None) or model.__table__.name)


def _resolved(order_by: OrderBy, associated_cls: type[Any]) -> OrderBy:
    # SQLAlchemy would look for the name among the models of the linking class's base.
    if isinstance(order_by, str):
        model, _dot, attribute = order_by.partition(".")
        if model == associated_cls.__name__ and attribute.isidentifier():
            return lambda: getattr(associated_cls, attribute)
    return order_by
