//! Celery beside the web process, with slots: what it has begun is finished by the release that began it, once, and what comes later is the new one's.
//! Nobody asks polkit here: the agent has its helpers, and no other right.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use agent_tests::{AGENT, Booted, Done, Repo, Stages, example, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_secs(60);

const FILE: &str = r#"
repository = "/srv/theirs"
allow_local = true

[python]
interpreter = "/usr/bin/python3"
packages = ["celery==5.5.3"]

[restart]
strategy = "handover"
unit = "shop-web@.service"
slots = ["blue", "green"]
drain = "10s"

[[check]]
url = "unix:/run/shop/web.sock:/"
release_header = "X-Release"
within = "3s"
stable = "300ms"
"#;

const WORKERS: &str =
    "[[worker]]\nunit = \"shop-celery@.service\"\nwatch = \"3s\"\n[[worker]]\nunit = \"shop-celery-beat.service\"\nwatch = \"1s\"";

/// A server that names its release, which may be asked differently once visitors are led to it.
const SERVE: &str = r#"
import http.server, os, socketserver, sys
NAME = os.path.basename(os.getcwd())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        named = os.path.realpath("/run/shop/web.sock") == sys.argv[1]
        self.send_response(500 if named and os.path.exists("fails-when-named") else 200)
        self.send_header("X-Release", NAME)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def address_string(self):
        return ""
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
with Server(sys.argv[1], Handler) as server:
    server.serve_forever()
"#;

/// Tasks that say when they begin and end, and in which release.
const CELERY: &str = r#"
import os, time
from celery import Celery
NAME = os.path.basename(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
QUEUE = "/var/shop/shared/queue"
app = Celery("noticeboard", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": QUEUE, "data_folder_out": QUEUE, "control_folder": QUEUE, "polling_interval": 0.1}
app.conf.worker_concurrency = 2
def say(*words):
    with open("/var/shop/shared/said", "a") as said:
        print(*words, NAME, file=said)
@app.task(name="work")
def work(name):
    say("begun", name)
    while not os.path.exists(f"/var/shop/shared/end-{name}"):
        time.sleep(0.1)
    say("ended", name)
"#;

struct Shop {
    machine: Booted,
    repo: Repo,
    stages: Stages,
}

impl Shop {
    fn new() -> Self {
        let machine = Booted::new("workers");
        machine.systemctl(["stop", "polkit.service"]);
        machine
            .run(["rm", "-rf", "/etc/shop", "/var/shop", "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"])
            .expect(0);
        machine.run(["useradd", "--system", "--no-create-home", "shop"]).expect(0);
        for unit in ["shop-celery@.service", "shop-celery.service", "shop-celery-beat.service"] {
            machine.write(&format!("/etc/systemd/system/{unit}"), example(unit));
        }
        let web = "[Service]\nUser=shop\nUMask=0\nWorkingDirectory=/var/shop/slots/%i\nExecStart=/usr/bin/python3 serve.py /run/shop/web.sock.%i\n";
        machine.write("/etc/systemd/system/shop-web@.service", web);
        machine.write("/etc/tmpfiles.d/shop.conf", example("tmpfiles-shop.conf"));
        machine.run(["systemd-tmpfiles", "--create", "shop.conf", "release-agent.conf"]).expect(0);
        machine.write("/etc/shop/shop.env", "");
        machine.run(["install", "-d", "-o", "release-agent", "-g", "release-agent", "/var/shop", "/var/shop/shared"]).expect(0);
        machine.run(["install", "-d", "-o", "shop", "/var/shop/shared/queue"]).expect(0);
        machine.run(["install", "-o", "shop", "/dev/null", "/var/shop/shared/said"]).expect(0);
        let repo = machine.repo("shop");
        repo.write("serve.py", SERVE).write("noticeboard/__init__.py", "").write("noticeboard/celery.py", CELERY);
        machine.write("/etc/release-agent/agent.toml", "");
        machine.direct("release-agent");
        let shop = Self { machine, repo, stages: Stages::default() };
        shop.configure(WORKERS);
        for unit in ["shop-web@blue", "shop-web@green", "shop-celery@blue", "shop-celery@green"] {
            shop.grant("start", &format!("{unit}.service"));
            if unit != "shop-celery@green" {
                shop.grant("stop", &format!("{unit}.service"));
            }
        }
        shop.grant("restart", "shop-celery-beat.service");
        shop
    }

    fn grant(&self, verb: &str, unit: &str) {
        self.machine.systemctl(["enable", "--quiet", "--now", &format!("release-agent-{verb}@{unit}.socket")]);
    }

    fn configure(&self, workers: &str) {
        self.machine.write("/etc/release-agent/apps/shop.toml", format!("{FILE}{workers}\n"));
        self.machine.systemctl(["daemon-reload"]);
        self.machine.systemctl(["restart", AGENT]);
    }

    /// Commits; git trusts only a repository of its own user.
    fn commit(&self, what: &str) {
        self.repo.write("what", what).commit(what);
        self.machine.run(["rm", "-rf", "/srv/theirs"]).expect(0);
        self.machine.run(["cp", "--recursive", "/srv/shop", "/srv/theirs"]).expect(0);
        self.machine.run(["chown", "--recursive", "release-agent", "/srv/theirs"]).expect(0);
    }

    fn release(&self) -> Done {
        self.machine.ctl(["release", "main"])
    }

    /// Has the live release's code send a task.
    fn send(&self, task: &str, arguments: &str) {
        let script = format!("from noticeboard.celery import app; app.send_task({task:?}, [{arguments}])");
        let argv = ["env", "--chdir=/var/shop/app", "setpriv", "--reuid=shop", "--regid=shop", "--clear-groups", "venv/bin/python", "-c"];
        self.machine.run(argv.into_iter().chain([script.as_str()])).expect(0);
    }

    /// Sends a task that works until it is [ended](Self::end), and waits until it has begun.
    fn begin(&self, name: &str) {
        self.send("work", &format!("{name:?}"));
        wait_until("the task has begun", LONG, || !self.said("begun", name).is_empty());
    }

    /// Lets a task come to its end, or be over as soon as it begins.
    fn end(&self, name: &str) {
        self.machine.write(&format!("/var/shop/shared/end-{name}"), "");
    }

    /// Waits until a worker is told to finish, and lets its task take so long that a run speaks of it.
    fn end_while_finishing(&self, name: &str, unit: &str) {
        wait_until("the worker finishes", LONG, || self.state(unit) == "deactivating");
        std::thread::sleep(Duration::from_secs(2));
        self.end(name);
    }

    /// The releases that said this of a task, each as often as it did.
    fn said(&self, word: &str, name: &str) -> Vec<String> {
        let said = self.machine.read("/var/shop/shared/said");
        let of_task = said.lines().filter_map(|line| line.strip_prefix(&format!("{word} {name} ")));
        of_task.map(str::to_owned).collect()
    }

    #[track_caller]
    fn was_done_once(&self, name: &str, release: &str) {
        assert_eq!((self.said("begun", name), self.said("ended", name)), (vec![release.to_owned()], vec![release.to_owned()]), "{name}");
    }

    fn state(&self, unit: &str) -> String {
        self.machine.property(unit, "ActiveState")
    }

    fn live(&self) -> String {
        self.machine.live("shop").unwrap()
    }

    fn public(&self) -> String {
        let target = fs::read_link(self.machine.path("/run/shop/web.sock")).unwrap();
        target.to_str().unwrap().strip_prefix("web.sock.").unwrap().to_owned()
    }

    /// The releases that processes of Celery's work in, by their command lines.
    fn work(&self, word: &str) -> BTreeSet<String> {
        let script = format!("for p in $(pgrep --full 'bin/celery .* {word}( |$)'); do readlink /proc/$p/cwd; done");
        let found = self.machine.run(["sh", "-c", &script]).stdout;
        found.lines().map(|cwd| cwd.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// Fails the test unless this release alone serves and works, in this slot.
    #[track_caller]
    fn assert_alone(&self, slot: &str, release: &str) {
        let other = if slot == "blue" { "green" } else { "blue" };
        assert_eq!((self.live(), self.public()), (release.to_owned(), slot.to_owned()));
        for unit in ["shop-web", "shop-celery"] {
            let states = [slot, other].map(|slot| self.state(&format!("{unit}@{slot}.service")));
            assert_eq!(states, ["active", "inactive"], "{unit}");
        }
        assert!(!self.machine.path(format!("/var/shop/slots/{other}")).is_symlink(), "{other} is free");
        assert_eq!(self.work("worker"), [release.to_owned()].into());
        assert_eq!(self.work("beat"), [release.to_owned()].into());
        assert_eq!(self.machine.run(["pgrep", "--full", "--count", "bin/celery .* beat( |$)"]).stdout.trim(), "1");
    }

    /// Kills the agent, and waits until the next one is ready: what that one waits for is to happen meanwhile.
    fn kill_the_agent(&self, meanwhile: impl FnOnce()) {
        let restarts = self.machine.property(AGENT, "NRestarts");
        kill(Pid::from_raw(self.machine.main_process(AGENT)), Signal::SIGKILL).unwrap();
        meanwhile();
        wait_until("systemd has started the agent again", LONG, || {
            self.machine.property(AGENT, "NRestarts") != restarts && self.state(AGENT) == "active"
        });
    }

    fn last_outcome(&self) -> String {
        self.machine.ctl(["runs", "--json"]).expect(0).json()["runs"][0]["outcome"].as_str().unwrap().to_owned()
    }

    /// What doctor has against the way in which the app is restarted.
    fn findings(&self) -> String {
        let told = self.machine.ctl(["doctor", "--json"]).json();
        let findings = told["findings"].as_array().unwrap().iter();
        let against = findings.filter(|finding| finding["what"] == "restart" && finding["level"] != "good");
        against.map(|finding| format!("{}\n", finding["text"].as_str().unwrap())).collect()
    }
}

/// [`WORKERS`], watched until even a slow machine has loaded the code that ends them.
fn watched_for_long() -> String {
    WORKERS.replace("3s", "60s")
}

/// How many seconds it took until a unit was down, by the warning that it was cut off because it is allowed no longer than `most`.
fn cut_off(told: &Done, unit: &str, most: u64) -> f64 {
    let (begin, end) = (format!("! switch: {unit} took "), format!(" s to stop, and its TimeoutStopSec is {most} s"));
    let seconds = told.stderr.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(seconds, _)| seconds);
    assert!(seconds.is_some(), "{unit} was not cut off:\n{}", told.stderr);
    seconds.unwrap().parse().unwrap()
}

#[test]
fn celery_finishes_what_it_has_begun_and_the_next_one_does_the_rest() {
    let mut shop = Shop::new();
    let (blue, green) = ("shop-celery@blue.service", "shop-celery@green.service");

    shop.stages.begin("without one of the helpers");
    shop.commit("none");
    let failed = shop.release().expect(1);
    assert!(
        failed.stderr.contains(&format!("the agent may not stop {green}: there is no helper for it"))
            && failed.stderr.contains("release-agent-stop@shop-celery@green.service.socket"),
        "{failed:?}"
    );
    shop.grant("stop", green);

    shop.stages.begin("a first release whose worker does not stay");
    shop.configure(&watched_for_long());
    let dies = "raise SystemExit('no worker in this release')\n";
    shop.repo.write("noticeboard/celery.py", dies);
    shop.commit("zero");
    let failed = shop.release().expect(3);
    assert!(failed.stderr.contains("no worker in this release"), "{}", failed.stderr);
    assert_eq!([blue, "shop-web@blue.service"].map(|unit| shop.state(unit)), ["inactive", "inactive"], "nothing is left of it");

    shop.stages.begin("a release that fails, and is the first one to have workers");
    shop.configure("");
    for what in ["without workers", "again"] {
        shop.commit(what);
        shop.release().expect(0);
    }
    let without = shop.live();
    shop.configure(WORKERS);
    shop.repo.write("noticeboard/celery.py", CELERY).write("fails-when-named", "");
    shop.commit("with workers");
    let failed = shop.release().expect(3);
    assert_eq!((shop.live(), shop.public()), (without.clone(), "green".to_owned()));
    let none = format!("shop-celery@.service is not started for {without}, which had no such worker");
    assert!(failed.stdout.contains(&none) || failed.stderr.contains(&none), "{failed:?}");
    // Started, it finds no clock in that release's code.
    let clock = format!("! switch: shop-celery-beat.service, which {without} did not have, was restarted, and is not watched");
    assert!(failed.stdout.contains(&clock) || failed.stderr.contains(&clock), "{failed:?}");
    assert_eq!([blue, green].map(|unit| shop.state(unit)), ["inactive", "inactive"]);
    assert_eq!(shop.work("worker"), BTreeSet::new());

    shop.stages.begin("the first release");
    shop.repo.remove("fails-when-named");
    shop.commit("one");
    assert_eq!(shop.findings(), "", "the examples have no misconfiguration");
    shop.release().expect(0);
    let first = shop.live();
    shop.assert_alone("blue", &first);

    shop.stages.begin("the second one, which knows a task that the first does not");
    shop.begin("early");
    shop.end("late");
    let fresh = format!("{CELERY}\n@app.task(name=\"fresh\")\ndef fresh():\n    say('ended', 'fresh')\n");
    shop.repo.write("noticeboard/celery.py", &fresh);
    shop.commit("two");
    let run = shop.machine.begin(["agentctl", "-v", "release", "main"]);
    wait_until("visitors are led to it", LONG, || shop.public() == "green");
    shop.send("fresh", "");
    shop.send("work", "\"late\"");
    shop.end_while_finishing("early", blue);
    let told = run.finish().expect(0);
    let second = shop.live();
    shop.was_done_once("early", &first);
    wait_until("the tasks are done that came later", LONG, || {
        !shop.said("ended", "late").is_empty() && !shop.said("ended", "fresh").is_empty()
    });
    shop.was_done_once("late", &second);
    assert_eq!(shop.said("ended", "fresh"), [second.as_str()]);
    shop.assert_alone("green", &second);
    for words in
        [&format!("{blue} finishes what it is at, for 300 s at the most"), &format!("{blue} took "), &format!("{blue} has stopped")]
    {
        assert!(told.stdout.contains(words.as_str()) || told.stderr.contains(words.as_str()), "{words}: {told:?}");
    }

    shop.stages.begin("back, while a task takes longer than its unit allows");
    shop.machine.write("/etc/systemd/system/shop-celery@.service.d/short.conf", "[Service]\nTimeoutStopSec=25\n");
    shop.configure(&format!("[timeouts]\nswitch = \"25s\"\n{WORKERS}"));
    shop.begin("endless");
    let back = shop.machine.ctl(["rollback"]).expect(0);
    let too_long = format!("{blue} may finish what it is at for 25 s (TimeoutStopSec), and the step switch has 2");
    assert!(back.stderr.contains(&too_long), "{}", back.stderr);
    assert!(back.stderr.contains(&format!("! switch: {green} has not finished what it is at after ")), "{}", back.stderr);
    assert_eq!((shop.live(), shop.public(), shop.state(blue).as_str()), (first.clone(), "blue".to_owned(), "active"));
    assert_eq!(shop.said("begun", "endless"), [second.as_str()]);
    let slot = fs::read_link(shop.machine.path("/var/shop/slots/green")).unwrap();
    assert!(slot.ends_with(&second), "as long as it works, its slot is its own: {slot:?}");

    shop.stages.begin("a release whose worker does not stay");
    shop.configure(&watched_for_long());
    let before = shop.machine.main_process(blue);
    shop.repo.write("noticeboard/celery.py", dies);
    shop.commit("three");
    let failed = shop.release().expect(3);
    assert!(failed.stderr.contains("no worker in this release"), "the worker's own words are told:\n{}", failed.stderr);
    assert!(cut_off(&failed, green, 25) >= 25.0, "its slot was waited for:\n{}", failed.stderr);
    assert_eq!(shop.said("ended", "endless"), Vec::<String>::new());
    assert!(!failed.stderr.contains("ready."), "and not those of another release in its slot:\n{}", failed.stderr);
    shop.assert_alone("blue", &first);
    assert_eq!(shop.machine.main_process(blue), before, "the former one was never stopped");

    shop.stages.begin("a release that fails when its worker has taken over");
    shop.configure(WORKERS);
    shop.machine.run(["rm", "/etc/systemd/system/shop-celery@.service.d/short.conf"]).expect(0);
    shop.machine.systemctl(["daemon-reload"]);
    shop.begin("meanwhile");
    shop.repo.write("noticeboard/celery.py", &fresh).write("fails-when-named", "");
    shop.commit("four");
    let run = shop.machine.begin(["agentctl", "-v", "release", "main"]);
    shop.end_while_finishing("meanwhile", blue);
    run.finish().expect(3);
    shop.was_done_once("meanwhile", &first);
    shop.assert_alone("blue", &first);
    assert_ne!(shop.machine.main_process(blue), before, "it finished, and was started anew");

    shop.stages.begin("back to a release whose worker finishes for longer than the step has");
    shop.begin("tenacious");
    // Its unit allows it five minutes; the run has more urgent things to do than to wait for that.
    let left = shop.machine.ctl(["activate", &second]).expect(0);
    assert!(left.stderr.contains(&format!("! switch: {blue} has not finished what it is at after ")), "{}", left.stderr);
    shop.configure(&format!("[timeouts]\nswitch = \"20s\"\n{WORKERS}"));
    let back = shop.machine.ctl(["activate", &first]).expect(3);
    assert!(back.stderr.contains(&format!("{blue} starts anew when it has finished")), "{}", back.stderr);
    assert_eq!((shop.live(), shop.state(green).as_str(), shop.state(blue).as_str()), (second.clone(), "active", "deactivating"));
    // It was to start anew, and is not to any more.
    shop.machine.systemctl(["kill", "--signal=KILL", blue]);
    wait_until("it has ended", LONG, || shop.state(blue) != "deactivating");
    assert!(["inactive", "failed"].contains(&&*shop.state(blue)), "{}", shop.state(blue));
    assert_eq!(shop.work("worker"), [second.clone()].into());
    shop.configure(WORKERS);
    shop.machine.ctl(["activate", &first]).expect(0);
    shop.assert_alone("blue", &first);

    shop.stages.begin("the agent dies while the former worker finishes");
    shop.begin("survives");
    shop.repo.remove("fails-when-named");
    shop.commit("five");
    shop.machine.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the former worker finishes", LONG, || shop.state(blue) == "deactivating");
    shop.kill_the_agent(|| shop.end("survives"));
    wait_until("the run has ended", LONG, || shop.machine.ctl(["status", "--json"]).json()["apps"][0]["run"].is_null());
    assert_eq!(shop.last_outcome(), "rolled_back");
    shop.was_done_once("survives", &first);
    shop.assert_alone("blue", &first);

    shop.stages.begin("the host boots");
    shop.machine.systemctl(["enable", "--quiet", AGENT, "shop-celery-beat.service"]);
    shop.machine.run(["sync"]).expect(0);
    shop.machine.reboot(&["--force", "--force"]);
    shop.machine.systemctl(["start", AGENT, "shop-celery-beat.service"]);
    wait_until("the worker works again", LONG, || shop.state(blue) == "active");
    shop.assert_alone("blue", &first);

    shop.stages.begin("one that is left over from before there was a template");
    shop.machine.write("/etc/systemd/system/shop-celery.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n");
    shop.machine.systemctl(["daemon-reload"]);
    shop.machine.systemctl(["start", "shop-celery.service"]);
    assert!(shop.findings().contains("shop-celery.service runs beside the instances of shop-celery@.service"), "{}", shop.findings());
    shop.machine.systemctl(["stop", "shop-celery.service"]);

    shop.stages.begin("a clock in a template");
    let clock = example("shop-celery-beat.service").replace("/var/shop/app", "/var/shop/slots/%i");
    shop.machine.write("/etc/systemd/system/shop-celery-beat@.service", clock);
    shop.configure("[[worker]]\nunit = \"shop-celery-beat@.service\"");
    assert!(shop.findings().contains("beat in a template"), "{}", shop.findings());
    let failed = shop.release().expect(1);
    assert!(failed.stderr.contains("beat in a template") && failed.stderr.contains("plain unit"), "{}", failed.stderr);

    shop.stages.begin("a worker that is restarted, and is too slow");
    shop.machine.systemctl(["stop", blue]);
    let unit = example("shop-celery.service").replace("KillMode=mixed\n", "").replace("5min", "4s");
    shop.machine.write("/etc/systemd/system/shop-celery.service", unit);
    shop.grant("restart", "shop-celery.service");
    shop.configure("[timeouts]\nswitch = \"3s\"\n[[worker]]\nunit = \"shop-celery.service\"\nwatch = \"1s\"");
    let against = shop.findings();
    for words in ["shop-celery.service has KillMode=control-group", "for 4 s (TimeoutStopSec), and the step switch has 3 s"] {
        assert!(against.contains(words), "{words}:\n{against}");
    }
    shop.machine.write("/etc/systemd/system/shop-celery.service", example("shop-celery.service").replace("5min", "4s"));
    shop.configure("[[worker]]\nunit = \"shop-celery.service\"\nwatch = \"1s\"");
    shop.machine.systemctl(["start", "shop-celery.service"]);
    shop.begin("slow");
    let told = shop.release().expect(0);
    assert!(cut_off(&told, "shop-celery.service", 4) >= 4.0, "{}", told.stderr);
    assert_eq!(shop.work("worker"), [shop.live()].into());
    shop.stages.begin("the end");
}
