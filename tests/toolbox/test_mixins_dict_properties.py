"""Properties in dictionaries: what objects read, keep, and mark as changed."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from onegov_orm import MutableDefault, NaiveDatetime, OrmError
from onegov_orm.base import ModelBase
from onegov_orm.mixins import (
    ContentMixin,
    content_property,
    data_property,
    dict_property,
    dict_property_factory,
    meta_property,
)


class Base(DeclarativeBase, ModelBase):
    pass


class Contact(ContentMixin):
    """A mixin of the application's own."""

    phone = meta_property(value_type=str)


class Town(Contact, Base):
    __tablename__ = "towns"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any] | None]
    raw: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    motto = meta_property()
    title: dict_property[str | None] = meta_property("name", value_type=str)
    rank: dict_property[int] = meta_property(default=1)
    text = content_property(value_type=str)
    size = data_property(default=0)
    colour = dict_property("raw", default="red")
    names: dict_property[list[str]] = meta_property(default=list)
    tree: dict_property[dict[str, Any]] = data_property(default=lambda: {"roots": []})
    raw_names: dict_property[list[str]] = dict_property("raw", default=list)


class Village(Town):
    streets = meta_property(default=0)


@pytest.fixture
def session(new_town) -> Any:
    manager = new_town(Base)
    session = manager.session()
    session.add(Town(id=1))
    session.flush()
    session.expire_all()
    return session


def stored(session: Any, column: Any = Town.meta) -> Any:
    session.flush()
    return session.scalars(select(column).where(Town.id == 1)).one()


# -- reading and writing


def test_a_property_is_kept_under_its_own_name():
    town = Town(motto="Onwards")
    assert town.motto == "Onwards"
    assert town.meta == {"motto": "Onwards"}


def test_a_property_may_have_another_key():
    town = Town(title="Bern")
    assert town.title == "Bern"
    assert town.meta == {"name": "Bern"}


def test_a_property_that_is_not_there_has_its_default():
    town = Town()
    assert town.motto is None
    assert town.rank == 1
    assert town.names == []
    assert town.tree == {"roots": []}


def test_none_that_is_stored_is_none_and_not_the_default():
    town = Town(rank=None)
    assert town.rank is None
    assert town.meta == {"rank": None}


def test_a_dictionary_that_is_null_is_made_when_it_is_needed(session):
    town = session.get(Town, 1)
    assert town.data is None
    assert town.size == 0
    town.size = 3
    assert stored(session, Town.data) == {"size": 3}


def test_a_property_can_be_deleted(session):
    town = session.get(Town, 1)
    town.rank = 5
    del town.rank
    assert town.rank == 1
    assert stored(session) == {}


@pytest.mark.parametrize("name", ["rank", "size"])
def test_what_is_not_there_can_not_be_deleted(name):
    town = Town(meta={})
    with pytest.raises(AttributeError, match=f"Town.{name} is not set"):
        delattr(town, name)


def test_what_is_set_is_written(session):
    town = session.get(Town, 1)
    town.motto = "Onwards"
    town.text = "Long"
    assert stored(session) == {"motto": "Onwards"}
    assert stored(session, Town.content) == {"text": "Long"}


def test_what_is_set_in_a_plain_json_column_is_written(session):
    town = session.get(Town, 1)
    town.colour = "blue"
    assert stored(session, Town.raw) == {"colour": "blue"}
    town.colour = "green"
    assert stored(session, Town.raw) == {"colour": "green"}
    del town.colour
    assert stored(session, Town.raw) == {}


def test_the_content_is_loaded_on_demand(session):
    session.expunge_all()
    town = session.get(Town, 1)
    assert "meta" in vars(town)
    assert "content" not in vars(town)
    assert town.text is None
    assert "content" in vars(town)


def test_properties_are_inherited_from_mixins_and_models():
    village = Village(phone="031", rank=2, streets=3)
    assert village.meta == {"phone": "031", "rank": 2, "streets": 3}
    assert Village.phone.hybrid is Town.phone.hybrid is vars(Contact)["phone"]


def test_properties_of_plain_classes_do_not_touch_what_their_class_shares():
    class Plain:
        options: dict[str, Any] = {}
        colour = dict_property("options", default="red")
        names: dict_property[list[str]] = dict_property("options", default=list)

    first, second = Plain(), Plain()
    first.colour = "blue"
    first.names.append("Aare")
    assert first.options == {"colour": "blue", "names": ["Aare"]}
    assert (second.options, Plain.options) == ({}, {})
    del first.colour
    assert first.colour == "red"


def test_a_property_of_a_dictionary_that_is_none_is_an_error_of_python():
    class Plain:
        colour = dict_property("optoins")

    with pytest.raises(AttributeError, match="optoins"):
        _ = Plain().colour


def test_factories_make_properties_of_any_dictionary():
    extra_property = dict_property_factory("extras")

    class Plain:
        extras: Any = None
        colour = extra_property(default="red")
        size = extra_property("width", value_type=int)

    plain = Plain()
    plain.size = 4
    assert (plain.colour, plain.extras) == ("red", {"width": 4})


def test_dataclasses_have_properties_too():
    class Own(MappedAsDataclass, DeclarativeBase, ModelBase):
        pass

    class Place(Own):
        __tablename__ = "places"
        id: Mapped[int] = mapped_column(primary_key=True)
        meta: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
        rank = meta_property(default=1)

    place = Place(id=1)
    place.rank = 2
    assert place.meta == {"rank": 2}


# -- defaults


@pytest.mark.parametrize("default", [[], {}, set(), ["a"]])
def test_a_default_that_all_objects_would_share_is_refused(default):
    with pytest.raises(MutableDefault, match=f"default={type(default).__name__}") as raised:
        meta_property(default=default)
    assert isinstance(raised.value, OrmError)
    assert isinstance(raised.value, ValueError)


def test_a_default_is_made_anew_for_each_object():
    first, second = Town(), Town()
    first.names.append("a")
    assert first.names == ["a"]
    assert second.names == []


def test_reading_a_default_changes_nothing(session):
    town = session.get(Town, 1)
    assert (town.names, town.tree, town.rank) == ([], {"roots": []}, 1)
    assert not session.is_modified(town)
    assert town not in session.dirty
    assert (town.meta, town.data) == ({}, None)


def test_a_default_that_is_changed_is_stored(session):
    town = session.get(Town, 1)
    town.names.append("Bern")
    assert town in session.dirty
    assert stored(session) == {"names": ["Bern"]}


def test_a_default_that_is_changed_twice_is_stored_with_both_changes(session):
    town = session.get(Town, 1)
    names = town.names
    names.append("Bern")
    assert stored(session) == {"names": ["Bern"]}
    names.append("Berne")
    assert stored(session) == {"names": ["Bern", "Berne"]}


def test_a_default_that_is_added_to_is_stored_once(session):
    town = session.get(Town, 1)
    town.names += ["Bern", "Berne"]
    assert stored(session) == {"names": ["Bern", "Berne"]}
    town.names += ["Berna"]
    assert stored(session) == {"names": ["Bern", "Berne", "Berna"]}


def test_a_change_deep_in_a_default_is_stored(session):
    town = session.get(Town, 1)
    town.tree["roots"].append("oak")
    assert stored(session, Town.data) == {"tree": {"roots": ["oak"]}}
    town.tree["roots"].append("ash")
    assert stored(session, Town.data) == {"tree": {"roots": ["oak", "ash"]}}


def test_a_default_is_the_same_for_all_who_hold_it(session):
    town = session.get(Town, 1)
    mine = town.names
    town.names.append("theirs")
    mine.append("mine")
    assert mine is town.names
    assert stored(session) == {"names": ["theirs", "mine"]}


def test_a_default_keeps_its_object_until_it_is_changed(session):
    names = session.get(Town, 1).names
    gc.collect()
    names.append("Bern")
    assert stored(session) == {"names": ["Bern"]}


def test_a_default_and_its_object_can_be_forgotten():
    town = Town(id=2)
    reference = weakref.ref(town)
    assert town.names == []
    del town
    gc.collect()
    assert reference() is None


def test_a_default_does_not_replace_what_was_set_meanwhile(session):
    town = session.get(Town, 1)
    old = town.names
    town.names = ["Bern"]
    old.append("lost, as with any attribute")
    assert stored(session) == {"names": ["Bern"]}


def test_what_was_a_default_is_not_read_again_after_it_was_deleted():
    town = Town()
    names = town.names
    names.append("Bern")
    del town.names
    assert names == ["Bern"]
    assert town.names == []


def test_a_default_of_an_object_that_expired_is_stored(session):
    town = session.get(Town, 1)
    names = town.names
    session.expire(town)
    names.append("Bern")
    assert stored(session) == {"names": ["Bern"]}


def test_a_default_that_was_rolled_back_is_the_default_again(session):
    town = session.get(Town, 1)
    with session.begin_nested() as savepoint:
        town.names.append("Bern")
        session.flush()
        savepoint.rollback()
    assert town.names == []
    town.names.append("Berne")
    assert stored(session) == {"names": ["Berne"]}


def test_a_default_that_is_changed_is_stored_in_a_plain_json_column(session):
    town = session.get(Town, 1)
    town.raw_names.append("Bern")
    assert stored(session, Town.raw) == {"raw_names": ["Bern"]}


def test_objects_with_defaults_can_be_copied_and_pickled():
    town = Town(id=7)
    names = town.names
    again = pickle.loads(pickle.dumps(town))
    again.names.append("Bern")
    assert (again.meta, again.names) == ({"names": ["Bern"]}, ["Bern"])
    assert (town.names, names) == ([], [])
    assert copy.deepcopy(names) == pickle.loads(pickle.dumps(names)) == []


def test_a_part_of_a_default_keeps_the_rest_of_it(session):
    town = session.get(Town, 1)
    roots = town.tree["roots"]
    gc.collect()
    roots.append("oak")
    assert town.tree["roots"] is roots
    assert stored(session, Town.data) == {"tree": {"roots": ["oak"]}}


# -- other getters, setters and deleters


def make_custom() -> Any:
    class Own(DeclarativeBase, ModelBase):
        pass

    class Page(ContentMixin, Own):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        text = meta_property(default="")

        @text.getter
        def text(self):
            return self.meta.get("text", "").upper()

        @text.setter
        def text(self, value):
            self.meta = {"text": value, "length": len(value)}

        @text.deleter
        def text(self):
            self.meta = {}

    return Page


def test_the_accessors_of_a_property_can_be_replaced_as_those_of_any():
    page = make_custom()(text="abc")
    assert page.meta == {"text": "abc", "length": 3}
    assert page.text == "ABC"
    del page.text
    assert page.meta == {}


def test_other_accessors_leave_the_rest_as_it_was():
    page = make_custom()
    assert page.text.hybrid.key == "text"
    assert page.text.hybrid.value_type is str
    assert "'text'" in str(select(page.text))


def test_accessors_can_be_replaced_in_place():
    class Page(ContentMixin):
        name = meta_property(value_type=str)

        @name.inplace.setter
        def _set_name(self, value: str | None) -> None:
            self.meta = {"name": value, "length": len(value or "")}

        @name.inplace.deleter
        def _delete_name(self) -> None:
            self.meta = {}

    page = Page()
    page.name = "abc"
    assert page.meta == {"name": "abc", "length": 3}
    assert page.name == "abc"
    del page.name
    assert page.name is None


def test_a_derived_class_replaces_an_accessor_for_itself_alone():
    class Page(ContentMixin):
        name = meta_property(value_type=str)

    class Shouted(Page):
        @vars(Page)["name"].getter
        def name(self):
            return self.meta["name"].upper()

    page, shouted = Page(), Shouted()
    page.meta = shouted.meta = {"name": "abc"}
    assert (page.name, shouted.name) == ("abc", "ABC")


def test_a_derived_model_replaces_an_accessor_for_itself_alone():
    class Own(DeclarativeBase, ModelBase):
        pass

    class Page(ContentMixin, Own):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        name = meta_property(value_type=str)

    class Shouted(Page):
        @Page.name.overrides.setter
        def name(self, value):
            self.meta = {"name": value.upper()}

    page, shouted = Page(name="abc"), Shouted(name="abc")
    assert (page.name, shouted.name) == ("abc", "ABC")
    assert str(select(Shouted.name)) == str(select(Page.name))


def test_the_type_of_a_property_is_that_of_its_default_or_was_given():
    assert Town.title.hybrid.value_type is str
    assert Town.rank.hybrid.value_type is int
    assert Town.names.hybrid.value_type is list
    assert Town.tree.hybrid.value_type is dict
    assert Town.motto.hybrid.value_type is None


def test_classes_with_properties_can_be_forgotten():
    model = make_custom()
    assert model(text="a")
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_a_datetime_that_no_query_would_find_is_refused_when_it_is_set() -> None:
    class Plain:
        meta: dict[str, Any] | None = None
        at = meta_property(value_type=datetime)

    plain = Plain()
    with pytest.raises(NaiveDatetime, match="time zone"):
        plain.at = datetime(2026, 1, 1)  # noqa: DTZ001
    plain.at = datetime(2026, 1, 1, tzinfo=UTC)
    assert plain.meta == {"at": plain.at}
