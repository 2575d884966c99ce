"""`UUID` and `HSTORE`."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import ARRAY, func, insert, literal, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm import InvalidUUID
from onegov_orm.types import HSTORE, UUID
from tests.toolbox.typed import kept, typed_fixture, with_session

SOME = uuid.UUID("12345678123456781234567812345678")


class Base(DeclarativeBase):
    """A base of its own."""


class Ticket(Base):
    """Something with a UUID, and with texts by key."""

    __tablename__ = "tickets"

    id: Mapped[uuid.UUID] = mapped_column(UUID, primary_key=True, default=uuid.uuid4)
    other: Mapped[uuid.UUID | None] = mapped_column(UUID)
    several: Mapped[list[uuid.UUID] | None] = mapped_column(ARRAY(UUID))
    texts: Mapped[dict[str, str | None] | None] = mapped_column(HSTORE)


typed = typed_fixture(Base)


def found(session: Session, *criteria: Any) -> bool:
    return session.scalar(select(func.count()).select_from(Ticket).where(*criteria)) == 1


@pytest.mark.parametrize(
    "given", [SOME, str(SOME), SOME.hex, SOME.urn, f"{{{SOME}}}".upper(), None], ids=str
)
@with_session
def test_a_uuid_or_its_text_is_read_as_uuid(session: Session, given: Any) -> None:
    ticket = kept(session, Ticket(other=given))
    assert ticket.other == (given and SOME)
    assert type(ticket.other) in (uuid.UUID, type(None))
    assert type(ticket.id) is uuid.UUID


@with_session
def test_uuids_in_an_array_are_uuids(session: Session) -> None:
    ticket = kept(session, Ticket(several=[str(SOME), SOME]))  # type: ignore[list-item]
    assert ticket.several == [SOME, SOME]
    assert type(ticket.several[0]) is uuid.UUID


@pytest.mark.parametrize("given", ["", "text", f"{SOME}0", 5, b"x" * 16, ["x"]], ids=str)
@with_session
def test_anything_else_is_refused_before_it_is_sent(session: Session, given: Any) -> None:
    with pytest.raises(InvalidUUID, match="is not a UUID") as caught:
        session.execute(insert(Ticket).values(other=given))
    assert caught.value.value == given
    with pytest.raises(InvalidUUID):
        session.scalars(select(Ticket).where(Ticket.other == given)).all()


def test_a_wrong_text_is_refused_as_it_is_assigned() -> None:
    with pytest.raises(InvalidUUID):
        Ticket(other="text")  # type: ignore[arg-type]


@with_session
def test_an_object_with_a_text_as_its_key_is_the_one_that_is_read(session: Session) -> None:
    ticket = Ticket(id=str(SOME))  # type: ignore[arg-type]
    assert ticket.id == SOME
    session.add(ticket)
    session.flush()
    assert session.get(Ticket, SOME) is ticket
    assert session.get(Ticket, str(SOME)) is ticket
    assert session.scalars(select(Ticket)).one() is ticket


@with_session
def test_uuids_are_compared_with_their_texts(session: Session) -> None:
    session.add(Ticket(id=SOME))
    session.flush()
    assert found(session, Ticket.id == str(SOME), Ticket.id.in_([str(SOME), uuid.uuid4()]))
    assert found(session, Ticket.id == literal(str(SOME), UUID(), literal_execute=True))
    assert not found(session, Ticket.id != SOME)


@with_session
def test_the_server_makes_uuids_too(session: Session) -> None:
    ticket = Ticket()
    ticket.other = func.gen_random_uuid()
    session.add(ticket)
    session.flush()
    assert type(ticket.other) is uuid.UUID


@with_session
def test_texts_by_key_come_back(session: Session) -> None:
    texts = {"a": "1", "b": None, 'quo"te': "back\\slash", "": "ü => %s"}
    ticket: Any = kept(session, Ticket(texts=texts))
    assert ticket.texts == texts
    assert kept(session, Ticket(texts=None)).texts is None


@with_session
def test_texts_by_key_are_found(session: Session) -> None:
    session.add(Ticket(texts={"a": "1", "b": None}))
    session.flush()
    assert found(session, Ticket.texts["a"] == "1", Ticket.texts.has_key("b"))
    assert found(session, Ticket.texts.contains({"a": "1"}))
    session.execute(update(Ticket).values(texts=Ticket.texts + {"c": "3"}))
    assert session.scalar(select(Ticket.texts)) == {"a": "1", "b": None, "c": "3"}


@with_session
def test_a_changed_text_is_written(session: Session) -> None:
    ticket: Any = kept(session, Ticket(texts={"a": "1"}))
    ticket.texts["b"] = "2"
    session.flush()
    session.expire(ticket)
    assert ticket.texts == {"a": "1", "b": "2"}


def test_the_type_is_shown_as_it_is_made() -> None:
    assert repr(UUID()) == "UUID()"
