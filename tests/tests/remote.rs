//! The ctl over the network: the same verbs, signed, with the same exit codes as on the host.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agent_tests::{Begun, Bench, Done, HOST, Network, Repo, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Anna may do everything, `ci` may release what `main` reaches, and nobody knows the stranger.
const GRANTS: &str = "[[grant]]\nto = \"key:anna\"\napps = [\"*\"]\nactions = [\"*\"]\ndowngrade = true\n\
                      [[grant]]\nto = \"key:ci\"\napps = [\"plain\"]\nactions = [\"release\"]\nbranches = [\"main\"]\n";

struct Site {
    bench: Bench,
    repo: Repo,
    network: Network,
}

impl Site {
    fn new(name: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("page.html", "one").commit("One");
        repo.tag("v1").write("page.html", "two").commit("Two");
        // Its checkout takes as long as there is a file named `wait`.
        let wait = bench.path("wait");
        let hook =
            format!("[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", \"while [ -e {} ]; do sleep 0.05; done\"]\n", wait.display());
        bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\n{hook}", repo.path()));
        let lines: String = ["anna", "ci", "stranger"].iter().map(|who| line(&bench, who)).collect();
        let network = bench.network("", GRANTS, &lines);
        // The name that this host can look up.
        bench.certificate("config/tls", &["localhost"]);
        bench.start();
        Self { bench, repo, network }
    }

    fn key(&self, who: &str) -> PathBuf {
        self.bench.path(format!("keys/{who}"))
    }

    /// The ctl elsewhere, as somebody.
    fn begin(&self, who: &str, arguments: &str) -> Begun {
        let mut command = self.bench.agentctl();
        command.arg("--url").arg(format!("https://localhost:{}", self.network.port)).arg("--host").arg(HOST);
        command.arg("--ca").arg(&self.network.ca).arg("--key").arg(self.key(who));
        command.args(arguments.split_whitespace().map(OsString::from));
        self.bench.begin(command)
    }

    #[track_caller]
    fn ctl(&self, who: &str, arguments: &str) -> Done {
        self.begin(who, arguments).finish(SOON)
    }
}

/// Makes a key with `ssh-keygen`; answers with its line in `allowed_signers`, which a stranger has none of.
fn line(bench: &Bench, who: &str) -> String {
    fs::create_dir_all(bench.path("keys")).unwrap();
    let mut command = bench.command("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(bench.path(format!("keys/{who}")));
    bench.begin(command).finish(SOON).expect(0);
    let public = fs::read_to_string(bench.path(format!("keys/{who}.pub"))).unwrap();
    if who == "stranger" { String::new() } else { format!("{who} {public}") }
}

#[test]
fn the_verbs_do_elsewhere_what_they_do_on_the_host() {
    let site = Site::new("remote verbs");
    site.ctl("anna", "whoami").expect(0).says(&["key:anna", "everything of all apps"]);
    let commit = site.repo.id("main");
    let short = &commit[..12];
    site.ctl("anna", "release v1").expect(0).says(&["v1 is commit", "reached by refs/tags/v1", "is live"]);
    site.ctl("anna", "release main").expect(0).says(&[&format!("main is commit {short}, reached by refs/heads/main"), "is live"]);
    assert_eq!(site.bench.last_run()["caller"], "key:anna");
    for arguments in ["list", "status", "show", "runs", "logs 1", "plan main", "doctor", "fsck", "prune --dry-run"] {
        let there = site.ctl("anna", &format!("{arguments} --json")).expect(0);
        let here = site.bench.ctl(format!("{arguments} --json").split_whitespace()).expect(0);
        // Free disk changes by itself.
        if !["status", "plan main", "doctor"].contains(&arguments) {
            assert_eq!(there.stdout, here.stdout, "{arguments}");
        }
    }
    site.ctl("anna", "rollback").expect(0).says(&["is live"]);
    site.ctl("anna", "logs -f 1").expect(0).says(&["release refs/tags/v1 of plain, by key:anna"]);
    site.ctl("anna", "lock -m closed").expect(0).says(&["plain: locked"]);
    site.ctl("anna", "release main").expect(4).says(&["locked by key:anna: closed"]);
    site.ctl("anna", "unlock").expect(0);
    site.ctl("anna", &format!("release {commit} --no-follow"))
        .expect(0)
        .says(&["goes on; follow it with: agentctl --url https://localhost:"]);
    site.ctl("anna", "logs 99").expect(2).says(&["there is no run 99"]);
}

/// Who may release may stage, and makes nothing live by it; who may not activate, does not.
#[test]
fn a_release_is_staged_from_elsewhere_and_made_live_by_whoever_may() {
    let site = Site::new("staged from elsewhere");
    site.ctl("anna", "release v1").expect(0);
    let live = site.bench.live("plain").unwrap();
    site.ctl("ci", "stage refs/heads/main --app plain").expect(0);
    let run = site.bench.last_run();
    assert_eq!((run["action"].as_str(), run["outcome"].as_str()), (Some("stage"), Some("done")), "{run}");
    assert_eq!(site.bench.live("plain").as_ref(), Some(&live));
    let staged = run["release"].as_str().unwrap();
    assert!(staged.ends_with(&site.repo.head()[..12]) && site.bench.releases("plain").contains(&staged.to_owned()), "{staged}");
    site.ctl("stranger", "stage refs/heads/main --app plain").expect(4);
    site.ctl("ci", &format!("activate {staged} --app plain")).expect(4);
    assert_eq!(site.bench.live("plain"), Some(live));
    site.ctl("anna", &format!("activate {staged}")).expect(0);
    assert_eq!(site.bench.live("plain").as_deref(), Some(staged));
}

#[test]
fn what_is_refused_elsewhere_says_what_to_do() {
    let site = Site::new("remote refusals");
    site.ctl("stranger", "status").expect(4).says(&["refused: nothing here proves whose request this is", "allowed_signers there"]);
    site.ctl("ci", "release main").expect(4).says(&["which there are cannot be asked", "--app"]);
    site.ctl("ci", "--app plain release main").expect(4).says(&["cannot be looked up", "refs/heads/main for a branch"]);
    site.ctl("ci", "--app plain rollback").expect(4).says(&["key:ci may not activate plain"]);
    site.ctl("ci", "--app plain release refs/heads/main").expect(0).says(&["is live"]);
    site.ctl("anna", "release refs/heads/nowhere").expect(1).says(&["was never left; no check says whether it serves"]);

    let mut elsewhere = site.bench.agentctl();
    elsewhere.arg("--url").arg(format!("https://localhost:{}", site.network.port)).arg("--ca").arg(&site.network.ca);
    elsewhere.arg("--key").arg(site.key("anna")).arg("status");
    let told = site.bench.begin(elsewhere).finish(SOON).expect(4);
    told.says(&["the request is for localhost, and this host is web1.test", "--host (or AGENTCTL_HOST)"]);
}

#[test]
fn a_run_is_followed_over_the_agents_death() {
    let site = Site::new("remote death");
    site.ctl("anna", "release v1").expect(0);
    site.bench.write("wait", "");
    let follower = site.begin("anna", "release main");
    wait_until("the hook is told", SOON, || follower.stderr().contains("hook: sh"));
    site.bench.kill();
    wait_until("the loss is told", SOON, || follower.stderr().contains("the connection to the agent is lost"));
    site.bench.start();
    follower.finish(SOON).expect(1).says(&["the agent stopped in the middle of this run", "was never left"]);
}

#[test]
fn a_run_that_somebody_turned_away_from_is_cancelled_from_elsewhere() {
    let site = Site::new("remote cancel");
    site.bench.write("wait", "");
    let follower = site.begin("anna", "release main");
    wait_until("the hook is told", SOON, || follower.stderr().contains("hook: sh"));
    site.ctl("anna", "cancel 1").expect(0).says(&["run 1 is asked to stop"]);
    follower.finish(SOON).expect(7).says(&["cancelled and taken back"]);
}

#[test]
fn what_sign_prints_is_a_command_that_releases_once() {
    let site = Site::new("remote sign");
    let command =
        site.ctl("ci", &format!("--app plain sign release --ref refs/heads/main --curl --out {}", site.bench.path("r.json").display()));
    let script = site.bench.write("send.sh", command.expect(0).stdout);
    let send = || {
        let mut command = site.bench.command("sh");
        command.arg(&script);
        site.bench.begin(command).finish(SOON).expect(0).json()
    };
    let first = send();
    assert_eq!((first["run"].as_u64(), send()["run"].as_u64()), (Some(1), Some(1)));
    assert_eq!(site.bench.events(1).last().unwrap()["outcome"], "live");
}
