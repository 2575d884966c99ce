"""Changes in dictionaries and lists, at any depth, are changes of their object."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from sqlalchemy import LargeBinary, inspect, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, mapped_column

from onegov_orm import SessionManager, StaleValue
from onegov_orm.types import HSTORE, JSON, TrackedDict, TrackedList, tracked
from onegov_orm.types._mapped_columns import for_columns_of
from tests.toolbox.conftest import NewTowns


class Base(DeclarativeBase):
    """A base of its own."""


class Document(Base):
    """Two values, and one of a derived class."""

    __tablename__ = "documents"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    content: Mapped[Any | None] = mapped_column(JSON)
    other: Mapped[Any | None] = mapped_column(JSON)
    rarely: Mapped[Any] = deferred(mapped_column(JSON, nullable=True))
    made_up: Mapped[Any | None] = mapped_column(JSON, default=lambda: {"a": []})
    texts: Mapped[dict[str, str | None] | None] = mapped_column(HSTORE)


class Letter(Document):
    """A document with a value of its own, in the same table."""

    __mapper_args__ = {"polymorphic_identity": "letter"}

    address: Mapped[Any | None] = mapped_column(JSON, nullable=True)


@pytest.fixture
def mgr(new_town: NewTowns) -> SessionManager:
    return new_town(Base)


@pytest.fixture
def session(mgr: SessionManager) -> Session:
    return mgr.session()


def saved(session: Session, content: Any, **others: Any) -> Document:
    """Return an object that was written, and read again."""
    document = Document(content=content, **others)
    session.add(document)
    session.flush()
    session.expire(document)
    assert document.content == content
    return document


def is_changed(document: Document) -> bool:
    return bool(inspect(document).modified)


def written(session: Session, document: Document) -> Any:
    """Return what is in the row after a flush."""
    session.flush()
    return session.scalar(select(Document.content).where(Document.id == document.id))


DICT_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a new key": lambda d: d.__setitem__("new", 1),
    "another value": lambda d: d.__setitem__("a", 2),
    "another type": lambda d: d.__setitem__("a", True),
    "del": lambda d: d.__delitem__("a"),
    "pop": lambda d: d.pop("a"),
    "pop with default": lambda d: d.pop("a", None),
    "popitem": lambda d: d.popitem(),
    "setdefault": lambda d: d.setdefault("new", []).append(1),
    "update": lambda d: d.update({"a": 5}, b=6),
    "update by pairs": lambda d: d.update([("a", 5)]),
    "|=": lambda d: d.__ior__({"a": 5}),
    "clear": lambda d: d.clear(),
}
LIST_CHANGES: dict[str, Callable[[list[Any]], Any]] = {
    "item": lambda v: v.__setitem__(0, 5),
    "last item": lambda v: v.__setitem__(-1, 5),
    "slice": lambda v: v.__setitem__(slice(1, 2), [7, 8, [9]]),
    "step": lambda v: v.__setitem__(slice(None, None, 2), [8, 9]),
    "insertion by slice": lambda v: v.__setitem__(slice(0, 0), (4,)),
    "del": lambda v: v.__delitem__(0),
    "del slice": lambda v: v.__delitem__(slice(1, None)),
    "append": lambda v: v.append({}),
    "extend": lambda v: v.extend(iter([4, 5])),
    "extend by itself": lambda v: v.extend(v),
    "+=": lambda v: v.__iadd__([4]),
    "*=": lambda v: v.__imul__(2),
    "*= 0": lambda v: v.__imul__(0),
    "insert": lambda v: v.insert(1, 4),
    "pop": lambda v: v.pop(),
    "pop first": lambda v: v.pop(0),
    "remove": lambda v: v.remove(1),
    "clear": lambda v: v.clear(),
    "reverse": lambda v: v.reverse(),
    "sort": lambda v: v.sort(),
    "sort by key": lambda v: v.sort(key=lambda each: -each, reverse=True),
}
NO_DICT_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "same value": lambda d: d.__setitem__("a", 1),
    "same child": lambda d: d.__setitem__("inner", d["inner"]),
    "pop of nothing": lambda d: d.pop("nothing", None),
    "setdefault": lambda d: d.setdefault("a", 5),
    "update by nothing": lambda d: d.update(),
    "update by the same": lambda d: d.update(d),
    "|= nothing": lambda d: d.__ior__({}),
    "reading": lambda d: (d["a"], d.get("a"), [*d.items()], [*d.values()], d.copy(), d | {}),
    "changing a copy": lambda d: (dict(d).clear(), d.copy().clear(), copy.copy(d).clear()),
    "changing a deep copy": lambda d: copy.deepcopy(d)["inner"].clear(),
}
NO_LIST_CHANGES: dict[str, Callable[[list[Any]], Any]] = {
    "same item": lambda v: v.__setitem__(0, v[0]),
    "del of nothing": lambda v: v.__delitem__(slice(9, None)),
    "extend by nothing": lambda v: v.extend(()),
    "*= 1": lambda v: v.__imul__(1),
    "reading": lambda v: (v[0], v[:], [*v], v.index(3), v * 2, sorted(v), v.copy()),
    "changing a copy": lambda v: (list(v).clear(), v[:].clear(), v.copy().clear()),
}


@pytest.mark.parametrize("name", DICT_CHANGES)
def test_changes_of_a_dictionary_are_written(session: Session, name: str) -> None:
    document = saved(session, {"deep": [{"a": 1, "b": 2}]})
    expected = {"a": 1, "b": 2}
    DICT_CHANGES[name](expected)
    DICT_CHANGES[name](document.content["deep"][0])
    assert is_changed(document)
    assert repr(written(session, document)) == repr({"deep": [expected]})


@pytest.mark.parametrize("name", LIST_CHANGES)
def test_changes_of_a_list_are_written(session: Session, name: str) -> None:
    document = saved(session, {"deep": [[3, 1, 2]]})
    expected = [3, 1, 2]
    LIST_CHANGES[name](expected)
    LIST_CHANGES[name](document.content["deep"][0])
    assert is_changed(document)
    assert written(session, document) == {"deep": [expected]}


@pytest.mark.parametrize("name", NO_DICT_CHANGES)
def test_what_changes_nothing_in_a_dictionary_is_no_change(session: Session, name: str) -> None:
    document = saved(session, {"a": 1, "inner": {"b": [1]}})
    NO_DICT_CHANGES[name](document.content)
    assert not is_changed(document)


@pytest.mark.parametrize("name", NO_LIST_CHANGES)
def test_what_changes_nothing_in_a_list_is_no_change(session: Session, name: str) -> None:
    document = saved(session, [3, 1, 2])
    NO_LIST_CHANGES[name](document.content)
    assert not is_changed(document)


def test_errors_are_those_of_plain_containers(session: Session) -> None:
    document = saved(session, {"list": [1, 2]})
    for change, error in (
        (lambda: document.content.pop("x"), KeyError),
        (lambda: document.content.__delitem__("x"), KeyError),
        (lambda: document.content["list"].remove(5), ValueError),
        (lambda: document.content["list"].__setitem__(5, 1), IndexError),
        (lambda: document.content["list"].__setitem__(slice(None, None, 2), [1, 2]), ValueError),
    ):
        with pytest.raises(error):
            change()
    assert not is_changed(document)


def test_an_error_leaves_what_is_there_tracked(session: Session) -> None:
    document = saved(session, [[1], [2], [3]])
    with pytest.raises(ValueError, match="size"):
        document.content[::2] = [0]
    document.content[0].append(1)
    assert is_changed(document)


def test_an_error_while_sorting_may_have_changed_the_order(session: Session) -> None:
    document = saved(session, [3, 1, "a"])
    with pytest.raises(TypeError):
        document.content.sort()
    assert is_changed(document)


def test_new_values_are_tracked(session: Session) -> None:
    document = saved(session, {})
    document.content = {"a": ({"b": []},)}
    session.flush()
    document.content["a"][0]["b"].append(date(2024, 7, 1))
    assert written(session, document) == {"a": [{"b": [date(2024, 7, 1)]}]}


def test_values_of_new_objects_are_tracked(session: Session) -> None:
    document = Document(content={"a": []}, other=[[]])
    document.content["a"].append(1)
    session.add(document)
    session.flush()
    document.other[0].append(2)
    assert is_changed(document)


def test_defaults_are_tracked(session: Session) -> None:
    document = saved(session, {})
    document.made_up["a"].append(1)
    assert is_changed(document)
    fresh = Document(content={})
    session.add(fresh)
    session.flush()
    fresh.made_up["a"].append(1)
    assert is_changed(fresh)


def test_values_that_are_loaded_later_are_tracked(session: Session) -> None:
    document = saved(session, {}, rarely={"a": []})
    document.rarely["a"].append(1)
    session.flush()
    session.refresh(document, ["rarely"])
    assert document.rarely == {"a": [1]}
    document.rarely["a"].append(2)
    assert is_changed(document)


def test_values_are_tracked_after_a_rollback(session: Session) -> None:
    document = saved(session, {"a": []})
    with pytest.raises(RuntimeError), session.begin_nested():
        document.content["a"].append(1)
        session.flush()
        raise RuntimeError
    assert document.content == {"a": []}
    document.content["a"].append(2)
    assert written(session, document) == {"a": [2]}


def test_values_are_tracked_after_an_update_in_sql(session: Session) -> None:
    document, second = saved(session, {}), saved(session, {})
    session.execute(
        update(Document).values(content={"a": []}).execution_options(synchronize_session="auto")
    )
    document.content["a"].append(1)
    assert is_changed(document)
    assert not is_changed(second)
    assert second.content == {"a": []}


def test_attributes_of_derived_classes_are_tracked(session: Session) -> None:
    letter = Letter(content={"a": []}, address={"b": []})
    session.add(letter)
    session.flush()
    for value in (letter.content["a"], letter.address["b"]):
        value.append(1)
        assert is_changed(letter)
        session.flush()
    session.expire(letter)
    assert (letter.content, letter.address) == ({"a": [1]}, {"b": [1]})


def test_an_attribute_is_found_once_with_the_class_that_has_it_first() -> None:
    class Own(LargeBinary):
        """A type that no other test has."""

    found: list[tuple[type[Any], list[str]]] = []
    for_columns_of(Own, lambda class_, keys: found.append((class_, keys)))

    class OwnBase(DeclarativeBase):
        """A base of its own."""

    class Parent(OwnBase):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)
        first: Mapped[bytes] = mapped_column("of_another_name", Own)

    class Child(Parent):
        second: Mapped[bytes] = mapped_column(Own)

    class Grandchild(Child):
        """Nothing new."""

    OwnBase.registry.configure()
    assert found == [(Parent, ["first"]), (Child, ["second"])]


def test_texts_in_an_hstore_are_tracked(session: Session) -> None:
    document = saved(session, {}, texts={"a": "1"})
    assert document.texts == {"a": "1"}
    document.texts["b"] = None
    session.flush()
    session.expire(document)
    assert document.texts == {"a": "1", "b": None}


def test_what_was_taken_out_marks_nothing(session: Session) -> None:
    document = saved(session, {"a": {"x": 1}, "b": [[1]], "c": {}, "d": [[1], [2]]})
    content = document.content
    out = [content.pop("a"), content["b"].pop(), content["c"], content["d"][0], content["d"]]
    del content["d"][0]
    content["c"] = 1
    content.popitem()
    session.flush()
    for value in out:
        value.clear()
    assert not is_changed(document)


def test_a_replaced_value_marks_nothing(session: Session) -> None:
    document = saved(session, {"a": []})
    old = document.content
    document.content = {}
    session.flush()
    old["a"].append(1)
    old.clear()
    assert not is_changed(document)


def test_a_deleted_value_marks_nothing(session: Session) -> None:
    document = saved(session, {"a": []})
    old = document.content
    del document.content
    old["a"].append(1)
    assert document.content is None


def test_what_is_moved_marks_its_new_object(session: Session) -> None:
    source, target = saved(session, {"a": {"x": []}}), saved(session, [])
    moved = source.content.pop("a")
    target.content.append(moved)
    session.flush()
    moved["x"].append(1)
    assert (is_changed(source), is_changed(target)) == (False, True)
    assert written(session, target) == [{"x": [1]}]


def test_what_is_put_in_a_second_object_is_copied(session: Session) -> None:
    source, target = saved(session, {"a": {"x": []}}), saved(session, {})
    target.content = source.content
    target.other = [source.content["a"]]
    session.flush()
    source.content["a"]["x"].append(1)
    assert (is_changed(source), is_changed(target)) == (True, False)
    assert (target.content, target.other) == ({"a": {"x": []}}, [{"x": []}])


def test_what_is_put_in_a_second_place_is_copied(session: Session) -> None:
    document = saved(session, {"a": [1]})
    document.content["b"] = document.content["a"]
    document.content["c"] = [document.content]
    document.content["a"].append(2)
    assert document.content == {"a": [1, 2], "b": [1], "c": [{"a": [1], "b": [1]}]}


def test_a_value_can_be_put_into_itself(session: Session) -> None:
    value = tracked({"a": [1]})
    value["self"] = value
    value["a"].append(value["a"])
    document = saved(session, value)
    assert document.content == {"a": [1, [1]], "self": {"a": [1]}}


def test_what_stays_in_a_list_stays_the_same(session: Session) -> None:
    document = saved(session, [{"n": 2}, {"n": 1}, {"n": 0}])
    first = document.content[0]
    document.content[:] = [each for each in reversed(document.content) if each["n"]]
    session.flush()
    first["n"] = 3
    assert written(session, document) == [{"n": 1}, {"n": 3}]


def test_a_value_that_is_given_stays_with_who_gave_it(session: Session) -> None:
    given: dict[str, Any] = {"a": []}
    first, second = Document(content=given), Document(content=given)
    given["a"].append(1)
    first.content["a"].append(2)
    assert (given, first.content, second.content) == ({"a": [1]}, {"a": [2]}, {"a": []})


def test_a_change_of_what_was_expired_is_an_error(session: Session) -> None:
    document = saved(session, {"a": []})
    old, part = document.content, document.content["a"]
    session.expire(document)
    with pytest.raises(StaleValue, match=r"take the value from \.content anew"):
        old["b"] = 1
    assert document.content == {"a": []}
    del old
    with pytest.raises(StaleValue):
        part.append(1)
    assert not is_changed(document)


@pytest.mark.parametrize("load", [True, False])
def test_a_merged_object_has_values_of_its_own(session: Session, load: bool) -> None:
    document = saved(session, {"a": []})
    session.expunge(document)
    merged = session.merge(document, load=load)
    merged.content["a"].append(1)
    assert (is_changed(merged), is_changed(document)) == (True, False)
    assert (merged.content, document.content) == ({"a": [1]}, {"a": []})


def test_what_is_merged_into_a_loaded_object_is_its_own(session: Session) -> None:
    document = saved(session, {"a": []})
    other = pickle.loads(pickle.dumps(document))
    assert session.merge(other, load=False) is document
    document.content["a"].append(1)
    assert (is_changed(document), is_changed(other)) == (True, False)
    assert (document.content, other.content) == ({"a": [1]}, {"a": []})


def test_a_value_can_be_assigned_to_its_own_attribute(session: Session) -> None:
    document = saved(session, {"a": []})
    content = document.content
    document.content = content
    document.content |= {"b": 1}
    assert document.content is content
    session.flush()
    content["a"].append(1)
    assert written(session, document) == {"a": [1], "b": 1}


def test_a_pickled_object_tracks_its_values(session: Session) -> None:
    document = saved(session, {"a": [{}]}, other=[[]])
    session.expunge(document)
    again = pickle.loads(pickle.dumps(document))
    session.add(again)
    for value in (again.content["a"][0], again.content):
        value["b"] = date(2024, 7, 1)
        assert is_changed(again)
        session.flush()
    session.expire(again)
    assert again.content == {"a": [{"b": date(2024, 7, 1)}], "b": date(2024, 7, 1)}


def test_pickles_and_deep_copies_are_nobodys(session: Session) -> None:
    document = saved(session, {"a": [{}]})
    for again in (pickle.loads(pickle.dumps(document.content)), copy.deepcopy(document.content)):
        again["a"][0]["b"] = 1
        assert again == {"a": [{"b": 1}]}
        assert not is_changed(document)
        document.other = again
        session.flush()
        again["a"].append(1)
        assert is_changed(document)
        session.flush()


def test_copies_are_plain_and_share_their_values(session: Session) -> None:
    document = saved(session, {"a": [[1]]})
    for again in (document.content.copy(), copy.copy(document.content), {**document.content}):
        assert type(again) is dict
        assert again["a"] is document.content["a"]
    for part in (document.content["a"][:], copy.copy(document.content["a"])):
        assert type(part) is list


def test_containers_are_equal_to_plain_ones(session: Session) -> None:
    document = saved(session, {"a": [1, {"b": 2}]})
    content = document.content
    assert content == {"a": [1, {"b": 2}]}
    assert content == {"a": [1, {"b": 2}]}
    assert content["a"] != [1]
    assert isinstance(content, dict)
    assert isinstance(content["a"], list)
    assert (repr(content), json.dumps(content)) == ("{'a': [1, {'b': 2}]}", '{"a": [1, {"b": 2}]}')


def test_objects_are_free_to_go(session: Session) -> None:
    document = saved(session, {"a": [{"b": []}]})
    document.content["a"][0]["b"].append(1)
    session.flush()
    content = document.content
    gone = weakref.ref(document)
    gc.disable()
    try:
        del document
        assert gone() is None
    finally:
        gc.enable()
    content["a"].clear()


def test_a_container_calls_back_at_its_first_change() -> None:
    called: list[Any] = []
    for value in (tracked([{"a": []}], called.append), tracked({"a": []}, called.append)):
        inner: Any = value[0] if isinstance(value, list) else value
        assert not called
        inner["a"].append(1)
        inner["a"].append(2)
        assert called == [value]
        assert called.pop() is value


def test_what_calls_back_can_be_put_somewhere(session: Session) -> None:
    document = saved(session, {})

    def attach(names: TrackedList) -> None:
        document.content["names"] = names

    names = tracked([], attach)
    names.append("a")
    assert document.content["names"] is names
    session.flush()
    names.append("b")
    assert written(session, document) == {"names": ["a", "b"]}


def test_what_is_put_somewhere_does_not_call_back(session: Session) -> None:
    document = saved(session, {})
    called: list[Any] = []
    names = tracked(["a"], called.append)
    document.content["names"] = names
    names.append("b")
    assert (called, document.content) == ([], {"names": ["a", "b"]})


def test_other_values_than_containers_are_not_tracked() -> None:
    assert tracked("text", pytest.fail) == "text"
    assert type(tracked({})) is TrackedDict
