//! Who may do what, where releases are carried out by units with users of their own (executor = "units"): on a booted machine, by the kernel's own
//! answers. What is refused to one stands beside the same thing done by whoever may.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use agent_tests::{Booted, Repo, project, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_secs(60);

const SET_UP: &str = r#"
useradd --system --no-create-home shop
useradd --system --no-create-home shop-build
usermod -aG shop-build release-agent
install -d -o release-agent -g release-agent -m 0755 /var/shop /var/shop/shared /var/shop/slots
install -d -o release-agent -g shop-build -m 2755 /var/shop/releases /var/shop/environments
install -d -o shop -g shop -m 0755 /var/shop/shared/media
install -d -o shop -g shop -m 0755 /run/shop
install -d /etc/systemd/system/release-agent.service.d /etc/systemd/system/release-agent-app@shop.service.d
printf '[Service]\nReadWritePaths=/var/shop\nEnvironment=HOME=/var/lib/release-agent\n' >/etc/systemd/system/release-agent.service.d/app-shop.conf
printf '[Service]\nLoadCredential=secrets-0:/etc/release-agent/apps/shop.env\n' >/etc/systemd/system/release-agent-app@shop.service.d/setup.conf
chown root:root /etc/release-agent/apps/shop.env
chmod 0600 /etc/release-agent/apps/shop.env
chown --recursive release-agent /srv/shop
systemctl daemon-reload
systemctl enable --now release-agent-build@shop.socket release-agent-app@shop.socket
systemctl restart release-agent.service
"#;

const SECRET: &str = "the-secret-of-the-site-the-secret-of-the-site-0123456789";

/// A machine with the app `shop` and its users; `settings` is the rest of the app's file.
fn shop(name: &str, settings: &str, repo: impl FnOnce(&Booted) -> Repo) -> (Booted, Repo) {
    let machine = Booted::new(name);
    machine.run(["rm", "-rf", "/var/shop", "/etc/shop"]).expect(0);
    let repo = repo(&machine);
    machine.write("/etc/release-agent/agent.toml", "executor = \"units\"\n");
    set(&machine, settings);
    machine.write("/etc/release-agent/apps/shop.env", format!("SECRET_KEY={SECRET}\nTOKEN={SECRET}\n"));
    machine.run(["sh", "-euxc", SET_UP]).expect(0);
    // Where everybody on the host may write.
    machine.run(["install", "-d", "-m", "1777", "/opt/anybody"]).expect(0);
    wait_until("the agent answers", LONG, || machine.ctl(["status"]).code == 0);
    (machine, repo)
}

fn set(machine: &Booted, settings: &str) {
    let taken_up = || machine.journal("release-agent.service").matches("the configuration was taken up").count();
    let (before, runs) = (taken_up(), machine.property("release-agent.service", "ActiveState") == "active");
    let text = format!(
        "repository = \"/srv/shop\"\nallow_local = true\n[secrets]\nfiles = [\"/etc/release-agent/apps/shop.env\"]\n[shared]\ndirs = [\"media\"]\n{settings}"
    );
    machine.write("/etc/release-agent/apps/shop.toml", text);
    if runs {
        wait_until("the app's file is taken up", LONG, || taken_up() > before);
    }
}

/// The agent takes the repository for its own user's.
fn handed_over(machine: &Booted) {
    machine.run(["chown", "--recursive", "release-agent", "/srv/shop"]).expect(0);
}

/// Fails the test unless everything in a tree belongs to the agent, and nobody else may write there.
#[track_caller]
fn assert_agents_own(machine: &Booted, tree: &str) -> usize {
    let agent: u32 = machine.run(["id", "-u", "release-agent"]).stdout.trim().parse().unwrap();
    let mut looked_at = vec![machine.path(tree)];
    let mut count = 0;
    while let Some(path) = looked_at.pop() {
        let meta = path.symlink_metadata().unwrap();
        assert_eq!(meta.uid(), agent, "{}", path.display());
        assert!(
            meta.is_symlink() || meta.mode() & 0o7022 == 0 || path.ends_with(tree.trim_start_matches('/')),
            "{}: {:o}",
            path.display(),
            meta.mode()
        );
        count += 1;
        if meta.is_dir() {
            looked_at.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    count
}

const DJANGO: &str = r#"
[python]
interpreter = "/usr/bin/python3"
[django]
[env]
ALLOWED_HOSTS = "localhost"
DATABASE_PATH = "/var/shop/shared/media/db.sqlite3"
[build_env]
SECRET_KEY = "only-for-collectstatic-only-for-collectstatic-only-for-collectstatic"
[backup]
database = "sqlite"
"#;

#[test]
fn a_django_release_is_made_by_those_who_may_and_nobody_else_can_change_it() {
    let (machine, _repo) = shop("django", DJANGO, |machine| machine.demo_repo("shop", 3));
    let first = machine.ctl(["release", "v1", "-vv"]).expect(0);
    assert!(first.stderr.contains("1 static file copied"), "{}", first.stderr);
    assert!(first.stderr.contains("board.0001_initial"), "{}", first.stderr);
    let live = machine.live("shop").unwrap();
    assert!(assert_agents_own(&machine, &format!("/var/shop/releases/{live}")) > 30);
    assert!(assert_agents_own(&machine, "/var/shop/environments") > 1000);
    let dump = machine.path(format!("/var/shop/backups/{live}.sqlite3"));
    assert_eq!(dump.metadata().unwrap().mode() & 0o777, 0o600);
    assert_agents_own(&machine, "/var/shop/backups");

    // The same requirements: the environment is reused. A migration, a dump of a database that has something in it.
    let second = machine.ctl(["release", "v2", "-vv"]).expect(0);
    assert!(second.stderr.contains("reused: nothing that decides it has changed"), "{}", second.stderr);
    let dump = format!("/var/shop/backups/{}.sqlite3", machine.live("shop").unwrap());
    let tables = machine.run(["sqlite3", &dump, ".tables"]).expect(0).stdout;
    assert!(tables.contains("board_notice"), "{tables}");

    // What the settings cannot be loaded without, and nobody who builds may know.
    set(&machine, &DJANGO.replace("[build_env]\nSECRET_KEY", "[build_env]\nOTHER"));
    let failed = machine.ctl(["release", "v1"]).expect(1);
    assert!(failed.stderr.contains("✗ collectstatic") && failed.stderr.contains("[build_env]"), "{}", failed.stderr);
    assert_eq!(machine.run(["sh", "-c", "ls -A /var/shop/releases | wc -l"]).stdout.trim(), "2");

    // The dump is put back by root, who neither knows a secret by heart nor runs the app's code; the file stays its user's.
    let columns =
        ["sqlite3", "/var/shop/shared/media/db.sqlite3", "select count(*) from pragma_table_info('board_notice') where name = 'colour'"];
    assert_eq!(machine.run(columns).stdout.trim(), "1");
    machine
        .run(["agentctl", "restore", "shop", "--user=shop", &dump])
        .expect(0)
        .says(&["done: the database is as it was when the dump was made"]);
    assert_eq!(machine.run(columns).stdout.trim(), "0");
    assert_eq!(machine.run(["stat", "-c", "%U", "/var/shop/shared/media/db.sqlite3"]).stdout.trim(), "shop");
    machine.run(["agentctl", "restore", "shop", "--user=nobody-of-that-name", &dump]).expect(2);

    let said = machine.ctl(["doctor"]);
    assert!(said.stdout.contains("shop-build builds, shop checks, migrates and serves"), "{}{}", said.stdout, said.stderr);
    machine.ctl(["fsck"]).expect(0);
    let logs = machine.run(["journalctl", "--no-pager", "--quiet"]).stdout + &machine.ctl(["logs", "1", "--json"]).stdout;
    assert!(!logs.contains(SECRET), "a secret is told");
}

/// What came of each attempt, by who made it.
fn tried(output: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let lines = output.lines().filter_map(|line| line.split_once("TRIED ")?.1.split_once(' '));
    lines.map(|(who, tried)| (who.to_owned(), serde_json::from_str(tried.trim()).unwrap())).collect()
}

/// What only whoever builds may do, what only the app's own user may do, and what both may.
const BUILD_MAY: &[&str] = &["write in this release"];
const APP_MAY: &[&str] = &["know the secrets", "read the secrets that were handed over", "write what is shared", "listen on a port"];
const BOTH_MAY: &[&str] = &["leave a daemon", "open a socket of the network", "make memory that is written and run"];

/// What owners and modes alone do not refuse.
const HELD_BY_UNITS: &[&str] = &[
    "make a program that is somebody else",
    "make a user namespace",
    "trace its parent",
    "use keys of the kernel",
    "have itself traced",
    "listen on a port",
    "leave a daemon",
    "see the agent among the processes",
    "write where anybody may",
    "read what others have in /tmp",
    "look into homes",
    "speak netlink to the kernel",
    "change how it is run",
    "open a socket of the network",
    "make memory that is written and run",
];

/// PRV 01 to 06, 14 to 16; BLD 01, 02, 08, 09, 12, by units.
#[test]
fn prv_01_to_06_and_14_to_16_code_of_strangers_does_what_it_may_and_nothing_else() {
    let (machine, repo) = shop("strangers", "[python]\ninterpreter = \"/usr/bin/python3\"\ninstall = [[\"true\"]]\n", |machine| {
        let repo = machine.repo("shop");
        repo.write("page", "one").commit("One");
        repo
    });
    machine.ctl(["release", "main"]).expect(0);
    machine.write("/tmp/of-others", "anybody may read this");
    let older = format!("/var/shop/releases/{}", machine.live("shop").unwrap());
    let attack = std::fs::read_to_string(project("tests/src/attack.py")).unwrap();
    repo.write("attack.py", attack).write("page", "two").commit("Two");
    handed_over(&machine);
    let run = |who: &str| format!("[\"/usr/bin/python3\", \"{{attack}}\", \"{who}\", \"{older}\"]").replace("{attack}", "attack.py");
    set(
        &machine,
        &format!(
            "[python]\ninterpreter = \"/usr/bin/python3\"\ninstall = [{}]\n[[hook]]\nafter = \"environment\"\nrun = {}\n[[hook]]\nafter = \"seal\"\nrun = {}\n",
            run("installer"),
            run("build-hook"),
            run("app-hook")
        ),
    );
    let released = machine.ctl(["release", "main", "-vv"]).expect(0);
    let told = |line: &str| released.stderr.contains(line) || released.stdout.contains(line);
    assert!(told("TOLD app-hook ***") && told("TOLD build-hook None") && told("TOLD installer None"), "{}", released.stderr);
    let tried = tried(&(released.stdout + &released.stderr));
    assert_eq!(tried.keys().map(String::as_str).collect::<Vec<_>>(), ["app-hook", "build-hook", "installer"]);
    for (who, tried) in &tried {
        assert_eq!(tried.len(), 39, "{who}: {tried:?}");
        let side = if who == "app-hook" { APP_MAY } else { BUILD_MAY };
        for (what, ended) in tried {
            let may = side.contains(&what.as_str()) || BOTH_MAY.contains(&what.as_str());
            assert_eq!(ended == "done", may, "{who} tried to {what}: {ended}");
        }
    }
    // Nothing that was left runs, whatever it made of itself.
    let processes = machine.run(["ps", "-eo", "args"]).expect(0).stdout;
    assert!(processes.contains("release-agent") && !processes.contains("left-by-an-attack"), "{processes}");
    assert_agents_own(&machine, &older);
    assert_agents_own(&machine, &format!("/var/shop/releases/{}", machine.live("shop").unwrap()));
    machine.ctl(["fsck"]).expect(0);
    // PRV 14: what was made in the release is no program that is somebody else.
    let odd = machine.run(["find", "/var/shop", "-type", "f", "-perm", "/6000"]).stdout;
    assert_eq!(odd, "");

    // The same attempts by the users themselves, outside of any unit: what is refused is refused by owners and modes alone.
    for (user, extra) in [("shop", vec!["write what is shared"]), ("shop-build", vec![])] {
        let script = format!("cd /var/shop/app && exec /usr/bin/python3 attack.py {user} {older}");
        let said = machine
            .run(["setpriv", "--reuid", user, "--regid", user.replace("nobody", "nogroup").as_str(), "--clear-groups", "sh", "-c", &script])
            .expect(0)
            .stdout;
        let tried = &self::tried(&said)[user];
        for (what, ended) in tried.iter().filter(|(what, _)| !HELD_BY_UNITS.contains(&what.as_str())) {
            assert_eq!(ended == "done", extra.contains(&what.as_str()), "{user} tried to {what}: {ended}");
        }
    }
}

/// What each of these directives of the step runners keeps back: taken away, it is possible.
const KEEPS_BACK: &[(&str, &str)] = &[
    ("RestrictSUIDSGID=no", "make a program that is somebody else"),
    ("SystemCallFilter=", "have itself traced"),
    ("ProtectProc=default", "see the agent among the processes"),
    ("ProtectSystem=no\nReadOnlyPaths=", "write where anybody may"),
    ("PrivateTmp=no", "read what others have in /tmp"),
    ("ProtectHome=no", "look into homes"),
    ("RestrictAddressFamilies=", "speak netlink to the kernel"),
    ("LockPersonality=no", "change how it is run"),
];

#[test]
fn each_bound_of_the_step_runners_that_can_be_shown_keeps_something_back() {
    let (machine, repo) = shop("bounds", "", |machine| machine.repo("shop"));
    let attack = std::fs::read_to_string(project("tests/src/attack.py")).unwrap();
    repo.write("attack.py", attack).write("page", "one").commit("One");
    handed_over(&machine);
    machine.write("/tmp/of-others", "anybody may read this");
    let run = |who: &str| format!("run = [\"/usr/bin/python3\", \"attack.py\", \"{who}\", \"/none\"]");
    set(&machine, &format!("[[hook]]\nafter = \"checkout\"\n{}\n[[hook]]\nafter = \"seal\"\n{}\n", run("build"), run("app")));
    let attacked = || {
        let released = machine.ctl(["release", "main", "-vv"]).expect(0);
        tried(&(released.stdout + &released.stderr))
    };
    let held = attacked();
    let held_by_landlock = ["write where anybody may"];
    for (directive, what) in KEEPS_BACK {
        for side in ["build", "app"] {
            machine.write(&format!("/etc/systemd/system/release-agent-{side}@.service.d/zz.conf"), format!("[Service]\n{directive}\n"));
        }
        machine.systemctl(["daemon-reload"]);
        let open = attacked();
        for (side, tried) in &open {
            assert_ne!(held[side][*what], "done", "{side} could {what} in any case");
            // What the runner holds a build to with Landlock is held whatever its unit says.
            let by_landlock = side == "build" && held_by_landlock.contains(what);
            assert_eq!(tried[*what] == "done", !by_landlock, "{side}, without {directive}: {what}: {}", tried[*what]);
        }
    }
}

/// The same for the agent, and for a helper, which is root.
const AGENT_KEEPS_BACK: &[(&str, &str)] = &[
    ("ProtectSystem=no", "write where anybody may"),
    ("PrivateTmp=no", "read what others have in /tmp"),
    ("ProtectHome=no", "look into homes"),
    ("RestrictSUIDSGID=no", "make a program that is somebody else"),
    ("SystemCallFilter=", "have itself traced"),
    ("LockPersonality=no", "change how it is run"),
    ("MemoryDenyWriteExecute=no", "make memory that is written and run"),
];
const HELPER_KEEPS_BACK: &[(&str, &str)] = &[
    ("ProtectSystem=no", "write whom the agent trusts"),
    ("ProtectSystem=no\nCapabilityBoundingSet=~", "set the link"),
    ("PrivateTmp=no", "read what others have in /tmp"),
    ("ProtectHome=no", "look into homes"),
    ("RestrictSUIDSGID=no", "make a program that is somebody else"),
    ("SystemCallFilter=", "have itself traced"),
    ("LockPersonality=no", "change how it is run"),
    ("MemoryDenyWriteExecute=no", "make memory that is written and run"),
    ("RestrictAddressFamilies=", "open a socket of the network"),
    ("RestrictAddressFamilies=", "speak netlink to the kernel"),
];

#[test]
fn each_bound_of_the_agent_and_of_its_helpers_that_can_be_shown_keeps_something_back() {
    let (machine, _repo) = shop("more-bounds", "", |machine| machine.repo("shop"));
    machine.write("/tmp/of-others", "anybody may read this").write("/etc/release-agent/allowed_signers", "");
    machine.write("/usr/local/lib/attack.py", std::fs::read_to_string(project("tests/src/attack.py")).unwrap());
    // The unit as it is shipped, but for what it runs.
    let attacked = |unit: &str, without: &str| {
        let shipped = std::fs::read_to_string(project("systemd/system").join(unit)).unwrap();
        let own = [
            "Type=",
            "Exec",
            "NotifyAccess=",
            "Watchdog",
            "Restart=",
            "RestartSec=",
            "RestartPrevent",
            "StateDirectory",
            "RuntimeDirectory",
            "StandardOutput=",
        ];
        let kept: Vec<&str> = shipped.lines().filter(|line| !own.iter().any(|word| line.starts_with(word))).collect();
        let run = format!(
            "Type=oneshot\nExecStart=/usr/bin/python3 /usr/local/lib/attack.py it /none\nStandardOutput=file:/var/told\n{without}\n[Unit]\n"
        );
        machine.write("/etc/systemd/system/attack.service", format!("{}\n[Service]\n{run}", kept.join("\n").replace("%i", "shop")));
        machine.run(["rm", "-f", "/var/told"]).expect(0);
        machine.systemctl(["daemon-reload"]);
        machine.systemctl(["start", "attack.service"]);
        tried(&machine.read("/var/told"))["it"].clone()
    };
    for (unit, keeps_back) in [("release-agent.service", AGENT_KEEPS_BACK), ("release-agent-restart@.service", HELPER_KEEPS_BACK)] {
        let held = attacked(unit, "");
        for (directive, what) in keeps_back {
            assert_ne!(held[*what], "done", "{unit} could {what} in any case");
            machine.run(["rm", "-f", "/var/shop/app.next"]).expect(0);
            assert_eq!(attacked(unit, directive)[*what], "done", "{unit}, without {directive}: {what}");
        }
    }
}

/// PRV 03, 11 to 13: what the runners are asked for, and by whom.
#[test]
fn prv_11_to_13_a_runner_knows_jobs_and_no_programs() {
    let (machine, _repo) = shop("runners", "", |machine| {
        let repo = machine.repo("shop");
        repo.write("page", "one").commit("One");
        repo
    });
    machine.ctl(["release", "main"]).expect(0);
    let live = machine.live("shop").unwrap();
    let ask = |user: &str, side: &str, line: &str| {
        let script = format!(
            "import socket\nline = {line:?}\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(20)\ns.connect('/run/release-agent-steps/shop.{side}')\n\
             f = s.makefile('rw')\nprint(f.readline().strip())\nf.write(line + '\\n'); f.flush()\nprint(f.readline().strip())\n"
        );
        machine.run([
            "setpriv",
            "--reuid",
            user,
            "--regid",
            user.replace("nobody", "nogroup").as_str(),
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            &script,
        ])
    };
    let commit = "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b";
    let order = |job: &str, release: &str| {
        format!(
            r#"{{"job":{job},"run":1,"marker":"m","caller":"c","release":{{"name":"{release}","commit":"{commit}","ref":null}},"former":null,"ms":5000}}"#
        )
    };
    // What is asked for as it should be is done.
    let good = ask("release-agent", "app", &order("\"used\"", &live)).expect(0).stdout;
    assert!(
        good.contains(r#"{"hello":{"version":1,"app":"shop","role":"app","user":"shop"}}"#) && good.contains(r#"{"answer":{"used":[]}}"#),
        "{good}"
    );
    // PRV 03: nobody else is even heard.
    for user in ["shop", "shop-build", "nobody"] {
        let refused = ask_as(&machine, user);
        assert!(refused.contains("PermissionError"), "{user}: {refused}");
    }
    // PRV 11, 12: a job that there is not, and one with arguments.
    for (job, told) in [
        ("\"make-coffee\"", "does not know what it was asked for"),
        (r#"{"hook":["sh","-c","id"]}"#, "does not know what it was asked for"),
        (r#"{"hook":{"place":0,"digest":"","argv":["id"]}}"#, "does not know what it was asked for"),
        (r#"{"hook":{"place":7,"digest":""}}"#, "is no job for the step runner"),
        ("\"grant-access\"", "is no job for the step runner"),
    ] {
        let refused = ask("release-agent", "app", &order(job, &live)).expect(0).stdout;
        assert!(refused.contains(told), "{job}: {refused}");
    }
    // PRV 13: another app's release is none of this one's, however it is named.
    let refused = ask("release-agent", "app", &order("\"load\"", "2026-11-20-22-45-23-1a2b3c4d5e6f")).expect(0).stdout;
    assert!(refused.contains("no [django] is set") || refused.contains("has no release"), "{refused}");
    let refused = ask("release-agent", "app", &order("\"load\"", "../../other/releases/x")).expect(0).stdout;
    assert!(refused.contains("does not know what it was asked for"), "{refused}");
    // The runner's own program, started by hand, does nothing.
    let by_hand = machine.run(["release-agent", "--runner", "app", "--for", "shop"]);
    assert!(by_hand.code == 69 && by_hand.stderr.contains("is started by its socket unit"), "{}", by_hand.stderr);
}

fn ask_as(machine: &Booted, user: &str) -> String {
    let script = "import socket; socket.socket(socket.AF_UNIX).connect('/run/release-agent-steps/shop.build')";
    machine
        .run([
            "setpriv",
            "--reuid",
            user,
            "--regid",
            user.replace("nobody", "nogroup").as_str(),
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ])
        .stderr
}

/// A hook that builds something nobody else may look into, says so, and then takes its time; unless there is a way through.
const SLOW: &str = r#"
[[hook]]
after = "link-shared"
run = ["sh", "-c", "mkdir -p private/deep && echo built >private/deep/file && chmod 700 private private/deep && touch started && sleep ${PAUSE:-3} && mkdir more"]
"#;

#[test]
fn whatever_dies_in_the_middle_nothing_of_a_build_is_left() {
    let (mut machine, repo) = shop("cut-off", "", |machine| {
        let repo = machine.repo("shop");
        repo.write("page", "one").commit("One");
        repo
    });
    machine.ctl(["release", "main"]).expect(0);
    let first = machine.live("shop").unwrap();
    repo.write("page", "two").commit("Two");
    handed_over(&machine);
    set(&machine, &format!("[env]\nPAUSE = \"600\"\n{SLOW}"));
    let begin = |machine: &Booted| {
        let run = machine.begin(["agentctl", "release", "main"]);
        let started = || machine.run(["sh", "-c", "ls /var/shop/releases/*/started"]).code == 0;
        wait_until("the hook runs", LONG, started);
        run
    };
    let assert_nothing_left = |machine: &Booted, how: &str| {
        let left = || machine.run(["ls", "-A", "/var/shop/releases"]).stdout;
        wait_until("it is taken back", LONG, || left().trim() == first);
        assert_eq!(machine.live("shop").as_ref(), Some(&first), "{how}");
        let builders = machine.run(["ps", "-u", "shop-build", "-o", "args="]).stdout;
        assert_eq!(builders, "", "{how}: somebody builds still");
        machine.ctl(["fsck"]).expect(0);
    };

    // Cancelled.
    let run = begin(&machine);
    machine.ctl(["cancel", "2"]).expect(0);
    run.finish().expect(7);
    assert_nothing_left(&machine, "cancelled");

    // The runner is killed: the agent is told that it ended.
    let run = begin(&machine);
    let runner = machine.main_process("release-agent-build@shop.service");
    kill(Pid::from_raw(runner), Signal::SIGKILL).unwrap();
    let failed = run.finish().expect(1);
    assert!(failed.stderr.contains("release-agent-build@shop.service ended in the middle of a job"), "{}", failed.stderr);
    assert_nothing_left(&machine, "the runner was killed");

    // The agent is killed: the runner ends by itself, and the agent that comes takes back.
    let run = begin(&machine);
    kill(Pid::from_raw(machine.main_process("release-agent.service")), Signal::SIGKILL).unwrap();
    let _ = run.finish();
    assert_nothing_left(&machine, "the agent was killed");

    // The host goes down, as if its power had failed. What is there is on a disk in memory, which stays.
    let run = begin(&machine);
    machine.reboot(&["--force", "--force"]);
    let _ = run.finish();
    machine.systemctl(["start", "release-agent.service"]);
    assert_nothing_left(&machine, "the host went down");

    // Cancelled while packages are installed.
    let install = "[python]\ninterpreter = \"/usr/bin/python3\"\ninstall = [[\"sh\", \"-c\", \"mkdir -m 700 $VIRTUAL_ENV/private && touch started $VIRTUAL_ENV/private/file && sleep 600\"]]\n";
    set(&machine, install);
    let run = begin(&machine);
    let number = machine.ctl(["runs", "--json"]).expect(0).json()["runs"][0]["run"].to_string();
    machine.ctl(["cancel", &number]).expect(0);
    run.finish().expect(7);
    assert_nothing_left(&machine, "cancelled while packages are installed");
    assert_eq!(machine.run(["ls", "-A", "/var/shop/environments"]).stdout, "");

    // Left alone it comes to its end, and what nobody could look into is the agent's as well.
    set(&machine, &format!("[env]\nPAUSE = \"0\"\n{SLOW}"));
    machine.ctl(["release", "main"]).expect(0);
    let second = machine.live("shop").unwrap();
    assert_ne!(first, second);
    assert_eq!(machine.read(&format!("/var/shop/releases/{second}/private/deep/file")), "built\n");
    assert_agents_own(&machine, &format!("/var/shop/releases/{second}"));

    // What is staged is the agent's own as well before anybody has activated it.
    machine.ctl(["stage", "main"]).expect(0);
    let staged = machine.ctl(["runs", "--json"]).expect(0).json()["runs"][0]["release"].as_str().unwrap().to_owned();
    assert_ne!(staged, second);
    assert_eq!(machine.live("shop").as_ref(), Some(&second));
    assert_agents_own(&machine, &format!("/var/shop/releases/{staged}"));
    machine.ctl(["activate", &staged]).expect(0);
    assert_eq!(machine.live("shop"), Some(staged));
}

/// The app's own directory of sockets is the app's: what it puts there must not make the agent use a grant of another app's.
#[test]
fn each_helper_is_out_of_reach_of_a_link_in_the_directory_of_an_app() {
    let check = "[[check]]\nurl = \"unix:/run/shop/web.sock:/\"\nwithin = \"3s\"\n";
    let (machine, _repo) = shop("links", check, |machine| {
        let repo = machine.repo("shop");
        repo.write("page", "one").commit("One");
        repo
    });
    machine.write("/etc/systemd/system/other.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["start", "other.service", "release-agent-restart@other.service.socket"]);
    let before = machine.main_process("other.service");
    machine
        .run([
            "setpriv",
            "--reuid",
            "shop",
            "--regid",
            "shop",
            "--clear-groups",
            "ln",
            "-s",
            "/run/release-agent-helpers/restart.other.service",
            "/run/shop/web.sock",
        ])
        .expect(0);
    let failed = machine.ctl(["release", "main"]);
    assert!(failed.code == 3 || failed.code == 1, "{failed:?}");
    assert_eq!(machine.main_process("other.service"), before, "the agent has used another app's grant");
    // And yet it is a grant: whoever is the agent connects, and the unit is restarted.
    let script =
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/release-agent-helpers/restart.other.service'); s.recv(1)";
    machine.run(["setpriv", "--reuid", "release-agent", "--regid", "release-agent", "--clear-groups", "/usr/bin/python3", "-c", script]);
    wait_until("it is restarted", LONG, || {
        machine.property("other.service", "ActiveState") == "active" && machine.main_process("other.service") != before
    });
}

/// PRV 18, and what each unit would be without its bounds.
#[test]
fn prv_18_every_unit_that_is_shipped_is_exposed_by_two_at_most() {
    let mut looked_at = 0;
    for entry in project("systemd/system").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "service") {
            continue;
        }
        looked_at += 1;
        let said = exposure(&path);
        assert!(said.0, "{}:\n{}", path.display(), said.1);
    }
    assert!(looked_at >= 3, "{looked_at}");
    // The measure itself can fail.
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open.service");
    std::fs::write(&open, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(!exposure(&open).0);
}

fn exposure(unit: &Path) -> (bool, String) {
    let mut command = std::process::Command::new("systemd-analyze");
    let said = command.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(unit).output().unwrap();
    (said.status.success(), String::from_utf8_lossy(&said.stdout).into_owned())
}
