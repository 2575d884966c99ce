"""The queries for comments, privileges, owners and dependencies, and for what can't be copied."""

from __future__ import annotations

from typing import Final

from onegov_orm.fleet._sql_blueprint import NAMESPACE, class_of, relation

#: The oid of a schema.
SCHEMA_OID: Final = """
    SELECT CAST(oid AS pg_catalog.int8) FROM pg_catalog.pg_namespace
    WHERE nspname = CAST(:schema AS pg_catalog.text)
"""

#: Whatever belongs to the schema, as the server's dependencies name it.
_OWN: Final = f"""
    own(classid, objid) AS MATERIALIZED (
        SELECT {class_of("pg_class")}, oid FROM pg_catalog.pg_class
        WHERE relnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_type")}, oid FROM pg_catalog.pg_type
        WHERE typnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_proc")}, oid FROM pg_catalog.pg_proc
        WHERE pronamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_constraint")}, oid FROM pg_catalog.pg_constraint
        WHERE connamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_statistic_ext")}, oid FROM pg_catalog.pg_statistic_ext
        WHERE stxnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_attrdef")}, part.oid FROM pg_catalog.pg_attrdef AS part
        JOIN pg_catalog.pg_class AS class ON class.oid = part.adrelid
        WHERE class.relnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_trigger")}, part.oid FROM pg_catalog.pg_trigger AS part
        JOIN pg_catalog.pg_class AS class ON class.oid = part.tgrelid
        WHERE class.relnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_rewrite")}, part.oid FROM pg_catalog.pg_rewrite AS part
        JOIN pg_catalog.pg_class AS class ON class.oid = part.ev_class
        WHERE class.relnamespace = {NAMESPACE}
        UNION ALL SELECT {class_of("pg_policy")}, part.oid FROM pg_catalog.pg_policy AS part
        JOIN pg_catalog.pg_class AS class ON class.oid = part.polrelid
        WHERE class.relnamespace = {NAMESPACE}
    )
"""

#: On what the objects of the schema depend: catalog and oid of both, and how.
DEPENDENCIES: Final = f"""
    WITH {_OWN}
    SELECT CAST(dependency.classid AS pg_catalog.int8), CAST(dependency.objid AS pg_catalog.int8),
        CAST(dependency.refclassid AS pg_catalog.int8),
        CAST(dependency.refobjid AS pg_catalog.int8), CAST(dependency.deptype AS pg_catalog.text),
        dependency.classid = {class_of("pg_type")},
        dependency.classid = {class_of("pg_constraint")}
    FROM own JOIN pg_catalog.pg_depend AS dependency USING (classid, objid)
    ORDER BY dependency.deptype DESC
"""

#: The extensions that the objects of the schema need, and where they live.
EXTENSIONS: Final = f"""
    WITH {_OWN}, needed AS MATERIALIZED (
        SELECT DISTINCT dependency.refclassid, dependency.refobjid
        FROM own JOIN pg_catalog.pg_depend AS dependency USING (classid, objid)
    )
    SELECT DISTINCT CAST(extension.extname AS pg_catalog.text),
        CAST(home.nspname AS pg_catalog.text)
    FROM needed CROSS JOIN LATERAL (
        SELECT member.refobjid AS oid FROM pg_catalog.pg_depend AS member
        WHERE member.classid = needed.refclassid AND member.objid = needed.refobjid
        AND member.deptype = 'e'
        -- One look at an index for each, whatever the planner makes of the numbers.
        OFFSET 0
    ) AS found
    JOIN pg_catalog.pg_extension AS extension ON extension.oid = found.oid
    JOIN pg_catalog.pg_namespace AS home ON home.oid = extension.extnamespace
    WHERE extension.extname <> 'plpgsql'
    ORDER BY 1
"""

#: What in the schema depends on something in another schema: both in words.
REFERENCES: Final = f"""
    WITH {_OWN}, other(classid, objid) AS MATERIALIZED (
        SELECT {class_of("pg_class")}, oid FROM pg_catalog.pg_class
        WHERE relnamespace = CAST(:other AS pg_catalog.oid)
        UNION ALL SELECT {class_of("pg_type")}, oid FROM pg_catalog.pg_type
        WHERE typnamespace = CAST(:other AS pg_catalog.oid)
        UNION ALL SELECT {class_of("pg_proc")}, oid FROM pg_catalog.pg_proc
        WHERE pronamespace = CAST(:other AS pg_catalog.oid)
        UNION ALL SELECT {class_of("pg_constraint")}, oid FROM pg_catalog.pg_constraint
        WHERE connamespace = CAST(:other AS pg_catalog.oid)
        UNION ALL SELECT {class_of("pg_namespace")}, CAST(:other AS pg_catalog.oid)
    )
    SELECT pg_catalog.pg_describe_object(
            dependency.classid, dependency.objid, dependency.objsubid),
        pg_catalog.pg_describe_object(
            dependency.refclassid, dependency.refobjid, dependency.refobjsubid)
    FROM own JOIN pg_catalog.pg_depend AS dependency USING (classid, objid)
    JOIN other ON other.classid = dependency.refclassid AND other.objid = dependency.refobjid
    ORDER BY 1, 2
"""


def _strangers(kind: str, catalog: str, name: str, namespace: str) -> str:
    return f"""
        UNION ALL SELECT '{kind}', {name} FROM pg_catalog.{catalog}
        WHERE {namespace} = {NAMESPACE}"""


#: What can't be written down as statements: kind and name.
UNCLONEABLE: Final = (
    f"""
    SELECT 'foreign table', CAST(class.relname AS pg_catalog.text)
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace = {NAMESPACE} AND class.relkind = 'f'
    UNION ALL SELECT 'base type', type.typname FROM pg_catalog.pg_type AS type
    WHERE type.typnamespace = {NAMESPACE} AND type.typtype IN ('b', 'p') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_type AS item WHERE item.typarray = type.oid)
    UNION ALL SELECT 'range type with a canonical function', type.typname
    FROM pg_catalog.pg_type AS type JOIN pg_catalog.pg_range ON rngtypid = type.oid
    WHERE type.typnamespace = {NAMESPACE} AND rngcanonical <> 0
    UNION ALL SELECT DISTINCT 'extension', extension.extname
    FROM pg_catalog.pg_extension AS extension
    WHERE extension.extnamespace = {NAMESPACE} OR extension.oid IN (
        SELECT member.refobjid FROM pg_catalog.pg_depend AS member
        JOIN pg_catalog.pg_class AS class ON class.oid = member.objid
        WHERE member.classid = {class_of("pg_class")} AND member.deptype = 'e'
        AND class.relnamespace = {NAMESPACE})
    UNION ALL SELECT 'cast', pg_catalog.format_type(castsource, NULL) || ' AS '
        || pg_catalog.format_type(casttarget, NULL)
    FROM pg_catalog.pg_cast WHERE EXISTS (
        SELECT FROM pg_catalog.pg_type AS type WHERE type.typnamespace = {NAMESPACE}
        AND type.oid IN (castsource, casttarget)) AND castmethod <> 'i' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_range WHERE rngtypid = castsource AND rngmultitypid = casttarget)
    UNION ALL SELECT 'transform', pg_catalog.format_type(type.oid, NULL)
    FROM pg_catalog.pg_transform JOIN pg_catalog.pg_type AS type ON type.oid = trftype
    WHERE type.typnamespace = {NAMESPACE}
    UNION ALL SELECT 'security label', {relation("label.objoid")}
    FROM pg_catalog.pg_seclabel AS label JOIN pg_catalog.pg_class AS class
        ON class.oid = label.objoid AND label.classoid = {class_of("pg_class")}
    WHERE class.relnamespace = {NAMESPACE}
    UNION ALL SELECT 'partition in another schema than its table', {relation("child.oid")}
    FROM pg_catalog.pg_inherits AS link
    JOIN pg_catalog.pg_class AS child ON child.oid = link.inhrelid
    JOIN pg_catalog.pg_class AS parent ON parent.oid = link.inhparent
    WHERE child.relispartition AND child.relnamespace <> parent.relnamespace
    AND {NAMESPACE} IN (child.relnamespace, parent.relnamespace)
    UNION ALL SELECT DISTINCT 'table with inherited columns behind its own', child.relname
    FROM pg_catalog.pg_class AS child
    JOIN pg_catalog.pg_attribute AS own ON own.attrelid = child.oid AND own.attinhcount = 0
        AND own.attnum > 0 AND NOT own.attisdropped
    JOIN pg_catalog.pg_attribute AS inherited ON inherited.attrelid = child.oid
        AND inherited.attinhcount > 0 AND NOT inherited.attisdropped
        AND inherited.attnum > own.attnum
    WHERE child.relnamespace = {NAMESPACE} AND child.relkind IN ('r', 'p')
    AND NOT child.relispartition"""
    + _strangers("operator", "pg_operator", "oprname", "oprnamespace")
    + _strangers("operator class", "pg_opclass", "opcname", "opcnamespace")
    + _strangers("operator family", "pg_opfamily", "opfname", "opfnamespace")
    + _strangers("collation", "pg_collation", "collname", "collnamespace")
    + _strangers("conversion", "pg_conversion", "conname", "connamespace")
    + _strangers("text search configuration", "pg_ts_config", "cfgname", "cfgnamespace")
    + _strangers("text search dictionary", "pg_ts_dict", "dictname", "dictnamespace")
    + _strangers("text search parser", "pg_ts_parser", "prsname", "prsnamespace")
    + _strangers("text search template", "pg_ts_template", "tmplname", "tmplnamespace")
    + " ORDER BY 1, 2"
)

_RELATION_WORD: Final = """
    CASE class.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S'
    THEN 'SEQUENCE' WHEN 'i' THEN 'INDEX' WHEN 'I' THEN 'INDEX' ELSE 'TABLE' END
"""

#: With an aggregate's arguments, which only statements about aggregates understand.
_ROUTINE: Final = """
    pg_catalog.format('%s %I(%s)', CASE proc.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'ROUTINE' END,
        proc.proname, COALESCE(
        NULLIF(pg_catalog.pg_get_function_identity_arguments(proc.oid), ''),
        CASE proc.prokind WHEN 'a' THEN '*' END))
"""


def _comments(catalog: str, alias: str, target: str, source: str, part: str = "= 0") -> str:
    return f"""
        SELECT {target}, description.description
        FROM pg_catalog.{catalog} AS {alias} {source}
        AND description.classoid = {class_of(catalog)} AND description.objsubid {part}"""


def _of_table(alias: str, owner: str, word: str, name: str) -> tuple[str, str, str, str]:
    catalog = f"pg_{word.lower()}" if word != "RULE" else "pg_rewrite"
    target = f"pg_catalog.format('{word} %I ON %I', {alias}.{name}, class.relname)"
    source = f"""
        JOIN pg_catalog.pg_class AS class ON class.oid = {alias}.{owner}
        JOIN pg_catalog.pg_description AS description ON description.objoid = {alias}.oid
        WHERE class.relnamespace = {NAMESPACE}"""
    return catalog, alias, target, source


def _of_schema(alias: str, namespace: str) -> str:
    return f"""
        JOIN pg_catalog.pg_description AS description ON description.objoid = {alias}.oid
        WHERE {alias}.{namespace} = {NAMESPACE}"""


#: What is commented, as the statement names it, and the comment.
COMMENTS: Final = (
    " UNION ALL ".join(
        (
            _comments(
                "pg_class",
                "class",
                f"pg_catalog.format('%s %I', {_RELATION_WORD}, class.relname)",
                _of_schema("class", "relnamespace"),
            ),
            _comments(
                "pg_class",
                "class",
                "pg_catalog.format('COLUMN %I.%I', class.relname, field.attname)",
                """JOIN pg_catalog.pg_attribute AS field ON field.attrelid = class.oid
                JOIN pg_catalog.pg_description AS description ON description.objoid = class.oid
                    AND description.objsubid = field.attnum"""
                f" WHERE class.relnamespace = {NAMESPACE}",
                part="> 0",
            ),
            _comments(
                "pg_type",
                "type",
                "pg_catalog.format('%s %I', CASE type.typtype WHEN 'd' THEN 'DOMAIN'"
                " ELSE 'TYPE' END, type.typname)",
                _of_schema("type", "typnamespace"),
            ),
            _comments(
                "pg_constraint",
                "rule",
                "pg_catalog.format('CONSTRAINT %I ON DOMAIN %I', rule.conname, type.typname)",
                f"""JOIN pg_catalog.pg_type AS type ON type.oid = rule.contypid
                JOIN pg_catalog.pg_description AS description ON description.objoid = rule.oid
                WHERE type.typnamespace = {NAMESPACE}""",
            ),
            _comments(
                "pg_proc",
                "proc",
                _ROUTINE,
                _of_schema("proc", "pronamespace"),
            ),
            _comments(
                "pg_statistic_ext",
                "statistics",
                "pg_catalog.format('STATISTICS %I', statistics.stxname)",
                _of_schema("statistics", "stxnamespace"),
            ),
            _comments(*_of_table("rule", "conrelid", "CONSTRAINT", "conname")),
            _comments(*_of_table("hook", "tgrelid", "TRIGGER", "tgname")),
            _comments(*_of_table("rule", "ev_class", "RULE", "rulename")),
            _comments(*_of_table("policy", "polrelid", "POLICY", "polname")),
        )
    )
    + " ORDER BY 1"
)

#: Objects with privileges: where, what it is called in a statement, owner and privileges.
_GRANTED: Final = f"""
    granted AS (
        SELECT pg_catalog.format('%s %I', CASE class.relkind WHEN 'S' THEN 'SEQUENCE'
                ELSE 'TABLE' END, class.relname) AS target,
            class.relowner AS owner, class.relacl AS acl, CAST(NULL AS pg_catalog.text) AS columns
        FROM pg_catalog.pg_class AS class
        WHERE class.relnamespace = {NAMESPACE} AND class.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL SELECT pg_catalog.format('TABLE %I', class.relname), class.relowner,
            field.attacl, pg_catalog.quote_ident(field.attname)
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_attribute AS field ON field.attrelid = class.oid
        WHERE class.relnamespace = {NAMESPACE} AND NOT field.attisdropped
        UNION ALL SELECT 'ROUTINE '
            || CAST(CAST(proc.oid AS pg_catalog.regprocedure) AS pg_catalog.text), proc.proowner,
            proc.proacl, NULL
        FROM pg_catalog.pg_proc AS proc
        WHERE proc.pronamespace = {NAMESPACE}
        UNION ALL SELECT pg_catalog.format('TYPE %I', type.typname), type.typowner,
            type.typacl, NULL
        FROM pg_catalog.pg_type AS type
        WHERE type.typnamespace = {NAMESPACE}
    )
"""

#: An object, the columns if it is about some, who gets the privileges (null: everybody), whether
#: that is the owner, which privileges, and whether they may be passed on. Nobody gets anything in
#: a row without privileges, which stands for an object that nobody may use.
PRIVILEGES: Final = f"""
    WITH {_GRANTED}
    SELECT granted.target, granted.columns,
        CASE WHEN item.grantee <> 0
            THEN CAST(pg_catalog.pg_get_userbyid(item.grantee) AS pg_catalog.text) END,
        COALESCE(item.grantee = granted.owner, false),
        pg_catalog.string_agg(item.privilege_type, ', ' ORDER BY item.privilege_type),
        COALESCE(item.is_grantable, false)
    FROM granted
    LEFT JOIN LATERAL pg_catalog.aclexplode(granted.acl) AS item ON true
    WHERE granted.acl IS NOT NULL
    GROUP BY granted.target, granted.columns, item.grantee, granted.owner, item.is_grantable
    ORDER BY 1, 2 NULLS FIRST, 3 NULLS FIRST, 6
"""

#: The same for the schema itself.
SCHEMA_PRIVILEGES: Final = """
    SELECT CAST('' AS pg_catalog.text), CAST(NULL AS pg_catalog.text), CASE WHEN item.grantee <> 0
            THEN CAST(pg_catalog.pg_get_userbyid(item.grantee) AS pg_catalog.text) END,
        COALESCE(item.grantee = schema.nspowner, false),
        pg_catalog.string_agg(item.privilege_type, ', ' ORDER BY item.privilege_type),
        COALESCE(item.is_grantable, false)
    FROM pg_catalog.pg_namespace AS schema
    LEFT JOIN LATERAL pg_catalog.aclexplode(schema.nspacl) AS item ON true
    WHERE schema.oid = CAST(:namespace AS pg_catalog.oid) AND schema.nspacl IS NOT NULL
    GROUP BY item.grantee, schema.nspowner, item.is_grantable
    ORDER BY 3 NULLS FIRST, 6
"""

#: Privileges on what will be made: by whom (null: the schema's owner), on what, and as above.
DEFAULT_PRIVILEGES: Final = """
    SELECT CASE WHEN usual.defaclrole <> schema.nspowner
            THEN CAST(pg_catalog.pg_get_userbyid(usual.defaclrole) AS pg_catalog.text) END,
        CASE usual.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
            WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END,
        CASE WHEN item.grantee <> 0
            THEN CAST(pg_catalog.pg_get_userbyid(item.grantee) AS pg_catalog.text) END,
        item.grantee = schema.nspowner,
        pg_catalog.string_agg(item.privilege_type, ', ' ORDER BY item.privilege_type),
        item.is_grantable
    FROM pg_catalog.pg_default_acl AS usual
    JOIN pg_catalog.pg_namespace AS schema ON schema.oid = usual.defaclnamespace
    CROSS JOIN LATERAL pg_catalog.aclexplode(usual.defaclacl) AS item
    WHERE schema.oid = CAST(:namespace AS pg_catalog.oid)
    GROUP BY usual.defaclrole, schema.nspowner, usual.defaclobjtype, item.grantee,
        item.is_grantable
    ORDER BY 1 NULLS FIRST, 2, 3 NULLS FIRST, 6
"""

#: The objects that have an owner, as a statement names them, and the owners; first the schema
#: itself, which has no name here.
OWNERS: Final = f"""
    SELECT '', CAST(pg_catalog.pg_get_userbyid(schema.nspowner) AS pg_catalog.text)
    FROM pg_catalog.pg_namespace AS schema WHERE schema.oid = {NAMESPACE}
    UNION ALL SELECT pg_catalog.format('%s %I', {_RELATION_WORD}, class.relname),
        CAST(pg_catalog.pg_get_userbyid(class.relowner) AS pg_catalog.text)
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace = {NAMESPACE} AND (class.relkind IN ('r', 'p', 'v', 'm')
        OR class.relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend AS dependency
            WHERE dependency.classid = {class_of("pg_class")} AND dependency.objid = class.oid
            AND dependency.deptype IN ('a', 'i')))
    UNION ALL SELECT {_ROUTINE},
        CAST(pg_catalog.pg_get_userbyid(proc.proowner) AS pg_catalog.text)
    FROM pg_catalog.pg_proc AS proc
    WHERE proc.pronamespace = {NAMESPACE} AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS dependency
        WHERE dependency.classid = {class_of("pg_proc")} AND dependency.objid = proc.oid
        AND dependency.deptype = 'i')
    UNION ALL SELECT pg_catalog.format('TYPE %I', type.typname),
        CAST(pg_catalog.pg_get_userbyid(type.typowner) AS pg_catalog.text)
    FROM pg_catalog.pg_type AS type
    LEFT JOIN pg_catalog.pg_class AS class ON class.oid = type.typrelid
    WHERE type.typnamespace = {NAMESPACE}
    AND (type.typtype IN ('e', 'd', 'r') OR class.relkind = 'c')
    UNION ALL SELECT pg_catalog.format('STATISTICS %I', statistics.stxname),
        CAST(pg_catalog.pg_get_userbyid(statistics.stxowner) AS pg_catalog.text)
    FROM pg_catalog.pg_statistic_ext AS statistics
    WHERE statistics.stxnamespace = {NAMESPACE}
    ORDER BY 1
"""
