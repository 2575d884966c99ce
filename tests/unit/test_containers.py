"""Containers that track changes, against plain ones, without a database."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onegov_orm._serializers import default_serializers
from onegov_orm.types import TrackedDict, TrackedList, tracked
from onegov_orm.types._containers import Container, FirstChange
from onegov_orm.types._loading import loaded

keys = st.sampled_from("abc")
scalars = st.none() | st.booleans() | st.integers(0, 2) | st.just(0.0) | keys
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)
#: Which of the containers in a tree, and what to do with it.
picks = st.integers(0, 20)
numbers = st.integers(-3, 3)


class Tree:
    """A tree of tracked containers beside the same of plain ones."""

    def __init__(self, value: Any) -> None:
        self.plain = copy.deepcopy(value)
        self.tracked: Any = tracked(value, self.note)
        self.is_noted = False

    def note(self, container: Any) -> None:
        assert container is self.tracked
        self.is_noted = True

    def change(self, number: int, change: Callable[[Any, Any], Any], argument: Any) -> None:
        """Do the same to the same container of both; the tracked one has to tell."""
        before = as_text(self.plain)
        self.is_noted = False
        self.tracked._owner = FirstChange(self.note)
        errors = []
        for tree in (self.plain, self.tracked):
            containers = containers_of(tree)
            try:
                change(containers[number % len(containers)], copy.deepcopy(argument))
            except (KeyError, IndexError, ValueError, TypeError, AttributeError) as exc:
                errors.append(type(exc))
        assert len(errors) in (0, 2)
        assert as_text(self.tracked) == as_text(self.plain)
        assert self.is_noted or as_text(self.plain) == before
        check_owners(self.tracked)
        # In a plain list the same list can be in two places; in a tracked one it is copied.
        self.plain = json.loads(as_text(self.plain))


def as_text(value: Any) -> str:
    return json.dumps(value)


def children_of(container: Any) -> list[Any]:
    return [*container.values()] if isinstance(container, dict) else [*container]


def containers_of(container: Any) -> list[Any]:
    inner = [each for each in children_of(container) if isinstance(each, (list, dict))]
    return [container, *(found for each in inner for found in containers_of(each))]


def check_owners(container: Any) -> None:
    """Each container in a tree knows the one it is in."""
    for child in children_of(container):
        assert type(child) not in (list, dict)
        if isinstance(child, Container):
            assert child._owner is container
            check_owners(child)


CHANGES: list[Callable[[Any, Any], Any]] = [
    lambda container, value: container.append(value),
    lambda container, value: container.extend([value, value]),
    lambda container, value: container.insert(1, value),
    lambda container, value: container.__setitem__(0, value),
    lambda container, value: container.__setitem__("a", value),
    lambda container, value: container.__setitem__(slice(1, None), [value]),
    lambda container, value: container.__setitem__(slice(None), [*reversed(container), value]),
    lambda container, value: container.__setitem__(slice(None, None, 2), [value]),
    lambda container, value: container.__delitem__(slice(0, 1)),
    lambda container, value: container.__delitem__("a"),
    lambda container, value: container.pop("b", None),
    lambda container, value: container.pop(),
    lambda container, value: container.popitem(),
    lambda container, value: container.remove(value),
    lambda container, value: container.reverse(),
    lambda container, value: container.sort(key=as_text),
    lambda container, value: container.__imul__(2),
    lambda container, value: container.__iadd__(value),
    lambda container, value: container.__ior__(value),
    lambda container, value: container.update(a=value),
    lambda container, value: container.setdefault("c", value),
    lambda container, value: container.clear(),
    # What is in there already, in a second place.
    lambda container, value: container.append(copy.deepcopy(container)),
    lambda container, value: container.update(b=copy.deepcopy(container.get("a"))),
    lambda container, value: container.__setitem__(-1, container.pop(0)),
]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(values, max_size=3) | st.dictionaries(keys, values, max_size=3),
    st.lists(st.tuples(picks, st.sampled_from(CHANGES), values), max_size=8),
)
def test_whatever_changes_is_noted_and_the_same_as_with_plain_containers(
    value: Any, changes: list[tuple[int, Callable[[Any, Any], Any], Any]]
) -> None:
    tree = Tree(value)
    for number, change, argument in changes:
        tree.change(number, change, argument)


@settings(max_examples=50, deadline=None)
@given(values)
def test_copies_of_all_kinds_are_equal_and_on_their_own(value: Any) -> None:
    original = tracked(value)
    for again in (
        copy.deepcopy(original),
        pickle.loads(pickle.dumps(original)),
        tracked(original),
    ):
        assert (type(again), as_text(again)) == (type(original), as_text(original))
        if isinstance(again, Container):
            check_owners(again)
            assert not again.is_owned()


@settings(max_examples=50, deadline=None)
@given(values)
def test_what_is_loaded_is_as_if_it_had_been_put_there(value: Any) -> None:
    read = loaded(default_serializers.encode(value), default_serializers.decode_text)
    assert as_text(read) == as_text(value)
    assert type(read) is type(tracked(value))
    if isinstance(read, Container):
        check_owners(read)


def test_a_second_place_gets_a_copy() -> None:
    first = tracked({"a": [1]})
    second = tracked([])
    second.append(first["a"])
    assert second[0] is not first["a"]
    taken = first.pop("a")
    second.append(taken)
    assert second[1] is taken


def test_a_part_keeps_the_whole() -> None:
    called: list[Any] = []
    inner = tracked({"a": [[]]}, called.append)["a"][0]
    gc.collect()
    inner.append(1)
    assert called == [{"a": [[1]]}]


def test_tuples_are_lists_and_those_of_other_classes_stay() -> None:
    point = namedtuple("point", "x y")
    value = tracked({"a": (1, [2]), "b": point(1, 2)})
    assert [type(each) for each in (value["a"], value["a"][1], value["b"])] == [
        TrackedList,
        TrackedList,
        point,
    ]


def test_containers_are_made_like_plain_ones() -> None:
    assert TrackedDict(a=1) == TrackedDict({"a": 1}) == TrackedDict([("a", 1)]) == {"a": 1}
    assert TrackedDict.fromkeys("ab", 1) == {"a": 1, "b": 1}
    assert TrackedList("ab") == ["a", "b"]
    assert TrackedList() == []


@pytest.mark.parametrize("kind", [TrackedDict, TrackedList])
def test_containers_have_no_hash_and_no_room_for_more(kind: Any) -> None:
    with pytest.raises(TypeError):
        hash(kind())
    with pytest.raises(AttributeError):
        kind().more = 1
