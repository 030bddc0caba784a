//! Keeps the logs of instances small. A server that the agent starts writes into a file, for as long as it serves: with an access log that file would fill
//! the disk. The kernel tells when one is written (inotify(7)); then the sizes are looked at, at most once a minute. While nothing is written, nobody wakes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The most bytes of a log. What it has is then moved into a second file beside it, in the place of what that had.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// How often the sizes are looked at, at the most.
const PAUSE: Duration = Duration::from_secs(60);

/// The logs in one directory.
pub(super) struct InstanceLogs {
    dir: PathBuf,
    inotify: Option<Inotify>,
    armed: Option<WatchDescriptor>,
    looked: Option<Instant>,
}

impl InstanceLogs {
    /// Without inotify the logs are looked at whenever the instance is.
    pub(super) fn within(dir: PathBuf) -> Self {
        Self { dir, inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok(), armed: None, looked: None }
    }

    /// Looks at the sizes, where that is due. Tells after which time it should be asked again; nothing where the kernel tells.
    pub(super) fn look(&mut self) -> Option<Duration> {
        let heard = self.inotify.as_ref().is_some_and(|inotify| inotify.read_events().is_ok());
        if let (Some(inotify), Some(watched), true) = (&self.inotify, self.armed, heard) {
            // Not heard again for a minute, however much is written.
            let _ = inotify.rm_watch(watched);
            self.armed = None;
        }
        let rests = self.looked.map_or(Duration::ZERO, |looked| (looked + PAUSE).saturating_duration_since(Instant::now()));
        if !rests.is_zero() {
            return self.armed.is_none().then_some(rests);
        }
        self.looked = Some(Instant::now());
        if self.armed.is_none() {
            // Armed before it is looked: what is written from here on is heard.
            let watch = |inotify: &Inotify| inotify.add_watch(&self.dir, AddWatchFlags::IN_MODIFY).ok();
            self.armed = self.inotify.as_ref().and_then(watch);
        }
        if let Err(err) = bound(&self.dir, MOST_BYTES) {
            tracing::warn!("the logs of instances in {} cannot be kept small: {err}", self.dir.display());
        }
        None
    }

    /// Becomes readable when something is written.
    pub(super) fn written(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().filter(|_| self.armed.is_some()).map(AsFd::as_fd)
    }
}

/// Moves what logs have that are larger than this into a second file each. The file itself stays, since its server has it open, to append to.
fn bound(dir: &Path, most: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if path.extension().is_some_and(|ending| ending == "log") && meta.is_file() && meta.len() > most {
            let mut from = File::open(&path)?;
            let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path.with_extension("log.1"))?;
            io::copy(&mut from, &mut to)?;
            // What is written in this very moment is lost, as it is with logrotate's copytruncate.
            OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_too_large_is_moved_aside_and_its_server_goes_on_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut server = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        writeln!(server, "first").unwrap();
        bound(dir.path(), 6).unwrap();
        assert!(!dir.path().join("a.log.1").exists(), "it is not too large yet");
        writeln!(server, "second").unwrap();
        bound(dir.path(), 6).unwrap();
        writeln!(server, "third").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
        assert_eq!(fs::read_to_string(dir.path().join("a.log.1")).unwrap(), "first\nsecond\n");
    }

    #[test]
    fn nobody_wakes_while_nothing_is_written_and_at_most_once_a_minute_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut server = OpenOptions::new().append(true).create(true).open(path).unwrap();
        let mut logs = InstanceLogs::within(dir.path().to_owned());
        assert_eq!(logs.look(), None);
        assert!(logs.written().is_some(), "the kernel tells");
        assert_eq!(logs.look(), None, "nothing was written");
        writeln!(server, "more").unwrap();
        assert!(logs.look().unwrap() > Duration::from_secs(50));
        assert!(logs.written().is_none(), "what is written now is not heard");
    }
}
