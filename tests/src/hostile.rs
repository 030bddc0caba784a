//! What every test of hostile contents needs: a release that serves, a tree that nobody may touch, and a look at both afterwards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_wire::REQUEST_TYPE;
use serde_json::{Value, json};

use crate::bench::{Bench, Done};
use crate::http::{Answer, request};
use crate::network::nonce;
use crate::repo::Repo;

/// A bench with the app `plain`, one release of which is live, and a repository that may now turn bad. Beside the root lies a canary tree.
#[derive(Debug)]
pub struct Hostile {
    /// Where it happens.
    pub bench: Bench,
    /// The repository of `plain`, at its one good commit.
    pub repo: Repo,
    untouched: Tree,
    /// What the agent's own fsck finds fault with, because the test has put it there.
    known: RefCell<Vec<&'static str>>,
}

/// What lies in a directory: for each path its mode, its number of links and its content.
type Tree = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

impl Hostile {
    /// The app has these lines in its file beside `repository`, `branches` and `tags`.
    #[track_caller]
    pub fn new(name: &str, more: &str) -> Self {
        Self::on(Bench::new(name), more)
    }

    /// The same, on a bench that was prepared.
    #[track_caller]
    pub fn on(bench: Bench, more: &str) -> Self {
        let repo = bench.repo("plain");
        repo.write("page.html", "good").commit("Good");
        bench.write("canary/inner/secret", "canary");
        bench.write("canary/page.html", "canary");
        let hostile = Self { bench, repo, untouched: Tree::new(), known: RefCell::default() };
        hostile.bench.app("plain", &hostile.settings(more)).start();
        hostile.bench.ctl(["release", "main"]).expect(0);
        let untouched = hostile.outside();
        Self { untouched, ..hostile }
    }

    /// A bench that was brought as far by the test itself; what it holds outside of the roots is taken as it is.
    pub fn idle(bench: Bench) -> Self {
        bench.write("canary/page.html", "canary");
        let repo = Repo::new(bench.path("repos/idle"));
        let hostile = Self { bench, repo, untouched: Tree::new(), known: RefCell::default() };
        Self { untouched: hostile.outside(), ..hostile }
    }

    /// The app's file.
    pub fn settings(&self, more: &str) -> String {
        format!("repository = {:?}\nbranches = [\"main\", \"v*\"]\ntags = [\"v*\"]\n{more}\n", self.repo.path())
    }

    /// Gives the app other settings, and waits until they are in force.
    #[track_caller]
    pub fn set(&self, more: &str) {
        let file = self.bench.path("config/apps/plain.toml");
        let before = fs::read(&file).expect("the app has a file");
        self.bench.app("plain", &self.settings(more));
        // What has not changed is not taken up anew.
        if fs::read(&file).expect("it was written a moment ago") != before {
            self.bench.reload();
        }
    }

    /// What fsck has reason to find fault with from here on.
    pub fn knows(&self, known: &[&'static str]) {
        *self.known.borrow_mut() = known.to_vec();
    }

    /// A path in the canary tree.
    pub fn canary(&self, path: &str) -> PathBuf {
        self.bench.path("canary").join(path)
    }

    /// Asks the ctl for what must not come to be: the run fails with these words, the former release serves, and nothing is left of the other.
    #[track_caller]
    pub fn fails(&self, args: &[&str], parts: &[&str]) -> Done {
        self.fails_with(args, 1, parts)
    }

    /// The same, with another exit code: 2 for what is not even a request.
    #[track_caller]
    pub fn fails_with(&self, args: &[&str], code: i32, parts: &[&str]) -> Done {
        let before = self.serves();
        let releases = self.bench.releases("plain");
        let done = self.bench.ctl(args).expect(code).says(parts);
        assert_eq!(self.serves(), before, "another release serves");
        assert_eq!(self.bench.releases("plain"), releases, "something is left in releases/");
        self.holds();
        done
    }

    /// Asks the ctl for what must come to be.
    #[track_caller]
    pub fn passes(&self, args: &[&str]) -> Done {
        let done = self.bench.ctl(args).expect(0);
        self.holds();
        done
    }

    /// Releases the newest commit of `main`; the answer is its directory.
    #[track_caller]
    pub fn releases(&self) -> PathBuf {
        self.passes(&["release", "main"]);
        assert!(self.serves().0.is_some_and(|live| live.ends_with(&self.repo.head()[..12])), "another commit is live");
        self.live()
    }

    /// The directory of the live release.
    pub fn live(&self) -> PathBuf {
        self.bench.root_of("plain").join("app").canonicalize().expect("a release is live")
    }

    /// Sends a form as it is, past everything that the ctl looks at.
    #[track_caller]
    pub fn asks(&self, action: &str, more: &Value) -> Answer {
        let mut form = json!({ "v": 1, "app": "plain", "action": action, "nonce": nonce() });
        for (member, value) in more.as_object().into_iter().flatten() {
            form[member] = value.clone();
        }
        let headers = [("Content-Type", REQUEST_TYPE)];
        request(&self.bench.control(), "POST", "/v1/requests", &headers, &form.to_string()).expect("the agent answers")
    }

    /// Sends a form that breaks a rule: it is refused, and nothing begins.
    #[track_caller]
    pub fn refuses(&self, action: &str, more: &Value) {
        let runs = self.bench.runs().len();
        let answer = self.asks(action, more);
        assert_eq!(answer.status, 400, "{action} {more}: {}", answer.body);
        assert_eq!(self.bench.runs().len(), runs, "{action} {more} began a run");
        self.holds();
    }

    /// What is live, and the page that it serves.
    fn serves(&self) -> (Option<String>, Option<String>) {
        let page = fs::read_to_string(self.bench.root_of("plain").join("app/page.html")).ok();
        (self.bench.live("plain"), page)
    }

    /// Fails the test unless everything is as it must be whatever was tried: sound, nothing outside of the root touched, nobody in panic.
    #[track_caller]
    pub fn holds(&self) {
        self.bench.assert_sound_but(&self.known.borrow());
        assert_eq!(self.outside(), self.untouched, "something outside of the root was touched");
        let scratch = self.bench.root_of("plain").join(".agent/tmp");
        assert_eq!(fs::read_dir(&scratch).map_or(0, Iterator::count), 0, "something is left in {}", scratch.display());
        assert!(!self.bench.log().contains("panicked"), "something panicked");
    }

    fn outside(&self) -> Tree {
        let mut tree = Tree::new();
        take_in(&self.bench.path("canary"), &mut tree);
        tree
    }

    /// Runs a program of the host beside the agent, with the bench's environment: to show that an attack works where nobody holds it.
    #[track_caller]
    pub fn beside(&self, argv: &[&str], env: &[(&str, &str)]) -> Done {
        let mut command = self.bench.command(argv.first().expect("a program"));
        command.args(&argv[1..]).envs(env.iter().copied());
        self.bench.begin(command).finish(Duration::from_secs(60))
    }
}

fn take_in(path: &Path, tree: &mut Tree) {
    let meta = fs::symlink_metadata(path).expect("the canary tree is there");
    let content = if meta.is_symlink() {
        fs::read_link(path).expect("it was there a moment ago").as_os_str().as_bytes().to_vec()
    } else if meta.is_dir() {
        for entry in fs::read_dir(path).expect("it was there a moment ago").flatten() {
            take_in(&entry.path(), tree);
        }
        Vec::new()
    } else {
        fs::read(path).expect("it was there a moment ago")
    };
    tree.insert(path.to_owned(), (meta.permissions().mode(), meta.nlink(), content));
}
