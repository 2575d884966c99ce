"""Types of columns that keep more of a value than those of SQLAlchemy."""

from __future__ import annotations

from onegov_orm._serializers import Serializer, Serializers, default_serializers
from onegov_orm.types.hstore import HSTORE
from onegov_orm.types.json import JSON
from onegov_orm.types.lowercase_text import LowercaseText
from onegov_orm.types.markup_text import MarkupText
from onegov_orm.types.tracking import TrackedDict, TrackedList, tracked
from onegov_orm.types.utcdatetime import UTCDateTime
from onegov_orm.types.uuid import UUID

__all__ = [
    "HSTORE",
    "JSON",
    "UUID",
    "LowercaseText",
    "MarkupText",
    "Serializer",
    "Serializers",
    "TrackedDict",
    "TrackedList",
    "UTCDateTime",
    "default_serializers",
    "tracked",
]
