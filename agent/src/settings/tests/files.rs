//! Directories of files, read together.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::SystemTime;

use agent_model::names::AppName;

use super::{Directory, MINIMAL, sentences};
use crate::settings::files::{Before, Whose, directory};
use crate::settings::{load, load_over};

fn complaints(dir: &Directory) -> String {
    sentences(&load(&dir.path()).unwrap_err()).replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn nothing_at_all_is_fine_and_grants_nothing() {
    let dir = Directory::new();
    for make in ["", "apps"] {
        let settings = load(&dir.path()).unwrap();
        assert!(settings.apps.is_empty() && settings.agent.grants.is_empty());
        fs::create_dir_all(dir.path().join(make)).unwrap();
    }
    assert!(load(&dir.path()).is_ok());
}

#[test]
fn apps_are_named_like_their_files_and_the_rest_is_passed_over() {
    let dir = Directory::new();
    dir.write("apps/shop.toml", MINIMAL);
    dir.write("apps/blog.toml", MINIMAL);
    for other in ["apps/.#shop.toml", "apps/shop.toml~", "apps/shop.env", "apps/shop.toml.dpkg-old", "apps/.shop.toml"] {
        dir.write(other, "not TOML at all");
    }
    let settings = load(&dir.path()).unwrap();
    assert_eq!(settings.apps.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["blog", "shop"]);
    assert_eq!(settings.apps[&"blog".parse().unwrap()].root, Path::new("/var/blog"));
}

#[test]
fn every_file_is_complained_of_at_once() {
    let dir = Directory::new();
    dir.write("agent.toml", "grants = 1\n");
    dir.write("apps/Shop_1.toml", MINIMAL);
    dir.write("apps/bad.toml", "x");
    dir.write("apps/good.toml", MINIMAL);
    fs::create_dir(dir.path().join("apps/dir.toml")).unwrap();
    symlink("nowhere", dir.path().join("apps/gone.toml")).unwrap();
    fs::write(dir.path().join("apps/latin.toml"), b"# a\n# \xe4\n").unwrap();
    dir.write_with_mode("apps/open.toml", MINIMAL, 0o666);
    let said = complaints(&dir);
    for expected in [
        "agent.toml:1:1: grants: there is no such key; did you mean grant?\n",
        "apps/Shop_1.toml: the file is named like its app",
        "rename it to shop-1.toml\n",
        "apps/bad.toml:1:2: this is not TOML",
        "apps/dir.toml: is not a file\n",
        "apps/gone.toml: is not there\n",
        "apps/latin.toml:2:3: is not UTF-8 text\n",
        "apps/open.toml: can be written by anybody on this host (mode 0666), and decides what is believed or run; chmod o-w",
    ] {
        assert!(said.contains(expected), "{expected}\n---\n{said}");
    }
    assert_eq!(said.lines().count(), 7, "{said}");
}

#[test]
fn two_apps_do_not_share_what_belongs_to_one() {
    let dir = Directory::new();
    let handover = "[restart]\nunit = \"web@.service\"\nsocket = \"/run/web.sock\"\n";
    dir.write("apps/a.toml", &format!("root = \"/srv/a\"\n{MINIMAL}{handover}"));
    dir.write("apps/b.toml", &format!("root = \"/srv/a/b\"\n{MINIMAL}{handover}"));
    dir.write("apps/c.toml", &format!("root = \"/srv/a\"\n{MINIMAL}"));
    let said = complaints(&dir);
    for expected in [
        "apps/b.toml:1:8: root: /srv/a/b and /srv/a, the root of the app a, lie within each other; give",
        "apps/b.toml:5:10: restart.socket: /run/web.sock is the socket of the app a too; give",
        "apps/b.toml:4:8: restart.unit: web@.service starts the instances of the app a too; give",
        "apps/c.toml:1:8: root: /srv/a is the root of the app a too; give",
        "apps/c.toml:1:8: root: /srv/a and /srv/a/b, the root of the app b, lie",
    ] {
        assert!(said.contains(expected), "{expected}\n---\n{said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[test]
fn secrets_files_are_looked_at() {
    let dir = Directory::new();
    let good = dir.write("apps/good.env", "A=1\n");
    let open = dir.write_with_mode("apps/open.env", "A=hunter2\n", 0o604);
    let bad = dir.write("apps/bad.env", "A=1\nhunter2\n");
    dir.write("apps/shop.toml", &format!("{MINIMAL}[secrets]\nfiles = [{good:?}]\n"));
    assert!(load(&dir.path()).is_ok());
    dir.write("apps/shop.toml", &format!("{MINIMAL}[secrets]\nfiles = [{good:?}, {open:?}, {bad:?}, \"/no/such.env\"]\n"));
    let said = complaints(&dir);
    for expected in ["apps/open.env: can be opened by anybody", "apps/bad.env:2:1: must be KEY=value", "/no/such.env: is not there"] {
        assert!(said.contains(expected), "{expected}\n---\n{said}");
    }
    assert!(!said.contains("hunter2") && said.lines().count() == 3, "{said}");
}

#[test]
fn secrets_of_webhooks_are_read_with_the_settings_and_shown_nowhere() {
    let dir = Directory::new();
    let hint = |from: &str, file: &Path| format!("[[webhook]]\nfrom = {from:?}\nsecret_file = {file:?}\n");
    let app = |hints: &str| dir.write("apps/shop.toml", &format!("{MINIMAL}auto = \"main\"\n{hints}"));
    let good = dir.write("apps/good.webhook", "hunter2-hunter2-hunter2\n");
    app(&(hint("github", &good) + &hint("docker-hub", &good)));
    let settings = load(&dir.path()).unwrap();
    assert_eq!(settings.apps[&"shop".parse().unwrap()].webhooks.len(), 2);
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    let bad = [
        ("empty", "github", "\n", 0o640, "empty.webhook: is empty"),
        ("short", "github", "hunter2", 0o640, "short.webhook: holds a secret of fewer than 16 bytes"),
        ("two", "github", "hunter2-hunter2-hunter2\nhunter2\n", 0o640, "two.webhook: must hold one secret on one line"),
        ("open", "github", "hunter2-hunter2-hunter2", 0o644, "open.webhook: can be opened by anybody on this host (mode 0644)"),
        ("plain", "generic", "hunter2-hunter2-hunter2", 0o640, "plain.webhook: must hold a key as whsec_"),
    ];
    let hints = bad.map(|(name, from, text, mode, _)| hint(from, &dir.write_with_mode(&format!("apps/{name}.webhook"), text, mode)));
    app(&(hints.concat() + &hint("github", Path::new("/no/such.webhook"))));
    let said = complaints(&dir);
    for expected in bad.iter().map(|case| case.4).chain(["/no/such.webhook: is not there"]) {
        assert!(said.contains(expected), "{expected}\n---\n{said}");
    }
    assert!(!said.contains("hunter2") && said.lines().count() == 6, "{said}");
}

#[test]
fn where_the_directory_is() {
    let env = |name: &str| match name {
        "HOME" => Some("/home/anna".to_owned()),
        _ => None,
    };
    let xdg = |name: &str| match name {
        "XDG_CONFIG_HOME" => Some("/cfg".to_owned()),
        _ => env(name),
    };
    let found = |given: Option<&str>, whose, env: &dyn Fn(&str) -> Option<String>| {
        directory(given.map(Path::new), whose, env).map(|path| path.display().to_string())
    };
    assert_eq!(found(Some("conf"), Whose::System, &env).as_deref(), Some("conf"));
    assert_eq!(found(None, Whose::System, &xdg).as_deref(), Some("/etc/release-agent"));
    assert_eq!(found(None, Whose::User, &env).as_deref(), Some("/home/anna/.config/release-agent"));
    assert_eq!(found(None, Whose::User, &xdg).as_deref(), Some("/cfg/release-agent"));
    assert_eq!(found(None, Whose::User, &|_| None), None);
    let service = |name: &str| match name {
        "CONFIGURATION_DIRECTORY" => Some("/etc/release-agent:/etc/more".to_owned()),
        _ => xdg(name),
    };
    assert_eq!(found(None, Whose::User, &service).as_deref(), Some("/etc/release-agent"));
    assert_eq!(found(Some("conf"), Whose::User, &service).as_deref(), Some("conf"));
}

#[test]
fn a_mistake_in_the_file_of_one_app_stops_that_app_alone() {
    let dir = Directory::new();
    dir.write("apps/a.toml", &format!("root = \"/srv/a\"\n{MINIMAL}"));
    dir.write("apps/b.toml", &format!("root = \"/srv/b\"\n{MINIMAL}"));
    let first = load(&dir.path()).unwrap();
    let since = first.apps.keys().map(|name| (name.clone(), SystemTime::UNIX_EPOCH)).collect();
    let again = || load_over(&dir.path(), Some(Before { settings: &first, since: &since }));
    let name = |name: &str| name.parse::<AppName>().unwrap();

    dir.write("apps/a.toml", &format!("root = \"/srv/a\"\n{MINIMAL}keep_releases = 7\n"));
    dir.write("apps/b.toml", "repositry = \"x\"\n");
    dir.write("apps/c.toml", "x");
    let loaded = again();
    let settings = loaded.settings.unwrap();
    assert_eq!(settings.apps[&name("a")].keep_releases, 7, "what is right is taken up");
    let b = &settings.apps[&name("b")];
    assert_eq!((b.root.as_path(), b.git.clone()), (Path::new("/srv/b"), first.apps[&name("b")].git.clone()));
    let told = b.stale.as_ref().unwrap().to_string();
    assert!(told.contains("apps/b.toml:1:1: ") && told.ends_with("the settings of 1970-01-01 00:00 UTC are in force"), "{told}");
    assert!(settings.broken[&name("c")].contains("apps/c.toml:1:2: this is not TOML"));
    assert!(loaded.complaints.len() >= 3);

    // What another app still has is not to be had, though it is given up in a file that is wrong.
    dir.write("apps/a.toml", &format!("root = \"/srv/b\"\n{MINIMAL}"));
    let settings = again().settings.unwrap();
    assert_eq!(settings.apps[&name("a")].root, Path::new("/srv/a"));
    assert!(settings.apps[&name("a")].stale.as_ref().unwrap().complaint.contains("/srv/b is the root of the app b too"));

    // What is wrong with agent.toml concerns every app.
    dir.write("agent.toml", "grants = 1\n");
    assert!(again().settings.is_none());
}
