"""What is told about the objects of a schema that hang on no table: functions and the like."""

from __future__ import annotations

from typing import Final

from onegov_orm.fleet._sql_fingerprints_objects import is_own, name_of, objects


def _pattern(name: str) -> str:
    """Return a regular expression for a name, as it is or in quotes."""
    escaped = rf"""pg_catalog.regexp_replace(pg_catalog.replace(
        CAST({name} AS text), '"', '""'), '(\W)', '\\\1', 'g')"""
    return f"""'"?' || {escaped} || '"?'"""


#: The body of a function, which is a text that may name its own schema: it is left away in front
#: of what the schema holds. A table's alias may be called like the schema, so that only those
#: words count. Few bodies get as far as the slow part.
_BODY: Final = rf"""
    CASE WHEN pg_catalog.strpos(prosrc, pg_catalog.replace(wanted.schema, '"', '""')) > 0
    THEN pg_catalog.regexp_replace(prosrc,
        '(?<![\w$".])' || {_pattern("wanted.schema")} || '\.(?=(' || (
            SELECT pg_catalog.string_agg({_pattern("held.name")}, '|') FROM (
                SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = wanted.namespace
                UNION SELECT typname FROM pg_catalog.pg_type
                WHERE typnamespace = wanted.namespace
                UNION SELECT other.proname FROM pg_catalog.pg_proc AS other
                WHERE other.pronamespace = wanted.namespace
            ) AS held(name)
        ) || ')(?![\w$"]))', '', 'g')
    ELSE prosrc END"""

#: The settings of a function; in its search path, its own schema is "$own".
_SETTINGS: Final = r"""(
        SELECT pg_catalog.string_agg(CASE WHEN setting NOT LIKE 'search\_path=%' THEN setting
            ELSE 'search_path=' || (
                SELECT pg_catalog.string_agg(
                    CASE WHEN entry IN (wanted.schema, pg_catalog.quote_ident(wanted.schema),
                            '"' || wanted.schema || '"') THEN '"$own"' ELSE entry END, ', '
                    ORDER BY number)
                FROM pg_catalog.regexp_split_to_table(
                    pg_catalog.substr(setting, 13), ',\s*') WITH ORDINALITY AS path(entry, number))
            END, '; ' ORDER BY setting COLLATE "C")
        FROM unnest(proconfig) AS setting)"""

_AGGREGATE: Final = f"""(
        SELECT pg_catalog.concat_ws(' ', 'AGGREGATE', aggkind, aggnumdirectargs,
            {name_of("regprocedure", "CAST(aggtransfn AS oid)")},
            {name_of("regtype", "aggtranstype")}, aggtransspace,
            'FINAL ' || {name_of("regprocedure", "CAST(aggfinalfn AS oid)")},
            aggfinalextra, aggfinalmodify,
            'COMBINE ' || {name_of("regprocedure", "CAST(aggcombinefn AS oid)")},
            'SERIAL ' || {name_of("regprocedure", "CAST(aggserialfn AS oid)")},
            'DESERIAL ' || {name_of("regprocedure", "CAST(aggdeserialfn AS oid)")},
            'MOVING ' || {name_of("regprocedure", "CAST(aggmtransfn AS oid)")},
            {name_of("regprocedure", "CAST(aggminvtransfn AS oid)")},
            {name_of("regprocedure", "CAST(aggmfinalfn AS oid)")},
            {name_of("regtype", "aggmtranstype")},
            'SORT ' || {name_of("regoperator", "aggsortop")},
            'INITIAL ' || pg_catalog.quote_literal(agginitval),
            pg_catalog.quote_literal(aggminitval))
        FROM pg_catalog.pg_aggregate WHERE aggfnoid = function.oid)"""

# Those that a range type brings along are left out together with what extensions bring.
_FUNCTIONS: Final = objects(
    """CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END""",
    """pg_catalog.quote_ident(proname) || '('
        || pg_catalog.pg_get_function_identity_arguments(function.oid) || ')'""",
    f"""
        CASE prokind WHEN 'w' THEN 'WINDOW' END,
        '(' || pg_catalog.pg_get_function_arguments(function.oid) || ')',
        'RETURNS ' || pg_catalog.pg_get_function_result(function.oid),
        'LANGUAGE ' || lanname,
        CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' END,
        CASE WHEN proisstrict THEN 'STRICT' END, CASE WHEN proleakproof THEN 'LEAKPROOF' END,
        CASE WHEN prosecdef THEN 'SECURITY DEFINER' END,
        'PARALLEL ' || NULLIF(CAST(proparallel AS text), 'u'),
        'COST ' || procost, 'ROWS ' || NULLIF(prorows, 0),
        'SUPPORT ' || {name_of("regprocedure", "CAST(prosupport AS oid)")},
        'TRANSFORM ' || CAST(CAST(protrftypes AS pg_catalog.regtype[]) AS text),
        'WITH ' || {_SETTINGS}, {_AGGREGATE}, 'IN ' || probin,
        CASE WHEN prokind <> 'a' THEN 'AS ' || COALESCE(
            pg_catalog.pg_get_function_sqlbody(function.oid), {_BODY}) END""",
    f"""wanted JOIN pg_catalog.pg_proc AS function ON pronamespace = wanted.namespace
    JOIN pg_catalog.pg_language AS language ON language.oid = prolang
    WHERE {is_own("pg_proc", "function.oid", "'e', 'i'")}""",
    "pg_proc",
    "function.oid",
    schema="wanted",
    owner="proowner",
    acl="proacl",
    acl_kind="'f'",
)

_OPERATORS: Final = objects(
    "'operator'",
    f"""pg_catalog.concat(oprname, '(', COALESCE({name_of("regtype", "oprleft")}, 'NONE'), ', ',
        {name_of("regtype", "oprright")}, ')')""",
    f"""{name_of("regprocedure", "CAST(oprcode AS oid)")},
        'COMMUTATOR ' || {name_of("regoperator", "oprcom")},
        'NEGATOR ' || {name_of("regoperator", "oprnegate")},
        'RESTRICT ' || {name_of("regprocedure", "CAST(oprrest AS oid)")},
        'JOIN ' || {name_of("regprocedure", "CAST(oprjoin AS oid)")},
        CASE WHEN oprcanhash THEN 'HASHES' END, CASE WHEN oprcanmerge THEN 'MERGES' END""",
    f"""wanted JOIN pg_catalog.pg_operator AS operator ON oprnamespace = wanted.namespace
    WHERE {is_own("pg_operator", "operator.oid")}""",
    "pg_operator",
    "operator.oid",
    schema="wanted",
    owner="oprowner",
)

# The version of a collation's library is what the server's machine has, not the schema.
_COLLATIONS: Final = objects(
    "'collation'",
    "pg_catalog.quote_ident(collname)",
    """collprovider, pg_catalog.quote_literal(collcollate), pg_catalog.quote_literal(collctype),
        pg_catalog.quote_literal(COALESCE(pg_catalog.to_jsonb(collation_row) ->> 'colllocale',
            pg_catalog.to_jsonb(collation_row) ->> 'colliculocale')),
        'RULES ' || (pg_catalog.to_jsonb(collation_row) ->> 'collicurules'),
        CASE WHEN NOT collisdeterministic THEN 'NOT DETERMINISTIC' END""",
    f"""wanted JOIN pg_catalog.pg_collation AS collation_row ON collnamespace = wanted.namespace
    WHERE {is_own("pg_collation", "collation_row.oid")}""",
    "pg_collation",
    "collation_row.oid",
    schema="wanted",
    owner="collowner",
)

_SEARCH_DICTIONARIES: Final = objects(
    "'text search dictionary'",
    "pg_catalog.quote_ident(dictname)",
    """(SELECT tmplname FROM pg_catalog.pg_ts_template AS template
         WHERE template.oid = dicttemplate), 'OPTIONS ' || dictinitoption""",
    f"""wanted JOIN pg_catalog.pg_ts_dict AS dictionary ON dictnamespace = wanted.namespace
    WHERE {is_own("pg_ts_dict", "dictionary.oid")}""",
    "pg_ts_dict",
    "dictionary.oid",
    schema="wanted",
    owner="dictowner",
)

_SEARCH_CONFIGURATIONS: Final = objects(
    "'text search configuration'",
    "pg_catalog.quote_ident(cfgname)",
    f"""(SELECT prsname FROM pg_catalog.pg_ts_parser AS parser WHERE parser.oid = cfgparser),
        (SELECT pg_catalog.string_agg(pg_catalog.concat(maptokentype, ' ',
                {name_of("regdictionary", "mapdict")}), ', ' ORDER BY maptokentype, mapseqno)
         FROM pg_catalog.pg_ts_config_map WHERE mapcfg = configuration.oid)""",
    f"""wanted JOIN pg_catalog.pg_ts_config AS configuration ON cfgnamespace = wanted.namespace
    WHERE {is_own("pg_ts_config", "configuration.oid")}""",
    "pg_ts_config",
    "configuration.oid",
    schema="wanted",
    owner="cfgowner",
)

_OPERATOR_CLASSES: Final = objects(
    "'operator class'",
    "pg_catalog.quote_ident(opcname) || ' USING ' || amname",
    f"""'FOR ' || {name_of("regtype", "opcintype")}, CASE WHEN opcdefault THEN 'DEFAULT' END,
        'STORAGE ' || {name_of("regtype", "opckeytype")},
        (SELECT pg_catalog.string_agg(pg_catalog.concat(amopstrategy, ' ',
                {name_of("regoperator", "amopopr")}), ', '
                ORDER BY amopstrategy, {name_of("regoperator", "amopopr")} COLLATE "C")
         FROM pg_catalog.pg_amop WHERE amopfamily = opcfamily),
        (SELECT pg_catalog.string_agg(pg_catalog.concat(amprocnum, ' ',
                {name_of("regprocedure", "CAST(pg_amproc.amproc AS oid)")}), ', '
                ORDER BY amprocnum, {name_of("regprocedure", "CAST(pg_amproc.amproc AS oid)")}
                COLLATE "C")
         FROM pg_catalog.pg_amproc WHERE amprocfamily = opcfamily)""",
    f"""wanted JOIN pg_catalog.pg_opclass AS class ON opcnamespace = wanted.namespace
    JOIN pg_catalog.pg_am AS method ON method.oid = opcmethod
    WHERE {is_own("pg_opclass", "class.oid")}""",
    "pg_opclass",
    "class.oid",
    schema="wanted",
    owner="opcowner",
)

# A schema's comment is its mark, and its owner the one that others are compared with.
_SCHEMA: Final = objects(
    "'schema'",
    "''",
    "NULL",
    "wanted",
    "pg_namespace",
    "CAST(0 AS oid)",
    schema="wanted",
    acl="wanted.nspacl",
    acl_kind="'n'",
)

_DEFAULT_PRIVILEGES: Final = objects(
    "'default privileges'",
    """pg_catalog.concat_ws(' by ', defaclobjtype, CASE WHEN defaclrole <> wanted.nspowner
        THEN pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(defaclrole)) END)""",
    "NULL",
    "wanted JOIN pg_catalog.pg_default_acl AS preset ON defaclnamespace = wanted.namespace",
    "pg_default_acl",
    "preset.oid",
    schema="wanted",
    owner="defaclrole",
    acl="defaclacl",
)

#: One query for each kind of objects that hang on no table.
OTHERS: Final = {
    "functions": _FUNCTIONS,
    "others": f"""{_OPERATORS} UNION ALL {_OPERATOR_CLASSES} UNION ALL {_COLLATIONS}
        UNION ALL {_SEARCH_DICTIONARIES} UNION ALL {_SEARCH_CONFIGURATIONS}
        UNION ALL {_SCHEMA} UNION ALL {_DEFAULT_PRIVILEGES}""",
}
