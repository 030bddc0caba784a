"""Random pairs of models and schemas, by random migrations that are applied: what contract.py says of a pair is held against what Django's own SELECT,
INSERT and UPDATE do. Arguments: contract.py, the settings of the database as JSON, a seed, how many pairs. Prints what came of them as JSON."""

import collections
import datetime
import decimal
import json
import random
import sys
import uuid

import django
from django.conf import settings

try:
    # A driver of MariaDB that needs no compiler.
    import pymysql

    pymysql.version_info = (2, 2, 1, "final", 0)
    pymysql.install_as_MySQLdb()
except ImportError:
    pass

script, database, seed, wanted = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
exec(compile(open(script).read(), script, "exec"))
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()

from django.db import connection, models, transaction  # noqa: E402
from django.db.migrations import operations  # noqa: E402
from django.db.migrations.state import ProjectState  # noqa: E402

chance = random.Random(seed)
SHORT = (5, 20, 200)


def field(of=None):
    null = chance.random() < 0.3
    kinds = [
        lambda: models.CharField(max_length=chance.choice(SHORT), null=null, default=None if null else "a", unique=False),
        lambda: models.TextField(null=null, default=None if null else "b"),
        lambda: models.SmallIntegerField(null=null, default=None if null else 1),
        lambda: models.IntegerField(null=null, default=None if null else 1),
        lambda: models.BigIntegerField(null=null, default=None if null else 1),
        lambda: models.PositiveIntegerField(null=null, default=None if null else 1),
        lambda: models.BooleanField(null=null, default=None if null else True),
        lambda: models.DateField(null=null, default=None if null else datetime.date(2026, 1, 1)),
        lambda: models.DateTimeField(null=null, default=None if null else datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)),
        lambda: models.DecimalField(max_digits=chance.choice((6, 12)), decimal_places=2, null=null, default=None if null else decimal.Decimal("1.00")),
        lambda: models.FloatField(null=null, default=None if null else 1.5),
        lambda: models.UUIDField(null=null, default=None if null else uuid.UUID(int=7)),
        lambda: models.JSONField(null=null, default=None if null else dict),
    ]
    if of:
        kinds.append(lambda: models.ForeignKey(of, models.CASCADE, null=True, related_name="+"))
    return chance.choice(kinds)()


def value(field):
    """As much as the field takes."""
    if isinstance(field, models.ForeignKey):
        return None
    kind = field.get_internal_type()
    return {
        "CharField": lambda: "x" * field.max_length, "TextField": lambda: "y" * 1000, "SmallIntegerField": lambda: 32767,
        "IntegerField": lambda: 2147483647, "BigIntegerField": lambda: 9223372036854775807, "PositiveIntegerField": lambda: 2147483647,
        "BooleanField": lambda: True, "DateField": lambda: datetime.date(2026, 2, 3),
        "DateTimeField": lambda: datetime.datetime(2026, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "DecimalField": lambda: decimal.Decimal("9" * (field.max_digits - 2) + ".99"), "FloatField": lambda: 2.5,
        "UUIDField": lambda: uuid.uuid4(), "JSONField": lambda: {"a": [1]},
    }[kind]()


def random_operation(state):
    """What a migration may do to these models."""
    model = chance.choice([key[1] for key in state.models])
    names = [name for name in state.models["shop", model].fields if name != "id"]
    other = chance.choice([key[1] for key in state.models])
    name = "n%d" % chance.randint(0, 10 ** 6)
    acts = [lambda: operations.AddField(model, name, field("shop." + other))] * 3
    if names:
        one = chance.choice(names)
        acts += [lambda: operations.RemoveField(model, one), lambda: operations.RenameField(model, one, name)]
        acts += [lambda: operations.AlterField(model, one, field())] * 3
        plain = [each for each in names if not state.models["shop", model].fields[each].remote_field]
        if plain:
            key = chance.choice(plain)
            acts += [lambda: operations.AddConstraint(model, models.UniqueConstraint(fields=[key], name="u_" + name))]
            acts += [lambda: operations.AlterUniqueTogether(model, {(key, "id")})]
            acts += [lambda: operations.AddConstraint(model, check(models.Q(**{key + "__isnull": False}), "c_" + name))]
    if len(state.models) > 1:
        acts += [lambda: operations.RenameModel(model, "M%d" % chance.randint(0, 10 ** 6))]
    return chance.choice(acts)()


def check(condition, name):
    try:
        return models.CheckConstraint(condition=condition, name=name)
    except TypeError:
        return models.CheckConstraint(check=condition, name=name)


def applied(state, operation):
    """The state after an operation, which the database has, too; nothing where it cannot be."""
    after = state.clone()
    operation.state_forwards("shop", after)
    try:
        with connection.schema_editor(atomic=True) as editor:
            operation.database_forwards("shop", editor, state, after)
    except Exception:
        return None
    return after


def does(model):
    """What Django's own statements do for a model: "fits", "writes" or "broken"."""
    fields = [each for each in model._meta.local_concrete_fields if not each.primary_key]
    try:
        with transaction.atomic():
            list(model._default_manager.all())
    except Exception:
        return "broken"
    full = lambda: {each.attname: value(each) for each in fields}
    named = {name for one in model._meta.constraints if isinstance(one, models.UniqueConstraint) for name in one.fields}
    unique = {each.attname for each in fields if each.unique or each.name in named}
    try:
        with transaction.atomic():
            first = model(**full())
            first.save(force_insert=True)
            # Another row that differs in nothing that the models keep apart.
            again = {name: given for name, given in full().items() if name not in unique}
            for each in fields:
                if each.attname in unique:
                    again[each.attname] = None if each.null else other_value(each)
                elif each.get_internal_type() == "UUIDField":
                    again[each.attname] = getattr(first, each.attname)
            second = model(**again)
            second.save(force_insert=True)
            for each in fields:
                if each.null:
                    setattr(second, each.attname, None)
            second.save(force_update=True)
    except Exception as err:
        # For whoever asks why a verdict is wrong.
        errors.append("%s: %s" % (type(err).__name__, err))
        return "writes"
    try:
        with transaction.atomic():
            list(model._default_manager.all())
    except Exception:
        return "broken"
    return "fits"


def other_value(field):
    kind = field.get_internal_type()
    if kind == "CharField":
        return "z" * field.max_length
    given = value(field)
    if isinstance(given, bool):
        return not given
    if isinstance(given, (int, float, decimal.Decimal)):
        return given - 1
    if isinstance(given, datetime.date):
        return given + datetime.timedelta(days=1)
    return uuid.uuid4() if kind == "UUIDField" else {"b": 2} if kind == "JSONField" else "z" * 999


def forget():
    """Takes all tables away."""
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
        for table in connection.introspection.table_names(cursor):
            cursor.execute("DROP TABLE %s%s" % (connection.ops.quote_name(table), " CASCADE" if connection.vendor == "postgresql" else ""))
        if connection.vendor == "mysql":
            cursor.execute("SET FOREIGN_KEY_CHECKS = 1")


def described(operation):
    """An operation with what it says of a field."""
    field = getattr(operation, "field", None)
    if field is None:
        return operation.describe()
    return "%s: %s %s" % (operation.describe(), type(field).__name__, {key: str(given) for key, given in field.deconstruct()[3].items()})


def made(operations):
    """The state that operations lead to, in a database without tables; nothing where one cannot be applied."""
    state = ProjectState()
    for operation in operations:
        state = state and applied(state, operation)
    return state


errors = []
told, false_fits, wrong, pairs = collections.Counter(), [], [], 0
order = {"fits": 0, "writes": 1, "broken": 2}


def hold(code, done):
    """Holds what is said of a pair against what happens."""
    global pairs
    classes = list(code.clone().apps.get_models(include_auto_created=True))
    said = contract_of(connection, classes)
    verdict = "broken" if said["broken"] else "writes" if said["writes"] else "fits"
    errors.clear()
    real = max((does(model) for model in classes), key=order.get)
    pairs += 1
    told[verdict, real] += 1
    if verdict != real:
        note = {"said": said, "real": real, "errors": list(errors), "operations": [described(operation) for operation in done],
                "fields": {"%s.%s" % (one._meta.db_table, each.column): each.db_type(connection) for one in classes for each in one._meta.local_fields}}
        (false_fits if verdict == "fits" and not said["unseen"] else wrong).append(note)


forget()
while pairs < wanted:
    first = []
    for number in range(chance.randint(1, 2)):
        fields = [("id", models.BigAutoField(primary_key=True))]
        fields += [("f%d" % each, field("shop.m0" if number else None)) for each in range(chance.randint(1, 4))]
        first.append(operations.CreateModel("m%d" % number, fields))
    before = made(first)
    state, done = before, []
    for _ in range(chance.randint(1, 2)):
        operation = random_operation(state)
        after = applied(state, operation)
        if after is not None:
            done.append(operation)
            state = after
    if done:
        # What goes on serving while a release migrates, and what a rollback comes back to.
        hold(before, done)
        forget()
        # A release that was not migrated.
        made(first)
        hold(state, done)
    forget()
print(json.dumps({"pairs": pairs, "told": {"%s, really %s" % key: count for key, count in sorted(told.items())}, "false_fits": false_fits, "wrong": wrong}))
