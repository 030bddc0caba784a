//! Git, by its command line: by absolute path, argument vectors only, nobody's configuration, no hook, no helper, and `--` before data.
//!
//! The cache is bare. Allowed branches and tags of the remote are kept in it under their own names; what the remote no longer has is deleted there
//! first, so that a branch may take the place of a directory of branches. A request fetches the refs that it names, and no others ([`fetch`]).

mod allowed;
mod error;
mod fetch;
mod history;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;

use agent_model::names::{CommitId, RefName};

use crate::process::{Program, ProgramError, Watch, first_program};

pub(crate) use allowed::{Allowed, Whose};
pub(crate) use error::GitError;
pub(crate) use fetch::Fetched;
use fetch::LeftOut;
pub(crate) use history::Apart;
pub(crate) use tree::{Budget, Tree, TreeError};

/// Where an app's commits come from, and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `repository`: an https or ssh URL, `user@host:path`, or a path where `allow_local` says so.
    pub repository: Repository,
    /// `ssh_key`: the private key for ssh; without it, what ssh finds by itself.
    pub ssh_key: Option<PathBuf>,
    /// `known_hosts`: the host keys that are trusted; without it, ssh's own files.
    pub known_hosts: Option<PathBuf>,
}

/// Where the repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repository {
    /// `https://…`
    Https(String),
    /// `ssh://…` or `user@host:path`
    Ssh(String),
    /// A path on this host, which the configuration allows by name.
    Local(PathBuf),
}

impl Repository {
    fn url(&self) -> String {
        match self {
            Self::Https(url) | Self::Ssh(url) => url.clone(),
            Self::Local(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// A commit that a request named, and the ref that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The commit.
    pub commit: CommitId,
    /// The ref that was named, or the one of those that reach the commit by which it is known best ([`Allowed::rank`]).
    pub reference: RefName,
}

/// What stands in the configuration of the cache, and nothing else (git-config(1); the version is that of the format of a repository).
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";
const CONFIG_SHA256: &str =
    "[core]\n\trepositoryformatversion = 1\n\tfilemode = true\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n";

/// What the agent's git never makes in the cache, and what git would go by: attributes, histories that are cut or made up, another repository's
/// configuration and objects (gitrepository-layout(5)).
const NEVER_MADE: &[&str] = &["info", "shallow", "commondir", "config.worktree", "objects/info/alternates"];

/// A bare cache and the repository that it mirrors.
pub(crate) struct Git<'a> {
    settings: &'a Settings,
    cache: &'a Path,
    /// The refs of the cache, as long as nothing was changed in it.
    known_refs: RefCell<Option<Rc<Refs>>>,
    /// Once something was fetched: the refs that the cache has as the remote has them. What another ref reaches now is not known.
    fresh: RefCell<Option<BTreeSet<RefName>>>,
    /// The refs that the remote has and that could not be brought into the cache.
    left_out: RefCell<Vec<LeftOut>>,
}

/// Something that git is asked, and what for.
struct Question {
    act: &'static str,
    program: Program,
}

/// Refs, each with the object that it names and the kind of that.
type Refs = BTreeMap<RefName, (String, String)>;

impl<'a> Git<'a> {
    /// The cache at `cache`.
    pub(crate) fn new(settings: &'a Settings, cache: &'a Path) -> Self {
        Self { settings, cache, known_refs: RefCell::default(), fresh: RefCell::default(), left_out: RefCell::default() }
    }

    fn git(&self) -> Result<Program, GitError> {
        self.trust_cache()?;
        let program = find_in_path("git");
        // A server that is gone without a word is noticed before the step's time is over.
        let mut ssh = "ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout=60 -oServerAliveInterval=30 -oServerAliveCountMax=4"
            .to_owned();
        if let Some(key) = &self.settings.ssh_key {
            ssh += &format!(" -oIdentitiesOnly=yes -i {}", quoted(key));
        }
        if let Some(hosts) = &self.settings.known_hosts {
            ssh += &format!(" -oUserKnownHostsFile={}", quoted(hosts));
        }
        let protocols = match self.settings.repository {
            Repository::Https(_) => "https",
            Repository::Ssh(_) => "ssh",
            Repository::Local(_) => "file",
        };
        let config = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            // It says whose parent a commit is, and is believed.
            "core.commitGraph=false",
            "core.attributesFile=/dev/null",
            "core.protectNTFS=false",
            "core.autocrlf=false",
            "core.symlinks=true",
            "protocol.allow=never",
            "submodule.recurse=false",
            "fetch.fsckObjects=true",
            "transfer.bundleURI=false",
            "gc.auto=0",
            "maintenance.auto=false",
            "checkout.workers=4",
            "checkout.thresholdForParallelism=200",
            "credential.helper=",
            // As for ssh: not a byte in two minutes. A server that thinks says so every five seconds (uploadpack.keepAlive).
            "http.lowSpeedLimit=1",
            "http.lowSpeedTime=120",
        ];
        // Not every git's TLS library reads SSL_CERT_FILE; git's own variable is read by all.
        let certificates = ["GIT_SSL_CAINFO", "SSL_CERT_FILE"].into_iter().find_map(std::env::var_os);
        let program = Program::new(program)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_DEFAULT_REF_FORMAT", "files")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_SSH_COMMAND", ssh)
            .env("LC_ALL", "C.UTF-8")
            .inherit(|name| {
                matches!(name, "https_proxy" | "HTTPS_PROXY" | "all_proxy" | "ALL_PROXY" | "no_proxy" | "NO_PROXY" | "SSH_AUTH_SOCK")
            })
            .envs(certificates.map(|certificates| ("GIT_SSL_CAINFO", certificates)))
            .args(config.iter().flat_map(|setting| ["-c", setting]))
            .arg("--git-dir")
            .arg(self.cache)
            .unshown();
        Ok(program)
    }

    /// Looks at the cache before git does: it must be the agent's, and its configuration what the agent wrote. There git would find addresses that
    /// stand for others, filters and helpers, which no option can take back. Whatever else runs as the agent's user may have written there.
    fn trust_cache(&self) -> Result<(), GitError> {
        let unreadable = |source| GitError::Cache { path: self.cache.to_owned(), source };
        let owner = match std::fs::symlink_metadata(self.cache) {
            Ok(meta) => meta.uid(),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(unreadable(err)),
        };
        if owner != nix::unistd::geteuid().as_raw() {
            return Err(GitError::ForeignCache(self.cache.to_owned()));
        }
        for name in NEVER_MADE {
            let path = self.cache.join(name);
            let removed = match std::fs::symlink_metadata(&path) {
                Err(_) => continue,
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
                Ok(_) => std::fs::remove_file(&path),
            };
            removed.map_err(unreadable)?;
        }
        let file = self.cache.join("config");
        let found = match std::fs::read_to_string(&file) {
            Ok(found) => found,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(unreadable(err)),
        };
        let wanted = if found.contains("sha256") { CONFIG_SHA256 } else { CONFIG };
        if found != wanted {
            // Not in place: what is there may be a link.
            let new = self.cache.join("config.release-agent");
            std::fs::write(&new, wanted).and_then(|()| std::fs::rename(&new, &file)).map_err(unreadable)?;
        }
        Ok(())
    }

    fn ask(&self, act: &'static str, watch: &Watch<'_>, program: Program) -> Result<Vec<u8>, GitError> {
        program.capture(watch).map(|finished| finished.stdout).map_err(|source| GitError::program(act, source))
    }

    fn ask_text(&self, act: &'static str, watch: &Watch<'_>, program: Program) -> Result<String, GitError> {
        self.ask(act, watch, program).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Asks two things at once, of which neither changes anything. Only the first one's words are heard while it speaks.
    fn ask_both(&self, watch: &Watch<'_>, first: Question, second: Question) -> (Result<String, GitError>, Result<String, GitError>) {
        let Watch { marker, deadline, cancel, .. } = *watch;
        let act = second.act;
        let unasked = |source| GitError::Program { act, source: ProgramError::Start { program: "git".to_owned(), source } };
        thread::scope(|scope| {
            let second = thread::Builder::new().spawn_scoped(scope, move || {
                let watch = Watch { marker, deadline, cancel, lines: &|_, _| {} };
                second.program.capture(&watch).map(|told| told.text()).map_err(|source| GitError::program(act, source))
            });
            let first = self.ask_text(first.act, watch, first.program);
            let second = second
                .map_err(unasked)
                .and_then(|asked| asked.join().unwrap_or_else(|_| Err(unasked(io::Error::other("the thread that asked has ended early")))));
            (first, second)
        })
    }

    /// What the remote has: its branches and tags. Names that no ref may have here are passed over.
    pub(crate) fn remote_refs(&self, watch: &Watch<'_>) -> Result<BTreeMap<RefName, String>, GitError> {
        let Question { act, program } = self.asks_for_remote_refs()?;
        Ok(parse_refs(&self.ask_text(act, watch, program)?))
    }

    fn asks_for_remote_refs(&self) -> Result<Question, GitError> {
        // Without a repository of its own: the cache may not be there yet.
        let program = self.git()?.args(["ls-remote", "--heads", "--tags", "--refs", "--"]).arg(self.settings.repository.url());
        Ok(Question { act: "ask the repository for its refs", program })
    }

    /// What the remote has, and meanwhile what the cache has.
    fn refs_of_both(&self, watch: &Watch<'_>) -> Result<BTreeMap<RefName, String>, GitError> {
        if self.known_refs.borrow().is_some() || !self.cache.join("HEAD").exists() {
            return self.remote_refs(watch);
        }
        let (remote, cached) = self.ask_both(watch, self.asks_for_remote_refs()?, self.asks_for_refs()?);
        let remote = parse_refs(&remote?);
        self.known_refs.replace(Some(Rc::new(parse_known_refs(&cached?))));
        Ok(remote)
    }

    /// The refs in the cache, with the kind of what they name.
    fn refs(&self, watch: &Watch<'_>) -> Result<Rc<Refs>, GitError> {
        if let Some(known) = &*self.known_refs.borrow() {
            return Ok(known.clone());
        }
        let refs = Rc::new(self.read_refs(watch)?);
        self.known_refs.replace(Some(refs.clone()));
        Ok(refs)
    }

    fn read_refs(&self, watch: &Watch<'_>) -> Result<Refs, GitError> {
        if !self.cache.join("HEAD").exists() {
            return Ok(Refs::new());
        }
        let Question { act, program } = self.asks_for_refs()?;
        Ok(parse_known_refs(&self.ask_text(act, watch, program)?))
    }

    fn asks_for_refs(&self) -> Result<Question, GitError> {
        let program = self.git()?.args(["for-each-ref", "--format=%(objectname) %(objecttype) %(refname)", "refs/heads", "refs/tags"]);
        Ok(Question { act: "read the refs of the cache", program })
    }

    /// Reads every object of the cache, and tells the first thing that is wrong with it; nothing where there is no cache yet. Not `--connectivity-only`:
    /// that reads no file's contents, and it is contents that a release checks out.
    pub(crate) fn fsck(&self, watch: &Watch<'_>) -> Result<Option<String>, GitError> {
        if !self.cache.join("HEAD").exists() {
            return Ok(None);
        }
        match self.git()?.args(["fsck", "--full", "--no-dangling", "--no-progress"]).quiet().capture(watch) {
            Ok(_) => Ok(None),
            Err(source @ ProgramError::Failed { .. }) => {
                let first = source.tail().iter().find(|line| !line.starts_with("notice:") && !line.starts_with("warning"));
                Ok(Some(first.cloned().unwrap_or_else(|| source.to_string())))
            }
            Err(source) => Err(GitError::program("verify the cache", source)),
        }
    }

    /// What the tree of a commit holds, if those are no more than `most` files.
    pub(crate) fn tree(&self, commit: &CommitId, most: u64, watch: &Watch<'_>) -> Result<Tree, GitError> {
        let program = self.git()?.args(["ls-tree", "-r", "-z", "-l", "--full-tree", commit.as_str()]);
        let listing = program.capture_entries(most, watch).map_err(|source| match source {
            ProgramError::TooMuch(_) => GitError::Tree(TreeError::Endless { allowed: most }),
            source => GitError::program("list the tree", source),
        })?;
        let mut tree = Tree::parse(&listing.stdout).ok_or(GitError::Answer("list the tree"))?;
        let wanted = tree.blobs_to_read();
        if !wanted.is_empty() {
            let input: String = wanted.iter().map(|id| format!("{id}\n")).collect();
            let blobs = self.ask("read links of the tree", watch, self.git()?.args(["cat-file", "--batch"]).input(input.into_bytes()))?;
            tree.read_blobs(&blobs).ok_or(GitError::Answer("read links of the tree"))?;
        }
        Ok(tree)
    }

    /// Writes the tree of a commit into `dir`, which must be empty; `index` is a scratch file.
    pub(crate) fn checkout(&self, commit: &CommitId, dir: &Path, index: &Path, watch: &Watch<'_>) -> Result<(), GitError> {
        let program = self.git()?.env("GIT_INDEX_FILE", index).arg("--work-tree").arg(dir).dir(dir).args([
            "read-tree",
            "--reset",
            "-u",
            commit.as_str(),
        ]);
        program.run(watch).map_err(|source| GitError::program("write the tree", source))
    }
}

fn parse_known_refs(text: &str) -> Refs {
    let refs = text.lines().filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        let (id, kind, name) = (words.next()?, words.next()?, words.next()?);
        Some((name.parse().ok()?, (id.to_owned(), kind.to_owned())))
    });
    refs.collect()
}

fn parse_refs(text: &str) -> BTreeMap<RefName, String> {
    let refs = text.lines().filter_map(|line| line.split_once('\t'));
    refs.filter_map(|(id, name)| Some((name.parse().ok()?, id.to_owned()))).collect()
}

/// An absolute path for a program in the agent's PATH; the bare name when it is not there, so that starting it names it.
fn find_in_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    first_program(std::env::split_paths(&path).filter(|dir| dir.is_absolute()), Path::new(name)).unwrap_or_else(|| name.into())
}

/// A path as one word for the shell that git gives GIT_SSH_COMMAND to.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
