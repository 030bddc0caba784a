//! What the agent promises under systemd: the unit and the examples in systemd/ as they are shipped, in a machine booted for it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]
#![expect(clippy::print_stderr, reason = "the stages of a long story are told as they come")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_tests::{Booted, Place, Repo, get, project, wait_until};

const LONG: Duration = Duration::from_secs(60);

fn shipped(path: &str) -> String {
    std::fs::read_to_string(project("systemd").join(path)).unwrap()
}

/// An example as it is shipped; only the demo's module has another name than the example's.
fn example(path: &str) -> String {
    shipped(&format!("examples/{path}")).replace("shop.wsgi", "noticeboard.wsgi").replace("--app shop ", "--app noticeboard ")
}

/// Says which stage of the story begins, and how long the one before it took.
struct Stages(Instant);

impl Stages {
    fn begin(&mut self, name: &str) {
        eprintln!("--- after {:.1} s: {name}", self.0.elapsed().as_secs_f64());
    }
}

/// A machine with the app `shop`, which is the demo; its agent runs as `user`.
fn shop(name: &str, user: &str, restart: &str) -> (Booted, Repo, Stages) {
    let stages = Stages(Instant::now());
    let machine = Booted::new(name);
    machine.run(["rm", "-rf", "/etc/shop", "/var/shop"]).expect(0);
    machine.run(["useradd", "--system", "--no-create-home", "shop"]).expect(0);
    for unit in ["shop@.service", "shop-gunicorn@.service", "shop.service", "shop-celery.service"] {
        machine.write(&format!("/etc/systemd/system/{unit}"), example(unit));
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
    machine.write("/etc/release-agent/apps/shop.toml", settings(restart));
    if user == "root" {
        machine.write("/etc/systemd/system/release-agent.service.d/root.conf", "[Service]\nUser=root\nGroup=root\n");
    }
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["start", "release-agent.service"]);
    (machine, repo, stages)
}

fn settings(restart: &str) -> String {
    format!(
        r#"
repository = "/srv/demo"
allow_local = true

[python]
interpreter = "/usr/bin/python3"
packages = ["gunicorn==27.0.1", "celery==5.5.3"]

[django]

[secrets]
files = ["/etc/shop/shop.env"]

{restart}

[[check]]
url = "unix:/run/shop/web.sock:/healthz"
contains = "ok"
release_header = "X-Release"
stable = "500ms"
"#
    )
}

/// What a visitor gets from the socket: the commit that its answer names.
fn serving(machine: &Booted) -> String {
    let answer = get(&machine.socket("/run/shop/web.sock"), "/healthz").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.header("x-release").unwrap().to_owned()
}

/// Visitors who ask without pause.
struct Visitors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(BTreeMap<String, u32>, Vec<String>)>>,
}

impl Visitors {
    fn come(place: &Place) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let visit = |stop: Arc<AtomicBool>, place: Place| {
            let (mut answers, mut failures) = (BTreeMap::<String, u32>::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match get(&place, "/healthz") {
                    Ok(answer) if answer.status == 200 => *answers.entry(answer.header("x-release").unwrap().to_owned()).or_default() += 1,
                    Ok(answer) => failures.push(format!("{}: {}", answer.status, answer.body)),
                    Err(err) => failures.push(err.to_string()),
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (answers, failures)
        };
        let threads = (0..4).map(|_| (stop.clone(), place.clone())).map(|(stop, place)| std::thread::spawn(move || visit(stop, place)));
        Self { threads: threads.collect(), stop }
    }

    /// How many answers each release gave. Nobody may have met anything else.
    #[track_caller]
    fn go(self) -> BTreeMap<String, u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = BTreeMap::new();
        for thread in self.threads {
            let (answers, failures) = thread.join().unwrap();
            assert!(failures.is_empty(), "{} visitors met something else: {:?}", failures.len(), &failures[..failures.len().min(3)]);
            answers.into_iter().for_each(|(release, count)| *sum.entry(release).or_default() += count);
        }
        sum
    }
}

const HANDOVER: &str = "[restart]\nstrategy = \"handover\"\nunit = \"shop@.service\"\ndrain = \"5s\"";

#[test]
fn instances_in_a_template_unit_are_handed_over_behind_nginx() {
    let (machine, repo, mut stages) = shop("handover", "root", HANDOVER);
    let instance = |release: &str| format!("shop@{release}.service");

    stages.begin("the first release");
    machine.ctl(["release", "v1"]).expect(0);
    let first = machine.live("shop").unwrap();
    assert_eq!(serving(&machine), repo.id("v1"));
    assert_eq!(machine.property(&instance(&first), "ActiveState"), "active");

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

    stages.begin("back to the first release");
    let visitors = Visitors::come(&front);
    machine.ctl(["activate", "previous"]).expect(0);
    assert_eq!(visitors.go().len(), 2);
    assert_eq!((machine.live("shop").unwrap(), serving(&machine)), (first.clone(), repo.id("v1")));

    stages.begin("an instance that crashes is the unit's to start again, and the agent sees it serve");
    let master = machine.main_process(&instance(&first));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(master), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("systemd has started the instance again", LONG, || {
        machine.property(&instance(&first), "NRestarts") == "1" && machine.property(&instance(&first), "ActiveState") == "active"
    });
    machine.ctl(["check"]).expect(0);

    stages.begin("gunicorn in a template unit");
    machine.write("/etc/release-agent/apps/shop.toml", settings(&HANDOVER.replace("shop@.service", "shop-gunicorn@.service")));
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
