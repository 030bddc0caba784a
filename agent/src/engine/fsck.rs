//! `fsck`: compares an app's root with its manifests and the journal, and reports each mismatch. It changes nothing; a run of the act `mend` removes
//! everything that may go without a question.
//!
//! A run may be active, and another may begin at any moment. fsck leaves out the files of such a run: the files that it makes are incomplete, and
//! those that it removes are about to go. Sealed files never change, so fsck can read them at any time.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_model::names::RunId;
use agent_wire::event::Stream;
use agent_wire::view::{Fsck, Level};

use super::journal::Checked;
use super::{AppEngine, NotTaken};
use crate::database;
use crate::database::DatabaseError;
use crate::git::Git;
use crate::process::{Cancel, Watch};
use crate::restart::handover;
use crate::root::{Around, FsckReport, Leftover, RootError};
use crate::work::{InUse, chain};

/// How long one program may take: a repository or a dump may be large.
const LIMIT: Duration = Duration::from_secs(3600);
/// How often fsck tries to find a moment between two runs.
const MOST_TRIES: usize = 5;

/// The state of an app's runs, to tell whether a run came between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pulse {
    /// The run that the app's thread carries out.
    current: Option<RunId>,
    /// The run that has begun and not ended in the journal.
    begun: Option<RunId>,
    /// The run that ended last.
    ended: Option<u64>,
}

impl AppEngine {
    /// All mismatches. Ends early when `cancel` asks for it; then nobody reads the result.
    pub(crate) fn fsck(&self, cancel: &Cancel) -> Result<Fsck, NotTaken> {
        let go_on = || !cancel.asked();
        let lines = |_: Stream, line: &str| tracing::debug!("{line}");
        let marker = format!("{}:fsck", self.journal.id());
        let watch = || Watch { marker: &marker, deadline: Instant::now() + LIMIT, cancel, lines: &lines };
        let (run, checked, mut report) = self.between_runs(&go_on)?;
        self.tell_journal(&checked, run, &mut report);
        self.verify_lock(&mut report);
        self.root.verify_names(&mut report);
        // An unreadable directory is a finding like any other, and the other checks go on.
        let verified = self.root.verify_releases(self.name.as_str(), &go_on, &mut report);
        tell_of(verified, &mut report);
        let verified = self.root.verify_environments(&go_on, &mut report);
        tell_of(verified, &mut report);
        self.verify_backups(&go_on, watch, &mut report)?;
        if run.is_none() {
            self.verify_cache(&watch(), &mut report);
        }
        self.tell_unended(&checked, &mut report);
        let FsckReport { verified, mut findings } = report;
        findings.sort_by_key(|finding| finding.level);
        Ok(Fsck { app: self.name.to_string(), run: run.map(|run| run.0), verified, findings })
    }

    fn pulse(&self) -> Result<Pulse, NotTaken> {
        let current = self.current.lock().as_ref().map(|(run, _)| *run);
        let begun = self.journal.standing(&self.name)?.running;
        // A run whose end is in the journal changes nothing more, even if the thread still holds it.
        let current = current.filter(|current| begun == Some(*current));
        Ok(Pulse { current, begun, ended: self.journal.last_ended(&self.name)?.map(|run| run.run) })
    }

    /// Reads the parts that a run changes between two runs, or leaves them out. Returns the run because of which they were left out.
    fn between_runs(&self, go_on: &dyn Fn() -> bool) -> Result<(Option<RunId>, Checked, FsckReport), NotTaken> {
        let mut last = None;
        for _ in 0..MOST_TRIES {
            let pulse = self.pulse();
            let mut report = FsckReport::default();
            let checked = self.journal.check(&self.name, go_on);
            let pulse = match pulse {
                Ok(pulse) => pulse,
                // A damaged journal does not show which run is active. The report contains the damage, and the parts that depend on no run.
                Err(_) if !checked.flaws.is_empty() => return Ok((None, checked, report)),
                Err(err) => return Err(err),
            };
            let served: Vec<_> = checked.served.keys().cloned().collect();
            // A run without a thread is in the way of no one.
            let Some(run) = pulse.current else {
                let app = self.settings();
                let in_use = InUse::of(&app, &self.root);
                let in_use = |dir: &Path| in_use.has(dir);
                let around = Around { served: &served, in_use: &in_use, instance: &handover::recorded };
                let left = self.root.leftovers(&around, &mut report).unwrap_or_else(|err| {
                    tell_of(Err(err), &mut report);
                    Vec::new()
                });
                self.root.verify_link(checked.last.as_ref(), &mut report);
                if self.pulse()? == pulse {
                    report.findings.extend(left.iter().map(Leftover::finding));
                    return Ok((None, checked, report));
                }
                last = pulse.begun.or(pulse.ended.map(RunId));
                continue;
            };
            return Ok((Some(run), checked, report));
        }
        Ok((last, self.journal.check(&self.name, go_on), FsckReport::default()))
    }

    fn tell_journal(&self, checked: &Checked, run: Option<RunId>, report: &mut FsckReport) {
        let path = self.journal.path();
        report.verified.runs = checked.runs;
        report.verified.events = checked.events;
        for (of, text) in &checked.flaws {
            let (text, hint) = match of {
                Some(of) => (
                    format!("run {of}: {text}"),
                    format!("agentctl logs {of} shows its events; nobody but the agent may write there: put the file back from a copy"),
                ),
                None => (
                    format!("the journal is damaged: {}", one_line(text)),
                    "stop the agent, and put the file back from a copy; without one the releases on disk still tell of themselves"
                        .to_owned(),
                ),
            };
            report.add("journal", Level::Error, Some(path), text, Some(hint));
        }
        if run.is_some() {
            return;
        }
        let gone = checked.served.iter().filter(|(release, _)| !self.root.release_dir(release).is_dir());
        for (release, run) in gone.filter(|(release, _)| !checked.pruned.contains(release.as_str())) {
            let text = format!("run {run} made {release} live; it is gone, and no run pruned it");
            report.add("journal", Level::Good, None, text, None);
        }
    }

    /// Reports runs that have begun and that no thread carries out. It looks last, so that a run that began a moment ago has been picked up by now.
    fn tell_unended(&self, checked: &Checked, report: &mut FsckReport) {
        for run in &checked.unended {
            let current = self.current.lock().as_ref().map(|(run, _)| *run);
            // One that cannot be read is told as such.
            let known = self.journal.run(*run).ok().flatten();
            if current != Some(*run) && known.is_some_and(|known| known.ended.is_none()) {
                let text = format!("run {run} has begun and not ended, and nobody carries it out");
                let hint = "start the agent again: it takes such a run back, or ends it: systemctl restart release-agent".to_owned();
                report.add("journal", Level::Error, Some(self.journal.path()), text, Some(hint));
            }
        }
    }

    fn verify_lock(&self, report: &mut FsckReport) {
        if let Err(err) = self.root.read_lock() {
            let hint = "it locks all the same: agentctl unlock, and lock again where that is still wanted".to_owned();
            let why = err.source().map(|source| format!(": {source}")).unwrap_or_default();
            report.add("lock", Level::Error, Some(&self.root.lock_file()), format!("the lock cannot be read{why}"), Some(hint));
        }
        if let Err(err) = self.root.read_unsettled() {
            let hint = "the database may be half migrated: look at it, and then: agentctl settle".to_owned();
            report.add("database", Level::Error, None, chain(&err), Some(hint));
        }
    }

    fn verify_backups<'a>(&self, go_on: &dyn Fn() -> bool, watch: impl Fn() -> Watch<'a>, report: &mut FsckReport) -> Result<(), NotTaken> {
        let backups = self.root.backups().unwrap_or_else(|err| {
            tell_of(Err(err), report);
            Vec::new()
        });
        for path in backups {
            if !go_on() {
                return Ok(());
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let release = name.split('.').next().and_then(|release| release.parse().ok());
            let Some(kind) = database::DatabaseKind::of(&path) else {
                let hint = "move it elsewhere, or remove it".to_owned();
                report.add("backup", Level::Warning, Some(&path), format!("{name} is no backup that the agent makes"), Some(hint));
                continue;
            };
            match database::verify(kind, &path, &watch()) {
                Ok(()) => report.verified.backups += 1,
                // Pruned meanwhile.
                Err(_) if !path.exists() => continue,
                Err(DatabaseError::Unsound(why)) => {
                    let hint = "restore nothing from it; make a dump of your own, if you need one now, and remove this one".to_owned();
                    let text = format!("the backup {name} does not verify: {}", one_line(&why));
                    report.add("backup", Level::Error, Some(&path), text, Some(hint));
                }
                Err(err) => {
                    let text = format!("the backup {name} cannot be verified: {}", chain(&err));
                    report.add("backup", Level::Warning, Some(&path), text, err.hint().map(str::to_owned));
                }
            }
            if release.is_some_and(|release| !self.root.release_dir(&release).is_dir()) {
                let text = format!("the backup {name} is of a release that is gone");
                let hint = "it stays until [backup] keep newer ones are there".to_owned();
                report.add("backup", Level::Good, Some(&path), text, Some(hint));
            }
        }
        Ok(())
    }

    fn verify_cache(&self, watch: &Watch<'_>, report: &mut FsckReport) {
        let app = self.settings();
        let cache = self.root.cache();
        match Git::new(&app.git, &cache).fsck(watch) {
            Ok(None) => {}
            Ok(Some(said)) => {
                let hint = format!("rm -r {}: the next release fetches all of it anew", cache.display());
                report.add(
                    "git",
                    Level::Error,
                    Some(&cache),
                    format!("the git cache is damaged: {}", said.trim_start_matches("error: ")),
                    Some(hint),
                );
            }
            Err(err) => {
                let text = format!("the git cache cannot be verified: {}", chain(&err));
                report.add("git", Level::Warning, Some(&cache), text, err.hint());
            }
        }
    }
}

/// Adds the reason why something could not be read.
fn tell_of(verified: Result<(), RootError>, report: &mut FsckReport) {
    if let Err(err) = verified {
        report.add("root", Level::Error, None, chain(&err), err.hint());
    }
}

/// SQLite's findings about a file in one line, without the heading.
fn one_line(said: &str) -> String {
    said.lines().filter(|line| !line.starts_with("***")).collect::<Vec<_>>().join("; ")
}
