//! What the tree of a commit holds, judged before a single file is written.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use thiserror::Error;

/// What a tree may hold at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Files and links.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Why a tree cannot be released.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TreeError {
    /// A link that leads out.
    #[error("the link {path:?} leads out of the release, to {target:?}")]
    Escapes {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Submodules.
    #[error("the commit has {} submodule(s), such as {:?}, and a release does not fetch them", .0.len(), .0.first().map_or("", String::as_str))]
    Submodules(Vec<String>),
    /// A name that the agent needs for itself.
    #[error("the commit ships {0:?} at its top, where the agent puts its own")]
    Reserved(String),
    /// Too many files.
    #[error("the commit has {found} files, and `limits.files` allows {allowed}")]
    Files {
        /// How many.
        found: u64,
        /// How many may be.
        allowed: u64,
    },
    /// So many files that they were not even listed.
    #[error("the commit has more than {allowed} files, which is what `limits.files` allows")]
    Endless {
        /// How many may be.
        allowed: u64,
    },
    /// Too many bytes.
    #[error("the commit has {found} bytes, and `limits.bytes` allows {allowed}")]
    Bytes {
        /// How many.
        found: u64,
        /// How many may be.
        allowed: u64,
    },
}

impl TreeError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Escapes { .. } => "a release must stand on its own: use [shared] for what lies outside".to_owned(),
            Self::Submodules(_) => "set submodules = \"ignore\" in the app's file when their directories may stay empty".to_owned(),
            Self::Reserved(_) => "rename it in the repository".to_owned(),
            Self::Files { .. } | Self::Endless { .. } | Self::Bytes { .. } => {
                "raise [limits] in the app's file, if that is meant".to_owned()
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    File,
    Link,
    Submodule,
}

#[derive(Debug)]
struct Entry {
    kind: EntryKind,
    id: String,
    size: u64,
}

/// A tree: its entries by path. Paths are bytes, as git has them.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
    blobs: BTreeMap<String, Vec<u8>>,
}

/// Pointers of Git LFS are a little more than a hundred bytes (git-lfs specification: at most 1024, and these three lines in practice).
const LFS_SIZES: std::ops::RangeInclusive<u64> = 110..=200;
const LFS_BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/v1";

impl Tree {
    /// Reads what `git ls-tree -r -z -l` prints: `mode SP type SP id SP size TAB path NUL`.
    pub(super) fn parse(listing: &[u8]) -> Option<Self> {
        let mut tree = Self::default();
        for record in listing.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let tab = record.iter().position(|byte| *byte == b'\t')?;
            let (head, path) = (std::str::from_utf8(&record[..tab]).ok()?, &record[tab + 1..]);
            let mut words = head.split_ascii_whitespace();
            let (mode, _, id, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let kind = match mode {
                "120000" => EntryKind::Link,
                "160000" => EntryKind::Submodule,
                _ => EntryKind::File,
            };
            tree.entries.insert(path.to_owned(), Entry { kind, id: id.to_owned(), size: size.parse().unwrap_or(0) });
        }
        Some(tree)
    }

    /// Whether there is a file at this path, and not a link.
    pub(crate) fn has_file(&self, path: &str) -> bool {
        self.entries.get(path.as_bytes()).is_some_and(|entry| entry.kind == EntryKind::File)
    }

    /// The blobs whose contents decide: the targets of links.
    pub(super) fn blobs_to_read(&self) -> Vec<String> {
        let decides = |entry: &&Entry| entry.kind == EntryKind::Link && entry.size <= 4096;
        let mut ids: Vec<String> = self.entries.values().filter(decides).map(|entry| entry.id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Reads what `git cat-file --batch` prints: `id SP type SP size LF contents LF`.
    pub(super) fn read_blobs(&mut self, mut text: &[u8]) -> Option<()> {
        while !text.is_empty() {
            let end = text.iter().position(|byte| *byte == b'\n')?;
            let head = std::str::from_utf8(&text[..end]).ok()?;
            let mut words = head.split(' ');
            let (id, _, size) = (words.next()?, words.next()?, words.next()?.parse::<usize>().ok()?);
            let contents = text.get(end + 1..end + 1 + size)?;
            self.blobs.insert(id.to_owned(), contents.to_owned());
            text = text.get(end + 2 + size..)?;
        }
        Some(())
    }

    /// How many files and links it has.
    pub(crate) fn files(&self) -> u64 {
        self.entries.len() as u64
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.size).sum()
    }

    /// Whether the tree has something at exactly this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path.as_bytes())
    }

    /// The paths of Git LFS pointers in the tree as it was written into `dir`: what stands there is not the content. What cannot be read is none.
    pub(crate) fn lfs_pointers(&self, dir: &Path) -> Vec<String> {
        let of_the_size = self.entries.iter().filter(|(_, entry)| entry.kind == EntryKind::File && LFS_SIZES.contains(&entry.size));
        let is_pointer = |path: &[u8]| fs::read(dir.join(OsStr::from_bytes(path))).is_ok_and(|text| text.starts_with(LFS_BEGINNING));
        of_the_size.filter(|(path, _)| is_pointer(path)).map(|(path, _)| shown(path)).collect()
    }

    /// The paths of submodules.
    pub(crate) fn submodules(&self) -> Vec<String> {
        self.entries.iter().filter(|(_, entry)| entry.kind == EntryKind::Submodule).map(|(path, _)| shown(path)).collect()
    }

    /// Holds the tree against its budget, the reserved names at its top, and the rule that no link leads out.
    pub(crate) fn check(&self, budget: Budget, reserved: &[&str]) -> Result<(), TreeError> {
        if self.files() > budget.files {
            return Err(TreeError::Files { found: self.files(), allowed: budget.files });
        }
        if self.bytes() > budget.bytes {
            return Err(TreeError::Bytes { found: self.bytes(), allowed: budget.bytes });
        }
        for name in reserved {
            let below = format!("{name}/");
            let ships = |path: &Vec<u8>| path == name.as_bytes() || path.starts_with(below.as_bytes());
            if self.entries.keys().any(ships) {
                return Err(TreeError::Reserved((*name).to_owned()));
            }
        }
        for (path, entry) in self.entries.iter().filter(|(_, entry)| entry.kind == EntryKind::Link) {
            let target = self.blobs.get(&entry.id);
            if !target.is_some_and(|target| self.stays_within(path, target)) {
                let target = target.map_or("somewhere too long to be read".to_owned(), |target| shown(target));
                return Err(TreeError::Escapes { path: shown(path), target });
            }
        }
        Ok(())
    }

    /// Follows a link through the other links of the tree, as the kernel would, and tells whether it ever leaves. What is not in the tree may come
    /// later (static files); a path through it is followed by its words alone.
    fn stays_within(&self, link: &[u8], target: &[u8]) -> bool {
        let mut at: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
        at.pop();
        let mut to_do: Vec<&[u8]> = target.split(|byte| *byte == b'/').rev().collect();
        if target.starts_with(b"/") || target.is_empty() {
            return false;
        }
        // The kernel gives up after 40 links (path_resolution(7)); a loop leads nowhere, and so does not lead out.
        let mut links = 0;
        while let Some(word) = to_do.pop() {
            match word {
                b"" | b"." => {}
                b".." => {
                    if at.pop().is_none() {
                        return false;
                    }
                }
                word => {
                    at.push(word);
                    let Some(entry) = self.entries.get(&at.join(&b'/')).filter(|entry| entry.kind == EntryKind::Link) else { continue };
                    links += 1;
                    let Some(next) = self.blobs.get(&entry.id) else { return false };
                    if next.starts_with(b"/") {
                        return false;
                    }
                    if links > 40 {
                        return true;
                    }
                    at.pop();
                    to_do.extend(next.split(|byte| *byte == b'/').rev());
                }
            }
        }
        true
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
