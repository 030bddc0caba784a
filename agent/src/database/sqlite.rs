//! SQLite, by its online backup: a copy that is consistent while others read and write.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};

use super::{DatabaseError, DumpFile};
use crate::database::{Database, Reached};
use crate::process::Watch;

/// Pages that are copied at a time; between them it is asked whether to go on.
const PAGES: i32 = 1024;
/// How often others may make the copy begin anew before they have to wait for it.
const MOST_RESTARTS: u32 = 3;

/// Copies into a file that is there and empty; by way of `scratch`, where SQLite cannot open it by its path.
pub(super) fn dump(database: &Database, into: &DumpFile, scratch: &Path, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    if database.name.is_empty() || database.name.contains(":memory:") || database.name.contains("mode=memory") {
        return Err(DatabaseError::InMemory(database.alias.clone()));
    }
    let (from, file) = match &database.reached {
        Reached::File { path, device, inode } => (path.as_path(), (*device, *inode)),
        Reached::Absent => return Err(DatabaseError::NotThere { alias: database.alias.clone(), path: database.name.clone().into() }),
        other => return Err(DatabaseError::Unproven { alias: database.alias.clone(), why: format!("{other:?}") }),
    };
    let copy = |from: &Path, part: &Path, watch: &Watch<'_>| copy(from, part, watch, || same_file(database, from, file));
    match &into.path {
        Some(part) => copy(from, part, watch)?,
        None => {
            let part = scratch.join("copy.sqlite3");
            let file = |source| DatabaseError::File { act: "write the copy of", path: from.to_owned(), source };
            File::create(&part).map_err(file)?;
            copy(from, &part, watch)?;
            let mut copied = File::open(&part).map_err(file)?;
            std::io::copy(&mut copied, &mut &*into.file).map_err(file)?;
            std::fs::remove_file(&part).map_err(file)?;
        }
    }
    Ok(())
}

pub(super) fn error(act: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> DatabaseError {
    let path = path.to_owned();
    move |source| DatabaseError::Sqlite { act, path: path.clone(), source }
}

/// Whether there is reason to go on.
pub(super) fn go_on(watch: &Watch<'_>) -> Result<(), DatabaseError> {
    match (watch.cancel.asked(), watch.left().is_zero()) {
        (true, _) => Err(DatabaseError::Cancelled),
        (false, true) => Err(DatabaseError::TimedOut),
        (false, false) => Ok(()),
    }
}

/// The file that was opened must be the one that Django's driver has opened.
fn same_file(database: &Database, from: &Path, django: (u64, u64)) -> Result<(), DatabaseError> {
    let meta = std::fs::metadata(from).map_err(|source| DatabaseError::File { act: "look at", path: from.to_owned(), source })?;
    let ours = (meta.dev(), meta.ino());
    if ours == django {
        return Ok(());
    }
    let told = |(device, inode): (u64, u64)| format!("{} (inode {inode} of device {device})", from.display());
    Err(DatabaseError::Another { alias: database.alias.clone(), django: told(django), tools: told(ours) })
}

/// `same` is asked once the file is open.
fn copy(from: &Path, part: &Path, watch: &Watch<'_>, same: impl Fn() -> Result<(), DatabaseError>) -> Result<(), DatabaseError> {
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(error("open", from))?;
    same()?;
    source.busy_timeout(Duration::from_millis(200)).map_err(error("open", from))?;
    let mut target = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(error("open", part))?;
    // A dump becomes durable in one place, whatever made it: when it gets its name.
    target.pragma_update(None, "synchronous", "off").map_err(error("open", part))?;
    let journal: String =
        patiently(watch, || source.query_row("PRAGMA journal_mode", [], |row| row.get(0)))?.map_err(error("read", from))?;
    let hold = || {
        let begin = || if source.is_autocommit() { source.execute_batch("BEGIN") } else { Ok(()) };
        let read = || source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        patiently(watch, || begin().and_then(|()| read()))?.map_err(error("read", from))
    };
    // A write from elsewhere makes the copy begin anew, unless a transaction holds what is read. With a write-ahead log that disturbs nobody.
    // Without one it keeps writers waiting, so it is done only when they do not let the copy come to its end.
    let mut held = journal == "wal";
    if held {
        hold()?;
    }
    let backup = Backup::new(&source, &mut target).map_err(error("copy", from))?;
    let (mut remaining, mut restarts) = (i32::MAX, 0);
    loop {
        go_on(watch)?;
        match backup.step(PAGES).map_err(error("copy", from))? {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                let now = backup.progress().remaining;
                restarts += u32::from(now >= remaining);
                remaining = now;
                if !held && restarts > MOST_RESTARTS {
                    hold()?;
                    held = true;
                }
            }
            _ => {
                watch.pause(Duration::from_millis(20));
            }
        }
    }
}

/// Tries again while others keep the database locked; a busy writer leaves only short gaps.
fn patiently<T>(watch: &Watch<'_>, act: impl Fn() -> rusqlite::Result<T>) -> Result<rusqlite::Result<T>, DatabaseError> {
    loop {
        go_on(watch)?;
        let result = act();
        match &result {
            Err(err) if err.sqlite_error_code().is_some_and(|code| matches!(code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
                watch.pause(Duration::from_millis(1));
            }
            _ => return Ok(result),
        }
    }
}

/// Has SQLite look at every page.
pub(super) fn verify(part: &Path, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    // To SQLite that is a database without tables; but a copy of one has a page all the same.
    if std::fs::metadata(part).is_ok_and(|meta| meta.len() == 0) {
        return Err(DatabaseError::Unsound("it is empty".to_owned()));
    }
    // Immutable: a copy of a database with a write-ahead log would else get one of its own.
    let uri = format!("file:{}?immutable=1", escaped(part));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(uri, flags).map_err(error("open", part))?;
    let said = interruptible(copy.get_interrupt_handle(), watch, || {
        copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    });
    go_on(watch)?;
    match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(said) => Err(DatabaseError::Unsound(said)),
        Err(err) => Err(DatabaseError::Unsound(err.to_string())),
    }
}

/// Does something that SQLite must be told to stop doing when the run is cancelled or its time is over.
fn interruptible<T>(handle: InterruptHandle, watch: &Watch<'_>, act: impl FnOnce() -> T) -> T {
    let (done, cancel, deadline) = (AtomicBool::new(false), watch.cancel.clone(), watch.deadline);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if cancel.asked() || std::time::Instant::now() >= deadline {
                    handle.interrupt();
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        let result = act();
        done.store(true, Ordering::Release);
        watcher.thread().unpark();
        result
    })
}

/// A path as a URI holds it.
fn escaped(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes.map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
