//! The only writer: a connection that threads use in turn, the pending lines of output, and the watchers that are notified after each commit.
//!
//! A line of output waits for a moment, so that many are written in one transaction; any other write flushes the pending lines first. So the events
//! of a run keep their order, and the mark after a line makes it durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use agent_model::names::RunId;
use chrono::Utc;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, Transaction as SqlTransaction, TransactionBehavior};
use tokio::sync::watch;

use super::evidence::Entry;
use super::{JournalError, Line, insert_line};

/// How long a line waits for others. Followers read it that much later.
const GATHER: Duration = Duration::from_millis(20);
/// The bytes of lines that are written at once, without waiting for more.
const ENOUGH: usize = 128 * 1024;
/// The most pending bytes; a thread with more output waits for room.
const MOST_WAITING: usize = 512 * 1024;
/// The size of a reserve file that is removed when the disk is full, so that a mark can still be written.
const RESERVE: usize = 1024 * 1024;

/// The durability of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// A mark: on disk when the write returns, and may use the reserve on a full disk.
    Mark,
    /// An event just before a mark, before anything is done: on disk with that mark, and may use the reserve as well.
    Heading,
    /// An event that a power failure may lose: on disk with the next mark.
    Line,
}

impl Weight {
    /// The word of `PRAGMA synchronous`.
    fn synchronous(self) -> &'static str {
        match self {
            Self::Mark => "full",
            Self::Heading | Self::Line => "normal",
        }
    }
}

pub(super) struct Writer {
    path: PathBuf,
    write_connection: Mutex<WriteConnection>,
    waiting: Mutex<Waiting>,
    /// Signals pending lines, or the end of lines.
    something: Condvar,
    /// Signals room for more lines.
    room: Condvar,
    watchers: Watchers,
    /// The newest moment that this journal has seen, in milliseconds since 1970 UTC: a correct clock shows no earlier one.
    pub(super) newest: AtomicI64,
    /// Whether the reserve was used up.
    spent: AtomicBool,
}

struct WriteConnection {
    connection: Connection,
    /// The weight that the connection is currently set to.
    weight: Option<Weight>,
}

/// Lines of output that are not written yet.
#[derive(Default)]
struct Waiting {
    lines: Vec<Line>,
    bytes: usize,
    /// The number of lines lost on a full disk, by run.
    lost: BTreeMap<u64, u64>,
    /// Other errors of the lines, by run, until they are reported.
    failed: BTreeMap<u64, JournalError>,
    /// No more lines will come.
    closed: bool,
}

/// A transaction, and the runs that it writes about.
pub(super) struct Transaction<'a> {
    transaction: SqlTransaction<'a>,
    pub(super) runs: std::cell::RefCell<BTreeSet<u64>>,
    /// The entries for the system log, written after the commit.
    pub(super) entries: std::cell::RefCell<Vec<Entry>>,
}

impl std::ops::Deref for Transaction<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.transaction
    }
}

/// The watchers of the journal.
struct Watchers {
    all: watch::Sender<u64>,
    /// The watchers of single runs. Followers of other runs are not woken.
    of_run: Mutex<BTreeMap<u64, watch::Sender<()>>>,
}

impl Watchers {
    fn notify(&self, runs: &BTreeSet<u64>) {
        self.all.send_modify(|count| *count += 1);
        let watchers = self.of_run.lock();
        for changes in runs.iter().filter_map(|run| watchers.get(run)) {
            changes.send_replace(());
        }
    }
}

impl Writer {
    pub(super) fn new(path: PathBuf, connection: Connection, newest: i64) -> Self {
        let writer = Self {
            path,
            write_connection: Mutex::new(WriteConnection { connection, weight: None }),
            waiting: Mutex::default(),
            something: Condvar::new(),
            room: Condvar::new(),
            watchers: Watchers { all: watch::Sender::new(0), of_run: Mutex::default() },
            newest: AtomicI64::new(newest),
            spent: AtomicBool::new(false),
        };
        writer.keep_reserve();
        writer
    }

    /// Changes with every write.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.watchers.all.subscribe()
    }

    /// Changes with every write about one run.
    pub(super) fn changes_of(&self, run: RunId) -> watch::Receiver<()> {
        let mut watchers = self.watchers.of_run.lock();
        watchers.retain(|_, changes| changes.receiver_count() > 0);
        watchers.entry(run.0).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_file_name("reserve")
    }

    fn write_reserve(&self) -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.reserve())?;
        file.write_all(&vec![0; RESERVE])
    }

    pub(super) fn keep_reserve(&self) {
        if self.reserve().exists() {
            return;
        }
        let kept = self.write_reserve().is_ok();
        self.spent.store(!kept, Ordering::Release);
        if !kept {
            tracing::warn!("no room for the reserve of the journal {}", self.path.display());
            // A half-written reserve would count as a whole one.
            let _ = fs::remove_file(self.reserve());
        }
    }

    /// The space of the reserve is for marks alone.
    fn refuse_when_spent(&self) -> Result<(), JournalError> {
        if self.spent.load(Ordering::Acquire) { Err(JournalError::Full(self.path.clone())) } else { Ok(()) }
    }

    /// Flushes the pending lines, then writes. A mark is on disk when this returns. On a full disk the reserve is released and the mark written
    /// again.
    pub(super) fn write<T>(&self, weight: Weight, act: impl Fn(&Transaction<'_>) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut write_connection = self.write_connection.lock();
        self.write_what_waits(&mut write_connection);
        let done = match write_connection.once(weight, &act) {
            Err(err) if is_full(&err) && weight != Weight::Line && fs::remove_file(self.reserve()).is_ok() => {
                tracing::error!("the disk of {} is full: the reserve of the journal is given back", self.path.display());
                self.spent.store(true, Ordering::Release);
                write_connection.once(weight, &act)
            }
            done => done,
        };
        let (done, runs) = done.map_err(|err| if is_full(&err) { JournalError::Full(self.path.clone()) } else { err })?;
        drop(write_connection);
        self.written(&runs);
        Ok(done)
    }

    /// Writes an event that a power failure may lose. On a full disk it may not use the reserve: [`JournalError::Full`].
    pub(super) fn write_soon<T>(&self, act: impl Fn(&Transaction<'_>) -> Result<T, JournalError>) -> Result<T, JournalError> {
        self.refuse_when_spent()?;
        self.write(Weight::Line, act)
    }

    fn written(&self, runs: &BTreeSet<u64>) {
        self.newest.fetch_max(Utc::now().timestamp_millis(), Ordering::AcqRel);
        self.watchers.notify(runs);
    }

    /// Accepts a line of output, which is written a moment later. Returns the error of earlier lines of its run.
    pub(super) fn take_line(&self, line: Line) -> Result<(), JournalError> {
        self.refuse_when_spent()?;
        let mut waiting = self.waiting.lock();
        while waiting.bytes >= MOST_WAITING {
            self.room.wait(&mut waiting);
        }
        if let Some(err) = waiting.failed.remove(&line.run) {
            return Err(err);
        }
        waiting.bytes += line.text.len();
        waiting.lines.push(line);
        if waiting.lines.len() == 1 || waiting.bytes >= ENOUGH {
            self.something.notify_one();
        }
        Ok(())
    }

    /// Writes the pending lines. Returns how many lines of a run were lost on a full disk since the last call.
    pub(super) fn settle(&self, run: RunId) -> Result<u64, JournalError> {
        self.write_what_waits(&mut self.write_connection.lock());
        let mut waiting = self.waiting.lock();
        let lost = waiting.lost.remove(&run.0).unwrap_or(0);
        waiting.failed.remove(&run.0).map_or(Ok(lost), Err)
    }

    /// Writes lines as they come, until the writer is closed.
    pub(super) fn write_lines(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.lines.is_empty() {
                if waiting.closed {
                    return;
                }
                self.something.wait(&mut waiting);
            }
            let until = Instant::now() + GATHER;
            while waiting.bytes < ENOUGH && !waiting.lines.is_empty() && !waiting.closed {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.something.wait_for(&mut waiting, left);
            }
            drop(waiting);
            self.write_what_waits(&mut self.write_connection.lock());
        }
    }

    /// Announces the end of lines; the pending ones are written.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.something.notify_all();
    }

    /// Writes the pending lines over the held connection, so that they precede its own write. Errors are kept for the runs of the lines, and do not
    /// fail that write.
    fn write_what_waits(&self, write_connection: &mut WriteConnection) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut waiting.lines);
        waiting.bytes = 0;
        drop(waiting);
        self.room.notify_all();
        let wrote = self.refuse_when_spent().and_then(|()| {
            write_connection.once(Weight::Line, &|transaction| lines.iter().try_for_each(|line| insert_line(transaction, line)))
        });
        match wrote {
            Ok(((), runs)) => self.written(&runs),
            // A line of output must not fail the run.
            Err(err) if is_full(&err) => {
                let mut waiting = self.waiting.lock();
                for line in &lines {
                    *waiting.lost.entry(line.run).or_default() += 1;
                }
            }
            Err(err) => {
                let mut waiting = self.waiting.lock();
                for line in &lines {
                    waiting.failed.entry(line.run).or_insert_with(|| err.again());
                }
            }
        }
    }

    /// The connection, for tests.
    #[cfg(test)]
    pub(super) fn with_connection<T>(&self, act: impl FnOnce(&Connection) -> T) -> T {
        act(&self.write_connection.lock().connection)
    }
}

impl WriteConnection {
    /// Runs one transaction; returns its result, and the runs that it wrote about.
    fn once<T>(
        &mut self,
        weight: Weight,
        act: &dyn Fn(&Transaction<'_>) -> Result<T, JournalError>,
    ) -> Result<(T, BTreeSet<u64>), JournalError> {
        // Set while the connection is held: a mark of one thread is never written with the setting that another chose for its output.
        if self.weight != Some(weight) {
            self.weight = None;
            self.connection.pragma_update(None, "synchronous", weight.synchronous())?;
            self.weight = Some(weight);
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let transaction = Transaction { transaction, runs: std::cell::RefCell::default(), entries: std::cell::RefCell::default() };
        let done = act(&transaction)?;
        let Transaction { transaction, runs, entries } = transaction;
        transaction.commit()?;
        entries.into_inner().iter().for_each(Entry::tell);
        Ok((done, runs.into_inner()))
    }
}

fn is_full(err: &JournalError) -> bool {
    match err {
        JournalError::Full(_) => true,
        JournalError::Sqlite(rusqlite::Error::SqliteFailure(code, _)) => code.code == ErrorCode::DiskFull,
        _ => false,
    }
}
