use super::*;
use crate::restart::handover;
use crate::restart::in_place::uwsgi_fifo;
use crate::restart::tests::{A, APP, B, Stage};

const LINK: &str = "/var/shop/app";

fn server(line: &str) -> Server {
    Server { argv: line.split(' ').map(str::to_owned).collect(), ..Server::default() }
}

fn texts(found: &[Finding]) -> String {
    found
        .iter()
        .map(|finding| format!("{:?}: {} -> {}\n", finding.level, finding.text, finding.hint.as_deref().unwrap_or("no hint")))
        .collect()
}

fn uwsgi(line: &str, way: ReloadKind) -> String {
    texts(&uwsgi::lint(&server(line), way, Path::new(LINK)))
}

#[test]
fn the_set_ups_that_follow_the_link_are_left_in_peace() {
    let good = "uwsgi --master --chdir=/var/shop/app --virtualenv=/var/shop/app/venv --listen=1024 --http-socket=:8000 --die-on-term";
    assert_eq!(uwsgi(good, ReloadKind::Reload), "");
    let good = "uwsgi --master --lazy-apps --pythonpath /var/shop/app --module app -l 1024";
    assert_eq!(uwsgi(good, ReloadKind::Fork), "");
    let good = "uwsgi --need-app --die-on-term --listen 1024 --http-socket={socket} --chdir={dir}";
    assert_eq!(uwsgi(good, ReloadKind::Anew), "");
}

#[test]
fn each_trap_of_uwsgi_is_told_with_its_hint() {
    let rest = "--listen=1024 --die-on-term";
    assert!(uwsgi(&format!("uwsgi --chdir=/var/shop/app {rest}"), ReloadKind::Fork).contains("forks the old app again"));
    assert!(
        uwsgi(&format!("uwsgi --chdir=/var/shop/app --lazy-apps {rest}"), ReloadKind::Fork).contains("old code with the new environment")
    );
    assert!(uwsgi(&format!("uwsgi --http=:8000 --chdir=/var/shop/app {rest}"), ReloadKind::Reload).contains("http router"));
    assert!(uwsgi("uwsgi --chdir=/var/shop/app", ReloadKind::Reload).contains("left at 100"));
    assert!(uwsgi("uwsgi --chdir=/var/shop/app -l 128", ReloadKind::Reload).contains("queue is 128"));
    assert!(uwsgi(&format!("uwsgi --chdir=/var/shop/releases/x {rest}"), ReloadKind::Reload).contains("no reload ever leaves it"));
    assert!(uwsgi("uwsgi --need-app --listen=1024", ReloadKind::Anew).contains("die-on-term"));
    let mut started = server(&format!("uwsgi --virtualenv=/var/shop/app/venv --module app {rest}"));
    started.dir = Some("/var/shop/releases/2026-11-20-10-00-00-aaaaaaaaaaaa".into());
    let found = uwsgi::lint(&started, ReloadKind::Reload, Path::new(LINK));
    assert!(texts(&found).contains("has no chdir") && found.iter().all(|finding| finding.hint.is_some()), "{found:?}");
    let unit = Unit { name: "shop.service".into(), kind: "notify".into(), kill_signal: 15, ..Unit::default() };
    let started = Server { unit: Some(unit), ..server("uwsgi --lazy-apps --chdir=/var/shop/app --listen=1024") };
    let found = texts(&uwsgi::lint(&started, ReloadKind::Restart, Path::new(LINK)));
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
    let found = texts(&uwsgi::lint(&started, ReloadKind::Reload, Path::new(LINK)));
    assert!(found.contains("http router") && found.lines().count() == 1, "{found}");
}

#[test]
fn each_trap_of_gunicorn_is_told_with_its_hint() {
    let place = gunicorn::Place { link: Path::new(LINK), dir: Path::new("/var/shop/releases/x") };
    let lint = |line: &str, way| texts(&gunicorn::lint(&server(line), way, place));
    assert!(lint("/var/shop/app/venv/bin/gunicorn --chdir /var/shop/app x", ReloadKind::Reload).contains("old environment"));
    assert!(lint("/var/shop/environments/1/bin/python /var/shop/app/venv/bin/gunicorn x", ReloadKind::Second).contains("old environment"));
    assert_eq!(lint("/var/shop/app/venv/bin/python /var/shop/app/venv/bin/gunicorn x", ReloadKind::Second), "");
    assert_eq!(lint("/var/shop/app/venv/bin/python -m gunicorn --chdir /var/shop/app x", ReloadKind::Reload), "");
    let found = lint("python -m gunicorn x", ReloadKind::Second);
    assert!(found.starts_with("Warning") && found.contains("hides Python's") && found.contains("signal = \"HUP\""), "{found}");
    assert!(lint("python -m gunicorn --preload x", ReloadKind::Reload).contains("nothing changes"));
    let unit = Unit { name: "shop.service".into(), kind: "notify".into(), ..Unit::default() };
    let started = Server { unit: Some(unit), ..server("gunicorn x") };
    let found = texts(&gunicorn::lint(&started, ReloadKind::Second, place));
    assert!(found.contains("systemd stops both") && found.contains("signal = \"HUP\""), "{found}");
}

#[test]
fn gunicorns_script_is_an_error_only_where_the_environment_is_another() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    for (release, environment) in [(&a, "one"), (&b, "two")] {
        let bin = stage.path("environments").join(environment).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("gunicorn"), format!("#!{}/python\n", bin.display())).unwrap();
        std::os::unix::fs::symlink(bin.parent().unwrap(), release.dir.join("venv")).unwrap();
    }
    stage.link(&a);
    let link = stage.path("app");
    let line = format!("{}/venv/bin/gunicorn --chdir {0} x", link.display());
    let lint = |server: &Server, dir: &Path| texts(&gunicorn::lint(server, ReloadKind::Reload, gunicorn::Place { link: &link, dir }));
    // It does not run yet: it will be started with the program that the release has.
    assert!(lint(&server(&line), &a.dir).starts_with("Warning"));
    assert!(lint(&server(&line), &b.dir).starts_with("Warning"));
    let running = Server { program: Some(stage.path("environments/one/bin/python").to_string_lossy().into_owned()), ..server(&line) };
    assert!(lint(&running, &a.dir).starts_with("Warning"));
    assert!(lint(&running, &b.dir).starts_with("Error"));
}

#[test]
fn what_a_release_configures_gunicorn_to_do_is_read_where_gunicorn_reads_it() {
    let stage = Stage::new();
    let (a, b) = (stage.release(A, APP), stage.release(B, APP));
    stage.link(&a);
    let link = stage.path("app");
    let configured = |text: &str| std::fs::write(b.dir.join("gunicorn.conf.py"), text).unwrap();
    let lint = |line: &str, way: ReloadKind| texts(&gunicorn::lint(&server(line), way, gunicorn::Place { link: &link, dir: &b.dir }));
    configured("workers = 2\ndaemon = True  # as it was\n");
    let found = lint("venv/bin/gunicorn --bind unix:{socket} x", ReloadKind::Anew);
    assert!(found.starts_with("Error") && found.contains("daemon = True in") && found.contains("ends as soon as it is started"), "{found}");
    let linked = format!("{}/venv/bin/python -m gunicorn -c {0}/gunicorn.conf.py x", link.display());
    // The pid file leads to the master, whether it runs in the background or not.
    assert_eq!(lint(&linked, ReloadKind::Reload), "");
    configured("preload_app=True\n");
    assert!(lint(&linked, ReloadKind::Reload).contains("preload_app = True in"), "the new release's file is read, and not the live one's");
    for text in ["preload_app = True\npreload_app = False\n", "if DEBUG:\n    preload_app = True\n", "# preload_app = True\n", ""] {
        configured(text);
        assert_eq!(lint(&linked, ReloadKind::Reload), "", "{text}");
    }
    assert!(lint("gunicorn -D x", ReloadKind::Anew).contains("gunicorn with -D ends"));
    let by_env = Server { env: vec![("GUNICORN_CMD_ARGS".into(), "--workers 3 --preload".into())], ..server(&linked) };
    let found = texts(&gunicorn::lint(&by_env, ReloadKind::Reload, gunicorn::Place { link: &link, dir: &b.dir }));
    assert!(found.contains("gunicorn with --preload forks the old app again"), "{found}");
}

#[test]
fn what_of_uwsgis_options_cannot_be_read_fails_no_release() {
    let stage = Stage::new();
    let hidden = |line: &str| texts(&uwsgi::lint(&server(line), ReloadKind::Fork, Path::new(LINK)));
    for source in [format!("--ini={}", stage.path("gone.ini").display()), "--yaml=/etc/app.yml".to_owned(), "/etc/app.xml".to_owned()] {
        let found = hidden(&format!("uwsgi {source} --listen=1024 --die-on-term"));
        assert!(found.starts_with("Warning") && found.contains("as far as its options can be read"), "{source}: {found}");
    }
    // Options and paths come from the environment, too.
    let mut started = server("uwsgi --module app --listen=1024 --die-on-term");
    assert!(texts(&uwsgi::lint(&started, ReloadKind::Fork, Path::new(LINK))).starts_with("Error"));
    started.env =
        [("UWSGI_LAZY_APPS", "1"), ("PYTHONPATH", "/srv/lib:/var/shop/app")].map(|(name, value)| (name.into(), value.into())).to_vec();
    assert_eq!(texts(&uwsgi::lint(&started, ReloadKind::Fork, Path::new(LINK))), "");
}

#[test]
fn what_leads_to_the_link_by_another_link_follows_it() {
    let stage = Stage::new();
    let release = stage.release(A, APP);
    stage.link(&release);
    std::os::unix::fs::symlink(stage.path("app"), stage.path("current")).unwrap();
    let lint = |path: &Path| {
        let line = format!("uwsgi --lazy-apps --module app --pythonpath={} --listen=1024 --die-on-term", path.display());
        texts(&uwsgi::lint(&server(&line), ReloadKind::Fork, &stage.path("app")))
    };
    assert_eq!(lint(&stage.path("current")), "");
    assert!(lint(&release.dir).contains("without pythonpath"));
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
    assert_eq!(reload_kind_of(&unit("/bin/kill -HUP $MAINPID"), UnitAction::ReloadOrRestart), ReloadKind::Reload);
    assert_eq!(reload_kind_of(&unit("/bin/sh -c echo c > /run/fifo"), UnitAction::ReloadOrRestart), ReloadKind::Fork);
    assert_eq!(reload_kind_of(&unit("/bin/kill -HUP $MAINPID"), UnitAction::Restart), ReloadKind::Restart);
    assert_eq!(reload_kind_of(&Unit::default(), UnitAction::ReloadOrRestart), ReloadKind::Restart);
}

#[test]
fn doctor_says_what_stands_in_the_way_and_what_is_well() {
    let stage = Stage::new();
    let fifo = Restart::UwsgiFifo(uwsgi_fifo::Settings {
        fifo: stage.path("fifo"),
        how: uwsgi_fifo::FifoCommand::Graceful,
        stats: None,
        unit: None,
        timeout: Duration::from_secs(1),
    });
    // Before the first release, no server can run in the link.
    let found = find(&fifo, &stage.path("app"), &[], Duration::from_secs(900));
    assert!(found[0].level == Level::Warning && found[0].text.contains("the first release waits for it"), "{found:?}");
    stage.link(&stage.release(A, APP));
    let found = find(&fifo, &stage.path("app"), &[], Duration::from_secs(900));
    assert!(found[0].level == Level::Error && found[0].text.contains("nobody reads the FIFO"), "{found:?}");
    let argv = "uwsgi --need-app --die-on-term --listen=1024 --http-socket={socket}";
    let handover = |argv: &str| {
        Restart::Handover(handover::Settings {
            socket: stage.path("web.sock"),
            starter: Starter::Command(argv.split(' ').map(str::to_owned).collect()),
            slots: Vec::new(),
            start_timeout: Duration::from_secs(1),
            drain: Duration::from_secs(1),
            confirm: Duration::ZERO,
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
        // The script of a shell is one word.
        exec_start: vec![match line.split_once(" -c ") {
            Some((shell, script)) => vec![shell.to_owned(), "-c".to_owned(), script.to_owned()],
            None => server(line).argv,
        }],
        ..Unit::default()
    };
    let (worker, beat) = ("/var/shop/app/venv/bin/celery --app shop worker", "/var/shop/app/venv/bin/celery --app shop beat");
    assert_eq!(texts(&celery::lint(&unit(worker, "mixed"))), "");
    for line in [
        worker,
        "/usr/bin/python3 -m celery -A shop worker",
        "/usr/bin/env celery -A shop worker",
        "/bin/sh -c exec /var/shop/app/venv/bin/celery -A shop worker --loglevel=\"$LEVEL\"",
        "/bin/bash -c cd /var/shop/app && DEBUG=1 celery --app shop worker",
    ] {
        let found = texts(&celery::lint(&unit(line, "control-group")));
        assert!(found.contains("w.service has KillMode=control-group") && found.contains("KillMode=mixed"), "{line}: {found}");
    }
    assert_eq!(texts(&celery::lint(&unit(beat, "control-group"))), "");
    assert_eq!(texts(&celery::lint(&unit("/usr/bin/rq worker celery", "control-group"))), "");
    for line in [
        beat,
        "/usr/bin/python3 -m celery -A shop worker -B",
        "celery -A shop worker --beat",
        "celery --app=shop -q worker -EB",
        "celery multi start w1 -A shop -B",
        "/bin/sh -c exec celery -A shop beat --schedule '/var/lib/shop/beat of the shop'",
        "/bin/bash -c cd /var/shop/app; exec venv/bin/celery -A shop beat",
    ] {
        assert!(is_clock(&unit(line, "mixed")), "{line}");
    }
    for line in [
        worker,
        "/usr/bin/beat",
        "/usr/bin/music beat",
        // Here the words are names, not commands.
        "celery --app beat worker --queues beat",
        "celery -A beat worker -Q beat -O fair",
        "/bin/sh -c exec celery -A beat worker",
        "/bin/sh -c echo 'celery beat",
    ] {
        assert!(!is_clock(&unit(line, "mixed")), "{line}");
    }
}
