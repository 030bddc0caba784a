//! What `packaging/ci` gives CIs to copy: the commands in each template are run as the CI would run them, against a real agent.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agent_tests::{Bench, Done, HOST, Issuer, Network, Repo, nonce, now, project, wait_until};
use serde_json::json;

const LONG: Duration = Duration::from_secs(120);

/// An agent that knows the key `key`, and a checkout of the repository as a CI would have it, with what is to be copied in `ci/`.
struct Job {
    bench: Bench,
    repo: Repo,
    network: Network,
}

impl Job {
    fn new(name: &str, more: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("shop");
        repo.write("page.html", "one").commit("One");
        let mut keygen = bench.command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "key"]);
        bench.begin(keygen).finish(LONG).expect(0);
        let public = fs::read_to_string(bench.path("key.pub")).unwrap();
        bench.app("shop", &format!("repository = {:?}\nbranches = [\"main\"]\n{more}", repo.path()));
        let grant = "[[grant]]\nto = \"key:ci-shop@acme\"\napps = [\"shop\"]\nactions = [\"release\", \"read\"]\nbranches = [\"main\"]\n";
        let network = bench.network("", grant, &format!("ci-shop@acme namespaces=\"release-agent.v1\" {public}"));
        bench.start();
        fs::create_dir_all(bench.path("checkout/ci")).unwrap();
        fs::copy(project("packaging/ci/release.sh"), bench.path("checkout/ci/release.sh")).unwrap();
        let agentctl = bench.agentctl().get_program().to_owned();
        std::os::unix::fs::symlink(agentctl, bench.path("checkout/ci/agentctl")).unwrap();
        Self { bench, repo, network }
    }

    /// Runs some lines of shell in the checkout, with these variables beside what every job here has.
    fn run(&self, shell: &str, lines: &str, variables: &[(&str, &str)]) -> Done {
        let mut command = self.bench.command(shell);
        command.args(["-e", "-u", "-c", lines]).current_dir(self.bench.path("checkout"));
        command.env_remove("AGENTCTL_SOCKET").env("CA", &self.network.ca).env("AGENT_URL", self.network.url()).env("AGENT_HOST", HOST);
        command.env("APP", "shop").envs(variables.iter().copied());
        self.bench.begin(command).finish(LONG)
    }

    fn script(&self, args: &str, variables: &[(&str, &str)]) -> Done {
        let key = self.bench.path("key");
        let mut all = vec![("KEY_FILE", key.to_str().unwrap())];
        all.extend_from_slice(variables);
        self.run("sh", &format!("sh ci/release.sh {args}"), &all)
    }
}

fn template(name: &str) -> String {
    fs::read_to_string(project(&format!("packaging/ci/{name}"))).unwrap()
}

/// The lines of the block that follows `opening`, without what they are indented by: a block scalar of YAML, or a text between quotation marks.
fn block(text: &str, opening: &str) -> String {
    let mut lines = text.lines().skip_while(|line| line.trim() != opening).skip(1).peekable();
    let indent = lines.peek().map(|line| line.len() - line.trim_start().len()).unwrap_or_else(|| panic!("no {opening:?}"));
    assert!(indent > 0);
    let within = lines.take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() >= indent);
    within.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect()
}

/// The values of the keys that a template sets by itself; a test puts its own in their place, and so must know that they are there.
fn sets(text: &str, names: &[&str]) {
    for name in names {
        assert!(text.lines().any(|line| line.trim().starts_with(name)), "{name} is set nowhere");
    }
}

#[test]
fn the_script_ends_as_the_release_ended() {
    let job = Job::new("the script", "");
    let main = job.repo.id("main");
    job.script(&format!("refs/heads/main {main}"), &[]).expect(0).says(&["\"what\":\"ended\"", "\"outcome\":\"live\""]);
    assert_eq!(job.bench.runs()[0]["caller"], "key:ci-shop@acme");
    job.script(&format!("refs/heads/main {main}"), &[("KEY_FILE", "../key"), ("CA", "../config/tls/cert.pem")]).expect(0);
    // A release that fails: the commit is on no ref that is allowed.
    job.repo.branch("aside");
    let aside = job.repo.write("page.html", "aside").commit("Aside");
    job.script(&format!("refs/heads/main {aside}"), &[]).expect(1).says(&["\"outcome\":\"failed\""]);
    // Refused: another ref, another app, a key that nobody knows.
    job.script(&format!("refs/heads/aside {aside}"), &[]).expect(4).says(&["not_allowed"]);
    job.script(&format!("refs/heads/main {main}"), &[("APP", "other")]).expect(4).says(&["not_allowed"]);
    let mut keygen = job.bench.command("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "other"]);
    job.bench.begin(keygen).finish(LONG).expect(0);
    let other = job.bench.path("other");
    job.script(&format!("refs/heads/main {main}"), &[("KEY_FILE", other.to_str().unwrap())]).expect(4).says(&["unauthenticated"]);
    // Not understood, and nobody there.
    job.script("refs/heads/main 1a2b3c4", &[]).expect(2).says(&["malformed"]);
    job.bench.stop();
    let gone = [("AGENT_URL", "https://localhost:1")];
    job.script(&format!("refs/heads/main {main}"), &gone).expect(5);
    assert_eq!(fs::read_dir(job.bench.path("checkout")).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn the_script_follows_over_a_restart_of_the_agent() {
    let go = "[[hook]]\nbefore = \"seal\"\nrun = [\"sh\", \"-c\", \"until test -e ../../../../go; do sleep 0.05; done\"]\n";
    let job = Job::new("the script, restart", go);
    let main = job.repo.id("main");
    let key = job.bench.path("key");
    let mut command = job.bench.command("sh");
    command.args(["ci/release.sh", "refs/heads/main", &main]).current_dir(job.bench.path("checkout"));
    command.env("CA", &job.network.ca).env("AGENT_URL", job.network.url()).env("AGENT_HOST", HOST).env("APP", "shop").env("KEY_FILE", &key);
    let following = job.bench.begin(command);
    wait_until("it follows", LONG, || following.stdout().contains("\"seal\""));
    job.bench.kill();
    job.bench.start();
    // The run was taken back when the agent came back; the script saw how it ended.
    let done = following.finish(LONG).expect(1).says(&["\"what\":\"stopped\"", "\"outcome\":\"failed\""]);
    let places: Vec<u64> =
        done.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(places, (1..=places.len() as u64).collect::<Vec<_>>(), "no event twice, and none left out");
}

/// What a template has on one line behind this.
fn line(text: &str, opening: &str) -> String {
    let found = text.lines().find_map(|line| line.trim().strip_prefix(opening));
    found.unwrap_or_else(|| panic!("no {opening:?}")).trim().to_owned()
}

/// An issuer whose jobs of the project 74 may release the app, in force beside what was.
fn issuer(job: &Job, kind: &str, more: &str, claims: &str) -> Issuer {
    let issuer = Issuer::new("ci", &job.bench);
    let file = job.bench.path("config/agent.toml");
    let grant =
        format!("[[grant]]\nto = \"oidc:ci\"\napps = [\"shop\"]\nactions = [\"release\"]\nbranches = [\"main\"]\nclaims = {claims}\n");
    let text = format!("{}{}{grant}", fs::read_to_string(&file).unwrap(), issuer.settings(kind, more));
    fs::rename(job.bench.write("agent.new", text), file).unwrap();
    job.bench.reload_keys();
    issuer
}

#[test]
fn github_actions() {
    let job = Job::new("GitHub Actions", "");
    let text = template("github-actions.yml");
    sets(&text, &["AGENT_URL:", "APP:", "id-token: write", "environment:"]);
    let issuer = issuer(&job, "github", "bind = \"body\"\n", "{ repository_id = \"74\", environment = \"production\" }");
    let (now, commit) = (now(), job.repo.id("main"));
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": issuer.kid() });
    let claims = json!({ "iss": issuer.url(), "iat": now, "nbf": now - 300, "exp": now + 300, "jti": nonce(), "environment": "production",
        "sha": commit, "ref": "refs/heads/main", "repository": "acme/shop", "repository_id": "74", "repository_owner_id": "65",
        "event_name": "push", "job_workflow_ref": "acme/shop/.github/workflows/release.yml@refs/heads/main" });
    let offer = issuer.offer(&header, &claims);
    let ca = issuer.ca().to_str().unwrap().to_owned();
    let variables = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", offer.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "x"),
        ("ISSUER_CA", &ca),
        ("GITHUB_REF", "refs/heads/main"),
        ("GITHUB_SHA", &commit),
    ];
    // No action of others runs with the job's identity.
    assert!(!text.contains("uses:"), "{text}");
    let checkout = block(&text, "run: |");
    let server = format!("file://{}", job.repo.path().parent().unwrap().display());
    let name = job.repo.path().file_name().unwrap().to_str().unwrap().to_owned();
    let there = job.bench.path("checked-out");
    fs::create_dir(&there).unwrap();
    let here = format!("cd {}\n{checkout}\ngit rev-parse HEAD", there.display());
    let git = [
        ("GITHUB_TOKEN", "x"),
        ("GITHUB_SERVER_URL", server.as_str()),
        ("GITHUB_REPOSITORY", name.as_str()),
        ("GITHUB_SHA", commit.as_str()),
    ];
    job.run("bash", &here, &git).expect(0).says(&[&commit]);
    job.run("bash", &line(&text, "run: sh").replacen("ci/", "sh ci/", 1), &variables).expect(0).says(&["\"outcome\":\"live\""]);
    assert_eq!(job.bench.runs()[0]["caller"], "oidc:ci:acme/shop");
}

#[test]
fn gitlab_ci() {
    let job = Job::new("GitLab CI", "");
    let text = template("gitlab-ci.yml");
    sets(&text, &["AGENT_URL:", "APP:", "ID_TOKEN:", "aud:", "environment:"]);
    let issuer = issuer(&job, "gitlab", "", "{ project_id = \"74\", ref_protected = \"true\" }");
    let (now, commit) = (now(), job.repo.id("main"));
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": issuer.kid() });
    let claims = json!({ "iss": issuer.url(), "aud": HOST, "iat": now, "nbf": now - 5, "exp": now + 3600, "jti": nonce(), "sha": commit,
        "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "project_path": "acme/shop",
        "project_id": "74", "namespace_id": "65", "pipeline_source": "push" });
    let token = issuer.sign(&header, &claims);
    let variables = [("ID_TOKEN", token.as_str()), ("CI_COMMIT_BRANCH", "main"), ("CI_COMMIT_SHA", &commit)];
    job.run("bash", &line(&text, "- sh").replacen("ci/", "sh ci/", 1), &variables).expect(0).says(&["\"outcome\":\"live\""]);
    assert_eq!(job.bench.runs()[0]["caller"], "oidc:ci:acme/shop");
}

#[test]
fn circleci() {
    let job = Job::new("CircleCI", "");
    let text = template("circleci.yml");
    sets(&text, &["AGENTCTL_URL:", "AGENTCTL_APP:"]);
    let lines = block(&text, "command: |");
    use base64::Engine;
    let key = base64::engine::general_purpose::STANDARD.encode(fs::read(job.bench.path("key")).unwrap());
    let (commit, url) = (job.repo.id("main"), job.network.url());
    let mut variables = vec![("RELEASE_KEY", key.as_str()), ("CIRCLE_SHA1", &commit), ("AGENTCTL_URL", &url), ("AGENTCTL_APP", "shop")];
    let ca = job.network.ca.to_str().unwrap().to_owned();
    variables.extend([("AGENTCTL_CA", ca.as_str()), ("AGENTCTL_HOST", HOST)]);
    // CircleCI runs each step by bash.
    job.run("bash", &lines, &variables).expect(0).says(&["is live"]);
    let unknown = "1".repeat(40);
    for variable in &mut variables {
        if variable.0 == "CIRCLE_SHA1" {
            variable.1 = &unknown;
        }
    }
    job.run("bash", &lines, &variables).expect(1).says(&["no branch, tag or commit"]);
}

#[test]
fn jenkins() {
    let job = Job::new("Jenkins", "");
    let text = template("Jenkinsfile");
    for plugin in ["workflow-aggregator", "workflow-multibranch", "git", "lockable-resources", "credentials-binding", "ssh-credentials"] {
        assert!(text.lines().any(|line| line.starts_with("//") && line.contains(plugin)), "it does not name the plugin {plugin}");
    }
    sets(&text, &["AGENTCTL_URL", "AGENTCTL_APP", "withCredentials"]);
    let lines = block(&text, "sh '''");
    let (commit, url, key, ca) = (job.repo.id("main"), job.network.url(), job.bench.path("key"), job.network.ca.clone());
    let variables = [
        ("AGENTCTL_KEY", key.to_str().unwrap()),
        ("GIT_COMMIT", &commit),
        ("AGENTCTL_URL", &url),
        ("AGENTCTL_APP", "shop"),
        ("AGENTCTL_CA", ca.to_str().unwrap()),
        ("AGENTCTL_HOST", HOST),
    ];
    job.run("sh", &lines, &variables).expect(0).says(&["is live"]);
    assert_eq!(job.bench.runs()[0]["of"], commit.as_str());
}

/// That the ctl which jobs carry needs nothing of the machine that they run on.
#[test]
fn the_script_that_builds_a_static_ctl_says_so() {
    let bench = Bench::new("a static ctl");
    let script = project("packaging/static-agentctl");
    assert!(fs::metadata(&script).unwrap().permissions().mode() & 0o111 != 0);
    let mut help = bench.command(&script);
    help.arg("--help");
    bench.begin(help).finish(LONG).expect(0).says(&["needs no library of the machine it runs on"]);
}
