//! Commands of the app's own at a terminal: which environment they get, who may run them, what is recorded, and that they wait while a migration runs.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs::{self, File};
use std::time::Duration;

use agent_tests::{Bench, Repo, SigningKey, demo_settings, form, wait_until};
use serde_json::json;

const LONG: Duration = Duration::from_secs(60);
const DAEMON: u32 = 1;

fn plain(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let secrets = bench.write("secrets.env", "TOKEN=not-for-everybody\n");
    fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let toml = format!(
        "repository = {:?}\nallow_local = true\nbranches = [\"main\"]\n[env]\nCOLOUR = \"blue\"\n[secrets]\nfiles = [{secrets:?}]\n",
        repo.path()
    );
    bench.app("plain", &toml).start();
    bench.ctl(["release", "main"]).expect(0);
    // The configuration is not where an installed agent has it.
    bench.variable("RELEASE_AGENT_CONFIG", bench.path("config").to_str().unwrap());
    (bench, repo)
}

#[test]
fn a_command_has_the_environment_of_the_release_and_its_own_exit_code() {
    let (bench, _) = plain("exec");
    let live = bench.live("plain").unwrap();
    bench.variable("STRAY", "of the person at the terminal");
    let script = "echo \"$RELEASE_NAME $COLOUR $TOKEN ${STRAY-none} ${RELEASE_AGENT_SECRETS-none}\"; pwd -P; echo said >&2; exit 7";
    let done = bench.ctl(["exec", "--", "sh", "-c", script]).expect(7);
    let directory = bench.root_of("plain").join("releases").join(&live);
    assert_eq!(done.stdout, format!("{live} blue not-for-everybody none none\n{}\n", directory.display()));
    assert_eq!(done.stderr, "said\n", "nothing is said beside the command");

    // Recorded with its command line, and with the release.
    let run = bench.last_run();
    assert_eq!((run["action"].as_str(), run["release"].as_str(), run["outcome"].as_str()), (Some("exec"), Some(&*live), Some("done")));
    assert!(run["of"].as_str().unwrap().starts_with("sh -c "), "{run}");
    assert!(bench.log().contains("action=\"exec\""), "{}", bench.log());

    bench.ctl(["exec", "--", "no-such-program"]).expect(127).says(&["cannot run no-such-program"]);
    bench.ctl(["exec", "--release", "2020", "--", "true"]).expect(2).says(&["there is no release 2020"]);
    bench.ctl(["manage", "check"]).expect(1).says(&["no [django] is set for plain"]);
    bench.ctl(["exec"]).expect(2);
}

#[test]
fn a_command_runs_in_a_former_release_and_in_none_that_was_never_made() {
    let (bench, repo) = plain("exec in a release");
    let first = bench.live("plain").unwrap();
    repo.write("page.html", "two").commit("Two");
    bench.ctl(["release", "main"]).expect(0);
    assert_ne!(bench.live("plain").unwrap(), first);
    assert_eq!(bench.ctl(["exec", "--release", "previous", "--", "cat", "page.html"]).expect(0).stdout, "one");
    assert_eq!(bench.ctl(["exec", "--release", &first, "--", "cat", "page.html"]).expect(0).stdout, "one");
    assert_eq!(bench.ctl(["exec", "--", "cat", "page.html"]).expect(0).stdout, "two");
}

#[test]
fn only_who_has_the_right_runs_commands_and_nobody_over_the_network() {
    let bench = Bench::new("exec rights");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let key = SigningKey::from_seed(&[7; 32]);
    bench.app("plain", &format!("repository = {:?}\nallow_local = true\nbranches = [\"main\"]\n", repo.path()));
    let grant = "[[grant]]\nto = \"key:anna\"\napps = [\"plain\"]\nactions = [\"*\"]\n";
    let network = bench.network("socket_group = \"daemon\"", grant, &key.line("anna"));
    bench.let_others_in().start();
    bench.ctl(["release", "main"]).expect(0);
    let answer = network.ask(&key, &form("exec", json!({"app": "plain", "command": ["true"]})));
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(answer.body.contains("at a terminal of the app's host"), "{}", answer.body);
    let answer = network.ask(&key, &form("exec", json!({"app": "plain"})));
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains("needs `command`"), "{}", answer.body);

    if !agent_tests::is_root("another user needs the right, and is not the app's user") {
        return;
    }
    bench.ctl_as(DAEMON, &[], ["--app", "plain", "exec", "--", "true"]).expect(4).says(&["may not exec plain"]);
}

#[test]
fn a_command_waits_while_a_migration_runs() {
    let bench = Bench::new("exec waits");
    let (repo, gate) = (bench.demo_repo(2), bench.path("go-on"));
    bench.app("demo", &demo_settings(&bench, &repo)).start();
    bench.ctl(["release", "main"]).expect(0);
    bench.variable("RELEASE_AGENT_CONFIG", bench.path("config").to_str().unwrap());
    assert!(bench.ctl(["manage", "showmigrations", "board"]).expect(0).stdout.contains("[X] 0002_notice_colour"));
    let migration = format!(
        "import os, time\nfrom django.db import migrations\n\n\ndef wait(apps, schema_editor):\n    while not os.path.exists({:?}):\n        \
         time.sleep(0.05)\n\n\nclass Migration(migrations.Migration):\n    dependencies = [(\"board\", \"0002_notice_colour\")]\n    operations = \
         [migrations.RunPython(wait, migrations.RunPython.noop)]\n",
        gate.display().to_string()
    );
    repo.write("board/migrations/0003_wait.py", migration).commit("A slow migration");
    let release = bench.ctl_begin(["release", "main"]);
    let file = bench.root_of("demo").join(".agent/migrating");
    let is_closed = || File::open(&file).is_ok_and(|file| file.try_lock_shared().is_err());
    wait_until("the migration runs", LONG, is_closed);
    let mut command = bench.ctl_begin(["exec", "--", "sh", "-c", "echo after"]);
    wait_until("the command says that it waits", LONG, || command.stderr().contains("a migration of demo runs"));
    assert!(!command.is_over() && command.stdout().is_empty());
    fs::write(&gate, "").unwrap();
    assert_eq!(command.finish(LONG).expect(0).stdout, "after\n");
    release.finish(LONG).expect(0);
    assert!(!is_closed());
}
