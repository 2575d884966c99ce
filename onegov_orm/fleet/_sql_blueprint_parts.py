"""The queries that write down what is made of tables, and what belongs to them."""

from __future__ import annotations

from typing import Final

from onegov_orm.fleet._sql_blueprint import (
    COLUMN_SETTINGS,
    DEFAULT,
    FOREIGN_KEY,
    INDEX,
    INDEX_PARTITION,
    NAMESPACE,
    PARTITION,
    POLICY,
    REFRESH,
    SETTING,
    TRIGGER,
    TRIGGER_STATE,
    VIEW,
    described,
    option_list,
    relation,
    texts,
    unqualified,
)

#: What puts a table into the partitioned table that it is a part of.
PARTITIONS: Final = f"""
    SELECT {
    described(
        "pg_inherits",
        "class.oid",
        "'partition'",
        "class.relname",
        PARTITION,
        "CAST(link.inhparent AS pg_catalog.int8), CAST(class.oid AS pg_catalog.int8)",
    )
},
        {
    texts(
        f"'ALTER TABLE ONLY ' || {relation('link.inhparent')} || ' ATTACH PARTITION '"
        " || pg_catalog.quote_ident(class.relname) || ' '"
        " || pg_catalog.pg_get_expr(class.relpartbound, class.oid)"
    )
}
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_inherits AS link ON link.inhrelid = class.oid
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p')
    AND class.relispartition
"""

DEFAULTS: Final = f"""
    SELECT {
    described(
        "pg_attrdef",
        "value.oid",
        "'default of column'",
        "class.relname || '.' || field.attname",
        DEFAULT,
    )
},
        {
    texts(
        "pg_catalog.format('ALTER %s %I ALTER COLUMN %I SET DEFAULT %s',"
        " CASE class.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE ONLY' END, class.relname,"
        " field.attname, pg_catalog.pg_get_expr(value.adbin, value.adrelid))"
    )
}
    FROM pg_catalog.pg_attrdef AS value
    JOIN pg_catalog.pg_class AS class ON class.oid = value.adrelid
    JOIN pg_catalog.pg_attribute AS field ON field.attrelid = value.adrelid
        AND field.attnum = value.adnum
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p', 'v')
    AND field.attgenerated = ''
"""

_VIEW: Final = f"""
    pg_catalog.format('CREATE %s %I%s AS %s%s',
        CASE class.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END, class.relname,
        pg_catalog.concat(' USING ' || pg_catalog.quote_ident(NULLIF(method.amname, 'heap')),
            ' WITH (' || {option_list("class.reloptions")} || ')'),
        pg_catalog.rtrim(pg_catalog.pg_get_viewdef(class.oid), ';'),
        CASE class.relkind WHEN 'm' THEN ' WITH NO DATA' END)
"""

VIEWS: Final = f"""
    SELECT {described("pg_class", "class.oid", "'view'", "class.relname", VIEW)},
        {texts(_VIEW, *COLUMN_SETTINGS)}
    FROM pg_catalog.pg_class AS class
    LEFT JOIN pg_catalog.pg_am AS method ON method.oid = class.relam
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('v', 'm')
"""

#: Materialized views are filled when all that they read is there.
REFRESHES: Final = f"""
    SELECT {
    described(
        "pg_rewrite",
        "class.oid",
        "'rows of materialized view'",
        "class.relname",
        REFRESH,
        "CAST(class.oid AS pg_catalog.int8)",
    )
},
        {texts("pg_catalog.format('REFRESH MATERIALIZED VIEW %I', class.relname)")}
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind = 'm' AND class.relispopulated
"""

#: An index as the server writes it down, without its table's schema.
_INDEX: Final = f"""
    CASE WHEN pg_catalog.strpos(pg_catalog.pg_get_indexdef(class.oid), ' ON ONLY ') > 0
    THEN {
    unqualified(
        "pg_catalog.pg_get_indexdef(class.oid)",
        " ON ONLY ",
        " USING ",
        "namespace.nspname",
        "owner.relname",
    )
}
    ELSE {
    unqualified(
        "pg_catalog.pg_get_indexdef(class.oid)",
        " ON ",
        " USING ",
        "namespace.nspname",
        "owner.relname",
    )
} END
"""

_INDEX_STATISTICS: Final = """
    'ALTER INDEX ' || pg_catalog.quote_ident(class.relname) || (
        SELECT pg_catalog.string_agg(pg_catalog.format(' ALTER COLUMN %s SET STATISTICS %s',
            field.attnum, field.attstattarget), ', ' ORDER BY field.attnum)
        FROM pg_catalog.pg_attribute AS field
        WHERE field.attrelid = class.oid AND COALESCE(field.attstattarget, -1) >= 0)
"""

INDEXES: Final = f"""
    SELECT {described("pg_class", "class.oid", "'index'", "class.relname", INDEX)},
        {texts(_INDEX, _INDEX_STATISTICS)}
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
    JOIN pg_catalog.pg_class AS owner ON owner.oid = index.indrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.relnamespace = {NAMESPACE} AND owner.relkind IN ('r', 'p', 'm')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS rule
        WHERE rule.conindid = class.oid AND rule.contype IN ('p', 'u', 'x'))
"""

#: What puts the index of a partition into that of the partitioned table.
INDEX_PARTITIONS: Final = f"""
    SELECT {
    described("pg_inherits", "class.oid", "'index of partition'", "class.relname", INDEX_PARTITION)
},
        {
    texts(
        f"'ALTER INDEX ' || {relation('link.inhparent')} || ' ATTACH PARTITION '"
        " || pg_catalog.quote_ident(class.relname)"
    )
}
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_inherits AS link ON link.inhrelid = class.oid
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('i', 'I')
"""

_CONSTRAINT: Final = f"""
    pg_catalog.format('ALTER TABLE %s%s ADD CONSTRAINT %I %s',
        CASE WHEN rule.contype IN ('p', 'u', 'x') THEN 'ONLY ' END, {relation("rule.conrelid")},
        rule.conname, pg_catalog.pg_get_constraintdef(rule.oid))
"""

#: Left out are those that come with the table, or with a constraint of its parent's. A constraint
#: that a table has both by itself and from its parent is made there first, and merged then.
CONSTRAINTS: Final = f"""
    SELECT {
    described(
        "pg_constraint",
        "rule.oid",
        "'constraint'",
        "class.relname || '.' || rule.conname",
        INDEX,
    ).replace(f", {INDEX},", f", CASE rule.contype WHEN 'f' THEN {FOREIGN_KEY} ELSE {INDEX} END,")
},
        {texts(_CONSTRAINT)}
    FROM pg_catalog.pg_constraint AS rule
    JOIN pg_catalog.pg_class AS class ON class.oid = rule.conrelid
    LEFT JOIN pg_catalog.pg_constraint AS parent ON parent.oid = rule.conparentid
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p')
    AND CASE
        WHEN rule.contype IN ('p', 'u', 'x') THEN true
        WHEN rule.contype = 'c' THEN rule.conislocal
        WHEN rule.contype = 'f' THEN parent.oid IS NULL OR parent.conrelid <> rule.conrelid
        WHEN rule.contype = 'n' THEN rule.conislocal AND (NOT rule.convalidated OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS field
            WHERE field.attrelid = rule.conrelid AND field.attnum = rule.conkey[1]
            AND (field.attislocal OR class.relispartition)))
        ELSE false END
    ORDER BY (SELECT pg_catalog.count(*) FROM pg_catalog.pg_inherits AS link
        WHERE link.inhrelid = rule.conrelid) DESC
"""

STATISTICS: Final = f"""
    SELECT {
    described("pg_statistic_ext", "statistics.oid", "'statistics'", "statistics.stxname", SETTING)
},
        {
    texts(
        unqualified(
            "pg_catalog.pg_get_statisticsobjdef(statistics.oid)",
            "CREATE STATISTICS ",
            " ",
            "namespace.nspname",
            "statistics.stxname",
        ),
        "CASE WHEN COALESCE(statistics.stxstattarget, -1) >= 0 THEN pg_catalog.format("
        "'ALTER STATISTICS %I SET STATISTICS %s', statistics.stxname,"
        " statistics.stxstattarget) END",
    )
}
    FROM pg_catalog.pg_statistic_ext AS statistics
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = statistics.stxnamespace
    WHERE statistics.stxnamespace = {NAMESPACE}
"""

_REPLICA_IDENTITY: Final = """
    CASE class.relreplident WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL' WHEN 'i' THEN (
        SELECT 'USING INDEX ' || pg_catalog.quote_ident(chosen.relname)
        FROM pg_catalog.pg_index AS index
        JOIN pg_catalog.pg_class AS chosen ON chosen.oid = index.indexrelid
        WHERE index.indrelid = class.oid AND index.indisreplident) END
"""

_CLUSTERED: Final = """
    (SELECT pg_catalog.quote_ident(chosen.relname)
    FROM pg_catalog.pg_index AS index
    JOIN pg_catalog.pg_class AS chosen ON chosen.oid = index.indexrelid
    WHERE index.indrelid = class.oid AND index.indisclustered)
"""

#: What a table is told about its indexes.
SETTINGS: Final = f"""
    SELECT {described("pg_index", "class.oid", "'settings of table'", "class.relname", SETTING)},
        {
    texts(
        "'ALTER TABLE ONLY ' || pg_catalog.quote_ident(class.relname)"
        f" || ' REPLICA IDENTITY ' || {_REPLICA_IDENTITY}",
        "'ALTER ' || CASE class.relkind WHEN 'm' THEN 'MATERIALIZED VIEW ' ELSE 'TABLE ' END"
        f" || pg_catalog.quote_ident(class.relname) || ' CLUSTER ON ' || {_CLUSTERED}",
    )
}
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p', 'm')
"""

TRIGGERS: Final = f"""
    SELECT {
    described(
        "pg_trigger", "hook.oid", "'trigger'", "class.relname || '.' || hook.tgname", TRIGGER
    )
},
        {
    texts(
        unqualified(
            "pg_catalog.pg_get_triggerdef(hook.oid)",
            " ON ",
            " ",
            "namespace.nspname",
            "class.relname",
        )
    )
}
    FROM pg_catalog.pg_trigger AS hook
    JOIN pg_catalog.pg_class AS class ON class.oid = hook.tgrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.relnamespace = {NAMESPACE} AND NOT hook.tgisinternal AND hook.tgparentid = 0
"""


def _state(letter: str) -> str:
    return f"""CASE {letter} WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
        WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END"""


#: Also of those that partitions have from the table that they are a part of.
TRIGGER_STATES: Final = f"""
    SELECT {
    described(
        "pg_depend",
        "hook.oid",
        "'state of trigger'",
        "class.relname || '.' || hook.tgname",
        TRIGGER_STATE,
    )
},
        {
    texts(
        f"pg_catalog.format('ALTER TABLE %I %s TRIGGER %I', class.relname,"
        f" {_state('hook.tgenabled')}, hook.tgname)"
    )
}
    FROM pg_catalog.pg_trigger AS hook
    JOIN pg_catalog.pg_class AS class ON class.oid = hook.tgrelid
    LEFT JOIN pg_catalog.pg_trigger AS parent ON parent.oid = hook.tgparentid
    WHERE class.relnamespace = {NAMESPACE} AND NOT hook.tgisinternal
    AND (hook.tgenabled <> 'O' OR parent.tgenabled <> 'O')
    ORDER BY hook.tgparentid <> 0
"""

RULES: Final = f"""
    SELECT {
    described("pg_rewrite", "rule.oid", "'rule'", "class.relname || '.' || rule.rulename", TRIGGER)
},
        {
    texts(
        "pg_catalog.rtrim("
        + unqualified(
            "pg_catalog.pg_get_ruledef(rule.oid)", " TO ", "", "namespace.nspname", "class.relname"
        )
        + ", ';')",
        "CASE WHEN rule.ev_enabled <> 'O' THEN pg_catalog.format('ALTER TABLE %I %s RULE %I',"
        f" class.relname, {_state('rule.ev_enabled')}, rule.rulename) END",
    )
}
    FROM pg_catalog.pg_rewrite AS rule
    JOIN pg_catalog.pg_class AS class ON class.oid = rule.ev_class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.relnamespace = {NAMESPACE} AND rule.rulename <> '_RETURN'
"""

_POLICY: Final = """
    pg_catalog.format('CREATE POLICY %I ON %I AS %s FOR %s TO %s%s%s', policy.polname,
        class.relname, CASE WHEN policy.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE policy.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
            WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, (
            SELECT pg_catalog.string_agg(CASE member WHEN 0 THEN 'PUBLIC' ELSE
                pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(member)) END, ', ')
            FROM pg_catalog.unnest(policy.polroles) AS member),
        ' USING (' || pg_catalog.pg_get_expr(policy.polqual, policy.polrelid) || ')',
        ' WITH CHECK (' || pg_catalog.pg_get_expr(policy.polwithcheck, policy.polrelid) || ')')
"""

POLICIES: Final = f"""
    SELECT {
    described(
        "pg_policy", "policy.oid", "'policy'", "class.relname || '.' || policy.polname", POLICY
    )
},
        {texts(_POLICY)}
    FROM pg_catalog.pg_policy AS policy
    JOIN pg_catalog.pg_class AS class ON class.oid = policy.polrelid
    WHERE class.relnamespace = {NAMESPACE}
"""

_SECURITY: Final = "'ALTER TABLE ONLY ' || pg_catalog.quote_ident(class.relname)"

ROW_SECURITY: Final = f"""
    SELECT {
    described("pg_policy", "class.oid", "'row security of table'", "class.relname", POLICY)
},
        {
    texts(
        f"CASE WHEN class.relrowsecurity THEN {_SECURITY} || ' ENABLE ROW LEVEL SECURITY' END",
        f"CASE WHEN class.relforcerowsecurity THEN {_SECURITY} || ' FORCE ROW LEVEL SECURITY' END",
    )
}
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p')
    AND (class.relrowsecurity OR class.relforcerowsecurity)
"""
