"""Whether the models of a release fit the tables of a database: its catalogue is read, and nothing else. Stands before project.py in the same script."""

import re
from collections import namedtuple

# A column: its type as the catalogue has it, whether it takes NULL, whether the database fills it in, and whether nobody else may.
Column = namedtuple("Column", "type not_null filled generated")

CATALOGUES = {
    "postgresql": {
        "columns": """SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef OR a.attidentity <> '',
                %s OR a.attidentity = 'a'
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid)
                AND c.relnamespace <> 'pg_catalog'::regnamespace""",
        "uniques": """SELECT c.relname, i.relname, a.attname, x.indpred IS NOT NULL OR x.indexprs IS NOT NULL
            FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
            LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])
            WHERE x.indisunique AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace""",
        "checks": """SELECT c.relname, k.conname, a.attname, k.contype, pg_get_constraintdef(k.oid)
            FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (k.conkey)
            WHERE k.contype IN ('c', 'f', 'x') AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace""",
    },
    "mysql": {
        "columns": """SELECT table_name, column_name, column_type, is_nullable = 'NO', column_default IS NOT NULL OR extra LIKE '%auto_increment%',
                extra LIKE '%GENERATED%' AND extra NOT LIKE '%DEFAULT_GENERATED%'
            FROM information_schema.columns WHERE table_schema = DATABASE()""",
        "uniques": """SELECT table_name, index_name, column_name, column_name IS NULL FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND non_unique = 0""",
        "checks": """SELECT table_name, constraint_name, column_name, 'f', '' FROM information_schema.key_column_usage
            WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL
            UNION ALL SELECT t.table_name, c.constraint_name, NULL, 'c', c.check_clause
            FROM information_schema.check_constraints c JOIN information_schema.table_constraints t
                ON t.constraint_schema = c.constraint_schema AND t.constraint_name = c.constraint_name AND t.constraint_type = 'CHECK' %s
            WHERE c.constraint_schema = DATABASE()""",
    },
}


class Catalogue:
    """Tables with their columns; unique sets of columns by the name of their index; what else is demanded of values, by name."""

    def __init__(self, connection):
        self.columns, self.uniques, self.checks = {}, {}, {}
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                self.of_sqlite(cursor)
            else:
                self.of_server(connection, cursor)

    def of_server(self, connection, cursor):
        questions = CATALOGUES[connection.vendor]
        columns = questions["columns"]
        if connection.vendor == "postgresql":
            columns = columns % ("a.attgenerated <> ''" if connection.pg_version >= 120000 else "false")
        cursor.execute(columns)
        for table, column, kind, not_null, filled, generated in cursor.fetchall():
            self.columns.setdefault(table, {})[column] = Column(kind, bool(not_null), bool(filled), bool(generated))
        cursor.execute(questions["uniques"])
        for table, name, column, partly in cursor.fetchall():
            known = self.uniques.setdefault(table, {}).setdefault(name, [set(), False])
            known[0].update([column] if column else [])
            known[1] = known[1] or bool(partly)
        checks = questions["checks"]
        if connection.vendor == "mysql":
            # Only MariaDB has the table beside the name, which is not the only one there.
            checks = checks % ("AND t.table_name = c.table_name" if connection.mysql_is_mariadb else "")
        cursor.execute(checks)
        for table, name, column, kind, text in cursor.fetchall():
            over, _, _ = self.checks.setdefault(table, {}).setdefault(name, (set(), kind, text))
            over.update([column] if column else [])

    def of_sqlite(self, cursor):
        cursor.execute("SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')")
        for table, kind, sql in cursor.fetchall():
            quoted = '"%s"' % table.replace('"', '""')
            cursor.execute("PRAGMA table_xinfo(%s)" % quoted)
            rows = cursor.fetchall()
            keys = [row for row in rows if row[5]]
            columns = self.columns[table] = {}
            for _, name, declared, not_null, default, key, hidden in rows:
                # The one column of an INTEGER PRIMARY KEY is the number of the row.
                is_rowid = bool(key) and len(keys) == 1 and declared.lower() == "integer"
                columns[name] = Column(declared, bool(not_null), default is not None or is_rowid, hidden in (2, 3))
            if keys:
                self.uniques.setdefault(table, {})["the primary key"] = [{row[1] for row in keys}, False]
            cursor.execute("PRAGMA index_list(%s)" % quoted)
            for _, name, unique, _, partial in [row[:5] for row in cursor.fetchall()]:
                if unique:
                    cursor.execute('PRAGMA index_info("%s")' % name.replace('"', '""'))
                    named = [row[2] for row in cursor.fetchall()]
                    self.uniques.setdefault(table, {})[name] = [{one for one in named if one}, bool(partial) or None in named]
            checks = self.checks.setdefault(table, {})
            cursor.execute("PRAGMA foreign_key_list(%s)" % quoted)
            for row in cursor.fetchall():
                checks["the reference of %s" % row[3]] = ({row[3]}, "f", "")
            for name in re.findall(r'CONSTRAINT\s+"([^"]+)"\s+CHECK', sql or ""):
                checks[name] = (set(), "c", "")
            for name in columns:
                if re.search(r'"%s"\s[^"]*?\bCHECK\s*\(' % re.escape(name), sql or ""):
                    checks["the check of %s" % name] = ({name}, "c", None)


SIZES = {"smallint": 2, "smallserial": 2, "tinyint": 1, "mediumint": 3, "integer": 4, "int": 4, "serial": 4, "bigint": 8, "bigserial": 8}
SAME = {"character varying": "varchar", "character": "char", "citext": "text", "double precision": "double", "numeric": "decimal", "bool": "boolean",
        "timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp", "longtext": "text", "real": "double"}


def kind_of(text, vendor):
    """The family of a type and how much it holds; without a size it holds everything."""
    text = " ".join(text.lower().split())
    text = re.sub(r"\s+(unsigned|auto_increment|generated .*|collate .*|autoincrement)$", "", text)
    found = re.match(r"([a-z][a-z0-9_ ]*?)\s*(?:\(([\d, ]+)\))?((?: with| without) time zone)?$", text)
    if not found:
        return text, None
    name = SAME.get(found[1] + (found[3] or ""), found[1] + (found[3] or ""))
    if vendor == "mysql" and text == "tinyint(1)":
        return "boolean", None
    if name in SIZES:
        return "int", 8 if vendor == "sqlite" else SIZES[name]
    sizes = tuple(int(part) for part in found[2].split(",")) if found[2] else None
    if name in ("varchar", "text"):
        return "text", None if vendor == "sqlite" or not sizes else sizes[0]
    if name == "decimal":
        return "decimal", None if vendor == "sqlite" or not sizes else (sizes[0] - (sizes[1] if len(sizes) > 1 else 0),)
    return name, sizes if name == "char" else None


def plain(check):
    """A check without what servers add to it: quotes, brackets, spaces."""
    return re.sub(r"check|[^a-z0-9_<>=]", "", check.lower())


def is_djangos(connection, field, text):
    """Whether a check of one column is what Django demands of a field of this type; nothing where the text of the check is not known."""
    own = (field.db_parameters(connection) or {}).get("check")
    if connection.vendor == "mysql" and "json_valid" in text:
        return kind_of(field.db_type(connection), "mysql")[0] == "json"
    return bool(own) and (text is None or plain(own) == plain(text))


def less(has, wants):
    """Whether a size is too small for another; nothing is without bounds."""
    return has is not None and (wants is None or has < wants)


def own_uniques(model):
    """The sets of columns whose values the models themselves keep apart."""
    meta = model._meta
    columns = {field.name: field.column for field in meta.local_concrete_fields}
    told = [{field.column} for field in meta.local_concrete_fields if field.unique]
    together = [names for names in meta.unique_together]
    for constraint in meta.constraints:
        if type(constraint).__name__ == "UniqueConstraint" and not getattr(constraint, "condition", None):
            together.append(getattr(constraint, "fields", ()))
    # One over fields of a parent's table is none of this one.
    return told + [{columns[name] for name in names} for names in together if names and all(name in columns for name in names)]


def compared(connection, catalogue, model, broken, writes, unseen):
    meta = model._meta
    table, vendor = meta.db_table, connection.vendor
    if '"' in table or vendor == "postgresql" and "." in table:
        unseen.append("%s (its table %s names a schema)" % (meta.label, table))
        return
    columns = catalogue.columns.get(table)
    if columns is None:
        (broken if meta.managed else unseen).append("the table %s is missing" % table if meta.managed else "%s (not managed)" % meta.label)
        return
    fields = {}
    for field in meta.local_concrete_fields:
        wanted = field.db_type(connection)
        if wanted is None or field.column is None:
            continue
        fields[field.column] = field
        column, place = columns.get(field.column), "%s.%s" % (table, field.column)
        if column is None:
            broken.append("the column %s is missing" % place)
            continue
        (has, holds), (wants, needs) = kind_of(column.type, vendor), kind_of(wanted, vendor)
        if vendor == "mysql" and wants == "json" and has == "text" and connection.mysql_is_mariadb:
            # There JSON is text with a check that has the name of the column.
            has = "json" if field.column in catalogue.checks.get(table, {}) else has
        check = (field.db_parameters(connection) or {}).get("check")
        if has != wants:
            known = {"int", "text", "char", "decimal", "boolean", "date", "datetime", "timestamp", "timestamptz", "time", "double", "uuid", "jsonb", "json",
                     "bytea", "blob", "interval", "inet"}
            if has in known and wants in known or vendor == "sqlite":
                broken.append("the column %s is %s, and the models have %s" % (place, column.type, wanted))
            else:
                unseen.append("the type of %s (%s, and the models have %s)" % (place, column.type, wanted))
        elif less(holds, needs):
            writes.append("the column %s is %s, and the models have %s" % (place, column.type, wanted))
        elif vendor == "sqlite" and check and "JSON" in check and "the check of %s" % field.column not in catalogue.checks.get(table, {}):
            broken.append("the column %s may hold what is no JSON" % place)
        given_by_database = getattr(field, "generated", False) or type(field).__name__.endswith("AutoField")
        if column.generated and not getattr(field, "generated", False) and not type(field).__name__.endswith("AutoField"):
            writes.append("the column %s is generated" % place)
        elif field.null and column.not_null and not field.primary_key:
            writes.append("the column %s takes no NULL" % place)
        elif column.not_null and not column.filled and not column.generated and (given_by_database or uses_db_default(field)):
            writes.append("the column %s has no default" % place)
    if not meta.managed:
        return
    for name, column in columns.items():
        if name not in fields and column.not_null and not column.filled and not column.generated:
            writes.append("the column %s.%s wants a value, and the models do not know it" % (table, name))
    others = {name for name in columns if name not in fields}
    named = {constraint.name for constraint in meta.constraints}
    own = own_uniques(model)
    for name, (together, partly) in catalogue.uniques.get(table, {}).items():
        is_null = any(one in others and not columns[one].not_null and not columns[one].filled for one in together)
        if name in named or is_null or not partly and any(one <= together for one in own):
            continue
        writes.append("the unique index %s of %s is none of the models'" % (name, table))
    for name, (over, kind, text) in catalogue.checks.get(table, {}).items():
        known = [fields[one] for one in over if one in fields]
        if name in named:
            continue
        # A reference is content with no value; a check of a column that the models leave alone may not be.
        if kind == "f" and all(field.remote_field for field in known) and (known or not any(columns[one].filled for one in over if one in columns)):
            continue
        # MariaDB gives the check of a column the name of the column.
        field = known[0] if len(known) == 1 else fields.get(name)
        if kind == "c" and field is not None and is_djangos(connection, field, text):
            continue
        writes.append("%s of %s is none of the models'" % (name if name.startswith("the ") else "the constraint %s" % name, table))


def uses_db_default(field):
    """Whether the database gives the value where the code names none (from Django 5.0 on)."""
    from django.db.models import fields

    default = getattr(field, "db_default", None)
    return default is not None and default is not getattr(fields, "NOT_PROVIDED", None)


def contract_of(connection, models):
    """What of the models the database does not hold, what of it they cannot write, and what was not looked at."""
    broken, writes, unseen = [], [], []
    if connection.vendor not in ("postgresql", "sqlite", "mysql"):
        return {"looked_at": 0, "broken": [], "writes": [], "unseen": ["a database of %s" % connection.display_name]}
    catalogue, seen = Catalogue(connection), set()
    for model in models:
        if model._meta.proxy or model._meta.swapped or model._meta.db_table in seen:
            continue
        seen.add(model._meta.db_table)
        compared(connection, catalogue, model, broken, writes, unseen)
    return {"looked_at": len(seen), "broken": broken, "writes": writes, "unseen": unseen}


def contract_of_project(connections, alias):
    """The same for all models of the project that belong into a database."""
    from django.apps import apps
    from django.db import router

    models = [model for model in apps.get_models(include_auto_created=True) if router.allow_migrate_model(alias, model)]
    return contract_of(connections[alias], models)
