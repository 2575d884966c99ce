"""Which classes, keys and paths aggregated columns work with, and what is refused."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import transaction
from sqlalchemy import (
    JSON,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    Text,
    cast,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    foreign,
    mapped_column,
    relationship,
)

from onegov_orm._derived.aggregating import aggregates
from onegov_orm.aggregates import aggregated
from onegov_orm.errors import BulkChangeNotSupported, ConfigurationError


def new_base() -> Any:
    class Base(DeclarativeBase):
        pass

    return Base


class Numbered:
    id: Mapped[int] = mapped_column(primary_key=True)


def saved(mgr, *objects):
    mgr.session().add_all(objects)
    transaction.commit()
    return mgr.session()


# -- paths


def test_a_tree_sums_up_its_branches(new_town):
    base = new_base()

    class Node(Numbered, base):
        __tablename__ = "nodes"
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
        size: Mapped[int]
        children: Mapped[list[Any]] = relationship("Node", back_populates="parent")
        parent: Mapped[Any] = relationship(
            "Node", back_populates="children", remote_side="Node.id"
        )

        @aggregated("children", mapped_column(Integer, default=0))
        def below(self) -> ColumnElement[int]:
            return func.sum(Node.size + Node.below)

        @aggregated("children.children", mapped_column(Integer, default=0))
        def grandchildren(self) -> ColumnElement[int]:
            return func.count()

    nodes = {number: Node(id=number, size=number) for number in (1, 10, 100, 1000)}
    nodes[10].parent = nodes[100].parent = nodes[1]
    nodes[1000].parent = nodes[10]
    session = saved(new_town(base), *nodes.values())

    def found():
        return dict(session.execute(select(Node.id, Node.below)).all())

    assert found() == {1: 1110, 10: 1000, 100: 0, 1000: 0}
    assert session.get(Node, 1).grandchildren == 1
    session.get(Node, 1000).size = 2000
    assert found() == {1: 2110, 10: 2000, 100: 0, 1000: 0}
    session.get(Node, 1000).parent_id = 100
    assert found() == {1: 2110, 10: 0, 100: 2000, 1000: 0}
    session.delete(session.get(Node, 1000))
    assert found() == {1: 110, 10: 0, 100: 0}
    assert session.get(Node, 1).grandchildren == 0


def test_a_value_of_the_one_that_an_object_belongs_to(new_town):
    base = new_base()

    class Occasion(Numbered, base):
        __tablename__ = "occasions"
        period_id: Mapped[int]

    class Booking(Numbered, base):
        __tablename__ = "bookings"
        occasion_id: Mapped[int | None] = mapped_column(ForeignKey("occasions.id"))
        occasion: Mapped[Occasion | None] = relationship(lambda: Occasion)

        @aggregated("occasion", mapped_column(Integer, nullable=False))
        def period_id(self) -> ColumnElement[int]:
            return func.coalesce(Occasion.period_id, 0)

    mgr = new_town(base)
    one, other = Occasion(id=101, period_id=1), Occasion(id=102, period_id=2)
    session = saved(mgr, one, other, Booking(id=101, occasion=one, period_id=9))
    booking = session.get(Booking, 101)
    assert booking.period_id == 1
    session.get(Occasion, 101).period_id = 3
    session.flush()
    assert booking.period_id == 3
    booking.occasion_id = 102
    session.flush()
    assert booking.period_id == 2


def test_a_table_between_that_has_a_class(new_town):
    base = new_base()

    class User(Numbered, base):
        __tablename__ = "users"
        groups: Mapped[list[Any]] = relationship("Group", secondary="members", viewonly=True)

        @aggregated("groups", mapped_column(Integer))
        def group_count(self) -> ColumnElement[int]:
            return func.count()

    class Group(Numbered, base):
        __tablename__ = "groups"

    class Member(base):
        __tablename__ = "members"
        user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
        group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"), primary_key=True)

    session = saved(new_town(base), User(id=101), User(id=102), Group(id=101))

    def counts():
        return session.scalars(select(User.group_count).order_by(User.id)).all()

    member = Member(user_id=101, group_id=101)
    session.add(member)
    assert counts() == [1, 0]
    member.user_id = 102
    assert counts() == [0, 1]
    session.delete(member)
    assert counts() == [0, 0]


def test_a_relationship_without_a_foreign_key(new_town):
    base = new_base()

    class Area(Numbered, base):
        __tablename__ = "areas"
        low: Mapped[int]
        places: Mapped[list[Any]] = relationship(
            "Place", viewonly=True, primaryjoin=lambda: Area.low <= foreign(Place.height)
        )

        @aggregated("places", mapped_column(Integer))
        def place_count(self) -> ColumnElement[int]:
            return func.count()

    class Place(Numbered, base):
        __tablename__ = "places"
        height: Mapped[int]

    session = saved(new_town(base), *(Area(id=100 + low, low=low) for low in (1, 5, 9)))

    def counts():
        return session.scalars(select(Area.place_count).order_by(Area.low)).all()

    place = Place(height=6)
    session.add(place)
    assert counts() == [1, 1, 0]
    place.height = 4
    assert counts() == [1, 0, 0]
    session.delete(place)
    assert counts() == [0, 0, 0]


def test_a_relationship_that_leads_one_way_only(new_town):
    base = new_base()

    class Owner(Numbered, base):
        __tablename__ = "owners"
        things: Mapped[list[Any]] = relationship("Thing")

        @aggregated("things", mapped_column(Integer))
        def thing_count(self) -> ColumnElement[int]:
            return func.count()

    class Thing(Numbered, base):
        __tablename__ = "things"
        owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))

    session = saved(new_town(base), Owner(id=101, things=[Thing(id=101)]), Owner(id=102))
    one, other = session.get(Owner, 101), session.get(Owner, 102)
    other.things.append(session.get(Thing, 101))
    session.flush()
    assert (one.thing_count, other.thing_count) == (0, 1)
    other.things.clear()
    session.flush()
    assert other.thing_count == 0


# -- classes and keys


def test_a_primary_key_of_several_columns(new_town):
    base = new_base()

    class Owner(base):
        __tablename__ = "owners"
        kind: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column("no", primary_key=True, autoincrement=False)
        things: Mapped[list[Any]] = relationship("Thing")
        extras: Mapped[list[Any]] = relationship("Extra", secondary="links")

        @aggregated("things", mapped_column("how_many", Integer))
        def thing_count(self) -> ColumnElement[int]:
            return func.count()

        @aggregated("extras", mapped_column(Integer))
        def extra_size(self) -> ColumnElement[int]:
            return func.sum(Extra.size)

    class Thing(Numbered, base):
        __tablename__ = "things"
        __table_args__ = (ForeignKeyConstraint(["kind", "no"], ["owners.kind", "owners.no"]),)
        kind: Mapped[str | None]
        no: Mapped[int | None]

    class Extra(Numbered, base):
        __tablename__ = "extras"
        size: Mapped[int]

    class Link(Numbered, base):
        __tablename__ = "links"
        __table_args__ = (ForeignKeyConstraint(["kind", "no"], ["owners.kind", "owners.no"]),)
        kind: Mapped[str]
        no: Mapped[int]
        extra_id: Mapped[int] = mapped_column(ForeignKey("extras.id"))

    owners = [Owner(kind="a", number=1), Owner(kind="a", number=2), Owner(kind="b", number=1)]
    session = saved(new_town(base), *owners, Extra(id=101, size=5))
    session.add(Thing(id=101, kind="a", no=2))
    owner = session.get(Owner, ("b", 1))
    owner.extras.append(session.get(Extra, 101))
    query = select(Owner.thing_count, Owner.extra_size).order_by(Owner.kind, Owner.number)
    assert session.execute(query).all() == [(0, None), (1, None), (0, 5)]
    session.get(Thing, 101).kind = None
    session.get(Extra, 101).size = 6
    assert session.execute(query).all() == [(0, None), (0, None), (0, 6)]


def family(base):
    class Animal(Numbered, base):
        __tablename__ = "animals"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        kind: Mapped[str]
        owner_id: Mapped[int | None] = mapped_column(ForeignKey("parties.id"))

    class Dog(Animal):
        __tablename__ = "dogs"
        __mapper_args__ = {"polymorphic_identity": "dog"}
        id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
        bones: Mapped[int]

    class Cat(Animal):
        __mapper_args__ = {"polymorphic_identity": "cat"}
        lives: Mapped[int | None]

    class Party(Numbered, base):
        __tablename__ = "parties"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "party"}
        kind: Mapped[str]
        animals: Mapped[list[Animal]] = relationship(lambda: Animal)

        @aggregated("animals", mapped_column(Integer))
        def animal_count(self) -> ColumnElement[int]:
            return func.count()

    class Person(Party):
        __tablename__ = "persons"
        __mapper_args__ = {"polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(ForeignKey("parties.id"), primary_key=True)
        dogs: Mapped[list[Dog]] = relationship(lambda: Dog, viewonly=True)
        cats: Mapped[list[Cat]] = relationship(lambda: Cat, viewonly=True)

        @aggregated("dogs", mapped_column(Integer))
        def bones(self) -> ColumnElement[int]:
            return func.sum(Dog.bones)

        @aggregated("cats", mapped_column(Integer))
        def lives(self) -> ColumnElement[int]:
            return func.sum(Cat.lives)

    return Animal, Dog, Cat, Party, Person


def test_classes_that_inherit(new_town):
    base = new_base()
    animal, dog, cat, party, person = family(base)
    mgr = new_town(base)
    session = saved(mgr, party(id=101), person(id=102))
    session.add_all([animal(owner_id=101), dog(owner_id=101, bones=7), cat(owner_id=102, lives=9)])
    session.add(dog(id=101, owner_id=102, bones=3))
    session.flush()
    found = session.get(person, 102)
    assert (found.animal_count, found.bones, found.lives) == (2, 3, 9)
    assert session.get(party, 101).animal_count == 2
    session.get(dog, 101).bones = 4
    session.flush()
    assert found.bones == 4
    for changed in (animal, dog, party):
        with pytest.raises(BulkChangeNotSupported):
            session.execute(insert(changed), [{}])


def test_a_mixin_gives_each_class_its_own(new_town):
    base = new_base()

    class Counting(Numbered):
        @aggregated("things", mapped_column(Integer))
        def thing_count(cls) -> ColumnElement[int]:  # noqa: N805
            return func.count(cls.things.property.mapper.class_.id)

    class One(Counting, base):
        __tablename__ = "ones"
        things: Mapped[list[Any]] = relationship("Thing")

    class Other(Counting, base):
        __tablename__ = "others"
        things: Mapped[list[Any]] = relationship("Thing")

    class Thing(Numbered, base):
        __tablename__ = "things"
        one_id: Mapped[int | None] = mapped_column(ForeignKey("ones.id"))
        other_id: Mapped[int | None] = mapped_column(ForeignKey("others.id"))

    session = saved(new_town(base), One(things=[Thing(), Thing()]), Other(things=[Thing()]))
    assert session.scalars(select(One.thing_count)).one() == 2
    assert session.scalars(select(Other.thing_count)).one() == 1


def owner_with(base, expression, column):
    class Owner(Numbered, base):
        __tablename__ = "owners"
        factor: Mapped[int] = mapped_column(default=2)
        things: Mapped[list[Any]] = relationship("Thing", lazy="dynamic", back_populates="owner")

        @aggregated("things", column)
        def total(cls) -> ColumnElement[Any]:  # noqa: N805
            return expression(cls, Thing)

    class Thing(Numbered, base):
        __tablename__ = "things"
        size: Mapped[int]
        owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
        owner: Mapped[Any] = relationship("Owner", back_populates="things")

    return Owner, Thing


@pytest.mark.parametrize(
    ("expression", "column", "expected"),
    [
        (lambda owner, thing: func.sum(thing.size * owner.factor), Integer, [10, 16, 24]),
        (lambda owner, thing: func.sum(text("things.size")), Integer, [5, 8, 8]),
        (lambda owner, thing: func.json_agg(thing.size), JSON, [[5], [8], [8]]),
        (
            lambda owner, thing: func.string_agg(cast(thing.size, Text), "-"),
            Text,
            ["5", "8", "8"],
        ),
    ],
    ids=["of the owner", "text", "JSON", "strings"],
)
def test_expressions(new_town, expression, column, expected):
    base = new_base()
    owner_class, thing_class = owner_with(base, expression, mapped_column(column))
    session = saved(new_town(base), owner_class(id=101))
    owner, found = session.get(owner_class, 101), []
    thing = thing_class(size=5, owner=owner)
    session.add(thing)
    for _ in range(3):
        session.flush()
        found.append(owner.total)
        thing.size, owner.factor = 8, 2 if len(found) == 1 else 3
    assert found == expected


def test_the_default_stands_where_there_is_nothing(new_town):
    base = new_base()
    column = mapped_column(Integer, nullable=False, default=0)
    owner_class, thing_class = owner_with(base, lambda _owner, thing: func.sum(thing.size), column)
    session = saved(new_town(base), owner_class(id=101))
    owner = session.get(owner_class, 101)
    thing = thing_class(size=5, owner=owner)
    session.add(thing)
    session.flush()
    assert owner.total == 5
    session.delete(thing)
    session.flush()
    assert owner.total == 0


def test_what_is_set_by_hand_is_corrected(new_town):
    base = new_base()
    owner_class, _thing = owner_with(base, lambda *_: func.count(), mapped_column(Integer))
    session = saved(new_town(base), owner_class(id=101, total=7))
    owner = session.get(owner_class, 101)
    assert owner.total == 0
    owner.total = 9
    session.flush()
    assert owner.total == 0


def test_mappers_that_are_configured_again_and_again():
    base = new_base()
    owner_class, _thing = owner_with(base, lambda *_: func.count(), mapped_column(Integer))
    base.registry.configure()
    before = aggregates.concerning(inspect(owner_class))
    type(
        "More", (base,), {"__tablename__": "more", "id": mapped_column(Integer, primary_key=True)}
    )
    base.registry.configure()
    assert len(aggregates.concerning(inspect(owner_class))) == len(before) == 1


def test_classes_that_nobody_needs_are_not_kept_alive():
    class Base(DeclarativeBase):
        pass

    class Node(Base):
        __tablename__ = "nodes"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
        children: Mapped[list[Node]] = relationship("Node")  # noqa: F821

        @aggregated("children", mapped_column(Integer))
        def child_count(self) -> ColumnElement[int]:
            return func.count()

    Base.registry.configure()
    assert len(aggregates.concerning(inspect(Node))) == 2
    reference = weakref.ref(Node)
    del Base, Node
    gc.collect()
    assert reference() is None


# -- mistakes


@pytest.mark.parametrize(
    "arguments", [("things", Integer), (None, mapped_column(Integer)), ("a", 1)]
)
def test_what_is_no_column_or_no_name(arguments):
    with pytest.raises(ConfigurationError, match="a relationship's name and a column"):
        aggregated(*arguments)


def test_what_is_no_relationship(new_town):
    base = new_base()

    class Owner(Numbered, base):
        __tablename__ = "owners"

        @aggregated("things", mapped_column(Integer))
        def total(self) -> ColumnElement[int]:
            return func.count()

    mgr = new_town(base)
    mgr.session().add(Owner())
    with pytest.raises(ConfigurationError, match=r"Owner.total.*no relationship 'things'"):
        mgr.session().flush()


def test_what_is_no_expression(new_town):
    base = new_base()
    owner_class, _thing = owner_with(base, lambda *_: 1, mapped_column(Integer))
    mgr = new_town(base)
    mgr.session().add(owner_class())
    with pytest.raises(ConfigurationError, match=r"Owner.total has to aggregate"):
        mgr.session().flush()


def test_aggregates_without_end_are_stopped(new_town, monkeypatch):
    monkeypatch.setattr("onegov_orm._derived.aggregating._MOST_ROUNDS", 20)
    base = new_base()

    class Node(Numbered, base):
        __tablename__ = "nodes"
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
        children: Mapped[list[Any]] = relationship("Node")

        @aggregated("children", mapped_column(Integer, default=0))
        def below(self) -> ColumnElement[int]:
            return func.sum(Node.below + 1)

    mgr = new_town(base)
    saved(mgr, Node(id=101), Node(id=102, parent_id=101))
    mgr.session().get(Node, 101).parent_id = 102
    with pytest.raises(ConfigurationError, match=r"circle without end: Node\.below"):
        mgr.session().flush()
