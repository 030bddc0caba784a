//! What is proven to do nothing is not done again, and what is only foreseen is verified before anybody can meet the release.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_tests::{Bench, Repo, demo_settings, processes_about};
use serde_json::Value;

/// The demo with a first release.
struct Demo {
    bench: Bench,
    repo: Repo,
}

impl Demo {
    fn new(name: &str, more: &str) -> Self {
        Self::set(name, "", more)
    }

    fn set(name: &str, first: &str, more: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.demo_repo(2);
        let settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"200ms\"");
        bench.app("demo", &format!("{first}{settings}{more}")).start();
        bench.ctl(["release", "main"]).expect(0);
        Self { bench, repo }
    }

    /// Adds to a file of the project, and commits.
    fn changed(&self, file: &str, more: &str) -> &Self {
        let text = fs::read_to_string(self.repo.path().join(file)).unwrap();
        self.repo.write(file, text + more).commit(&format!("Change {file}"));
        self
    }

    fn view_changed(&self) -> &Self {
        self.changed("board/views.py", "\n# As before.\n")
    }

    /// Releases main. Tells why the steps were skipped that were.
    #[track_caller]
    fn released(&self) -> Vec<(String, String)> {
        self.bench.ctl(["release", "main"]).expect(0);
        assert_eq!(self.bench.page("/healthz").header("X-Release"), Some(&*self.repo.head()));
        self.skipped()
    }

    fn events(&self) -> Vec<Value> {
        self.bench.events(self.bench.last_run()["run"].as_u64().unwrap())
    }

    /// The steps of the last run that found nothing to do, and why.
    fn skipped(&self) -> Vec<(String, String)> {
        let nothing = |event: &Value| Some((event["step"].as_str()?.to_owned(), event["nothing"].as_str()?.to_owned()));
        self.events().iter().filter(|event| event["what"] == "step_done").filter_map(nothing).collect()
    }

    /// What was noted of a step of the last run.
    fn notes(&self, step: &str) -> String {
        let events = self.events();
        let notes = events.iter().filter(|event| event["what"] == "note" && event["step"] == step);
        notes.filter_map(|event| event["text"].as_str()).collect::<Vec<_>>().join("\n")
    }

    fn live(&self) -> PathBuf {
        self.bench.root_of("demo").join("releases").join(self.bench.live("demo").unwrap())
    }
}

fn reason<'a>(skipped: &'a [(String, String)], step: &str) -> &'a str {
    skipped.iter().find(|(skipped, _)| skipped == step).map_or("it was not skipped", |(_, reason)| reason)
}

/// What a directory holds: paths, contents and times of change.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>, i64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(dir).unwrap().to_owned();
                found.push((path, fs::read(entry.path()).unwrap(), entry.metadata().unwrap().mtime()));
            }
        }
    }
    found.sort();
    found
}

/// The files that are the very same ones in two directories.
fn shared(one: &Path, other: &Path) -> Vec<PathBuf> {
    let inode = |dir: &Path, path: &Path| dir.join(path).metadata().unwrap().ino();
    contents(one).into_iter().map(|(path, _, _)| path).filter(|path| inode(one, path) == inode(other, path)).collect()
}

fn sql(database: &Path, query: &str) -> String {
    let output = Command::new("sqlite3").arg(database).arg(query).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn where_only_a_view_changes_nothing_is_done_that_is_proven_to_do_nothing() {
    let demo = Demo::new("only a view", "");
    assert!(reason(&demo.skipped(), "collectstatic").contains("not skipped"));
    let former = demo.live();
    let (closed, _, _) = contents(&former.join("staticfiles")).swap_remove(0);
    let closed = former.join("staticfiles").join(closed);
    let mode = closed.metadata().unwrap().permissions();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o444)).unwrap();

    let skipped = demo.view_changed().released();
    fs::set_permissions(&closed, mode).unwrap();
    assert_eq!(reason(&skipped, "check"), "runs during switch");
    let asked_later = "no migration has changed; the database is asked during switch";
    assert_eq!((reason(&skipped, "backup"), reason(&skipped, "migrate")), (asked_later, asked_later));
    let why = format!("neither migrations, settings nor environment have changed since {}", former.file_name().unwrap().display());
    assert!(["check", "backup", "migrate"].iter().all(|step| demo.notes(step).contains(&why)), "{}", demo.notes("check"));
    let collected = reason(&skipped, "collectstatic");
    assert!(collected.ends_with(" of the live release reused"), "{collected}");
    assert!(demo.notes("collectstatic").contains("it read 7 files"), "{}", demo.notes("collectstatic"));
    assert!(demo.notes("switch").contains("the check found no error, and the database has every migration"));

    // Whatever the migrate step would have warned of is warned of.
    let database = demo.bench.root_of("demo").join("shared/db.sqlite3");
    sql(&database, "insert into django_migrations (app, name, applied) values ('board', '0003_of_another_branch', '2026-01-01')");
    demo.view_changed();
    demo.bench.ctl(["release", "main"]).expect(0).says(&["runs during switch", "does not know: board.0003_of_another_branch"]);
    sql(&database, "delete from django_migrations where name = '0003_of_another_branch'");

    // The same files with the same times: what visitors have cached stays fresh.
    let live = demo.live();
    assert_ne!(former, live);
    assert_eq!(contents(&former.join("staticfiles")), contents(&live.join("staticfiles")));
    // Nor are they the same ones, not even one that nobody could write in: only `read_only` chooses that.
    assert_eq!(shared(&former.join("staticfiles"), &live.join("staticfiles")), [] as [PathBuf; 0]);
    demo.bench.ctl(["fsck"]).expect(0);
    // Every source that the former one has bytecode for has one here: Python takes it as it is, and that of the changed view is new.
    let compiled = |dir: &Path, of: &str| fs::read(dir.join("board/__pycache__").join(of)).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir.join("board/__pycache__")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let views = names(&live).iter().find(|name| name.to_string_lossy().starts_with("views.")).unwrap().to_string_lossy().into_owned();
    assert_eq!(names(&former), names(&live));
    let models = views.replace("views.", "models.");
    assert_eq!(compiled(&former, &models)[16..], compiled(&live, &models)[16..]);
    assert_ne!(compiled(&former, &views)[12..], compiled(&live, &views)[12..]);
    for (file, source) in [(&views, "board/views.py"), (&models, "board/models.py")] {
        let stamp = u32::try_from(fs::metadata(live.join(source)).unwrap().mtime()).unwrap().to_le_bytes();
        assert_eq!(compiled(&live, file)[8..12], stamp, "{file}: Python believes it");
    }

    // A file that was planted in the live release is no part of what it was sealed with; one that was changed is not reused.
    let open = |path: &Path, mode: &str| assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    open(&live.join("staticfiles/board"), "u+w");
    fs::write(live.join("staticfiles/board/planted.css"), "").unwrap();
    let skipped = demo.view_changed().released();
    assert!(reason(&skipped, "collectstatic").contains("reused"), "{skipped:?}");
    assert_eq!(contents(&former.join("staticfiles")), contents(&demo.live().join("staticfiles")));

    let css = demo.live().join("staticfiles/board/board.css");
    open(&css, "u+w");
    fs::write(&css, "planted").unwrap();
    let skipped = demo.view_changed().released();
    assert!(reason(&skipped, "collectstatic").contains("not skipped"), "{skipped:?}");
    let notes = demo.notes("collectstatic");
    assert!(notes.contains("has changed since it was sealed: staticfiles/board/board.css"), "{notes}");
    let without_times =
        |dir: &Path| contents(&dir.join("staticfiles")).into_iter().map(|(path, bytes, _)| (path, bytes)).collect::<Vec<_>>();
    assert_eq!(without_times(&former), without_times(&demo.live()));
}

#[test]
fn static_files_that_nobody_can_write_in_are_shared() {
    let demo = Demo::set("read only", "read_only = true\n", "");
    let former = demo.live().join("staticfiles");
    demo.view_changed().released();
    let files: Vec<_> = contents(&former).into_iter().map(|(path, _, _)| path).collect();
    assert!(files.len() > 1, "{files:?}");
    assert_eq!(shared(&former, &demo.live().join("staticfiles")), files);

    // Modes are part of what was made.
    let settings = fs::read_to_string(demo.bench.path("config/apps/demo.toml")).unwrap();
    demo.bench.app("demo", &settings.replace("read_only = true\n", ""));
    demo.bench.reload();
    demo.view_changed().released();
    assert!(demo.notes("collectstatic").contains("the app's settings"), "{}", demo.notes("collectstatic"));
    assert_eq!(demo.live().join("staticfiles").join(&files[0]).metadata().unwrap().mode() & 0o200, 0o200);
    demo.bench.app("demo", &settings);
    demo.bench.reload();
    demo.view_changed().released();
    demo.view_changed().released();

    // One that somebody can write in after all is copied.
    let (open, former) = (&files[0], demo.live().join("staticfiles"));
    fs::set_permissions(former.join(open), fs::Permissions::from_mode(0o644)).unwrap();
    demo.view_changed().released();
    let live = demo.live().join("staticfiles");
    assert_eq!(shared(&former, &live), files[1..]);
    fs::set_permissions(former.join(open), fs::Permissions::from_mode(0o444)).unwrap();
    demo.bench.ctl(["fsck"]).expect(0);

    // What was changed in spite of that is not reused.
    let damaged = live.join(&files[1]);
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&damaged, "another").unwrap();
    demo.view_changed().released();
    assert!(demo.notes("collectstatic").contains("has changed since it was sealed"), "{}", demo.notes("collectstatic"));
    assert_ne!(fs::read(demo.live().join("staticfiles").join(&files[1])).unwrap(), b"another");
}

/// `plan` says what will have nothing to do, and does not list it as what is to be done.
#[test]
fn a_plan_says_which_steps_will_have_nothing_to_do() {
    let demo = Demo::new("a plan", "");
    let steps = |demo: &Demo| -> Vec<(String, Option<String>)> {
        let plan: serde_json::Value = serde_json::from_str(&demo.bench.ctl(["--json", "plan", "main"]).expect(0).stdout).unwrap();
        let step = |step: &serde_json::Value| (step["step"].as_str().unwrap().to_owned(), step["skipped"].as_str().map(str::to_owned));
        plan["steps"].as_array().unwrap().iter().map(step).collect()
    };
    let skipped = |demo: &Demo| -> Vec<String> {
        steps(demo)
            .into_iter()
            .filter(|(_, why)| why.as_ref().is_some_and(|why| why.starts_with("expected: ")))
            .map(|(step, _)| step)
            .collect()
    };
    demo.view_changed();
    let plan = demo.bench.ctl(["plan", "main"]).expect(0).stdout;
    assert!(plan.contains("skipped: expected: nothing that it reads has changed"), "{plan}");
    let planned = skipped(&demo);
    let done = demo.released();
    for step in &planned {
        let happened = reason(&done, step);
        assert!(step == "environment" || happened != "it was not skipped", "{step} was done: {done:?}");
    }
    assert_eq!(planned, ["environment", "check", "collectstatic", "backup", "migrate"]);
    // What has changed is done, and no other step is listed.
    let planned_and_done = |expected: &[&str]| {
        let (planned, done) = (skipped(&demo), demo.released());
        assert_eq!(planned, expected);
        let listed = |step: &&str| reason(&done, step) == "it was not skipped" && **step != *"environment";
        assert_eq!(planned.iter().map(String::as_str).filter(listed).collect::<Vec<_>>(), [""; 0], "{done:?}");
    };
    demo.changed("board/static/board/board.css", "\nbody { color: red }\n");
    planned_and_done(&["environment", "check", "backup", "migrate"]);
    let nothing = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    dependencies = [(\"board\", \"0002_notice_colour\")]\n    operations = []\n";
    demo.repo.write("board/migrations/0003_nothing.py", nothing).commit("A migration");
    // A new module could bring static files along.
    planned_and_done(&["environment"]);
    // The commit that is live says so, and lists nothing.
    let same = demo.bench.ctl(["plan", "main"]).expect(0).stdout;
    assert!(same.contains("the live release is of the same commit") && same.contains("requirements: unchanged"), "{same}");
    demo.changed("board/static/board/board.css", "\nbody { color: blue }\n");
    demo.repo.write("board/migrations/0004_nothing.py", nothing.replace("0002_notice_colour", "0003_nothing")).commit("Another migration");
    assert_eq!(skipped(&demo), ["environment"]);
    demo.changed("requirements.txt", "\n# another\n");
    assert_eq!(skipped(&demo), [""; 0]);
}

#[test]
fn what_static_files_are_made_of_is_collected_anew_when_it_changes() {
    let demo = Demo::new("static files", "");
    let collected_because = |why: &str| {
        let skipped = demo.released();
        assert!(reason(&skipped, "collectstatic").contains("not skipped"), "{why}: {skipped:?}");
        let notes = demo.notes("collectstatic");
        assert!(notes.contains(&format!("the files of the live release are not reused: {why}")), "{why}: {notes}");
    };
    demo.changed("board/static/board/board.css", "\nbody { color: green }\n");
    collected_because("board/static/board/board.css has changed, which it reads");
    assert!(fs::read_to_string(demo.live().join("staticfiles/board/board.css")).unwrap().contains("green"));

    demo.repo.write("board/static/board/more.css", "p {}").commit("More");
    collected_because("board/static/board/more.css is new");
    assert!(demo.live().join("staticfiles/board/more.css").exists());

    demo.changed("README.md", "\nMore.\n");
    assert!(reason(&demo.released(), "collectstatic").contains("reused"));

    // Settings decide where and how; what they read of each release decides as well.
    demo.changed("noticeboard/settings.py", "\nRELEASE = os.environ.get('REVISION')\n");
    collected_because("noticeboard/settings.py has changed, which it reads");
    demo.view_changed();
    collected_because("it reads the variable REVISION");

    let file = demo.bench.path("config/apps/demo.toml");
    let text = fs::read_to_string(&file).unwrap();
    demo.bench.app("demo", &text.replace("[backup]", "[build_env]\nCOLOUR = \"red\"\n\n[backup]")).reload();
    collected_because("the app's settings, its secrets or the agent are others");
}

/// Whatever is put off has its say before the switch.
#[test]
fn what_was_foreseen_and_is_not_so_fails_the_release_before_anybody_meets_it() {
    let demo = Demo::new("foreseen", "");
    let former = demo.repo.head();
    let serving = || demo.bench.page("/healthz").header("X-Release").map(str::to_owned);
    let instances = || processes_about(&demo.bench.path("run")).len();
    let before = instances();

    // Only the check finds it; the instance serves.
    demo.changed("board/models.py", "\n\nNotice._meta.ordering = [\"nowhere\"]\n");
    demo.bench.ctl(["release", "main"]).expect(1).says(&["models.E015", "nowhere"]);
    assert!(reason(&demo.skipped(), "check").starts_with("runs during"));
    assert_eq!(demo.bench.last_run()["outcome"], "failed");
    assert_eq!((serving(), instances()), (Some(former.clone()), before), "the new instance was stopped");
    demo.repo.reset("HEAD~1");

    // The database of yesterday.
    let database = demo.bench.root_of("demo").join("shared/db.sqlite3");
    sql(&database, "delete from django_migrations where name = '0002_notice_colour'; alter table board_notice drop column colour");
    demo.view_changed();
    demo.bench.ctl(["release", "main"]).expect(1).says(&[
        "the database is not as the live release left it",
        "board.0002_notice_colour",
        "Ask for the release again",
    ]);
    assert_eq!((serving(), instances()), (Some(former), before));

    let skipped = demo.released();
    assert!(["check", "backup", "migrate"].iter().all(|step| reason(&skipped, step).contains("not skipped")), "{skipped:?}");
    assert_eq!(sql(&database, "select count(*) from django_migrations where name = '0002_notice_colour'"), "1");
    assert!(sql(&database, "select group_concat(name) from pragma_table_info('board_notice')").contains("colour"));

    // Another database, which is empty: no hint leads to an empty site.
    let aside = database.with_extension("aside");
    fs::rename(&database, &aside).unwrap();
    fs::write(&database, "").unwrap();
    demo.view_changed();
    let refused = demo.bench.ctl(["release", "main"]).expect(1);
    fs::rename(&aside, &database).unwrap();
    let refused =
        refused.says(&["the database is not as the live release left it", "the database that the settings name is empty: see which one"]);
    assert!(!refused.stderr.contains("Ask for the release again"), "{}", refused.stderr);
}

#[test]
fn hooks_and_migrations_leave_nothing_to_be_foreseen() {
    let demo = Demo::new("hooks", "\n[[hook]]\nbefore = \"collectstatic\"\nrun = [\"true\"]\n");
    let skipped = demo.view_changed().released();
    assert!(reason(&skipped, "collectstatic").contains("not skipped"), "{skipped:?}");
    assert!(demo.notes("collectstatic").contains("the hooks at collectstatic may make static files"));
    assert!(reason(&skipped, "check").starts_with("runs during"), "{skipped:?}");

    let migration = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    dependencies = [(\"board\", \"0002_notice_colour\")]\n    operations = []\n";
    demo.repo.write("board/migrations/0003_nothing.py", migration).commit("A migration");
    let skipped = demo.released();
    assert!(["check", "backup", "migrate"].iter().all(|step| reason(&skipped, step).contains("not skipped")), "{skipped:?}");

    // What is staged is checked when it is staged; the database is asked while it is activated.
    demo.view_changed();
    demo.bench.ctl(["stage", "main"]).expect(0);
    assert!(reason(&demo.skipped(), "check").contains("not skipped"));
    let staged = demo.bench.last_run()["release"].as_str().unwrap().to_owned();
    demo.bench.ctl(["activate", &staged]).expect(0);
    assert!(reason(&demo.skipped(), "migrate").contains("the database is asked during switch"), "{:?}", demo.skipped());
    assert!(demo.notes("switch").contains("the database has every migration"));
}

/// An empty plan is not the same as nothing to do: migrate is heard, and records what replaces migrations that are applied.
#[test]
fn migrate_is_run_where_it_would_do_something_though_no_migration_is_to_be_applied() {
    let demo = Demo::new("an empty plan", "");
    let database = demo.bench.root_of("demo").join("shared/db.sqlite3");
    let made = || sql(&database, "select count(*) from board_notice where name = 'made'");
    let hears = "\n\ndef sync(sender, **more):\n    \
                 for name in NAMES:\n        Notice.objects.get_or_create(text=name, name='made')\n\n\n\
                 from django.db.models.signals import post_migrate\npost_migrate.connect(sync)\n";
    // Not foreseen from the live release, which has none: it is run before anybody can meet the new one.
    demo.repo.write("board/names.py", "NAMES = ['one']\n").commit("Names");
    demo.changed("board/models.py", &format!("\n\nfrom .names import NAMES\n{hears}"));
    demo.released();
    assert_eq!(made(), "1");
    assert!(demo.notes("switch").contains("migrate is heard by board.models.sync (post_migrate)"), "{}", demo.notes("switch"));
    // From then on nothing of it is put off, whatever changes; and no dump is taken for it.
    let dumps = || fs::read_dir(demo.bench.root_of("demo").join("backups")).unwrap().count();
    let before = dumps();
    demo.repo.write("board/names.py", "NAMES = ['one', 'two']\n").commit("More names");
    let skipped = demo.released();
    assert_eq!((made().as_str(), dumps()), ("2", before));
    assert!(reason(&skipped, "migrate").contains("not skipped") && reason(&skipped, "check").contains("not skipped"), "{skipped:?}");
    assert_eq!(reason(&skipped, "backup"), "no migration to apply");

    let squashed = fs::read_to_string(demo.repo.path().join("board/migrations/0001_initial.py")).unwrap();
    let squashed = squashed.replace("initial = True", "initial = True\n    replaces = [('board', '0001_initial')]");
    demo.repo.write("board/migrations/0001_squashed.py", squashed).commit("Squash");
    demo.released();
    assert_eq!(sql(&database, "select count(*) from django_migrations where name = '0001_squashed'"), "1");
    assert_eq!(dumps(), before + 1);
}
