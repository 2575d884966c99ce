"""Properties of markup: what is set is escaped, what is read is markup."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm.base import ModelBase
from onegov_orm.mixins import (
    ContentMixin,
    content_markup_property,
    dict_markup_property,
    dict_markup_property_factory,
    meta_markup_property,
)


class Base(DeclarativeBase, ModelBase):
    pass


class Page(ContentMixin, Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    lead = meta_markup_property()
    body = content_markup_property("text")
    foot = content_markup_property(default="<none>")
    safe_foot = content_markup_property(default=Markup("<br>"))
    tail = dict_markup_property("meta")
    loud = meta_markup_property()

    @loud.inplace.setter
    def _set_loud(self, value: Any) -> None:
        self.meta = {"loud": value}


class Written:
    def __html__(self) -> str:
        return "<i>"


def test_a_text_is_escaped_and_markup_is_not():
    page = Page(lead="<b>", body=Markup("<b>"))
    assert page.lead == Markup("&lt;b&gt;")
    assert page.body == Markup("<b>")
    assert (page.meta, page.content) == ({"lead": "&lt;b&gt;"}, {"text": "<b>"})
    assert type(page.lead) is type(page.body) is Markup


def test_what_says_how_it_is_written_is_written_so():
    page = Page()
    page.tail = Written()
    assert page.tail == Markup("<i>")


def test_none_stays_none():
    page = Page(lead="a")
    page.lead = None
    assert page.lead is None
    assert page.meta == {"lead": None}
    del page.lead
    assert page.lead is None


def test_a_default_is_markup_and_escaped_if_it_is_a_text():
    assert Page().foot == Markup("&lt;none&gt;")
    assert Page().safe_foot == Markup("<br>")
    assert type(Page().foot) is Markup


def test_what_is_stored_is_read_as_markup(new_town):
    session = new_town(Base).session()
    session.add(Page(id=1, lead="<b>", body=Markup("<b>")))
    session.flush()
    session.expunge_all()
    page = session.get(Page, 1)
    assert (page.lead, page.body) == (Markup("&lt;b&gt;"), Markup("<b>"))
    assert type(page.lead) is type(page.body) is Markup


def test_other_setters_get_what_is_escaped():
    page = Page(loud="<b>")
    assert page.meta == {"loud": Markup("&lt;b&gt;")}
    assert page.loud == Markup("&lt;b&gt;")


def test_factories_make_markup_properties_of_any_dictionary():
    class Plain:
        extras: Any = None
        title = dict_markup_property_factory("extras")("t", default="<")

    plain = Plain()
    assert plain.title == Markup("&lt;")
    plain.title = "&"
    assert plain.extras == {"t": "&amp;"}
