"""Finds out which database the driver has reached, and which state the project keeps within its release. Stands before project.py in the same script, and
only defines: the project is not loaded yet.
"""

import logging
import os

# Variables that decide how libpq, Kerberos, TLS and the resolver reach a server. The connection itself tells the rest.
DECIDING = ("PG", "KRB5", "GSS", "SSL_", "OPENSSL_", "HOME", "RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES")


def reached(connection):
    """The file or the server that the driver has connected to, with all parameters of libpq."""
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA database_list")
            path = [row[2] for row in cursor.fetchall() if row[1] == "main"][0]
        if not path:
            return "absent"
        stat = os.stat(path)
        return {"file": {"path": path, "device": stat.st_dev, "inode": stat.st_ino}}
    if connection.vendor != "postgresql":
        return {"unknown": "nothing is known of connections to " + connection.vendor}
    parameters, environment = libpq(connection)
    asked, identity = identify(connection)
    return {"server": {"parameters": parameters, "environment": environment, "asked": asked, "identity": identity}}


def libpq(connection):
    """The parameters of the connection, and the deciding variables as they are after the settings were loaded."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(DECIDING)}
    driver = connection.connection
    try:
        info = driver.info
        if hasattr(driver, "pgconn"):
            found = {option.keyword.decode(): option.val.decode() for option in driver.pgconn.info if option.val}
        else:
            found = dict(info.dsn_parameters)
        # The host that answered, of several; the password, wherever libpq found it.
        found.update(host=info.host, port=info.port, user=info.user, dbname=info.dbname, password=info.password)
        if len(found.get("hostaddr", "").split(",")) > 1:
            found["hostaddr"] = info.hostaddr
    except Exception:
        # Another driver: the parameters that Django hands to it.
        found = dict(connection.get_connection_params())
        found.setdefault("dbname", found.get("database"))
    else:
        # The parameters have the service in them already; pg_dump would read it again, and it would win over the variables.
        for name in ("service", "servicefile", "PGSERVICE", "PGSERVICEFILE"):
            found.pop(name, None)
            environment.pop(name, None)
    role = (connection.settings_dict.get("OPTIONS") or {}).get("assume_role")
    found.update(role=role)
    # The dump keeps the encoding of the database.
    found.pop("client_encoding", None)
    environment.pop("PGCLIENTENCODING", None)
    return {name: str(value) for name, value in found.items() if value is not None and isinstance(value, (str, int)) and value != ""}, environment


def identify(connection):
    """The question that the server has answered, and the answer: some hosted servers refuse the first question."""
    failed = None
    for asked, question in enumerate(IDENTITY.splitlines()):
        try:
            with connection.cursor() as cursor:
                cursor.execute(question)
                return asked, cursor.fetchone()[0]
        except Exception as err:
            failed = err
            # The transaction has failed, too.
            connection.close()
    raise failed


def facts_of(connections, alias, schema):
    """Facts about the database that was asked for its migrations, after that."""
    if "failed" in schema:
        return {"reached": {"unknown": schema["failed"]}, "empty": False}
    try:
        return {"reached": reached(connections[alias]), "empty": not connections[alias].introspection.table_names()}
    except Exception as err:
        return {"reached": {"unknown": "%s: %s" % (type(err).__name__, " ".join(str(err).split()))}, "empty": False}


def kept_within(settings, connections, places, alias):
    """State within the release, looked for before the database is asked. A link of [shared] leads out of the release."""
    release = os.path.realpath(places[0])
    migrates = places[1:] == ["migrates"]
    found = []

    def look(what, name, path):
        path = os.path.realpath(path)
        if path.startswith(release + os.sep):
            base = os.path.relpath(os.path.realpath(os.getcwd()), release)
            found.append({"what": what, "name": name, "path": os.path.relpath(path, release), "base": base})

    for name in connections:
        path = file_of(connections[name])
        # Django makes an empty file when it looks for migrations.
        written = path and os.path.exists(path) and os.path.getsize(path) > 0
        if written or path and migrates and name == alias and has_migrations():
            look("database", 'the database "%s"' % name, path)
    try:
        media = media_root(settings)
    except Exception:
        # The storage cannot be made: it is not known where uploads go.
        media = None
    if media:
        look("media", "MEDIA_ROOT", media)
    handlers = [handler for logger in loggers() for handler in logger.handlers]
    handlers += [handler.target for handler in handlers if getattr(handler, "target", None)]
    for path in sorted({handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)}):
        look("log", "the log", path)
    return found


def file_of(connection):
    """The file of a SQLite database that is written to, or None."""
    name = str(connection.settings_dict.get("NAME") or "")
    if connection.vendor != "sqlite" or not name or ":memory:" in name or "mode=memory" in name:
        return None
    if name.startswith("file:"):
        return None if "mode=ro" in name or "immutable=1" in name else name[len("file:") :].split("?")[0]
    return name


def has_migrations():
    from django.db.migrations.loader import MigrationLoader

    try:
        return bool(MigrationLoader(None, ignore_no_initial=True).disk_migrations)
    except Exception:
        # The migrate step tells what is wrong with them.
        return True


def media_root(settings):
    """The directory of uploads, or None."""
    from django.core.files.storage import FileSystemStorage, default_storage

    if not settings.MEDIA_ROOT:
        return None
    default_storage.exists
    return default_storage.location if isinstance(default_storage._wrapped, FileSystemStorage) else None


def loggers():
    named = [logger for logger in list(logging.root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)]
    return [logging.root, *named]


