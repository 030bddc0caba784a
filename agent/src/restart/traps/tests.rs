use super::*;
use crate::restart::tests::Stage;
use crate::restart::{handover, uwsgi_fifo};

const LINK: &str = "/var/shop/app";

fn server(line: &str) -> Server {
    Server { argv: line.split(' ').map(str::to_owned).collect(), ..Server::default() }
}

fn texts(found: &[Finding]) -> String {
    found
        .iter()
        .map(|finding| format!("{:?}: {} -> {}\n", finding.level, finding.text, finding.cure.as_deref().unwrap_or("no cure")))
        .collect()
}

fn uwsgi(line: &str, way: Way) -> String {
    texts(&uwsgi::judge(&server(line), way, Path::new(LINK)))
}

#[test]
fn the_set_ups_that_follow_the_link_are_left_in_peace() {
    let good = "uwsgi --master --chdir=/var/shop/app --virtualenv=/var/shop/app/venv --listen=1024 --http-socket=:8000 --die-on-term";
    assert_eq!(uwsgi(good, Way::Reload), "");
    let good = "uwsgi --master --lazy-apps --pythonpath /var/shop/app --module app -l 1024";
    assert_eq!(uwsgi(good, Way::Fork), "");
    let good = "uwsgi --need-app --die-on-term --listen 1024 --http-socket={socket} --chdir={dir}";
    assert_eq!(uwsgi(good, Way::Anew), "");
}

#[test]
fn each_trap_of_uwsgi_is_told_with_its_cure() {
    let rest = "--listen=1024 --die-on-term";
    assert!(uwsgi(&format!("uwsgi --chdir=/var/shop/app {rest}"), Way::Fork).contains("forks the old app again"));
    assert!(uwsgi(&format!("uwsgi --chdir=/var/shop/app --lazy-apps {rest}"), Way::Fork).contains("old code with the new environment"));
    assert!(uwsgi(&format!("uwsgi --http=:8000 --chdir=/var/shop/app {rest}"), Way::Reload).contains("http router"));
    assert!(uwsgi("uwsgi --chdir=/var/shop/app", Way::Reload).contains("left at 100"));
    assert!(uwsgi("uwsgi --chdir=/var/shop/app -l 128", Way::Reload).contains("queue is 128"));
    assert!(uwsgi(&format!("uwsgi --chdir=/var/shop/releases/x {rest}"), Way::Reload).contains("no reload ever leaves it"));
    assert!(uwsgi("uwsgi --need-app --listen=1024", Way::Anew).contains("die-on-term"));
    let mut started = server(&format!("uwsgi --virtualenv=/var/shop/app/venv --module app {rest}"));
    started.dir = Some("/var/shop/releases/2026-11-20-10-00-00-aaaaaaaaaaaa".into());
    let found = uwsgi::judge(&started, Way::Reload, Path::new(LINK));
    assert!(texts(&found).contains("has no chdir") && found.iter().all(|finding| finding.cure.is_some()), "{found:?}");
    let unit = Unit { name: "shop.service".into(), kind: "notify".into(), kill_signal: 15, ..Unit::default() };
    let started = Server { unit: Some(unit), ..server("uwsgi --lazy-apps --chdir=/var/shop/app --listen=1024") };
    let found = texts(&uwsgi::judge(&started, Way::Restart, Path::new(LINK)));
    assert!(found.contains("stops uWSGI by SIGTERM") && found.contains("READY before any app"), "{found}");
}

#[test]
fn options_are_read_from_ini_files_with_their_variables() {
    let stage = Stage::new();
    let common = "[uwsgi]\nlisten = 1024\ndie-on-term = true\n";
    std::fs::write(stage.path("common.ini"), common).unwrap();
    let text =
        "; the app\n[other]\nhttp = :1\n[uwsgi]\nbase = /var/shop\nini = common.ini\nchdir = %(base)/app\nhttp = :8000\n# http-socket\n";
    std::fs::write(stage.path("shop.ini"), text).unwrap();
    let mut started = server("/usr/bin/uwsgi --ini shop.ini");
    started.dir = Some(stage.path(""));
    let found = texts(&uwsgi::judge(&started, Way::Reload, Path::new(LINK)));
    assert!(found.contains("http router") && found.lines().count() == 1, "{found}");
}

#[test]
fn each_trap_of_gunicorn_is_told_with_its_cure() {
    let judge = |line: &str, way| texts(&gunicorn::judge(&server(line), way, Path::new(LINK)));
    assert!(judge("/var/shop/app/venv/bin/gunicorn --chdir /var/shop/app x", Way::Reload).contains("old environment"));
    assert!(judge("/var/shop/app/venv/bin/python /var/shop/app/venv/bin/gunicorn x", Way::Second).contains("old environment"));
    assert_eq!(judge("/var/shop/app/venv/bin/python -m gunicorn --chdir /var/shop/app x", Way::Reload), "");
    assert!(judge("python -m gunicorn x", Way::Second).contains("no new master"));
    assert!(judge("python -m gunicorn --preload x", Way::Reload).contains("nothing changes"));
    let unit = Unit { name: "shop.service".into(), kind: "notify".into(), ..Unit::default() };
    let started = Server { unit: Some(unit), ..server("gunicorn x") };
    assert!(texts(&gunicorn::judge(&started, Way::Second, Path::new(LINK))).contains("systemd stops both"));
}

#[test]
fn a_server_is_known_by_its_program_and_not_by_its_socket() {
    for line in ["uwsgi x", "/usr/bin/uwsgi-core", "/x/venv/bin/python /x/venv/bin/pyuwsgi --master"] {
        assert!(server(line).runs("uwsgi"), "{line}");
    }
    assert!(server("python3 -m gunicorn x").runs("gunicorn"));
    assert!(!server("gunicorn --bind=unix:/run/uwsgi.sock").runs("uwsgi"));
}

#[test]
fn a_reload_by_unit_is_what_its_command_does() {
    let unit =
        |reload: &str| Unit { can_reload: true, exec_reload: vec![reload.split(' ').map(str::to_owned).collect()], ..Unit::default() };
    assert_eq!(way_of(&unit("/bin/kill -HUP $MAINPID"), systemd::How::ReloadOrRestart), Way::Reload);
    assert_eq!(way_of(&unit("/bin/sh -c echo c > /run/fifo"), systemd::How::ReloadOrRestart), Way::Fork);
    assert_eq!(way_of(&unit("/bin/kill -HUP $MAINPID"), systemd::How::Restart), Way::Restart);
    assert_eq!(way_of(&Unit::default(), systemd::How::ReloadOrRestart), Way::Restart);
}

#[test]
fn doctor_says_what_stands_in_the_way_and_what_is_well() {
    let stage = Stage::new();
    let fifo = Restart::UwsgiFifo(uwsgi_fifo::Settings {
        fifo: stage.path("fifo"),
        how: uwsgi_fifo::How::Graceful,
        stats: None,
        unit: None,
        timeout: Duration::from_secs(1),
    });
    let found = find(&fifo, Path::new(LINK), &[], Duration::from_secs(900));
    assert!(found[0].level == Level::Error && found[0].text.contains("nobody reads the FIFO"), "{found:?}");
    let argv = "uwsgi --need-app --die-on-term --listen=1024 --http-socket={socket}";
    let handover = |argv: &str| {
        Restart::Handover(handover::Settings {
            socket: stage.path("web.sock"),
            starter: Starter::Command(argv.split(' ').map(str::to_owned).collect()),
            slots: Vec::new(),
            start_timeout: Duration::from_secs(1),
            drain: Duration::from_secs(1),
            keep_warm: handover::KeepWarm::No,
        })
    };
    assert_eq!(find(&handover(argv), Path::new(LINK), &[], Duration::from_secs(900))[0].level, Level::Good);
    let found = find(&handover(&format!("/nowhere/{argv}")), Path::new(LINK), &[], Duration::from_secs(900));
    assert!(found[0].text.contains("is not there"), "{found:?}");
}

#[test]
fn celery_is_known_however_it_is_started() {
    let unit = |line: &str, kill_mode: &str| Unit {
        name: "w.service".into(),
        kill_mode: kill_mode.into(),
        // Where it is a shell's, what it is to do is one word.
        exec_start: vec![match line.split_once(" -c ") {
            Some((shell, script)) => vec![shell.to_owned(), "-c".to_owned(), script.to_owned()],
            None => server(line).argv,
        }],
        ..Unit::default()
    };
    let (worker, beat) = ("/var/shop/app/venv/bin/celery --app shop worker", "/var/shop/app/venv/bin/celery --app shop beat");
    assert_eq!(texts(&celery::judge(&unit(worker, "mixed"))), "");
    for line in [
        worker,
        "/usr/bin/python3 -m celery -A shop worker",
        "/usr/bin/env celery -A shop worker",
        "/bin/sh -c exec /var/shop/app/venv/bin/celery -A shop worker --loglevel=\"$LEVEL\"",
        "/bin/bash -c cd /var/shop/app && DEBUG=1 celery --app shop worker",
    ] {
        let found = texts(&celery::judge(&unit(line, "control-group")));
        assert!(found.contains("w.service has KillMode=control-group") && found.contains("KillMode=mixed"), "{line}: {found}");
    }
    assert_eq!(texts(&celery::judge(&unit(beat, "control-group"))), "");
    assert_eq!(texts(&celery::judge(&unit("/usr/bin/rq worker celery", "control-group"))), "");
    for line in [
        beat,
        "/usr/bin/python3 -m celery -A shop worker -B",
        "celery -A shop worker --beat",
        "celery --app=shop -q worker -EB",
        "celery multi start w1 -A shop -B",
        "/bin/sh -c exec celery -A shop beat --schedule '/var/lib/shop/beat of the shop'",
        "/bin/bash -c cd /var/shop/app; exec venv/bin/celery -A shop beat",
    ] {
        assert!(celery::is_clock(&unit(line, "mixed")), "{line}");
    }
    for line in [
        worker,
        "/usr/bin/beat",
        "/usr/bin/music beat",
        // Names, and no commands.
        "celery --app beat worker --queues beat",
        "celery -A beat worker -Q beat -O fair",
        "/bin/sh -c exec celery -A beat worker",
        "/bin/sh -c echo 'celery beat",
    ] {
        assert!(!celery::is_clock(&unit(line, "mixed")), "{line}");
    }
}
