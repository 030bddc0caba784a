"""Runs `manage.py migrate`, writes down what it is about to apply, and has connections to PostgreSQL told something more.

Arguments: path of manage.py, the report, what goes behind the names of migrations, options for PostgreSQL that go behind OPTIONS["options"] of the settings ("" for none), the arguments of manage.py.

The report is a line of JSON for each thing, on the disk before anything goes on:
  {"limits": {…}}                                  what PostgreSQL says of the limits in the session that migrates
  {"begun": migration}  {"applied": migration}
  {"failed": migration, "state": SQLSTATE or null}  why, in the driver's own code
  {"ended": true}                                  the command has come to its end, and what hears of it as well
"""

import importlib.abc
import importlib.util
import json
import os
import runpy
import sys

manage, report_path, suffix, more = sys.argv[1:5]
report = os.open(report_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def tell(**what):
    os.write(report, (json.dumps(what) + "\n").encode())
    os.fsync(report)


def state_of(err):
    """The SQLSTATE of an error, or of what it was raised for: the driver's own word, in whatever language the server speaks."""
    seen = set()
    while err is not None and id(err) not in seen:
        seen.add(id(err))
        if type(err).__module__.split(".")[0] in ("psycopg", "psycopg2"):
            state = getattr(err, "sqlstate", None) or getattr(err, "pgcode", None)
            if state:
                return state
        err = err.__cause__ or err.__context__
    return None


def operations_of(operations):
    for operation in operations:
        yield from operations_of(getattr(operation, "database_operations", ()))
        yield operation


def is_concurrent(operation):
    sql = getattr(operation, "sql", None)
    return type(operation).__name__.endswith("Concurrently") or "concurrently" in str(sql).lower() and sql is not None


def unhurried(connection, operation):
    """Has an operation wait for its locks without a limit: nobody waits behind an index that is built beside the writers, and half of one would stay."""
    forwards = operation.database_forwards

    def set_limit(limit):
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [limit])

    def run(*args, **kwargs):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout')")
            former = cursor.fetchone()[0]
        # Where there is none, a pooler may be in between, and a setting would be another client's.
        if former == "0":
            return forwards(*args, **kwargs)
        set_limit("0")
        try:
            result = forwards(*args, **kwargs)
        except BaseException:
            try:
                set_limit(former)
            except Exception:
                # The connection is broken; why is told by the error itself.
                pass
            raise
        set_limit(former)
        return result

    operation.database_forwards = run


def hear(module):
    apply = module.MigrationExecutor.apply_migration
    asked = []

    def apply_migration(self, state, migration, *args, **kwargs):
        name = "%s.%s%s" % (migration.app_label, migration.name, suffix)
        if self.connection.vendor == "postgresql":
            if not asked:
                asked.append(True)
                try:
                    with self.connection.cursor() as cursor:
                        names = "'lock_timeout', 'client_connection_check_interval'"
                        cursor.execute("SELECT name, setting FROM pg_settings WHERE name IN (%s)" % names)
                        tell(limits=dict(cursor.fetchall()))
                except Exception:
                    # What only calls itself PostgreSQL may have no such table; then nothing is claimed of the limits.
                    pass
            for operation in operations_of(migration.operations):
                if is_concurrent(operation):
                    unhurried(self.connection, operation)
        tell(begun=name)
        try:
            result = apply(self, state, migration, *args, **kwargs)
        except BaseException as err:
            tell(failed=name, state=state_of(err))
            raise
        tell(applied=name)
        return result

    module.MigrationExecutor.apply_migration = apply_migration


def limit(module):
    former = module.DatabaseWrapper.get_connection_params

    def get_connection_params(self):
        params = former(self)
        params["options"] = " ".join(filter(None, [params.get("options"), more]))
        return params

    module.DatabaseWrapper.get_connection_params = get_connection_params


class Loaded(importlib.abc.MetaPathFinder):
    """Changes modules right after they are loaded, and loads none by itself: manage.py may have something to do before Django is there."""

    changes = {"django.db.migrations.executor": hear}
    if more:
        changes["django.db.backends.postgresql.base"] = limit

    def find_spec(self, name, path=None, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Loaded())
sys.path[0] = os.path.dirname(manage)
sys.argv = [manage] + sys.argv[5:]
try:
    runpy.run_path(manage, run_name="__main__")
except SystemExit as err:
    if err.code in (None, 0):
        tell(ended=True)
    raise
tell(ended=True)
