"""Objects know their customer."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import transaction
from sqlalchemy import inspect
from sqlalchemy.orm import make_transient

import onegov_orm
from onegov_orm.errors import CrossSchemaError
from tests.models import Base, Document, Page, Person

REPOSITORY = Path(onegov_orm.__file__).parent.parent


def stay(mgr, document):
    """Leave the object in its session."""


def expunge(mgr, document):
    mgr.session().expunge_all()


def commit(mgr, document):
    transaction.commit()


def abort_later(mgr, document):
    transaction.commit()
    mgr.session().add(document)
    transaction.abort()


def close(mgr, document):
    mgr.session().close()


def forget(mgr, document):
    transaction.commit()
    mgr._store()._sessions.clear()
    gc.collect()


LEAVING = [stay, expunge, commit, abort_later, close, forget]

each_way = pytest.mark.parametrize("leave", LEAVING, ids=lambda leave: leave.__name__)


OURS, THEIRS = "towns-ours", "towns-theirs"


@pytest.fixture
def mgr(shared_dsn, new_manager):
    manager = new_manager(shared_dsn, Base)
    manager.set_current_schema(OURS)
    return manager


@pytest.fixture
def theirs(mgr):
    """Make an object of another customer's, and let it leave its session."""

    def make(leave=commit, cls=Document, **values):
        mgr.set_current_schema(THEIRS)
        obj = cls(**(values or {"owner": "theirs", "pages": [Page(text="one")]}))
        mgr.session().add(obj)
        mgr.session().flush()
        leave(mgr, obj)
        mgr.set_current_schema(OURS)
        return obj

    return make


@each_way
@pytest.mark.parametrize("verb", ["add", "delete", "merge"])
def test_another_customers_object_is_refused(mgr, theirs, leave, verb):
    document = theirs(leave)
    with pytest.raises(CrossSchemaError, match="Document"):
        getattr(mgr.session(), verb)(document)
    assert document not in mgr.session()


def test_the_error_names_both_schemas(mgr, theirs):
    document = theirs()
    with pytest.raises(CrossSchemaError) as caught:
        mgr.session().add(document)
    assert (caught.value.owner, caught.value.session) == (THEIRS, OURS)


@each_way
def test_add_all(mgr, theirs, leave):
    document = theirs(leave)
    with pytest.raises(CrossSchemaError):
        mgr.session().add_all([Document(owner="ada"), document])


@each_way
def test_a_new_object_that_brings_a_foreign_one_along(mgr, theirs, leave):
    page = theirs(leave).pages[0]
    document = Document(owner="ada", pages=[page]) if leave is not stay else None
    with pytest.raises(CrossSchemaError, match="Page"):
        if document is None:
            mgr.session().add(Document(owner="ada"))
            [document] = mgr.session().new
            document.pages.append(page)
        mgr.session().add(document)


@each_way
def test_append_to_a_collection(mgr, theirs, leave):
    page, document = theirs(leave).pages[0], Document(owner="ada")
    mgr.session().add(document)
    mgr.session().flush()
    with pytest.raises(CrossSchemaError, match="Page"):
        document.pages.append(page)


@each_way
def test_set_a_relationship(mgr, theirs, leave):
    document, page = theirs(leave), Page(text="ours")
    mgr.session().add(page)
    with pytest.raises(CrossSchemaError, match="Document"):
        page.document = document


def test_set_a_relationship_of_a_foreign_object(mgr, theirs):
    document, page = Document(owner="ours"), theirs(stay).pages[0]
    mgr.session().add(document)
    mgr.session().flush()
    with pytest.raises(CrossSchemaError):
        page.document = document


@each_way
def test_a_merge_looks_at_the_whole_graph(mgr, theirs, leave):
    page = theirs(leave).pages[0]
    copied = Document(id=1, owner="ada")
    with pytest.raises(CrossSchemaError, match="Page"):
        copied.pages.append(page)
        mgr.session().merge(copied)
    assert not mgr.session().new


def test_a_merge_without_loading(mgr, theirs):
    with pytest.raises(CrossSchemaError):
        mgr.session().merge(theirs(), load=False)


def test_merge_all(mgr, theirs):
    with pytest.raises(CrossSchemaError):
        mgr.session().merge_all([Document(owner="ada"), theirs()])
    assert not mgr.session().new


@each_way
def test_bulk_save_objects(mgr, theirs, leave):
    document = theirs(leave)
    document.owner = "stolen"
    with pytest.raises(CrossSchemaError):
        mgr.session().bulk_save_objects([document])


def test_an_object_in_two_tables(mgr, theirs):
    person = theirs(cls=Person, name="ada")
    with pytest.raises(CrossSchemaError):
        mgr.session().add(person)


# -- pickles


@each_way
def test_a_pickle_takes_the_schema_along(mgr, theirs, leave):
    copied = pickle.loads(pickle.dumps(theirs(leave)))
    for refuse in (mgr.session().add, mgr.session().merge, mgr.session().delete):
        with pytest.raises(CrossSchemaError):
            refuse(copied)
    with pytest.raises(CrossSchemaError):
        mgr.session().add(copied.pages[0])


def test_a_pickle_of_a_pickle(mgr, theirs):
    copied = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(theirs()))))
    with pytest.raises(CrossSchemaError):
        mgr.session().add(copied)


def test_a_deep_copy(mgr, theirs):
    with pytest.raises(CrossSchemaError):
        mgr.session().add(copy.deepcopy(theirs()))


IN_ANOTHER_PROCESS = """
import pickle, sys
document = pickle.loads(bytes.fromhex(sys.argv[1]))
from onegov_orm import SessionManager
from onegov_orm.errors import CrossSchemaError
from tests.models import Base
mgr = SessionManager(sys.argv[2], Base, transaction_manager=None)
mgr.set_current_schema(sys.argv[3], create=False)
try:
    mgr.session().merge(document)
except CrossSchemaError as error:
    print("refused", error.owner)
"""


@pytest.mark.parametrize("leave", [stay, commit], ids=["attached", "detached"])
def test_a_pickle_in_another_process(mgr, theirs, shared_dsn, leave):
    document = theirs(leave)
    pickled = pickle.dumps(document).hex()
    transaction.commit()
    arguments = [pickled, shared_dsn, OURS]
    result = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert result.stdout == f"refused {THEIRS}\n"


# -- who is welcome


def test_an_own_object_is_welcome_back(mgr):
    document = Document(owner="ada")
    mgr.session().add(document)
    transaction.commit()
    mgr.session().add(document)
    document.owner = "bob"
    transaction.commit()
    merged = mgr.session().merge(pickle.loads(pickle.dumps(document)))
    assert merged.owner == "bob"
    mgr.session().delete(merged)
    transaction.commit()
    assert mgr.session().get(Document, document.id) is None


def test_an_own_object_of_another_session_is_for_merge(mgr):
    document = Document(owner="ada")
    mgr.session().add(document)
    transaction.commit()
    with mgr.schema(mgr.current_schema) as session:
        assert session.merge(document).owner == "ada"


def test_a_transient_object_is_welcome_anywhere(mgr, theirs):
    document = theirs(owner="theirs")
    make_transient(document)
    document.id = None
    mgr.session().add(document)
    transaction.commit()
    assert mgr.session().get(Document, document.id).owner == "theirs"
    assert inspect(document).info["onegov_orm.schema"] == OURS


def test_a_new_object_that_was_rolled_back_is_welcome_anywhere(shared_dsn, new_manager):
    mgr = new_manager(shared_dsn, Base, transaction_manager=None)
    document = Document(owner="ada")
    mgr.set_current_schema(THEIRS)
    mgr.session().add(document)
    mgr.session().flush()
    mgr.session().rollback()
    mgr.set_current_schema(OURS)
    mgr.session().add(document)
    mgr.session().commit()
    assert mgr.session().get(Document, document.id) is document


def test_a_deleted_object_is_not_welcome_elsewhere(mgr, theirs):
    document = theirs()
    mgr.set_current_schema(THEIRS)
    mgr.session().delete(document)
    transaction.commit()
    mgr.set_current_schema(OURS)
    with pytest.raises(CrossSchemaError):
        mgr.session().merge(document)


def test_new_objects_carry_no_mark(mgr):
    document = Document(owner="ada")
    mgr.session().add(document)
    mgr.session().flush()
    assert "info" not in inspect(document).__dict__


def test_a_registered_session_refuses_foreign_objects(mgr, theirs):
    from sqlalchemy.orm import Session  # bare SQLAlchemy is what this test is about

    session = Session()
    mgr.register_session(session)
    mgr.bind_session(session)
    for refuse in (session.add, session.delete):
        with pytest.raises(CrossSchemaError):
            refuse(theirs())
    session.close()
