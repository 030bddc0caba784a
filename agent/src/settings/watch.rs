//! The settings in force, and the thread that takes up new ones when the files change.
//!
//! What is watched are directories, never files: a watch on a file is blind once another file was renamed over it. The directory above is watched
//! too, for a directory can be replaced or be made later. After every change all watches are set anew and all files are read anew. An app whose file
//! is wrong keeps the settings that it had; where agent.toml is wrong, everything does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agent_model::names::AppName;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::files::{Before, Loaded, unread_files};
use super::https::{self, Listed, Material};
use super::{Complaint, Settings, load_over};
use crate::trust::Revoked;

/// How long the directories must be quiet before the files are read: editors and package managers write in several strokes.
const QUIET: Duration = Duration::from_millis(200);
/// How long they may be busy at most.
const BUSY: Duration = Duration::from_secs(2);
/// How often the files are read without any event: while there are complaints, whose remedy may lie in a place that is not watched (the mode of a
/// secrets file), and where the host has no watches left to give.
const AGAIN: Duration = Duration::from_secs(5);

/// The settings in force.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config_dir: PathBuf,
    settings: watch::Sender<Arc<Settings>>,
    material: watch::Sender<Arc<Material>>,
    complaints: watch::Sender<Arc<Vec<Complaint>>>,
    /// Where the list of revoked keys is kept, so that one that is lost is missed after a restart, too.
    kept: OnceLock<PathBuf>,
    /// `socket_group`, as the control socket was made with.
    socket_group: Option<String>,
    /// Since when the settings of each app are in force. Held while files are read, so that what was read later is never replaced by what was read
    /// earlier.
    since: Mutex<BTreeMap<AppName, SystemTime>>,
}

impl InForce {
    /// Puts in force what is in `config_dir`, without watching it. A mistake in the file of one app is no reason to keep all others from being served;
    /// where nothing is right, nothing is put in force.
    pub(crate) fn load(config_dir: &Path) -> Result<Self, Vec<Complaint>> {
        // Events name absolute paths only when the watched path is one.
        let config_dir = std::path::absolute(config_dir).unwrap_or_else(|_| config_dir.to_owned());
        let Loaded { settings, complaints: of_files } = load_over(&config_dir, None);
        let settings = match settings {
            Some(settings) if of_files.is_empty() || !settings.apps.is_empty() => Arc::new(settings),
            _ => return Err(of_files),
        };
        let (material, complaints) = https::load(&settings, &config_dir, &Material::default());
        if !complaints.is_empty() {
            return Err(complaints.into_iter().chain(of_files).collect());
        }
        for complaint in &of_files {
            tracing::error!("{complaint}");
        }
        let since = settings.apps.keys().map(|name| (name.clone(), SystemTime::now())).collect();
        let inner = Inner {
            config_dir,
            socket_group: settings.agent.socket_group.clone(),
            settings: watch::Sender::new(settings),
            material: watch::Sender::new(Arc::new(material)),
            complaints: watch::Sender::new(Arc::new(of_files)),
            kept: OnceLock::new(),
            since: Mutex::new(since),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The settings now. A run keeps what it began with.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.inner.settings.borrow().clone()
    }

    /// What the files beside the settings hold now.
    pub(crate) fn material(&self) -> Arc<Material> {
        self.inner.material.borrow().clone()
    }

    /// Keeps the list of revoked keys in the agent's state directory from now on. Where the list itself is gone, what was kept of it is in force.
    pub(crate) fn keep_revoked_in(&self, state: &Path) {
        let file = self.inner.kept.get_or_init(|| state.join("revoked_keys"));
        if let Ok(text) = std::fs::read_to_string(file) {
            // It was written by the agent; a line that is damaged revokes nothing, and the others do.
            let (revoked, _) = Revoked::parse(&text);
            self.inner.material.send_if_modified(|in_force| {
                let missed = in_force.listed == Listed::Never;
                if missed {
                    *in_force = Arc::new(Material { revoked: Arc::new(revoked), listed: Listed::Once, ..(**in_force).clone() });
                }
                missed
            });
        }
        // Complaints are logged by the reload itself.
        let _ = self.reload();
    }

    /// Writes the list of revoked keys down, where it is another one than is kept.
    fn keep_revoked(&self) {
        let material = self.material();
        let Some(file) = self.inner.kept.get().filter(|_| material.listed == Listed::Once) else { return };
        let text = material.revoked.to_string();
        if std::fs::read_to_string(file).is_ok_and(|kept| kept == text) {
            return;
        }
        let new = file.with_extension("new");
        if let Err(err) = write_closed(&new, &text).and_then(|()| std::fs::rename(&new, file)) {
            tracing::warn!("the list of revoked keys cannot be kept in {}: {err}", file.display());
        }
    }

    /// The configuration directory.
    pub(crate) fn config_dir(&self) -> &Path {
        &self.inner.config_dir
    }

    /// The file of the keys that are known.
    pub(crate) fn allowed_signers(&self) -> PathBuf {
        self.inner.config_dir.join("allowed_signers")
    }

    /// What is set otherwise than at the start, and counts only from the next one on.
    pub(crate) fn awaits_restart(&self) -> Option<String> {
        let named = |group: &Option<String>| group.as_ref().map_or("not set".to_owned(), |group| format!("{group:?}"));
        let (now, start) = (&self.settings().agent.socket_group, &self.inner.socket_group);
        (now != start).then(|| format!("socket_group is {} now, and the socket was made when it was {}", named(now), named(start)))
    }

    /// The settings now and each time that they change.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Settings>> {
        self.inner.settings.subscribe()
    }

    /// What is wrong with the files as they are now; then the settings in force are older than the files.
    pub(crate) fn complaints(&self) -> Arc<Vec<Complaint>> {
        self.inner.complaints.borrow().clone()
    }

    /// The complaints now and each time that they change.
    pub(crate) fn follow_complaints(&self) -> watch::Receiver<Arc<Vec<Complaint>>> {
        self.inner.complaints.subscribe()
    }

    /// The files in `apps/` that are not read, though somebody may have meant them to be.
    pub(crate) fn unread_files(&self) -> Vec<PathBuf> {
        unread_files(&self.inner.config_dir)
    }

    /// Reads all files again, and puts them in force when nothing is wrong with them. It reads files: not for a thread that must not wait.
    pub(crate) fn reload(&self) -> Result<Arc<Settings>, Arc<Vec<Complaint>>> {
        let mut since = self.inner.since.lock();
        let before = self.settings();
        let Loaded { settings, mut complaints } = load_over(&self.inner.config_dir, Some(Before { settings: &before, since: &since }));
        let settings = settings.map(Arc::new);
        if let Some(settings) = &settings {
            let changed = settings.apps.iter().filter(|(name, app)| app.stale.is_none() && before.apps.get(*name) != Some(*app));
            since.extend(changed.map(|(name, _)| (name.clone(), SystemTime::now())));
        }
        // The files beside the settings count whatever is wrong with the settings: what is revoked is revoked at once.
        let governing = settings.clone().unwrap_or_else(|| self.settings());
        let (material, more) = https::load(&governing, &self.inner.config_dir, &self.material());
        complaints.extend(more);
        let renewed = self.inner.material.send_if_modified(|in_force| {
            let differ = **in_force != material;
            if differ {
                *in_force = Arc::new(material);
            }
            differ
        });
        if renewed {
            tracing::info!("the keys or the certificate have changed and are in force");
        }
        self.keep_revoked();
        let complaints = Arc::new(complaints);
        self.inner.complaints.send_if_modified(|old| {
            for complaint in complaints.iter().filter(|complaint| !old.contains(complaint)) {
                tracing::error!("{complaint}");
            }
            let differ = **old != *complaints;
            *old = complaints.clone();
            differ
        });
        let Some(settings) = settings else { return Err(complaints) };
        let taken_up = self.inner.settings.send_if_modified(|in_force| {
            let differ = **in_force != *settings;
            if differ {
                *in_force = settings.clone();
            }
            differ
        });
        if taken_up {
            let what = if complaints.is_empty() { "the configuration" } else { "what is right of the configuration" };
            tracing::info!(apps = settings.apps.len(), "{what} has changed and is in force");
            if let Some(awaits) = self.awaits_restart() {
                tracing::warn!("{awaits}: it counts from the next start on (systemctl restart release-agent)");
            }
        }
        if complaints.is_empty() { Ok(settings) } else { Err(complaints) }
    }

    /// Watches the files from now on, until the value is dropped. A host without a watch to spare is no reason to fail: the files are then read
    /// every few seconds.
    pub(crate) fn watch(&self) -> Watching {
        let (signals, received) = channel();
        let watched = self.arm(&signals);
        let in_force = self.clone();
        let own_signals = signals.clone();
        let spawned =
            thread::Builder::new().name("settings".to_owned()).spawn(move || in_force.take_up_changes(watched, &own_signals, &received));
        if let Err(err) = spawned {
            tracing::error!("the configuration is not watched, only SIGHUP reads it again: {err}");
        }
        Watching { signals }
    }

    fn arm(&self, signals: &Sender<Signal>) -> WatchedDirectories {
        let settings = self.settings();
        let mut files = https::files(&settings, &self.inner.config_dir);
        files.extend(settings.apps.values().flat_map(|app| app.webhook_files.iter().map(|webhook| webhook.secret_file.clone())));
        WatchedDirectories::arm(&self.inner.config_dir, &files, signals)
    }

    fn take_up_changes(&self, mut watched: WatchedDirectories, signals: &Sender<Signal>, received: &Receiver<Signal>) {
        // What changed before the watch stood.
        let mut failed = self.reload().is_err();
        loop {
            let signal = if failed || watched.blind {
                received.recv_timeout(AGAIN)
            } else {
                received.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match signal {
                Ok(Signal::Changed) => {
                    if wait_for_quiet(received).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Signal::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
            // Armed before the files are read, so that a later change signals again.
            watched = self.arm(signals);
            failed = self.reload().is_err();
        }
    }
}

/// Writes a small file that nobody else can read.
fn write_closed(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

enum Signal {
    Changed,
    End,
}

/// An end that was asked for.
struct Ended;

fn wait_for_quiet(received: &Receiver<Signal>) -> Result<(), Ended> {
    let end = Instant::now() + BUSY;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match received.recv_timeout(QUIET.min(left)) {
            Ok(Signal::Changed) => {}
            Ok(Signal::End) | Err(RecvTimeoutError::Disconnected) => return Err(Ended),
            Err(RecvTimeoutError::Timeout) => return Ok(()),
        }
    }
}

/// The files are watched as long as this value lives.
#[derive(Debug)]
#[must_use = "the watch ends when this is dropped"]
pub(crate) struct Watching {
    signals: Sender<Signal>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Nobody hears it when the thread never started.
        let _ = self.signals.send(Signal::End);
    }
}

struct WatchedDirectories {
    /// Kept for its drop.
    _watcher: Option<RecommendedWatcher>,
    /// Whether something could not be watched.
    blind: bool,
}

impl WatchedDirectories {
    fn arm(config_dir: &Path, files: &[PathBuf], signals: &Sender<Signal>) -> Self {
        let signals = signals.clone();
        let directories = directories_of(files);
        let of_interest: Vec<PathBuf> = [config_dir.to_owned()].into_iter().chain(directories.iter().cloned()).collect();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns = |paths: &[PathBuf]| of_interest.iter().any(|directory| concerns(paths, directory));
            let received = event.map_or(true, |event| is_change(&event.kind) && concerns(&event.paths) || event.need_rescan());
            if received {
                // Nobody hears it once the watch has ended.
                let _ = signals.send(Signal::Changed);
            }
        });
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(err) => {
                tracing::warn!("the configuration cannot be watched, and is read every few seconds instead: {err}");
                return Self { _watcher: None, blind: true };
            }
        };
        let apps = config_dir.join("apps");
        let above = config_dir.ancestors().skip(1).find(|above| above.is_dir());
        let mut blind = false;
        let within = [config_dir, apps.as_path()].into_iter().chain(directories.iter().map(PathBuf::as_path)).filter(|dir| dir.is_dir());
        for dir in above.into_iter().chain(within) {
            if let Err(err) = watcher.watch(dir, RecursiveMode::NonRecursive) {
                tracing::warn!("{} cannot be watched, and is read every few seconds instead: {err}", dir.display());
                blind = true;
            }
        }
        Self { _watcher: Some(watcher), blind }
    }
}

/// The directories in which a change can mean another file: where each file's name is and, along its links, where it really lies. So a certificate
/// that is renewed behind a link is noticed, as well as a link that is replaced.
fn directories_of(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for file in files {
        let mut file = file.clone();
        // As many links as path_resolution(7) follows.
        for _ in 0..40 {
            let Some(parent) = file.parent().map(Path::to_owned) else { break };
            directories.push(parent.clone());
            let Ok(target) = std::fs::read_link(&file) else { break };
            file = parent.join(target);
        }
    }
    directories.sort();
    directories.dedup();
    directories
}

/// Reading is no change: otherwise our own reading would signal for ever.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// Whether one of the paths lies within the configuration directory, or on the way to it: what else happens beside it is none of our business.
fn concerns(paths: &[PathBuf], config_dir: &Path) -> bool {
    paths.is_empty() || paths.iter().any(|path| path.starts_with(config_dir) || config_dir.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise each reading would be the reason for the next.
    #[test]
    fn reading_is_no_change() {
        use notify::event::{CreateKind, MetadataKind, ModifyKind};
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), true),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Any, true),
        ] {
            assert_eq!(is_change(&kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_happens_beside_the_directory_is_passed_over() {
        let concerned = |path: &str| concerns(&[PathBuf::from(path)], Path::new("/etc/release-agent"));
        assert!(concerned("/etc/release-agent") && concerned("/etc/release-agent/apps/shop.toml") && concerned("/etc"));
        assert!(!concerned("/etc/passwd") && !concerned("/etc/release-agent.old"));
    }
}
