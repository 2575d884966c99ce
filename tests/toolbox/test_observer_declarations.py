"""Where observers are found, whose they are, and what is refused."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import transaction
from sqlalchemy import ForeignKey, Integer, inspect, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    declared_attr,
    mapped_column,
    relationship,
    synonym,
)

from onegov_orm import SessionManager
from onegov_orm._derived.observing import observers
from onegov_orm.errors import ConfigurationError
from onegov_orm.observer import observes


def new_base() -> Any:
    class Base(DeclarativeBase):
        pass

    return Base


class Noting:
    """A mixin whose columns tell who was called."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    notes: Mapped[str] = mapped_column(default="")

    def note(self, text):
        self.notes = (self.notes or "") + text


class Observing(Noting):
    @observes("name")
    def follow(self, name):
        self.note("parent")


def notes_of(mgr, *objects):
    mgr.session().add_all(objects)
    transaction.commit()
    notes = [obj.notes for obj in map(mgr.session().merge, objects)]
    transaction.commit()
    return notes


# -- where they are found


def test_an_observer_of_a_mixin(new_town):
    base = new_base()

    class One(Observing, base):
        __tablename__ = "one"

    class Other(Observing, base):
        __tablename__ = "other"

    assert notes_of(new_town(base), One(name="a"), Other(name="b")) == ["parent"] * 2


def test_a_declared_attribute_may_choose_what_to_observe(new_town):
    base = new_base()

    def follow(self, value):
        self.note(value)

    class Mixin(Noting):
        @declared_attr
        def follow(cls):  # noqa: N805
            return observes(cls.observed)(follow)

        title: Mapped[str | None]

    class One(Mixin, base):
        __tablename__ = "one"
        observed = "name"

    class Other(Mixin, base):
        __tablename__ = "other"
        observed = "title"

    given = {"name": "name", "title": "title"}
    assert notes_of(new_town(base), One(**given), Other(**given)) == ["name", "title"]


def family(base):
    class Parent(Observing, base):
        __tablename__ = "parents"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "parent"}
        kind: Mapped[str]

    class Heir(Parent):
        __mapper_args__ = {"polymorphic_identity": "heir"}

    class Rebel(Parent):
        __mapper_args__ = {"polymorphic_identity": "rebel"}
        title: Mapped[str | None]

        @observes("title")
        def follow(self, title):
            self.note("rebel")

    class Polite(Parent):
        __mapper_args__ = {"polymorphic_identity": "polite"}

        @observes("name")
        def follow(self, name):
            super().follow(name)
            self.note("polite")

    class Silent(Parent):
        __mapper_args__ = {"polymorphic_identity": "silent"}
        follow = None

    return SimpleNamespace(**locals())


def test_what_a_subclass_has_replaces_what_its_parent_has(new_town):
    base = new_base()
    of = family(base)
    objects = [of.Parent(name="a"), of.Heir(name="a"), of.Rebel(name="a"), of.Rebel(title="a")]
    objects += [of.Polite(name="a"), of.Silent(name="a")]
    notes = notes_of(new_town(base), *objects)
    assert notes == ["parent", "parent", "", "rebel", "parentpolite", ""]


def test_classes_that_are_defined_after_a_flush(new_town):
    base = new_base()

    class Late(base):
        __tablename__ = "lates"
        id: Mapped[int] = mapped_column(primary_key=True)
        goal_id: Mapped[int | None]
        size: Mapped[int]

    mgr = new_town(base)
    mgr.session().add(Late(id=1, size=1))
    transaction.commit()

    class Owner(Noting, base):
        __tablename__ = "owners"
        late_id: Mapped[int | None] = mapped_column(ForeignKey("lates.id"))
        late: Mapped[Late | None] = relationship()

        @observes("late.size")
        def follow(self, size):
            self.note(str(size))

    mgr.set_current_schema("towns-late")
    late = Late(size=1)
    assert notes_of(mgr, Owner(late=late)) == ["1"]
    mgr.session().merge(late).size = 2
    transaction.commit()
    assert mgr.session().scalars(select(Owner.notes)).one() == "12"


def test_mappers_that_are_configured_again_and_again(new_town):
    base = new_base()

    class One(Observing, base):
        __tablename__ = "one"

    mgr = new_town(base)
    for number in range(3):
        attributes = {
            "__tablename__": f"more{number}",
            "id": mapped_column(Integer, primary_key=True),
        }
        type(f"More{number}", (base,), attributes)
        base.registry.configure()
    assert notes_of(mgr, One(name="a")) == ["parent"]


def test_a_synonym(new_town):
    base = new_base()

    class Place(Noting, base):
        __tablename__ = "places"
        label: Mapped[str | None] = synonym("name")

        @observes("label")
        def follow(self, label):
            self.note(label)

    assert notes_of(new_town(base), Place(label="a")) == ["a"]


def test_classes_that_nobody_needs_are_not_kept_alive():
    base = new_base()

    class One(Observing, base):
        __tablename__ = "one"
        other_id: Mapped[int | None] = mapped_column(ForeignKey("one.id"))
        other: Mapped[Any] = relationship("One", remote_side="One.id")

        @observes("other.name")
        def follow_other(self, name):
            pass

    base.registry.configure()
    assert len(observers.concerning(inspect(One))) == 3
    reference = weakref.ref(One)
    del base, One
    gc.collect()
    assert reference() is None


# -- scopes


def test_an_observer_of_a_scope_runs_where_the_scope_is(new_town):
    base = new_base()

    class One(Noting, base):
        __tablename__ = "one"

        @observes("name", scope="org")
        def follow(self, name):
            self.note("scoped")

    assert notes_of(new_town(base), One(name="a")) == [""]
    assert notes_of(new_town(base, scopes=["fsi"]), One(name="a")) == [""]
    assert notes_of(new_town(base, scopes=["fsi", "org"]), One(name="a")) == ["scoped"]


def test_scopes_are_a_collection():
    with pytest.raises(ConfigurationError, match="scopes takes a collection"):
        SessionManager("postgresql://host/db", new_base(), scopes="org")


# -- mistakes


@pytest.mark.parametrize("paths", [(), ("",), (lambda: None,)])
def test_what_is_no_path(paths):
    with pytest.raises(ConfigurationError, match="names of what is observed"):
        observes(*paths)


def test_what_is_no_method():
    async def follow(self, name):
        pass

    for wrong in (follow, "follow", staticmethod(follow)):
        with pytest.raises(ConfigurationError, match="has to be a method"):
            observes("name")(wrong)


def test_one_decorator_has_all_paths():
    with pytest.raises(ConfigurationError, match="all paths at once"):

        @observes("one")
        @observes("other")
        def follow(self, name):
            pass


def with_path(base, path):
    class Thing(base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))

    class Owner(Noting, base):
        __tablename__ = "owners"
        things: Mapped[list[Thing]] = relationship(lambda: Thing)
        queried: Mapped[list[Thing]] = relationship(
            lambda: Thing, lazy="write_only", viewonly=True
        )

        @property
        def size(self):
            return 1

        @observes(path)
        def follow(self, value):
            pass

    return Owner


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nam", "Owner.nam is neither"),
        ("size", "Owner.size is neither"),
        ("things.size", "Thing.size is neither"),
        ("name.size", "name is no relationship"),
        ("queried", "lazy='write_only'"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_by_each_flush(new_town, path, complaint):
    base = new_base()
    owner_class = with_path(base, path)
    mgr = new_town(base)
    for _ in range(2):
        mgr.session().add(owner_class())
        with pytest.raises(ConfigurationError, match=f"Owner.follow can't follow .*{complaint}"):
            mgr.session().flush()
        transaction.abort()


def test_what_others_declared_wrongly_does_no_harm(new_town):
    with_path(new_base(), "nam")
    base = new_base()

    class One(Observing, base):
        __tablename__ = "one"

    assert notes_of(new_town(base), One(name="a")) == ["parent"]


def test_observers_without_end_are_stopped(new_town):
    base = new_base()

    class One(Noting, base):
        __tablename__ = "one"
        title: Mapped[str | None]

        @observes("name")
        def follow_name(self, name):
            self.title = f"{name}!"

        @observes("title")
        def follow_title(self, title):
            self.name = title

    mgr = new_town(base)
    mgr.session().add(One(name="a"))
    with pytest.raises(ConfigurationError, match=r"follow_name.*follow_title"):
        mgr.session().flush()


def test_what_an_observer_does_itself_it_need_not_hear(new_town):
    base = new_base()

    class One(Noting, base):
        __tablename__ = "one"

        @observes("name", "notes")
        def follow(self, name, notes):
            self.notes = (notes or "") + "!"

    assert notes_of(new_town(base), One(name="a")) == ["!"]
