"""Properties that are kept for the transaction or unit of work alone."""

from __future__ import annotations

import pytest
import transaction

from onegov_orm.cache import memory_region
from tests.toolbox.caching import App, Base, User, add
from tests.toolbox.conftest import NewTowns


@pytest.fixture
def app(new_town: NewTowns) -> App:
    found = App(new_town(Base), memory_region())
    add(found, "Ada", "Grace")
    return found


def test_objects_are_kept_for_the_transaction(app: App) -> None:
    assert app.users is app.users
    assert [user.name for user in app.users] == ["Ada", "Grace"]
    transaction.commit()
    app.users
    assert app.made == 2


@pytest.fixture
def plain(new_town: NewTowns) -> App:
    """One whose sessions commit and roll back by themselves."""
    found = App(new_town(Base, transaction_manager=None), memory_region())
    add(found, "Ada", "Grace")
    return found


def test_objects_are_kept_for_the_block(plain: App) -> None:
    app, schema = plain, str(plain.mgr.current_schema)
    with app.mgr.schema(schema) as session:
        first = app.users
        session.commit()
        assert app.users is first
        with app.mgr.schema(schema):
            assert app.users is not first


def test_a_rollback_forgets_them(plain: App) -> None:
    app = plain
    with app.mgr.schema(str(app.mgr.current_schema)) as session:
        session.add(User(name="Alan"))
        assert len(app.users) == 3
        session.rollback()
        assert len(app.users) == 2


def test_each_object_has_its_own(app: App) -> None:
    second = App(app.mgr, memory_region())
    assert app.users is not second.users


def test_a_plain_session_forgets_them_with_its_transaction(plain: App) -> None:
    app = plain
    first = app.users
    assert app.users is first
    app.mgr.session().commit()
    assert app.users is not first
