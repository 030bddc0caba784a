//! The seal: everything written, the file system synced, and only then the manifest, whose presence makes a release complete. Facts that come
//! later (that it served, what it migrated, that it failed) are files of their own beside the manifest, which never changes.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use agent_model::names::{CommitId, ReleaseName};
use chrono::{DateTime, Utc};
use nix::unistd::{geteuid, syncfs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::faults;

use super::listing::{Listing, digest};
use super::tree::{Bits, remove_tree, set_write_bits};
use super::{
    AppRoot, BackgroundTask, FACTS, IoContext, RootError, own_file, remove_durably, sync_dir, temporary_beside, write_durably,
    write_temporary,
};

/// What a release is. Durable after all that it vouches for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of this form.
    pub v: u32,
    /// The app.
    pub app: String,
    /// The release.
    pub release: String,
    /// The whole commit id.
    pub commit: String,
    /// The ref that reached it.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// The first line of the commit's message.
    pub subject: Option<String>,
    /// Who asked.
    pub caller: String,
    /// The run.
    pub run: u64,
    /// When.
    pub made: DateTime<Utc>,
    /// The key of its environment.
    pub environment: Option<String>,
    /// How many files and links it has, without those of its environment and what is shared.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// SHA-256 over the list of files, which is kept beside the manifest.
    pub listing: String,
}

/// That a release was live, and proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// When the proof was complete, for the first time.
    pub at: DateTime<Utc>,
    /// How long the run took until then.
    pub ms: u64,
    /// The workers that it had the last time, as their units are set; nothing where that was not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<String>>,
}

/// That migrations of this release were reversed by its own code, so that the release fits the database no more. It goes when they are applied again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reversed {
    /// The mark of the run that reversed them.
    pub by: String,
    /// Which ones.
    pub migrations: Vec<String>,
    /// The command that restores the dump from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

/// The migrations of a release.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Migrated {
    /// The mark of the run that applies them, for numbers begin anew with a new journal; nothing in what an older agent wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What was to be applied, in order.
    pub pending: Vec<String>,
    /// What was applied; nothing while that is under way, or was cut off.
    pub applied: Option<Vec<String>>,
    /// The backup that was taken before.
    pub backup: Option<PathBuf>,
    /// The command that restores it.
    pub restore: Option<String>,
    /// Those of the pending ones that may leave a part of what they do when they fail, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub may_leave: BTreeMap<String, String>,
    /// Those of the pending ones that cannot be reversed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub irreversible: Vec<String>,
    /// Whether they are applied one after the other, in order.
    #[serde(default)]
    pub order: ApplyOrder,
    /// Those that may have been left halfway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half: Vec<String>,
    /// The same of an earlier run of this release, where something of it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Box<Migrated>>,
}

/// Whether migrations are applied one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ApplyOrder {
    /// They are: Django's own `migrate` does so.
    Kept,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl Migrated {
    /// Whether something of this run stands, or may: what was applied, and what may have been left halfway.
    pub(crate) fn left_something(&self) -> bool {
        self.applied.as_ref().is_none_or(|applied| !applied.is_empty()) || !self.half.is_empty()
    }

    /// All that is known to be applied with the release, in order.
    pub(crate) fn all_applied(&self) -> Vec<String> {
        let earlier = self.earlier.as_ref().map(|earlier| earlier.all_applied()).unwrap_or_default();
        earlier.into_iter().chain(self.applied.iter().flatten().cloned()).collect()
    }

    /// Those of them that cannot be reversed.
    pub(crate) fn all_irreversible(&self) -> Vec<String> {
        let earlier = self.earlier.as_ref().map(|earlier| earlier.all_irreversible()).unwrap_or_default();
        earlier.into_iter().chain(self.irreversible.iter().cloned()).collect()
    }

    /// Whether anything of it stands, or may.
    pub(crate) fn may_stand(&self) -> bool {
        self.left_something() || self.earlier.as_ref().is_some_and(|earlier| earlier.may_stand())
    }
}

/// That a release failed and is kept: its code alone knows what it migrated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// When.
    pub at: DateTime<Utc>,
    /// In which run.
    pub run: u64,
}

/// How a release was made, for the steps of the ones after it: what it says is theirs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MadeBy(pub serde_json::Value);

/// A fact about a release: a file in its `.release`.
pub(crate) trait Fact: Serialize + DeserializeOwned {
    /// The name of the file.
    const FILE: &'static str;
}

impl Fact for Served {
    const FILE: &'static str = "served.json";
}
impl Fact for Migrated {
    const FILE: &'static str = "migrated.json";
}
impl Fact for Reversed {
    const FILE: &'static str = "reversed.json";
}
impl Fact for Failed {
    const FILE: &'static str = "failed.json";
}
impl Fact for MadeBy {
    const FILE: &'static str = "made-by.json";
}

/// The list of a release's files, beside its manifest.
pub(super) const LISTING: &str = "files";

/// All that the agent keeps in `.release`.
pub(super) const KEPT: [&str; 7] = ["manifest.json", LISTING, MadeBy::FILE, Served::FILE, Migrated::FILE, Reversed::FILE, Failed::FILE];

/// The most bytes of a manifest or a fact.
const MOST_SMALL: u64 = 4 << 20;
/// The most bytes of a list of files.
const MOST_LIST: u64 = 1 << 30;

fn not_sealed(release: &ReleaseName, why: &str) -> RootError {
    RootError::NotSealed { release: release.clone(), why: why.to_owned() }
}

/// What the seal is told.
pub(crate) struct Sealing<'a> {
    /// The app.
    pub app: &'a str,
    /// The release.
    pub release: &'a ReleaseName,
    /// The commit.
    pub commit: &'a CommitId,
    /// The ref that reached it.
    pub reference: Option<&'a str>,
    /// The first line of the commit's message.
    pub subject: Option<&'a str>,
    /// Who asked.
    pub caller: &'a str,
    /// The run.
    pub run: u64,
    /// The time now.
    pub now: DateTime<Utc>,
    /// Whether the tree loses its write bits.
    pub read_only: bool,
    /// How it was made.
    pub made_by: Option<&'a MadeBy>,
}

impl AppRoot {
    /// Seals a release.
    pub(crate) fn seal(&self, sealing: &Sealing<'_>) -> Result<Manifest, RootError> {
        self.check()?;
        let dir = self.release_dir(sealing.release);
        let facts = dir.join(FACTS);
        // Whatever became of the directory since the checkout: what is empty by now must not be made complete.
        let revision = own_file(&dir.join("REVISION"), MOST_SMALL).unwrap_or_default();
        if revision.trim_ascii_end() != sealing.commit.as_str().as_bytes() {
            return Err(if dir.join("REVISION").exists() {
                RootError::Revised { release: sealing.release.clone(), commit: sealing.commit.clone() }
            } else {
                RootError::Vanished(sealing.release.clone())
            });
        }
        if sealing.read_only {
            for entry in fs::read_dir(&dir).on_path("read", &dir)?.flatten().filter(|entry| entry.file_name() != FACTS) {
                set_write_bits(&entry.path(), Bits::AllOff)?;
            }
        }
        // The facts are the agent's alone: whatever the release's own code has put there, a link to elsewhere among it, gives way.
        remove_tree(&facts)?;
        fs::create_dir(&facts).on_path("make", &facts)?;
        let listing = Listing::of(&dir, &[FACTS])?;
        let path = facts.join(LISTING);
        fs::write(&path, &listing.text).on_path("write", &path)?;
        if let Some(made_by) = sealing.made_by {
            let path = facts.join(MadeBy::FILE);
            let text = serde_json::to_vec(made_by).map_err(|source| RootError::Malformed { path: path.clone(), source })?;
            fs::write(&path, text).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o400))).on_path("write", &path)?;
        }
        let manifest = Manifest {
            v: 1,
            app: sealing.app.to_owned(),
            release: sealing.release.to_string(),
            commit: sealing.commit.to_string(),
            reference: sealing.reference.map(str::to_owned),
            subject: sealing.subject.map(str::to_owned),
            caller: sealing.caller.to_owned(),
            run: sealing.run,
            made: sealing.now,
            environment: self.environment_of(sealing.release),
            files: listing.files,
            bytes: listing.bytes,
            listing: digest(&listing.text),
        };
        let path = self.manifest_path(sealing.release);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|source| RootError::Malformed { path: path.clone(), source })?;
        let temporary = temporary_beside(&path);
        write_temporary(&temporary, &text, 0o444).on_path("write", &path)?;
        faults::at("listed");
        // An fd inside the releases: syncfs on another file system would be a silent no-op.
        let inside = fs::File::open(&dir).on_path("open", &dir)?;
        syncfs(&inside).on_path("sync the file system of", &dir)?;
        faults::at("synced");
        // All of it is on the disk, the manifest as well, which gets its name last.
        fs::rename(&temporary, &path).on_path("write", &path)?;
        sync_dir(&facts)?;
        faults::at("named");
        Ok(manifest)
    }

    /// The manifest of a release, held against its name and its list of files.
    ///
    /// # Errors
    /// [`RootError::NotSealed`] when the release is incomplete or something does not agree.
    pub(crate) fn manifest(&self, release: &ReleaseName) -> Result<Manifest, RootError> {
        let manifest = self.written_manifest(release)?;
        self.listing_of(release, &manifest)?;
        if let Some(key) = &manifest.environment
            && !self.has_environment(key)
        {
            return Err(not_sealed(release, "has lost its environment"));
        }
        Ok(manifest)
    }

    /// Where the facts of a release are: a directory, and not a link that the release's own code has put there.
    fn facts_of(&self, release: &ReleaseName) -> Result<PathBuf, RootError> {
        let dir = self.release_dir(release);
        let facts = dir.join(FACTS);
        let ours = |meta: &fs::Metadata| meta.uid() == geteuid().as_raw() || meta.uid() == 0;
        if fs::symlink_metadata(&facts).is_ok_and(|meta| meta.is_dir() && ours(&meta)) {
            return Ok(facts);
        }
        let why = if dir.is_dir() { "is incomplete: it has no directory .release" } else { "is not there: its directory is gone" };
        Err(not_sealed(release, why))
    }

    /// The manifest of a release, held against its name alone.
    pub(super) fn written_manifest(&self, release: &ReleaseName) -> Result<Manifest, RootError> {
        let text = own_file(&self.facts_of(release)?.join("manifest.json"), MOST_SMALL)
            .map_err(|_| not_sealed(release, "is incomplete: it has no manifest"))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|_| not_sealed(release, "has a manifest that cannot be understood"))?;
        if manifest.release != release.as_str() || !manifest.commit.starts_with(release.commit_digits()) {
            return Err(not_sealed(release, "has the manifest of another release"));
        }
        Ok(manifest)
    }

    /// The list of files that a manifest vouches for.
    pub(super) fn listing_of(&self, release: &ReleaseName, manifest: &Manifest) -> Result<Vec<u8>, RootError> {
        let path = self.facts_of(release)?.join(LISTING);
        let listing = own_file(&path, MOST_LIST).map_err(|_| not_sealed(release, "has lost its list of files"))?;
        if digest(&listing) != manifest.listing {
            return Err(not_sealed(release, "has a list of files that its manifest does not vouch for"));
        }
        Ok(listing)
    }

    /// Where the manifest of a release is.
    pub(super) fn manifest_path(&self, release: &ReleaseName) -> PathBuf {
        self.release_dir(release).join(FACTS).join("manifest.json")
    }

    /// A fact about a release, if it is one.
    pub(crate) fn fact<F: Fact>(&self, release: &ReleaseName) -> Result<Option<F>, RootError> {
        // What somebody else has put there is no fact.
        let Ok(facts) = self.facts_of(release) else { return Ok(None) };
        let path = facts.join(F::FILE);
        let text = match own_file(&path, MOST_SMALL) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.on_path("read", &path)?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| RootError::Malformed { path, source })
    }

    /// Writes a fact about a release.
    pub(crate) fn set_fact<F: Fact>(&self, release: &ReleaseName, fact: &F) -> Result<(), RootError> {
        let (path, text) = self.fact_to_write(release, fact)?;
        write_durably(&path, &text, 0o444)
    }

    /// Begins to write a fact about a release.
    pub(crate) fn begin_fact<F: Fact>(&self, release: &ReleaseName, fact: &F) -> Result<BackgroundTask, RootError> {
        let (path, text) = self.fact_to_write(release, fact)?;
        BackgroundTask::begin("write", &path.clone(), move || write_durably(&path, &text, 0o444))
    }

    fn fact_to_write<F: Fact>(&self, release: &ReleaseName, fact: &F) -> Result<(PathBuf, Vec<u8>), RootError> {
        let path = self.facts_of(release)?.join(F::FILE);
        let text = serde_json::to_vec(fact).map_err(|source| RootError::Malformed { path: path.clone(), source })?;
        Ok((path, text))
    }

    /// Removes a fact about a release, if it is one.
    pub(crate) fn remove_fact<F: Fact>(&self, release: &ReleaseName) -> Result<(), RootError> {
        remove_durably(&self.facts_of(release)?.join(F::FILE))
    }
}
