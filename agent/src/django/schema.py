"""How the databases of a project and its code stand to each other. Stands before project.py in the same script."""

import os
import re
import traceback
import weakref


def sql_of(operation):
    """The text of an operation that is plain SQL."""
    sql = getattr(operation, "sql", None)
    parts = [sql] if isinstance(sql, str) else sql if isinstance(sql, (list, tuple)) else []
    return "\n".join(str(part[0]) if isinstance(part, (list, tuple)) and part else str(part) for part in parts)


def database_operations(operations):
    for operation in operations:
        if hasattr(operation, "database_operations"):
            yield from database_operations(operation.database_operations)
        else:
            yield operation


def is_concurrent(operation):
    """Whether it builds or drops an index beside those who write, for which it waits."""
    return type(operation).__name__.endswith("Concurrently") or "concurrently" in sql_of(operation).lower()


def why_it_may_leave_something(connection, migration):
    """Why a migration that fails may leave a part of what it does in the database; nothing where it cannot."""
    if not any(True for _ in database_operations(migration.operations)):
        return None
    # Django's own word for it: the backend, or one that was put in its place, decides what is one transaction.
    if connection.schema_editor(atomic=migration.atomic).atomic_migration:
        return None
    return "is not atomic" if not migration.atomic else "is on %s, which does not roll a changed table back" % connection.display_name


def index_of(operation):
    """The names of the index that an operation makes, and of the one that it drops."""
    made = getattr(operation, "index", None) or getattr(operation, "constraint", None)
    drops = type(operation).__name__.startswith("Remove")
    return None if drops else getattr(made, "name", None), getattr(operation, "name", None) if drops else None


def invalid_indexes(connection, version, plan, label):
    """The indexes that an interrupted build has left, each with the migration to be applied that would make it."""
    if connection.vendor != "postgresql":
        return []
    being_built = "AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) " if version >= 120000 else ""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT n.nspname, c.relname, t.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                "JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%' " + being_built + "ORDER BY 1, 2"
            )
            rows = cursor.fetchall()
    except Exception:
        # What only calls itself PostgreSQL may have no such tables.
        return []
    told = []
    for namespace, index, table in rows:
        quoted = connection.ops.quote_name
        made_by = None
        for migration in plan:
            for operation in database_operations(migration.operations):
                text = sql_of(operation)
                named = re.search(r"\b%s\b" % re.escape(index), text) is not None
                makes, drops = index_of(operation)
                if drops == index or named and re.search(r"\bdrop\s+index\b", text, re.I):
                    break
                if makes == index or named and re.search(r"\bcreate\s+(unique\s+)?index\b", text, re.I):
                    made_by = label(migration.app_label, migration.name)
                    break
            else:
                continue
            break
        told.append({
            "index": index,
            "table": table,
            "drop": "DROP INDEX CONCURRENTLY %s.%s" % (quoted(namespace), quoted(index)),
            "made_by": made_by,
        })
    return told


def receivers():
    """Who but Django itself hears that migrations are about to be, or were applied; heard with each migrate, whether there is one to apply or not."""
    from django.db.models.signals import post_migrate, pre_migrate

    told = []
    for word, signal in (("pre_migrate", pre_migrate), ("post_migrate", post_migrate)):
        for entry in signal.receivers:
            receiver = entry[1]() if isinstance(entry[1], weakref.ReferenceType) else entry[1]
            if receiver is None:
                continue
            inner = getattr(receiver, "func", receiver)
            module = getattr(inner, "__module__", None) or type(inner).__module__
            if module != "django" and not module.startswith("django."):
                told.append("%s.%s (%s)" % (module, getattr(inner, "__qualname__", type(inner).__qualname__), word))
    return sorted(set(told))


class ReadOnly(Exception):
    """It is a copy that follows another database."""


def schema(connection, main):
    from django.core.management import get_commands
    from django.db.migrations.executor import MigrationExecutor

    if connection.vendor == "sqlite" and not connection.is_in_memory_db() and not os.path.exists(connection.settings_dict["NAME"]):
        # Connecting would make the file.
        connection.settings_dict["NAME"] = ":memory:"
    connection.ensure_connection()
    if connection.vendor == "postgresql":
        version = connection.pg_version
        if not main:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                if cursor.fetchone()[0]:
                    raise ReadOnly
    elif connection.vendor == "sqlite":
        version = 0
        for part in connection.Database.sqlite_version_info[:3]:
            version = version * 100 + part
    else:
        version = 0

    executor = MigrationExecutor(connection)
    loader = executor.loader
    conflicts = loader.detect_conflicts()
    if conflicts:
        told = "; ".join("%s: %s" % (app, ", ".join(names)) for app, names in sorted(conflicts.items()))
        return {
            "failed": "migrations contradict each other, so that none can be applied: " + told,
            "hint": "run manage.py makemigrations --merge, and commit the migration that it writes",
        }
    loader.check_consistent_history(connection)
    plan = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    label = lambda app, name: "%s.%s" % (app, name) if main else "%s.%s (%s)" % (app, name, connection.alias)
    name = lambda migration: label(migration.app_label, migration.name)

    recorder = executor.recorder
    rows = []
    if recorder.has_table():
        rows = list(recorder.migration_qs.order_by("id").values_list("app", "name"))
    known = set(loader.disk_migrations)
    # Migrations that were replaced stay known as long as the one that replaced them names them.
    for migration in loader.disk_migrations.values():
        known.update(migration.replaces)
    last_known = {}
    for place, row in enumerate(rows):
        if row in known:
            last_known[row[0]] = place
    ahead, strangers = [], []
    for place, row in enumerate(rows):
        if row not in known:
            is_ahead = row[0] in loader.migrated_apps and place > last_known.get(row[0], -1)
            (ahead if is_ahead else strangers).append(label(*row))
    # migrate records what replaces applied migrations, though there is nothing to apply.
    recorded = set(rows)
    unrecorded = [
        label(*key)
        for key, migration in sorted(loader.replacements.items())
        if key not in recorded and all(replaced in recorded for replaced in migration.replaces)
    ]
    may_leave = {name(migration): why_it_may_leave_something(connection, migration) for migration in plan}
    return {
        "pending": [name(migration) for migration in plan],
        "irreversible": [name(migration) for migration in plan if not all(operation.reversible for operation in migration.operations)],
        "ahead": ahead,
        "strangers": strangers,
        "server_version": version,
        "applied": [label(*row) for row in rows],
        "may_leave": {migration: why for migration, why in may_leave.items() if why},
        "concurrent": [name(migration) for migration in plan if any(map(is_concurrent, database_operations(migration.operations)))],
        "unrecorded": unrecorded,
        "receivers": receivers(),
        "command": str(get_commands().get("migrate")),
        "invalid_indexes": invalid_indexes(connection, version, plan, label),
        "aliases": [connection.alias],
        "left_out": {},
    }


def same_place(connection, other):
    place = lambda it: (it.vendor, *(str(it.settings_dict.get(key) or "") for key in ("HOST", "PORT", "NAME")))
    return place(connection) == place(other)


def allowed(name):
    """What the routers say of a database, app by app and model by model: a set of True and False. Who says nothing leaves it to Django, which allows all."""
    from django.apps import apps
    from django.db import router

    said = set()
    for config in apps.get_app_configs():
        models = list(config.get_models())
        for hints in [{}, *({"model_name": model._meta.model_name, "model": model} for model in models)]:
            for one in router.routers:
                try:
                    verdict = one.allow_migrate(name, config.label, **hints)
                except Exception:
                    # One that has no such method, or wants hints that it is not given here, says nothing.
                    continue
                if verdict is not None:
                    said.add(bool(verdict))
                    break
    return said


def all_schemas(connections):
    """How the databases that are migrated stand to the code, as of one; and those that a router allows and that are not migrated, each with the reason."""
    told = schema(connections[alias], True)
    if "failed" in told:
        return told
    chosen = [name for name in wanted_others.split(",") if name not in ("", "*")]
    missing = [name for name in chosen if name not in connections]
    if missing:
        return {
            "failed": "there is no database %s in DATABASES" % ", ".join(map(repr, missing)),
            "hint": "name under [django] database what DATABASES has",
        }
    for name in sorted(connections, key=lambda name: chosen.index(name) if name in chosen else len(chosen)):
        connection = connections[name]
        mirror = (connection.settings_dict.get("TEST") or {}).get("MIRROR")
        if name == alias or name not in chosen and (mirror or same_place(connection, connections[alias])):
            continue
        said = allowed(name)
        if name not in chosen and True not in said:
            continue
        # Only where a router keeps a database for some apps is it known that migrations belong there, and which.
        meant = name in chosen or wanted_others == "*" and said == {True, False}
        try:
            other = schema(connection, False) if meant else {"failed": "[django] database does not name it"}
        except ReadOnly:
            continue
        except Exception as err:
            os.write(2, traceback.format_exc().encode(errors="replace"))
            other = {"failed": "it cannot be asked: %s: %s" % (type(err).__name__, " ".join(str(err).split()))}
        if "failed" in other:
            if name in chosen:
                return {**other, "failed": "the database %r: %s" % (name, other["failed"])}
            told["left_out"][name] = other["failed"]
            continue
        for key in ("pending", "irreversible", "ahead", "strangers", "applied", "concurrent", "unrecorded", "invalid_indexes", "aliases"):
            told[key] += other[key]
        told["may_leave"].update(other["may_leave"])
    return told


