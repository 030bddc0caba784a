//! A repository behind a real sshd: the deploy key and the trusted host keys that are set are those that count.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, free_port, wait_until};

fn key(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success(), "ssh-keygen makes {}", path.display());
}

#[test]
fn a_deploy_key_and_a_trusted_host_are_enough_and_both_are_needed() {
    let bench = Bench::new("ssh");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    // A path that a careless command line would take for two words.
    let (host, deploy) = (bench.path("host_key"), bench.path("the deploy key"));
    key(&host);
    key(&deploy);
    let authorized = bench.write("authorized_keys", fs::read(bench.path("the deploy key.pub")).unwrap());
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nPermitRootLogin yes\nUsePAM no\n",
        host.display(),
        authorized.display()
    );
    let config = bench.write("sshd_config", config);
    if nix::unistd::geteuid().is_root() {
        // Where sshd of the distribution wants to lock its unprivileged half up.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let mut sshd = bench.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(config);
    let server = bench.begin(sshd);
    wait_until("sshd listens", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let host_key = fs::read_to_string(bench.path("host_key.pub")).unwrap();
    let known = bench.write("known_hosts", format!("[127.0.0.1]:{port} {host_key}"));
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let settings = format!(
        "repository = \"ssh://{user}@127.0.0.1:{port}{}\"\nssh_key = {deploy:?}\nknown_hosts = {known:?}\nbranches = [\"main\"]\n",
        repo.path().display()
    );
    bench.app("site", &settings).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("site");

    repo.write("index.html", "two").commit("two");
    fs::write(&known, "").unwrap();
    let done = bench.ctl(["release", "main"]).expect(1);
    assert!(done.stderr.contains("not trusted") && done.stderr.contains("known_hosts"), "{}", done.stderr);
    bench.write("known_hosts", format!("[127.0.0.1]:{port} {host_key}"));
    fs::write(&authorized, "").unwrap();
    let done = bench.ctl(["release", "main"]).expect(1);
    assert!(done.stderr.contains("deploy key"), "{}", done.stderr);
    assert_eq!(bench.live("site"), live);
    bench.assert_sound();
    server.signal(nix::sys::signal::Signal::SIGTERM);
}
