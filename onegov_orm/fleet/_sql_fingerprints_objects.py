"""What is told about each kind of object in a schema: its name and its definition, as SQL.

Definitions are read with the object's own schema first on the search path, so that the server
leaves the schema's name away; see `_sql_fingerprints`. What the server prints with the name in
any case is put together here.
"""

from __future__ import annotations

from typing import Final


def catalog_of(name: str) -> str:
    """Return the number of a system catalog."""
    return f"CAST('pg_catalog.{name}' AS pg_catalog.regclass)"


def is_own(catalog: str, oid: str, kinds_of_members: str = "'e'") -> str:
    """Leave out what belongs to an extension."""
    return f"""NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS member
        WHERE member.classid = {catalog_of(catalog)} AND member.objid = {oid}
        AND member.deptype IN ({kinds_of_members}))"""


def _seen(expression: str, schema: str) -> str:
    """Evaluate an expression with the search path of the schema that a row belongs to.

    ``CASE`` guarantees that the path is moved first.
    """
    return f"""CASE WHEN pg_catalog.current_setting('search_path') = {schema}.path
        OR pg_catalog.set_config('search_path', {schema}.path, true) IS NOT NULL
        THEN {expression} END"""


def objects(
    kind: str,
    name: str,
    definition: str,
    source: str,
    catalog: str,
    oid: str,
    *,
    schema: str = "relation",
    part: str = "0",
    owner: str = "",
    acl: str = "NULL",
    acl_kind: str = "'c'",
) -> str:
    """Return the query for one kind; what has no owner belongs to the schema's."""
    return f"""
    SELECT {schema}.schema, CAST({kind} AS text) AS kind, {_seen(name, schema)} AS name,
        {_seen(f"pg_catalog.concat_ws(' ', {definition})", schema)} AS definition,
        {catalog_of(catalog)} AS catalog, {oid} AS oid, CAST({part} AS integer) AS part,
        {owner or f"{schema}.nspowner"} AS owner, {schema}.nspowner AS schema_owner,
        CAST({acl} AS pg_catalog.aclitem[]) AS acl, CAST({acl_kind} AS "char") AS acl_kind
    FROM {source}"""


def _of_relation(name: str) -> str:
    return f"relation.name || '.' || pg_catalog.quote_ident({name})"


def list_of(array: str) -> str:
    """Return the options of an array, sorted, without those that the server keeps for itself.

    PostgreSQL 15.20 notes in each column when it was made, as ``pg_attver``.
    """
    return f"""(SELECT pg_catalog.string_agg(entry, ', ' ORDER BY entry COLLATE "C")
        FROM unnest({array}) AS entry WHERE entry NOT LIKE 'pg\\_%')"""


def name_of(kind: str, oid: str) -> str:
    """Return the name of what a number stands for, as the search path has it; null for 0."""
    return f"CAST(CAST(NULLIF({oid}, 0) AS pg_catalog.{kind}) AS text)"


def _tablespace(oid: str) -> str:
    return f"""(SELECT 'TABLESPACE ' || pg_catalog.quote_ident(spcname)
        FROM pg_catalog.pg_tablespace AS space WHERE space.oid = {oid})"""


def _parents(oid: str) -> str:
    return f"""(SELECT 'INHERITS ' || pg_catalog.string_agg(
            {name_of("regclass", "inhparent")}, ', ' ORDER BY inhseqno)
        FROM pg_catalog.pg_inherits WHERE inhrelid = {oid})"""


#: What a sequence belongs to; its value is no part of the structure.
_KEEPERS: Final = f"""
    FROM pg_catalog.pg_depend AS owned
    JOIN pg_catalog.pg_class AS keeper ON keeper.oid = owned.refobjid
    JOIN pg_catalog.pg_attribute AS kept
        ON kept.attrelid = keeper.oid AND kept.attnum = owned.refobjsubid
    WHERE class.relkind = 'S' AND owned.objid = class.oid AND owned.deptype IN ('a', 'i')
    AND owned.classid = {catalog_of("pg_class")} AND owned.refclassid = {catalog_of("pg_class")}
"""

#: Keeps out the sequences of tables that are left out.
IS_NOT_KEPT: Final = f"""NOT EXISTS (
        SELECT {_KEEPERS} AND keeper.relname = ANY(CAST(:bookkeeping AS text[])))"""

_RELATIONS: Final = objects(
    """CASE relation.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
        WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type'
        ELSE 'table' END""",
    "relation.name",
    f"""
        CASE WHEN relation.relkind = 'c' THEN 'composite' END,
        CASE class.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
        (SELECT pg_catalog.format('AS %s START %s MINVALUE %s MAXVALUE %s INCREMENT %s CACHE %s',
                pg_catalog.format_type(seqtypid, NULL),
                seqstart, seqmin, seqmax, seqincrement, seqcache)
            || CASE WHEN seqcycle THEN ' CYCLE' ELSE '' END
         FROM pg_catalog.pg_sequence WHERE seqrelid = relation.oid),
        (SELECT 'OWNED BY ' || {name_of("regclass", "keeper.oid")} || '.'
            || pg_catalog.quote_ident(kept.attname) {_KEEPERS}),
        'PARTITION BY ' || pg_catalog.pg_get_partkeydef(relation.oid),
        {_parents("relation.oid")},
        pg_catalog.pg_get_expr(class.relpartbound, relation.oid),
        'OF ' || {name_of("regtype", "class.reloftype")},
        'WITH (' || {list_of("class.reloptions")} || ')',
        'WITH TOAST (' || (SELECT {list_of("toast.reloptions")} FROM pg_catalog.pg_class AS toast
            WHERE toast.oid = class.reltoastrelid) || ')',
        (SELECT 'USING ' || amname FROM pg_catalog.pg_am AS method
            WHERE method.oid = class.relam AND amname <> 'heap'),
        {_tablespace("class.reltablespace")},
        CASE WHEN class.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
        CASE WHEN class.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
        'REPLICA IDENTITY ' || NULLIF(NULLIF(CAST(class.relreplident AS text), 'd'), 'n'),
        (SELECT 'SERVER ' || pg_catalog.quote_ident(srvname)
            || COALESCE(' OPTIONS ' || {list_of("ftoptions")}, '')
         FROM pg_catalog.pg_foreign_table AS remote
         JOIN pg_catalog.pg_foreign_server AS server ON server.oid = remote.ftserver
         WHERE remote.ftrelid = relation.oid),
        CASE WHEN relation.relkind IN ('v', 'm')
            THEN pg_catalog.pg_get_viewdef(relation.oid) END""",
    "relation JOIN pg_catalog.pg_class AS class ON class.oid = relation.oid",
    "pg_class",
    "relation.oid",
    owner="class.relowner",
    acl="class.relacl",
    acl_kind="CASE relation.relkind WHEN 'S' THEN 's' ELSE 'r' END",
)

# The position is left out: ALTER TABLE adds columns at the end, so that a schema which was
# migrated has another order than a new one; dropped columns, which keep theirs, would count.
# What PostgreSQL 18 has as a constraint for NOT NULL is told here: the server chose its name,
# and keeps it when the column is renamed.
_COLUMNS: Final = objects(
    "'column'",
    _of_relation("attname"),
    f"""
        pg_catalog.format_type(atttypid, atttypmod),
        CASE WHEN attcollation <> typcollation
            THEN 'COLLATE ' || {name_of("regcollation", "attcollation")} END,
        CASE WHEN attnotnull THEN 'NOT NULL' END,
        (SELECT pg_catalog.concat_ws(' ', CASE WHEN NOT convalidated THEN 'NOT VALID' END,
            CASE WHEN connoinherit THEN 'NO INHERIT' END)
         FROM pg_catalog.pg_constraint WHERE conrelid = attrelid AND contype = 'n'
         AND conkey[1] = attnum AND (connoinherit OR NOT convalidated)),
        CASE attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
            WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
        CASE attgenerated WHEN 's' THEN 'STORED' WHEN 'v' THEN 'VIRTUAL' END,
        CASE WHEN attstorage <> typstorage THEN 'STORAGE ' || CAST(attstorage AS text) END,
        CASE WHEN attcompression <> '' THEN 'COMPRESSION ' || CAST(attcompression AS text) END,
        'STATISTICS ' || NULLIF(attstattarget, -1),
        'WITH ' || {list_of("attoptions")}, 'OPTIONS ' || {list_of("attfdwoptions")},
        CASE WHEN attinhcount > 0 THEN 'INHERITED' END""",
    """relation JOIN pg_catalog.pg_attribute ON attrelid = relation.oid
    JOIN pg_catalog.pg_type AS type ON type.oid = atttypid
    WHERE attnum > 0 AND NOT attisdropped AND relation.relkind <> 'S'""",
    "pg_class",
    "relation.oid",
    part="attnum",
    acl="attacl",
)

_DEFAULTS: Final = objects(
    "'default'",
    _of_relation("attname"),
    "pg_catalog.pg_get_expr(adbin, adrelid)",
    """relation JOIN pg_catalog.pg_attrdef AS preset ON adrelid = relation.oid
    JOIN pg_catalog.pg_attribute ON attrelid = adrelid AND attnum = adnum""",
    "pg_attrdef",
    "preset.oid",
)

# What checks a foreign key are triggers, which can be turned off.
_CONSTRAINTS: Final = objects(
    "'constraint'",
    _of_relation("conname"),
    """
        pg_catalog.pg_get_constraintdef(definition.oid),
        CASE WHEN coninhcount > 0 THEN 'INHERITED' END,
        (SELECT 'TRIGGERS ' || pg_catalog.string_agg(DISTINCT CAST(tgenabled AS text), ', ')
         FROM pg_catalog.pg_trigger
         WHERE tgconstraint = definition.oid AND contype = 'f' AND tgenabled <> 'O')""",
    """relation JOIN pg_catalog.pg_constraint AS definition ON conrelid = relation.oid
    WHERE contype <> 'n'""",
    "pg_constraint",
    "definition.oid",
)

_INDEXES: Final = objects(
    "'index'",
    _of_relation("class.relname"),
    f"""
        pg_catalog.pg_get_indexdef(class.oid, 0, true), {_parents("class.oid")},
        CASE WHEN NOT indisvalid THEN 'INVALID' END,
        CASE WHEN indisclustered THEN 'CLUSTER' END,
        CASE WHEN indisreplident THEN 'REPLICA IDENTITY' END,
        (SELECT 'STATISTICS ' || pg_catalog.string_agg(attnum || ' ' || attstattarget, ', '
            ORDER BY attnum)
         FROM pg_catalog.pg_attribute WHERE attrelid = class.oid AND attstattarget >= 0),
        {_tablespace("class.reltablespace")}""",
    """relation JOIN pg_catalog.pg_index ON indrelid = relation.oid
    JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid""",
    "pg_class",
    "class.oid",
)

_TRIGGERS: Final = objects(
    "'trigger'",
    _of_relation("tgname"),
    """pg_catalog.pg_get_triggerdef(definition.oid, true),
        'ENABLED ' || NULLIF(CAST(tgenabled AS text), 'O')""",
    """relation JOIN pg_catalog.pg_trigger AS definition ON tgrelid = relation.oid
    WHERE NOT tgisinternal""",
    "pg_trigger",
    "definition.oid",
)

_RULES: Final = objects(
    "'rule'",
    _of_relation("rulename"),
    """pg_catalog.pg_get_ruledef(definition.oid, true),
        'ENABLED ' || NULLIF(CAST(ev_enabled AS text), 'O')""",
    """relation JOIN pg_catalog.pg_rewrite AS definition ON ev_class = relation.oid
    WHERE rulename <> '_RETURN'""",
    "pg_rewrite",
    "definition.oid",
)

_POLICIES: Final = objects(
    "'policy'",
    _of_relation("polname"),
    """
        CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        'FOR ' || CAST(polcmd AS text),
        'TO ' || (
            SELECT pg_catalog.string_agg(CASE role WHEN 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(role)) END, ', '
                ORDER BY pg_catalog.pg_get_userbyid(role)) FROM unnest(polroles) AS role),
        'USING ' || pg_catalog.pg_get_expr(polqual, polrelid),
        'WITH CHECK ' || pg_catalog.pg_get_expr(polwithcheck, polrelid)""",
    "relation JOIN pg_catalog.pg_policy AS definition ON polrelid = relation.oid",
    "pg_policy",
    "definition.oid",
)

_STATISTICS: Final = objects(
    "'statistics'",
    _of_relation("stxname"),
    """CAST(stxkind AS text), 'TARGET ' || NULLIF(stxstattarget, -1),
        pg_catalog.pg_get_statisticsobjdef_columns(definition.oid)""",
    "relation JOIN pg_catalog.pg_statistic_ext AS definition ON stxrelid = relation.oid",
    "pg_statistic_ext",
    "definition.oid",
    owner="stxowner",
)

# A table's own type, and what is an array of another type, come with that.
_TYPES: Final = objects(
    "'type'",
    "pg_catalog.quote_ident(typname)",
    f"""
        CASE typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range'
            WHEN 'b' THEN 'base' ELSE 'shell' END,
        CASE WHEN typtype = 'e' THEN (
            SELECT '(' || COALESCE(pg_catalog.string_agg(
                pg_catalog.quote_literal(enumlabel), ', ' ORDER BY enumsortorder), '') || ')'
            FROM pg_catalog.pg_enum WHERE enumtypid = type.oid) END,
        pg_catalog.format_type(NULLIF(typbasetype, 0), typtypmod),
        CASE WHEN typtype = 'd' AND typcollation <> (
                SELECT base.typcollation FROM pg_catalog.pg_type AS base
                WHERE base.oid = type.typbasetype)
            THEN 'COLLATE ' || {name_of("regcollation", "typcollation")} END,
        CASE WHEN typnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || COALESCE(pg_catalog.pg_get_expr(typdefaultbin, 0), typdefault),
        (SELECT pg_catalog.concat_ws(' ', 'OF', {name_of("regtype", "rngsubtype")},
                'COLLATE ' || {name_of("regcollation", "rngcollation")},
                (SELECT opcname FROM pg_catalog.pg_opclass AS class WHERE class.oid = rngsubopc),
                {name_of("regprocedure", "CAST(rngcanonical AS oid)")},
                {name_of("regprocedure", "CAST(rngsubdiff AS oid)")},
                {name_of("regtype", "rngmultitypid")})
         FROM pg_catalog.pg_range WHERE rngtypid = type.oid),
        CASE WHEN typtype = 'b' THEN pg_catalog.concat_ws(' ', typlen, typbyval, typalign,
            typstorage, typinput, typoutput, typreceive, typsend, typmodin, typmodout) END""",
    f"""wanted JOIN pg_catalog.pg_type AS type ON typnamespace = wanted.namespace
    WHERE typtype IN ('e', 'd', 'r', 'b', 'p') AND typrelid = 0
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type AS element WHERE element.typarray = type.oid)
    AND {is_own("pg_type", "type.oid")}""",
    "pg_type",
    "type.oid",
    schema="wanted",
    owner="typowner",
    acl="typacl",
    acl_kind="'T'",
)

_ENUM_VALUES: Final = objects(
    "'enum value'",
    "pg_catalog.quote_ident(typname) || '.' || pg_catalog.quote_ident(enumlabel)",
    "''",
    f"""wanted JOIN pg_catalog.pg_type AS type ON typnamespace = wanted.namespace
    JOIN pg_catalog.pg_enum ON enumtypid = type.oid
    WHERE {is_own("pg_type", "type.oid")}""",
    "pg_enum",
    "pg_enum.oid",
    schema="wanted",
)

_DOMAIN_CONSTRAINTS: Final = objects(
    "'constraint'",
    "pg_catalog.quote_ident(typname) || '.' || pg_catalog.quote_ident(conname)",
    "pg_catalog.pg_get_constraintdef(definition.oid)",
    f"""wanted JOIN pg_catalog.pg_type AS type ON typnamespace = wanted.namespace
    JOIN pg_catalog.pg_constraint AS definition ON contypid = type.oid
    WHERE contype <> 'n' AND {is_own("pg_type", "type.oid")}""",
    "pg_constraint",
    "definition.oid",
    schema="wanted",
)

#: One query for each kind of objects that hang on a schema by way of a relation or a type.
STRUCTURES: Final = {
    "relations": _RELATIONS,
    "columns": _COLUMNS,
    "defaults": _DEFAULTS,
    "constraints": f"{_CONSTRAINTS} UNION ALL {_DOMAIN_CONSTRAINTS}",
    "indexes": _INDEXES,
    "triggers": f"{_TRIGGERS} UNION ALL {_RULES} UNION ALL {_POLICIES}",
    "types": f"{_TYPES} UNION ALL {_ENUM_VALUES}",
    "statistics": _STATISTICS,
}
