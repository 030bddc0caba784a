//! What was left in a root, and belongs to nothing: it can go without a question. Looked for while no run is under way, or in the run that removes it.
//!
//! What might still be wanted is not among it: nothing that was ever sealed, no backup, nothing that a process uses.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_model::names::ReleaseName;
use agent_wire::view::{FsckFinding, Level};

use super::link::TEMPORARY;
use super::seal::Fact;
use super::{AppRoot, FACTS, Failed, FsckReport, IoContext, Migrated, RootError, RootLock, Served, remove_tree};

/// What the root itself cannot tell.
pub(crate) struct Around<'a> {
    /// The releases that the journal knows to have been live.
    pub served: &'a [ReleaseName],
    /// Whether a process runs from a directory.
    pub in_use: &'a dyn Fn(&Path) -> bool,
    /// Whether the instance that a record tells of runs.
    pub instance: &'a dyn Fn(&Path) -> Instance,
}

/// How the instance of a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instance {
    /// It runs.
    Runs,
    /// It does not.
    Gone,
    /// The record cannot be understood.
    Unknown,
}

/// Something that was left, and can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    what: &'static str,
    path: PathBuf,
    text: String,
    way: Removal,
}

const CUT_OFF: &str = "the rest of a writing that was cut off";

/// How it is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Removal {
    /// As what it is.
    Itself,
    /// As a release: out of sight first.
    Release(ReleaseName),
    /// As an environment, likewise.
    Environment(String),
}

impl Leftover {
    fn new(what: &'static str, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { what, path: path.into(), text: text.into(), way: Removal::Itself }
    }

    /// Its place in the root, and what it is.
    pub(crate) fn told(&self, root: &AppRoot) -> String {
        let place = self.path.strip_prefix(root.path()).unwrap_or(&self.path);
        format!("{}: {}", place.display(), self.text)
    }

    /// As a finding that can be mended.
    pub(crate) fn finding(&self) -> FsckFinding {
        FsckFinding {
            what: self.what.to_owned(),
            level: Level::Warning,
            path: Some(self.path.display().to_string()),
            text: self.text.clone(),
            hint: Some("agentctl fsck --mend removes it".to_owned()),
            mend: true,
        }
    }
}

impl AppRoot {
    /// What can go. What looks like it and may not goes into the report.
    ///
    /// # Errors
    /// [`RootError::Io`] when a directory of the root cannot be read.
    pub(crate) fn leftovers(&self, around: &Around<'_>, report: &mut FsckReport) -> Result<Vec<Leftover>, RootError> {
        let mut left = self.cut_off()?;
        self.left_releases(around, report, &mut left)?;
        self.left_environments(around, &mut left)?;
        self.left_notes(around, report, &mut left)?;
        Ok(left)
    }

    /// What belongs to nothing but a writing or a removal that was cut off: it goes by itself when the agent starts.
    fn cut_off(&self) -> Result<Vec<Leftover>, RootError> {
        let mut left = Vec::new();
        for (name, path) in entries(self.path())? {
            if name.starts_with(TEMPORARY) && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
                left.push(Leftover::new("link", path, "a temporary link was left beside the link"));
            }
        }
        left.extend(trash(&self.path().join("releases"), "release")?);
        for release in self.release_names()? {
            left.extend(temporaries(&self.release_dir(&release).join(FACTS))?);
        }
        left.extend(trash(&self.path().join("environments"), "environment")?);
        for key in self.environments()? {
            left.extend(temporaries(&self.environment(&key))?);
        }
        for (_, path) in entries(&self.path().join("backups"))? {
            if path.extension() == Some(OsStr::new("part")) {
                left.push(Leftover::new("backup", path, "a backup that never came to its end"));
            }
        }
        let notes = self.path().join(".agent");
        for dir in [notes.clone(), notes.join("pins"), notes.join("instances"), notes.join("variables")] {
            left.extend(temporaries(&dir)?);
        }
        for (_, path) in entries(&notes.join("tmp"))? {
            left.push(Leftover::new("scratch", path, "a scratch file of no run"));
        }
        Ok(left)
    }

    /// Finishes removals that were cut off, and removes what writings and builds that were cut off have left. Said while no run is under way.
    pub(crate) fn sweep(&self, in_use: &dyn Fn(&Path) -> bool, lock: &RootLock) -> Result<(), RootError> {
        let left = self.cut_off()?.into_iter().chain(self.incomplete_environments(&|_| false, in_use)?);
        // One that cannot go is no reason to leave the others.
        let failed: Vec<RootError> = left.into_iter().filter_map(|leftover| self.remove_leftover(&leftover, lock).err()).collect();
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn left_releases(&self, around: &Around<'_>, report: &mut FsckReport, left: &mut Vec<Leftover>) -> Result<(), RootError> {
        for release in self.release_names()? {
            let dir = self.release_dir(&release);
            if fs::symlink_metadata(self.manifest_path(&release)).is_ok() {
                continue;
            }
            match self.why_kept(&release, around) {
                None => {
                    let text = format!("{release} was never sealed, and can never be activated");
                    left.push(Leftover { way: Removal::Release(release), ..Leftover::new("release", dir, text) });
                }
                Some((why, hint)) => {
                    report.add("release", Level::Error, Some(&dir), format!("{release} has no manifest, and {why}"), Some(hint));
                }
            }
        }
        Ok(())
    }

    /// Why a release without a manifest is not simply one that was cut off, and what to do.
    fn why_kept(&self, release: &ReleaseName, around: &Around<'_>) -> Option<(&'static str, String)> {
        let digits = release.commit_digits();
        let anew = || format!("put {FACTS}/ back from a copy; or, agentctl release {digits} makes this commit anew");
        let has = |file| self.release_dir(release).join(FACTS).join(file).exists();
        if self.live().ok().flatten().as_ref() == Some(release) {
            return Some(("it is live", anew()));
        }
        if has(Served::FILE) || around.served.contains(release) {
            return Some(("it was live once", anew()));
        }
        if has(Migrated::FILE) || has(Failed::FILE) {
            return Some(("it has migrated a database", anew()));
        }
        if self.pin_of(release).exists() {
            return Some(("it is pinned", format!("agentctl unpin {release}; then --mend removes it")));
        }
        if (around.in_use)(&self.release_dir(release)) {
            return Some(("a process runs from it", "end the process; then --mend removes it".to_owned()));
        }
        None
    }

    fn left_environments(&self, around: &Around<'_>, left: &mut Vec<Leftover>) -> Result<(), RootError> {
        // What only a release uses that goes itself is used by nobody.
        let goes = |name: &ReleaseName| left.iter().any(|left| left.way == Removal::Release(name.clone()));
        let incomplete = self.incomplete_environments(&goes, around.in_use)?;
        left.extend(incomplete);
        Ok(())
    }

    /// Environments that were never finished, and that no release uses but those that go.
    fn incomplete_environments(
        &self,
        goes: &dyn Fn(&ReleaseName) -> bool,
        in_use: &dyn Fn(&Path) -> bool,
    ) -> Result<Vec<Leftover>, RootError> {
        let names = self.release_names()?;
        let used: Vec<String> = names.iter().filter(|name| !goes(name)).flat_map(|name| self.environments_of(name)).collect();
        let unused = self.environments()?.into_iter().filter(|key| !self.has_environment(key) && !used.contains(key));
        let left = unused.filter(|key| !in_use(&self.environment(key))).map(|key| {
            let (path, text) = (self.environment(&key), format!("the environment {key} is incomplete, and no release uses it"));
            Leftover { way: Removal::Environment(key), ..Leftover::new("environment", path, text) }
        });
        Ok(left.collect())
    }

    /// The keys that a release names, by its link and by its manifest.
    fn environments_of(&self, release: &ReleaseName) -> impl Iterator<Item = String> {
        let by_manifest = self.written_manifest(release).ok().and_then(|manifest| manifest.environment);
        self.environment_of(release).into_iter().chain(by_manifest)
    }

    fn left_notes(&self, around: &Around<'_>, report: &mut FsckReport, left: &mut Vec<Leftover>) -> Result<(), RootError> {
        let of_none = |name: &str| name.parse::<ReleaseName>().is_ok_and(|release| !self.release_dir(&release).is_dir());
        let notes = self.path().join(".agent");
        for (name, path) in entries(&notes.join("pins"))? {
            if of_none(&name) {
                left.push(Leftover::new("pin", path, "the pin of a release that is not there"));
            }
        }
        for (name, path) in entries(&self.instances())? {
            let Some((release, ending)) = name.split_once('.') else { continue };
            // Logs stay until the next switch: they say why a release that is gone did not come up.
            if !matches!(ending, "json" | "former.json" | "failed.json") || !of_none(release) {
                continue;
            }
            match (around.instance)(&path) {
                Instance::Gone => {
                    left.push(Leftover::new("instance", path, "the record of an instance of a release that is not there"));
                }
                Instance::Runs => {
                    let text = format!("the instance of {release} runs, and that release is not there");
                    let hint = "find the process by the socket that the record names, and end it; then --mend forgets it".to_owned();
                    report.add("instance", Level::Warning, Some(&path), text, Some(hint));
                }
                Instance::Unknown => {
                    let text = format!("the record of the instance of {release} cannot be understood, and that release is not there");
                    let hint = "make sure that no such process runs, and remove it".to_owned();
                    report.add("instance", Level::Warning, Some(&path), text, Some(hint));
                }
            }
        }
        Ok(())
    }

    /// Removes something that was left; the lock is the proof that it is ours.
    pub(crate) fn remove_leftover(&self, leftover: &Leftover, _lock: &RootLock) -> Result<(), RootError> {
        match &leftover.way {
            Removal::Itself => remove_tree(&leftover.path),
            Removal::Release(release) => self.remove_release(release),
            Removal::Environment(key) => self.remove_environment(key),
        }
    }
}

/// The names in a directory, sorted; none where there is no directory.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, RootError> {
    let read = match fs::read_dir(dir) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.on_path("read", dir)?,
    };
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry.on_path("read", dir)?;
        // What the agent makes has a name that is text.
        entries.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    entries.sort();
    Ok(entries)
}

fn trash(dir: &Path, what: &'static str) -> Result<Vec<Leftover>, RootError> {
    let names = entries(dir)?.into_iter().filter(|(name, _)| name.starts_with(".trash-"));
    let which = format!("the removal of {} {what} was cut off", if what == "environment" { "an" } else { "a" });
    Ok(names.map(|(_, path)| Leftover::new(what, path, which.as_str())).collect())
}

/// What a writing that never came to its end left in a directory.
fn temporaries(dir: &Path) -> Result<Vec<Leftover>, RootError> {
    let stale = |name: &str, path: &Path| match temporary_of(name) {
        None => false,
        // Its own may be written at this moment: locks and pins take no turn. None takes a minute.
        Some(pid) if pid == std::process::id() => {
            let age = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok().and_then(|written| written.elapsed().ok());
            age.is_some_and(|age| age > Duration::from_secs(60))
        }
        Some(_) => true,
    };
    let found = entries(dir)?.into_iter().filter(|(name, path)| stale(name, path));
    Ok(found.map(|(_, path)| Leftover::new("temporary", path, CUT_OFF)).collect())
}

/// The process that wrote a temporary file, by the file's name: `.name.PID`.
pub(super) fn temporary_of(name: &str) -> Option<u32> {
    let (of, pid) = name.strip_prefix('.')?.rsplit_once('.')?;
    let plain = !of.is_empty() && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    if plain { pid.parse().ok() } else { None }
}
