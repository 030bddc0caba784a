//! The files that decide whom the agent believes: in whose hands they must be, and what becomes of a list of revoked keys that is lost.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use agent_tests::{Bench, Network, SigningKey, form, is_root, wait_until};
use serde_json::json;

const MOST: Duration = Duration::from_secs(60);
const GRANT: &str = "[[grant]]\nto = \"key:ci\"\napps = [\"plain\"]\nactions = [\"*\"]\n";

fn scene(name: &str) -> (Bench, Network, SigningKey) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &format!("repository = {:?}\nrefs = [\"refs/heads/main\"]\n", repo.path()));
    let key = SigningKey::default();
    let network = bench.network("", GRANT, &key.line("ci"));
    (bench, network, key)
}

fn set_mode(path: &PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn status(network: &Network, key: &SigningKey) -> u16 {
    network.ask(key, &form("check", json!({}))).status
}

#[test]
fn what_anybody_can_write_is_not_believed() {
    let (bench, network, key) = scene("open to all");
    bench.start();
    for file in ["config/allowed_signers", "config/revoked_keys"] {
        // Written before its mode is set, so that it is never read while it is closed.
        let new = bench.write("new", if file.contains("allowed") { SigningKey::default().line("ci") } else { String::new() });
        set_mode(&new, 0o666);
        let path = bench.path(file);
        let before = fs::read(&path).ok();
        fs::rename(new, &path).unwrap();
        bench.ctl(["doctor"]).expect(1).says(&[file.trim_start_matches("config/"), "can be written by anybody", "chmod o-w"]);
        assert_eq!(status(&network, &key), 202, "{file}: what was believed before stays so");
        set_mode(&path, 0o644);
        match before {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::write(&path, "").unwrap(),
        }
        bench.reload_keys();
    }
    bench.stop();
    for (path, mode) in [("config/allowed_signers", 0o666), ("config", 0o777), ("config/apps", 0o1777)] {
        let path = bench.path(path);
        let before = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        set_mode(&path, mode);
        bench.start_refused().expect(64).says(&["can be written by anybody", "chmod o-w"]);
        set_mode(&path, before);
    }
}

#[test]
fn what_a_group_or_another_user_can_write_is_an_error_of_doctor() {
    if !is_root("what a group or another user can write is an error of doctor") {
        return;
    }
    let (bench, ..) = scene("open to some");
    bench.start();
    let others = bench.ctl(["doctor"]).stdout;
    assert!(!others.contains("whose members can change") && !others.contains("who can change"), "{others}");
    let (signers, app) = (bench.path("config/allowed_signers"), bench.path("config/apps/plain.toml"));
    std::os::unix::fs::chown(&signers, None, Some(65533)).unwrap();
    set_mode(&signers, 0o664);
    bench.ctl(["doctor"]).expect(1).says(&["allowed_signers can be written by the group 65533", "chmod g-w"]);
    set_mode(&signers, 0o644);
    std::os::unix::fs::chown(&app, Some(65533), None).unwrap();
    bench.ctl(["doctor"]).expect(1).says(&["plain.toml belongs to 65533", "chown root"]);
}

#[test]
fn a_list_of_revoked_keys_that_is_lost_is_missed_and_revokes_as_before() {
    let (bench, network, key) = scene("a lost list");
    let list = bench.write("config/revoked_keys", format!("{} lost\n", key.public().to_line()));
    bench.start();
    assert_eq!(status(&network, &key), 401);
    fs::remove_file(&list).unwrap();
    let missed = || {
        bench.ctl(["doctor"]).expect(1).says(&["revoked_keys: is gone, and was there before", "install -m 644 /dev/null"]);
        assert_eq!(status(&network, &key), 401, "it stays revoked");
    };
    wait_until("the loss is noticed", MOST, || bench.ctl(["doctor"]).stdout.contains("revoked_keys"));
    missed();
    bench.stop();
    bench.start();
    missed();
    // An empty list is one that somebody made.
    bench.write("config/revoked_keys", "");
    bench.reload_keys();
    assert_eq!(status(&network, &key), 202);
}

#[test]
fn a_private_key_that_others_can_read_signs_nothing() {
    let (bench, network, _) = scene("an open key");
    let keygen = |args: &[&str]| {
        let mut command = bench.command("ssh-keygen");
        command.args(args);
        bench.begin(command).finish(MOST).expect(0)
    };
    keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "own"]);
    bench.write("config/allowed_signers", format!("ci {}", fs::read_to_string(bench.path("own.pub")).unwrap()));
    bench.start();
    let asks = || {
        let mut command = bench.agentctl();
        command.args(["--url", &network.url(), "--host", agent_tests::HOST, "--key", "own", "--ca"]).arg(&network.ca).arg("whoami");
        bench.begin(command).finish(MOST)
    };
    asks().expect(0);
    set_mode(&bench.path("own"), 0o644);
    asks().expect(2).says(&["open to others (mode 0644)", "chmod 600"]);
}
