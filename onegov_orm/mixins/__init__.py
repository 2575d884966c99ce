"""What models inherit: timestamps, dictionaries, publication, names without blanks."""

from onegov_orm.mixins.content import (
    ContentMixin,
    content_markup_property,
    content_property,
    data_property,
    dict_markup_property_factory,
    dict_property_factory,
    meta_markup_property,
    meta_property,
)
from onegov_orm.mixins.dict_properties import dict_markup_property, dict_property
from onegov_orm.mixins.names import StripWhitespaceMixin
from onegov_orm.mixins.publication import UTCPublicationMixin
from onegov_orm.mixins.timestamp import TimestampMixin

__all__ = [
    "ContentMixin",
    "StripWhitespaceMixin",
    "TimestampMixin",
    "UTCPublicationMixin",
    "content_markup_property",
    "content_property",
    "data_property",
    "dict_markup_property",
    "dict_markup_property_factory",
    "dict_property",
    "dict_property_factory",
    "meta_markup_property",
    "meta_property",
]
