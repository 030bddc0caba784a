"""What it would take to reverse migrations of newer code: asked of that code, and nothing is changed. Stands before project.py in the same script."""


def reversal_of(connection, ahead):
    """The targets for `migrate APP TARGET`, what else they would reverse, what cannot be reversed, and what would be lost."""
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    loader = executor.loader
    wanted = {tuple(label.split(".", 1)) for label in ahead}
    unknown = sorted("%s.%s" % key for key in wanted if key not in loader.disk_migrations)
    if unknown:
        return {"unknown": unknown}
    order = [(migration.app_label, migration.name) for migration, _ in executor.migration_plan(loader.graph.leaf_nodes(), clean_start=True)]
    targets = []
    for app in sorted({key[0] for key in wanted}):
        stays = [key for key in order if key[0] == app and key not in wanted and key in loader.applied_migrations]
        targets.append(stays[-1] if stays else (app, None))
    plan = [migration for migration, backwards in executor.migration_plan(targets) if backwards]
    label = lambda migration: "%s.%s" % (migration.app_label, migration.name)
    also = [label(migration) for migration in plan if (migration.app_label, migration.name) not in wanted]
    missing = sorted("%s.%s" % key for key in wanted - {(migration.app_label, migration.name) for migration in plan})
    lost, codes = [], []
    for migration in plan:
        state = loader.project_state((migration.app_label, migration.name), at_end=True)
        for operation in database_operations(migration.operations):
            loses(connection, state, migration.app_label, operation, lost)
            if type(operation).__name__ in ("RunPython", "RunSQL"):
                codes.append(label(migration))
    return {
        "targets": [[app, name] for app, name in targets],
        "steps": [label(migration) for migration in plan],
        "also": also + missing,
        "irreversible": [label(migration) for migration in plan if any(not one.reversible for one in database_operations(migration.operations))],
        "lost": lost,
        "code": sorted(set(codes)),
    }


def loses(connection, state, app, operation, lost):
    """Counts what goes with an operation that is reversed: rows of a table that it made, values of a column that it added."""
    quote = connection.ops.quote_name
    kind = type(operation).__name__
    if kind not in ("CreateModel", "AddField"):
        return
    model = state.apps.get_model(app, operation.name if kind == "CreateModel" else operation.model_name)
    table, question, values = model._meta.db_table, "SELECT count(*) FROM %s" % quote(model._meta.db_table), []
    if kind == "AddField":
        field = model._meta.get_field(operation.name)
        if field.column is None:
            table = field.remote_field.through._meta.db_table if field.many_to_many else None
            question = table and "SELECT count(*) FROM %s" % quote(table)
        else:
            question += " WHERE %s IS NOT NULL" % quote(field.column)
            # What the migration itself has filled in is no loss.
            if field.has_default() and not callable(field.default) and field.get_default() is not None:
                question += " AND %s <> %%s" % quote(field.column)
                values = [field.get_db_prep_save(field.get_default(), connection)]
            table = "%s.%s" % (table, field.column)
    if not question:
        return
    with connection.cursor() as cursor:
        cursor.execute(question, values)
        count = cursor.fetchone()[0]
    if count:
        what = "row" if kind == "CreateModel" or "." not in table else "value"
        lost.append("%d %s%s of %s" % (count, what, "" if count == 1 else "s", table))
