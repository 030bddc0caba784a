//! The list of the files of a tree: what a seal writes down, and what a tree is held against afterwards.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use rayon::prelude::*;

use super::{IoContext, RootError};

/// The list of files: for each `mode digest path`, ended by a NUL, in the order of their bytes. Directories are not in it.
#[derive(Default)]
pub(super) struct Listing {
    pub text: Vec<u8>,
    pub files: u64,
    pub bytes: u64,
}

impl Listing {
    /// The list of a tree, without what stands at its top under a name in `without`.
    pub(super) fn of(root: &Path, without: &[&str]) -> Result<Self, RootError> {
        let mut listing = Self::default();
        let mut files = Vec::new();
        walk(root, without, &mut |found| {
            files.push(found);
            Ok(())
        })?;
        let read = |found: &Found| {
            let whole = root.join(&found.path);
            found.digest(&whole, &|| true).on_path("read", &whole)
        };
        let digest = |found: &Found| match read(found) {
            // Python writes bytecode under another name first, wherever it may write; and somebody may use the tree already.
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && in_cache(&found.path) => Ok(None),
            digest => digest.map(Some),
        };
        let digests: Vec<Option<String>> = files.par_iter().map(digest).collect::<Result<_, _>>()?;
        for (found, digest) in files.iter().zip(digests).filter_map(|(found, digest)| Some((found, digest?))) {
            listing.files += 1;
            listing.bytes += found.bytes();
            listing.text.extend(format!("{:o} {digest} ", found.mode()).bytes());
            listing.text.extend(found.path.as_os_str().as_bytes());
            listing.text.push(0);
        }
        Ok(listing)
    }
}

/// A file or a link in a tree.
struct Found {
    /// Within the tree.
    path: PathBuf,
    meta: Metadata,
}

impl Found {
    fn mode(&self) -> u32 {
        self.meta.permissions().mode()
    }

    /// Links count nothing.
    fn bytes(&self) -> u64 {
        if self.meta.is_file() { self.meta.len() } else { 0 }
    }

    fn digest(&self, whole: &Path, go_on: &dyn Fn() -> bool) -> io::Result<String> {
        if self.meta.is_symlink() { Ok(digest(fs::read_link(whole)?.as_os_str().as_bytes())) } else { digest_of(whole, go_on) }
    }
}

/// Goes through a tree in the order of its names. Sockets and FIFOs are nobody's content, and are passed over.
fn walk(root: &Path, without: &[&str], each: &mut dyn FnMut(Found) -> Result<(), RootError>) -> Result<(), RootError> {
    fn into(root: &Path, within: &Path, without: &[&str], each: &mut dyn FnMut(Found) -> Result<(), RootError>) -> Result<(), RootError> {
        let dir = root.join(within);
        let mut names: Vec<_> = fs::read_dir(&dir).on_path("read", &dir)?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let path = within.join(&name);
            if without.iter().any(|other| path == Path::new(other)) {
                continue;
            }
            let whole = root.join(&path);
            let meta = fs::symlink_metadata(&whole).on_path("look at", &whole)?;
            if meta.is_dir() {
                into(root, &path, without, each)?;
            } else if meta.is_symlink() || meta.is_file() {
                each(Found { path, meta })?;
            }
        }
        Ok(())
    }
    into(root, Path::new(""), without, each)
}

/// How a file differs from its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is on the list, and is not there.
    Missing,
    /// Something else is in it.
    Changed,
    /// The link leads elsewhere.
    Elsewhere,
    /// Its mode is another.
    Mode {
        /// As it was sealed.
        sealed: u32,
        /// As it is.
        found: u32,
    },
    /// It is there, and is not on the list.
    Extra,
    /// The same, and Python keeps such files for itself wherever it may write.
    Cache,
    /// It cannot be read.
    Unreadable(String),
}

/// What came of holding a tree against its list.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Files and links that were looked at.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How each that differs does, by its path within the tree.
    pub flaws: Vec<(PathBuf, Flaw)>,
    /// The links on the list, by their paths within the tree.
    pub links: Vec<PathBuf>,
}

/// Holds a tree against its list. Ends early where `go_on` says so.
///
/// # Errors
/// [`RootError::Io`] when a directory cannot be read; a file that cannot is a flaw.
pub(super) fn compare(text: &[u8], root: &Path, without: &[&str], go_on: &dyn Fn() -> bool) -> Result<Compared, RootError> {
    let mut listed = parse(text);
    let mut compared = Compared::default();
    walk(root, without, &mut |found| {
        if !go_on() {
            return Ok(());
        }
        compared.files += 1;
        let Some((mode, sealed)) = listed.remove(found.path.as_path()) else {
            let flaw = if is_cache(&found.path) { Flaw::Cache } else { Flaw::Extra };
            compared.flaws.push((found.path, flaw));
            return Ok(());
        };
        if found.meta.is_symlink() {
            compared.links.push(found.path.clone());
        }
        let digest = found.digest(&root.join(&found.path), go_on);
        compared.bytes += found.bytes();
        let flaw = match digest {
            Err(err) => Flaw::Unreadable(err.to_string()),
            Ok(digest) if digest != sealed && found.meta.is_symlink() => Flaw::Elsewhere,
            Ok(digest) if digest != sealed => Flaw::Changed,
            Ok(_) if found.mode() != mode => Flaw::Mode { sealed: mode & 0o7777, found: found.mode() & 0o7777 },
            Ok(_) => return Ok(()),
        };
        compared.flaws.push((found.path, flaw));
        Ok(())
    })?;
    if go_on() {
        compared.flaws.extend(listed.into_keys().map(|path| (path.to_owned(), Flaw::Missing)));
    }
    Ok(compared)
}

/// What a list says of each path. A line that cannot be understood is passed over: its file is then one too many.
pub(super) fn parse(text: &[u8]) -> BTreeMap<&Path, (u32, &str)> {
    text.split(|byte| *byte == 0)
        .filter_map(|line| {
            let mut parts = line.splitn(3, |byte| *byte == b' ');
            let mode = u32::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 8).ok()?;
            let digest = std::str::from_utf8(parts.next()?).ok()?;
            Some((Path::new(OsStr::from_bytes(parts.next()?)), (mode, digest)))
        })
        .collect()
}

/// Python compiles what it imports into such files, and believes them only as long as they fit what they were made of.
fn is_cache(path: &Path) -> bool {
    in_cache(path) && path.extension().is_some_and(|ending| ending == "pyc")
}

fn in_cache(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|dir| dir == "__pycache__")
}

/// SHA-256 of bytes, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

pub(super) fn digest_of(path: &Path, go_on: &dyn Fn() -> bool) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(context.finish().as_ref())),
            count => context.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_in_which_a_tree_can_differ_from_its_list_is_told_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        for path in ["a/kept", "a/gone", "b", "c", "d", "notes/own"] {
            write(path, path);
        }
        std::os::unix::fs::symlink("b", root.join("link")).unwrap();
        let sealed = Listing::of(root, &["notes"]).unwrap();
        assert_eq!((sealed.files, sealed.bytes), (6, 15));
        let flaws = || compare(&sealed.text, root, &["notes"], &|| true).unwrap();
        assert_eq!((flaws().flaws, flaws().files, flaws().bytes), (vec![], 6, 15));

        fs::remove_file(root.join("a/gone")).unwrap();
        write("b", "B");
        fs::set_permissions(root.join("c"), fs::Permissions::from_mode(0o4600)).unwrap();
        let before = fs::symlink_metadata(root.join("b")).unwrap().permissions().mode() & 0o7777;
        fs::remove_file(root.join("link")).unwrap();
        std::os::unix::fs::symlink("c", root.join("link")).unwrap();
        fs::remove_file(root.join("d")).unwrap();
        write("d/in", "a directory where a file was");
        write("x", "");
        write("notes/more", "");
        write("a/__pycache__/m.cpython-311.pyc", "");
        write("a/__pycache__/m.py", "");
        let told: Vec<(String, Flaw)> = flaws().flaws.into_iter().map(|(path, flaw)| (path.to_string_lossy().into_owned(), flaw)).collect();
        let flaw = |path: &str, flaw| (path.to_owned(), flaw);
        assert_eq!(
            told,
            [
                flaw("a/__pycache__/m.cpython-311.pyc", Flaw::Cache),
                flaw("a/__pycache__/m.py", Flaw::Extra),
                flaw("b", Flaw::Changed),
                flaw("c", Flaw::Mode { sealed: before, found: 0o4600 }),
                flaw("d/in", Flaw::Extra),
                flaw("link", Flaw::Elsewhere),
                flaw("x", Flaw::Extra),
                flaw("a/gone", Flaw::Missing),
                flaw("d", Flaw::Missing),
            ]
        );
    }

    #[test]
    fn whoever_leaves_ends_the_looking_and_nothing_is_called_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "a").unwrap();
        let sealed = Listing::of(dir.path(), &[]).unwrap();
        let compared = compare(&sealed.text, dir.path(), &[], &|| false).unwrap();
        assert_eq!((compared.files, compared.flaws), (0, vec![]));
    }
}
