//! Against real repositories, made here by the real git.

use std::cell::RefCell;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_model::grant::RefPattern;

use super::fetch::{Fault, Fetched};
use super::*;
use crate::process::Cancel;

struct Repo {
    dir: tempfile::TempDir,
}

impl Repo {
    fn new() -> Self {
        let repo = Self { dir: tempfile::tempdir().unwrap() };
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git")
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1"), ("HOME", "/nonexistent")])
            .args(["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"])
            .args(args)
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn commit(&self, path: &str, text: &str) -> CommitId {
        if let Some(parent) = self.path().join(path).parent() {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(self.path().join(path), text).unwrap();
        self.commit_all(path)
    }

    fn commit_all(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    fn settings(&self) -> Settings {
        Settings { repository: Repository::Local(self.path().to_owned()), ssh_key: None, known_hosts: None }
    }
}

/// Patterns by full names; a short one stands for branches and tags.
fn patterns(words: &[&str]) -> Vec<RefPattern> {
    let of_both = |word: &str| vec![RefPattern::branch(word).unwrap(), RefPattern::tag(word).unwrap()];
    words.iter().flat_map(|word| word.parse().map_or_else(|_| of_both(word), |full| vec![full])).collect()
}

fn with_git<T>(repo: &Repo, cache: &Path, act: impl FnOnce(&Git<'_>, &Watch<'_>) -> T) -> T {
    let settings = repo.settings();
    let cancel = Cancel::default();
    let said = RefCell::new(Vec::new());
    let lines = |_: agent_wire::event::Stream, line: &str| said.borrow_mut().push(line.to_owned());
    let watch = Watch { marker: "git:test", deadline: Instant::now() + Duration::from_secs(60), cancel: &cancel, lines: &lines };
    act(&Git::new(&settings, cache), &watch)
}

fn fetched(repo: &Repo, cache: &Path, allowed: &[&str]) -> Result<usize, GitError> {
    with_git(repo, cache, |git, watch| git.fetch_all(&patterns(allowed), watch)).map(|fetched| fetched.refs)
}

fn of_app(app: &[RefPattern]) -> Allowed<'_> {
    Allowed { app, grant: None, via: None, follows: None }
}

/// What a release fetches and finds.
fn found(repo: &Repo, cache: &Path, revision: &str, allowed: Allowed<'_>) -> Result<(Fetched, Resolved), GitError> {
    let revision = revision.parse().unwrap();
    with_git(repo, cache, |git, watch| {
        let fetched = git.fetch(&revision, allowed, watch)?;
        git.find(&revision, allowed, watch).map(|found| (fetched, found))
    })
}

fn resolved(repo: &Repo, cache: &Path, revision: &str, allowed: &[&str]) -> Result<Resolved, GitError> {
    let app = patterns(allowed);
    with_git(repo, cache, |git, watch| git.resolve(&revision.parse().unwrap(), of_app(&app), watch))
}

fn cache() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("git_cache");
    (dir, path)
}

#[test]
fn a_branch_a_tag_a_commit_and_its_beginning_are_found_and_nothing_else_is() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    repo.git(&["tag", "v1"]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1-annotated"]);
    repo.git(&["tag", "-a", "-m", "nested", "v1-nested", "v1-annotated"]);
    repo.git(&["tag", "v-tree", "HEAD^{tree}"]);
    let second = repo.commit("a", "2");
    repo.git(&["branch", "secret"]);
    repo.git(&["checkout", "-q", "secret"]);
    let hidden = repo.commit("a", "3");
    let allowed = ["main", "v*"];
    assert_eq!(fetched(&repo, &cache, &allowed).unwrap(), 5);
    assert_eq!(fetched(&repo, &cache, &allowed).unwrap(), 0);
    let commit = |revision: &str| resolved(&repo, &cache, revision, &allowed).map(|resolved| resolved.commit);
    assert_eq!(commit("main").unwrap(), second);
    assert_eq!(commit("refs/heads/main").unwrap(), second);
    for name in ["v1", "v1-annotated", "v1-nested", "refs/tags/v1", first.as_str(), &first.as_str()[..8]] {
        assert_eq!(commit(name).unwrap(), first, "{name}");
    }
    assert!(matches!(commit("v-tree"), Err(GitError::NotACommit(_))));
    assert!(matches!(commit("secret"), Err(GitError::Unknown { .. })));
    assert!(commit(hidden.as_str()).is_err(), "a commit that no allowed ref reaches");
    let Err(GitError::Unknown { nearest, .. }) = commit("mian") else { panic!() };
    assert_eq!(nearest.first().map(String::as_str), Some("main"));
}

#[test]
fn a_commit_that_is_in_the_cache_but_not_reachable_is_refused() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    let gone = repo.commit("a", "2");
    fetched(&repo, &cache, &["main"]).unwrap();
    repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    repo.commit("a", "forced");
    fetched(&repo, &cache, &["main"]).unwrap();
    let err = resolved(&repo, &cache, gone.as_str(), &["main"]).unwrap_err();
    assert!(matches!(err, GitError::NotAllowed { .. }), "{err}");
}

#[test]
fn names_that_mean_two_things_are_told() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    repo.git(&["tag", "main"]);
    let second = repo.commit("a", "2");
    repo.git(&["branch", "same", second.as_str()]);
    repo.git(&["tag", "same", second.as_str()]);
    repo.git(&["branch", &second.as_str()[..7], first.as_str()]);
    fetched(&repo, &cache, &["*"]).unwrap();
    let ambiguous = |revision: &str| matches!(resolved(&repo, &cache, revision, &["*"]), Err(GitError::Ambiguous { .. }));
    assert!(ambiguous("main"), "a branch and a tag");
    assert!(ambiguous(&second.as_str()[..7]), "a branch and a commit");
    assert_eq!(resolved(&repo, &cache, "same", &["*"]).unwrap().commit, second, "both names mean one commit");
    assert_eq!(resolved(&repo, &cache, "refs/heads/main", &["*"]).unwrap().commit, second);
}

/// Puts a commit whose author has no address on a branch, as a broken tool would; the answer is its id.
fn malformed(repo: &Repo, branch: &str) -> String {
    let text = repo.git(&["cat-file", "commit", "main"]).replace(" <t@example.org>", " ");
    fs::write(repo.path().join(".git/malformed"), text + "\n").unwrap();
    let id = repo.git(&["hash-object", "-t", "commit", "-w", "--literally", ".git/malformed"]);
    repo.git(&["update-ref", &format!("refs/heads/{branch}"), &id]);
    id
}

#[test]
fn a_push_to_one_branch_cannot_stop_a_release_of_another() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    repo.git(&["branch", "same"]);
    let bad = malformed(&repo, "bot");
    for at in 0..8 {
        repo.git(&["branch", &format!("b{at}"), "main"]);
    }
    let all = patterns(&["*"]);
    // By its name: nothing else is fetched.
    let (did, here) = found(&repo, &cache, "main", of_app(&all)).unwrap();
    assert_eq!((did, here.commit), (Fetched { refs: 1, left_out: Vec::new() }, first));
    // By a commit: all are, but for the one that cannot be, which is told with its commit and its fault.
    let (did, here) = found(&repo, &cache, repo.commit("a", "2").as_str(), of_app(&all)).unwrap();
    assert_eq!((did.refs, here.reference.as_str()), (10, "refs/heads/main"));
    let [left] = did.left_out.as_slice() else { panic!("{:?}", did.left_out) };
    let told = left.to_string();
    assert!(told.starts_with(&format!("refs/heads/bot ({}): the object {bad} is malformed: missingEmail", &bad[..12])), "{told}");
    // Whoever asks for it is told the same.
    let err = found(&repo, &cache, "bot", of_app(&all)).unwrap_err();
    assert!(matches!(&err, GitError::LeftOut(left) if left.reference.as_str() == "refs/heads/bot"), "{err}");
    assert!(err.to_string().contains(&bad) && err.hint().unwrap().contains("git fsck"), "{err}");
    // What a ref reached before it turned bad is not what it reaches now.
    let second = repo.git(&["rev-parse", "main"]);
    malformed(&repo, "main");
    let main = patterns(&["main"]);
    let err = found(&repo, &cache, &second, of_app(&main)).unwrap_err();
    assert!(matches!(err, GitError::NotAllowed { .. }), "{err}");
}

#[test]
fn a_server_that_is_gone_is_told_as_that_and_not_as_the_fault_of_a_ref() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    (0..8).for_each(|at| drop(repo.git(&["branch", &format!("b{at}")])));
    // It still tells its refs, and none of them can be had.
    let blob = repo.git(&["rev-parse", "main:a"]);
    fs::remove_file(repo.path().join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    let err = fetched(&repo, &cache, &["*"]).unwrap_err();
    assert!(matches!(err, GitError::Program { .. }), "{err}");
}

#[test]
fn a_repository_of_another_user_is_told_with_the_command_that_helps_and_not_with_git_s() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    for path in [repo.path().to_owned(), repo.path().join(".git")] {
        std::os::unix::fs::chown(path, Some(12345), None).unwrap();
    }
    let err = fetched(&repo, &cache, &["*"]).unwrap_err();
    assert!(err.hint().unwrap().starts_with(&format!("chown -R root {}", repo.path().display())), "{err:?}");
    let [line] = err.tail() else { panic!("{:?}", err.tail()) };
    assert!(line.contains("dubious ownership"), "{line}");
}

#[test]
fn the_digits_of_a_commit_are_no_misspelt_branch() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    for branch in ["deadbeef", "x1111112"] {
        repo.git(&["branch", branch]);
    }
    fetched(&repo, &cache, &["*"]).unwrap();
    let all = patterns(&["*"]);
    let hint = |revision: &str| found(&repo, &cache, revision, of_app(&all)).unwrap_err().hint().unwrap();
    assert!(hint("1111111").starts_with("push it first"), "{}", hint("1111111"));
    assert_eq!(hint("deadbee"), "did you mean deadbeef?");
}

/// What ssh 9.2 says of a key that it may not read, or that others may.
#[test]
fn a_key_that_ssh_does_not_take_is_told_with_its_path() {
    let hint = |line: &str| {
        let tail = [line, "git@host: Permission denied (publickey).", "fatal: Could not read from remote repository."].map(str::to_owned);
        let status = std::os::unix::process::ExitStatusExt::from_raw(128 << 8);
        GitError::program(
            "ask the repository for its refs",
            ProgramError::Failed { program: "git ls-remote".into(), status, tail: tail.to_vec() },
        )
    };
    for line in ["Load key \"/etc/shop/key\": Permission denied", "Load key \"/etc/shop/key\": bad permissions"] {
        let err = hint(line);
        assert!(err.hint().unwrap().contains(" /etc/shop/key && chmod 400 /etc/shop/key"), "{:?}", err.hint());
        assert_eq!(err.tail().last().map(String::as_str), Some("git@host: Permission denied (publickey)."));
    }
}

#[test]
fn nothing_is_found_by_a_ref_that_has_moved_since_it_was_fetched() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    let taken_back = repo.commit("a", "2");
    repo.git(&["branch", "release"]);
    fetched(&repo, &cache, &["*"]).unwrap();
    // `main` still reaches it; `release`, which alone the grant allows, no longer does.
    repo.git(&["branch", "-f", "release", "main~1"]);
    let (app, grant) = (patterns(&["*"]), patterns(&["release"]));
    let allowed = Allowed { grant: Some(&grant), ..of_app(&app) };
    for revision in ["main", taken_back.as_str(), &taken_back.as_str()[..9]] {
        let err = found(&repo, &cache, revision, allowed).unwrap_err();
        assert!(matches!(err, GitError::NotAllowed { .. }), "{revision}: {err}");
    }
}

#[test]
fn what_a_shallow_clone_lacks_is_taken_for_a_no_and_told_as_that() {
    let full = Repo::new();
    full.commit("a", "1");
    let second = full.commit("a", "2");
    let third = full.commit("a", "3");
    full.git(&["checkout", "-q", "--orphan", "ok"]);
    full.commit("a", "only this is allowed");
    full.git(&["checkout", "-q", "main"]);
    let repo = Repo { dir: tempfile::tempdir().unwrap() };
    let url = format!("file://{}", full.path().display());
    repo.git(&["clone", "-q", "--bare", "--depth", "2", "--no-single-branch", &url, "."]);
    let (_dir, cache) = cache();
    let (all, ok) = (patterns(&["*"]), patterns(&["ok"]));
    let err = found(&repo, &cache, "main", of_app(&all)).unwrap_err();
    assert!(matches!(&err, GitError::LeftOut(left) if left.fault == Fault::Shallow), "{err}");
    assert!(err.hint().unwrap().contains("--unshallow"));
    // Its commits are in the cache, and no ref that is allowed reaches them.
    for commit in [&third, &second] {
        let err = found(&repo, &cache, commit.as_str(), of_app(&ok)).unwrap_err();
        assert!(matches!(&err, GitError::Torn { reference, .. } if reference.as_str() == "refs/heads/ok"), "{err}");
        let revision = commit.as_str().parse().unwrap();
        assert_eq!(with_git(&repo, &cache, |git, watch| git.has(&revision, of_app(&ok), watch)), None);
    }
    assert_eq!(found(&repo, &cache, "ok", of_app(&ok)).unwrap().1.reference.as_str(), "refs/heads/ok");
}

#[test]
fn a_whole_commit_is_that_commit_whatever_a_branch_is_called() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    let second = repo.commit("a", "2");
    repo.git(&["update-ref", &format!("refs/heads/{first}"), second.as_str()]);
    let unknown = "0123456789abcdef0123456789abcdef01234567";
    repo.git(&["update-ref", &format!("refs/tags/{unknown}"), second.as_str()]);
    let all = patterns(&["*"]);
    assert_eq!(found(&repo, &cache, first.as_str(), of_app(&all)).unwrap().1.commit, first);
    assert!(matches!(found(&repo, &cache, unknown, of_app(&all)), Err(GitError::Unknown { .. })), "a tag passed for a commit");
    let full = format!("refs/heads/{first}");
    assert_eq!(found(&repo, &cache, &full, of_app(&all)).unwrap().1.commit, second);
}

#[test]
fn a_commit_is_known_by_the_ref_that_was_asked_for_or_else_by_the_one_that_the_settings_name() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    repo.git(&["branch", "a-branch-of-a-bot"]);
    repo.git(&["branch", "production"]);
    repo.git(&["tag", "a-tag"]);
    repo.commit("a", "2");
    let by = |allowed: Allowed<'_>| found(&repo, &cache, first.as_str(), allowed).unwrap().1.reference.to_string();
    let (any, named, late) = (patterns(&["*"]), patterns(&["*", "refs/heads/production"]), patterns(&["refs/tags/*", "refs/heads/*"]));
    let (bot, tags) = ("refs/heads/a-branch-of-a-bot".parse().unwrap(), patterns(&["refs/tags/*"]));
    assert_eq!(by(of_app(&any)), "refs/heads/main");
    assert_eq!(by(of_app(&named)), "refs/heads/production");
    assert_eq!(by(of_app(&late)), "refs/tags/a-tag", "in the order of the settings");
    assert_eq!(by(Allowed { via: Some(&bot), ..of_app(&named) }), bot.to_string());
    assert_eq!(by(Allowed { follows: Some(&bot), ..of_app(&named) }), bot.to_string());
    assert_eq!(by(Allowed { grant: Some(&tags), ..of_app(&named) }), "refs/tags/a-tag");
}

#[test]
fn a_branch_takes_the_place_of_a_directory_of_branches_and_a_tag_moves() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    repo.git(&["branch", "df"]);
    repo.git(&["tag", "v1"]);
    fetched(&repo, &cache, &["*"]).unwrap();
    repo.git(&["branch", "-D", "df"]);
    repo.git(&["branch", "df/inner"]);
    let second = repo.commit("a", "2");
    repo.git(&["tag", "-f", "v1"]);
    fetched(&repo, &cache, &["*"]).unwrap();
    assert_eq!(resolved(&repo, &cache, "v1", &["*"]).unwrap().commit, second);
    assert!(resolved(&repo, &cache, "df/inner", &["*"]).is_ok());
    assert!(resolved(&repo, &cache, "df", &["*"]).is_err());
}

#[test]
fn a_narrower_grant_narrows() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    repo.commit("a", "1");
    repo.git(&["tag", "v1"]);
    repo.commit("a", "2");
    fetched(&repo, &cache, &["*"]).unwrap();
    let (app, grant) = (patterns(&["*"]), patterns(&["v*"]));
    let find = |revision: &str| {
        with_git(&repo, &cache, |git, watch| {
            git.resolve(&revision.parse().unwrap(), Allowed { grant: Some(&grant), ..of_app(&app) }, watch)
        })
    };
    assert!(find("v1").is_ok());
    assert!(matches!(find("main"), Err(GitError::NotAllowed { .. })));
}

#[test]
fn an_empty_repository_and_a_missing_one_have_their_sentences() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    assert!(matches!(fetched(&repo, &cache, &["*"]), Err(GitError::Empty(_))));
    let mut settings = repo.settings();
    settings.repository = Repository::Local("/no/such/repository".into());
    let err = with_git(&repo, &cache, |_, watch| Git::new(&settings, &cache).fetch_all(&patterns(&["*"]), watch)).unwrap_err();
    assert!(err.hint().unwrap().contains("there is no repository"), "{err} {:?}", err.tail());
}

#[test]
fn neither_planted_hooks_nor_planted_settings_run() {
    let repo = Repo::new();
    let (dir, cache) = cache();
    repo.commit("a", "1");
    fetched(&repo, &cache, &["*"]).unwrap();
    let proof = dir.path().join("ran");
    let hook = cache.join("hooks/post-checkout");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", proof.display())).unwrap();
    Command::new("chmod").args(["+x".as_ref(), hook.as_os_str()]).status().unwrap();
    let commit = resolved(&repo, &cache, "main", &["*"]).unwrap().commit;
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    with_git(&repo, &cache, |git, watch| git.checkout(&commit, &out, &dir.path().join("index"), watch)).unwrap();
    assert!(out.join("a").exists() && !proof.exists());
}

#[test]
fn modes_links_and_odd_names_come_out_as_they_went_in() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    let repo = Repo::new();
    let (dir, cache) = cache();
    let odd: Vec<&[u8]> = vec![b"new\nline", b"quo\"te'", b"-dash", b"caf\xe9", b"back\\slash", b"con", b"tab\tbed", "ünïcode".as_bytes()];
    for name in &odd {
        fs::write(repo.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(repo.path().join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(repo.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(repo.path().join(".gitattributes"), "kept export-ignore\nsubst export-subst\n").unwrap();
    fs::write(repo.path().join("kept"), "kept").unwrap();
    fs::write(repo.path().join("subst"), "$Format:%H$").unwrap();
    symlink("run.sh", repo.path().join("inner")).unwrap();
    symlink("nowhere-yet", repo.path().join("dangling")).unwrap();
    let commit = repo.commit_all("odd");
    fetched(&repo, &cache, &["*"]).unwrap();
    let tree = with_git(&repo, &cache, |git, watch| git.tree(&commit, 1000, watch)).unwrap();
    tree.check(Budget { files: 100, bytes: 10_000 }, &[".release", "venv"]).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    with_git(&repo, &cache, |git, watch| git.checkout(&commit, &out, &dir.path().join("index"), watch)).unwrap();
    for name in &odd {
        assert_eq!(fs::read(out.join(std::ffi::OsStr::from_bytes(name))).unwrap(), *name);
    }
    assert_eq!(fs::metadata(out.join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_to_string(out.join("subst")).unwrap(), "$Format:%H$");
    assert!(out.join("kept").exists() && !out.join(".git").exists());
    assert_eq!(fs::read_link(out.join("inner")).unwrap(), Path::new("run.sh"));
}

fn judged(prepare: impl FnOnce(&Path), reserved: &[&str]) -> Result<(), TreeError> {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    fs::create_dir_all(repo.path().join("deep/er")).unwrap();
    fs::write(repo.path().join("deep/er/file"), "x").unwrap();
    prepare(repo.path());
    let commit = repo.commit_all("judged");
    fetched(&repo, &cache, &["*"]).unwrap();
    with_git(&repo, &cache, |git, watch| git.tree(&commit, 1000, watch)).unwrap().check(Budget { files: 50, bytes: 1000 }, reserved)
}

#[test]
fn links_that_lead_out_are_refused_also_through_other_links() {
    use std::os::unix::fs::symlink;
    let link = |pairs: &'static [(&str, &str)]| {
        judged(
            move |dir| {
                for (target, path) in pairs {
                    symlink(target, dir.join(path)).unwrap();
                }
            },
            &[],
        )
    };
    assert!(link(&[("deep/er/file", "a"), ("../../a", "deep/er/b"), ("er/../er/file", "deep/c")]).is_ok());
    assert!(link(&[("loop", "loop")]).is_ok());
    for escape in [
        &[("/etc/passwd", "a")][..],
        &[("../outside", "a")],
        &[("deep/er/../../../x", "a")],
        &[("er", "deep/short"), ("short/../../../x", "deep/b")],
        &[("deep/er", "jump"), ("jump/../../../x", "b")],
    ] {
        assert!(matches!(link(escape), Err(TreeError::Escapes { .. })), "{escape:?}");
    }
}

#[test]
fn reserved_names_budgets_submodules_and_lfs_pointers_are_seen() {
    let ships = |dir: &Path| {
        fs::create_dir_all(dir.join(".release")).unwrap();
        fs::write(dir.join(".release/manifest.json"), "{}").unwrap();
    };
    assert_eq!(judged(ships, &[".release"]), Err(TreeError::Reserved(".release".into())));
    let big = |dir: &Path| fs::write(dir.join("big"), vec![b'x'; 2000]).unwrap();
    assert!(matches!(judged(big, &[]), Err(TreeError::Bytes { .. })));
    let many = |dir: &Path| (0..60).for_each(|i| fs::write(dir.join(format!("f{i}")), "").unwrap());
    assert!(matches!(judged(many, &[]), Err(TreeError::Files { .. })));

    let (inner, repo) = (Repo::new(), Repo::new());
    inner.commit("x", "x");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    repo.commit("film.mp4", pointer);
    repo.git(&["submodule", "--quiet", "add", inner.path().to_str().unwrap(), "sub"]);
    let commit = repo.commit_all("with a submodule");
    let (dir, cache) = cache();
    fetched(&repo, &cache, &["*"]).unwrap();
    let tree = with_git(&repo, &cache, |git, watch| git.tree(&commit, 1000, watch)).unwrap();
    assert_eq!(tree.submodules(), ["sub"]);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    with_git(&repo, &cache, |git, watch| git.checkout(&commit, &out, &dir.path().join("index"), watch)).unwrap();
    assert_eq!(tree.lfs_pointers(&out), ["film.mp4"]);
}

#[test]
fn what_was_fetched_is_found_by_whoever_had_looked_before() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("a", "1");
    fetched(&repo, &cache, &["*"]).unwrap();
    let (main, all) = ("main".parse().unwrap(), patterns(&["*"]));
    let allowed = of_app(&all);
    with_git(&repo, &cache, |git, watch| {
        assert_eq!(git.resolve(&main, allowed, watch).unwrap().commit, first);
        let second = repo.commit("a", "2");
        assert_eq!(git.fetch(&main, allowed, watch).unwrap().refs, 1);
        assert_eq!(git.find(&main, allowed, watch).unwrap().commit, second);
    });
}

#[test]
fn what_lies_between_two_commits() {
    let repo = Repo::new();
    let (_dir, cache) = cache();
    let first = repo.commit("shop/migrations/0001.py", "1");
    repo.commit("requirements.txt", "Django");
    let third = repo.commit("shop/migrations/0001.py", "2");
    fetched(&repo, &cache, &["*"]).unwrap();
    with_git(&repo, &cache, |git, watch| {
        let commits = git.between(&first, &third, watch).unwrap();
        let (ahead, behind) = git.apart(&first, &third, watch).unwrap();
        assert_eq!((commits.len(), ahead, behind), (2, 2, 0));
        assert_eq!(commits[0].commit, third.as_str());
        assert_eq!(git.apart(&third, &first, watch).unwrap().1, 2);
        let changed = git.changed(&first, &third, watch).unwrap();
        assert!(changed.contains(&('M', "shop/migrations/0001.py".into())) && changed.contains(&('A', "requirements.txt".into())));
        assert_eq!(git.subject(&third, watch).unwrap(), "shop/migrations/0001.py");
        assert!(git.knows(&first, watch) && !git.knows(&"0".repeat(40).parse().unwrap(), watch));
    });
}
