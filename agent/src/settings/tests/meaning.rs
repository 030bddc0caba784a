//! What good files mean.

use std::path::Path;
use std::time::Duration;

use agent_model::grant::{Principal, Scope};
use agent_model::request::{Right, WhenBusy};

use super::{MINIMAL, shop, shop_with};
use crate::git::Repository;
use crate::http::Target;
use crate::restart::in_place::{units, uwsgi_fifo};
use crate::restart::{Restart, handover};
use crate::settings::{Submodules, When, agent};
use crate::{database, python};

#[test]
fn only_the_repository_has_to_be_set() {
    let app = shop(MINIMAL).unwrap();
    assert_eq!(app.git.repository, Repository::Ssh("git@host:acme/shop.git".into()));
    assert_eq!(app.root, Path::new("/var/shop"));
    let released = |name: &str| app.refs.iter().any(|pattern| pattern.fits_ref(&name.parse().unwrap()));
    assert!(released("refs/heads/any/branch") && released("refs/tags/any"));
    assert_eq!((app.keep_releases, app.when_busy, app.submodules), (20, WhenBusy::Queue, Submodules::Refuse));
    assert_eq!((app.python, app.django, app.backup), (None, None, None));
    assert_eq!(app.restart, Restart::None);
    let named_app = crate::settings::app::parse(&"app".parse().unwrap(), Path::new("app.toml"), MINIMAL).unwrap();
    assert_eq!(named_app.root, Path::new("/var/app"));
}

#[test]
fn a_section_with_nothing_in_it_has_its_defaults() {
    let app = shop_with("[python]\n[django]\n[restart]\n[[check]]\nurl = \"http://localhost/\"\n[[worker]]\nunit = \"w.service\"");
    let python = app.python.unwrap();
    assert_eq!((python.interpreter.as_str(), python.installer), ("python3", python::Installer::Auto));
    let django = app.django.unwrap();
    assert_eq!((django.manage.as_path(), django.settings), (Path::new("manage.py"), None));
    assert!(django.check && django.collectstatic && django.migrate);
    assert_eq!((django.database.as_str(), django.lock_timeout), ("default", Duration::from_secs(10)));
    let Restart::Handover(handover) = app.restart else { panic!("{:?}", app.restart) };
    assert_eq!(handover.socket, Path::new("/run/shop/web.sock"));
    assert_eq!(handover.starter, handover::Starter::Unit("shop@.service".into()));
    assert_eq!((handover.start_timeout, handover.drain), (Duration::from_secs(60), Duration::from_secs(30)));
    assert_eq!((handover.keep_warm, handover.confirm), (handover::KeepWarm::No, Duration::from_secs(3)));
    assert_eq!(handover.slots, []);
    let check = &app.checks[0];
    assert_eq!((&check.target, check.status), (&Target::Tcp("localhost".into(), 80), 200));
    assert_eq!((check.timeout, check.within, check.stable_for), (Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(3)));
    assert_eq!(app.workers[0].unit, "w.service");
}

#[test]
fn times_and_sizes() {
    for (text, millis) in
        [("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1h 30m", 5_400_000), ("1h30m", 5_400_000), ("5 min", 300_000)]
    {
        let app = shop_with(&format!("[timeouts]\nfetch = \"{text}\""));
        assert_eq!(app.timeout_of("fetch"), Duration::from_millis(millis), "{text}");
    }
    for (text, bytes) in [("\"500 MiB\"", 500 << 20), ("\"2GiB\"", 2 << 30), ("\"100 MB\"", 100_000_000), ("0x10", 16), ("1_000", 1000)] {
        assert_eq!(shop_with(&format!("[limits]\nbytes = {text}")).limits.bytes, bytes, "{text}");
    }
    assert_eq!(shop_with("").timeout_of("migrate"), Duration::from_secs(1800));
}

#[test]
fn install_is_another_word_for_the_step_that_makes_the_environment() {
    let app = shop_with("[python]\n[timeouts]\ninstall = \"1m\"\n[[hook]]\nafter = \"install\"\nrun = [\"true\"]");
    assert_eq!(app.timeout_of("environment"), Duration::from_secs(60));
    assert_eq!((app.hooks[0].when, app.hooks[0].step.as_str()), (When::After, "environment"));
}

#[test]
fn what_is_followed() {
    let followed = |text: &str| shop_with(text).follows.map(|branch| branch.to_string());
    for (text, expected) in [
        ("", None),
        ("auto = false\n[[webhook]]\nfrom = \"github\"\nsecret_file = \"/etc/x\"", None),
        ("auto = true\nbranches = [\"main\"]\ntags = [\"v*\"]", Some("refs/heads/main")),
        ("auto = \"next\"", Some("refs/heads/next")),
        ("auto = \"refs/heads/next\"", Some("refs/heads/next")),
        ("auto = \"release/2026\"\nbranches = [\"v*\", \"release/*\"]", Some("refs/heads/release/2026")),
    ] {
        assert_eq!(followed(text).as_deref(), expected, "{text}");
    }
    let app = shop_with(
        "auto = \"main\"\nauto_pause = \"1m\"\n[[webhook]]\nfrom = \"docker-hub\"\nsecret_file = \"/a\"\n[[webhook]]\nfrom = \"gitlab\"\nsecret_file = \"/b\"",
    );
    assert_eq!(app.auto_pause, Duration::from_secs(60));
    let files: Vec<(&str, &Path)> = app.webhook_files.iter().map(|webhook| (webhook.from.word(), webhook.secret_file.as_path())).collect();
    assert_eq!(files, [("docker-hub", Path::new("/a")), ("gitlab", Path::new("/b"))]);
}

#[test]
fn strategies() {
    let restart = |text: &str| shop_with(&format!("[restart]\n{text}")).restart;
    let uwsgi = "strategy = \"uwsgi-fifo\"\nfifo = \"/run/f\"\nsignal = \"Q\"\nunit = \"u.service\"\nstats = \"/run/s\"";
    assert_eq!(
        restart(uwsgi),
        Restart::UwsgiFifo(uwsgi_fifo::Settings {
            fifo: "/run/f".into(),
            how: uwsgi_fifo::FifoCommand::Quit,
            stats: Some("/run/s".into()),
            unit: Some("u.service".into()),
            timeout: Duration::from_secs(90),
        })
    );
    assert_eq!(
        restart("strategy = \"systemd\""),
        Restart::Systemd(units::Settings {
            units: vec!["shop.service".into()],
            how: crate::systemd::UnitAction::ReloadOrRestart,
            watch_for: Duration::from_secs(10),
            timeout: Duration::from_secs(90),
        })
    );
    let Restart::Handover(handover) = restart("command = [\"x\", \"--bind={socket}\"]\nkeep_warm = true") else {
        panic!("another strategy")
    };
    assert_eq!(handover.starter, handover::Starter::Command(vec!["x".into(), "--bind={socket}".into()]));
    assert_eq!(handover.keep_warm, handover::KeepWarm::Former);
    let Restart::Handover(handover) = restart("slots = [\"blue\", \"green\"]") else { panic!("another strategy") };
    assert_eq!(handover.slots.iter().map(ToString::to_string).collect::<Vec<_>>(), ["blue", "green"]);
}

/// As people will write it first.
#[test]
fn a_whole_file() {
    let app = shop(
        r#"
repository    = "git@github.com:acme/shop.git"
branches      = ["main"]             # a released commit must be reachable from one of these
tags          = ["v*"]
keep_releases = 20
when_busy     = "queue"              # queue | latest | refuse

[python]
interpreter  = "python3.11"
installer    = "auto"
requirements = ["requirements/production.txt"]
packages     = ["gunicorn"]

[django]
manage   = "manage.py"
settings = "shop.settings.production"
collectstatic = false

[env]
ALLOWED_HOSTS = "shop.example.com"
LD_PRELOAD = "/usr/lib/libjemalloc.so"
[secrets]
files = ["/etc/release-agent/apps/shop.env"]

[shared]
dirs  = ["media/"]
files = [".env"]

[backup]
database = "postgres"
keep     = 5

[restart]
strategy = "handover"
unit     = "shop@.service"
socket   = "/run/shop/web.sock"

[[check]]
url      = "http://127.0.0.1:8000/healthz"
status   = 200
contains = "ok"
headers  = { Host = "shop.example.com", X-Forwarded-Proto = "https" }
release_header = "X-Release"

[[worker]]
unit = "shop-celery.service"

[[hook]]
after = "install"
run   = ["npm", "run", "build"]
timeout = "10m"
"#,
    )
    .unwrap();
    assert_eq!(app.refs.len(), 2);
    assert_eq!(app.python.unwrap().requirements, [Path::new("requirements/production.txt")]);
    assert!(!app.django.unwrap().collectstatic);
    assert_eq!(app.env.len(), 2);
    assert_eq!(app.secrets, [Path::new("/etc/release-agent/apps/shop.env")]);
    assert_eq!((app.shared.dirs, app.shared.files), (vec!["media".into()], vec![".env".into()]));
    assert_eq!(app.backup.unwrap(), database::Settings { kind: Some(database::DatabaseKind::Postgres), keep: 5 });
    assert_eq!(app.checks[0].headers[1], ("X-Forwarded-Proto".to_owned(), "https".to_owned()));
    assert_eq!((app.workers.len(), app.hooks.len()), (1, 1));
}

#[test]
fn the_agents_own_file() {
    let none = agent::parse(Path::new("agent.toml"), "").unwrap();
    assert_eq!((none.grants.len(), none.socket_group, none.drain_timeout), (0, None, Duration::from_secs(600)));
    let text = "socket_group = \"ops\"\ndrain_timeout = \"1m\"\n[[grant]]\nto = \"unix-group:deployers\"\napps = [\"*\"]\nactions = [\"release\", \"read\"]\n\
                tags = [\"v*\"]\n[[grant]]\nto = \"unix-user:anna\"\napps = [\"shop\"]\nactions = [\"*\"]\n";
    let some = agent::parse(Path::new("agent.toml"), text).unwrap();
    assert_eq!((some.socket_group.as_deref(), some.drain_timeout), (Some("ops"), Duration::from_secs(60)));
    assert_eq!(some.grants[0].to, [Principal::UnixGroup("deployers".into())]);
    assert_eq!(some.grants[0].apps, Scope::All);
    assert_eq!(some.grants[0].rights, Scope::Only(vec![Right::Release, Right::Read]));
    assert_eq!(some.grants[0].refs.as_ref().unwrap()[0].as_str(), "refs/tags/v*");
    assert_eq!(some.grants[1].apps, Scope::Only(vec!["shop".parse().unwrap()]));
    assert_eq!((&some.grants[1].rights, &some.grants[1].refs), (&Scope::All, &None));
}
