//! Who asked for what, afterwards: the lines of the system log, the evidence of a run, and what becomes of a run that waits while the trust in whoever
//! asked for it ends.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Answer, Bench, Network, Repo, SigningKey, form, wait_until};
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);

fn grant(more: &str) -> String {
    format!("[[grant]]\nto = \"key:ci\"\napps = [\"plain\"]\nactions = [\"release\", \"lock\", \"read\"]\n{more}")
}

/// An agent with the app `plain`, whose releases wait before they are sealed for as long as the file `gate` is there.
struct Scene {
    bench: Bench,
    repo: Repo,
    network: Network,
    key: SigningKey,
}

impl Scene {
    fn new(name: &str, signers: impl Fn(&SigningKey) -> String) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("page.html", "one").commit("One");
        let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
        let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n");
        bench.app("plain", &format!("repository = {:?}\nrefs = [\"refs/heads/main\"]\n{hook}", repo.path()));
        let key = SigningKey::default();
        let network = bench.network("", &grant(""), &signers(&key));
        bench.start();
        Self { bench, repo, network, key }
    }

    fn release(&self) -> Answer {
        self.network.ask(&self.key, &form("release", json!({ "ref": "refs/heads/main", "commit": self.repo.id("main") })))
    }

    /// A release by the key that waits behind one of the operator's, and what is done meanwhile.
    fn waits_while(&self, meanwhile: impl FnOnce(&Answer)) -> (u64, Value) {
        self.bench.write("gate", "");
        self.bench.ctl(["release", "--no-follow", "main"]).expect(0);
        wait_until("the release stands at the gate", MOST, || self.bench.path("gate.reached").exists());
        let answer = self.release();
        assert_eq!(answer.status, 202, "{}", answer.body);
        let run = json(&answer)["run"].as_u64().unwrap();
        meanwhile(&answer);
        fs::remove_file(self.bench.path("gate")).unwrap();
        let events = self.bench.events(run);
        (run, events.last().unwrap().clone())
    }

    /// Grants other things than before, and waits until they are in force.
    fn grants(&self, grants: &str, until: impl Fn(&Value) -> bool) {
        let port = self.network.port;
        self.bench.agent_settings(&format!("[https]\nhost = {:?}\nlisten = [\"127.0.0.1:{port}\"]\n{grants}\n", agent_tests::HOST));
        wait_until("the grants are in force", MOST, || until(&json(&self.network.read(&self.key, "/v1/whoami"))));
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

fn follow(scene: &Scene, answer: &Answer) -> u16 {
    let taken = json(answer);
    let bearer = format!("Bearer {}", taken["token"].as_str().unwrap());
    let path = format!("/v1/runs/{}/events", taken["run"]);
    agent_tests::request(&scene.network.place(), "GET", &path, &[("Authorization", &bearer)], "").unwrap().status
}

#[test]
fn each_request_is_a_line_of_the_log_when_it_is_accepted_and_when_it_ended() {
    let scene = Scene::new("lines of the log", |key| key.line("ci"));
    let answer = scene.release();
    let run = json(&answer)["run"].as_u64().unwrap();
    scene.bench.events(run);
    scene.bench.ctl(["lock", "-m", "audit"]).expect(0);
    // What was refused is no run; what waits and is replaced ends, too.
    let (log, commit) = (scene.bench.log(), scene.repo.id("main"));
    let line = |says: &str, run: u64| {
        let number = format!("run={run} ");
        log.lines()
            .find(|line| line.contains(says) && line.contains(&number))
            .unwrap_or_else(|| panic!("no {says:?} of {run} in {log}"))
            .to_owned()
    };
    let print = print_of(&scene);
    for says in ["a request was accepted", "a run ended"] {
        let line = line(says, run);
        for part in
            ["app=\"plain\"", "action=\"release\"", "caller=\"key:ci\"", &format!("keys=\"{print}\""), &format!("commit=\"{commit}\"")]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert!(line("a run ended", run).contains("outcome=\"live\""));
    assert!(line("a run ended", run + 1).contains("action=\"lock\"") && line("a run ended", run + 1).contains("outcome=\"done\""));
}

fn print_of(scene: &Scene) -> String {
    let told = scene.bench.ctl(["doctor", "--json"]);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap().clone();
    let text = findings.iter().filter_map(|finding| finding["text"].as_str()).find(|text| text.starts_with("key:ci signs with ")).unwrap();
    text.trim_start_matches("key:ci signs with ").split(',').next().unwrap().to_owned()
}

#[test]
fn the_evidence_of_a_run_is_verified_by_ssh_keygen() {
    let scene = Scene::new("evidence", |key| key.line("ci"));
    let answer = scene.release();
    let run = json(&answer)["run"].to_string();
    scene.bench.events(run.parse().unwrap());
    let told = scene.bench.ctl(["show", &run, "--evidence", "audit"]).expect(0).stdout;
    let command = told.lines().find(|line| line.starts_with("ssh-keygen -Y verify")).unwrap();
    let verify = |command: &str| {
        let mut shell = scene.bench.command("sh");
        shell.args(["-c", command]);
        scene.bench.begin(shell).finish(MOST)
    };
    let done = verify(command).expect(0);
    assert!(done.stdout.contains("Good \"release-agent.v1\" signature for ci"), "{}{}", done.stdout, done.stderr);
    // Other bytes are not what was signed.
    let file = scene.bench.path(format!("audit/run-{run}.json"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("plain", "plain2")).unwrap();
    assert_ne!(verify(command).code, 0);
    // What came over the socket has none, and says so.
    scene.bench.ctl(["lock", "-m", "audit"]).expect(0);
    scene.bench.ctl(["show", "2", "--evidence", "audit"]).expect(0).says(&["it has no signature"]);
    // Whoever may not read the app learns nothing; and of a request that another host would still take, nobody does.
    let stranger = SigningKey::default();
    assert_eq!(scene.network.read(&stranger, &format!("/v1/runs/{run}/evidence")).status, 401);
    let several = scene.network.ask(&scene.key, &form("lock", json!({ "why": "x", "aud": [agent_tests::HOST, "web2.test"] })));
    assert_eq!(several.status, 202, "{}", several.body);
    let run = json(&several)["run"].to_string();
    scene.bench.ctl(["show", &run, "--evidence", "audit"]).expect(4).says(&["still good there", "ask again in"]);
}

#[test]
fn a_run_that_waits_ends_when_its_key_is_revoked_and_so_does_its_token() {
    let scene = Scene::new("revoked while it waits", |key| key.line("ci"));
    let (run, end) = scene.waits_while(|answer| {
        scene.bench.write("config/revoked_keys", format!("{}\n", scene.key.public().to_line()));
        scene.bench.reload_keys();
        assert_eq!(follow(&scene, answer), 401);
    });
    assert_eq!(end["outcome"], "failed", "{end}");
    let told = scene.bench.ctl(["logs", &run.to_string()]);
    assert!(told.stdout.contains("key:ci is trusted no more") && told.stdout.contains("revoked"), "{}", told.stdout);
    scene.bench.assert_sound();
}

#[test]
fn a_run_that_waits_ends_when_its_grant_is_taken_away_or_narrowed() {
    let scene = Scene::new("narrowed while it waits", |key| key.line("ci"));
    let (run, end) = scene.waits_while(|_| {
        scene.grants("[[grant]]\nto = \"key:ci\"\napps = [\"plain\"]\nactions = [\"read\"]\n", |who| {
            who["grants"][0]["actions"] == json!(["read"])
        });
    });
    assert_eq!(end["outcome"], "failed", "{end}");
    scene.bench.ctl(["logs", &run.to_string()]).says(&["key:ci may not release plain: no grant says so", "actions = [\"release\"]"]);
    // What it may release from is narrowed as well.
    scene.grants(&grant(""), |who| who["grants"][0]["refs"].is_null() && who["grants"][0]["actions"][0] == "release");
    let (run, end) = scene.waits_while(|_| {
        scene.grants(&grant("refs = [\"refs/tags/v*\"]\n"), |who| who["grants"][0]["refs"] == json!(["refs/tags/v*"]));
    });
    assert_eq!(end["outcome"], "failed", "{end}");
    scene.bench.ctl(["logs", &run.to_string()]).says(&["while it waited for its turn", "key:ci may not release refs/heads/main"]);
    // And a grant that stands lets it go on.
    scene.grants(&grant(""), |who| who["grants"][0]["refs"].is_null());
    let (_, end) = scene.waits_while(|answer| assert!(json(answer)["run"].is_u64()));
    assert_eq!(end["outcome"], "live", "{end}");
}

fn copy(bench: &Bench, from: &str, to: &str) {
    let _ = fs::remove_dir_all(bench.path(to));
    let mut copy = bench.command("cp");
    copy.arg("-a").arg(bench.path(from)).arg(bench.path(to));
    bench.begin(copy).finish(MOST).expect(0);
}

/// What leaves no release behind: a lock, which the operator ends again.
#[test]
fn a_state_directory_from_a_backup_carries_nothing_out_again() {
    let scene = Scene::new("state from a backup", |key| key.line("ci"));
    let lock = || form("lock", json!({ "why": "audit" }));
    let send = |form: &Value| scene.network.ask(&scene.key, form);
    assert_eq!(send(&lock()).status, 202);
    scene.bench.ctl(["unlock"]).expect(0);
    scene.bench.stop();
    copy(&scene.bench, "state", "backup");
    scene.bench.start();
    let later = lock();
    assert_eq!(send(&later).status, 202);
    scene.bench.ctl(["unlock"]).expect(0);
    // Once, and once more: the same backup may be put back again.
    for _ in 0..2 {
        scene.bench.stop();
        copy(&scene.bench, "backup", "state");
        scene.bench.start();
        let again = send(&later);
        assert_eq!((again.status, json(&again)["code"].as_str()), (410, Some("out_of_window")), "{}", again.body);
        assert!(scene.bench.log().contains("the journal is older than what it should know"));
    }
    assert!(scene.bench.ask_json("/v1/apps/plain")["lock"].is_null());
    // A restart without any such thing is none.
    scene.bench.stop();
    scene.bench.start();
    assert_eq!(scene.bench.log().matches("is older than what it should know").count(), 2);
}
