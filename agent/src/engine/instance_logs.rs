//! Keeps the logs of instances small. A server that the agent starts writes to one file for as long as it serves, and with an access log that file
//! would fill the disk. The kernel reports writes (inotify(7)), and then the agent looks at the sizes, at most once a minute. Without writes, it does
//! not wake up.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The most bytes of a log. A larger log's content is moved to a second file beside it, and replaces that file's content.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// The shortest time between two looks at the sizes.
const PAUSE: Duration = Duration::from_secs(60);

/// The logs in one directory.
pub(super) struct InstanceLogs {
    dir: PathBuf,
    inotify: Option<Inotify>,
    armed: Option<WatchDescriptor>,
    looked: Option<Instant>,
}

impl InstanceLogs {
    /// Without inotify, the sizes are read whenever the monitor looks at the instance.
    pub(super) fn within(dir: PathBuf) -> Self {
        Self { dir, inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok(), armed: None, looked: None }
    }

    /// Looks at the sizes where that is due. Returns the time until the next call; `None` where the kernel reports the next write.
    pub(super) fn look(&mut self) -> Option<Duration> {
        let heard = self.inotify.as_ref().is_some_and(|inotify| inotify.read_events().is_ok());
        if let (Some(inotify), Some(watched), true) = (&self.inotify, self.armed, heard) {
            // The watch is off for a minute, however much is written.
            let _ = inotify.rm_watch(watched);
            self.armed = None;
        }
        let rests = self.looked.map_or(Duration::ZERO, |looked| (looked + PAUSE).saturating_duration_since(Instant::now()));
        if !rests.is_zero() {
            return self.armed.is_none().then_some(rests);
        }
        self.looked = Some(Instant::now());
        if self.armed.is_none() {
            // The watch is set before the look, so that no later write is missed.
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

/// Moves the content of each log larger than this into a second file. The file itself stays, because its server has it open for appending.
fn bound(dir: &Path, most: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if path.extension().is_some_and(|ending| ending == "log") && meta.is_file() && meta.len() > most {
            let mut from = File::open(&path)?;
            let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path.with_extension("log.1"))?;
            io::copy(&mut from, &mut to)?;
            // Bytes that are written at this very moment are lost, as with logrotate's copytruncate.
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
