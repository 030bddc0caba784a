//! Database backups: a file for each kind.

mod postgres;
mod reached;
mod restore;
mod sqlite;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::faults;

pub(crate) use reached::{Database, IDENTITY, Reached, Server};
pub(crate) use restore::{command as restore_command, restore, target};

use crate::process::{ProgramError, Watch};

/// `[backup]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `database`; without it, what Django's settings say.
    pub kind: Option<DatabaseKind>,
    /// `keep`: how many dumps stay.
    pub keep: usize,
}

/// The kinds of database that can be dumped and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatabaseKind {
    /// `pg_dump -Fc`, verified by `pg_restore`, which reads all of it.
    Postgres,
    /// The online backup of SQLite, verified by `integrity_check`.
    Sqlite,
}

impl Settings {
    /// The kind of the dumps of a database.
    ///
    /// # Errors
    /// [`DatabaseError::NoKind`] when none is set, and no dump can be made of such a database.
    pub(crate) fn kind_of(&self, vendor: &str) -> Result<DatabaseKind, DatabaseError> {
        let fits = DatabaseKind::ALL.into_iter().find(|kind| kind.vendor() == vendor);
        self.kind.or(fits).ok_or_else(|| DatabaseError::NoKind(vendor.to_owned()))
    }

    /// The kinds that its dumps can have.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = DatabaseKind> {
        let set = self.kind;
        DatabaseKind::ALL.into_iter().filter(move |kind| set.is_none_or(|set| set == *kind))
    }
}

impl DatabaseKind {
    const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];

    /// As it is set.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }

    /// What the names of its dumps end with.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Postgres => "dump",
            Self::Sqlite => "sqlite3",
        }
    }

    /// The kind of a dump, by its name.
    pub(crate) fn of(dump: &Path) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| dump.extension() == Some(OsStr::new(kind.ending())))
    }

    /// As Django calls it.
    fn vendor(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }
}

/// A dump that was verified and is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Why there is no dump.
#[derive(Debug, Error)]
pub(crate) enum DatabaseError {
    /// The backup is of another kind than the database.
    #[error("[backup] database is \"{kind}\", but the database \"{alias}\" of the settings is {vendor}")]
    OtherKind {
        /// What is set.
        kind: &'static str,
        /// Which database.
        alias: String,
        /// What it is.
        vendor: String,
    },
    /// No dump can be made of it.
    #[error("[backup] is set, and no dump can be made of a database of {0:?}")]
    NoKind(String),
    /// It is not known which database Django uses.
    #[error("no dump is made: the database \"{alias}\" cannot be identified: {why}")]
    Unproven {
        /// Which of the settings'.
        alias: String,
        /// Why not.
        why: String,
    },
    /// What would be dumped is not what Django uses.
    #[error("no dump is made: Django's database \"{alias}\" is {django}, and the dump would be of {tools}")]
    Another {
        /// Which of the settings'.
        alias: String,
        /// The one end.
        django: String,
        /// The other one.
        tools: String,
    },
    /// There is no database yet.
    #[error("the database \"{alias}\" does not exist yet ({}); there is nothing to back up", path.display())]
    NotThere {
        /// Which of the settings'.
        alias: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The database lives in no file.
    #[error("the database \"{0}\" is kept in memory; there is nothing to back up")]
    InMemory(String),
    /// There is a dump of that name.
    #[error("{} is there already; a dump is never overwritten", .0.display())]
    AlreadyThere(PathBuf),
    /// A file cannot be written or read.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{act} failed")]
    Program {
        /// What was done.
        act: String,
        /// What to do about it.
        hint: Option<String>,
        /// How it ended.
        #[source]
        source: ProgramError,
    },
    /// SQLite failed.
    #[error("cannot {act} {}", path.display())]
    Sqlite {
        /// What was to be done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// What was written is no good.
    #[error("the dump does not verify: {0}")]
    Unsound(String),
    /// The run was cancelled.
    #[error("the backup was ended: the run is cancelled")]
    Cancelled,
    /// The step took too long.
    #[error("the backup was ended at its timeout")]
    TimedOut,
}

impl DatabaseError {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Program { hint, source, .. } => hint.as_deref().or(source.hint()),
            Self::OtherKind { .. } => {
                Some("set [backup] database to the kind that it is, or [django] database to another alias; or leave [backup] out")
            }
            Self::InMemory(_) => Some("leave [backup] out"),
            Self::NoKind(_) => Some("take [backup] out of the app's file, and make the dump by a hook: before = \"migrate\""),
            Self::Unproven { .. } => Some("see that manage.py reaches the database with [env] and [secrets], and ask again"),
            Self::Another { .. } => Some("name host and port in the settings, so that every program reaches the same server by them"),
            Self::Unsound(_) => Some("is there room on the disk? `agentctl prune` removes old releases"),
            Self::TimedOut => Some("allow it more time: [timeouts] backup"),
            Self::AlreadyThere(_) | Self::NotThere { .. } | Self::File { .. } | Self::Sqlite { .. } | Self::Cancelled => None,
        }
    }

    /// The last lines of the program that failed.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Program { source, .. } => source.tail(),
            _ => &[],
        }
    }
}

/// Where a dump goes: a file that is open, and, for whoever may open it himself, its path.
#[derive(Debug, Clone)]
pub(crate) struct DumpFile {
    /// Empty, and open for reading and writing.
    pub file: Arc<File>,
    /// Where it is.
    pub path: Option<PathBuf>,
}

/// Dumps a database into a file that is there and empty, once it is proven to be the one that Django uses.
///
/// # Errors
/// [`DatabaseError`] when the dump cannot be made.
pub(crate) fn dump(
    kind: DatabaseKind,
    database: &Database,
    into: &DumpFile,
    scratch: &Path,
    watch: &Watch<'_>,
) -> Result<(), DatabaseError> {
    if database.vendor != kind.vendor() {
        let (alias, vendor) = (database.alias.clone(), database.vendor.clone());
        return Err(DatabaseError::OtherKind { kind: kind.name(), alias, vendor });
    }
    match kind {
        DatabaseKind::Postgres => postgres::dump(database, &into.file, watch),
        DatabaseKind::Sqlite => sqlite::dump(database, into, scratch, watch),
    }
}

/// Reads all of a dump, as was done when it was made.
///
/// # Errors
/// [`DatabaseError::Unsound`] when it is no good; another one when that cannot be told.
pub(crate) fn verify(kind: DatabaseKind, dump: &Path, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    match kind {
        DatabaseKind::Postgres => postgres::verify(dump, watch),
        DatabaseKind::Sqlite => sqlite::verify(dump, watch),
    }
}

/// A dump that is being written beside its final name; removed again unless it is kept.
pub(crate) struct Part {
    path: PathBuf,
    to: PathBuf,
    file: Arc<File>,
}

impl Part {
    /// A new file, empty, which nobody else may open.
    ///
    /// # Errors
    /// [`DatabaseError`] when there is a dump of that name, or the file cannot be made.
    pub(crate) fn create(to: &Path) -> Result<Self, DatabaseError> {
        if to.symlink_metadata().is_ok() {
            return Err(DatabaseError::AlreadyThere(to.to_owned()));
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = to.with_file_name(name);
        let file = |act, source| DatabaseError::File { act, path: path.clone(), source };
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(file("remove", err)),
        }
        // Private from its first byte on.
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let open = open.map_err(|err| file("create", err))?;
        Ok(Self { path, to: to.to_owned(), file: Arc::new(open) })
    }

    /// Where its contents go.
    pub(crate) fn file(&self) -> DumpFile {
        DumpFile { file: self.file.clone(), path: Some(self.path.clone()) }
    }

    /// Verifies what was written, and makes it durable under its name.
    ///
    /// # Errors
    /// [`DatabaseError::Unsound`] when it is no good; another one when it cannot be kept. Then no file is left.
    pub(crate) fn keep(self, kind: DatabaseKind, watch: &Watch<'_>) -> Result<Dump, DatabaseError> {
        verify(kind, &self.path, watch)?;
        faults::at("dumped");
        let to = self.to.clone();
        let bytes = self.publish()?;
        Ok(Dump { path: to, bytes })
    }

    /// Makes it durable under its name; gives its size.
    fn publish(self) -> Result<u64, DatabaseError> {
        let to = self.to.as_path();
        let file = |act, path: &Path| {
            let path = path.to_owned();
            move |source| DatabaseError::File { act, path, source }
        };
        self.file.sync_all().map_err(file("make durable", &self.path))?;
        let bytes = self.file.metadata().map_err(file("look at", &self.path))?.len();
        fs::rename(&self.path, to).map_err(file("rename", &self.path))?;
        faults::at("renamed");
        let dir = to.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(file("make durable", dir))?;
        Ok(bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the rename it is gone; when it cannot be removed, the next backup of this name tries again and says so.
        let _ = fs::remove_file(&self.path);
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod tests;
