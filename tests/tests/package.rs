//! What becomes of a machine when the package is installed, upgraded, removed and purged: with a site that serves all the while.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_tests::{Booted, Repo, build_package, get, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// The demo, released by the agent's own user; its server is started by the daemon, so that it belongs to the daemon's unit.
const SETTINGS: &str = r#"
repository = "/srv/theirs"
allow_local = true

[python]
interpreter = "/usr/bin/python3"
packages = ["pyuwsgi==2.0.30.post1"]

[django]

[env]
SECRET_KEY = "not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789"
ALLOWED_HOSTS = "localhost,127.0.0.1"
DATABASE_PATH = "/var/demo/shared/db.sqlite3"

[restart]
strategy = "handover"
socket = "/run/demo/web.sock"
command = ["venv/bin/pyuwsgi", "--http-socket", "{socket}", "--module", "noticeboard.wsgi", "--need-app", "--master", "--die-on-term"]

[[check]]
url = "unix:/run/demo/web.sock:/healthz"
contains = "ok"
release_header = "X-Release"
stable = "500ms"

# Where a release is held up while there is a file that says so.
[[hook]]
before = "seal"
run = ["sh", "-c", "touch /var/demo/shared/reached; while [ -e /var/demo/shared/hold ]; do sleep 0.1; done"]
"#;

/// An instance's socket as the operator enables one for an app. It stands for those of the package, whose names are templates as well.
const SOCKET: &str = "[Socket]\nListenStream=/run/release-agent-test.%i\n[Install]\nWantedBy=sockets.target\n";
const SERVICE: &str = "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n";
const INSTANCE: &str = "release-agent-test@shop.socket";

struct Site {
    machine: Booted,
    repo: Repo,
}

impl Site {
    /// Builds the package of a version, and puts it into the machine.
    fn package(&self, version: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let deb: PathBuf = build_package(directory.path(), &["--version", version]);
        let inside = format!("/srv/{}", deb.file_name().unwrap().to_str().unwrap());
        std::fs::copy(&deb, self.machine.path(&inside)).unwrap();
        inside
    }

    /// The commit that a visitor's answer names.
    #[track_caller]
    fn serving(&self) -> String {
        let answer = get(&self.machine.socket("/run/demo/web.sock"), "/healthz").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.header("x-release").unwrap().to_owned()
    }

    fn state(&self, unit: &str) -> String {
        self.machine.property(unit, "ActiveState")
    }

    fn is_there(&self, path: &str) -> bool {
        self.machine.run(["test", "-e", path]).code == 0
    }

    /// How each run ended, the oldest first, by the daemon's word.
    fn outcomes(&self) -> Vec<String> {
        let runs = self.machine.ctl(["runs", "--json"]).expect(0).json();
        let mut ends: Vec<(u64, String)> = runs["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| (run["run"].as_u64().unwrap(), run["outcome"].as_str().unwrap_or("none").to_owned()))
            .collect();
        ends.sort();
        ends.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Has a release wait at the hook, and answers with the ctl that follows it.
    fn held(&self, reference: &str) -> agent_tests::Inside {
        self.machine.run(["rm", "-f", "/var/demo/shared/reached"]).expect(0);
        self.machine.write("/var/demo/shared/hold", "");
        let release = self.machine.begin(["agentctl", "release", reference]);
        wait_until("the release is held up", LONG, || self.is_there("/var/demo/shared/reached"));
        release
    }
}

#[test]
fn the_package_comes_goes_on_and_goes_and_the_site_serves_all_the_while() {
    let machine = Booted::bare("package");
    let repo = machine.demo_repo("demo", 3);
    repo.reset("v2");
    let site = Site { machine, repo };
    let (machine, repo) = (&site.machine, &site.repo);
    let first = site.package("0.1.0-1");
    let second = site.package("0.1.0-2");

    eprintln!("--- install");
    machine.leave_the_index_of_pages();
    machine.run(["dpkg", "--install", &first]).expect(0);
    assert_eq!(site.state("release-agent.service"), "active");
    assert_eq!(machine.property("release-agent.service", "UnitFileState"), "enabled");
    machine.ctl(["status"]).expect(0);
    machine.run(["id", "release-agent"]).expect(0);
    assert_eq!(machine.run(["stat", "--format", "%a %U %G", "/etc/release-agent/keys"]).expect(0).stdout, "750 root release-agent\n");
    machine.run(["man", "-w", "agentctl-release", "agent.toml", "release-agent"]).expect(0);
    machine.run(["dpkg", "--verify", "release-agent"]).expect(0);

    eprintln!("--- what an operator does: settings, an app, an instance's socket");
    let mut agent = machine.read("/etc/release-agent/agent.toml");
    agent = agent.replace("executor = \"units\"", "executor = \"direct\"");
    machine.write("/etc/release-agent/agent.toml", format!("{agent}\n# Ours.\n"));
    // What the documentation of the package says for an agent that runs everything itself.
    let shipped = "/usr/share/doc/release-agent/examples/units/direct.conf";
    machine.run(["cp", shipped, "/etc/systemd/system/release-agent.service.d/"]).expect(0);
    machine.write("/etc/systemd/system/release-agent.service.d/user.conf", "[Service]\nEnvironment=HOME=/var/lib/release-agent\n");
    machine.write("/etc/tmpfiles.d/release-agent-demo.conf", "d /run/demo 0755 release-agent release-agent -\n");
    machine.run(["systemd-tmpfiles", "--create", "release-agent-demo.conf"]).expect(0);
    machine.run(["install", "-d", "-o", "release-agent", "-g", "release-agent", "/var/demo", "/var/demo/shared"]).expect(0);
    machine.run(["cp", "--recursive", "/srv/demo", "/srv/theirs"]).expect(0);
    machine.run(["chown", "--recursive", "release-agent", "/srv/theirs"]).expect(0);
    machine.write("/etc/systemd/system/release-agent-test@.socket", SOCKET);
    machine.write("/etc/systemd/system/release-agent-test@.service", SERVICE);
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["enable", "--now", INSTANCE]);
    machine.systemctl(["restart", "release-agent.service"]);
    machine.write("/etc/release-agent/apps/demo.toml", SETTINGS);
    wait_until("the app is taken up", LONG, || machine.ctl(["status"]).stdout.contains("demo"));
    machine.ctl(["release", "v1"]).expect(0);
    assert_eq!(site.serving(), repo.id("v1"));

    eprintln!("--- an upgrade while a release runs waits for it");
    let (daemon, listener) = (machine.main_process("release-agent.service"), machine.property(INSTANCE, "ActiveEnterTimestampMonotonic"));
    let release = site.held("v2");
    let upgrade = machine.begin(["dpkg", "--install", &second]);
    wait_until("the daemon was told to end", LONG, || site.state("release-agent.service") == "deactivating");
    assert_eq!(machine.main_process("release-agent.service"), daemon, "it is not ended while a release runs");
    assert_eq!(site.serving(), repo.id("v1"));
    machine.run(["rm", "/var/demo/shared/hold"]).expect(0);
    release.finish().expect(0);
    upgrade.finish().expect(0).says(&["restarting the daemon; a release that runs is waited for"]);
    assert_eq!(site.state("release-agent.service"), "active");
    assert_ne!(machine.main_process("release-agent.service"), daemon);
    assert_eq!(machine.run(["dpkg-query", "--show", "--showformat", "${Version}", "release-agent"]).expect(0).stdout, "0.1.0-2");
    assert_eq!(site.outcomes(), ["live", "live"]);
    assert_eq!(site.serving(), repo.id("v2"));
    assert!(machine.read("/etc/release-agent/agent.toml").ends_with("# Ours.\n"), "the operator's configuration stays");
    assert_eq!(machine.property(INSTANCE, "ActiveEnterTimestampMonotonic"), listener, "the instance's socket listened all the while");

    eprintln!("--- one that is not over in time is taken back, and that is told");
    let impatient = agent.replace("#drain_timeout = \"10m\"", "drain_timeout = \"1s\"");
    assert_ne!(impatient, agent);
    machine.write("/etc/release-agent/agent.toml", impatient);
    machine.systemctl(["reload", "release-agent.service"]);
    let live = machine.live("demo");
    let release = site.held("v1");
    machine.run(["dpkg", "--install", &second]).expect(0);
    let end = release.finish();
    assert!(end.code != 0, "the one who follows is told that it is not live: {}{}", end.stdout, end.stderr);
    assert_eq!(site.outcomes(), ["live", "live", "cancelled"]);
    assert_eq!((machine.live("demo"), site.serving()), (live, repo.id("v2")));
    machine.run(["rm", "/var/demo/shared/hold"]).expect(0);
    machine.ctl(["fsck"]).expect(0);

    eprintln!("--- remove");
    let said = machine.run(["dpkg", "--remove", "release-agent"]).expect(0);
    let said = said.says(&["/var/demo stays, and what serves from it goes on", &format!("disabled {INSTANCE}"), "a purge removes them"]);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    assert_eq!((site.state("release-agent.service"), site.state(INSTANCE)), ("inactive".to_owned(), "inactive".to_owned()));
    assert!(!site.is_there(&format!("/etc/systemd/system/sockets.target.wants/{INSTANCE}")), "it would be started at the next boot");
    assert!(!site.is_there("/usr/bin/release-agent") && !site.is_there("/run/release-agent/control.sock"));
    assert!(site.is_there("/var/lib/release-agent/journal.db") && site.is_there("/etc/release-agent/agent.toml"));
    assert_eq!(site.serving(), repo.id("v2"), "what serves goes on");

    eprintln!("--- and back");
    machine.run(["dpkg", "--install", &second]).expect(0);
    assert_eq!(site.state("release-agent.service"), "active");
    assert_eq!(site.outcomes(), ["live", "live", "cancelled"]);
    assert!(machine.read("/etc/release-agent/agent.toml").contains("drain_timeout = \"1s\""), "the operator's configuration stays");

    eprintln!("--- purge");
    machine.write("/etc/systemd/system/release-agent-restart@.service.d/app-demo.conf", "[Service]\n");
    machine.write("/var/cache/release-agent-build/demo/wheel", "");
    let said = machine.run(["dpkg", "--purge", "release-agent"]).expect(0);
    said.says(&["removed /var/lib/release-agent", "removed /etc/release-agent", "/var/demo stays", "the users release-agent"]);
    for gone in ["/var/lib/release-agent", "/etc/release-agent", "/etc/systemd/system/release-agent.service.d"] {
        assert!(!site.is_there(gone), "{gone}");
    }
    for gone in [
        "/var/cache/release-agent-build",
        "/etc/systemd/system/release-agent-restart@.service.d",
        "/etc/tmpfiles.d/release-agent-demo.conf",
    ] {
        assert!(!site.is_there(gone), "{gone}");
    }
    assert!(!Path::new(&machine.path("/etc/systemd/system/multi-user.target.wants/release-agent.service")).is_symlink());
    machine.run(["id", "release-agent"]).expect(0);
    assert!(site.is_there("/var/demo/.agent") && site.is_there("/var/demo/shared/db.sqlite3"));
    assert_eq!((site.serving(), machine.live("demo").is_some()), (repo.id("v2"), true), "never a root");

    eprintln!("--- purge, with a root in the directory of the state");
    machine.run(["dpkg", "--install", &second]).expect(0);
    machine.write("/var/lib/release-agent/inner/releases/one/index.html", "here");
    machine.write(
        "/etc/release-agent/apps/inner.toml",
        "repository = \"/srv/theirs\"\nallow_local = true\nroot = \"/var/lib/release-agent/inner\"\n",
    );
    machine.run(["dpkg", "--purge", "release-agent"]).expect(0).says(&["/var/lib/release-agent stays: an app's root lies in it"]);
    assert_eq!(machine.read("/var/lib/release-agent/inner/releases/one/index.html"), "here");
}
