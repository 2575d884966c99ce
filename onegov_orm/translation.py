"""Texts in several languages, of which an attribute shows the one that is asked for.

::

    class Event(Base):
        title_translations: Mapped[dict[str, str]] = mapped_column(HSTORE)
        title = translation_hybrid(title_translations)

The language is the manager's current locale, and its default locale where a text was not
translated, in Python and in queries alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeVar

from markupsafe import Markup, escape
from sqlalchemy import JSON, String, Text, bindparam, case, cast, func, literal
from sqlalchemy.dialects.postgresql import HSTORE, JSONB
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from onegov_orm._model_manager import executing_manager, manager_of
from onegov_orm.errors import ConfigurationError, NoCurrentLocale
from onegov_orm.types import MarkupText

__all__ = [
    "TranslationHybrid",
    "TranslationMarkupHybrid",
    "translation_hybrid",
    "translation_markup_hybrid",
]

T = TypeVar("T", bound=Any)

#: What a column of translations holds: texts by locale.
Translations: TypeAlias = Mapping[str, str | None] | None


class Locales(NamedTuple):
    """Which translation is wanted, and which one stands in for it."""

    current: str
    default: str | None


def locales_of(manager: Any | None) -> Locales:
    """Return the locales of this thread or task; raises `NoCurrentLocale`."""
    if manager is None:
        raise NoCurrentLocale(
            "no locale is known here, for no manager is active in this thread or task: call "
            "mgr.set_active() or mgr.set_current_schema(name) first"
        )
    default: str | None = manager.default_locale
    current: str | None = manager.current_locale or default
    if current is None:
        raise NoCurrentLocale
    return Locales(current, default)


# SQLAlchemy-Utils has such a hybrid too. It needs Babel, writes the locale into the text of the
# statement without quoting it, and keeps statements that use it out of SQLAlchemy's cache.
class TranslationHybrid(hybrid_property[T]):
    """An attribute that reads and writes one translation of a column."""

    #: The type that queries give it.
    selected_as: ClassVar[TypeEngine[Any]] = Text()

    def __init__(self, column: Any) -> None:
        self._column = column
        self._key: str | None = None
        super().__init__(
            self._get, self._set, self._delete, self._select, update_expr=self._update
        )

    def __set_name__(self, owner: type[Any], name: str) -> None:
        # SQLAlchemy labels the attribute in queries by this name.
        self.__name__ = name
        keys = (key for key, value in vars(owner).items() if value is self._column)
        self._key = next(keys, None) or getattr(self._column, "key", None)
        if self._key is None:
            raise ConfigurationError(
                f"{owner.__name__}.{name} translates a column that is no attribute of the "
                "class: give it one that is mapped in the same class body"
            )

    # -- in Python

    def _get(self, instance: Any) -> Any:
        locales = locales_of(manager_of(instance))
        return self.loaded(translated(self._translations(instance), locales))

    def _set(self, instance: Any, value: Any) -> None:
        locale = locales_of(manager_of(instance)).current
        changed = {**self._translations(instance), locale: self.stored(value)}
        # A new dictionary: not every column notices what changes inside of it.
        setattr(instance, str(self._key), changed)

    def _delete(self, instance: Any) -> None:
        locale = locales_of(manager_of(instance)).current
        translations = dict(self._translations(instance))
        if locale in translations:
            del translations[locale]
            setattr(instance, str(self._key), translations)

    def _translations(self, instance: Any) -> Mapping[str, str | None]:
        return getattr(instance, str(self._key)) or {}

    # -- in queries

    def _select(self, owner: Any) -> ColumnElement[Any]:
        column = getattr(owner, str(self._key))
        operator = "->" if isinstance(_storage_of(column), HSTORE) else "->>"
        texts = (
            column.op(operator, return_type=Text())(locale) for locale in (_CURRENT, _DEFAULT)
        )
        return func.coalesce(*texts, type_=self.selected_as)

    def _update(self, cls: Any, value: Any) -> list[tuple[Any, Any]]:
        column = getattr(cls, str(self._key))
        if value is None or isinstance(value, str):
            value = literal(self.stored(value), Text())
        return [(column, _merged(column, cast(_CURRENT, Text), cast(value, Text)))]

    # -- what becomes of a text

    def loaded(self, text: str | None) -> Any:
        """Return the text as the attribute shows it."""
        return text

    def stored(self, value: Any) -> str | None:
        """Return the text as the column has it."""
        text: str | None = value
        return text


class TranslationMarkupHybrid(TranslationHybrid[Markup | None]):
    """The same for HTML: it gives Markup, and escapes what is none."""

    selected_as = MarkupText()

    def __set__(self, instance: object, value: Any) -> None:
        super().__set__(instance, value)

    def loaded(self, text: str | None) -> Markup | None:
        """Return the text as Markup."""
        return None if text is None else Markup(text)  # noqa: S704 it was escaped when set

    def stored(self, value: Any) -> str | None:
        """Return the text escaped, unless it is Markup already.

        As a plain text: drivers build literals with the methods of strings, and those of
        Markup would escape once more.
        """
        return None if value is None else str.__str__(escape(value))


def translation_hybrid(column: Mapped[Translations]) -> TranslationHybrid[str | None]:
    """Return the attribute that shows one translation of a column of HSTORE, JSON or JSONB.

    Setting it writes the translation of the current locale, deleting it removes that one.
    Where there is none, it shows that of the default locale, or None. Without any locale it
    raises `NoCurrentLocale`. The column has to be mapped in the same class body, else the
    class raises `ConfigurationError`.
    """
    return TranslationHybrid(column)


def translation_markup_hybrid(column: Mapped[Translations]) -> TranslationMarkupHybrid:
    """Return the same for HTML, as Markup; what is set and is no Markup gets escaped."""
    return TranslationMarkupHybrid(column)


def translated(translations: Translations, locales: Locales) -> str | None:
    """Return the translation that is wanted, or the one that stands in for it."""
    if not translations:
        return None
    text = translations.get(locales.current)
    if text is None and locales.default is not None:
        return translations.get(locales.default)
    return text


def _locale(name: str, position: int) -> Any:
    """Return a parameter that is the locale at the time that the statement is executed."""
    return bindparam(
        f"onegov_{name}_locale",
        callable_=lambda: locales_of(executing_manager())[position],
        type_=String(),
    )


# Not unique: the same expression in SELECT and GROUP BY has to have the same parameters.
_CURRENT: Final = _locale("current", 0)
_DEFAULT: Final = _locale("default", 1)


def _storage_of(column: Any) -> TypeEngine[Any]:
    """Return the type that the database has; raises `ConfigurationError` for an unfit one."""
    found = column.type
    while isinstance(found, TypeDecorator):
        found = found.impl_instance
    if not isinstance(found, (HSTORE, JSON)):
        raise ConfigurationError(
            f"{column} can't hold translations, being of {found!r}: it has to be of HSTORE, "
            "JSON or JSONB"
        )
    return found


def _merged(column: Any, locale: Any, text: Any) -> ColumnElement[Any]:
    """Return the column with one translation replaced."""
    storage = _storage_of(column)
    if isinstance(storage, HSTORE):
        pair = func.hstore(locale, text, type_=HSTORE())
        return func.coalesce(column.op("||", return_type=HSTORE())(pair), pair)
    document = cast(column, JSONB)
    pair = func.jsonb_build_object(locale, text, type_=JSONB())
    # An empty column may hold NULL or JSON's own null.
    merged = case(
        (func.jsonb_typeof(document) == "object", document.op("||", return_type=JSONB())(pair)),
        else_=pair,
    )
    return merged if isinstance(storage, JSONB) else cast(merged, type(storage))
