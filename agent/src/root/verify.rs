//! A root held against what was written down of it: the link, the releases by their lists of files, the environments by theirs. It changes nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Component, Path, PathBuf};

use agent_model::names::{ReleaseName, RunId};
use agent_wire::view::{FsckFinding, Level, Verified};
use nix::unistd::{AccessFlags, access};

use super::environment::{LISTING, MARKER, is_key};
use super::listing::{Compared, Flaw, compare};
use super::seal::{Fact, KEPT};
use super::{AppRoot, FACTS, Failed, LOST_AND_FOUND, MadeBy, Migrated, Reversed, RootError, Served};

/// So many files of one tree are told each by itself.
const MOST_TOLD: usize = 20;

/// What was looked at, and what differs.
#[derive(Debug, Default)]
pub(crate) struct FsckReport {
    /// How much was looked at.
    pub verified: Verified,
    /// What differs.
    pub findings: Vec<FsckFinding>,
}

impl FsckReport {
    /// Adds what nobody can mend without guessing.
    pub(crate) fn add(&mut self, what: &str, level: Level, path: Option<&Path>, text: impl Into<String>, hint: Option<String>) {
        let path = path.map(|path| path.display().to_string());
        self.findings.push(FsckFinding { what: what.to_owned(), level, path, text: text.into(), hint, mend: false });
    }

    fn error(&mut self, what: &str, path: &Path, text: impl Into<String>, hint: impl Into<String>) {
        self.add(what, Level::Error, Some(path), text, Some(hint.into()));
    }

    /// Takes over what another one has.
    fn absorb(&mut self, other: Self) {
        let Verified { releases, environments, files, bytes, .. } = other.verified;
        self.verified.releases += releases;
        self.verified.environments += environments;
        self.verified.files += files;
        self.verified.bytes += bytes;
        self.findings.extend(other.findings);
    }
}

/// A tree that has a list of its files.
struct Sealed<'a> {
    what: &'static str,
    /// As a sentence calls it.
    called: String,
    dir: PathBuf,
    without: &'a [&'a str],
    /// What helps when it is damaged.
    hint: &'a str,
}

impl AppRoot {
    /// Holds the link against what is on disk, and against the release that the journal says was live last.
    pub(crate) fn verify_link(&self, last: Option<&(RunId, ReleaseName)>, report: &mut FsckReport) {
        let path = self.link();
        let again = |then: &str| match last {
            Some((_, release)) => format!("{then}agentctl activate {release}"),
            None => format!("{then}agentctl activate RELEASE; agentctl list shows them"),
        };
        match (self.live(), last) {
            (Err(err @ RootError::NotALink { .. }), _) => {
                report.error("link", &path, err.to_string(), again("move it away, and then: "));
            }
            (Err(err), _) => report.add("link", Level::Error, Some(&path), told(&err), err.hint()),
            (Ok(Some(live)), _) if !self.release_dir(&live).is_dir() => {
                report.error(
                    "link",
                    &path,
                    format!("the link names {live}, which is not there"),
                    "agentctl activate RELEASE; agentctl list shows them",
                );
            }
            (Ok(Some(live)), Some((run, release))) if live != *release => report.error(
                "link",
                &path,
                format!("the link names {live}, and the journal says that {release} was live last (run {run})"),
                format!("agentctl activate {release}; or, if {live} was meant: agentctl activate {live}"),
            ),
            (Ok(None), Some((run, release))) => report.error(
                "link",
                &path,
                format!("there is no link, and the journal says that {release} was live last (run {run})"),
                again(""),
            ),
            (Ok(Some(live)), None) => report.add(
                "link",
                Level::Good,
                Some(&path),
                format!("the journal knows of no release that was live, so nothing but the link says that {live} is"),
                None,
            ),
            (Ok(_), _) => {}
        }
    }

    /// Tells what stands among releases, environments and backups, and is none.
    pub(crate) fn verify_names(&self, report: &mut FsckReport) {
        let is_release = |name: &str| name.parse::<ReleaseName>().is_ok();
        let is_known = |place: &str, name: &str, is_dir: bool| match place {
            "releases" => is_dir && is_release(name),
            "environments" => is_dir && is_key(name),
            _ => !is_dir && name.split_once('.').is_some_and(|(release, _)| is_release(release)),
        };
        for place in ["releases", "environments", "backups"] {
            for entry in fs::read_dir(self.path().join(place)).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let name = entry.file_name().to_string_lossy().into_owned();
                if !is_known(place, &name, is_dir) && name != LOST_AND_FOUND && !name.starts_with(".trash-") && !name.ends_with(".part") {
                    let one = place.trim_end_matches('s');
                    report.add(
                        one,
                        Level::Warning,
                        Some(&entry.path()),
                        format!("{place}/{name} is no {one}"),
                        Some(format!("move it elsewhere: what the agent did not make it never removes from {place}/")),
                    );
                }
            }
        }
    }

    /// Holds every sealed release against its manifest and its list of files. One that goes away meanwhile was pruned, and is passed over.
    pub(crate) fn verify_releases(&self, app: &str, go_on: &dyn Fn() -> bool, report: &mut FsckReport) -> Result<(), RootError> {
        let live = self.live().unwrap_or_default();
        let mut shared = BTreeSet::new();
        for release in self.release_names()? {
            if !go_on() {
                return Ok(());
            }
            let path = self.manifest_path(&release);
            if fs::symlink_metadata(&path).is_err() {
                // Without a manifest it was never sealed, or has lost it: what is left over tells which.
                continue;
            }
            let mut own = FsckReport::default();
            self.verify_release(app, &release, live.as_ref(), go_on, &mut shared, &mut own);
            if self.release_dir(&release).is_dir() {
                report.absorb(own);
            }
        }
        Ok(())
    }

    fn verify_release(
        &self,
        app: &str,
        release: &ReleaseName,
        live: Option<&ReleaseName>,
        go_on: &dyn Fn() -> bool,
        shared: &mut BTreeSet<PathBuf>,
        report: &mut FsckReport,
    ) {
        let dir = self.release_dir(release);
        let digits = release.commit_digits();
        let is_live = live == Some(release);
        let hint = if is_live {
            format!("agentctl release {digits} makes this commit anew; until then: agentctl rollback")
        } else {
            format!("do not activate it; agentctl release {digits} makes this commit anew")
        };
        let called = if is_live { format!("the live release {release}") } else { format!("the release {release}") };
        self.verify_facts(release, &called, report);
        let manifest = match self.written_manifest(release) {
            Ok(manifest) => manifest,
            Err(err) => return report.error("release", &self.manifest_path(release), err.to_string(), hint),
        };
        if manifest.app != app {
            let text = format!("{called} was made for an app {}", manifest.app);
            report.add("release", Level::Warning, Some(&dir), text, Some(format!("was it copied here? {hint}")));
        }
        if let Some(key) = manifest.environment.as_ref().filter(|key| !self.has_environment(key)) {
            let place = self.environment(key);
            let how = if place.is_dir() { "is incomplete" } else { "is gone" };
            report.error("environment", &place, format!("the environment of {called} {how}"), hint.clone());
        }
        let listing = match self.listing_of(release, &manifest) {
            Ok(listing) => listing,
            Err(err) => return report.error("release", &dir.join(FACTS).join(super::seal::LISTING), err.to_string(), hint),
        };
        let sealed = Sealed { what: "release", called, dir: dir.clone(), without: &[FACTS], hint: &hint };
        let Some(compared) = sealed.verify(&listing, go_on, report) else { return };
        report.verified.releases += 1;
        let revision = dir.join("REVISION");
        let says = fs::read_to_string(&revision).unwrap_or_default();
        if says.trim() != manifest.commit && !compared.flaws.iter().any(|(path, _)| *path == Path::new("REVISION")) {
            let text =
                format!("REVISION of {} was sealed with {:?}, and the manifest says {}", sealed.called, says.trim(), manifest.commit);
            report.error("release", &revision, text, hint.clone());
        }
        for link in compared.links {
            let Some(target) = self.shared_target(&dir, &link).filter(|target| fs::metadata(target).is_err()) else { continue };
            let text = format!("what {} of {} leads to is gone", link.display(), sealed.called);
            if shared.insert(target.clone()) {
                report.error("shared", &target, text, "put it back from a copy; an empty one may hide that something is lost");
            }
        }
    }

    /// Where a link in a release leads to, when that is in `shared/`.
    fn shared_target(&self, dir: &Path, link: &Path) -> Option<PathBuf> {
        let place = dir.join(link);
        let target = place.parent()?.join(fs::read_link(&place).ok()?);
        let mut plain = PathBuf::new();
        for part in target.components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                part => plain.push(part),
            }
        }
        plain.starts_with(self.path().join("shared")).then_some(plain)
    }

    fn verify_facts(&self, release: &ReleaseName, called: &str, report: &mut FsckReport) {
        let facts = self.release_dir(release).join(FACTS);
        let mut broken = |file: &str, err: Option<RootError>, then: &str| {
            if let Some(err) = err {
                let why = err.source().map(|source| format!(": {source}")).unwrap_or_default();
                let hint = format!("put it back from a copy, or remove it: {then}");
                report.error("release", &facts.join(file), format!("{FACTS}/{file} of {called} cannot be read{why}"), hint);
            }
        };
        broken(Served::FILE, self.fact::<Served>(release).err(), "the release then counts as one that was never live");
        broken(Migrated::FILE, self.fact::<Migrated>(release).err(), "what it migrated is forgotten then");
        broken(MadeBy::FILE, self.fact::<MadeBy>(release).err(), "the next release then takes nothing over from it");
        broken(Reversed::FILE, self.fact::<Reversed>(release).err(), "its migrations then count as applied");
        broken(Failed::FILE, self.fact::<Failed>(release).err(), "the release then counts as one that did not fail");
        for entry in fs::read_dir(&facts).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !KEPT.contains(&name.as_str()) && super::leftovers::temporary_of(&name).is_none() {
                let text = format!("{FACTS}/{name} of {called} is not the agent's");
                report.add("release", Level::Warning, Some(&entry.path()), text, Some(REMOVE.to_owned()));
            }
        }
    }

    /// Holds every complete environment against its list of files.
    pub(crate) fn verify_environments(&self, go_on: &dyn Fn() -> bool, report: &mut FsckReport) -> Result<(), RootError> {
        let names = self.release_names()?;
        for key in self.environments()?.into_iter().filter(|key| self.has_environment(key)) {
            if !go_on() {
                return Ok(());
            }
            // The newest: its commit is the one that is most likely wanted again.
            let users: Vec<&ReleaseName> = names.iter().filter(|name| self.environment_of(name).as_ref() == Some(&key)).collect();
            let mut own = FsckReport::default();
            self.verify_environment(&key, &users, go_on, &mut own);
            if self.environment(&key).is_dir() {
                report.absorb(own);
            }
        }
        Ok(())
    }

    fn verify_environment(&self, key: &str, users: &[&ReleaseName], go_on: &dyn Fn() -> bool, report: &mut FsckReport) {
        let dir = self.environment(key);
        let (called, hint) = match users {
            [] => {
                let hint = "agentctl prune removes it".to_owned();
                let text = format!("no release uses the environment {key}");
                report.add("environment", Level::Good, Some(&dir), text, Some(hint.clone()));
                (format!("the environment {key}, which no release uses,"), hint)
            }
            [newest, ..] => {
                let of = if users.len() == 1 { "1 release".to_owned() } else { format!("{} releases", users.len()) };
                let hint =
                    format!("agentctl release {} --rebuild makes this commit anew, with an environment of its own", newest.commit_digits());
                (format!("the environment {key} (of {of})"), hint)
            }
        };
        let python = dir.join("bin/python");
        if access(&python, AccessFlags::X_OK).is_err() {
            let text = match fs::read_link(&python) {
                Ok(target) => format!("bin/python of {called} leads to {}, which is no program", target.display()),
                Err(_) => format!("bin/python of {called} is no program"),
            };
            let hint = format!("install the interpreter that it was made with again; or: {hint}");
            report.error("environment", &python, text, hint);
        }
        let listing = match self.listing_of_environment(key) {
            Ok(Some(listing)) => listing,
            Ok(None) => {
                let text = format!("{called} was sealed before lists of files were kept: its files cannot be verified");
                return report.add("environment", Level::Good, Some(&dir), text, Some(hint));
            }
            Err(why) => return report.error("environment", &dir, format!("{called} {why}"), hint),
        };
        let sealed = Sealed { what: "environment", called, dir, without: &[MARKER, LISTING], hint: &hint };
        if sealed.verify(&listing, go_on, report).is_some() {
            report.verified.environments += 1;
        }
    }
}

/// What to do about a file that nobody knows.
const REMOVE: &str = "find out who wrote it, and remove it";

impl Sealed<'_> {
    fn verify(&self, listing: &[u8], go_on: &dyn Fn() -> bool, report: &mut FsckReport) -> Option<Compared> {
        let Self { what, called, dir, without, hint } = self;
        let compared = match compare(listing, dir, without, go_on) {
            Ok(compared) => compared,
            Err(err) => {
                report.add(what, Level::Error, Some(dir), format!("{called} cannot be read: {}", told(&err)), err.hint());
                return None;
            }
        };
        report.verified.files += compared.files;
        report.verified.bytes += compared.bytes;
        let (caches, flaws): (Vec<_>, Vec<_>) = compared.flaws.iter().partition(|(_, flaw)| *flaw == Flaw::Cache);
        for (path, flaw) in flaws.iter().take(MOST_TOLD) {
            let shown = path.display();
            let (level, text) = match flaw {
                Flaw::Missing => (Level::Error, format!("{shown} of {called} is gone")),
                Flaw::Changed => (Level::Error, format!("{shown} of {called} is not what was sealed")),
                Flaw::Elsewhere => (Level::Error, format!("the link {shown} of {called} leads elsewhere than when it was sealed")),
                Flaw::Mode { sealed, found } => {
                    (Level::Error, format!("{shown} of {called} has the mode {found:o}, and was sealed with {sealed:o}"))
                }
                Flaw::Unreadable(why) => (Level::Error, format!("{shown} of {called} cannot be read: {why}")),
                Flaw::Extra | Flaw::Cache => (Level::Warning, format!("{shown} of {called} was not there when it was sealed")),
            };
            let hint = match flaw {
                Flaw::Mode { sealed, .. } => format!("find out who changed it, and: chmod {sealed:o} {}", dir.join(path).display()),
                Flaw::Extra | Flaw::Cache => REMOVE.to_owned(),
                _ => (*hint).to_owned(),
            };
            report.add(what, level, Some(&dir.join(path)), text, Some(hint));
        }
        let more = flaws.iter().skip(MOST_TOLD);
        if more.len() > 0 {
            let level = if more.clone().all(|(_, flaw)| *flaw == Flaw::Extra) { Level::Warning } else { Level::Error };
            let text = format!("{} more files of {called} differ", more.len());
            report.add(what, level, Some(dir), text, Some((*hint).to_owned()));
        }
        if !caches.is_empty() {
            let (files, were) = if caches.len() == 1 { ("file", "was") } else { ("files", "were") };
            let text = format!("{} compiled {files} of Python's in {called} {were} not there when it was sealed", caches.len());
            report.add(what, Level::Good, Some(dir), text, None);
        }
        Some(compared)
    }
}

/// An error of this module with what lies below it.
fn told(err: &RootError) -> String {
    match err {
        RootError::Io { source, .. } => format!("{err}: {source}"),
        RootError::Malformed { source, .. } => format!("{err}: {source}"),
        err => err.to_string(),
    }
}
