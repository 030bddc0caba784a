//! Commits: found by what names them, and how they stand to each other.

use agent_model::names::{CommitId, RefName, Revision};
use agent_wire::view::Commit;

use super::{Allowed, Git, GitError, Question, Refs, Resolved};
use crate::process::{ProgramError, Watch};

/// How many commits one of two has that the other has not, and the other way round.
pub(crate) type Apart = Result<(u64, u64), GitError>;

const COUNT: &str = "count the commits";

fn parse_counts(text: &str) -> Apart {
    let counts: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [behind, ahead] = *counts.as_slice() else { return Err(GitError::Answer(COUNT)) };
    Ok((ahead, behind))
}

/// So many hexadecimal digits are taken for those of a commit: git itself shows seven at the least.
const FEWEST_DIGITS: usize = 7;

/// So many refs may have a history that cannot be read before no further one is asked.
const MOST_UNREAD: usize = 10;

/// The refs that a revision may name. A whole object name is that object, whatever a branch is called: only a full name means such a branch.
pub(super) fn names_of(revision: &Revision) -> impl Iterator<Item = RefName> {
    let prefixes: &[&str] = if revision.as_str().parse::<CommitId>().is_ok() { &[] } else { &["", "refs/heads/", "refs/tags/"] };
    prefixes.iter().filter_map(move |prefix| format!("{prefix}{revision}").parse().ok())
}

fn unknown(revision: &Revision, refs: &Refs) -> GitError {
    let wanted = revision.as_str().rsplit("refs/heads/").next().unwrap_or_default();
    let mut near: Vec<(f64, String)> =
        refs.keys().map(|reference| (strsim::jaro_winkler(wanted, reference.short()), reference.short().to_owned())).collect();
    // The digits of a commit are like no name of a branch; what begins with them may be meant.
    if wanted.len() >= FEWEST_DIGITS && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        near.retain(|(_, name)| name.starts_with(wanted));
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let nearest = near.into_iter().filter(|(likeness, _)| *likeness > 0.6).map(|(_, name)| name).take(5).collect();
    GitError::Unknown { revision: revision.clone(), nearest }
}

impl Git<'_> {
    /// The commit of a whole id that the cache has, and that an allowed ref reaches as it was when it was fetched last.
    pub(crate) fn has(&self, revision: &Revision, allowed: Allowed<'_>, watch: &Watch<'_>) -> Option<Resolved> {
        let whole = revision.as_str().parse::<CommitId>();
        self.fresh.replace(None);
        (whole.is_ok() && self.cache.join("HEAD").exists()).then(|| self.resolve(revision, allowed, watch).ok()).flatten()
    }

    /// Finds the commit that a revision names, in a cache that was just fetched into. A ref that is not allowed was not fetched, and one that could not
    /// be had is of an earlier time: whoever names such a one is told so, and not that there is none.
    pub(crate) fn find(&self, revision: &Revision, allowed: Allowed<'_>, watch: &Watch<'_>) -> Result<Resolved, GitError> {
        self.resolve(revision, allowed, watch).map_err(|err| {
            if !matches!(err, GitError::Unknown { .. } | GitError::NotAllowed { .. } | GitError::Torn { .. }) {
                return err;
            }
            let names: Vec<RefName> = allowed.via.cloned().into_iter().chain(names_of(revision)).collect();
            if let Some(left) = self.left_out.borrow().iter().find(|left| names.contains(&left.reference)) {
                return GitError::LeftOut(left.clone());
            }
            if !matches!(err, GitError::Unknown { .. }) {
                return err;
            }
            // When the remote cannot be asked again, the first answer stands.
            let remote = self.remote_refs(watch).unwrap_or_default();
            match names.into_iter().find(|name| remote.contains_key(name)) {
                Some(reference) => GitError::RefNotAllowed { reference, whose: allowed.whose(), allowed: allowed.words() },
                None => err,
            }
        })
    }

    /// Whether a ref of the cache may be gone by: once something was fetched, only one that is as the remote has it.
    fn is_fresh(&self, reference: &RefName) -> bool {
        self.fresh.borrow().as_ref().is_none_or(|fresh| fresh.contains(reference))
    }

    /// Finds the commit that a revision names, among what the allowed refs reach.
    pub(crate) fn resolve(&self, revision: &Revision, allowed: Allowed<'_>, watch: &Watch<'_>) -> Result<Resolved, GitError> {
        let refs = self.refs(watch)?;
        let mut candidates: Vec<(String, CommitId, Option<RefName>)> = Vec::new();
        for reference in names_of(revision).filter(|name| refs.contains_key(name) && self.is_fresh(name)) {
            let commit = match refs.get(&reference) {
                Some((id, kind)) if kind == "commit" => id.parse().ok(),
                // A tag with a message names what it tags.
                _ => self.peel(reference.as_str(), watch)?,
            };
            let commit = commit.ok_or_else(|| GitError::NotACommit(reference.to_string()))?;
            candidates.push((reference.to_string(), commit, Some(reference)));
        }
        if let Some(prefix) = revision.as_commit_prefix() {
            for commit in self.commits_beginning(prefix, watch)? {
                candidates.push((format!("commit {commit}"), commit, None));
            }
        }
        let mut commits: Vec<&CommitId> = candidates.iter().map(|(_, commit, _)| commit).collect();
        commits.sort();
        commits.dedup();
        match commits.len() {
            0 => Err(unknown(revision, &refs)),
            1 => {
                let commit = candidates[0].1.clone();
                // What was named and is allowed goes before whatever else reaches the commit.
                let named = candidates.into_iter().filter_map(|(_, _, reference)| reference).find(|reference| allowed.allows(reference));
                let reference = match named {
                    Some(reference) => reference,
                    None => self.reaching(&commit, allowed, watch)?,
                };
                Ok(Resolved { commit, reference })
            }
            _ => Err(GitError::Ambiguous {
                revision: revision.clone(),
                candidates: candidates.into_iter().map(|(told, _, _)| told).collect(),
            }),
        }
    }

    fn peel(&self, name: &str, watch: &Watch<'_>) -> Result<Option<CommitId>, GitError> {
        let program =
            self.git()?.args(["cat-file", "--batch-check=%(objecttype) %(objectname)"]).input(format!("{name}^{{commit}}\n").into_bytes());
        let text = self.ask_text("look up a commit", watch, program)?;
        Ok(text.trim().strip_prefix("commit ").and_then(|id| id.parse().ok()))
    }

    fn commits_beginning(&self, prefix: &str, watch: &Watch<'_>) -> Result<Vec<CommitId>, GitError> {
        if !self.cache.join("HEAD").exists() {
            return Ok(Vec::new());
        }
        let found = match prefix.parse::<CommitId>() {
            Ok(whole) => format!("{whole}\n"),
            Err(_) => self.ask_text("look up a commit", watch, self.git()?.args(["rev-parse", &format!("--disambiguate={prefix}")]))?,
        };
        let program = self.git()?.args(["cat-file", "--batch-check=%(objecttype) %(objectname)"]).input(found.into_bytes());
        let text = self.ask_text("look up a commit", watch, program)?;
        let commits = text.lines().filter_map(|line| line.strip_prefix("commit ")?.parse::<CommitId>().ok());
        // git takes the first 40 digits of more for a whole id, and passes over the rest.
        Ok(commits.filter(|commit| commit.as_str().starts_with(prefix)).collect())
    }

    /// The ref by which a commit is released that was named by itself. What git lists is what may reach it: a ref is listed, too, whose history git
    /// cannot read (ref-filter.c takes an error for a yes). So each is asked on its own, and an error is a no.
    fn reaching(&self, commit: &CommitId, allowed: Allowed<'_>, watch: &Watch<'_>) -> Result<RefName, GitError> {
        const ACT: &str = "ask which refs reach the commit";
        let program = self.git()?.args(["for-each-ref", "--format=%(refname)", "--contains", commit.as_str(), "refs/heads", "refs/tags"]);
        let text = self.ask_text(ACT, watch, program.quiet())?;
        let listed = text.lines().filter_map(|line| line.parse::<RefName>().ok());
        let mut listed: Vec<RefName> = listed.filter(|reference| allowed.allows(reference) && self.is_fresh(reference)).collect();
        listed.sort_by(|one, other| allowed.rank(one).cmp(&allowed.rank(other)));
        let mut unread = Vec::new();
        for reference in listed {
            match self.git()?.args(["merge-base", "--is-ancestor", commit.as_str(), reference.as_str()]).quiet().run(watch) {
                Ok(()) => return Ok(reference),
                // git-merge-base(1): "with status 1 if not. Errors are signaled by a non-zero status that is not 1."
                Err(ProgramError::Failed { status, .. }) if status.code() == Some(1) => {}
                Err(ProgramError::Failed { .. }) if unread.len() < MOST_UNREAD => unread.push(reference),
                Err(source) => return Err(GitError::program(ACT, source)),
            }
        }
        let what = format!("the commit {}", commit.short());
        match unread.into_iter().next() {
            Some(reference) => Err(GitError::Torn { what, reference }),
            None => Err(GitError::NotAllowed { what, whose: allowed.whose(), allowed: allowed.words() }),
        }
    }

    /// The first line of a commit's message.
    pub(crate) fn subject(&self, commit: &CommitId, watch: &Watch<'_>) -> Result<String, GitError> {
        let Question { act, program } = self.asks_for_subject(commit)?;
        Ok(self.ask_text(act, watch, program)?.trim().to_owned())
    }

    fn asks_for_subject(&self, commit: &CommitId) -> Result<Question, GitError> {
        let program = self.git()?.args(["log", "-1", "--format=%s", commit.as_str(), "--"]);
        Ok(Question { act: "read the commit", program })
    }

    /// The same, and meanwhile how far another commit is apart from it, as [`Git::apart`] has it.
    pub(crate) fn subject_and_apart(&self, from: &CommitId, commit: &CommitId, watch: &Watch<'_>) -> Result<(String, Apart), GitError> {
        let (subject, counts) = self.ask_both(watch, self.asks_for_subject(commit)?, self.asks_how_far(from, commit)?);
        Ok((subject?.trim().to_owned(), counts.and_then(|counts| parse_counts(&counts))))
    }

    /// The commits that `to` has and `from` has not, newest first, at most 50.
    pub(crate) fn between(&self, from: &CommitId, to: &CommitId, watch: &Watch<'_>) -> Result<Vec<Commit>, GitError> {
        let range = format!("{from}..{to}");
        let log = self.git()?.args(["log", "-50", "-z", "--format=%H%x1f%an%x1f%s", &range, "--"]);
        let text = self.ask_text("read the commits", watch, log)?;
        let commits = text.split('\0').filter_map(|entry| {
            let mut parts = entry.trim_start().splitn(3, '\x1f').map(str::to_owned);
            Some(Commit { commit: parts.next().filter(|id| !id.is_empty())?, author: parts.next()?, subject: parts.next()? })
        });
        Ok(commits.collect())
    }

    /// How many commits `to` has that `from` has not, and how many `from` has that `to` has not.
    pub(crate) fn apart(&self, from: &CommitId, to: &CommitId, watch: &Watch<'_>) -> Apart {
        let Question { act, program } = self.asks_how_far(from, to)?;
        parse_counts(&self.ask_text(act, watch, program)?)
    }

    fn asks_how_far(&self, from: &CommitId, to: &CommitId) -> Result<Question, GitError> {
        let program = self.git()?.args(["rev-list", "--count", "--left-right", &format!("{from}...{to}"), "--"]);
        Ok(Question { act: COUNT, program })
    }

    /// The paths that differ between two commits, each with git's letter for how.
    pub(crate) fn changed(&self, from: &CommitId, to: &CommitId, watch: &Watch<'_>) -> Result<Vec<(char, String)>, GitError> {
        let program = self.git()?.args(["diff", "--name-status", "-z", "--no-renames", from.as_str(), to.as_str(), "--"]);
        let text = self.ask_text("compare the commits", watch, program)?;
        let mut parts = text.split('\0');
        let mut changed = Vec::new();
        while let (Some(status), Some(path)) = (parts.next(), parts.next()) {
            changed.extend(status.chars().next().map(|letter| (letter, path.to_owned())));
        }
        Ok(changed)
    }

    /// Whether two commits differ within these patterns of paths (gitglossary(7), `glob`).
    pub(crate) fn differs_within(&self, from: &CommitId, to: &CommitId, patterns: &[String], watch: &Watch<'_>) -> Result<bool, GitError> {
        let program = self.git()?.args(["diff", "--name-only", "-z", "--no-renames", from.as_str(), to.as_str(), "--"]);
        let program = program.args(patterns.iter().map(|pattern| format!(":(top,glob){pattern}")));
        Ok(!self.ask_text("compare the commits", watch, program)?.is_empty())
    }

    /// Whether the cache knows a commit.
    pub(crate) fn knows(&self, commit: &CommitId, watch: &Watch<'_>) -> bool {
        self.cache.join("HEAD").exists() && matches!(self.peel(commit.as_str(), watch), Ok(Some(_)))
    }
}
