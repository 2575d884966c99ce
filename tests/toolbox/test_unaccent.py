"""Texts without their accents, by the extension in its own schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Text, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import functions

from onegov_orm.func import unaccent
from tests.clients import CLIENTS, Client, driver_of, new_client
from tests.models import Document

BERN, BASEL = "towns-bern", "towns-basel"
NAMES = ["Zoë", "Élodie", "Ökonom", "Zoé", "Emil", None]


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, newest: Any) -> Iterator[Client]:
    """A manager with each driver, in whose schemas are titles with accents."""
    name = newest.create()
    dsn = newest.server.dsn(name, driver=driver_of(request.param), tcp=False)
    found = new_client(request.param, dsn)
    for schema in (BERN, BASEL):
        found.run(schema, lambda session, schema=schema: fill(session, schema))
    yield found
    found.close()
    newest.drop(name)


def fill(session: Session, schema: str) -> None:
    session.add_all([Document(owner=schema, title=title) for title in NAMES])


def titles(client: Client, statement: Any, schema: str = BERN) -> list[str | None]:
    return client.run(schema, lambda session: session.scalars(statement).all())


def test_filters(client):
    statement = select(Document.title).where(unaccent(Document.title) == "Zoe")
    for schema in (BERN, BASEL):
        assert sorted(titles(client, statement, schema)) == ["Zoé", "Zoë"]


def test_filters_by_a_text_with_accents(client):
    statement = select(Document.title).where(unaccent(Document.title).ilike(unaccent("É") + "%"))
    assert sorted(titles(client, statement)) == ["Emil", "Élodie"]


def test_orders(client):
    statement = (
        select(Document.title)
        .where(Document.title.is_not(None))
        .order_by(unaccent(Document.title).collate("C"), Document.title.collate("C"))
    )
    assert titles(client, statement) == ["Élodie", "Emil", "Ökonom", "Zoé", "Zoë"]


def test_is_selected_as_a_text(client):
    statement = select(unaccent(Document.title)).where(Document.title == "Élodie")
    assert titles(client, statement) == ["Elodie"]


def test_nothing_stays_nothing(client):
    statement = select(unaccent(Document.title)).where(Document.title.is_(None))
    assert titles(client, statement) == [None]


def test_is_typed_as_a_text():
    expression = unaccent(Document.title)
    assert isinstance(expression.type, Text)
    assert isinstance((expression + "x").type, sqlalchemy.String)
    assert str(expression) == "unaccent(documents.title)"


def test_nothing_is_registered():
    assert "unaccent" not in functions._registry["_default"]
    assert type(sqlalchemy.func.unaccent("x")) is functions.Function


def test_it_can_be_cached():
    keys = {select(unaccent(Document.title))._generate_cache_key().key for _ in range(2)}
    assert len(keys) == 1
