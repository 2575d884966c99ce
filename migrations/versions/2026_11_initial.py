"""The tables of a town: streets, categories, the directory's entries, bookings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, HSTORE, JSONB, TSTZRANGE, ExcludeConstraint

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "categories",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("town", sa.Text, nullable=False),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_categories")),
        sa.UniqueConstraint("slug", name=op.f("uq_categories_slug")),
    )
    op.create_table(
        "streets",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("town", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("postcode", sa.Text, nullable=False),
        sa.Column("locality", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_streets")),
        sa.UniqueConstraint("name", "postcode", name=op.f("uq_streets_name_postcode")),
    )
    create_entries()
    create_bookings()


def create_entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("town", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("category_id", sa.Integer, nullable=False),
        sa.Column("street_id", sa.Integer, nullable=False),
        sa.Column("house_number", sa.Text, nullable=False),
        sa.Column("founded", sa.Integer, nullable=True),
        sa.Column("tags", ARRAY(sa.Text), nullable=False),
        sa.Column("contact", HSTORE, nullable=False),
        sa.Column("opening_hours", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        sa.UniqueConstraint(
            "name",
            "street_id",
            "house_number",
            name=op.f("uq_entries_name_street_id_house_number"),
        ),
        sa.ForeignKeyConstraint(
            ["category_id"], ["categories.id"], name=op.f("fk_entries_category_id_categories")
        ),
        sa.ForeignKeyConstraint(
            ["street_id"], ["streets.id"], name=op.f("fk_entries_street_id_streets")
        ),
    )
    op.create_index(op.f("ix_entries_category_id"), "entries", ["category_id"])
    op.create_index(op.f("ix_entries_street_id"), "entries", ["street_id"])


def create_bookings() -> None:
    op.create_table(
        "bookings",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("town", sa.Text, nullable=False),
        sa.Column("room", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("during", TSTZRANGE, nullable=False),
        sa.Column("entry_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bookings")),
        ExcludeConstraint(
            ("room", "="), ("during", "&&"), using="gist", name="ex_bookings_room_during"
        ),
        sa.CheckConstraint("NOT isempty(during)", name=op.f("ck_bookings_during_not_empty")),
        sa.ForeignKeyConstraint(
            ["entry_id"],
            ["entries.id"],
            name=op.f("fk_bookings_entry_id_entries"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_bookings_entry_id"), "bookings", ["entry_id"])


def downgrade() -> None:
    op.drop_table("bookings")
    op.drop_table("entries")
    op.drop_table("streets")
    op.drop_table("categories")
