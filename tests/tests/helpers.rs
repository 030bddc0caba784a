//! What an agent can do that is nobody: its units by helpers that were enabled for exactly these, and nothing else. Nobody asks polkit here.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use agent_tests::{AGENT, Booted, Done, Repo, Stages, Visitors, example, get, project, serving, shop_file, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// Enables the helper that does this to a unit, and with it grants the agent the act.
#[track_caller]
fn grant(machine: &Booted, verb: &str, unit: &str) {
    machine.systemctl(["enable", "--quiet", "--now", &format!("release-agent-{verb}@{unit}.socket")]);
}

/// A machine in which nobody can ask polkit for anything.
fn without_polkit(name: &str) -> Booted {
    let machine = Booted::new(name);
    machine.systemctl(["stop", "polkit.service"]);
    // As where it is not installed: nobody starts it.
    machine.run(["rm", "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"]).expect(0);
    machine
}

#[test]
fn helpers_have_next_to_no_power() {
    for verb in ["start", "stop", "restart", "reload"] {
        let unit = project("systemd/system").join(format!("release-agent-{verb}@.service"));
        let judged = Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=10"]).arg(&unit).output().unwrap();
        assert!(judged.status.success(), "{verb}:\n{}", String::from_utf8_lossy(&judged.stdout));
    }
}

/// Of what an example does not bind, everybody who copies it has none.
#[test]
fn every_example_of_a_unit_is_bound() {
    let units = std::fs::read_dir(project("systemd/examples")).unwrap().map(|entry| entry.unwrap().path());
    let services: Vec<_> = units.filter(|path| path.extension().is_some_and(|ending| ending == "service")).collect();
    assert!(services.len() >= 7, "{services:?}");
    for unit in services {
        let judged = Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20"]).arg(&unit).output().unwrap();
        assert!(judged.status.success(), "{}:\n{}", unit.display(), String::from_utf8_lossy(&judged.stdout));
    }
}

/// The agent's user, with a shell on the host: as much as whoever breaks into the agent has.
struct Intruder<'m>(&'m Booted);

impl Intruder<'_> {
    fn run(&self, argv: &[&str]) -> Done {
        as_user(self.0, "release-agent", argv)
    }

    /// Fails the test unless systemd refuses it, and it left nothing.
    #[track_caller]
    fn is_refused(&self, argv: &[&str]) {
        let refused = self.run(argv);
        let denied = ["Access denied", "authentication required", "Permission denied"].iter().any(|words| refused.stderr.contains(words));
        assert!(refused.code != 0 && denied, "{argv:?}: {refused:?}");
        assert!(!self.0.path(OWNED).exists(), "{argv:?}");
    }
}

/// What whoever became root would have made.
const OWNED: &str = "/run/owned";

fn as_user(machine: &Booted, user: &str, argv: &[&str]) -> Done {
    let user = [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned(), "--".to_owned()];
    machine.run(["setpriv".to_owned()].into_iter().chain(user).chain(argv.iter().map(|arg| (*arg).to_owned())))
}

/// Connects to a helper as whoever runs it, says something, and waits for the end.
fn ask(times: u32, helper: &str) -> [String; 3] {
    let script = format!(
        "import socket\nall = [socket.socket(socket.AF_UNIX) for _ in range({times})]\nfor one in all:\n    one.connect('/run/release-agent-helpers/{helper}')\n\
         for one in all:\n    try:\n        one.send(b'restart other.service\\n')\n        one.recv(1)\n    except (ConnectionResetError, BrokenPipeError):\n        pass"
    );
    ["python3".to_owned(), "-c".to_owned(), script]
}

fn transient(name: &str) -> Vec<&str> {
    let call = "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit ssa(sv)a(sa(sv))";
    let made = "replace 1 ExecStart a(sasb) 1 /usr/bin/touch 2 /usr/bin/touch /run/owned false 0";
    call.split(' ').chain([name]).chain(made.split(' ')).collect()
}

#[test]
fn prv_07_to_10_and_17_the_agents_user_can_do_what_its_helpers_do_and_nothing_else() {
    let machine = without_polkit("helpers");
    let mut stages = Stages::default();
    let service = "[Service]\nExecStart=/usr/bin/sleep infinity\n";
    for unit in ["plain.service", "other.service", "plain@.service"] {
        machine.write(&format!("/etc/systemd/system/{unit}"), service);
    }
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["start", "plain.service", "other.service", "dbus.service"]);
    grant(&machine, "restart", "plain.service");
    grant(&machine, "start", "plain@green.service");
    machine.run(["useradd", "--system", "--no-create-home", "--groups", "release-agent", "member"]).expect(0);
    let pid = |unit: &str| machine.property(unit, "MainPID");
    let intruder = Intruder(&machine);
    let (plain, other) = (pid("plain.service"), pid("other.service"));

    stages.begin("what was granted, and nothing that is said with it");
    intruder.run(&ask(1, "restart.plain.service").each_ref().map(String::as_str)).expect(0);
    let restarted = pid("plain.service");
    assert_ne!(restarted, plain);
    intruder.run(&ask(20, "restart.plain.service").each_ref().map(String::as_str)).expect(0);
    assert_eq!(pid("other.service"), other);
    let helper = "release-agent-restart@plain.service.service";
    wait_until("the helper is done", LONG, || machine.property(helper, "ActiveState") == "inactive");
    let (settled, invocation) = (pid("plain.service"), machine.property(helper, "InvocationID"));
    assert!(settled != restarted && settled != "0");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((pid("plain.service"), machine.property(helper, "InvocationID")), (settled.clone(), invocation), "it goes in circles");
    assert_eq!(machine.property("release-agent-restart@plain.service.socket", "SubState"), "listening");

    stages.begin("how the agent asks whether it may, and nothing happens");
    let probe = |verb: &str| {
        let call = "call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager";
        let argv = ["busctl"].into_iter().chain(call.split(' ')).chain([verb, "ss", "plain.service", "triggering"]);
        argv.map(str::to_owned).collect::<Vec<_>>()
    };
    for verb in ["StartUnit", "RestartUnit", "ReloadOrRestartUnit"] {
        let refused = machine.run(probe(verb));
        assert!(
            refused.code != 0 && refused.stderr.contains("only valid for stop"),
            "root may, and is told that this cannot be: {refused:?}"
        );
        intruder.is_refused(&probe(verb).iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(pid("plain.service"), settled);

    stages.begin("prv_07_systemd_run");
    intruder.is_refused(&["systemd-run", "--no-ask-password", "--uid=0", "touch", OWNED]);
    intruder.is_refused(&["systemd-run", "--no-ask-password", "--unit=plain@green.service", "touch", OWNED]);

    stages.begin("prv_08_a_transient_unit_by_a_name_that_looks_allowed");
    let names =
        ["plain@green.service", "plain@blue.service", "release-agent-start@plain@green.service.service", "plain.service", "new.service"];
    names.iter().for_each(|name| intruder.is_refused(&transient(name)));
    machine.run(["rm", "/etc/systemd/system/plain@.service"]).expect(0);
    machine.systemctl(["daemon-reload"]);
    names.iter().for_each(|name| intruder.is_refused(&transient(name)));
    intruder.run(&ask(1, "start.plain@green.service").each_ref().map(String::as_str)).expect(0);
    wait_until("the helper has failed", LONG, || {
        machine.property("release-agent-start@plain@green.service.service", "Result") == "exit-code"
    });
    assert!(!machine.path(OWNED).exists());
    // The call itself is one that systemd takes from root.
    machine.run(transient("by-root.service")).expect(0);
    wait_until("root has made it", LONG, || machine.path(OWNED).exists());
    machine.run(["rm", OWNED]).expect(0);

    stages.begin("prv_09_stopping_a_unit");
    for unit in ["plain.service", "other.service", "dbus.service", AGENT] {
        intruder.is_refused(&["systemctl", "--no-ask-password", "stop", unit]);
    }
    assert_ne!(intruder.run(&ask(1, "stop.plain.service").each_ref().map(String::as_str)).code, 0, "there is no such helper");

    stages.begin("prv_10_restarting_another_unit");
    for unit in ["other.service", "plain.service", AGENT] {
        intruder.is_refused(&["systemctl", "--no-ask-password", "restart", unit]);
    }
    for other in [
        &["kill", "other.service"][..],
        &["daemon-reload"],
        &["mask", "other.service"],
        &["enable", "--now", "release-agent-restart@other.service.socket"],
        &["start", "release-agent-restart@other.service.service"],
        &["set-property", "other.service", "CPUWeight=1"],
        &["reboot"],
    ] {
        intruder.is_refused(&[&["systemctl", "--no-ask-password"][..], other].concat());
    }
    for made in ["restart.other.service", "x"] {
        let refused = intruder.run(&["touch", &format!("/run/release-agent-helpers/{made}")]);
        assert!(refused.code != 0 && refused.stderr.contains("Permission denied"), "{refused:?}");
    }
    assert_eq!((pid("plain.service"), pid("other.service")), (settled.clone(), other));

    stages.begin("prv_17_another_user_at_a_helper");
    for user in ["daemon", "www-data", "member"] {
        let refused = as_user(&machine, user, &ask(1, "restart.plain.service").each_ref().map(String::as_str));
        assert!(refused.code != 0 && refused.stderr.contains("PermissionError: [Errno 13]"), "{user}: {refused:?}");
    }
    assert_eq!(pid("plain.service"), settled);

    stages.begin("a grant that is taken back");
    machine.systemctl(["disable", "--quiet", "--now", "release-agent-restart@plain.service.socket"]);
    let gone = intruder.run(&ask(1, "restart.plain.service").each_ref().map(String::as_str));
    assert!(gone.code != 0 && gone.stderr.contains("FileNotFoundError"), "{gone:?}");
    assert_eq!(pid("plain.service"), settled);
    stages.begin("the end");
}

/// A machine with the app `shop`, which is the demo, and an agent that has no right but its helpers.
struct Shop {
    machine: Booted,
    repo: Repo,
    stages: Stages,
}

const SLOTS: &str = "[restart]\nstrategy = \"handover\"\nunit = \"shop@.service\"\nslots = [\"blue\", \"green\"]\ndrain = \"10s\"";

impl Shop {
    fn new(name: &str, restart: &str) -> Self {
        let stages = Stages::default();
        let machine = without_polkit(name);
        machine.run(["rm", "-rf", "/etc/shop", "/var/shop"]).expect(0);
        machine.run(["useradd", "--system", "--no-create-home", "shop"]).expect(0);
        for unit in [
            "shop@.service",
            "shop-gunicorn@.service",
            "shop-gunicorn.service",
            "shop-gunicorn.socket",
            "shop-celery.service",
            "shop-celery-beat.service",
        ] {
            machine.write(&format!("/etc/systemd/system/{unit}"), example(unit));
        }
        machine.write("/etc/tmpfiles.d/shop.conf", example("tmpfiles-shop.conf"));
        machine.run(["systemd-tmpfiles", "--create", "shop.conf", "release-agent.conf"]).expect(0);
        let variables = "SECRET_KEY=not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789\nALLOWED_HOSTS=localhost,shop.example.com\n\
                         DATABASE_PATH=/var/shop/shared/db.sqlite3\n";
        machine.write("/etc/shop/shop.env", variables);
        machine.run(["install", "-d", "-o", "release-agent", "-g", "release-agent", "/var/shop", "/var/shop/shared"]).expect(0);
        machine.run(["chown", "root:release-agent", "/etc/shop/shop.env"]).expect(0);
        machine.run(["chmod", "0640", "/etc/shop/shop.env"]).expect(0);
        let repo = machine.demo_repo("demo", 3);
        repo.reset("v2");
        machine.write("/etc/release-agent/agent.toml", "");
        // The installers' files of this machine are root's.
        machine.direct("release-agent");
        let shop = Self { machine, repo, stages };
        shop.publish();
        shop.write_settings(restart);
        shop.machine.systemctl(["daemon-reload"]);
        shop.machine.systemctl(["start", AGENT]);
        shop
    }

    fn write_settings(&self, restart: &str) {
        self.machine.write("/etc/release-agent/apps/shop.toml", shop_file("/srv/theirs", restart));
    }

    /// Takes another app file up.
    fn configure(&self, restart: &str) {
        self.write_settings(restart);
        self.machine.systemctl(["restart", AGENT]);
    }

    /// git trusts only a repository of its own user, here and there.
    fn publish(&self) {
        self.machine.run(["rm", "-rf", "/srv/theirs"]).expect(0);
        self.machine.run(["cp", "--recursive", "/srv/demo", "/srv/theirs"]).expect(0);
        self.machine.run(["chown", "--recursive", "release-agent", "/srv/theirs"]).expect(0);
    }

    /// Commits a release that takes its time to load.
    fn commit_slow(&self) {
        self.repo.reset("v2");
        let wsgi = std::fs::read_to_string(self.repo.path().join("noticeboard/wsgi.py")).unwrap();
        self.repo.write("noticeboard/wsgi.py", format!("import time\ntime.sleep(8)\n{wsgi}")).commit("Take your time");
        self.publish();
    }

    fn grant_slots(&self, template: &str) {
        for slot in ["blue", "green"] {
            grant(&self.machine, "start", &template.replace('@', &format!("@{slot}")));
            grant(&self.machine, "stop", &template.replace('@', &format!("@{slot}")));
        }
    }

    /// The release that a slot leads to.
    fn slot(&self, slot: &str) -> Option<String> {
        let target = std::fs::read_link(self.machine.path(format!("/var/shop/slots/{slot}"))).ok()?;
        target.strip_prefix("../releases").unwrap().to_str().map(str::to_owned)
    }

    fn state(&self, slot: &str) -> String {
        self.machine.property(&format!("shop@{slot}.service"), "ActiveState")
    }

    /// The slot that visitors are led to.
    fn public(&self) -> String {
        let target = std::fs::read_link(self.machine.path("/run/shop/web.sock")).unwrap();
        target.to_str().unwrap().strip_prefix("web.sock.").unwrap().to_owned()
    }

    fn live(&self) -> String {
        self.machine.live("shop").unwrap()
    }

    fn last_run(&self) -> Value {
        self.machine.ctl(["runs", "--json"]).expect(0).json()["runs"][0].clone()
    }

    /// What doctor has against the way in which the app is restarted.
    fn findings(&self) -> Vec<String> {
        let told = self.machine.ctl(["doctor", "--json"]).json();
        let findings = told["findings"].as_array().unwrap().iter();
        let against = findings.filter(|finding| finding["what"] == "restart" && finding["level"] != "good");
        against.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Fails the test unless this release serves in this slot, and the other one is empty.
    #[track_caller]
    fn assert_alone(&self, slot: &str, release: &str) {
        let other = if slot == "blue" { "green" } else { "blue" };
        assert_eq!((self.live(), self.public(), self.slot(slot)), (release.to_owned(), slot.to_owned(), Some(release.to_owned())));
        assert_eq!((self.state(slot), self.state(other), self.slot(other)), ("active".to_owned(), "inactive".to_owned(), None));
        assert!(serving(&self.machine).starts_with(release.rsplit('-').next().unwrap()));
        let records = std::fs::read_dir(self.machine.path("/var/shop/.agent/instances")).unwrap().flatten();
        let records: Vec<_> = records.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().ends_with(".json")).collect();
        assert_eq!(records, [format!("{release}.json").as_str()], "nothing else is remembered");
    }

    fn nginx(&self) -> agent_tests::Place {
        self.machine.run(["rm", "-f", "/etc/nginx/sites-enabled/default"]).expect(0);
        let conf = example("nginx-shop.conf").replace("listen 80;", "listen unix:/run/nginx-shop.sock;");
        self.machine.write("/etc/nginx/conf.d/shop.conf", conf);
        self.machine.systemctl(["start", "nginx.service"]);
        self.machine.socket("/run/nginx-shop.sock")
    }

    fn begin(&mut self, stage: &str) {
        self.stages.begin(stage);
    }
}

#[test]
fn an_agent_without_any_right_hands_over_in_slots() {
    let mut shop = Shop::new("slots", SLOTS);
    shop.begin("without helpers");
    let failed = shop.machine.ctl(["release", "v1"]).expect(1);
    for hint in ["may not start shop@blue.service", "release-agent-start@shop@blue.service.socket", "agentctl setup app shop"] {
        assert!(failed.stderr.contains(hint), "{hint}:\n{}", failed.stderr);
    }
    assert_eq!((shop.slot("blue"), shop.slot("green")), (None, None), "nothing is left");
    assert_eq!(shop.machine.property(AGENT, "User"), "release-agent");
    grant(&shop.machine, "start", "shop@blue.service");
    let missing = shop.findings();
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert!(missing[0].contains("no helper to stop shop@blue.service"), "{missing:?}");
    shop.grant_slots("shop@.service");
    assert_eq!(shop.findings(), Vec::<String>::new());

    shop.begin("a helper that is somebody else's");
    shop.machine.run(["chown", "shop", "/run/release-agent-helpers/start.shop@blue.service"]).expect(0);
    let failed = shop.machine.ctl(["release", "v1"]).expect(1);
    assert!(failed.stderr.contains("may not connect") && failed.stderr.contains("SocketUser="), "{}", failed.stderr);
    shop.machine.run(["chown", "release-agent", "/run/release-agent-helpers/start.shop@blue.service"]).expect(0);

    shop.begin("the first release");
    shop.machine.ctl(["release", "v1"]).expect(0);
    let first = shop.live();
    shop.assert_alone("blue", &first);
    assert_eq!(shop.machine.property("shop@blue.service", "User"), "shop");

    shop.begin("the second release, with visitors behind nginx");
    let front = shop.nginx();
    let page = get(&front, "/").unwrap();
    let css = page.body.split('"').find(|text| text.ends_with(".css")).unwrap().to_owned();
    assert_eq!(get(&front, &css).unwrap().status, 200, "nginx serves the release's files");
    let visitors = Visitors::come(&front);
    shop.machine.ctl(["release", "v2"]).expect(0);
    let second = shop.live();
    let answers = visitors.go();
    assert!(answers.contains_key(&shop.repo.id("v1")) && answers.contains_key(&shop.repo.id("v2")) && answers.len() == 2, "{answers:?}");
    shop.assert_alone("green", &second);

    shop.begin("a release that cannot start");
    let master = shop.machine.main_process("shop@green.service");
    let visitors = Visitors::come(&front);
    let failed = shop.machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "the unit's own words are told:\n{}", failed.stderr);
    assert!(failed.stderr.contains("its helper ended with exit status 1"), "{}", failed.stderr);
    assert_eq!(visitors.go().into_keys().collect::<Vec<_>>(), [shop.repo.id("v2")]);
    shop.assert_alone("green", &second);
    assert_eq!(shop.machine.main_process("shop@green.service"), master, "its instance was never stopped");

    shop.begin("back to the first release, which is kept warm from then on");
    shop.configure(&format!("{SLOTS}\nkeep_warm = true"));
    let visitors = Visitors::come(&front);
    shop.machine.ctl(["activate", "previous"]).expect(0);
    assert_eq!((shop.live(), shop.public(), shop.state("green")), (first.clone(), "blue".to_owned(), "active".to_owned()));
    assert_eq!(shop.machine.main_process("shop@green.service"), master);
    shop.machine.ctl(["activate", "previous"]).expect(0);
    assert_eq!(shop.machine.main_process("shop@green.service"), master, "the warm instance serves again, and was not started anew");
    assert_eq!((shop.live(), shop.public(), shop.state("blue")), (second.clone(), "green".to_owned(), "active".to_owned()));
    shop.begin("a warm instance gives way");
    let third = shop.machine.ctl(["release", "v1"]).expect(0);
    let told = format!("{}{}", third.stdout, third.stderr);
    assert!(told.contains(&format!("the instance of {first} gives up the slot blue")), "{told}");
    let third = shop.live();
    assert_eq!((shop.slot("blue"), shop.slot("green"), shop.public()), (Some(third), Some(second.clone()), "blue".to_owned()));
    assert_eq!(visitors.go().len(), 2);

    shop.begin("an instance that crashes is the unit's to start again, in the same release");
    kill(Pid::from_raw(shop.machine.main_process("shop@blue.service")), Signal::SIGKILL).unwrap();
    wait_until("systemd has started the instance again", LONG, || {
        shop.machine.property("shop@blue.service", "NRestarts") == "1" && shop.state("blue") == "active"
    });
    shop.machine.ctl(["check"]).expect(0);

    shop.begin("from slots of uWSGI to slots of gunicorn");
    shop.grant_slots("shop-gunicorn@.service");
    shop.configure(&SLOTS.replace("shop@", "shop-gunicorn@"));
    shop.machine.systemctl(["stop", "shop@blue.service", "shop@green.service"]);
    shop.machine.run(["rm", "-r", "/run/shop/web.sock", "/var/shop/slots"]).expect(0);
    assert_eq!(shop.findings(), Vec::<String>::new(), "the example has no misconfiguration");
    shop.machine.ctl(["release", "v1"]).expect(0);
    let visitors = Visitors::come(&front);
    shop.machine.ctl(["release", "v2"]).expect(0);
    let failed = shop.machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "the unit's own words are told:\n{}", failed.stderr);
    assert_eq!(visitors.go().len(), 2);
    assert_eq!(serving(&shop.machine), shop.repo.id("v2"));
    shop.begin("the end");
}

#[test]
fn whatever_dies_in_the_middle_the_former_release_serves_in_its_slot() {
    let mut shop = Shop::new("deaths", SLOTS);
    // uWSGI that is told to end while it loads the app does not.
    shop.machine.write("/etc/systemd/system/shop@.service.d/short.conf", "[Service]\nTimeoutStopSec=5\n");
    shop.machine.systemctl(["daemon-reload"]);
    shop.grant_slots("shop@.service");
    shop.machine.ctl(["release", "v1"]).expect(0);
    let first = shop.live();
    let front = shop.nginx();
    let master = shop.machine.main_process("shop@blue.service");
    let kill_the_agent = |shop: &Shop| {
        let restarts = shop.machine.property(AGENT, "NRestarts");
        kill(Pid::from_raw(shop.machine.main_process(AGENT)), Signal::SIGKILL).unwrap();
        wait_until("systemd has started the agent again", LONG, || {
            shop.machine.property(AGENT, "NRestarts") != restarts && shop.machine.property(AGENT, "ActiveState") == "active"
        });
    };

    shop.begin("the agent, while the new release starts");
    shop.commit_slow();
    let visitors = Visitors::come(&front);
    shop.machine.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the new release starts", LONG, || shop.state("green") == "activating");
    kill_the_agent(&shop);
    assert_eq!(shop.last_run()["outcome"], "failed");
    shop.assert_alone("blue", &first);
    assert_eq!(shop.machine.main_process("shop@blue.service"), master, "it was never stopped");
    assert_eq!(visitors.go().len(), 1);

    shop.begin("the agent, while the former release finishes");
    let visitors = Visitors::come(&front);
    shop.machine.ctl(["release", "--no-follow", "v2"]).expect(0);
    wait_until("visitors meet the new release", LONG, || shop.public() == "green");
    // Somebody who is still at it.
    let open = UnixStream::connect(shop.machine.path("/run/shop/web.sock.blue")).unwrap();
    kill_the_agent(&shop);
    drop(open);
    assert_eq!(shop.last_run()["outcome"], "rolled_back");
    shop.assert_alone("blue", &first);
    assert_eq!(shop.machine.main_process("shop@blue.service"), master, "it was never stopped");
    assert!(visitors.go().len() <= 2);

    shop.begin("the host, while the new release starts");
    shop.machine.systemctl(["enable", "--quiet", AGENT]);
    shop.machine.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the new release starts", LONG, || shop.state("green") == "activating");
    shop.machine.run(["sync"]).expect(0);
    shop.machine.reboot(&["--force", "--force"]);
    shop.machine.systemctl(["start", AGENT]);
    assert_eq!(shop.last_run()["outcome"], "failed");
    wait_until("the former release serves again", LONG, || shop.machine.path("/run/shop/web.sock").symlink_metadata().is_ok());
    shop.assert_alone("blue", &first);

    shop.begin("nothing dies");
    shop.machine.ctl(["release", "v2"]).expect(0);
    let second = shop.live();
    shop.assert_alone("green", &second);

    shop.begin("a gunicorn that is restarted in place, behind a socket that is never closed, with Celery and its clock");
    let in_place = "[restart]\nstrategy = \"systemd\"\nunit = \"shop-gunicorn.service\"\naction = \"restart\"\nwatch = \"2s\"\n\
                    [[worker]]\nunit = \"shop-celery.service\"\nwatch = \"2s\"\n[[worker]]\nunit = \"shop-celery-beat.service\"\nwatch = \"2s\"";
    shop.machine.systemctl(["stop", "shop@green.service"]);
    shop.machine.run(["rm", "/run/shop/web.sock"]).expect(0);
    shop.repo.reset("v2");
    let celery = "import os\nfrom celery import Celery\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\n\
                  app = Celery('noticeboard', broker='memory://')\n";
    let with_celery = shop.repo.write("noticeboard/celery.py", celery).commit("Celery");
    let more = format!("{celery}app.conf.task_ignore_result = True\n");
    let still = shop.repo.write("noticeboard/celery.py", more).commit("Celery still");
    shop.publish();
    shop.configure(in_place);
    shop.machine.systemctl(["start", "shop-gunicorn.socket"]);
    for unit in ["shop-celery.service", "shop-celery-beat.service", "shop-gunicorn.service"] {
        let failed = shop.machine.ctl(["release", &with_celery]).expect(1);
        let missing = format!("release-agent-restart@{unit}.socket");
        assert!(failed.stderr.contains(&missing), "what is missing is told before anything is done:\n{}", failed.stderr);
        grant(&shop.machine, "restart", unit);
    }
    shop.machine.ctl(["release", &with_celery]).expect(0);
    let pids = || ["shop-gunicorn.service", "shop-celery.service", "shop-celery-beat.service"].map(|unit| shop.machine.main_process(unit));
    let before = pids();
    let visitors = Visitors::come(&shop.machine.socket("/run/shop/web.sock"));
    shop.machine.ctl(["release", &still]).expect(0);
    assert_eq!(visitors.go().into_keys().len(), 2);
    assert!(pids().iter().zip(before).all(|(now, before)| *now != before), "each was restarted");
    assert!(shop.machine.path("/var/lib/shop-celery-beat").exists());

    shop.begin("the agent, while a helper restarts the server: the next agent's connection comes too early, and is made again");
    let former = shop.live();
    shop.commit_slow();
    shop.machine.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the helper restarts the server", LONG, || shop.machine.property("shop-gunicorn.service", "ActiveState") == "activating");
    let helper = "release-agent-restart@shop-gunicorn.service.service";
    let invocation = shop.machine.property(helper, "InvocationID");
    kill_the_agent(&shop);
    assert_eq!(shop.last_run()["outcome"], "rolled_back");
    assert_eq!((shop.live(), serving(&shop.machine)), (former, still));
    assert_ne!(shop.machine.property(helper, "InvocationID"), invocation, "the helper worked twice");
    shop.begin("the end");
}
