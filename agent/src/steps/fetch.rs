//! `fetch`: brings the allowed refs into the cache, finds the commit, and gives the release its name.

use std::time::Duration;

use agent_model::grant::Back;
use agent_model::names::Revision;
use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;
use chrono::Utc;
use nix::unistd::geteuid;

use super::ready::{self, Fatal, Unready};
use super::words::counted;
use super::{Brief, Depth, Did, Failure, Health, NOTHING_LEFT, Step, StepContext, Target, health_of, in_a_release};
use crate::git::{Apart, Fetched, Git, GitError, Resolved};
use crate::process::Watch;
use crate::settings::ExecutorKind;
use crate::work::chain;

/// How often the agent tries to lock the cache.
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Fetch;

impl Step for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        in_a_release(brief)
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let (app, root, former) = (cx.run.app, cx.run.root, cx.found.former.clone());
        std::thread::scope(|scope| {
            // A problem that existed before the run is reported as such, and not blamed on the release.
            let asked =
                scope.spawn(move || (former.map(|former| health_of(app, root, &former, Depth::web_within(TO_ANSWER))), ready::checks(app)));
            let fetched = fetch(cx);
            let (health, addresses) = asked.join().unwrap_or_default();
            cx.found.answered_before = health.as_ref().and_then(Health::answers);
            if let Some(fault) = health.and_then(Health::fault) {
                cx.warn(format!("the live release does not answer, before anything was done: {fault}"));
            }
            let did = fetched?;
            tell_what_is_not_ready(cx, addresses)?;
            Ok(did)
        })
    }
}

/// How long the live release may take to answer.
const TO_ANSWER: Duration = Duration::from_secs(2);

/// A problem that no release can fix fails this one before anything is built for it.
fn tell_what_is_not_ready(cx: &StepContext<'_>, addresses: Vec<Unready>) -> Result<(), Failure> {
    let shared = match cx.run.app.executor {
        ExecutorKind::Direct => ready::shared(cx.run.app, cx.run.root, geteuid()),
        ExecutorKind::Units => Vec::new(),
    };
    for unready in ready::git(cx.run.app).into_iter().chain(ready::secrets(cx.run.app)).chain(shared).chain(addresses) {
        if unready.fatal == Fatal::Yes && (unready.what == "git" || cx.run.act.makes_live()) {
            return Err(Failure::new(unready.text).with_hint(unready.hint));
        }
        cx.warn(format!("{}: {}", unready.text, unready.hint));
    }
    Ok(())
}

fn fetch(cx: &mut StepContext<'_>) -> Result<Did, Failure> {
    let (Act::Release { revision, .. } | Act::Stage { revision, .. }) = cx.run.act else {
        return Ok(Did::Nothing("nothing is to be fetched".to_owned()));
    };
    // Before anything is made that could not be taken back.
    cx.run.root.check()?;
    // A plan may be at it, and its repository may have fallen silent: neither a cancel nor this step's time waits for that.
    let _cache = cx.watched(|watch| cx.run.root.hold_cache(&|| watch.pause(POLL)))?;
    // Whoever may go back anyway may release what is in the cache while the repository is out of reach.
    let may_be_known = *cx.run.back == Back::Always;
    let (did, resolved, subject, apart) = cx.git(|git, watch| {
        // The repository is asked even when the commit is cached: its branch may have dropped it since.
        let (did, resolved) = match git.fetch(revision, cx.allowed(), watch) {
            Ok(did) => found(cx, git, revision, &did, watch)?,
            Err(err) => match may_be_known.then(|| git.has(revision, cx.allowed(), watch)).flatten() {
                Some(resolved) => {
                    cx.warn(format!("the repository cannot be asked whether a ref still reaches the commit: {}", chain(&err)));
                    (Did::Nothing("the commit is in the cache".to_owned()), resolved)
                }
                None => return Err(err),
            },
        };
        let (subject, apart) = match cx.former_commit() {
            Some(live) => {
                let (subject, mut apart) = git.subject_and_apart(live, &resolved.commit, watch)?;
                // Only the requested ref was fetched, and the live commit may be reached by another ref.
                if apart.is_err() && !git.knows(live, watch) {
                    git.fetch_all(&cx.run.app.refs, watch)?;
                    apart = git.apart(live, &resolved.commit, watch);
                }
                (subject, Some(apart))
            }
            None => (git.subject(&resolved.commit, watch)?, None),
        };
        Ok::<_, GitError>((did, resolved, subject, apart))
    })?;
    let release = cx.run.root.new_name(&resolved.commit, Utc::now());
    let target = Target { release, commit: resolved.commit, reference: Some(resolved.reference), subject: Some(subject) };
    cx.scope.events.resolved(&target)?;
    warn_of_going_back(cx, &target, apart)?;
    cx.found.target = Some(target);
    Ok(did)
}

/// How many of the refs that could not be fetched are named.
const MOST_NAMED: usize = 3;

/// The requested commit, after a fetch of the needed refs. Warns of other refs that could not be fetched.
fn found(
    cx: &StepContext<'_>,
    git: &Git<'_>,
    revision: &Revision,
    fetched: &Fetched,
    watch: &Watch<'_>,
) -> Result<(Did, Resolved), GitError> {
    let did = match fetched.refs {
        0 => Did::Nothing("the cache was up to date".to_owned()),
        count => {
            cx.note(format!("{} brought up to date", counted(count as u64, "ref")));
            Did::It
        }
    };
    let found = git.find(revision, cx.allowed(), watch);
    if !matches!(found, Err(GitError::LeftOut(_))) {
        fetched.left_out.iter().take(MOST_NAMED).for_each(|left| cx.warn(format!("cannot fetch {left}")));
        if let Some(more) = fetched.left_out.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            cx.warn(format!("cannot fetch {} more", counted(more as u64, "ref")));
        }
    }
    found.map(|resolved| (did, resolved))
}

/// A commit that does not descend from the live one removes changes. A caller without the right is refused; one with it gets a warning.
fn warn_of_going_back(cx: &StepContext<'_>, target: &Target, apart: Option<Apart>) -> Result<(), Failure> {
    let Some(former) = cx.found.former.as_ref() else { return Ok(()) };
    let may = target.reference.as_ref().is_some_and(|reference| cx.run.back.allows(reference));
    let (Some(live), Some(apart)) = (cx.former_commit(), apart) else {
        // There is no live commit to compare with.
        let told = format!("the manifest of the live release {former} cannot be read, so nothing can be said to descend from it");
        return if may { Ok(()) } else { Err(Failure::new(told).with_hint(MAY_GO_BACK)) };
    };
    let (ahead, behind) = match apart {
        Ok(counts) => counts,
        Err(err) if cx.git(|git, watch| git.knows(live, watch)) => return Err(err.into()),
        // The histories cannot be compared.
        Err(_) if may => return Ok(()),
        Err(_) => {
            let short = live.short();
            let told = format!("the live commit {short} is gone from the repository, so nothing can be said to descend from it");
            return Err(Failure::new(told).with_hint(MAY_GO_BACK));
        }
    };
    if behind == 0 {
        return Ok(());
    }
    let how = if ahead == 0 { "is older than" } else { "does not descend from" };
    let told = format!("the commit {how} the live one: {} of the live release not in it", counted(behind, "commit"));
    if !may {
        return Err(Failure::new(format!("{told}, and {} may not go back", cx.run.caller)).with_hint(MAY_GO_BACK));
    }
    cx.warn(told);
    Ok(())
}

const MAY_GO_BACK: &str =
    "agentctl rollback goes back to a release that is there; a grant with `downgrade = true` allows releases that go back";
