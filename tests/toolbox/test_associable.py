"""Models that any other can be linked to: cardinalities, cascades, and what links back."""

from __future__ import annotations

import pytest
from sqlalchemy import Text, delete, inspect, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError

from onegov_orm.abstract import Associable, RegisteredLink, associated
from tests.toolbox.trees import sent


class Base(DeclarativeBase):
    pass


class Address(Base, Associable):
    __tablename__ = "addresses"
    id: Mapped[int] = mapped_column(primary_key=True)
    town: Mapped[str]


class File(Base, Associable):
    __tablename__ = "files"
    id: Mapped[str] = mapped_column(Text, primary_key=True)


class Tag(Base, Associable):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Addressable:
    address = associated(Address, "address", "one-to-one")


class HasFiles:
    files = associated(File, "files", "one-to-many", order_by="File.id")


class Tagged:
    tags = associated(Tag, "tags", "many-to-many", order_by=lambda: Tag.name)


class HasMainTag:
    main_tag = associated(
        Tag, "main_tag", "many-to-many", uselist=False, backref_suffix="main_companies"
    )


class Company(Base, Addressable, HasFiles, Tagged, HasMainTag):
    __tablename__ = "companies"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Person(Base, Addressable, HasFiles, Tagged):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Form(Base, HasFiles):
    """Its primary key is no id."""

    __tablename__ = "forms"
    name: Mapped[str] = mapped_column(Text, primary_key=True)


@pytest.fixture
def mgr(new_town):
    return new_town(Base)


@pytest.fixture
def session(mgr):
    return mgr.session()


def add(session, *objects):
    session.add_all(objects)
    session.flush()
    session.expire_all()
    return objects[0] if len(objects) == 1 else objects


def count(session, model):
    session.flush()
    return session.query(model).count()


def rows(session, table):
    session.flush()
    return session.query(Base.metadata.tables[table]).count()


# -- linking


def test_each_linking_class_has_a_table_of_its_own(session):
    company, person = add(
        session,
        Company(name="Seantis", address=Address(town="Luzern")),
        Person(name="Denis", address=Address(town="Rotkreuz")),
    )
    assert (company.address.town, person.address.town) == ("Luzern", "Rotkreuz")
    assert rows(session, "addresses_for_companies_address") == 1
    assert rows(session, "addresses_for_people_address") == 1
    assert company.address.linked_companies == [company]
    assert company.address.linked_people == []


def test_links_lead_back_from_whichever_model(session):
    address = Address(town="Luzern")
    company, person, _other = add(
        session, Company(name="C", address=address), Person(name="P"), Person(name="Q")
    )
    tag = Tag(name="red")
    company.tags, person.tags = [tag], [tag, Tag(name="blue")]
    assert address.links.all() == (company,)
    assert set(tag.links) == {company, person}
    assert (tag.links.count(), tag.links[1:].all(), tag.links.first()) == (2, (person,), company)


def test_links_of_an_object_that_is_not_written_yet_are_those_it_will_have(session):
    tag = Tag(name="red")
    person = Person(name="P", tags=[tag])
    session.add(person)
    assert tag.links.all() == (person,)


def test_links_of_an_object_in_no_session_can_not_be_read():
    with pytest.raises(DetachedInstanceError, match="no session"):
        _ = Tag(name="red").links


def test_links_are_asked_for_one_model_after_the_other(mgr, session):
    tag = add(session, Tag(name="red"))
    add(session, Company(name="C", tags=[tag]), Person(name="P", tags=[tag]))
    _ = tag.id
    with sent(mgr) as statements:
        links = tag.links
        assert not statements
        assert links.first().name == "C"
    assert len(statements) == 1


def test_what_leads_back_can_be_written_to(session):
    tag = Tag(name="red")
    company = add(session, Company(name="C"))
    tag.linked_companies.append(company)
    session.add(tag)
    session.flush()
    session.expire_all()
    assert company.tags == [tag]
    tag.linked_companies.remove(company)
    session.flush()
    session.expire_all()
    assert company.tags == []


def test_both_directions_of_a_new_link_agree_at_once():
    tag = Tag(name="red")
    company = Company(name="C", tags=[tag], main_tag=tag)
    assert (tag.linked_companies, tag.linked_main_companies) == ([company], [company])


def test_a_list_is_in_its_order(session):
    company = add(session, Company(name="C", files=[File(id="b"), File(id="c"), File(id="a")]))
    assert [file.id for file in company.files] == ["a", "b", "c"]


def test_the_name_and_type_of_any_primary_key_are_used(session):
    form = add(session, Form(name="signup", files=[File(id="x")]))
    assert form.files[0].linked_forms == [form]
    table = Base.metadata.tables["files_for_forms_files"]
    assert {column.name: str(column.type) for column in table.columns} == {
        "forms_name": "TEXT",
        "file_id": "TEXT",
    }
    assert form.files[0].links.all() == (form,)


def test_attributes_are_used_in_queries(session):
    add(session, Company(name="C", tags=[Tag(name="red")]), Company(name="D"))
    query = select(Company.name).where(Company.tags.any(Tag.name == "red"))
    assert session.scalars(query).all() == ["C"]
    query = select(Tag.name).join(Tag.linked_companies).where(Company.name == "C")
    assert session.scalars(query).all() == ["red"]


# -- the registry


def test_links_are_registered_by_what_leads_back():
    assert set(Tag.registered_links) == {
        "linked_companies",
        "linked_people",
        "linked_main_companies",
    }
    link = Tag.registered_links["linked_main_companies"]
    assert isinstance(link, RegisteredLink)
    assert (link.cls, link.attribute, link.cardinality) == (Company, "main_tag", "many-to-many")
    assert (link.key, link.association_key) == ("companies_id", "tag_id")
    assert link.table is Base.metadata.tables["tags_for_companies_main_tag"]
    assert link.class_attribute is Company.main_tag
    assert Tag.association_base() is Tag


def test_an_associable_model_without_links_has_none(session):
    class OwnBase(DeclarativeBase):
        pass

    class Lonely(OwnBase, Associable):
        __tablename__ = "lonely"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert dict(Lonely.registered_links) == {}


# -- cascades


def test_what_belongs_to_an_object_is_deleted_with_it(session):
    person = add(
        session, Person(name="P", address=Address(town="A"), files=[File(id="a"), File(id="b")])
    )
    add(session, Company(name="C", address=Address(town="B")))
    session.delete(person)
    assert (count(session, Address), count(session, File)) == (1, 0)
    assert rows(session, "addresses_for_people_address") == 0


def test_what_is_shared_stays_when_an_object_is_deleted(session):
    tag = Tag(name="red")
    company, person = add(session, Company(name="C", tags=[tag]), Person(name="P", tags=[tag]))
    session.delete(company)
    assert count(session, Tag) == 1
    assert tag.links.all() == (person,)
    session.delete(person)
    assert (count(session, Tag), tag.links.count()) == (1, 0)


def test_what_is_taken_out_of_a_list_is_deleted_if_it_belongs_there(session):
    company = add(
        session, Company(name="C", files=[File(id="a"), File(id="b")], tags=[Tag(name="t")])
    )
    company.files.pop()
    company.tags.clear()
    assert (count(session, File), count(session, Tag)) == (1, 1)
    assert rows(session, "tags_for_companies_tags") == 0


def test_another_one_replaces_the_one_before(session):
    company = add(session, Company(name="C", address=Address(town="Old")))
    company.address = Address(town="New")
    session.flush()
    assert [address.town for address in session.query(Address)] == ["New"]
    company.address = None
    assert count(session, Address) == 0


def test_a_shared_one_is_replaced_and_stays(session):
    company = add(session, Company(name="C", main_tag=Tag(name="old")))
    company.main_tag = Tag(name="new")
    session.flush()
    session.expire_all()
    assert company.main_tag.name == "new"
    assert count(session, Tag) == 2
    assert rows(session, "tags_for_companies_main_tag") == 1


def test_deleting_what_is_linked_leaves_those_that_link_to_it(session):
    company, person = add(
        session,
        Company(name="C", address=Address(town="A"), files=[File(id="a")], tags=[Tag(name="t")]),
        Person(name="P"),
    )
    person.tags = company.tags
    session.flush()
    for linked in (company.address, company.files[0], company.tags[0]):
        session.delete(linked)
    session.flush()
    session.expire_all()
    assert (company.address, company.files, company.tags, person.tags) == (None, [], [], [])
    assert sum(rows(session, table) for table in Base.metadata.tables if "_for_" in table) == 0


def test_a_link_can_be_set_again_after_what_it_led_to_was_deleted(session):
    company = add(session, Company(name="C", address=Address(town="A"), files=[File(id="a")]))
    session.delete(company.address)
    session.delete(company.files[0])
    session.flush()
    company.address = Address(town="B")
    company.files = [File(id="b")]
    session.flush()
    session.expire_all()
    assert (company.address.town, [file.id for file in company.files]) == ("B", ["b"])


def test_deleting_what_is_linked_reads_none_of_those_that_link_to_it(mgr, session):
    tag = Tag(name="red")
    add(session, *(Company(name=str(number), tags=[tag]) for number in range(5)))
    session.refresh(tag)
    with sent(mgr, "SELECT") as statements:
        session.delete(tag)
        session.flush()
    assert not statements


def test_what_belongs_to_one_object_can_not_be_given_to_another(session):
    address = Address(town="A")
    first = Company(name="C", address=address)
    with pytest.raises(InvalidRequestError, match="only allowed a single parent"):
        Company(name="D", address=address)
    second = add(session, first, Company(name="D"))[1]
    # SQLAlchemy has not seen who it belongs to, but the database has.
    with pytest.raises(IntegrityError), session.begin_nested():
        second.address = first.address
        session.flush()
    session.expire_all()
    assert (first.address, second.address) == (address, None)


def test_it_can_be_given_to_another_once_it_is_free(session):
    first, second = add(session, Company(name="C", files=[File(id="a")]), Company(name="D"))
    file = first.files[0]
    with session.no_autoflush:
        first.files.remove(file)
        second.files.append(file)
    session.flush()
    session.expire_all()
    assert (first.files, second.files) == ([], [file])


def test_deletes_are_announced_for_all_that_goes_away(mgr, session):
    person = add(session, Person(name="P", address=Address(town="A"), files=[File(id="a")]))
    deleted = []
    mgr.on_delete.connect(lambda schema, session, obj: deleted.append(type(obj)), weak=False)
    session.delete(person)
    session.flush()
    assert set(deleted) == {Person, Address, File}


# -- what the database knows


def test_rows_can_be_deleted_without_the_orm(session):
    add(session, Company(name="C", address=Address(town="A"), tags=[Tag(name="t")]))
    session.execute(text("DELETE FROM tags"))
    assert rows(session, "tags_for_companies_tags") == 0
    session.execute(delete(Company))
    assert rows(session, "addresses_for_companies_address") == 0
    assert count(session, Address) == 1


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("addresses_for_companies_address", ("companies_id", "address_id")),
        ("files_for_companies_files", ("companies_id", "file_id")),
        ("tags_for_companies_tags", ("companies_id", "tag_id")),
        ("tags_for_companies_main_tag", ("companies_id", "tag_id")),
    ],
)
def test_both_directions_have_an_index_and_cascade(session, table, keys):
    inspector = inspect(session.connection())
    schema = session.info["schema"]
    indexed = [each["column_names"] for each in inspector.get_indexes(table, schema=schema)]
    indexed.append(inspector.get_pk_constraint(table, schema=schema)["constrained_columns"])
    assert {columns[0] for columns in indexed} == set(keys)
    cascades = [
        each["options"].get("ondelete")
        for each in inspector.get_foreign_keys(table, schema=schema)
    ]
    assert cascades == ["CASCADE", "CASCADE"]


def test_the_database_knows_what_belongs_to_one_object_only(session):
    company, other = add(session, Company(name="C", address=Address(town="A")), Company(name="D"))
    table = Base.metadata.tables["addresses_for_companies_address"]
    for owner, address in ((other.id, company.address.id), (company.id, None)):
        with pytest.raises(IntegrityError), session.begin_nested():
            if address is None:
                address = add(session, Address(town="B")).id
            session.execute(table.insert().values(companies_id=owner, address_id=address))


def test_keys_may_change_where_that_was_asked_for(new_town):
    class OwnBase(DeclarativeBase):
        pass

    class Photo(OwnBase, Associable):
        __tablename__ = "photos"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Album(OwnBase):
        __tablename__ = "albums"
        id: Mapped[int] = mapped_column(primary_key=True)
        photos = associated(Photo, "photos", "one-to-many", onupdate="CASCADE")

    session = new_town(OwnBase).session()
    album = add(session, Album(id=1, photos=[Photo()]))
    album.id = 2
    session.flush()
    session.expire_all()
    assert album.photos[0].linked_albums[0].id == 2


# -- several customers


def test_links_never_see_another_customers_rows(mgr):
    towns = ("towns-bern", "towns-zurich")
    for town in towns:
        with mgr.schema(town) as session:
            tag = Tag(id=1, name=town)
            session.add_all([Company(id=1, name=f"company of {town}", tags=[tag])])
            session.add_all([Person(id=1, name=f"person of {town}", tags=[tag])])
    with mgr.schema(towns[0]) as bern, mgr.schema(towns[1]) as zurich:
        for session, town in ((bern, towns[0]), (zurich, towns[1]), (bern, towns[0])):
            tag = session.get(Tag, 1)
            assert {link.name for link in tag.links} == {f"company of {town}", f"person of {town}"}
            assert [person.name for person in tag.linked_people] == [f"person of {town}"]
            assert session.get(Company, 1).tags[0].name == town


def test_bulk_deletes_stay_with_their_customer(mgr):
    for town in ("towns-basel", "towns-geneva"):
        with mgr.schema(town) as session:
            session.add(Company(id=1, name=town, tags=[Tag(id=1, name=town)]))
    with mgr.schema("towns-basel") as session:
        session.execute(delete(Company))
        assert session.get(Tag, 1).links.all() == ()
    with mgr.schema("towns-geneva") as session:
        assert [link.name for link in session.get(Tag, 1).links] == ["towns-geneva"]
