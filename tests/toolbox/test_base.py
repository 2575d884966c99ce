"""Bases: the types of annotations, classes by identity, and how models are found."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import pytest
from markupsafe import Markup
from sqlalchemy import DateTime, MetaData, String, Text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    declarative_base,
    mapped_column,
    registry,
)

from onegov_orm import ModelNotFound, OrmError
from onegov_orm.base import Base, ModelBase, find_models
from onegov_orm.types import JSON, UUID, MarkupText, UTCDateTime


def make_base() -> Any:
    class Own(DeclarativeBase, ModelBase):
        pass

    return Own


def type_of(model: Any, name: str) -> type[Any]:
    return type(model.__table__.c[name].type)


# -- annotations


def test_annotations_have_the_types_of_the_library():
    class Town(make_base()):
        __tablename__ = "towns"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        name: Mapped[str]
        founded: Mapped[datetime]
        facts: Mapped[dict[str, Any]]
        motto: Mapped[Markup]

    assert type_of(Town, "id") is UUID
    assert type_of(Town, "name") is Text
    assert type_of(Town, "founded") is UTCDateTime
    assert type_of(Town, "facts") is JSON
    assert type_of(Town, "motto") is MarkupText


def test_annotations_that_allow_none_are_nullable():
    class Town(make_base()):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        founded: Mapped[datetime | None]
        facts: Mapped[dict[str, Any] | None]
        motto: Mapped[Markup | None]

    assert type_of(Town, "founded") is UTCDateTime
    assert type_of(Town, "facts") is JSON
    assert type_of(Town, "motto") is MarkupText
    assert all(Town.__table__.c[name].nullable for name in ("founded", "facts", "motto"))


def test_dictionaries_and_lists_are_json_however_they_are_annotated():
    class Town(make_base()):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[dict]
        b: Mapped[dict[str, str]]
        c: Mapped[dict[str, str | None] | None]
        d: Mapped[dict[str, list[int]]]
        e: Mapped[list]
        f: Mapped[list[str]]
        g: Mapped[list[Any] | None]
        h: Mapped[list[dict[str, Any]]]

    assert all(type_of(Town, name) is JSON for name in "abcdefgh")


def test_what_a_base_maps_itself_comes_first():
    class Own(DeclarativeBase, ModelBase):
        type_annotation_map = {str: String(20)}

    class Town(Own):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        founded: Mapped[datetime]

    assert Town.__table__.c.name.type.length == 20
    assert type_of(Town, "founded") is UTCDateTime


def test_a_base_may_bring_its_registry():
    class Own(DeclarativeBase, ModelBase):
        registry = registry(type_annotation_map={datetime: DateTime}, metadata=MetaData())

    class Town(Own):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        founded: Mapped[datetime]

    assert type_of(Town, "name") is Text
    assert type_of(Town, "founded") is DateTime


def test_the_order_of_the_bases_does_not_matter():
    class Own(ModelBase, DeclarativeBase):
        pass

    class Town(Own):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        founded: Mapped[datetime]

    assert type_of(Town, "founded") is UTCDateTime


def test_bases_of_dataclasses_have_the_annotations_too():
    class Own(MappedAsDataclass, DeclarativeBase, ModelBase):
        pass

    class Town(Own):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        founded: Mapped[datetime | None] = mapped_column(default=None)

    assert type_of(Town, "founded") is UTCDateTime
    assert Town(id=1).founded is None


def test_bases_made_by_a_function_have_the_annotations_too():
    own: Any = declarative_base(cls=ModelBase)

    class Town(own):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        founded: Mapped[datetime]

    assert type_of(Town, "founded") is UTCDateTime


def test_bases_do_not_share_their_tables_and_types():
    class First(DeclarativeBase, ModelBase):
        type_annotation_map = {str: String(20)}

    class Second(DeclarativeBase, ModelBase):
        pass

    for base in (First, Second):
        type(
            "Town",
            (base,),
            {"__tablename__": "towns", "id": mapped_column(Text, primary_key=True)},
        )
    assert First.metadata is not Second.metadata
    assert First.metadata.tables.keys() == Second.metadata.tables.keys() == {"towns"}
    assert Second.registry.type_annotation_map[str] is Text
    assert "towns" not in Base.metadata.tables


# -- polymorphic identities


def make_pages() -> Any:
    class Page(make_base()):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        type: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "type", "polymorphic_identity": "page"}

    class News(Page):
        __mapper_args__ = {"polymorphic_identity": "news"}

    class Topic(Page):
        __mapper_args__ = {"polymorphic_identity": "topic"}

    return Page, News, Topic


def test_a_class_is_found_by_its_identity_from_anywhere_in_the_hierarchy():
    page, news, topic = make_pages()
    for model in (page, news, topic):
        assert model.get_polymorphic_class("page") is page
        assert model.get_polymorphic_class("news") is news


def test_an_identity_that_is_unknown_is_an_error_that_tells_which_there_are():
    page, *_ = make_pages()
    with pytest.raises(ModelNotFound, match=r"'nws'.*'page', 'news', 'topic'") as raised:
        page.get_polymorphic_class("nws")
    assert isinstance(raised.value, LookupError)
    assert isinstance(raised.value, OrmError)
    assert raised.value.model is page
    assert raised.value.identity == "nws"
    assert raised.value.identities == ("page", "news", "topic")


@pytest.mark.parametrize("default", [None, 0, "page"])
def test_an_identity_that_is_unknown_gets_the_default(default):
    page, news, _ = make_pages()
    assert page.get_polymorphic_class("nws", default) == default
    assert page.get_polymorphic_class("nws", default=default) == default
    assert page.get_polymorphic_class("news", default) is news


def test_a_class_without_identities_finds_none():
    class Plain(make_base()):
        __tablename__ = "plain"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert Plain.get_polymorphic_class("page", None) is None
    assert Plain.__base__.get_polymorphic_class("page", None) is None
    with pytest.raises(ModelNotFound, match="none"):
        Plain.get_polymorphic_class("page")


# -- the manager of an object


def test_an_object_has_the_manager_of_its_session(new_town):
    class Town(make_base()):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)

    first, second = new_town(Town.__base__), new_town(Town.__base__)
    second.set_active()
    town = Town(id=1)
    assert town.session_manager is second
    first.session().add(town)
    assert town.session_manager is first


def test_an_object_without_a_session_has_the_active_manager_or_none(new_town):
    class Town(make_base()):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)

    manager = new_town(Town.__base__)
    manager.set_active()
    assert Town(id=1).session_manager is manager
    manager.deactivate()
    assert Town(id=1).session_manager is None


# -- finding


class Marked:
    """What some models are."""


def has_mark(model: type[Any]) -> bool:
    return issubclass(model, Marked)


def everything(model: type[Any]) -> bool:
    return True


def table(name: str) -> dict[str, Any]:
    return {"__tablename__": name, "id": mapped_column(Text, primary_key=True)}


def test_models_are_found_by_what_they_are():
    base = make_base()
    plain = type("Plain", (base,), table("plain"))
    marked = type("MarkedModel", (base, Marked), table("marked"))
    assert list(find_models(base, has_mark)) == [marked]
    assert list(find_models(base, lambda model: not issubclass(model, Marked))) == [plain]
    assert list(find_models(base, everything)) == [plain, marked]


def test_models_below_abstract_classes_are_found_but_not_these():
    base = make_base()
    abstract = type("Abstract", (base, Marked), {"__abstract__": True})
    deeper = type("Deeper", (abstract,), {"__abstract__": True})
    model = type("Model", (deeper,), table("models"))
    assert list(find_models(base, has_mark)) == [model]


def test_models_below_a_mixin_are_found():
    class Mixin(Marked):
        pass

    class Between(Mixin):
        pass

    model = type("Model", (make_base(), Between), table("models"))
    assert list(find_models(Mixin, everything)) == [model]


def test_a_model_is_found_once_however_many_ways_lead_to_it():
    base = make_base()
    left = type("Left", (base,), {"__abstract__": True})
    right = type("Right", (base,), {"__abstract__": True})
    diamond = type("Diamond", (left, right), table("diamonds"))
    below = type("Below", (diamond,), {})
    assert list(find_models(base, everything)) == [diamond, below]


def test_models_come_in_the_order_of_their_definition_the_derived_ones_behind_theirs():
    base = make_base()
    first = type("First", (base,), table("first"))
    second = type("Second", (base,), table("second"))
    derived = type("Derived", (first,), {})
    found = list(find_models(base, everything))
    assert found == [first, derived, second]
    assert list(find_models(base, everything)) == found


def test_mappers_are_not_configured_by_looking_for_models():
    base = make_base()
    model = type("Model", (base,), table("models"))
    list(find_models(base, everything))
    assert not model.__mapper__.configured
