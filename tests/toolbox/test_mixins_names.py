"""Names without blanks around them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates

from onegov_orm.base import ModelBase
from onegov_orm.mixins import StripWhitespaceMixin


class Base(DeclarativeBase, ModelBase):
    pass


class Person(StripWhitespaceMixin, Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    city: Mapped[str | None]


class Mayor(Person):
    pass


class Member(Base, StripWhitespaceMixin):
    __tablename__ = "members"
    stripped_columns = (*StripWhitespaceMixin.stripped_columns, "city", "club")
    id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str]
    city: Mapped[str | None]
    note: Mapped[str | None]


class Validated(Base, StripWhitespaceMixin):
    """As users of the reference library write it."""

    __tablename__ = "validated"
    id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str]
    city: Mapped[str | None]

    @validates("first_name", "city")
    def strip_names(self, key: str, value: str | None) -> str | None:
        return super().strip_names(key, value)


@pytest.mark.parametrize("model", [Person, Mayor])
def test_names_are_stripped_by_the_constructor(model):
    person = model(first_name=" Ada\n", last_name="\tLovelace ")
    assert (person.first_name, person.last_name) == ("Ada", "Lovelace")


@pytest.mark.parametrize("model", [Person, Mayor])
def test_names_are_stripped_when_they_are_set(model):
    person = model()
    person.first_name = "  Ada Byron  "
    assert person.first_name == "Ada Byron"
    person.first_name = "   "
    assert person.first_name == ""


def test_none_stays_none():
    person = Person(first_name=None)
    assert person.first_name is None
    person.first_name = "Ada"
    person.first_name = None
    assert person.first_name is None


def test_what_is_no_name_is_left_alone():
    assert Person(city=" Bern ").city == " Bern "


def test_a_model_tells_what_is_stripped():
    member = Member(first_name=" Ada ", city=" Bern ", note=" x ")
    assert (member.first_name, member.city, member.note) == ("Ada", "Bern", " x ")


def test_a_validator_may_strip_more():
    record = Validated(first_name=" Ada ", city=" Bern ")
    assert (record.first_name, record.city) == ("Ada", "Bern")


def test_what_is_stripped_is_written(new_town):
    session: Any = new_town(Base).session()
    session.add(Person(id=1, first_name=" Ada "))
    assert session.scalars(select(Person.first_name)).one() == "Ada"


def test_expressions_are_left_to_the_server(new_town):
    session: Any = new_town(Base).session()
    session.add(Person(id=1, first_name=func.lower("ADA")))
    assert session.scalars(select(Person.first_name)).one() == "ada"


def test_other_models_are_left_alone():
    class Other(Base):
        __tablename__ = "others"
        id: Mapped[int] = mapped_column(primary_key=True)
        first_name: Mapped[str]

    assert Other(first_name=" Ada ").first_name == " Ada "
