"""Asks a Django project what it is, in one process, and changes nothing. Runs with every Django from 3.2 on.

Arguments: mode (inspect or load), path of manage.py, settings module or "", alias of the database or "".
The answer is one line of JSON on standard output. What the project prints goes to standard error.
"""

import json
import os
import runpy
import sys
import traceback

answer_to = os.dup(1)
os.dup2(2, 1)
mode, manage, wanted_settings, alias = sys.argv[1:5]


def answer(value):
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # The project replaced or closed it.
            pass
    data = (json.dumps(value) + "\n").encode()
    while data:
        data = data[os.write(answer_to, data):]
    # A thread that the project started must not keep this process.
    os._exit(0)


def fail(stage, err):
    lines = traceback.format_exception(type(err), err, err.__traceback__)
    text = "".join(lines)
    os.write(2, text.encode(errors="replace"))
    answer({
        "failed": {
            "stage": stage,
            "kind": type(err).__name__,
            "message": str(err),
            "missing": getattr(err, "name", None) if isinstance(err, ImportError) else None,
            "trace": text.splitlines()[-20:],
        }
    })


class Stop(BaseException):
    pass


def stop(*args, **kwargs):
    raise Stop


def find_settings():
    """Runs manage.py up to the point where it hands over to Django: only it knows how it chooses its settings."""
    from django.core import management

    management.execute_from_command_line = stop
    management.ManagementUtility.execute = stop
    sys.path[0] = os.path.dirname(manage)
    sys.argv = [manage, "version"]
    if wanted_settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = wanted_settings
    try:
        runpy.run_path(manage, run_name="__main__")
    except Stop:
        pass
    if wanted_settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = wanted_settings


def settings_text(settings, name):
    value = getattr(settings, name, None)
    return str(value) if value else None


LIBPQ = [
    "service", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "options", "target_session_attrs",
    "channel_binding", "gssencmode", "krbsrvname", "connect_timeout", "hostaddr",
]


def database(connection):
    settings = connection.settings_dict
    name = str(settings.get("NAME") or "")
    if connection.vendor == "sqlite" and name and not connection.is_in_memory_db():
        name = os.path.abspath(name)
    options = settings.get("OPTIONS") or {}
    return {
        "vendor": connection.vendor,
        "name": name,
        "host": str(settings.get("HOST") or ""),
        "port": str(settings.get("PORT") or ""),
        "user": str(settings.get("USER") or ""),
        "password": str(settings.get("PASSWORD") or ""),
        "options": {key: str(options[key]) for key in LIBPQ if options.get(key) is not None} if connection.vendor == "postgresql" else {},
    }


def schema(connection):
    from django.db.migrations.executor import MigrationExecutor

    if connection.vendor == "sqlite" and not connection.is_in_memory_db() and not os.path.exists(connection.settings_dict["NAME"]):
        # Connecting would make the file.
        connection.settings_dict["NAME"] = ":memory:"
    connection.ensure_connection()
    if connection.vendor == "postgresql":
        version = connection.pg_version
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
        return {"failed": "migrations contradict each other, so that none can be applied (makemigrations --merge): " + told}
    loader.check_consistent_history(connection)
    plan = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    name = lambda migration: "%s.%s" % (migration.app_label, migration.name)

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
            (ahead if is_ahead else strangers).append("%s.%s" % row)
    return {
        "pending": [name(migration) for migration in plan],
        "irreversible": [name(migration) for migration in plan if not all(operation.reversible for operation in migration.operations)],
        "ahead": ahead,
        "strangers": strangers,
        "server_version": version,
    }


def inspect(settings):
    import django
    from django.apps import apps
    from django.db import connections

    try:
        databases = {name: database(connections[name]) for name in connections}
    except BaseException as err:
        fail("databases", err)
    if alias not in databases:
        told = {"failed": "there is no database %r in DATABASES; there is %s" % (alias, ", ".join(sorted(databases)) or "none")}
    else:
        try:
            told = schema(connections[alias])
        except Exception as err:
            os.write(2, traceback.format_exc().encode(errors="replace"))
            told = {"failed": "%s: %s" % (type(err).__name__, " ".join(str(err).split()))}
    static_root = settings_text(settings, "STATIC_ROOT")
    answer({
        "version": django.get_version(),
        "settings_module": os.environ["DJANGO_SETTINGS_MODULE"],
        "static_root": os.path.realpath(static_root) if static_root else None,
        "staticfiles": apps.is_installed("django.contrib.staticfiles"),
        "wsgi_application": settings_text(settings, "WSGI_APPLICATION"),
        "databases": databases,
        "schema": told,
    })


def load(settings):
    """Imports what a server imports. WSGI modules choose their settings by setdefault; which ones they would choose is worth knowing."""
    from django.utils.module_loading import import_string

    chosen = []
    real = os.environ.setdefault

    def setdefault(key, value):
        if key == "DJANGO_SETTINGS_MODULE":
            chosen.append(value)
        return real(key, value)

    os.environ.setdefault = setdefault
    application = settings_text(settings, "WSGI_APPLICATION")
    warnings = []
    if application:
        try:
            import_string(application)
        except BaseException as err:
            fail("wsgi", err)
        module = os.environ["DJANGO_SETTINGS_MODULE"]
        if chosen and chosen[-1] != module:
            warnings.append(
                "%s names the settings %s, and not %s: the server must set DJANGO_SETTINGS_MODULE itself"
                % (application.rpartition(".")[0], chosen[-1], module)
            )
    if settings_text(settings, "ROOT_URLCONF"):
        try:
            from django.urls import get_resolver

            get_resolver().url_patterns
        except BaseException as err:
            fail("urls", err)
    answer({"warnings": warnings})


try:
    import django
except BaseException as err:
    fail("django", err)
try:
    find_settings()
except BaseException as err:
    fail("manage", err)
if not os.environ.get("DJANGO_SETTINGS_MODULE"):
    answer({"failed": {"stage": "unset", "kind": "", "message": "", "missing": None, "trace": []}})
try:
    from django.conf import settings

    settings.INSTALLED_APPS
    django.setup()
except BaseException as err:
    fail("settings", err)
try:
    (inspect if mode == "inspect" else load)(settings)
except BaseException as err:
    fail("inspect", err)
