"""Trees: paths, names, kinds of items, and what is refused."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, Integer, Numeric, UniqueConstraint, select, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import ModelNotFound, TreeError
from onegov_orm.abstract import AdjacencyList, AdjacencyListCollection, AdjacencyListMixin
from tests.toolbox.trees import Base, News, Page, Pages, Topic, Topics, insert_rows, sent, titles


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def pages(mgr):
    return Pages(mgr.session())


# -- what an item knows


def test_an_item_knows_its_place_in_the_tree(pages):
    adam = pages.add_root("Adam")
    cain = pages.add(adam, "Cain")
    enoch = pages.add(cain, "Enoch")
    assert (adam.root, enoch.root) == (adam, adam)
    assert list(enoch.ancestors) == [adam, cain]
    assert (adam.path, enoch.path, enoch.absorb) == ("adam", "adam/cain/enoch", "adam/cain/enoch")
    assert (adam.children, adam.parent, cain.parent_id) == ([cain], None, adam.id)


def test_an_item_shows_what_it_is_without_asking_the_database(mgr, pages):
    page = pages.add_root("Adam")
    assert repr(page) == f"Page(name='adam', id={page.id}, parent_id=None)"
    pages.session.expire(page)
    with sent(mgr) as statements:
        assert repr(page) == "Page(name=None, id=None, parent_id=None)"
    assert not statements


def test_all_ancestors_take_one_query(mgr, pages):
    page = None
    for depth in range(8):
        page = pages.add(page, f"Level {depth}")
    session, page_id = pages.session, page.id
    session.expunge_all()
    page = session.get(Page, page_id)
    with sent(mgr) as statements:
        assert page.path.split("/") == [f"level-{depth}" for depth in range(8)]
    assert len(statements) == 1


def test_a_path_is_followed_beyond_the_depth_of_pythons_stack(pages):
    page = None
    for number in range(1200):
        page = Page(title=str(number), parent=page)
    assert page.root.title == "0"
    assert len(list(page.ancestors)) == 1199


def test_siblings_are_of_all_kinds(pages):
    root = pages.add_root("Root")
    a = pages.add(root, "A", type="topic")
    b = pages.add(root, "B", type="news", lead="Now!")
    c = pages.add(root, "C")
    for page in (a, b, c):
        assert page.siblings.all() == [a, b, c]
    assert [type(page) for page in a.siblings] == [Topic, News, Page]
    assert root.siblings.all() == [root]


def test_siblings_of_an_item_that_is_not_flushed_are_those_it_will_have(pages):
    root = pages.add_root("Root")
    child = pages.add(root, "A")
    other = Page(title="B", parent=root)
    pages.session.add(other)
    assert other.siblings.all() == [child, other]
    child.parent = None
    assert child.siblings.all() == [root, child]


def test_an_item_in_no_session_has_no_siblings_to_ask_for():
    with pytest.raises(TreeError, match="in no session"):
        _ = Page(title="A").siblings


def test_children_stand_in_their_order_whatever_they_were_loaded_with(pages):
    root = pages.add_root("Root")
    assert root.children == []
    c, a = pages.add(root, "C"), pages.add(root, "A")
    b = pages.add(root, "B")
    assert root.children == [a, b, c]
    pages.move_above(c, a)
    assert root.children == [c, a, b]


# -- finding


@pytest.mark.parametrize("path", ["news/yeah-toast", "/news/yeah-toast", "//news/yeah-toast/"])
def test_an_item_is_found_by_its_path(pages, path):
    toast = pages.add(pages.add_root("News"), "Yeah Toast")
    assert pages.by_path(path) is toast


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "yeah-toast",
        "news/no",
        "news//yeah-toast",
        "news/yeah-toast/more",
        "news/\0",
        "\ud800",
    ],
)
def test_nothing_is_found_by_a_path_that_leads_nowhere(pages, path):
    pages.add(pages.add_root("News"), "Yeah Toast")
    assert pages.by_path(path) is None


def test_a_path_takes_one_query_however_long_it_is(mgr, pages):
    page = None
    for number in range(40):
        page = pages.add(page, f"Level {number}")
    path = page.path
    with sent(mgr) as statements:
        assert pages.by_path(path) is page
        assert pages.by_path("level-0/" * 3000) is None
    assert len(statements) == 2


def test_a_path_finds_items_of_the_wanted_type_alone(pages):
    eve = pages.add_root("Eve")
    lara = pages.add(eve, "Lara", type="topic")
    assert pages.by_path("eve/lara", ensure_type="topic") is lara
    assert pages.by_path("eve/lara", ensure_type="news") is None


def test_a_collection_of_one_kind_finds_no_others(pages):
    topics = Topics(pages.session)
    root = pages.add_root("Root")
    topic, page = topics.add(root, "Topic"), pages.add(root, "Page")
    assert isinstance(topic, Topic)
    assert (topics.by_path("root/topic"), topics.by_path("root/page")) == (topic, None)
    assert (topics.query().all(), topics.by_id(page.id)) == ([topic], None)
    assert page.siblings.all() == [page, topic]


def test_items_are_found_by_id_name_and_title(pages):
    root = pages.add_root("Über uns")
    assert pages.by_id(root.id) is root
    assert pages.by_name("ueber-uns") is root
    assert pages.by_title("Über uns") is root
    assert [pages.by_id(-1), pages.by_name("a\0"), pages.by_title("Uber uns")] == [None] * 3


def test_roots_stand_in_their_order(pages):
    b, a = pages.add_root("B"), pages.add_root("A")
    pages.add(a, "C")
    assert pages.roots == [a, b]


# -- names


def test_names_are_unique_among_siblings_and_not_beyond(pages):
    a, b, c = (pages.add_root("Test") for _number in range(3))
    assert [page.name for page in (a, b, c)] == ["test", "test-1", "test-2"]
    assert [pages.add(a, "Test").name, pages.add(b, "Test").name] == ["test", "test"]


def test_a_name_that_became_free_is_used_again(pages):
    _a, b, _c = (pages.add_root("Test") for _number in range(3))
    pages.delete(b)
    assert pages.add_root("Test").name == "test-1"


def test_titles_without_letters_get_names_too(pages):
    odd = ["???", "", "🎉", " - "]
    assert [pages.add_root(title).name for title in odd] == ["page", "page-1", "page-2", "page-3"]


def test_names_that_share_their_beginning_do_not_count(pages):
    for title in ("Test 10", "Testing", "Test-drive", "tes%", "Test"):
        pages.add_root(title)
    assert pages.get_unique_child_name("Test", None) == "test-1"
    assert pages.get_unique_child_name("Test 10", None) == "test-11"
    assert pages.get_unique_child_name("new", None) == "new"


def test_very_long_titles_get_different_names(pages):
    names = [pages.add_root("x" * 5000).name for _number in range(12)]
    assert len(set(names)) == 12
    assert {len(name) for name in names} == {200}


@pytest.mark.parametrize("name", ["Cain", "a b", "-a", "a/b", "", "x" * 201])
def test_a_name_that_is_not_normalized_is_refused(pages, name):
    page = pages.add_root("Adam")
    with pytest.raises(TreeError, match="not normalized"):
        page.name = name
    with pytest.raises(TreeError):
        Page(title="Eve", name=name)


def test_an_item_without_a_name_is_named_after_its_title(mgr):
    session = mgr.session()
    page, odd = Page(title="Über uns"), Page(title="???")
    session.add_all([page, odd])
    session.flush()
    assert (page.name, odd.name) == ("ueber-uns", "page")


def test_the_database_refuses_two_siblings_of_one_name(pages):
    root = pages.add_root("Root")
    pages.add(root, "A")
    for parent, name in ((root, "a"), (None, "root")):
        with pytest.raises(IntegrityError), pages.session.begin_nested():
            pages.add(parent, "Other", name=name)


def test_moving_to_a_parent_where_the_name_is_taken_is_refused_by_the_database(pages):
    a, b = pages.add_root("A"), pages.add_root("B")
    pages.add(a, "Child")
    child = pages.add(b, "Child")
    with pytest.raises(IntegrityError, match="page_children_name"), pages.session.begin_nested():
        child.parent = a
        pages.session.flush()
    child.name = pages.get_unique_child_name(child.name, a)
    child.parent = a
    assert titles(child.siblings) == ["Child", "Child"]


# -- adding and deleting


def test_what_is_there_is_returned_and_not_added(pages):
    root = pages.add_or_get_root("Wurzel", name="root")
    assert pages.add_or_get_root("Other", name="root") is root
    child = pages.add_or_get(root, "Test")
    assert pages.add_or_get(root, "test") is child
    assert pages.add_or_get(None, "???") is pages.add_or_get(None, "!!!")
    assert pages.query().count() == 3


def test_an_unknown_type_is_refused_and_the_known_ones_are_named(pages):
    with pytest.raises(ModelNotFound, match="'generic', 'topic', 'news'"):
        pages.add_root("Don", type="other")


def test_further_attributes_are_given_to_the_item(pages):
    news = pages.add_root("A", type="news", lead="Now!")
    pages.session.expire_all()
    assert (news.lead, news.type) == ("Now!", "news")


def test_an_item_is_deleted_with_all_that_is_below(pages):
    root = pages.add_root("Root")
    other = pages.add_root("Other")
    for title in ("A", "B"):
        pages.add(pages.add(root, title), "Child", type="news")
    pages.session.expire_all()
    pages.delete(root)
    assert pages.session.scalars(select(Page)).all() == [other]


def test_deleting_takes_no_query_for_each_item(mgr, pages):
    root = pages.add_root("Root")
    for number in range(50):
        pages.session.add(Page(title=str(number), parent=root))
    pages.session.flush()
    pages.session.expunge_all()
    root = pages.by_name("root")
    with sent(mgr, "SELECT", "WITH") as statements:
        pages.delete(root)
    assert len(statements) <= 3


def test_an_item_that_loses_its_parent_is_a_root_and_not_deleted(pages):
    root = pages.add_root("Root")
    child = pages.add(root, "Child")
    grandchild = pages.add(child, "Grandchild")
    child.parent = None
    assert pages.roots == [root, child]
    assert (grandchild.path, root.children) == ("child/grandchild", [])


def test_an_item_that_is_taken_out_of_the_children_is_a_root(pages):
    root = pages.add_root("Root")
    child = pages.add(root, "Child")
    root.children.remove(child)
    assert pages.roots == [root, child]


def test_a_new_item_knows_the_id_of_its_parent(pages):
    root = pages.add_root("Root")
    assert Page("Child", root).parent_id == root.id
    assert Page("Child", Page("Other")).parent_id is None


def test_deletes_of_children_are_announced(mgr, pages):
    root = pages.add_root("Root")
    pages.add(root, "Child")
    deleted = []
    mgr.on_delete.connect(lambda schema, session, obj: deleted.append(obj.title), weak=False)
    pages.delete(root)
    assert sorted(deleted) == ["Child", "Root"]


# -- circles


def test_an_item_can_not_be_put_below_itself(pages):
    root = pages.add_root("Root")
    child = pages.add(root, "Child")
    grandchild = pages.add(child, "Grandchild")
    for parent in (root, child, grandchild):
        with pytest.raises(TreeError):
            root.parent = parent
    with pytest.raises(TreeError, match="is below it"):
        grandchild.children.append(root)
    pages.session.flush()
    assert (root.parent, root.parent_id, grandchild.children) == (None, None, [])


def test_an_item_can_not_be_put_below_itself_by_id(pages):
    root = pages.add_root("Root")
    child = pages.add(root, "Child")
    grandchild_id = pages.add(child, "Grandchild").id
    pages.session.expire_all()
    for parent_id in (root.id, child.id, grandchild_id):
        with pytest.raises(TreeError):
            root.parent_id = parent_id
    child.parent_id = None
    pages.session.flush()
    assert (child.siblings.count(), child.parent) == (2, None)


def test_looking_for_circles_writes_nothing(mgr, pages):
    root = pages.add_root("Root")
    child, other = pages.add(root, "Child"), pages.add(root, "Other")
    grandchild = pages.add(child, "Grandchild")
    grandchild_id = grandchild.id
    for page in (child, grandchild):
        pages.session.expire(page)
    pages.session.add(Page(title=None))
    with sent(mgr, "INSERT", "UPDATE") as statements:
        other.parent = grandchild
        other.parent_id = grandchild_id
    assert not statements


def test_items_that_were_never_written_can_not_form_a_circle():
    a = Page(title="A")
    b = Page(title="B", parent=a)
    with pytest.raises(TreeError):
        a.parent = b
    with pytest.raises(TreeError, match="own parent"):
        b.parent = b


def test_a_circle_in_the_data_is_an_error_and_no_endless_loop(pages):
    a = pages.add_root("A")
    b = pages.add(a, "B")
    pages.session.execute(
        text("UPDATE pages SET parent_id = :b WHERE id = :a"), {"a": a.id, "b": b.id}
    )
    pages.session.expire_all()
    with pytest.raises(TreeError, match="circle"):
        _ = b.path


# -- models of one's own


def test_the_librarys_base_has_trees_too(new_town):
    class Agency(AdjacencyList):
        __tablename__ = "agencies"
        __table_args__ = (UniqueConstraint("title"),)

    class Agencies(AdjacencyListCollection[Agency]):
        __listclass__ = Agency

    session = new_town(Agency).session()
    agencies = Agencies(session)
    root = agencies.add_root("State Chancellery")
    agencies.add(root, "Archive")
    assert agencies.by_path("state-chancellery/archive").root is root
    # What the model writes about its table does not take its indexes away.
    assert {index.name for index in Agency.__table__.indexes} == {
        "agency_children_name",
        "agency_root_name",
        "agency_order",
    }


def test_the_id_may_be_of_any_type(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class Node(AdjacencyListMixin, OwnBase):
        __tablename__ = "nodes"
        id: Mapped[str] = mapped_column(
            UUID(as_uuid=False), primary_key=True, server_default=text("gen_random_uuid()")
        )

    class Nodes(AdjacencyListCollection[Node]):
        __listclass__ = Node

    nodes = Nodes(new_town(OwnBase).session())
    root = nodes.add_root("Root")
    b, a = nodes.add(root, "B"), nodes.add(root, "A")
    nodes.move_below(a, b)
    assert root.children == [b, a]
    assert nodes.by_path("root/a") is a


def test_a_tree_may_inherit_from_a_model(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class Content(OwnBase):
        __tablename__ = "contents"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "content"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Chapter(AdjacencyListMixin, Content):
        __tablename__ = "chapters"
        __mapper_args__ = {"polymorphic_identity": "chapter"}
        id: Mapped[int] = mapped_column(ForeignKey("contents.id"), primary_key=True)

    class Chapters(AdjacencyListCollection[Chapter]):
        __listclass__ = Chapter

    OwnBase.registry.configure()
    chapters = Chapters(new_town(OwnBase).session())
    root = chapters.add_root("One")
    b, a = chapters.add(root, "B"), chapters.add(root, "A")
    chapters.move_above(b, a)
    assert titles(root.children) == ["B", "A"]
    assert a.siblings.all() == [b, a]


def test_two_trees_do_not_get_in_each_others_way(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class First(AdjacencyListMixin, OwnBase):
        __tablename__ = "firsts"

    class Second(AdjacencyListMixin, OwnBase):
        __tablename__ = "seconds"

    class Firsts(AdjacencyListCollection[First]):
        __listclass__ = First

    session = new_town(OwnBase).session()
    session.add_all([Second(title="A", name="a"), First(title="A", name="a")])
    second = session.scalars(select(Second)).one()
    with pytest.raises(TreeError, match="another parent"):
        Firsts(session).move_above(session.scalars(select(First)).one(), second)


def test_the_order_is_a_number_without_limits():
    column = Page.__table__.c.order
    assert isinstance(column.type, Numeric)
    assert (column.type.precision, column.type.scale, column.nullable) == (None, None, False)
    assert isinstance(Page.__table__.c.parent_id.type, Integer)


def test_rows_from_elsewhere_are_read_in_the_order_of_their_ids(pages):
    insert_rows(pages.session, "B", "C", "A")
    assert titles(pages.roots) == ["B", "C", "A"]


def test_two_customers_have_trees_of_their_own(mgr):
    for town in ("towns-bern", "towns-zurich"):
        with mgr.schema(town) as session:
            pages = Pages(session)
            pages.add(pages.add_root("Town"), town)
    for town in ("towns-bern", "towns-zurich"):
        with mgr.schema(town) as session:
            root = Pages(session).by_path("town")
            assert titles(root.children) == [town]
            assert titles(root.children[0].siblings) == [town]
