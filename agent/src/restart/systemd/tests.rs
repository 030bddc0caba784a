//! These need a systemd that may be played with: `cargo test --lib systemd:: -- --ignored` as root inside a booted container.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::restart::tests::{A, APP, B, Stage, Visitors, all_answered, visit};
use crate::restart::{Restart, handover, uwsgi_fifo};
use crate::tools::http::{Target, listens};

const UWSGI: &str = "/usr/bin/uwsgi --plugin python3 --master --need-app --processes=2 --listen=1024 --py-call-osafterfork";

/// Unit files of one test, gone with it.
struct Units(Vec<String>);

impl Units {
    fn new(units: &[(&str, String)]) -> Self {
        for (name, text) in units {
            fs::write(Path::new("/run/systemd/system").join(name), text).unwrap();
        }
        systemctl(&["daemon-reload"]);
        Self(units.iter().map(|(name, _)| (*name).to_owned()).collect())
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for name in &self.0 {
            systemctl(&["stop", &name.replace("@.", "@*.")]);
            let _ = fs::remove_file(Path::new("/run/systemd/system").join(name));
        }
        systemctl(&["daemon-reload"]);
    }
}

fn systemctl(args: &[&str]) {
    Command::new("systemctl").args(args).output().unwrap();
}

fn service(exec: &str, more: &str) -> String {
    format!("[Service]\nExecStart={exec}\nEnvironment=PYTHONDONTWRITEBYTECODE=1\n{more}\n")
}

fn units(names: &[&str], how: How) -> Restart {
    Restart::Systemd(Settings {
        units: names.iter().map(|name| (*name).to_owned()).collect(),
        how,
        watch_for: Duration::from_secs(3),
        timeout: Duration::from_secs(10),
    })
}

fn chain(error: &RestartError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error} / {source} / {:?} / {:#?}", error.hint(), error.tail())
}

fn web(stage: &Stage) -> String {
    let uwsgi = format!(
        "{UWSGI} --die-on-term --chdir={} --wsgi-file=app.py --http-socket={}",
        stage.path("app").display(),
        stage.path("web.sock").display()
    );
    service(&uwsgi, "Type=notify\nNotifyAccess=all\nKillSignal=SIGTERM\nExecReload=/bin/kill -HUP $MAINPID")
}

#[test]
#[ignore = "needs a systemd of its own"]
fn units_are_restarted_and_reloaded_with_the_workers_and_watched() {
    let mut stage = Stage::new();
    stage.checks = vec![stage.check(Target::Unix(stage.path("web.sock")))];
    let celery = service("/bin/sleep 1000", "");
    let _units = Units::new(&[("ra1-web.service", web(&stage)), ("ra1-celery.service", celery)]);
    let unit = "ra1-celery.service".to_owned();
    stage.workers = vec![Worker { unit, watch_for: Duration::from_secs(2), timeout: Duration::from_secs(10) }];
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    stage.link(&a);
    stage.switch(&units(&["ra1-web.service"], How::Restart), &a, None).unwrap();
    let visitors = Visitors::come(&stage.path("web.sock"));
    let begun = Instant::now();
    let proof = stage.switch(&units(&["ra1-web.service"], How::ReloadOrRestart), &b, Some(&a)).unwrap();
    eprintln!("reloaded and proven in {:?}: {proof:?} {:#?}", begun.elapsed(), stage.said.borrow());
    let (seen, silence) = visitors.go();
    all_answered(&seen);
    eprintln!("{} visits, longest silence {silence:?}", seen.len());
    assert_eq!(seen.last(), Some(&Ok(B.to_owned())));
    stage.back(&units(&["ra1-web.service"], How::Restart), &b, Some(&a)).unwrap();
    assert_eq!(visit(&stage.path("web.sock"), "/").unwrap(), A);
    // A release that cannot be loaded, and the way back from a unit that failed.
    let broken = stage.release(B, "import nothing_of_that_name\n");
    let error = stage.switch(&units(&["ra1-web.service"], How::Restart), &broken, Some(&a)).unwrap_err();
    assert!(chain(&error).contains("nothing_of_that_name"), "{}", chain(&error));
    let error = stage.back(&units(&["ra1-web.service"], How::Restart), &broken, Some(&a));
    error.unwrap();
    let error = stage.switch(&units(&["ra1-web.service"], How::ReloadOrRestart), &broken, Some(&a)).unwrap_err();
    eprintln!("{}", chain(&error));
    stage.back(&units(&["ra1-web.service"], How::ReloadOrRestart), &broken, Some(&a)).unwrap();
}

#[test]
#[ignore = "needs a systemd of its own"]
fn a_unit_that_dies_flaps_or_is_not_there_is_no_proof() {
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let _units = Units::new(&[
        ("ra2-dies.service", service("/bin/sh -c 'echo last words; sleep 1.5; exit 7'", "")),
        ("ra2-flaps.service", service("/bin/sh -c 'sleep 0.4; exit 1'", "Restart=always\nRestartSec=0.05\nStartLimitIntervalSec=0")),
        ("ra2-fails.service", service("/bin/false", "Type=oneshot")),
        ("ra2-hangs.service", service("/bin/sleep 1000", "Type=notify\nTimeoutStartSec=60")),
    ]);
    let fail = |unit: &str| {
        let mut restart = units(&[unit], How::Restart);
        if let (Restart::Systemd(settings), "ra2-hangs.service") = (&mut restart, unit) {
            settings.timeout = Duration::from_secs(1);
        }
        let error = stage.switch(&restart, &a, None).unwrap_err();
        eprintln!("{unit}: {}", chain(&error));
        error
    };
    let dies = fail("ra2-dies.service");
    assert!(dies.to_string().contains("did not stay active") && dies.to_string().contains("exit status 7"), "{dies}");
    assert!(dies.tail().iter().any(|line| line.contains("last words")), "{:?}", dies.tail());
    let flaps = fail("ra2-flaps.service").to_string();
    assert!(flaps.contains("did not stay active") || flaps.contains("flaps"), "{flaps}");
    assert!(fail("ra2-fails.service").to_string().contains("did not restart"));
    assert!(fail("ra2-hangs.service").to_string().contains("took more than 1 s"));
    assert!(fail("ra2-nowhere.service").to_string().contains("does not exist"));
    systemctl(&["mask", "--runtime", "ra2-masked.service"]);
    assert!(fail("ra2-masked.service").to_string().contains("is masked"));
    systemctl(&["unmask", "--runtime", "ra2-masked.service"]);
}

#[test]
#[ignore = "needs a systemd of its own"]
fn a_template_unit_hands_over() {
    let mut stage = Stage::new();
    let socket = stage.path("web.sock");
    stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
    let uwsgi = format!(
        "{UWSGI} --die-on-term --chdir={}/%i --wsgi-file=app.py --http-socket={}.%i",
        stage.path("releases").display(),
        socket.display()
    );
    let _units = Units::new(&[("ra3@.service", service(&uwsgi, "Type=notify\nNotifyAccess=all"))]);
    let restart = Restart::Handover(handover::Settings {
        socket: socket.clone(),
        starter: handover::Starter::Unit("ra3@.service".to_owned()),
        start_timeout: Duration::from_secs(10),
        drain: Duration::from_secs(5),
        keep_warm: handover::KeepWarm::No,
    });
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    stage.switch(&restart, &a, None).unwrap();
    let visitors = Visitors::come(&socket);
    let broken = stage.release(B, "import nothing_of_that_name\n");
    let error = stage.switch(&restart, &broken, Some(&a)).unwrap_err();
    eprintln!("{}", chain(&error));
    assert!(chain(&error).contains("nothing_of_that_name"), "{}", chain(&error));
    stage.release(B, APP);
    stage.switch(&restart, &b, Some(&a)).unwrap();
    assert!(!listens(&stage.path(&format!("web.sock.{A}"))));
    stage.back(&restart, &b, Some(&a)).unwrap();
    let (seen, silence) = visitors.go();
    all_answered(&seen);
    eprintln!("{} visits, longest silence {silence:?} {:#?}", seen.len(), stage.said.borrow());
    assert_eq!(visit(&socket, "/").unwrap(), A);
    assert!(!listens(&stage.path(&format!("web.sock.{B}"))));
    assert!(stage.with_scene(|scene| Bus::open(scene.watch).unwrap().running("ra3@*.service")).unwrap() == [format!("ra3@{A}.service")]);
}

#[test]
#[ignore = "needs a systemd of its own"]
fn uwsgi_is_ended_by_q_and_started_by_its_unit() {
    let mut stage = Stage::new();
    let socket = stage.path("web.sock");
    stage.checks = vec![stage.check(Target::Unix(socket))];
    let fifo = stage.path("fifo");
    let exec = web(&stage).replace("--need-app", &format!("--need-app --master-fifo={}", fifo.display()));
    let _units = Units::new(&[("ra4-web.service", exec)]);
    let settings = |how| uwsgi_fifo::Settings {
        fifo: fifo.clone(),
        how,
        stats: None,
        unit: Some("ra4-web.service".to_owned()),
        timeout: Duration::from_secs(20),
    };
    let (quit, graceful) = (Restart::UwsgiFifo(settings(uwsgi_fifo::How::Quit)), Restart::UwsgiFifo(settings(uwsgi_fifo::How::Graceful)));
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    // Nobody is there yet: the unit is started.
    stage.switch(&graceful, &a, None).unwrap();
    stage.switch(&quit, &b, Some(&a)).unwrap();
    stage.switch(&graceful, &a, Some(&b)).unwrap();
    let broken = stage.release(B, "import nothing_of_that_name\n");
    let error = stage.switch(&graceful, &broken, Some(&a)).unwrap_err();
    eprintln!("{}", chain(&error));
    stage.back(&graceful, &broken, Some(&a)).unwrap();
    assert_eq!(visit(&stage.path("web.sock"), "/").unwrap(), A);
}

#[test]
fn without_a_bus_the_cure_is_told_before_anything_is_done() {
    // Where there is a systemd, this has nothing to look at.
    if Path::new("/run/dbus/system_bus_socket").exists() {
        return;
    }
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let error = stage.with_scene(|scene| units(&["x.service"], How::Restart).prepare(scene, a.serving()).map(drop)).unwrap_err();
    assert!(error.to_string().contains("cannot reach systemd") && error.hint().unwrap().contains("is dbus running"), "{}", chain(&error));
}
