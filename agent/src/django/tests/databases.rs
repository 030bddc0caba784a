//! What a project says of its databases: what migrate would do where nothing is to be applied, and which databases there are.

use super::*;

/// A project whose migrations are applied.
fn applied() -> (TempDir, Project) {
    let (data, mut project) = (tempfile::tempdir().unwrap(), Project::new());
    project.set("DB", &data.path().join("db.sqlite3").display().to_string());
    project.migrate().unwrap();
    (data, project)
}

#[test]
fn an_empty_plan_is_not_the_same_as_nothing_to_do() {
    let (_data, project) = applied();
    let does = |believed| project.schema().does_without_any(believed);
    assert_eq!(does(PostMigrate::Runs), [""; 0]);
    assert!(project.schema().is_quiet(PostMigrate::Runs));

    // A migration that replaces what is applied is recorded by migrate: without that, the next commit fails, which has only that one.
    let squashed = FIRST.replace("initial = True", "initial = True\n    replaces = [('stock', '0001_initial'), ('stock', '0002_price')]");
    let squashed = squashed.replace("max_length=9))", "max_length=9)), ('price', models.IntegerField(null=True))");
    project.file("stock/migrations/0001_squashed.py", &squashed);
    assert_eq!(project.schema().pending, [""; 0]);
    assert_eq!(does(PostMigrate::Runs), ["migrate records stock.0001_squashed, which replaces what is applied"]);
    project.migrate().unwrap();
    assert_eq!(does(PostMigrate::Runs), [""; 0]);

    // Whoever but Django hears of it hears of it each time.
    let hears = "from django.db.models.signals import post_migrate\ndef sync(sender, **more):\n    pass\npost_migrate.connect(sync)\n";
    project.file("stock/models.py", &format!("{MODELS}{hears}"));
    assert_eq!(does(PostMigrate::Runs), ["migrate is heard by stock.models.sync (post_migrate)"]);
    assert_eq!(does(PostMigrate::Idle), [""; 0], "where that is set");
    project.file("stock/models.py", MODELS);

    // Another migrate than Django's own may do anything.
    project.file("stock/management/__init__.py", "").file("stock/management/commands/__init__.py", "");
    let command = "from django.core.management.commands.migrate import Command as Own\nclass Command(Own):\n    pass\n";
    project.file("stock/management/commands/migrate.py", command);
    assert_eq!(does(PostMigrate::Idle), ["migrate is a command of stock"]);
    assert!(!project.schema().is_applied_in_order());
}

#[test]
fn what_django_itself_hears_is_nothing_to_do() {
    let (data, mut project) = (tempfile::tempdir().unwrap(), Project::new());
    project.set("DB", &data.path().join("db.sqlite3").display().to_string());
    let apps = "'django.contrib.auth', 'django.contrib.contenttypes', 'django.contrib.sites', ";
    project.file("shop/settings.py", &SETTINGS.replace("INSTALLED_APPS = [", &format!("INSTALLED_APPS = [{apps}")));
    for python in djangos() {
        let schema = project.inspect(&python).unwrap().schema.unwrap();
        assert_eq!(schema.receivers, [""; 0]);
    }
}

#[test]
fn whether_a_migration_can_leave_something_is_known_before_it_begins() {
    let (_data, project) = applied();
    let leaves = |text: &str| {
        project.file("stock/migrations/0003_more.py", &text.replace("'0001_initial'", "'0002_price'").replace("'price'", "'more'"));
        project.schema().may_leave.get("stock.0003_more").cloned()
    };
    assert_eq!(leaves(SECOND), None, "SQLite takes a migration back as a whole");
    let not_atomic = SECOND.replace("    dependencies", "    atomic = False\n    dependencies");
    assert_eq!(leaves(&not_atomic).as_deref(), Some("is not atomic"));
    let nothing = "operations = [migrations.SeparateDatabaseAndState(state_operations=[migrations.AlterModelOptions('Item', {})])]\n";
    let nothing = format!("{}{nothing}", not_atomic.split("operations").next().unwrap());
    assert_eq!(leaves(&nothing), None, "it does nothing in the database");
    // As MySQL and its kin are: the backend says what is one transaction.
    let backend = "from django.db.backends.sqlite3 import base, features\nclass DatabaseFeatures(features.DatabaseFeatures):\n    can_rollback_ddl = False\nclass DatabaseWrapper(base.DatabaseWrapper):\n    features_class = DatabaseFeatures\n    display_name = 'MySQL'\n";
    project.file("other/__init__.py", "").file("other/base.py", backend);
    project.file("shop/settings.py", &SETTINGS.replace("django.db.backends.sqlite3", "other"));
    assert_eq!(leaves(SECOND).as_deref(), Some("is on MySQL, which does not roll a changed table back"));
}

const ROUTER: &str = "class Router:\n    def allow_migrate(self, db, app_label, **hints):\n        return ";

/// A project with a second database, whose router gives this answer.
fn with_router(answer: &str) -> (TempDir, Project) {
    let (data, project) = applied();
    let more = "\nDATABASES['audit'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': str(DATABASES['default']['NAME']) + '.audit'}\n\
                DATABASE_ROUTERS = ['shop.router.Router']\n";
    project.file("shop/settings.py", &format!("{}{more}", SETTINGS.replace("'stock']", "'stock', 'trail']")));
    project.file("shop/router.py", &format!("{ROUTER}{answer}\n"));
    project.file("trail/__init__.py", "").file("trail/migrations/__init__.py", "");
    project.file("trail/models.py", "from django.db import models\nclass Entry(models.Model):\n    text = models.TextField()\n");
    project.file(
        "trail/migrations/0001_initial.py",
        &FIRST.replace("Item", "Entry").replace("('name', models.CharField(max_length=9))", "('text', models.TextField())"),
    );
    (data, project)
}

#[test]
fn a_database_that_a_router_keeps_for_some_apps_is_migrated_like_the_first_one() {
    let (data, project) = with_router("(db == 'audit') == (app_label == 'trail')");
    let schema = project.schema();
    assert_eq!(schema.aliases, ["default", "audit"]);
    assert!(schema.pending.contains(&"trail.0001_initial".to_owned()) && schema.pending.contains(&"trail.0001_initial (audit)".to_owned()));
    assert!(!data.path().join("db.sqlite3.audit").exists(), "asking makes no file");
    let migrated = project.migrate().unwrap();
    assert_eq!((migrated.attempts, migrated.begun), (2, Begun::Ended));
    let audit = rusqlite::Connection::open(data.path().join("db.sqlite3.audit")).unwrap();
    assert_eq!(audit.query_row("SELECT count(*) FROM trail_entry", [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    assert!(audit.query_row("SELECT count(*) FROM stock_item", [], |row| row.get::<_, u32>(0)).is_err(), "what the router forbids");
    assert!(project.schema().pending.is_empty());
}

#[test]
fn a_database_that_is_not_migrated_is_named_where_a_router_allows_it() {
    // One that allows everything everywhere says nothing of where a migration belongs: that may be a copy, or another project's.
    let (_data, mut project) = with_router("True");
    let schema = project.schema();
    assert_eq!(
        (schema.aliases.as_slice(), &schema.left_out["audit"]),
        (["default".to_owned()].as_slice(), &"[django] database does not name it".to_owned())
    );
    project.settings.others = Others::These(vec!["audit".into()]);
    assert_eq!(project.schema().aliases, ["default", "audit"], "where it is named");
    project.settings.others = Others::These(vec!["nowhere".into()]);
    assert!(project.inspect(&new()).unwrap().schema.unwrap_err().why.contains("no database 'nowhere'"));

    let (_data, mut project) = with_router("(db == 'audit') == (app_label == 'trail')");
    project.settings.others = Others::These(Vec::new());
    assert!(project.schema().left_out.contains_key("audit"), "it is left out on purpose, and named all the same");
    for silent in ["None", "db == 'default'"] {
        let (_data, project) = with_router(silent);
        assert!(project.schema().left_out.is_empty(), "{silent}");
    }
}

#[test]
fn a_hundred_names_are_three_and_a_count() {
    let names = |count: usize| (1..=count).map(|number| format!("a.{number}")).collect::<Vec<_>>();
    assert_eq!(some_of(&names(3)), "a.1, a.2, a.3");
    assert_eq!(some_of(&names(100)), "a.1, a.2, a.3 and 97 more");
}
