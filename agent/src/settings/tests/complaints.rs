//! Every complaint, with its line and what it advises.

use std::path::Path;

use super::{sentences, shop};
use crate::settings::agent;

/// Lines put below `repository`, which is line 1; then the place, and pieces of the only complaint that there must be.
type Case<'a> = (&'a str, &'a str, &'a [&'a str]);

fn check(cases: &[Case<'_>]) {
    for (lines, place, pieces) in cases {
        let text = format!("repository = \"git@host:acme/shop.git\"\n{lines}");
        let complaints = shop(&text).err().unwrap_or_else(|| panic!("taken:\n{lines}"));
        let said = sentences(&complaints);
        assert_eq!(complaints.len(), 1, "{lines}\n{said}");
        assert!(said.starts_with(&format!("shop.toml:{place}: ")), "{place} expected\n{lines}\n{said}");
        for piece in *pieces {
            assert!(said.contains(piece), "{piece:?} expected\n{lines}\n{said}");
        }
    }
}

#[test]
fn keys_that_do_not_exist() {
    check(&[
        ("keep_release = 3", "2:1", &["keep_release: there is no such key", "did you mean keep_releases?"]),
        ("keep-releases = 3", "2:1", &["did you mean keep_releases?"]),
        ("[pyton]", "2:2", &["pyton", "did you mean python?"]),
        ("[python]\n\n  interpeter = \"python3\"", "4:3", &["python.interpeter", "did you mean interpreter?"]),
        ("[shared]\nkeep_releases = 3", "3:1", &["shared.keep_releases", "belongs at the top of the file"]),
        ("[python]\nmanage = \"x\"\n[django]", "3:1", &["python.manage", "belongs into [django]"]),
        ("[python]\nzzz = 1", "3:1", &["the keys here are install, installer, interpreter, packages, requirements"]),
        (
            "[[check]]\nurl = \"http://x/\"\n[[check]]\nurl = \"http://x/\"\ntimout = \"1s\"",
            "6:1",
            &["check[2].timout", "did you mean timeout?"],
        ),
        ("[checks]", "2:2", &["did you mean check?"]),
        ("[restart]\nstrategy = \"none\"\nfifo = \"/x\"", "4:1", &["restart.fifo: there is no such key"]),
        ("\"a\\nb\" = 1", "2:1", &["a?b: there is no such key"]),
    ]);
}

#[test]
fn values_of_the_wrong_kind() {
    check(&[
        ("keep_releases = \"3\"", "2:17", &["must be a whole number from 1 to 10000, and is a text", "without quotes"]),
        ("keep_releases = 0", "2:17", &["from 1 to 10000, and is 0"]),
        ("keep_releases = -1", "2:17", &["and is -1"]),
        ("keep_releases = 99999999999999999999999", "2:17", &["from 1 to 10000"]),
        ("keep_releases = 1.5", "2:17", &["a number with a fraction"]),
        ("read_only = \"true\"", "2:13", &["true or false", "without quotes"]),
        ("branches = \"main\"", "2:12", &["must be a list, and is a text", "write [\"main\"]"]),
        ("refs = []", "2:8", &["nothing could be released"]),
        ("branches = [\"main\",\n \"a b\"]", "3:2", &["branches[2]", "name of a branch or tag"]),
        (
            "refs = [\"main\", \"v*\"]",
            "2:8",
            &["\"main\", \"v*\" are short names", "write instead: branches = [\"main\"] and, on a line of its own, tags = [\"v*\"]"],
        ),
        (
            "refs = [\"refs/heads/x\", \"next\"]",
            "2:8",
            &["\"next\" is a short name", "branches = [\"next\"] and, on a line of its own, refs = [\"refs/heads/x\"]"],
        ),
        ("refs = [\"*\"]", "2:8", &["branches = [\"*\"] and, on a line of its own, tags = [\"*\"]"]),
        ("refs = [\"refs/pull/1/head\"]", "2:8", &["\"refs/pull/1/head\" is a short name"]),
        ("branches = [\"refs/heads/main\"]", "2:13", &["is a full name", "write \"main\""]),
        ("tags = [\"refs/heads/main\"]", "2:9", &["another kind", "`refs`"]),
        ("tags = []", "2:8", &["nothing could be released"]),
        ("when_busy = \"wait\"", "2:13", &["one of queue, latest, refuse", "\"wait\""]),
        ("when_busy = \"lastest\"", "2:13", &["did you mean \"latest\"?"]),
        ("submodules = true", "2:14", &["one of refuse, ignore"]),
        ("python = \"3.11\"", "2:1", &["is a section", "write [python]"]),
        ("[[python]]", "2:3", &["stands only once", "write [python]"]),
        ("[check]\nurl = \"http://x/\"", "2:2", &["a list of sections", "write [[check]]"]),
        ("check = [1]", "2:10", &["check[1]", "write [[check]]"]),
        ("[limits]\nbytes = \"4 G\"", "3:9", &["a size such as"]),
        ("[limits]\nbytes = \"0 GiB\"", "3:9", &["a size such as"]),
        ("[limits]\nbytes = \"99999999999 TiB\"", "3:9", &["a size such as"]),
        ("[env]\nDEBUG = 0", "3:9", &["env.DEBUG", "must be a text, and is a whole number", "between quotes"]),
        ("[env]\nA = \"a\\u0000b\"", "3:5", &["NUL"]),
        ("[env]\n1A = \"x\"", "3:6", &["letter or underscore"]),
        ("[env]\nRELEASE_NAME = \"x\"", "3:16", &["set by the agent itself"]),
        ("[env]\nREVISION = \"x\"", "3:12", &["set by the agent itself"]),
        ("env = 3", "2:7", &["a table of names and texts"]),
        ("[secrets]\nfiles = [\"shop.env\"]", "3:10", &["secrets.files[1]", "absolute path"]),
    ]);
}

#[test]
fn times_and_steps() {
    check(&[
        ("[timeouts]\nfetch = 30", "3:9", &["timeouts.fetch", "a length of time", "for seconds write \"30s\""]),
        ("[timeouts]\nfetch = \"30\"", "3:9", &["a length of time"]),
        ("[timeouts]\nfetch = \"\"", "3:9", &["a length of time"]),
        ("[timeouts]\nfetch = \"soon\"", "3:9", &["a length of time"]),
        ("[timeouts]\nfetch = \"99999999999999999999s\"", "3:9", &["a length of time"]),
        ("[timeouts]\nfetch = \"500ms\"", "3:9", &["from 1s to 24h, and is 500ms"]),
        ("[timeouts]\nfetch = \"3d\"", "3:9", &["from 1s to 24h"]),
        ("[timeouts]\nmigrations = \"1m\"", "3:14", &["no step \"migrations\"", "did you mean migrate?"]),
        ("[timeouts]\nlink_shared = \"1m\"", "3:15", &["did you mean link-shared?"]),
        ("[timeouts]\nrestart = \"1m\"", "3:11", &["did you mean switch?"]),
        ("[[hook]]\nafter = \"static\"\nrun = [\"true\"]", "3:9", &["hook[1].after", "did you mean collectstatic?"]),
        ("[[hook]]\nafter = 1\nrun = [\"true\"]", "3:9", &["no step \"\""]),
        ("[[hook]]\nafter = \"environment\"\nrun = [\"true\"]", "3:9", &["no part in this app's releases", "there is no [python]"]),
        ("[[hook]]\nbefore = \"link-shared\"\nrun = [\"true\"]", "3:10", &["nothing is shared"]),
        ("[[hook]]\nafter = \"migrate\"\nrun = [\"true\"]", "3:9", &["there is no [django]"]),
        ("[python]\n[django]\ncheck = false\n[[hook]]\nafter = \"check\"\nrun = [\"true\"]", "6:9", &["turned off in [django]"]),
        ("[python]\n[django]\n[[hook]]\nafter = \"backup\"\nrun = [\"true\"]", "5:9", &["there is no [backup]"]),
        ("[[hook]]\nrun = [\"true\"]", "2:1", &["hook[1]: belongs to no step"]),
        ("[[hook]]\nbefore = \"seal\"\nafter = \"seal\"\nrun = [\"true\"]", "3:1", &["write two hooks"]),
        ("[[hook]]\nafter = \"seal\"", "2:1", &["hook[1].run: is missing"]),
        ("[[hook]]\nafter = \"seal\"\nrun = \"npm run build\"", "4:7", &["no shell", "[\"npm\", \"run\", \"build\"]"]),
        ("[[hook]]\nafter = \"seal\"\nrun = []", "4:7", &["must not be empty"]),
        ("[[hook]]\nafter = \"seal\"\nrun = [\"\", \"x\"]", "4:7", &["is not a program"]),
    ]);
}

#[test]
fn following_a_branch() {
    const WEBHOOK: &str = "[[webhook]]\nfrom = \"github\"\nsecret_file = \"/etc/x\"";
    check(&[
        ("auto = \"main\"\n[[hint]]\nfrom = \"github\"", "3:3", &["hint: there is no such key", "[[webhook]] is what [[hint]] was"]),
        ("auto = \"main\"\nauto_paths = [\"/etc\"]", "3:15", &["auto_paths[1]", "within the repository"]),
        ("auto_paths = [\"a\"]", "2:1", &["follows no branch"]),
        (WEBHOOK, "2:1", &["webhook[1]", "follows no branch", "auto = \"main\""]),
        ("auto = true", "2:1", &["the first of `branches`", "auto = \"main\""]),
        ("auto = true\ntags = [\"main\"]", "2:1", &["not the whole name of a branch"]),
        ("auto = true\nbranches = [\"v*\", \"main\"]", "2:1", &["not the whole name of a branch"]),
        ("auto = true\nrefs = []", "3:8", &["nothing could be released"]),
        ("auto = \"next\"\nbranches = [\"main\"]\ntags = [\"next\"]", "2:1", &["\"next\" fits none of the refs"]),
        ("auto = \"v*\"", "2:8", &["whole name of a branch"]),
        ("auto = \"refs/tags/v1\"", "2:8", &["whole name of a branch"]),
        ("auto = \"--exec=x\"", "2:8", &["whole name of a branch"]),
        ("auto = \"\"", "2:8", &["must not be empty"]),
        ("auto = 1", "2:8", &["true, false or the name of a branch"]),
        ("auto_pause = \"500ms\"", "2:14", &["from 1s to 1h, and is 500ms"]),
        ("auto_pause = 10", "2:14", &["\"10s\""]),
        ("auto = \"main\"\n[webhook]\nfrom = \"github\"", "3:2", &["write [[webhook]]"]),
        ("auto = \"main\"\n[[webhook]]\nfrom = \"github\"", "3:1", &["webhook[1].secret_file: is missing"]),
        ("auto = \"main\"\n[[webhook]]\nsecret_file = \"/etc/x\"", "3:1", &["webhook[1].from: is missing"]),
        ("auto = \"main\"\n[[webhook]]\nfrom = \"gitlab_token\"\nsecret_file = \"/etc/x\"", "4:8", &["did you mean \"gitlab-token\"?"]),
        ("auto = \"main\"\n[[webhook]]\nfrom = \"github\"\nsecret_file = \"x\"", "5:15", &["absolute path"]),
        ("auto = \"main\"\n[[webhook]]\nfrom = \"github\"\nsecret = \"x\"\nsecret_file = \"/x\"", "5:1", &["did you mean secret_file?"]),
    ]);
}

#[test]
fn places() {
    check(&[
        ("root = \"var/shop\"", "2:8", &["absolute path"]),
        ("root = \"/\"", "2:8", &["belongs to the system"]),
        ("root = \"/var/log\"", "2:8", &["belongs to the system", "/srv/shop"]),
        ("root = \"/var/\"", "2:8", &["belongs to the system"]),
        ("root = \"/srv/../etc\"", "2:8", &["must not contain \"..\""]),
        ("root = \"/proc/1/root\"", "2:8", &["belongs to the system"]),
        ("ssh_key = \"~/.ssh/id\"", "2:11", &["absolute path"]),
        ("[shared]\ndirs = [\"/media\"]", "3:9", &["within the release"]),
        ("[shared]\ndirs = [\"a/../b\"]", "3:9", &["must not contain \"..\""]),
        ("[shared]\ndirs = [\"\"]", "3:9", &["must not be empty"]),
        ("[shared]\ndirs = [\"./\"]", "3:9", &["names no file or directory"]),
        ("[shared]\ndirs = [\"venv/x\"]", "3:9", &["the agent's own"]),
        ("[shared]\nfiles = [\"./.release/seal\"]", "3:10", &["the agent's own"]),
        ("[shared]\nfiles = [\"REVISION\"]", "3:10", &["the agent's own"]),
        ("[shared]\nfiles = [\"-rf\"]", "3:10", &["for an option"]),
        ("[shared]\nfiles = [\"a\\nb\"]", "3:10", &["control characters"]),
        ("[shared]\ndirs = [\"media\", \"media/img\"]", "3:1", &["lie within each other"]),
        ("[shared]\ndirs = [\"media\"]\nfiles = [\"media/.env\"]", "4:1", &["lie within each other"]),
    ]);
}

#[test]
fn python_and_django() {
    check(&[
        ("[python]\ninterpreter = \"bin/python\"", "3:15", &["in the agent's PATH"]),
        ("[python]\ninterpreter = \"python3 -E\"", "3:15", &["in the agent's PATH"]),
        ("[python]\ninstaller = \"poetry\"", "3:13", &["one of auto, uv, pip"]),
        ("[python]\npackages = [\"--index-url=http://x\"]", "3:13", &["is an option, not a package"]),
        ("[python]\ninstall = [\"uv sync\"]", "3:12", &["install[1]", "[\"uv\", \"sync\"]"]),
        ("[python]\ninstall = [[\"x\"]]\npackages = [\"a\"]", "4:1", &["does nothing beside install"]),
        ("[django]", "2:2", &["needs a virtual environment", "add [python]"]),
        ("[python]\n[django]\nsettings = \"shop/settings.py\"", "4:12", &["not a file: write \"shop.settings\""]),
        ("[python]\n[django]\nsettings = \"shop-settings\"", "4:12", &["name of a module"]),
        ("[python]\n[django]\nmanage = \"/srv/manage.py\"", "4:10", &["within the release"]),
        ("[python]\n[django]\nlock_timeout = \"0s\"", "4:16", &["from 1ms to 1h, and is 0s"]),
        ("[python]\n[django]\nsettings = \"a\"\n[env]\nDJANGO_SETTINGS_MODULE = \"b\"", "4:1", &["name the settings module once"]),
        (
            "[python]\n[django]\nsettings = \"a\"\n[build_env]\nDJANGO_SETTINGS_MODULE = \"b\"",
            "4:1",
            &["[build_env]", "settings module once"],
        ),
        ("[python]\n[django]\n[backup]\ndatabase = \"postgresql\"", "5:12", &["did you mean \"postgres\"?"]),
        ("[backup]\ndatabase = \"sqlite\"", "2:2", &["none without [django]"]),
    ]);
}

#[test]
fn restart_and_workers() {
    check(&[
        ("[restart]\nstrategy = \"hand-over\"\nanything = 1", "3:12", &["one of handover, uwsgi-fifo", "did you mean \"handover\"?"]),
        ("[restart]\nunit = \"web.service\"", "3:8", &["template unit", "write \"web@.service\""]),
        ("[restart]\nunit = \"web@1.service\"", "3:8", &["write \"web@.service\""]),
        ("[restart]\nunit = \"a b\"", "3:8", &["not the name of a unit"]),
        ("[restart]\nunit = \"web@.service\"\ncommand = [\"x\", \"{socket}\"]", "4:1", &["cannot both start"]),
        ("[restart]\ncommand = [\"x\"]", "3:11", &["put {socket}"]),
        ("[restart]\ncommand = [\"x\", \"{socket}\"]\nslots = [\"a\", \"b\"]", "4:1", &["are for units", "leave it out"]),
        ("[restart]\nslots = [\"blue\"]", "3:9", &["must be 2 to 8 slots, and are 1", "[\"blue\", \"green\"] will do"]),
        ("[restart]\nslots = [\"blue\", \"green\", \"blue\"]", "3:9", &["\"blue\" is named twice"]),
        ("[restart]\nslots = [\"blue\", \"Green\"]", "3:18", &["slots[2]", "1 to 16 small letters"]),
        ("[restart]\nslots = [\"blue\", \"../green\"]", "3:18", &["slots[2]", "1 to 16 small letters"]),
        (
            "[restart]\nsocket = \"/run/a-rather-long-directory/and-another-one-below-it/and-then-the-name.sock\"",
            "3:10",
            &["has 76 bytes", "can have 74", "the release's name"],
        ),
        ("[restart]\nstrategy = \"uwsgi-fifo\"", "2:2", &["restart.fifo: is missing"]),
        ("[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = \"/f\"\nsignal = \"x\"", "5:10", &["one of r, c, w, R, Q"]),
        ("[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = \"/f\"\nsignal = \"Q\"", "5:1", &["add unit"]),
        ("[restart]\nstrategy = \"systemd\"\nunit = \"web\"", "4:8", &["no suffix", "write \"web.service\""]),
        ("[restart]\nstrategy = \"systemd\"\nunits = [\"web@.service\"]", "4:10", &["units[1]", "a template"]),
        ("[restart]\nstrategy = \"systemd\"\nunits = []", "4:9", &["nothing would be restarted"]),
        ("[restart]\nstrategy = \"systemd\"\nunit = \"a.service\"\nunits = [\"b.service\"]", "4:1", &["cannot both be set"]),
        ("[restart]\nstrategy = \"systemd\"\naction = \"reload\"", "4:10", &["did you mean \"reload-or-restart\"?"]),
        ("[restart]\nstrategy = \"gunicorn\"", "2:2", &["restart.pid_file: is missing"]),
        ("[restart]\nstrategy = \"gunicorn\"\npid_file = \"/p\"\nsignal = \"hup\"", "5:10", &["did you mean \"HUP\"?"]),
        ("[restart]\nstrategy = \"command\"", "2:2", &["restart.run: is missing"]),
        ("[[worker]]", "2:1", &["worker[1].unit: is missing"]),
        ("[[worker]]\nunit = \"w@.service\"", "3:1", &["worker[1].unit", "is a template, and only handover", "strategy = \"handover\""]),
        ("[restart]\nstrategy = \"systemd\"\n[[worker]]\nunit = \"w@.service\"", "5:1", &["is a template"]),
        ("[restart]\n[[worker]]\nunit = \"w@.timer\"", "4:8", &["something else than services"]),
        ("[[worker]]\nunit = \"w\"", "3:8", &["no suffix"]),
    ]);
}

#[test]
fn health_checks() {
    check(&[
        ("[[check]]", "2:1", &["check[1].url: is missing"]),
        ("[[check]]\nurl = \"https://shop/\"", "3:7", &["X-Forwarded-Proto"]),
        ("[[check]]\nurl = \"http://x/\"\nstatus = 20", "4:10", &["from 100 to 599"]),
        ("[[check]]\nurl = \"http://x/\"\nlocation = \"/login/\"", "4:1", &["set status"]),
        ("[[check]]\nurl = \"http://x/\"\ncontains = \"\"", "4:12", &["must not be empty"]),
        ("[[check]]\nurl = \"http://x/\"\nheaders = { \"a b\" = \"c\" }", "4:21", &["not the name of a header"]),
        ("[[check]]\nurl = \"http://x/\"\nheaders = { Connection = \"c\" }", "4:26", &["belongs to the connection"]),
        ("[[check]]\nurl = \"http://x/\"\nheaders = { X = \"a\\r\\nY: b\" }", "4:17", &["one line"]),
        ("[[check]]\nurl = \"http://x/\"\nrelease_header = \"X:\"", "4:18", &["not the name of a header"]),
    ]);
}

#[test]
fn a_file_without_what_has_to_be_there() {
    let complaints = shop("").unwrap_err();
    assert_eq!(sentences(&complaints), "shop.toml:1:1: repository: is missing\n");
}

#[test]
fn repositories() {
    for (line, pieces) in [
        ("repository = \"/srv/git/shop\"", ["a path on this host", "allow_local = true"]),
        ("repository = \"https://hunter2@host/x\"", ["a token or a password", "deploy key"]),
        ("repository = \"https://host/x\"\nssh_key = \"/k\"", ["shop.toml:2:1: ssh_key", "is for ssh"]),
    ] {
        let said = sentences(&shop(line).unwrap_err());
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(pieces.iter().all(|piece| said.contains(piece)) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn names_that_directories_of_the_system_have() {
    let name = "log".parse().unwrap();
    let complaints = crate::settings::app::parse(&name, Path::new("log.toml"), super::MINIMAL).unwrap_err();
    assert!(sentences(&complaints).contains("root: would be /var/log, which belongs to the system; add root"));
    let elsewhere = format!("{}root = \"/srv/log\"", super::MINIMAL);
    assert!(crate::settings::app::parse(&name, Path::new("log.toml"), &elsewhere).is_ok());
}

#[test]
fn what_is_not_toml_is_one_complaint_with_its_line() {
    for (text, place) in [
        ("repository = \"x\"\nrefs = [\n", "2:9"),
        ("repository = \"x\"\nrefs\n", "2:5"),
        ("a = 1\na = 2\n", "2:1"),
        ("[python]\n[python]\n", "2:2"),
        ("a = 'ü\n", "1:7"),
    ] {
        let complaints = shop(text).unwrap_err();
        assert_eq!(complaints.len(), 1);
        assert!(sentences(&complaints).starts_with(&format!("shop.toml:{place}: this is not TOML: ")), "{}", sentences(&complaints));
    }
}

#[test]
fn all_complaints_come_at_once_and_in_the_order_of_the_lines() {
    let text = "refs = []\nkeep_releases = 0\nkeep = 3\nroot = \"/\"\n[django]\nmanage = \"..\"\n[restart]\nstrategy = \"x\"\n[[check]]\n\
                url = \"x\"\nstatus = 1\n[[check]]\n[[worker]]\n[[hook]]\nafter = \"x\"\nrun = [\"\"]\n";
    let complaints = shop(text).unwrap_err();
    let lines: Vec<usize> = complaints.iter().filter_map(|complaint| complaint.line).collect();
    assert_eq!(lines, [1, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 15, 16], "{}", sentences(&complaints));
}

#[test]
fn reports() {
    let token = "token_file = \"/t\"";
    let secret = "secret_file = \"/s\"";
    let of = |to: &str, more: &str| format!("[[report]]\nto = \"{to}\"\n{more}");
    let texts: Vec<(String, &str, &[&str])> = vec![
        ("[[report]]\nurl = \"https://x\"".to_owned(), "2:1", &["report[1].to: is missing"]),
        (of("gihub", ""), "3:6", &["did you mean \"github\"?"]),
        (of("github", token), "2:1", &["needs repository"]),
        (of("github", "repository = \"acme/shop\""), "2:1", &["needs token_file"]),
        (of("github", &format!("repository = \"shop\"\n{token}")), "4:14", &["must be owner/name"]),
        (of("github", &format!("repository = \"acme/../x\"\n{token}")), "4:14", &["must be owner/name"]),
        (of("github", &format!("repository = \"acme/..\"\n{token}")), "4:14", &["must be owner/name"]),
        (of("github", &format!("repository = \"a/b?c\"\n{token}")), "4:14", &["must be owner/name"]),
        (of("github", &format!("repository = \"a/b\"\n{token}\n{secret}")), "6:1", &["does nothing in a report to github"]),
        (of("github", &format!("repository = \"a/b\"\n{token}\ndeployments = false\nenvironment = \"x\"")), "7:1", &["turned off"]),
        (of("github", &format!("repository = \"a/b\"\n{token}\ncontext = \"\"")), "6:11", &["1 to 100 characters"]),
        (of("gitlab", &format!("repository = \"shop\"\n{token}")), "4:14", &["number of the project"]),
        (of("gitlab", &format!("repository = \"7\"\n{token}\nurl = \"https://x/api/v4\"")), "6:1", &["too much behind it"]),
        (of("gitlab", &format!("repository = \"7\"\n{token}\nurl = \"http://x\"")), "6:7", &["must begin with https://"]),
        (of("gitlab", &format!("repository = \"7\"\n{token}\nurl = \"https://u:hunter2@x\"")), "6:7", &["no user and no password"]),
        (of("gitlab", "repository = \"7\"\ntoken_file = \"t\""), "5:14", &["absolute path"]),
        (of("gitlab", &format!("repository = \"7\"\n{token}\nca = \"ca.pem\"")), "6:6", &["absolute path"]),
        (of("webhook", secret), "2:1", &["needs url"]),
        (of("webhook", "url = \"https://x\""), "2:1", &["needs secret_file"]),
        (of("webhook", &format!("url = \"https://x\"\n{secret}\n{token}")), "6:1", &["does nothing in a report to webhook"]),
        (format!("{0}{0}", of("webhook", &format!("url = \"https://x\"\n{secret}\n"))), "6:1", &["the same as report[1]"]),
    ];
    let cases: Vec<Case<'_>> = texts.iter().map(|(text, place, pieces)| (text.as_str(), *place, *pieces)).collect();
    check(&cases);
}

#[test]
fn grants() {
    for (text, place, piece) in [
        ("[[grants]]", "1:3", "did you mean grant?"),
        ("[[grant]]\nto = []\napps = [\"*\"]\nactions = [\"*\"]", "2:6", "would mean nobody"),
        (
            "[[issuer]]\nname = \"x\"\nkind = \"gitlab\"\n[[grant]]\nto = \"oidc:x\"\napps = [\"*\"]\nactions = [\"*\"]",
            "4:1",
            "every job of everybody",
        ),
        ("[[grant]]\nto = \"key:x\"\nsignatures = 2\napps = [\"*\"]\nactions = [\"*\"]", "3:1", "nobody could ever have them"),
        (
            "[[grant]]\nto = [\"key:x\", \"key:y\", \"unix-user:z\"]\nsignatures = 2\napps = [\"*\"]\nactions = [\"*\"]",
            "3:1",
            "would need none",
        ),
        ("[[grant]]\nto = \"key:x\"\nclaims = { a = \"b\" }\napps = [\"*\"]\nactions = [\"*\"]", "3:1", "names no issuer"),
        ("[https]\nlisten = []", "1:2", "https.host: is missing"),
        ("[https]\nhost = \"Web1\"", "2:8", "lower-case"),
        ("[https]\nhost = \"web1\"\nlisten = [\"8443\"]", "3:11", "0.0.0.0:8443"),
        ("[https]\nhost = \"web1\"\nurl = \"http://web1\"", "3:7", "begins with https://"),
        ("[https]\nhost = \"web1\"\nkey = \"credential:\"", "3:7", "must name a credential"),
        ("[[grant]]\nto = \"anna\"\napps = [\"*\"]\nactions = [\"*\"]", "2:6", "write \"unix-user:anna\""),
        ("[[grant]]\nto = \"unix_user:anna\"\napps = [\"*\"]\nactions = [\"*\"]", "2:6", "did you mean \"unix-user:anna\"?"),
        ("[[grant]]\nto = \"unix-user:\"\napps = [\"*\"]\nactions = [\"*\"]", "2:6", "unix-user:NAME"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"Shop\"]\nactions = [\"*\"]", "3:9", "lower-case"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = []\nactions = [\"*\"]", "3:8", "would allow nothing"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"*\"]\nactions = [\"relase\"]", "4:12", "did you mean \"release\"?"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"*\"]\nactions = [\"deploy\"]", "4:12", "it comes with \"release\""),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"*\"]\nactions = [\"*\"]\nrefs = []", "5:8", "leave it out"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"*\"]\nactions = [\"*\"]\nrefs = [\"v*\"]", "5:8", "write instead: tags = [\"v*\"]"),
        ("[[grant]]\nto = \"unix-user:a\"\napps = [\"*\"]", "1:1", "grant[1].actions: is missing"),
        ("socket_group = \"a b\"", "1:16", "not the name of a group"),
        ("drain_timeout = 10", "1:17", "\"10s\""),
    ] {
        let said = sentences(&agent::parse(Path::new("agent.toml"), text).unwrap_err());
        assert!(said.starts_with(&format!("agent.toml:{place}: ")) && said.contains(piece) && said.lines().count() == 1, "{text}\n{said}");
    }
}

#[test]
fn issuers_and_grants_to_their_jobs() {
    let github = "[[issuer]]\nname = \"github\"\nkind = \"github\"\n";
    let grant = |to: &str, claims: &str| format!("[[grant]]\nto = {to}\napps = [\"*\"]\nactions = [\"*\"]\nclaims = {{ {claims} }}\n");
    let granted = |claims: &str| format!("{github}{}", grant("\"oidc:github\"", claims));
    let gitlab = |claims: &str| format!("[[issuer]]\nname = \"lab\"\nkind = \"gitlab\"\n{}", grant("\"oidc:lab\"", claims));
    for good in [github.to_owned(), granted("repository_id = \"1\""), gitlab("project_id = \"1\", ref_protected = \"true\"")] {
        assert!(agent::parse(Path::new("agent.toml"), &good).is_ok(), "{good}");
    }
    for (text, place, piece) in [
        ("[[issuer]]\nkind = \"github\"".to_owned(), "1:1", "issuer[1].name: is missing"),
        ("[[issuer]]\nname = \"x\"".to_owned(), "1:1", "issuer[1].kind: is missing"),
        ("[[issuer]]\nname = \"Git Hub\"\nkind = \"github\"".to_owned(), "2:8", "lower-case"),
        (format!("{github}url = \"http://127.0.0.1/x\""), "4:7", "begins with https://"),
        (format!("{github}url = \"https://me@host\""), "4:7", "begins with https://"),
        (format!("{github}url = \"https://ci.example.org/\""), "4:7", "must not end with a slash"),
        (format!("{github}algorithms = [\"HS256\"]"), "4:15", "one of RS256, ES256, EdDSA"),
        (format!("{github}algorithms = []"), "4:14", "no token could be signed"),
        (format!("{github}bind = \"none\""), "4:8", "one of host, body"),
        (format!("{github}ca = \"ca.pem\""), "4:6", "absolute path"),
        (format!("{github}{}", github.replace("\"github\"\nkind", "\"other\"\nkind")), "4:1", "is that of the issuer github too"),
        (format!("{github}{github}url = \"https://ci.example.org\""), "5:1", "is that of another issuer"),
        (grant("\"oidc:github\"", "repository_id = \"1\""), "2:1", "add [[issuer]] with name = \"github\""),
        (format!("{github}{}", grant("\"oidc:gihub\"", "repository_id = \"1\"")), "5:1", "did you mean \"oidc:github\"?"),
        (granted("repository = \"acme/shop\""), "8:1", "must have repository_id, a number"),
        (granted("repository_id = \"acme/shop\""), "8:1", "must have repository_id, a number"),
        (granted("project_id = \"1\""), "8:1", "must have repository_id, a number"),
        (gitlab("project_path = \"acme/shop\""), "8:1", "must have project_id, a number"),
    ] {
        let said = sentences(&agent::parse(Path::new("agent.toml"), &text).unwrap_err());
        assert!(said.starts_with(&format!("agent.toml:{place}: ")) && said.contains(piece) && said.lines().count() == 1, "{text}\n{said}");
    }
}
