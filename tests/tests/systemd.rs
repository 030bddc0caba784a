//! What the agent promises under systemd: the unit and the examples in systemd/ as they are shipped, in a machine booted for it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::time::Duration;

use agent_tests::{Booted, Repo, Stages, Visitors, example, get, serving, shop_file, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// A machine with the app `shop`, which is the demo; its agent runs as `user`.
fn shop(name: &str, user: &str, restart: &str) -> (Booted, Repo, Stages) {
    let stages = Stages::default();
    let machine = Booted::new(name);
    machine.run(["rm", "-rf", "/etc/shop", "/var/shop"]).expect(0);
    machine.run(["useradd", "--system", "--no-create-home", "shop"]).expect(0);
    for unit in ["shop@.service", "shop-gunicorn@.service", "shop.service", "shop-celery.service"] {
        // What the agent does without slots is looked at here; tests/helpers.rs has the units as they are shipped.
        machine.write(&format!("/etc/systemd/system/{unit}"), example(unit).replace("/var/shop/slots/", "/var/shop/releases/"));
    }
    machine.write("/etc/shop/shop-uwsgi.ini", example("shop-uwsgi.ini"));
    machine.write("/etc/tmpfiles.d/shop.conf", example("tmpfiles-shop.conf"));
    machine.run(["systemd-tmpfiles", "--create", "shop.conf", "release-agent.conf"]).expect(0);
    let variables = "SECRET_KEY=not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789\nALLOWED_HOSTS=localhost,shop.example.com\n\
                     DATABASE_PATH=/var/shop/shared/db.sqlite3\n";
    machine.write("/etc/shop/shop.env", variables);
    machine.run(["install", "-d", "-o", user, "-g", user, "/var/shop", "/var/shop/shared"]).expect(0);
    machine.run(["chown", &format!("root:{user}"), "/etc/shop/shop.env"]).expect(0);
    machine.run(["chmod", "0640", "/etc/shop/shop.env"]).expect(0);
    let repo = machine.demo_repo("demo", 3);
    repo.reset("v2");
    machine.write("/etc/release-agent/agent.toml", "");
    machine.write("/etc/release-agent/apps/shop.toml", shop_file("/srv/demo", restart));
    if user != "root" {
        // git trusts only a repository of its own user, here and there.
        machine.run(["cp", "--recursive", "/srv/demo", "/srv/theirs"]).expect(0);
        machine.run(["chown", "--recursive", user, "/srv/theirs"]).expect(0);
        machine.write("/etc/release-agent/apps/shop.toml", shop_file("/srv/theirs", restart));
    }
    machine.direct(user);
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["start", "release-agent.service"]);
    (machine, repo, stages)
}

const HANDOVER: &str = "[restart]\nstrategy = \"handover\"\nunit = \"shop@.service\"\ndrain = \"5s\"";

#[test]
fn instances_in_a_template_unit_are_handed_over_behind_nginx() {
    let (machine, repo, mut stages) =
        shop("handover", "root", &format!("{HANDOVER}\n[[worker]]\nunit = \"shop-worker@.service\"\nwatch = \"1s\""));
    machine.write(
        "/etc/systemd/system/shop-worker@.service",
        "[Service]\nWorkingDirectory=/var/shop/releases/%i\nExecStart=/usr/bin/sleep infinity\n",
    );
    machine.systemctl(["daemon-reload"]);
    let instance = |release: &str| format!("shop@{release}.service");
    let workers = || machine.systemctl(["list-units", "--all", "--plain", "--no-legend", "shop-worker@*"]);
    let assert_works = |release: &str| {
        let (workers, own) = (workers(), format!("shop-worker@{release}.service"));
        assert!(workers.lines().count() == 1 && workers.starts_with(&own), "one alone works:\n{workers}");
    };

    stages.begin("the first release");
    machine.ctl(["release", "v1"]).expect(0);
    let first = machine.live("shop").unwrap();
    assert_eq!(serving(&machine), repo.id("v1"));
    assert_eq!(machine.property(&instance(&first), "ActiveState"), "active");
    assert_works(&first);

    stages.begin("nginx in front of it");
    machine.run(["rm", "-f", "/etc/nginx/sites-enabled/default"]).expect(0);
    machine.write("/etc/nginx/conf.d/shop.conf", example("nginx-shop.conf").replace("listen 80;", "listen unix:/run/nginx-shop.sock;"));
    machine.systemctl(["start", "nginx.service"]);
    let front = machine.socket("/run/nginx-shop.sock");
    let page = get(&front, "/").unwrap();
    assert_eq!(page.status, 200, "{}", page.body);
    let style = |page: &str| page.split('"').find(|text| text.ends_with(".css")).unwrap().to_owned();
    let css = get(&front, &style(&page.body)).unwrap();
    assert_eq!((css.status, css.header("x-release")), (200, None), "nginx itself serves the release's static files");

    stages.begin("the second release, with visitors");
    let visitors = Visitors::come(&front);
    machine.ctl(["release", "v2"]).expect(0);
    let second = machine.live("shop").unwrap();
    let answers = visitors.go();
    assert!(answers.contains_key(&repo.id("v1")) && answers.contains_key(&repo.id("v2")) && answers.len() == 2, "{answers:?}");
    assert_eq!(serving(&machine), repo.id("v2"));
    assert_eq!(machine.property(&instance(&first), "ActiveState"), "inactive", "the former instance has finished");
    assert_works(&second);
    let css = get(&front, &style(&get(&front, "/").unwrap().body)).unwrap();
    assert_eq!(css.status, 200, "nginx serves the new release's static files without being told");

    stages.begin("a release that cannot start");
    let master = machine.main_process(&instance(&second));
    let visitors = Visitors::come(&front);
    let failed = machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "the unit's own words are told:\n{}", failed.stderr);
    assert_eq!(visitors.go().into_keys().collect::<Vec<_>>(), [repo.id("v2")]);
    assert_eq!(machine.live("shop").unwrap(), second);
    assert_eq!(machine.systemctl(["is-active", &instance(&second)]).trim(), "active");
    assert_eq!(machine.main_process(&instance(&second)), master, "its instance was never stopped");
    let units = machine.systemctl(["list-units", "--all", "--plain", "--no-legend", "shop@*"]);
    assert_eq!(units.lines().count(), 1, "nothing is left of what failed:\n{units}");
    assert_works(&second);

    stages.begin("back to the first release");
    let visitors = Visitors::come(&front);
    machine.ctl(["activate", "previous"]).expect(0);
    assert_eq!(visitors.go().len(), 2);
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (first.clone(), repo.id("v1")));
    assert_works(&first);

    stages.begin("an instance that crashes is the unit's to start again, and the agent sees it serve");
    let master = machine.main_process(&instance(&first));
    kill(Pid::from_raw(master), Signal::SIGKILL).unwrap();
    wait_until("systemd has started the instance again", LONG, || {
        machine.property(&instance(&first), "NRestarts") == "1" && machine.property(&instance(&first), "ActiveState") == "active"
    });
    machine.ctl(["check"]).expect(0);

    stages.begin("gunicorn in a template unit");
    machine
        .write("/etc/release-agent/apps/shop.toml", shop_file("/srv/demo", &HANDOVER.replace("shop@.service", "shop-gunicorn@.service")));
    machine.systemctl(["stop", &instance(&first)]);
    machine.run(["rm", "/run/shop/web.sock"]).expect(0);
    machine.systemctl(["restart", "release-agent.service"]);
    machine.ctl(["release", "v1"]).expect(0);
    let visitors = Visitors::come(&front);
    machine.ctl(["release", "v2"]).expect(0);
    let failed = machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "the unit's own words are told:\n{}", failed.stderr);
    assert_eq!(visitors.go().len(), 2);
    assert_eq!(serving(&machine), repo.id("v2"));
    assert!(machine.journal("shop-gunicorn@*").contains("noticeboard.tracing"));
    stages.begin("the end");
}

const IN_PLACE: &str = "[restart]\nstrategy = \"systemd\"\nunit = \"shop.service\"\nwatch = \"3s\"";
const WORKER: &str = "[[worker]]\nunit = \"shop-celery.service\"\nwatch = \"3s\"";

/// Takes another app file up.
fn configure(machine: &Booted, restart: &str) {
    machine.write("/etc/release-agent/apps/shop.toml", shop_file("/srv/demo", restart));
    machine.systemctl(["restart", "release-agent.service"]);
}

/// What a run said, from its beginning to its outcome.
fn events(machine: &Booted, run: &Value) -> Vec<Value> {
    let run = run["run"].as_u64().unwrap().to_string();
    let lines = machine.ctl(["logs", &run, "--json"]).expect(0).stdout;
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn last_run(machine: &Booted) -> Value {
    machine.ctl(["runs", "--json"]).expect(0).json()["runs"][0].clone()
}

fn was_exposed(machine: &Booted) -> bool {
    events(machine, &last_run(machine)).iter().any(|event| event["what"] == "exposed")
}

/// Commits the demo's `wsgi.py` with some lines before and after what is in it.
fn commit_wsgi(repo: &Repo, before: &str, after: &str, message: &str) -> String {
    repo.reset("v2");
    let wsgi = std::fs::read_to_string(repo.path().join("noticeboard/wsgi.py")).unwrap();
    repo.write("noticeboard/wsgi.py", format!("{before}\n{wsgi}\n{after}\n")).commit(message)
}

/// The release that a unit's main process works in.
fn release_of(machine: &Booted, unit: &str) -> String {
    let directory = std::fs::read_link(format!("/proc/{}/cwd", machine.main_process(unit))).unwrap();
    directory.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn units_restarted_in_place_are_proven_and_taken_back() {
    let (machine, repo, mut stages) = shop("in place", "root", &IN_PLACE.replace("shop.service", "shop-absent.service"));

    stages.begin("a unit that is not there, and one that is masked");
    let refused = machine.ctl(["release", "v1"]).expect(1);
    assert!(refused.stderr.contains("shop-absent.service"), "{}", refused.stderr);
    assert!(!was_exposed(&machine));
    machine.run(["ln", "-s", "/dev/null", "/etc/systemd/system/shop-masked.service"]).expect(0);
    machine.systemctl(["daemon-reload"]);
    configure(&machine, &format!("{IN_PLACE}\n[[worker]]\nunit = \"shop-masked.service\""));
    let refused = machine.ctl(["release", "v1"]).expect(1);
    assert!(refused.stderr.contains("shop-masked.service") && refused.stderr.contains("masked"), "{}", refused.stderr);
    assert!(!was_exposed(&machine));
    assert_eq!(machine.live("shop"), None);
    assert_eq!(machine.property("shop.service", "ActiveState"), "inactive");

    stages.begin("the first release, and the second one, reloaded");
    configure(&machine, IN_PLACE);
    machine.ctl(["release", "v1"]).expect(0);
    assert_eq!(serving(&machine), repo.id("v1"));
    let master = machine.main_process("shop.service");
    machine.ctl(["release", "v2"]).expect(0);
    let second = machine.live("shop").unwrap();
    assert_eq!((serving(&machine), machine.main_process("shop.service")), (repo.id("v2"), master));

    stages.begin("a release that cannot be loaded is not switched to");
    let failed = machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "{}", failed.stderr);
    assert!(!was_exposed(&machine));
    assert_eq!((serving(&machine), machine.main_process("shop.service")), (repo.id("v2"), master));

    stages.begin("one that only the server cannot load is taken back");
    commit_wsgi(
        &repo,
        "try:\n    import uwsgi\nexcept ImportError:\n    uwsgi = None\nif uwsgi:\n    raise SystemExit('not in this server')",
        "",
        "Fail in uWSGI",
    );
    let failed = machine.ctl(["release", "main"]).expect(3);
    assert!(failed.stderr.contains("not in this server"), "the unit's own words are told:\n{}", failed.stderr);
    assert!(was_exposed(&machine));
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (second.clone(), repo.id("v2")));

    stages.begin("one that dies after two seconds is taken back");
    commit_wsgi(&repo, "", "try:\n    import uwsgi, signal\n    signal.alarm(2)\nexcept ImportError:\n    pass", "Die after two seconds");
    let failed = machine.ctl(["release", "main"]).expect(3);
    let flapped = ["flaps", "did not stay active"].iter().any(|words| failed.stderr.contains(words));
    assert!(failed.stderr.contains("shop.service") && flapped, "{}", failed.stderr);
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (second.clone(), repo.id("v2")));
    assert_eq!(machine.property("shop.service", "ActiveState"), "active");

    stages.begin("Celery is restarted with the release");
    configure(&machine, &format!("{IN_PLACE}\naction = \"restart\"\n{WORKER}"));
    repo.reset("v2");
    let celery = "import os\nfrom celery import Celery\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\n\
                  app = Celery('noticeboard', broker='memory://')\n";
    repo.write("noticeboard/celery.py", celery).commit("Celery");
    machine.ctl(["release", "main"]).expect(0);
    let with_celery = machine.live("shop").unwrap();
    assert_eq!(release_of(&machine, "shop-celery.service"), with_celery);
    let commit = repo.write("noticeboard/celery.py", format!("{celery}app.conf.task_ignore_result = True\n")).commit("Celery still");
    machine.ctl(["release", "main"]).expect(0);
    let good = machine.live("shop").unwrap();
    assert_ne!(good, with_celery);
    assert_eq!((release_of(&machine, "shop-celery.service"), serving(&machine)), (good.clone(), commit.clone()));

    stages.begin("a worker that cannot start takes the release back");
    repo.write("noticeboard/celery.py", "raise SystemExit('no worker in this release')\n").commit("Celery no more");
    let failed = machine.ctl(["release", "main"]).expect(3);
    assert!(failed.stderr.contains("no worker in this release"), "the worker's own words are told:\n{}", failed.stderr);
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (good.clone(), commit));
    assert_eq!(release_of(&machine, "shop-celery.service"), good);

    stages.begin("by the master's FIFO");
    let fifo = "[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = \"/run/shop/fifo\"\nstats = \"/run/shop/stats.sock\"\nunit = \"shop.service\"";
    configure(&machine, fifo);
    machine.ctl(["release", "v1"]).expect(0);
    assert_eq!(serving(&machine), repo.id("v1"));
    commit_wsgi(
        &repo,
        "try:\n    import uwsgi\nexcept ImportError:\n    uwsgi = None\nif uwsgi:\n    raise SystemExit('not in this server')",
        "",
        "Fail in uWSGI",
    );
    machine.ctl(["release", "main"]).expect(3);
    assert_eq!(serving(&machine), repo.id("v1"));

    stages.begin("a uWSGI that goes on without an app is found out by its answers");
    machine.write("/etc/shop/shop-uwsgi.ini", example("shop-uwsgi.ini").replace("need-app = true", "need-app = false"));
    machine.systemctl(["restart", "shop.service"]);
    commit_wsgi(
        &repo,
        "try:\n    import uwsgi\nexcept ImportError:\n    uwsgi = None\nif uwsgi:\n    raise RuntimeError('not in this server')",
        "",
        "Fail in uWSGI without ending it",
    );
    for (restart, words) in [(IN_PLACE, "shop.service answered"), (fifo, "uWSGI has no app")] {
        configure(&machine, restart);
        let failed = machine.ctl(["release", "main"]).expect(3);
        assert!(failed.stderr.contains(words) && failed.stderr.contains("times in a row"), "{restart}: {}", failed.stderr);
        assert_eq!(serving(&machine), repo.id("v1"), "{restart}");
    }
    machine.write("/etc/shop/shop-uwsgi.ini", example("shop-uwsgi.ini"));

    stages.begin("doctor");
    let found = |restart: &str| -> Vec<String> {
        configure(&machine, restart);
        let told = machine.ctl(["doctor", "--json"]).json();
        let findings =
            told["findings"].as_array().unwrap().iter().filter(|finding| finding["what"] == "restart" && finding["level"] != "good");
        findings.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
    };
    machine.systemctl(["daemon-reload"]);
    for (kind, shipped) in [("the unit", IN_PLACE), ("the FIFO", fifo), ("the workers", &format!("{IN_PLACE}\n{WORKER}"))] {
        assert_eq!(found(shipped), Vec::<String>::new(), "{kind}: the examples have no misconfiguration");
    }
    let ini = "[uwsgi]\nplugins = python3\nmaster = true\nvirtualenv = /var/shop/app/venv\nmodule = noticeboard.wsgi\nlazy-apps = true\n\
               http = :8000\nneed-app = true\n";
    machine.write("/etc/shop/shop-uwsgi.ini", ini);
    let unit = example("shop.service").replace("Type=notify", "Type=notify\nWorkingDirectory=/var/shop/app");
    machine.write("/etc/systemd/system/shop.service", unit);
    machine.systemctl(["daemon-reload"]);
    let lints = found(IN_PLACE);
    for words in ["has no chdir", "http router", "listen queue", "SIGTERM", "lazy-apps"] {
        assert!(lints.iter().any(|trap| trap.contains(words)), "{words}: {lints:#?}");
    }
    machine.systemctl(["stop", "shop.service"]);
    machine.run(["rm", "-f", "/run/shop/web.sock"]).expect(0);
    for unit in ["shop@.service", "shop-gunicorn@.service"] {
        assert_eq!(found(&HANDOVER.replace("shop@.service", unit)), Vec::<String>::new(), "{unit}: the examples have no misconfiguration");
    }
    stages.begin("the end");
}

const AGENT: &str = "release-agent.service";

#[test]
fn the_agent_is_a_service_that_systemd_can_rely_on() {
    let command = "[restart]\nstrategy = \"handover\"\nsocket = \"/run/shop/web.sock\"\ndrain = \"5s\"\n\
                   command = [\"venv/bin/gunicorn\", \"--preload\", \"--bind\", \"unix:{socket}\", \"noticeboard.wsgi\"]\n\
                   [[hook]]\nbefore = \"switch\"\nrun = [\"/bin/sh\", \"-c\", \"while [ -e /run/hold ]; do echo holding; sleep 0.2; done\"]";
    let (machine, repo, mut stages) = shop("service", "root", command);
    let hold = || drop(machine.run(["touch", "/run/hold"]).expect(0));
    let let_go = || drop(machine.run(["rm", "/run/hold"]).expect(0));
    let is_holding = || {
        let status = machine.ctl(["status", "--json"]).expect(0).stdout;
        status.contains("\"switch\"") && status.contains("running")
    };
    let restarts = || machine.property(AGENT, "NRestarts");

    stages.begin("what systemctl status shows");
    let status = machine.systemctl(["status", "--no-pager", AGENT]);
    assert!(status.contains("Status: \"1 app(s); nothing is under way\""), "{status}");
    machine.ctl(["release", "v1"]).expect(0);
    let first = machine.live("shop").unwrap();
    let server = |machine: &Booted| {
        let processes = machine.run(["pgrep", "--oldest", "--full", "gunicorn --preload"]).expect(0).stdout;
        processes.trim().to_owned()
    };
    let serves = server(&machine);

    stages.begin("an agent that idles, works and talks answers its watchdog");
    machine.write("/etc/systemd/system/release-agent.service.d/short.conf", "[Service]\nWatchdogSec=3\nTimeoutStopSec=2\n");
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["restart", AGENT]);
    assert_eq!(server(&machine), serves, "the server that the agent started outlives it");
    assert_eq!(machine.property(AGENT, "WatchdogUSec"), "3s");
    let invocation = machine.property(AGENT, "InvocationID");
    std::thread::sleep(Duration::from_secs(5));
    hold();
    machine.ctl(["release", "--no-follow", "v2"]).expect(0);
    wait_until("the release waits before its switch", LONG, is_holding);
    let status = machine.systemctl(["status", "--no-pager", AGENT]);
    assert!(status.contains("Status: \"shop: run 2 at switch\""), "{status}");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.property(AGENT, "InvocationID"), invocation, "{}", machine.journal(AGENT));

    stages.begin("killed in the middle of a release, it comes back and takes it back");
    kill(Pid::from_raw(machine.main_process(AGENT)), Signal::SIGKILL).unwrap();
    wait_until("systemd has started the agent again", LONG, || restarts() == "1" && machine.property(AGENT, "ActiveState") == "active");
    let_go();
    assert_eq!(last_run(&machine)["outcome"], "failed");
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (first.clone(), repo.id("v1")));
    assert_eq!(server(&machine), serves, "the server was not ended with the agent");
    let held = machine.run(["pgrep", "--full", "while . -e /run/hold"]).stdout;
    assert_eq!(held, "", "what the run had started was");

    stages.begin("an agent that hangs is found out");
    kill(Pid::from_raw(machine.main_process(AGENT)), Signal::SIGSTOP).unwrap();
    wait_until("systemd has started the agent again", LONG, || restarts() == "2" && machine.property(AGENT, "ActiveState") == "active");
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (first, repo.id("v1")));

    stages.begin("told to stop, it finishes what is under way, however short TimeoutStopSec and WatchdogSec are");
    hold();
    machine.ctl(["release", "--no-follow", "v2"]).expect(0);
    wait_until("the release waits before its switch", LONG, is_holding);
    machine.systemctl(["stop", "--no-block", AGENT]);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(machine.property(AGENT, "ActiveState"), "deactivating");
    assert_eq!(machine.property(AGENT, "StatusText"), "finishing the runs under way");
    machine.ctl(["release", "v1"]).expect(4);
    let_go();
    wait_until("the agent has stopped", LONG, || machine.property(AGENT, "ActiveState") != "deactivating");
    assert_eq!((machine.property(AGENT, "ActiveState"), machine.property(AGENT, "Result")), ("inactive".to_owned(), "success".to_owned()));
    assert_eq!(serving(&machine), repo.id("v2"));
    machine.systemctl(["start", AGENT]);
    assert_eq!(last_run(&machine)["outcome"], "live");

    stages.begin("a configuration that cannot be used is not tried again and again");
    machine.write("/etc/release-agent/apps/shop.toml", "repositry = 1\n");
    machine.run(["systemctl", "restart", AGENT]).expect(1);
    assert_eq!((machine.property(AGENT, "ActiveState"), machine.property(AGENT, "ExecMainStatus")), ("failed".to_owned(), "64".to_owned()));
    assert_eq!(serving(&machine), repo.id("v2"), "visitors do not need the agent");
    stages.begin("the end");
}

#[test]
fn an_agent_that_is_not_root_may_what_polkit_lets_it_and_no_more() {
    let (machine, repo, mut stages) = shop("not root", "release-agent", HANDOVER);
    stages.begin("without a rule");
    let failed = machine.ctl(["release", "v1"]).expect(1);
    assert!(failed.stderr.contains("polkit"), "the hint is told:\n{}", failed.stderr);
    assert_eq!(machine.property(AGENT, "User"), "release-agent");

    stages.begin("with the example's rule");
    machine.write("/etc/polkit-1/rules.d/60-release-agent-shop.rules", example("polkit/60-release-agent-shop.rules"));
    machine.systemctl(["restart", "polkit.service"]);
    machine.ctl(["release", "v1"]).expect(0);
    let visitors = Visitors::come(&machine.socket("/run/shop/web.sock"));
    machine.ctl(["release", "v2"]).expect(0);
    assert_eq!(visitors.go().len(), 2);
    let failed = machine.ctl(["release", "v3"]).expect(1);
    assert!(failed.stderr.contains("noticeboard.tracing"), "the unit's own words are told:\n{}", failed.stderr);
    assert_eq!(serving(&machine), repo.id("v2"));

    stages.begin("people in the group of the socket, and others");
    let people = "socket_group = \"deployers\"\n[[grant]]\nto = \"unix-group:deployers\"\napps = [\"*\"]\nactions = [\"*\"]\n";
    machine.write("/etc/release-agent/agent.toml", people);
    machine.systemctl(["restart", AGENT]);
    machine.run(["useradd", "--groups", "deployers", "anna"]).expect(0);
    let as_user = |user: &str, verb: &str| {
        let user = [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()];
        let argv = ["setpriv".to_owned()].into_iter().chain(user);
        machine.run(argv.chain(["agentctl".to_owned(), verb.to_owned()]))
    };
    as_user("anna", "check").expect(0);
    as_user("shop", "check").expect(5);

    stages.begin("the units of others");
    let ask = |verb: &str, unit: &str| {
        let user = ["setpriv", "--reuid=release-agent", "--regid=release-agent", "--clear-groups"];
        machine.run(user.into_iter().chain(["systemctl", "--no-ask-password", verb, unit]))
    };
    ask("reset-failed", &format!("shop@{}.service", machine.live("shop").unwrap())).expect(0);
    let others = [
        ("start", "shop@x.service"),
        ("start", "shop.service"),
        ("stop", "shop.service"),
        ("restart", "shop-gunicorn@2026-01-01-00-00-00-000000000000.service"),
        ("restart", "dbus.service"),
        ("restart", AGENT),
    ];
    for (verb, unit) in others {
        let refused = ask(verb, unit);
        assert!(refused.code != 0 && refused.stderr.contains("authentication required"), "{verb} {unit}: {refused:?}");
    }
    stages.begin("the end");
}
