"""Which models can be linked, and how their tables are made: hierarchies, bases, keys, names."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import ForeignKey, MetaData, Text, Uuid, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import ConfigurationError
from onegov_orm.abstract import Associable, associated
from tests.toolbox.trees import sent


@pytest.fixture
def base():
    class OwnBase(DeclarativeBase):
        pass

    yield OwnBase
    # What could not be mapped is in nobody's way afterwards.
    OwnBase.registry.dispose(cascade=True)


@pytest.fixture
def payment(base):
    class Payment(base, Associable):
        __tablename__ = "payments"
        id: Mapped[int] = mapped_column(primary_key=True)

    return Payment


@pytest.fixture
def tickets(base, payment):
    """A hierarchy whose members are payable, but not its root."""

    class Payable:
        payments = associated(payment, "payments", "many-to-many")

    class Ticket(base):
        __tablename__ = "tickets"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "ticket"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class FormTicket(Ticket, Payable):
        __mapper_args__ = {"polymorphic_identity": "form"}

    class EventTicket(Ticket, Payable):
        __tablename__ = "event_tickets"
        __mapper_args__ = {"polymorphic_identity": "event"}
        id: Mapped[int] = mapped_column(ForeignKey("tickets.id"), primary_key=True)
        place: Mapped[str | None]

    class ConcertTicket(EventTicket):
        __mapper_args__ = {"polymorphic_identity": "concert"}

    return Ticket, FormTicket, EventTicket, ConcertTicket


def tables_between(base):
    return sorted(name for name in base.metadata.tables if "_for_" in name)


def model(base, table, *mixins, **attributes):
    """Define a model with an id."""
    annotations = {"id": Mapped[int]}
    body = {"__tablename__": table, "id": mapped_column(primary_key=True), **attributes}
    return type(table.title(), (base, *mixins), {"__annotations__": annotations, **body})


# -- hierarchies


def test_kinds_of_one_model_share_a_table(base, tickets):
    assert tables_between(base) == ["payments_for_tickets_payments"]


def test_links_come_back_as_what_they_are(new_town, base, payment, tickets):
    session = new_town(base).session()
    _ticket, *kinds = tickets
    paid = payment()
    session.add_all(kind(payments=[paid]) for kind in kinds)
    session.flush()
    session.expunge_all()
    paid = session.get(payment, 1)
    assert [type(link) for link in paid.links] == kinds
    assert paid.links.count() == 3
    assert {type(link) for link in paid.linked_tickets} == set(kinds)


def test_kinds_are_registered_each_and_asked_for_once(payment, tickets):
    _ticket, form, event, _concert = tickets
    assert {link.cls for link in payment.registered_links.values()} == {form, event}
    assert payment.registered_links["linked_tickets"].class_attribute is form.payments


def test_what_leads_back_to_several_kinds_can_not_be_changed(new_town, base, payment, tickets):
    session = new_town(base).session()
    _ticket, form, *_others = tickets
    paid, ticket = payment(), form()
    session.add_all([paid, ticket])
    session.flush()
    with pytest.raises(ConfigurationError, match="change the 'payments' of"):
        paid.linked_tickets.append(ticket)
    ticket.payments.append(paid)
    session.flush()
    session.expire_all()
    with pytest.raises(ConfigurationError):
        paid.linked_tickets.remove(ticket)


def test_what_belongs_to_one_kind_goes_away_with_it(new_town, base, payment):
    class Payable:
        paid = associated(payment, "paid", "one-to-one")

    class Ticket(base):
        __tablename__ = "tickets"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "ticket"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class First(Ticket, Payable):
        __mapper_args__ = {"polymorphic_identity": "first"}

    class Second(Ticket, Payable):
        __mapper_args__ = {"polymorphic_identity": "second"}

    session = new_town(base).session()
    first, second = First(paid=payment()), Second(paid=payment())
    session.add_all([first, second, Ticket()])
    session.flush()
    first.paid = payment()
    session.flush()
    assert session.query(payment).count() == 2
    session.delete(second)
    session.flush()
    assert [paid.links.all() for paid in session.query(payment)] == [(first,)]


def test_the_root_of_a_hierarchy_links_for_all_below(new_town, base, payment):
    class Ticket(base):
        __tablename__ = "tickets"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "ticket"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        payments = associated(payment, "payments")

    class FormTicket(Ticket):
        __tablename__ = "form_tickets"
        __mapper_args__ = {"polymorphic_identity": "form"}
        id: Mapped[int] = mapped_column(ForeignKey("tickets.id"), primary_key=True)

    session = new_town(base).session()
    ticket = FormTicket(payments=[payment(), payment()])
    session.add(ticket)
    session.flush()
    session.expire_all()
    assert [paid.linked_tickets for paid in ticket.payments] == [[ticket], [ticket]]
    assert tables_between(base) == ["payments_for_tickets_payments"]


def test_kinds_of_an_associable_model_have_links_of_their_own(new_town, base):
    class File(base, Associable):
        __tablename__ = "files"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "file"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Pdf(File):
        __mapper_args__ = {"polymorphic_identity": "pdf"}

    class Image(File):
        __tablename__ = "images"
        __mapper_args__ = {"polymorphic_identity": "image"}
        id: Mapped[int] = mapped_column(ForeignKey("files.id"), primary_key=True)

    class Agency(base):
        __tablename__ = "agencies"
        id: Mapped[int] = mapped_column(primary_key=True)
        pdf = associated(Pdf, "pdf", "one-to-one")
        image = associated(Image, "image", "one-to-one")

    mgr = new_town(base)
    session = mgr.session()
    agency = Agency(pdf=Pdf(), image=Image())
    session.add_all([agency, File()])
    session.flush()
    with sent(mgr) as statements:
        assert agency.pdf.links.all() == agency.image.links.all() == (agency,)
    assert len(statements) == 2
    assert agency.pdf.linked_agencies == agency.image.linked_agencies == [agency]
    assert [file.links.count() for file in session.query(File).order_by(File.id)].count(0) == 1
    assert Pdf.association_base() is Image.association_base() is File
    assert {link.attribute for link in File.registered_links.values()} == {"pdf", "image"}
    assert tables_between(base) == ["files_for_agencies_pdf", "images_for_agencies_image"]


# -- definitions


def test_tables_are_known_before_the_mappers_are_configured(base, payment):
    class Payable:
        paid = associated(payment, "paid", "one-to-one")

    product = model(base, "products", Payable)
    table = base.metadata.tables["payments_for_products_paid"]
    assert {key.column.table.name for key in table.foreign_keys} == {"payments", "products"}
    assert table.c.products_id.type.python_type is int
    assert not inspect(product).configured


def test_a_class_may_come_after_the_mappers_were_configured(new_town, base, payment):
    class Payable:
        payments = associated(payment, "payments")

    first = model(base, "firsts", Payable)
    base.registry.configure()
    second = model(base, "seconds", Payable)
    session = new_town(base).session()
    paid = payment()
    session.add_all([first(payments=[paid]), second(payments=[payment()])])
    session.flush()
    assert [type(link) for link in paid.links] == [first]
    assert [each.links.count() for each in session.query(payment)] == [1, 1]


def test_an_abstract_class_in_between_is_no_model(new_town, base, payment):
    class Payable:
        payments = associated(payment, "payments")

    class Something(base, Payable):
        __abstract__ = True

    first, second = model(Something, "firsts"), model(Something, "seconds")
    session = new_town(base).session()
    session.add_all([first(payments=[payment()]), second(payments=[payment()])])
    session.flush()
    assert tables_between(base) == [
        "payments_for_firsts_payments",
        "payments_for_seconds_payments",
    ]


def test_a_model_can_be_linked_to_its_own_kind(new_town, base):
    class Person(base, Associable):
        __tablename__ = "person"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Friendly(Person):
        __mapper_args__ = {"polymorphic_identity": "friendly"}
        friends = associated(Person, "friends", "many-to-many")

    session = new_town(base).session()
    friend, other = Friendly(), Person()
    friend.friends = [other, friend]
    session.add(friend)
    session.flush()
    session.expire_all()
    assert set(friend.friends) == {other, friend}
    assert other.links.all() == (friend,)
    table = base.metadata.tables["person_for_person_friends"]
    assert table.columns.keys() == ["person_id", "associated_person_id"]


def test_a_model_can_own_others_of_its_own(new_town, base):
    class Folder(base, Associable):
        __tablename__ = "folders"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Root(base):
        __tablename__ = "roots"
        id: Mapped[int] = mapped_column(primary_key=True)
        folders = associated(Folder, "folders")

    session = new_town(base).session()
    first, second = Root(folders=[Folder()]), Root()
    session.add_all([first, second])
    session.flush()
    with session.no_autoflush:
        second.folders = [first.folders.pop()]
        first.folders = [Folder(), Folder()]
    session.flush()
    session.expire_all()
    assert (len(first.folders), len(second.folders)) == (2, 1)


def test_keys_of_other_types_are_taken_over(new_town, base):
    class Photo(base, Associable):
        __tablename__ = "photos"
        key: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)

    class Album(base):
        __tablename__ = "albums"
        name: Mapped[str] = mapped_column(Text, primary_key=True)
        photos = associated(Photo, "photos")

    session = new_town(base).session()
    album = Album(name="Summer", photos=[Photo()])
    session.add(album)
    session.flush()
    session.expire_all()
    assert album.photos[0].links.all() == (album,)
    table = base.metadata.tables["photos_for_albums_photos"]
    assert {name: str(column.type) for name, column in table.columns.items()} == {
        "albums_name": "TEXT",
        "photo_key": "CHAR(32)",
    }


def test_very_long_names_stay_different(new_town, base, payment):
    long = "x" * 40

    class Payable:
        first = associated(payment, "first", backref_suffix="first")
        second = associated(payment, "second", "one-to-one", backref_suffix="second")

    product = model(base, long, Payable)
    mgr = new_town(base)
    session = mgr.session()
    session.add(product(first=[payment()], second=payment()))
    session.flush()
    names = tables_between(base)
    found = inspect(session.connection()).get_table_names(schema=mgr.current_schema)
    assert len(names) == 2
    assert set(names) <= set(found)
    for name in names:
        indexes = [index.name for index in base.metadata.tables[name].indexes]
        assert all(len(each.encode()) <= 63 for each in (name, *indexes))


def test_an_order_may_be_named_across_bases(new_town, base, payment):
    class OtherBase(DeclarativeBase):
        pass

    class Product(OtherBase):
        __tablename__ = "products"
        id: Mapped[int] = mapped_column(primary_key=True)
        payments = associated(payment, "payments", order_by="Payment.id")

    OtherBase.registry.configure(cascade=True)
    assert Product.payments.property.order_by


# -- several bases


def test_models_of_several_bases_are_linked_in_one_database(new_town, base, payment):
    class OtherBase(DeclarativeBase):
        metadata = MetaData()

    class Payable:
        payments = associated(payment, "payments")

    product = model(base, "products", Payable)
    order = model(OtherBase, "orders", Payable)
    mgr = new_town(base)
    mgr.bases.append(OtherBase)
    mgr.set_current_schema("towns-bern")
    session = mgr.session()
    paid = payment()
    session.add_all([order(payments=[paid]), product(payments=[payment()])])
    session.flush()
    assert [type(link) for link in paid.links] == [order]
    assert tables_between(OtherBase) == ["payments_for_orders_payments"]


def test_two_bases_may_have_the_same_names(base, payment):
    class Payable:
        payments = associated(payment, "payments")

    class OtherBase(DeclarativeBase):
        pass

    class OtherPayment(OtherBase, Associable):
        __tablename__ = "payments"
        id: Mapped[int] = mapped_column(primary_key=True)

    class OtherPayable:
        payments = associated(OtherPayment, "payments")

    first = model(base, "products", Payable)
    second = model(OtherBase, "products", OtherPayable)
    for each in (base, OtherBase):
        each.registry.configure()
    assert payment.registered_links["linked_products"].cls is first
    assert OtherPayment.registered_links["linked_products"].cls is second


def test_shared_models_are_linked_from_the_customers_own(plain_dsn, new_town, base):
    class Country(base, Associable):
        __tablename__ = "countries"
        __table_args__ = {"schema": "shared"}
        id: Mapped[int] = mapped_column(primary_key=True)

    class Town(base):
        __tablename__ = "towns"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        countries = associated(Country, "countries", "many-to-many")

    mgr = new_town(base, dsn=plain_dsn)
    for town in ("towns-bern", "towns-zurich"):
        with mgr.schema(town) as session:
            country = session.get(Country, 1) or Country(id=1)
            session.add(Town(name=town, countries=[country]))
    assert base.metadata.tables["countries_for_towns_countries"].schema is None
    for town in ("towns-bern", "towns-zurich"):
        with mgr.schema(town) as session:
            assert [link.name for link in session.get(Country, 1).links] == [town]


def test_links_between_shared_models_are_shared(plain_dsn, new_town, base):
    shared = {"__table_args__": {"schema": "shared"}}
    country = model(base, "countries", Associable, **shared)

    class HasCountries:
        countries = associated(country, "countries")

    union = model(base, "unions", HasCountries, **shared)
    session = new_town(base, dsn=plain_dsn).session()
    session.add(union(countries=[country(), country()]))
    session.flush()
    assert base.metadata.tables["shared.countries_for_unions_countries"].schema == "shared"


# -- mistakes


def test_a_composite_key_is_refused_with_advice(base, payment):
    class Payable:
        payments = associated(payment, "payments")

    with pytest.raises(ConfigurationError, match=r"several columns \(a, b\).*an id of its own"):

        class Product(base, Payable):
            __tablename__ = "products"
            a: Mapped[int] = mapped_column(primary_key=True)
            b: Mapped[int] = mapped_column(primary_key=True)


def test_a_composite_key_of_the_associable_model_is_refused_too(base):
    class Pair(base, Associable):
        __tablename__ = "pairs"
        a: Mapped[int] = mapped_column(primary_key=True)
        b: Mapped[int] = mapped_column(primary_key=True)

    class HasPairs:
        pairs = associated(Pair, "pairs")

    with pytest.raises(ConfigurationError, match="Pair can't be linked"):
        model(base, "products", HasPairs)


def test_two_attributes_can_not_lead_back_by_the_same_name(base, payment):
    class Payable:
        first = associated(payment, "first")
        second = associated(payment, "second")

    with pytest.raises(ConfigurationError, match="another backref_suffix"):
        model(base, "products", Payable)


def test_what_leads_back_does_not_replace_an_attribute(base):
    class Payment(base, Associable):
        __tablename__ = "payments"
        id: Mapped[int] = mapped_column(primary_key=True)
        linked_products: Mapped[str]

    class Payable:
        payment = associated(Payment, "payment")

    with pytest.raises(ConfigurationError, match=r"Payment\.linked_products exists already"):
        model(base, "products", Payable)


def test_the_attribute_has_to_be_given_its_own_name(base, payment):
    class Payable:
        payments = associated(payment, "payment")

    with pytest.raises(ConfigurationError, match="no attribute 'payment'"):
        model(base, "products", Payable)


def test_kinds_can_not_share_a_table_for_different_things(base, payment):
    class Ticket(base):
        __tablename__ = "tickets"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "ticket"}
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class First(Ticket):
        __mapper_args__ = {"polymorphic_identity": "first"}
        payments = associated(payment, "payments", "many-to-many")

    with pytest.raises(ConfigurationError, match="give that attribute another name"):

        class Second(Ticket):
            __mapper_args__ = {"polymorphic_identity": "second"}
            payments = associated(payment, "payments", "one-to-many")


def test_only_associable_models_can_be_linked_to(base):
    plain = model(base, "plains")
    for wrong in (plain, "Payment", None):
        with pytest.raises(ConfigurationError, match="inherit from Associable"):
            associated(wrong, "plains")


def test_a_class_without_a_table_can_not_be_linked_to(base):
    class Abstract(Associable):
        pass

    class HasAbstract:
        things = associated(Abstract, "things")

    with pytest.raises(ConfigurationError, match="no model with a table"):
        model(base, "products", HasAbstract)


def test_an_unknown_cardinality_is_refused(payment):
    with pytest.raises(ConfigurationError, match="one-to-many, one-to-one, many-to-many"):
        associated(payment, "payments", "many-to-one")


def test_the_table_is_an_ordinary_one(base, payment):
    class Payable:
        payments = associated(payment, "payments")

    model(base, "products", Payable)
    table = base.metadata.tables["payments_for_products_payments"]
    assert str(table.select().where(text("1 = 1"))).startswith("SELECT payments_for_products")
