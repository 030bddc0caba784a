use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::action::Action;
use super::draw::{Drawn, Host, Index, draw};
use super::people::{Chosen, HostUser, People, Person};
use super::places::{self, PlaceError, PlaceKind, Seen};
use super::texts::{self, Server};
use crate::settings::{App, parse_app};

fn app(text: &str) -> App {
    parse_app(&format!("repository = \"https://example.com/shop.git\"\n{text}"))
}

fn known(uid: u32, group: &str, gid: u32) -> Option<HostUser> {
    Some(HostUser { uid, group: group.to_owned(), gid, home: "/var/shop".into() })
}

fn person(name: &str, known: Option<HostUser>) -> Person {
    Person { name: name.to_owned(), has_group: known.is_some(), companions: Vec::new(), known }
}

/// The users with the app's own name, which do not exist yet.
fn people() -> People {
    People {
        app: person("shop", None),
        app_chosen: Chosen::ByApp,
        builder: person("shop-build", None),
        builder_chosen: Chosen::ByApp,
        agent: known(900, "release-agent", 900).unwrap(),
        with_agent: Vec::new(),
    }
}

/// A host that has nothing yet.
fn host() -> Host {
    Host {
        root: "/var/shop".into(),
        file: "/etc/release-agent/apps/shop.toml".into(),
        units: BTreeSet::new(),
        server: None,
        written: BTreeSet::new(),
        empty: BTreeSet::new(),
        shared_with: Vec::new(),
        idle: Vec::new(),
        index: Index::Unknown,
        polkit: None,
    }
}

fn sentences(drawn: &Drawn) -> Vec<String> {
    drawn.actions.iter().map(Action::sentence).collect()
}

/// The text written to a file.
fn text_of<'a>(drawn: &'a Drawn, ending: &str) -> Option<&'a str> {
    drawn.actions.iter().find_map(|action| match action {
        Action::Text { path, text, .. } | Action::Unit { path, text, .. } if path.to_string_lossy().ends_with(ending) => {
            Some(text.as_str())
        }
        _ => None,
    })
}

const HANDOVER: &str = "[python]\n[django]\nsettings = \"web.settings.production\"\n[backup]\n[secrets]\nfiles = [\"/etc/shop/b.env\", \"/etc/shop/a.env\"]\n\
                        [shared]\ndirs = [\"media/photos\"]\nfiles = [\".env\"]\n[restart]\nslots = [\"blue\", \"green\"]\n[[worker]]\nunit = \"shop-celery.service\"\n";

#[test]
fn the_list_follows_from_the_apps_file_and_the_host_alone() {
    let units = ["shop-celery.service", "shop-jobs@.service"].map(str::to_owned);
    let host = Host { server: Some(Server::Gunicorn), units: units.into(), ..host() };
    let drawn = draw(&app(&format!("{HANDOVER}[[worker]]\nunit = \"shop-jobs@.service\"\n")), &people(), &host).unwrap();
    let wanted = [
        "make the system user shop-build, who builds, and knows no secret",
        "make the system user shop, who serves, and knows the secrets",
        "let release-agent into the group shop-build, so that it can remove what a build left",
        "have the directory /var/shop, release-agent:release-agent, mode 0755",
        "have the directory /var/shop/releases, release-agent:shop-build, mode 2755",
        "have the directory /var/shop/environments, release-agent:shop-build, mode 2755",
        "have the directory /var/shop/shared, release-agent:release-agent, mode 0755",
        "have the directory /var/shop/slots, release-agent:release-agent, mode 0755",
        "have the directory /var/shop/backups, release-agent:release-agent, mode 0700",
        "have the directory /var/shop/.agent, release-agent:release-agent, mode 0700",
        "have the directory /var/shop/git_cache, release-agent:release-agent, mode 0700",
        "have the directory /var/shop/shared/media, release-agent:release-agent, mode 0755",
        "have the directory /var/shop/shared/media/photos, shop:shop, mode 0755",
        "have the file /var/shop/shared/.env, root:shop, mode 0640: shared with every release",
        "have the file /etc/shop/b.env, root:root, mode 0600: secrets, which systemd reads as root and hands over",
        "have the file /etc/shop/a.env, root:root, mode 0600: secrets, which systemd reads as root and hands over",
        "have the file /etc/release-agent/apps/shop.toml, root:root, mode 0644: the step runners read it as shop-build and shop",
        "write /etc/systemd/system/release-agent-app@shop.service.d/setup.conf: who checks and migrates, where, and with which secrets",
        "write /etc/systemd/system/release-agent.service.d/app-shop.conf: the agent may write there, and the service manager lets it",
        "write /etc/tmpfiles.d/release-agent-shop.conf: the directory of sockets, made at each boot",
        "have the directory /run/shop for sockets, shop:release-agent, mode 0775, at each boot",
        "write /etc/systemd/system/shop@.service, which is yours to change from then on: the release's own gunicorn with web.wsgi:application, in \
         each slot",
        "write /etc/systemd/system/shop-celery.service.d/release-agent.conf: shop-celery.service has the variables of the app's file, which the agent \
         writes down for it",
        "write /etc/systemd/system/shop-jobs@.service.d/release-agent.conf: shop-jobs@.service has the variables of the app's file, which the agent \
         writes down for it",
        "write /etc/systemd/system/shop@.service.d/release-agent.conf: shop@.service has the variables of the app's file, which the agent writes down for \
         it",
        "have systemd read its units again",
        "enable and start release-agent-build@shop.socket: the agent can have releases built",
        "enable and start release-agent-app@shop.socket: the agent can have them checked and migrated",
        "enable and start release-agent-start@shop@blue.service.socket: the agent may start shop@blue.service",
        "enable and start release-agent-stop@shop@blue.service.socket: the agent may stop shop@blue.service",
        "enable and start release-agent-start@shop@green.service.socket: the agent may start shop@green.service",
        "enable and start release-agent-stop@shop@green.service.socket: the agent may stop shop@green.service",
        "enable and start release-agent-restart@shop-celery.service.socket: the agent may restart shop-celery.service",
        "enable and start release-agent-start@shop-jobs@blue.service.socket: the agent may start shop-jobs@blue.service",
        "enable and start release-agent-stop@shop-jobs@blue.service.socket: the agent may stop shop-jobs@blue.service",
        "enable and start release-agent-start@shop-jobs@green.service.socket: the agent may start shop-jobs@green.service",
        "enable and start release-agent-stop@shop-jobs@green.service.socket: the agent may stop shop-jobs@green.service",
        "tell release-agent.service of what is new",
    ];
    let (installer, others) = sentences(&drawn).split_last().map(|(last, others)| (last.clone(), others.to_vec())).unwrap();
    assert_eq!(others, wanted);
    assert!(installer.starts_with("fetch uv ") && installer.ends_with(", by which releases are built"), "{installer}");
    // An index that had none is not asked in every setup, and pip, where it is set, needs none.
    let offline = Host { index: Index::HasNone, ..host.clone() };
    assert_eq!(
        sentences(&draw(&app(&format!("{HANDOVER}[[worker]]\nunit = \"shop-jobs@.service\"\n")), &people(), &offline).unwrap()),
        wanted
    );
    let by_pip = app(&HANDOVER.replace("[python]\n", "[python]\ninstaller = \"pip\"\n"));
    assert!(!sentences(&draw(&by_pip, &people(), &host).unwrap()).iter().any(|sentence| sentence.starts_with("fetch ")));
    assert_eq!(drawn.notes.len(), 1, "{:?}", drawn.notes);
    let without = draw(&app(&HANDOVER.replace("[backup]\n", "")), &people(), &host).unwrap();
    assert!(without.notes.iter().any(|note| note.starts_with("no dump will be made before migrations")), "{:?}", without.notes);
    // In the order in which the runner counts them.
    let drop_in = text_of(&drawn, "release-agent-app@shop.service.d/setup.conf").unwrap();
    assert_eq!(
        drop_in.lines().skip(1).collect::<Vec<_>>(),
        ["[Service]", "LoadCredential=secrets-0:/etc/shop/b.env", "LoadCredential=secrets-1:/etc/shop/a.env"]
    );
    let agents = text_of(&drawn, "app-shop.conf").unwrap();
    assert!(agents.ends_with("[Service]\nReadWritePaths=-/var/shop\nReadWritePaths=-/run/shop\n"), "{agents}");
    assert!(text_of(&drawn, "tmpfiles.d/release-agent-shop.conf").unwrap().ends_with("\nd /run/shop 0775 shop release-agent -\n"));
}

#[test]
fn what_the_strategy_does_not_need_is_not_granted() {
    let grants = |text: &str| -> Vec<String> {
        let drawn = draw(&app(text), &people(), &host()).unwrap();
        let sockets = drawn.actions.into_iter().filter_map(|action| match action {
            Action::Enable { socket, .. } => socket.strip_prefix("release-agent-").map(str::to_owned),
            _ => None,
        });
        sockets.skip(2).collect()
    };
    assert_eq!(grants(""), Vec::<String>::new());
    assert_eq!(
        grants("[restart]\nstrategy = \"systemd\"\nunits = [\"a.service\", \"b.service\"]"),
        ["restart@a.service.socket", "reload@a.service.socket", "restart@b.service.socket", "reload@b.service.socket"]
    );
    assert_eq!(
        grants("[restart]\nunit = \"web@.service\"\nslots = [\"one\", \"two\"]"),
        ["start@web@one.service.socket", "stop@web@one.service.socket", "start@web@two.service.socket", "stop@web@two.service.socket"]
    );
    let plain = draw(&app("[restart]\nstrategy = \"systemd\""), &people(), &host()).unwrap();
    assert!(!sentences(&plain).iter().any(|sentence| sentence.contains("tmpfiles") || sentence.contains("/run/")), "{plain:?}");
}

#[test]
fn other_users_and_another_root_are_said_in_drop_ins_and_are_gone_when_they_are_usual_again() {
    let people = People {
        app: person("deploy", known(1000, "users", 100)),
        builder: person("maker", known(1001, "maker", 1001)),
        app_chosen: Chosen::Said,
        builder_chosen: Chosen::Said,
        ..people()
    };
    let host = Host { root: "/srv/my shop/100%".into(), ..host() };
    let drawn = draw(&app(""), &people, &host).unwrap();
    let build = text_of(&drawn, "release-agent-build@shop.service.d/setup.conf").unwrap();
    assert_eq!(
        build.lines().skip(1).collect::<Vec<_>>(),
        [
            "[Service]",
            "User=maker",
            "ReadWritePaths=",
            r#"ReadWritePaths="-/srv/my shop/100%%/releases" "-/srv/my shop/100%%/environments""#,
            "InaccessiblePaths=",
            r#"InaccessiblePaths=-/var/lib/release-agent "-/srv/my shop/100%%/backups" "-/srv/my shop/100%%/.agent" "-/srv/my shop/100%%/git_cache" "-/srv/my shop/100%%/shared""#,
        ]
    );
    assert_eq!(texts::user_in(build), Some("maker"));
    let serves = text_of(&drawn, "release-agent-app@shop.service.d/setup.conf").unwrap();
    assert!(
        serves.contains("User=deploy\n")
            && serves.contains("\nReadWritePaths=\nReadWritePaths=\"-/srv/my shop/100%%/shared\" -/run/shop\n"),
        "{serves}"
    );
    assert!(!serves.contains("/shared\" \"-"), "who serves may read what is shared: {serves}");

    let written: BTreeSet<PathBuf> = ["release-agent-build@shop.service.d/setup.conf", "release-agent-app@shop.service.d/setup.conf"]
        .map(|path| Path::new("/etc/systemd/system").join(path))
        .into();
    let usual = draw(&app(""), &self::people(), &Host { written: written.clone(), ..self::host() }).unwrap();
    let gone: BTreeSet<PathBuf> = usual
        .actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Gone { path } => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(gone, written);
}

#[test]
fn a_unit_is_the_example_with_the_apps_own_names_and_nothing_of_the_examples() {
    let text = "[python]\n[django]\nsettings = \"blog.settings\"\n[env]\nTITLE = 'A \"100%\" blog'\n[secrets]\nfiles = [\"/etc/blog.env\"]\n\
                [restart]\nunit = \"blog@.service\"\nsocket = \"/run/blog/http\"\n";
    for (server, program) in
        [(Server::Gunicorn, "/srv/blog/slots/%i/venv/bin/gunicorn"), (Server::Uwsgi, "/usr/bin/uwsgi --plugin python3")]
    {
        let host = Host { server: Some(server), root: "/srv/blog".into(), ..host() };
        let people = People { app: person("writer", None), ..people() };
        let drawn = draw(&app(text), &people, &host).unwrap();
        let unit = text_of(&drawn, "/etc/systemd/system/blog@.service").unwrap();
        for line in [
            "User=writer",
            "Group=writer",
            "WorkingDirectory=/srv/blog/slots/%i",
            "EnvironmentFile=-/srv/blog/.agent/variables/%i",
            "EnvironmentFile=/etc/blog.env",
            "ReadWritePaths=/srv/blog/shared /run/blog",
            "ProtectSystem=strict",
        ] {
            assert!(unit.lines().any(|there| there == line), "{line} is missing:\n{unit}");
        }
        assert!(unit.contains(program) && unit.contains("/run/blog/http.%i") && unit.contains("blog.wsgi:application"), "{unit}");
        // The text has the app's name, and no other name of the example's is left.
        let rest = unit.replace("setup app shop,", "").replace("Description=shop, %i", "");
        assert!(!rest.contains("shop"), "{unit}");
        assert!(drawn.notes.iter().any(|note| note.contains("blog.wsgi:application, which is a guess")), "{:?}", drawn.notes);
    }
    // Without a known server there is no unit to write, and setup guesses none for an app without Django.
    let notes = |text: &str| draw(&app(text), &people(), &host()).unwrap().notes.join("\n");
    assert!(notes(text).contains("the unit blog@.service is missing, and no server is known"), "{}", notes(text));
    assert!(notes("[restart]\n").contains("the unit shop@.service, which the app's file names, is missing"));
}

#[test]
fn each_unit_of_the_app_reads_what_the_agent_writes_down_for_it() {
    let text = "[secrets]\nfiles = [\"/etc/100%.env\"]\n[restart]\nunit = \"shop@.service\"\n[[worker]]\nunit = \"shop-celery@.service\"\n\
                [[worker]]\nunit = \"shop-beat.service\"\n[[worker]]\nunit = \"shop-mail.timer\"\n";
    let drawn = draw(&app(text), &people(), &host()).unwrap();
    for (unit, called) in [("shop@.service", "%i"), ("shop-celery@.service", "%i"), ("shop-beat.service", "live")] {
        let text = text_of(&drawn, &format!("/etc/systemd/system/{unit}.d/release-agent.conf")).unwrap();
        // The secrets come last, as for the agent's own programs.
        let lines = format!("[Service]\nEnvironmentFile=-/var/shop/.agent/variables/{called}\nEnvironmentFile=/etc/100%%.env\n");
        assert!(texts::is_ours(text) && text.ends_with(&lines), "{text}");
    }
    assert!(text_of(&drawn, "/etc/systemd/system/shop-mail.timer.d/release-agent.conf").is_none());
}

#[test]
fn the_module_is_guessed_from_the_settings_else_from_the_app() {
    for (text, module) in [
        ("settings = \"web.settings.production\"", "web.wsgi:application"),
        ("settings = \"web.settings\"", "web.wsgi:application"),
        ("settings = \"settings\"", "shop.wsgi:application"),
        ("", "shop.wsgi:application"),
    ] {
        assert_eq!(texts::guessed_module(&app(&format!("[python]\n[django]\n{text}\n"))), module, "{text}");
    }
    let in_env = app("[python]\n[django]\n[env]\nDJANGO_SETTINGS_MODULE = \"mysite.conf\"\n");
    assert_eq!(texts::guessed_module(&in_env), "mysite.wsgi:application");
}

#[test]
fn sockets_are_not_put_right_into_run() {
    let refusal = draw(&app("[restart]\nsocket = \"/run/shop.sock\"\n"), &people(), &host()).unwrap_err();
    assert!(refusal.hint.contains("/run/shop/web.sock"), "{refusal:?}");
}

#[test]
fn users_who_are_one_or_have_others_rights_are_refused() {
    let roots = [Path::new("/var/shop")];
    let refused = |people: &People| people.check(&"shop".parse().unwrap(), &roots).map_err(|refusal| refusal.what);
    refused(&people()).unwrap();
    let builder = |name: &str, known: Option<HostUser>| People { builder: person(name, known), builder_chosen: Chosen::Said, ..people() };
    let user = |name: &str, known: Option<HostUser>| People { app: person(name, known), app_chosen: Chosen::Said, ..people() };
    for (people, words) in [
        (builder("shop", None), "one user"),
        (People { app: person("shop", known(7, "shop", 7)), ..builder("twin", known(7, "twin", 8)) }, "one user"),
        (user("root", known(0, "root", 0)), "root's rights"),
        (user("toor", known(0, "toor", 5)), "the number 0"),
        (user("release-agent", known(900, "release-agent", 900)), "release-agent's rights"),
        (user("anna", known(5, "root", 0)), "in the group root"),
        (user("anna", known(5, "release-agent", 900)), "in the group release-agent"),
        (People { with_agent: vec!["anna".to_owned()], ..user("anna", known(5, "anna", 5)) }, "anna is in the group release-agent"),
        (user("Anna", None), "cannot be the name"),
        (user("a-name-that-is-longer-than-useradd-takes", None), "at most 32"),
        (People { app: person("shop", known(5, "www", 5)), ..builder("maker", known(6, "www", 5)) }, "the same group"),
        (
            People {
                builder: Person {
                    companions: vec!["anna".to_owned(), "release-agent".to_owned()],
                    ..person("maker", known(6, "maker", 6))
                },
                builder_chosen: Chosen::Said,
                ..people()
            },
            "somebody in the group maker could write what is built: anna",
        ),
        (
            People { app: Person { companions: vec!["shop-build".to_owned()], ..person("shop", known(5, "shop", 5)) }, ..people() },
            "shop-build is in the group shop",
        ),
    ] {
        let told = refused(&people).unwrap_err();
        assert!(told.contains(words), "{words}: {told}");
    }
    // An existing account of that name for another purpose is used only when an option names it.
    let elsewhere = Some(HostUser { home: "/var/lib/postgresql".into(), ..known(5, "shop", 5).unwrap() });
    let found = People { app: person("shop", elsewhere.clone()), ..people() };
    assert!(refused(&found).unwrap_err().contains("does not seem to be made for the app"));
    refused(&People { app_chosen: Chosen::Said, ..found }).unwrap();
}

fn mine(mode: u32) -> Seen {
    Seen { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode }
}

#[test]
fn no_link_is_followed_and_a_file_with_two_names_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (elsewhere, path) = (root.join("elsewhere"), root.join("a/b"));
    std::fs::create_dir(&elsewhere).unwrap();
    places::make(&path, PlaceKind::Directory, mine(0o2750)).unwrap();
    assert_eq!(places::look(&path, PlaceKind::Directory).unwrap(), Some(mine(0o2750)));
    assert_eq!(places::look(&root.join("none/below"), PlaceKind::Directory).unwrap(), None);

    symlink(&elsewhere, root.join("link")).unwrap();
    for at in ["link", "link/below"] {
        let refused = places::make(&root.join(at), PlaceKind::Directory, mine(0o700)).unwrap_err();
        assert!(matches!(&refused, PlaceError::Link(link) if *link == root.join("link")), "{refused}");
    }
    symlink("/etc/hosts", root.join("file")).unwrap();
    for refused in [places::write(&root.join("file"), "x"), places::make(&root.join("file"), PlaceKind::File, mine(0o600))] {
        assert!(matches!(refused.unwrap_err(), PlaceError::Link(_)));
    }
    std::fs::write(root.join("one"), "1").unwrap();
    std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
    assert!(matches!(places::make(&root.join("two"), PlaceKind::File, mine(0o600)).unwrap_err(), PlaceError::Named(_)));
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(places::read(&root.join("pipe")).unwrap_err(), PlaceError::Kind { .. }));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_text_is_there_whole_and_nothing_is_left_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("made/setup.conf");
    for text in ["one\n", "two\n"] {
        places::write(&path, text).unwrap();
        assert_eq!(places::read(&path).unwrap().as_deref(), Some(text));
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    places::remove(&path).unwrap();
    places::remove(&path).unwrap();
    assert_eq!(places::read(&path).unwrap(), None);
}
