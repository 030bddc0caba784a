//! Every program of a release has the same variables, whoever starts it: `[env]`, the secrets and the settings module; and `restart` brings those of now.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agent_tests::{AGENT, Bench, Booted, Place, SITE_SOCKET, UNIT, UnitApp, demo_settings, get, wait_until};
use serde_json::Value;

const MOST: Duration = Duration::from_secs(60);
const FILE: &str = "/var/plain/.agent/variables/live";

/// The variables that a process was started with.
fn variables(process: i32) -> BTreeMap<String, String> {
    let environ = fs::read_to_string(format!("/proc/{process}/environ")).unwrap();
    environ.split_terminator('\0').filter_map(|set| set.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_secrets_file_means_to_the_agent_what_it_means_to_systemd() {
    // The agent's own reading is held against the same list by a test of its own.
    let cases: Vec<Value> = serde_json::from_str(include_str!("../src/environment-files.json")).unwrap();
    // And what the agent refuses, for a unit would have less than the file says.
    let passed_over = ["export A=b\n", "1A=b\n", "A B=b\n", "A\n", "ü=b\n"];
    let machine = Booted::new("secrets files");
    machine.run(["mkdir", "/run/files", "/run/seen"]).expect(0);
    let texts = cases.iter().map(|case| case["text"].as_str().unwrap()).chain(passed_over);
    let units: Vec<String> = texts
        .enumerate()
        .map(|(at, text)| {
            machine.write(&format!("/run/files/{at}"), text);
            format!("seen@{at}.service")
        })
        .collect();
    machine.write(
        "/etc/systemd/system/seen@.service",
        "[Service]\nType=oneshot\nEnvironmentFile=/run/files/%i\nExecStart=/usr/bin/env -0\nStandardOutput=file:/run/seen/%i\n",
    );
    machine.systemctl(["daemon-reload"]);
    machine.systemctl(["start"].into_iter().chain(units.iter().map(String::as_str)));
    let of_systemd = ["LANG", "PATH", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "HOME", "LOGNAME", "SHELL", "USER", "LC_ALL"];
    let seen = |at: usize| -> BTreeMap<String, String> {
        let text = machine.read(&format!("/run/seen/{at}"));
        let sets = text.split_terminator('\0').filter_map(|set| set.split_once('='));
        sets.filter(|(name, _)| !of_systemd.contains(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    for (at, case) in cases.iter().enumerate() {
        let sets = case["sets"].as_array().unwrap().iter().map(|set| [0, 1].map(|at| set[at].as_str().unwrap().to_owned()));
        assert_eq!(seen(at), sets.map(|[name, value]| (name, value)).collect(), "{case}");
    }
    for (at, text) in passed_over.iter().enumerate() {
        assert_eq!(seen(cases.len() + at), BTreeMap::new(), "{text:?}");
    }
}

fn plain(machine: &Booted, action: &str, env: &str) {
    let restart = format!("[restart]\nstrategy = \"systemd\"\nunit = {UNIT:?}\naction = {action:?}\n");
    machine
        .write("/etc/release-agent/apps/plain.toml", format!("repository = \"/srv/plain\"\nallow_local = true\n{restart}\n[env]\n{env}\n"));
    machine.systemctl(["restart", AGENT]);
}

#[test]
fn a_unit_has_what_env_says_and_restart_brings_what_it_says_now() {
    let reload = "ExecReload=/bin/true\nEnvironment=GREETING=mine";
    let app = UnitApp::new("variables", &format!("{reload}\nEnvironmentFile=-{FILE}"), "");
    let machine = &app.machine;
    let greeting = || variables(machine.main_process(UNIT)).get("GREETING").cloned();
    let doctor = || machine.ctl(["doctor"]);

    plain(machine, "restart", "GREETING = 'a \"b\" $c \\d'");
    let first = app.released();
    assert_eq!(greeting().as_deref(), Some("a \"b\" $c \\d"));
    assert_eq!(fs::metadata(machine.path(FILE)).unwrap().permissions().mode() & 0o777, 0o600, "nobody else may read it");
    assert!(!doctor().stdout.contains("GREETING"));

    // What is set anew is not what the process has: doctor says so, and a release that is taken back leaves what was there.
    plain(machine, "restart", "GREETING = 'new'");
    doctor().says(&["plain.service was started with other values of GREETING", "agentctl --app plain restart"]);
    app.release("exit 1").expect(3);
    assert_eq!(greeting().as_deref(), Some("a \"b\" $c \\d"));
    assert!(machine.read(FILE).contains("GREETING=\"a "), "{}", machine.read(FILE));

    // The same release, started anew although its unit could be reloaded.
    plain(machine, "reload-or-restart", "GREETING = 'new'");
    let before = machine.main_process(UNIT);
    machine.ctl(["restart"]).expect(0).says(&["was started anew, and is live"]);
    assert_eq!((greeting().as_deref(), machine.live("plain"), app.serving()), (Some("new"), Some(first.clone()), first));
    assert_ne!(machine.main_process(UNIT), before);
    assert!(!doctor().stdout.contains("GREETING"));

    // Other settings than the release was made with are an error, and the run says so, too.
    plain(machine, "restart", "GREETING = 'new'\nDJANGO_SETTINGS_MODULE = 'shop.prod'");
    let unit =
        "[Service]\nWorkingDirectory=/var/plain/app\nExecStart=/bin/sh /var/plain/app/serve\nEnvironment=DJANGO_SETTINGS_MODULE=shop.dev\n";
    machine.write("/etc/systemd/system/plain.service", unit);
    machine.systemctl(["daemon-reload"]);
    let both = "plain.service has DJANGO_SETTINGS_MODULE=shop.dev, and the release was made with shop.prod";
    machine.ctl(["restart"]).expect(0).says(&[both]);
    doctor().expect(1).says(&[both, &format!("plain.service does not read {FILE}, so that it lacks what the app's file says of GREETING")]);
    app.assert_sound();
}

/// Says in the demo's answers what the server was started with.
const TELLING: &str = "\nimport os\n_of_the_demo = application\ndef application(environ, start_response):\n    \
    def telling(status, headers, *more):\n        headers.append((\"X-Settings\", os.environ.get(\"DJANGO_SETTINGS_MODULE\", \"none\")))\n        \
    headers.append((\"X-Greeting\", os.environ.get(\"GREETING\", \"none\")))\n        return start_response(status, headers, *more)\n    \
    return _of_the_demo(environ, telling)\n";

#[test]
fn every_program_has_the_settings_module_and_a_restart_has_the_secrets_of_now() {
    let bench = Bench::new("one environment");
    let repo = bench.demo_repo(2);
    repo.write("noticeboard/prod.py", "from .settings import *\n");
    let wsgi = fs::read_to_string(repo.path().join("noticeboard/wsgi.py")).unwrap();
    repo.write("noticeboard/wsgi.py", wsgi + TELLING).commit("Tell");
    let note = |step: &str| format!("[[hook]]\nafter = \"{step}\"\nrun = [\"sh\", \"-c\", \"echo hook-{step} $DJANGO_SETTINGS_MODULE\"]\n");
    let all = demo_settings(&bench, &repo).replace("[django]\n", "[django]\nsettings = \"noticeboard.prod\"\n");
    assert!(all.contains("noticeboard.prod"), "{all}");
    bench.app("demo", &format!("{all}\n{}{}", note("checkout"), note("migrate"))).start();
    bench.ctl(["release", "main"]).expect(0);
    let said = bench.ctl(["logs", "1"]).stdout;
    for step in ["checkout", "migrate"] {
        assert!(said.contains(&format!("hook-{step} noticeboard.prod")), "{said}");
    }
    let answer = || get(&Place::Socket(bench.path(SITE_SOCKET)), "/healthz").unwrap();
    assert_eq!(answer().header("X-Settings"), Some("noticeboard.prod"));

    // A second instance of the same release, with what is set now.
    let live = bench.live("demo").unwrap();
    let taken_up = || bench.log().matches("the configuration was taken up").count();
    let before = taken_up();
    bench.app("demo", &all.replace("[env]\n", "[env]\nGREETING = \"hello\"\n"));
    wait_until("the configuration is taken up", MOST, || taken_up() > before);
    bench.ctl(["activate", &live]).expect(0).says(&["activate changes nothing", "agentctl --app demo restart"]);
    assert_eq!(answer().header("X-Greeting"), Some("none"));
    bench.ctl(["doctor"]).says(&["was started with other values of GREETING"]);
    bench.ctl(["restart"]).expect(0).says(&["was started anew, and is live"]);
    assert_eq!((answer().header("X-Greeting"), answer().header("X-Settings")), (Some("hello"), Some("noticeboard.prod")));
    assert_eq!((bench.live("demo"), bench.releases("demo").len()), (Some(live), 1));
    bench.assert_sound();
}
