"""The queries that write down what a schema holds, as statements that do not name the schema.

They run with a search path of this schema and ``pg_catalog``: the server then names what lives
there without its schema, and everything else with one. The few functions of the server that
name the schema all the same have it taken out at the one place where it stands.

A row is one object: its catalog and oid, kind, name, rank and statements, and the oids of
relations that have to be there before it, where the server keeps no such dependency.
"""

from __future__ import annotations

from typing import Final

#: In which order things are made, as far as their dependencies leave that open.
TYPE, SEQUENCE, FUNCTION, TABLE, PARTITION, DEFAULT, VIEW, INDEX = range(8)
INDEX_PARTITION, FOREIGN_KEY, SETTING, REFRESH, TRIGGER, TRIGGER_STATE, POLICY = range(8, 15)

NAMESPACE: Final = "CAST(:namespace AS pg_catalog.oid)"


def class_of(catalog: str) -> str:
    """Return the oid of one of the server's catalogs."""
    return f"CAST(CAST('pg_catalog.{catalog}' AS pg_catalog.regclass) AS pg_catalog.oid)"


def relation(oid: str) -> str:
    """Return the name of a relation, with its schema where that is needed."""
    return f"CAST(CAST({oid} AS pg_catalog.regclass) AS pg_catalog.text)"


def described(catalog: str, oid: str, kind: str, name: str, rank: int, needs: str = "") -> str:
    """Return the columns of a row before its statements, and the needs."""
    return f"""
        CAST({class_of(catalog)} AS pg_catalog.int8), CAST({oid} AS pg_catalog.int8),
        {kind}, {name}, {rank}, CAST(ARRAY[{needs}] AS pg_catalog.int8[])"""


def texts(*statements: str) -> str:
    """Return an array of the statements that expressions yield."""
    return f"CAST(ARRAY[{', '.join(statements)}] AS pg_catalog.text[])"


def unqualified(definition: str, before: str, after: str, namespace: str, name: str) -> str:
    """Take the schema out of a definition, where it first stands between two words."""
    bare = f"'{before}' || pg_catalog.quote_ident({name}) || '{after}'"
    qualified = (
        f"'{before}' || pg_catalog.quote_ident({namespace}) || '.' ||"
        f" pg_catalog.quote_ident({name}) || '{after}'"
    )
    return f"""pg_catalog.overlay({definition}, {bare},
        pg_catalog.strpos({definition}, {qualified}), pg_catalog.length({qualified}))"""


def _collation(collation: str, usual: str) -> str:
    return f"""CASE WHEN {collation} <> 0 AND {collation} <> {usual} THEN ' COLLATE '
        || CAST(CAST({collation} AS pg_catalog.regcollation) AS pg_catalog.text) ELSE '' END"""


def option_list(array: str, prefix: str = "") -> str:
    """Return storage parameters as a list, null without any.

    What the server keeps there for itself, such as the ``pg_attver`` of PostgreSQL 15.20, nobody
    can set.
    """
    return f"""(
        SELECT pg_catalog.string_agg('{prefix}' || pg_catalog.quote_ident(
            pg_catalog.split_part(option, '=', 1)) || '=' || pg_catalog.quote_literal(
            pg_catalog.substr(option, pg_catalog.strpos(option, '=') + 1)), ', ')
        FROM pg_catalog.unnest({array}) AS option WHERE option NOT LIKE 'pg\\_%')"""


def has_dependency(catalog: str, oid: str, kind: str) -> str:
    """Tell whether an object depends on another in a certain way."""
    return f"""EXISTS (
        SELECT FROM pg_catalog.pg_depend AS dependency
        WHERE dependency.classid = {class_of(catalog)} AND dependency.objid = {oid}
        AND dependency.deptype = '{kind}')"""


def _sequence_options(sequence: str) -> str:
    return f"""pg_catalog.format(
        'INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s',
        {sequence}.seqincrement, {sequence}.seqmin,
        {sequence}.seqmax, {sequence}.seqstart, {sequence}.seqcache,
        CASE WHEN {sequence}.seqcycle THEN ' CYCLE' END)"""


_ENUM: Final = """
    pg_catalog.format('CREATE TYPE %I AS ENUM (%s)', type.typname, (
        SELECT pg_catalog.string_agg(pg_catalog.quote_literal(label.enumlabel), ', '
            ORDER BY label.enumsortorder)
        FROM pg_catalog.pg_enum AS label WHERE label.enumtypid = type.oid))
"""

_COMPOSITE: Final = f"""
    pg_catalog.format('CREATE TYPE %I AS (%s)', type.typname, (
        SELECT pg_catalog.string_agg(pg_catalog.format('%I %s%s', field.attname,
            pg_catalog.format_type(field.atttypid, field.atttypmod),
            {_collation("field.attcollation", "field_type.typcollation")}), ', '
            ORDER BY field.attnum)
        FROM pg_catalog.pg_attribute AS field
        JOIN pg_catalog.pg_type AS field_type ON field_type.oid = field.atttypid
        WHERE field.attrelid = type.typrelid AND field.attnum > 0 AND NOT field.attisdropped))
"""

_DOMAIN_NOT_NULL: Final = """
    CASE WHEN type.typnotnull AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS named
        WHERE named.contypid = type.oid AND named.contype = 'n') THEN ' NOT NULL' END
"""

_DOMAIN_CONSTRAINTS: Final = """
    (SELECT pg_catalog.string_agg(pg_catalog.format(' CONSTRAINT %I %s', rule.conname,
        pg_catalog.pg_get_constraintdef(rule.oid)), '' ORDER BY rule.conname)
    FROM pg_catalog.pg_constraint AS rule
    WHERE rule.contypid = type.oid AND rule.convalidated)
"""

_DOMAIN: Final = f"""
    pg_catalog.format('CREATE DOMAIN %I AS %s%s%s%s%s', type.typname,
        pg_catalog.format_type(type.typbasetype, type.typtypmod), (
            SELECT {_collation("type.typcollation", "base.typcollation")}
            FROM pg_catalog.pg_type AS base WHERE base.oid = type.typbasetype),
        ' DEFAULT ' || pg_catalog.pg_get_expr(type.typdefaultbin, 0),
        {_DOMAIN_NOT_NULL}, {_DOMAIN_CONSTRAINTS})
"""

#: Constraints of a domain that its present values were not checked for.
_DOMAIN_UNCHECKED: Final = """
    (SELECT pg_catalog.string_agg(pg_catalog.format('ALTER DOMAIN %I ADD CONSTRAINT %I %s',
        type.typname, rule.conname, pg_catalog.pg_get_constraintdef(rule.oid)), '; '
        ORDER BY rule.conname)
    FROM pg_catalog.pg_constraint AS rule
    WHERE rule.contypid = type.oid AND NOT rule.convalidated)
"""

_RANGE: Final = """
    (SELECT pg_catalog.format('CREATE TYPE %I AS RANGE (%s)', type.typname,
        pg_catalog.concat_ws(', ',
            'SUBTYPE = ' || pg_catalog.format_type(range.rngsubtype, NULL),
            pg_catalog.format('SUBTYPE_OPCLASS = %I.%I', class_schema.nspname, class.opcname),
            CASE WHEN range.rngcollation <> 0 THEN 'COLLATION = '
                || CAST(CAST(range.rngcollation AS pg_catalog.regcollation) AS
                    pg_catalog.text) END,
            CASE WHEN range.rngsubdiff <> 0 THEN 'SUBTYPE_DIFF = '
                || CAST(CAST(range.rngsubdiff AS pg_catalog.regproc) AS pg_catalog.text) END,
            pg_catalog.format('MULTIRANGE_TYPE_NAME = %I', multirange.typname)))
    FROM pg_catalog.pg_range AS range
    JOIN pg_catalog.pg_opclass AS class ON class.oid = range.rngsubopc
    JOIN pg_catalog.pg_namespace AS class_schema ON class_schema.oid = class.opcnamespace
    JOIN pg_catalog.pg_type AS multirange ON multirange.oid = range.rngmultitypid
    WHERE range.rngtypid = type.oid)
"""

TYPES: Final = f"""
    SELECT {described("pg_type", "type.oid", "'type'", "type.typname", TYPE)},
        CASE type.typtype WHEN 'e' THEN {texts(_ENUM)} WHEN 'c' THEN {texts(_COMPOSITE)}
        WHEN 'd' THEN {texts(_DOMAIN, _DOMAIN_UNCHECKED)} ELSE {texts(_RANGE)} END
    FROM pg_catalog.pg_type AS type
    LEFT JOIN pg_catalog.pg_class AS class ON class.oid = type.typrelid
    WHERE type.typnamespace = {NAMESPACE}
    AND (type.typtype IN ('e', 'd', 'r') OR class.relkind = 'c')
"""

SEQUENCES: Final = f"""
    SELECT {described("pg_class", "class.oid", "'sequence'", "class.relname", SEQUENCE)},
        {
    texts(f'''pg_catalog.format('CREATE %sSEQUENCE %I AS %s %s',
            CASE class.relpersistence WHEN 'u' THEN 'UNLOGGED ' END, class.relname,
            pg_catalog.format_type(sequence.seqtypid, NULL), {_sequence_options("sequence")})''')
}
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_sequence AS sequence ON sequence.seqrelid = class.oid
    WHERE class.relnamespace = {NAMESPACE} AND NOT {has_dependency("pg_class", "class.oid", "i")}
"""

#: Which columns the sequences belong to that are not those of identity columns.
SEQUENCE_OWNERS: Final = f"""
    SELECT {described("pg_depend", "class.oid", "'owner of sequence'", "class.relname", SETTING)},
        {
    texts(f'''pg_catalog.format('ALTER SEQUENCE %I OWNED BY %s.%I', class.relname,
            {relation("owner.attrelid")}, owner.attname)''')
}
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_depend AS dependency ON dependency.classid = {class_of("pg_class")}
        AND dependency.objid = class.oid AND dependency.deptype = 'a'
        AND dependency.refclassid = {class_of("pg_class")}
    JOIN pg_catalog.pg_attribute AS owner ON owner.attrelid = dependency.refobjid
        AND owner.attnum = dependency.refobjsubid
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind = 'S'
"""

_FUNCTION_NAME: Final = "CAST(CAST(proc.oid AS pg_catalog.regprocedure) AS pg_catalog.text)"

FUNCTIONS: Final = f"""
    SELECT {described("pg_proc", "proc.oid", "'function'", _FUNCTION_NAME, FUNCTION)},
        {
    texts(
        unqualified(
            "pg_catalog.pg_get_functiondef(proc.oid)",
            " ",
            "(",
            "namespace.nspname",
            "proc.proname",
        )
    )
}
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
    WHERE proc.pronamespace = {NAMESPACE} AND proc.prokind <> 'a'
    AND NOT {has_dependency("pg_proc", "proc.oid", "i")}
"""


def _function_option(word: str, function: str) -> str:
    return f"""CASE WHEN {function} <> 0 THEN '{word} = '
        || CAST(CAST({function} AS pg_catalog.regproc) AS pg_catalog.text) END"""


def _flag(word: str, condition: str) -> str:
    return f"CASE WHEN {condition} THEN '{word}' END"


def _modification(word: str, function: str, letter: str) -> str:
    return f"""CASE WHEN {function} <> 0 THEN '{word} = ' || CASE {letter}
        WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END"""


_AGGREGATE_OPTIONS: Final = ", ".join(
    (
        _function_option("SFUNC", "aggregate.aggtransfn"),
        "'STYPE = ' || pg_catalog.format_type(aggregate.aggtranstype, NULL)",
        "'SSPACE = ' || NULLIF(aggregate.aggtransspace, 0)",
        _function_option("FINALFUNC", "aggregate.aggfinalfn"),
        _flag("FINALFUNC_EXTRA", "aggregate.aggfinalextra"),
        _modification("FINALFUNC_MODIFY", "aggregate.aggfinalfn", "aggregate.aggfinalmodify"),
        _function_option("COMBINEFUNC", "aggregate.aggcombinefn"),
        _function_option("SERIALFUNC", "aggregate.aggserialfn"),
        _function_option("DESERIALFUNC", "aggregate.aggdeserialfn"),
        "'INITCOND = ' || pg_catalog.quote_literal(aggregate.agginitval)",
        _function_option("MSFUNC", "aggregate.aggmtransfn"),
        _function_option("MINVFUNC", "aggregate.aggminvtransfn"),
        """'MSTYPE = ' || CASE WHEN aggregate.aggmtranstype <> 0
            THEN pg_catalog.format_type(aggregate.aggmtranstype, NULL) END""",
        "'MSSPACE = ' || NULLIF(aggregate.aggmtransspace, 0)",
        _function_option("MFINALFUNC", "aggregate.aggmfinalfn"),
        _flag("MFINALFUNC_EXTRA", "aggregate.aggmfinalextra"),
        _modification("MFINALFUNC_MODIFY", "aggregate.aggmfinalfn", "aggregate.aggmfinalmodify"),
        "'MINITCOND = ' || pg_catalog.quote_literal(aggregate.aggminitval)",
        """(SELECT pg_catalog.format('SORTOP = OPERATOR(%I.%s)', schema.nspname, operator.oprname)
            FROM pg_catalog.pg_operator AS operator
            JOIN pg_catalog.pg_namespace AS schema ON schema.oid = operator.oprnamespace
            WHERE operator.oid = aggregate.aggsortop)""",
        """'PARALLEL = ' || CASE proc.proparallel WHEN 's' THEN 'SAFE'
            WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END""",
        _flag("HYPOTHETICAL", "aggregate.aggkind = 'h'"),
    )
)

AGGREGATES: Final = f"""
    SELECT {described("pg_proc", "proc.oid", "'aggregate'", _FUNCTION_NAME, FUNCTION)},
        {
    texts(f'''pg_catalog.format('CREATE AGGREGATE %I(%s) (%s)', proc.proname,
            COALESCE(NULLIF(pg_catalog.pg_get_function_identity_arguments(proc.oid), ''), '*'),
            pg_catalog.concat_ws(', ', {_AGGREGATE_OPTIONS}))''')
}
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_aggregate AS aggregate ON aggregate.aggfnoid = proc.oid
    WHERE proc.pronamespace = {NAMESPACE}
"""

#: A column as it stands in the making of a table.
_IDENTITY: Final = f"""
    (SELECT pg_catalog.format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %I %s)',
        CASE field.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, own.relname,
        {_sequence_options("sequence")})
    FROM pg_catalog.pg_depend AS dependency
    JOIN pg_catalog.pg_class AS own ON own.oid = dependency.objid AND own.relkind = 'S'
    JOIN pg_catalog.pg_sequence AS sequence ON sequence.seqrelid = own.oid
    WHERE field.attidentity <> '' AND dependency.classid = {class_of("pg_class")}
    AND dependency.refclassid = {class_of("pg_class")} AND dependency.deptype = 'i'
    AND dependency.refobjid = field.attrelid AND dependency.refobjsubid = field.attnum)
"""

_GENERATED: Final = """
    CASE WHEN field.attgenerated <> '' THEN (
        SELECT pg_catalog.format(' GENERATED ALWAYS AS (%s) %s',
            pg_catalog.pg_get_expr(value.adbin, value.adrelid),
            CASE field.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END)
        FROM pg_catalog.pg_attrdef AS value
        WHERE value.adrelid = field.attrelid AND value.adnum = field.attnum) END
"""

#: Since PostgreSQL 18 it has a name, and may be inherited or unchecked.
_NOT_NULL: Final = """
    CASE WHEN field.attnotnull THEN COALESCE((
        SELECT CASE WHEN rule.convalidated THEN pg_catalog.format(' CONSTRAINT %I NOT NULL%s',
            rule.conname, CASE WHEN rule.connoinherit THEN ' NO INHERIT' END) ELSE '' END
        FROM pg_catalog.pg_constraint AS rule
        WHERE rule.conrelid = field.attrelid AND rule.contype = 'n'
        AND rule.conkey[1] = field.attnum), ' NOT NULL') END
"""

_COLUMNS: Final = f"""
    (SELECT pg_catalog.string_agg(pg_catalog.format('%I %s%s%s%s%s', field.attname,
        pg_catalog.format_type(field.atttypid, field.atttypmod),
        {_collation("field.attcollation", "field_type.typcollation")},
        {_IDENTITY}, {_GENERATED}, {_NOT_NULL}), ', ' ORDER BY field.attnum)
    FROM pg_catalog.pg_attribute AS field
    JOIN pg_catalog.pg_type AS field_type ON field_type.oid = field.atttypid
    WHERE field.attrelid = class.oid AND field.attnum > 0 AND NOT field.attisdropped
    AND (field.attislocal OR class.relispartition))
"""

_PARENTS: Final = f"""
    (SELECT pg_catalog.string_agg({relation("link.inhparent")}, ', ' ORDER BY link.inhseqno)
    FROM pg_catalog.pg_inherits AS link
    WHERE link.inhrelid = class.oid AND NOT class.relispartition)
"""

_TABLE_OPTIONS: Final = (
    f"NULLIF(pg_catalog.concat_ws(', ', {option_list('class.reloptions')},"
    f" {option_list('toast.reloptions', 'toast.')}), '')"
)

_TABLE: Final = f"""
    pg_catalog.format('CREATE %sTABLE %I (%s)%s%s%s%s',
        CASE class.relpersistence WHEN 'u' THEN 'UNLOGGED ' END, class.relname, {_COLUMNS},
        ' INHERITS (' || {_PARENTS} || ')',
        ' PARTITION BY ' || pg_catalog.pg_get_partkeydef(class.oid),
        ' USING ' || pg_catalog.quote_ident(NULLIF(method.amname, 'heap')),
        ' WITH (' || {_TABLE_OPTIONS} || ')')
"""

_ALTER_COLUMN: Final = "'ALTER TABLE ONLY ' || pg_catalog.quote_ident(class.relname)"


def _column_setting(form: str, value: str, condition: str) -> str:
    """Return what sets something of columns, one statement for all."""
    return f"""{_ALTER_COLUMN} || (
        SELECT pg_catalog.string_agg(pg_catalog.format(' ALTER COLUMN %I SET {form}',
            field.attname, {value}), ', ' ORDER BY field.attnum)
        FROM pg_catalog.pg_attribute AS field
        JOIN pg_catalog.pg_type AS field_type ON field_type.oid = field.atttypid
        WHERE field.attrelid = class.oid AND field.attnum > 0 AND NOT field.attisdropped
        AND {condition})"""


COLUMN_SETTINGS: Final = (
    _column_setting(
        "STORAGE %s",
        "CASE field.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'"
        " WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END",
        "field.attstorage <> field_type.typstorage",
    ),
    _column_setting(
        "COMPRESSION %s",
        "CASE field.attcompression WHEN 'p' THEN 'pglz' ELSE 'lz4' END",
        "field.attcompression <> ''",
    ),
    _column_setting(
        "STATISTICS %s", "field.attstattarget", "COALESCE(field.attstattarget, -1) >= 0"
    ),
    _column_setting(
        "(%s)", option_list("field.attoptions"), f"{option_list('field.attoptions')} IS NOT NULL"
    ),
)

#: An inherited column that is declared not null further down only.
_INHERITED_NOT_NULL: Final = f"""{_ALTER_COLUMN} || (
    SELECT pg_catalog.string_agg(
        pg_catalog.format(' ALTER COLUMN %I SET NOT NULL', field.attname), ', ')
    FROM pg_catalog.pg_attribute AS field
    WHERE field.attrelid = class.oid AND field.attnotnull AND NOT field.attislocal
    AND NOT class.relispartition AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS rule
        WHERE rule.conrelid = class.oid AND rule.contype = 'n'
        AND rule.conkey[1] = field.attnum))"""

_TYPED: Final = f"""{_ALTER_COLUMN} || ' OF '
    || pg_catalog.format_type(NULLIF(class.reloftype, 0), NULL)"""

TABLES: Final = f"""
    SELECT {described("pg_class", "class.oid", "'table'", "class.relname", TABLE)},
        {texts(_TABLE, *COLUMN_SETTINGS, _INHERITED_NOT_NULL, _TYPED)}
    FROM pg_catalog.pg_class AS class
    LEFT JOIN pg_catalog.pg_class AS toast ON toast.oid = class.reltoastrelid
    LEFT JOIN pg_catalog.pg_am AS method ON method.oid = class.relam
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p')
"""
