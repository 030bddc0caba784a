//! Bringing refs of the remote into the cache.
//!
//! A request fetches the refs that it needs and no others, so that a push to another branch can neither stop it nor take its time:
//!
//! - one that names a ref: that ref;
//! - one that names a whole commit: first the refs that the settings name, and all allowed ones only where none of those reaches it;
//! - any other: all allowed refs.
//!
//! git takes all refs of a fetch or none. Where it takes none, the refs are fetched in halves until each that cannot be had stands alone; those are left
//! out, each with its fault. What the cache has of them is of an earlier time, so that nothing is found by them ([`Git::find`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agent_model::grant::RefPattern;
use agent_model::names::{CommitId, RefName, Revision};
use agent_wire::event::Stream;

use super::history::names_of;
use super::{Allowed, Git, GitError, Refs};
use crate::process::{ProgramError, Watch};

/// So many fetches may fail before the rest of the refs is left out untried.
const MOST_FAILURES: u32 = 64;

/// What a fetch did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// So many refs came, moved or went.
    pub refs: usize,
    /// The refs that could not be brought up to date.
    pub left_out: Vec<LeftOut>,
}

/// A ref that could not be brought into the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The ref.
    pub reference: RefName,
    /// The object that the remote has there: its commit, or a tag of one.
    pub id: String,
    /// Why not.
    pub fault: Fault,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.id.chars().take(12).collect();
        write!(formatter, "{} ({short}): {}", self.reference, self.fault)
    }
}

/// Why a ref could not be brought into the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It reaches an object that is not as git wants them (git-fsck(1)).
    Malformed {
        /// The object.
        object: String,
        /// What is wrong with it, in git's words.
        what: String,
    },
    /// Its history is cut off: the remote is a shallow clone (git-clone(1), `--depth`).
    Shallow,
    /// What git said of it.
    Said(String),
    /// Too many others had failed before it.
    Untried,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { object, what } => write!(formatter, "the object {object} is malformed: {what}"),
            Self::Shallow => formatter.write_str("the repository is a shallow clone, which lacks a part of its history"),
            Self::Said(line) => formatter.write_str(line),
            Self::Untried => write!(formatter, "not fetched, for {MOST_FAILURES} fetches of other refs had failed"),
        }
    }
}

impl Fault {
    /// What the last lines of a git that failed say of the ref that it fetched. Nothing where they may as well speak of the connection.
    fn told_by(tail: &[String]) -> Option<Self> {
        // fsck.c: "object <id>: <message id>: <message>"
        let malformed = |line: &String| {
            let (_, rest) = line.split_once("error: object ").or_else(|| line.split_once("error: in tag "))?;
            let (object, what) = rest.split_once(": ")?;
            Some(Self::Malformed { object: object.to_owned(), what: what.to_owned() })
        };
        let of_the_ref = ["couldn't find remote ref", "did not send all necessary objects", "fsck error", "not our ref"];
        let said = |line: &&String| of_the_ref.iter().any(|part| line.contains(part));
        tail.iter().find_map(malformed).or_else(|| tail.iter().find(said).map(|line| Self::Said(line.clone())))
    }
}

/// Refs of the remote, each with the object that it names.
type Listing = BTreeMap<RefName, String>;

/// Bringing several refs into the cache, whatever one of them is like.
struct Bringing<'a> {
    of_app: &'a Listing,
    /// What the cache had.
    before: &'a Refs,
    failures: Cell<u32>,
    came: Cell<bool>,
    left_out: RefCell<Vec<LeftOut>>,
}

impl Git<'_> {
    /// Brings what a request needs into the cache, and forgets the refs that the remote no longer has.
    pub(crate) fn fetch(&self, revision: &Revision, allowed: Allowed<'_>, watch: &Watch<'_>) -> Result<Fetched, GitError> {
        let of_app = self.listing(allowed.app, watch)?;
        let gone = self.forget_gone(&of_app, watch)?;
        let named: BTreeSet<RefName> = names_of(revision).filter(|name| of_app.contains_key(name)).collect();
        let is_whole = revision.as_str().parse::<CommitId>().is_ok();
        if let Some(via) = allowed.via.filter(|via| of_app.contains_key(via)) {
            return self.bring(BTreeSet::from([via.clone()]), &of_app, watch).map(|fetched| fetched.and(gone));
        }
        if is_whole {
            let first: BTreeSet<RefName> = of_app.keys().filter(|name| allowed.names(name) && allowed.allows(name)).cloned().collect();
            let fetched = self.bring(first, &of_app, watch)?;
            if self.resolve(revision, allowed, watch).is_ok_and(|found| allowed.names(&found.reference)) {
                return Ok(fetched.and(gone));
            }
            let rest = self.bring(of_app.keys().cloned().collect(), &of_app, watch)?;
            return Ok(rest.and(fetched.refs + gone));
        }
        // What may be the beginning of a commit can be ambiguous, and a ref that is not allowed may be reached by one that is.
        let is_enough = revision.as_commit_prefix().is_none() && !named.is_empty() && named.iter().all(|name| allowed.allows(name));
        let needed = if is_enough { named } else { of_app.keys().cloned().collect() };
        self.bring(needed, &of_app, watch).map(|fetched| fetched.and(gone))
    }

    /// Brings all refs that these patterns fit into the cache.
    pub(crate) fn fetch_all(&self, patterns: &[RefPattern], watch: &Watch<'_>) -> Result<Fetched, GitError> {
        let of_app = self.listing(patterns, watch)?;
        let gone = self.forget_gone(&of_app, watch)?;
        self.bring(of_app.keys().cloned().collect(), &of_app, watch).map(|fetched| fetched.and(gone))
    }

    /// The refs of the remote that these patterns fit. There is a cache afterwards.
    fn listing(&self, patterns: &[RefPattern], watch: &Watch<'_>) -> Result<Listing, GitError> {
        let remote = self.refs_of_both(watch)?;
        if remote.is_empty() {
            return Err(GitError::Empty(self.settings.repository.url()));
        }
        self.make_cache(&remote, watch)?;
        Ok(remote.into_iter().filter(|(reference, _)| patterns.iter().any(|pattern| pattern.fits_ref(reference))).collect())
    }

    /// Forgets the refs that the remote no longer has, and counts them.
    fn forget_gone(&self, of_app: &Listing, watch: &Watch<'_>) -> Result<usize, GitError> {
        let cached = self.refs(watch)?;
        let gone: Vec<&RefName> = cached.keys().filter(|reference| !of_app.contains_key(reference)).collect();
        if !gone.is_empty() {
            let deletes: String = gone.iter().map(|reference| format!("delete {reference}\n")).collect();
            self.ask("forget refs that are gone", watch, self.git()?.args(["update-ref", "--stdin"]).input(deletes.into_bytes()))?;
            self.known_refs.replace(None);
        }
        Ok(gone.len())
    }

    /// Brings these refs into the cache. A failure when none of them could be had.
    fn bring(&self, needed: BTreeSet<RefName>, of_app: &Listing, watch: &Watch<'_>) -> Result<Fetched, GitError> {
        let cached = self.refs(watch)?;
        let has = |reference: &RefName| cached.get(reference).map(|(id, _)| id) == of_app.get(reference);
        let moved: Vec<&RefName> = needed.iter().filter(|reference| !has(reference)).collect();
        let came = Cell::new(moved.len() < needed.len());
        let bringing = Bringing { of_app, before: &cached, failures: Cell::new(0), came, left_out: RefCell::default() };
        if !moved.is_empty() {
            self.bring_each(&moved, &bringing, watch)?;
        }
        let left_out = bringing.left_out.into_inner();
        let is_left_out = |reference: &RefName| left_out.iter().any(|left| left.reference == *reference);
        let came: BTreeSet<RefName> = moved.iter().copied().filter(|reference| !is_left_out(reference)).cloned().collect();
        let refs = came.len();
        let as_remote = of_app.keys().filter(|reference| has(reference)).cloned();
        self.fresh.replace(Some(as_remote.chain(came).collect()));
        self.left_out.replace(left_out.clone());
        Ok(Fetched { refs, left_out })
    }

    fn bring_each(&self, refs: &[&RefName], bringing: &Bringing<'_>, watch: &Watch<'_>) -> Result<(), GitError> {
        if bringing.failures.get() >= MOST_FAILURES {
            refs.iter().for_each(|reference| bringing.leave_out(reference, Fault::Untried));
            return Ok(());
        }
        let rejected = RefCell::new(BTreeSet::new());
        let lines = |stream: Stream, line: &str| {
            rejected.borrow_mut().extend(rejected_as_shallow(line));
            (watch.lines)(stream, line);
        };
        let refspecs: String = refs.iter().map(|reference| format!("+{reference}:{reference}\n")).collect();
        let program = self
            .git()?
            .args(["fetch", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-progress", "--stdin", "--"])
            .arg(self.settings.repository.url())
            .input(refspecs.into_bytes());
        let fetched = program.run(&Watch { lines: &lines, ..*watch });
        self.known_refs.replace(None);
        match fetched {
            // git ends well when it has taken none of a shallow clone's refs: what came is asked of the cache.
            Ok(()) => {
                let (now, rejected) = (self.refs(watch)?, rejected.into_inner());
                let is_there = |reference: &RefName| now.contains_key(reference) && now.get(reference) != bringing.before.get(reference);
                for reference in refs {
                    match (is_there(reference), rejected.contains(*reference)) {
                        (true, _) => bringing.came.set(true),
                        (false, true) => bringing.leave_out(reference, Fault::Shallow),
                        (false, false) => {
                            bringing.leave_out(reference, Fault::Said("git has not brought it, and does not say why".to_owned()))
                        }
                    }
                }
                Ok(())
            }
            Err(ProgramError::Failed { .. }) if refs.len() > 1 => {
                bringing.failures.set(bringing.failures.get() + 1);
                self.remove_half_packs();
                let (some, others) = refs.split_at(refs.len() / 2);
                self.bring_each(some, bringing, watch)?;
                self.bring_each(others, bringing, watch)
            }
            Err(source @ ProgramError::Failed { .. }) => {
                bringing.failures.set(bringing.failures.get() + 1);
                self.remove_half_packs();
                let told = Fault::told_by(source.tail());
                // Nothing has come yet, and it may be the connection: the next ref would wait for the same.
                if told.is_none() && !bringing.came.get() {
                    return Err(GitError::program("fetch from the repository", source));
                }
                let said = told.unwrap_or_else(|| Fault::Said(source.tail().last().cloned().unwrap_or_else(|| source.to_string())));
                refs.iter().for_each(|reference| bringing.leave_out(reference, said.clone()));
                Ok(())
            }
            Err(source) => Err(GitError::program("fetch from the repository", source)),
        }
    }

    fn make_cache(&self, remote: &Listing, watch: &Watch<'_>) -> Result<(), GitError> {
        if self.cache.join("HEAD").exists() {
            self.remove_stale_locks();
            self.remove_half_packs();
            return Ok(());
        }
        let format = if remote.values().any(|id| id.len() == 64) { "sha256" } else { "sha1" };
        let program = self.git()?.args(["init", "--quiet", "--bare", "--template="]).arg(format!("--object-format={format}"));
        program.run(watch).map_err(|source| GitError::program("make the cache", source))
    }

    /// Locks in the cache are left by a git that was killed: the app's lock is ours, so no other git of ours is at work.
    fn remove_stale_locks(&self) {
        let mut dirs = vec![self.cache.to_owned(), self.cache.join("refs/heads"), self.cache.join("refs/tags")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_dir && dir.starts_with(self.cache.join("refs")) {
                    dirs.push(path);
                } else if !is_dir && path.extension().is_some_and(|ending| ending == "lock") {
                    // git itself tells when it is still in the way.
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }

    /// Packs that were cut off in their middle stay, each as large as what had come, and nobody else removes them: `gc.auto` is off.
    fn remove_half_packs(&self) {
        for entry in std::fs::read_dir(self.cache.join("objects/pack")).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"tmp_") {
                // It is in nobody's way but the disk's.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Fetched {
    /// With refs that came or went beside them.
    fn and(self, more: usize) -> Self {
        Self { refs: self.refs + more, ..self }
    }
}

impl Bringing<'_> {
    fn leave_out(&self, reference: &RefName, fault: Fault) {
        let id = self.of_app.get(reference).cloned().unwrap_or_default();
        self.left_out.borrow_mut().push(LeftOut { reference: reference.clone(), id, fault });
    }
}

/// The ref that git says it did not take because its history is cut off (builtin/fetch.c).
fn rejected_as_shallow(line: &str) -> Option<RefName> {
    let (_, rest) = line.split_once("rejected ")?;
    rest.split_once(" because shallow roots").and_then(|(name, _)| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_of_a_ref_is_told_apart_from_what_it_says_of_the_connection() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let bad = "error: object 69cf6f7932d61c594972279a8c904fdcc3a33f1b: missingEmail: invalid author/committer line - missing email\n\
                   fatal: fsck error in packed object\nfatal: index-pack failed";
        let fault = Fault::told_by(&lines(bad)).unwrap();
        assert_eq!(
            fault.to_string(),
            "the object 69cf6f7932d61c594972279a8c904fdcc3a33f1b is malformed: missingEmail: invalid author/committer line - missing email"
        );
        let gone = Fault::told_by(&lines("fatal: couldn't find remote ref refs/heads/gone"));
        assert_eq!(gone, Some(Fault::Said("fatal: couldn't find remote ref refs/heads/gone".to_owned())));
        assert_eq!(Fault::told_by(&lines("fatal: unable to access 'https://x.test/': Could not resolve host: x.test")), None);
    }

    #[test]
    fn a_ref_that_is_not_taken_from_a_shallow_clone_is_known_by_gits_words() {
        let line = "warning: rejected refs/heads/main because shallow roots are not allowed to be updated";
        assert_eq!(rejected_as_shallow(line), Some("refs/heads/main".parse().unwrap()));
        assert_eq!(rejected_as_shallow(" ! [rejected] main -> main (non-fast-forward)"), None);
    }
}
