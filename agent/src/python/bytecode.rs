//! Bytecode of a release's own sources: what the former release has for the same sources is as good for this one (PEP 552 says what a `.pyc` begins with).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::PythonError;
use crate::process::{Program, Watch};

/// The directory beside sources that bytecode is kept in (PEP 3147).
const CACHE: &str = "__pycache__";
/// What a `.pyc` begins with: a number of the interpreter's, flags, and for one that belongs to a source of a certain time and size these two, four bytes
/// each with the lowest first.
const HEAD: usize = 16;
/// Bytecode of more bytes than any module has is nobody's.
const MOST: u64 = 64 << 20;

/// Gives the sources of a release the bytecode that the former one has for the same sources: for all but `changed`, and what has a bytecode already.
///
/// # Errors
/// [`PythonError::File`] when something cannot be read or written.
pub(crate) fn reuse_bytecode(former: &Path, release: &Path, changed: &[PathBuf]) -> Result<(), PythonError> {
    let mut compiled = Vec::new();
    find(former, Path::new(""), &changed.iter().map(PathBuf::as_path).collect(), &mut compiled)?;
    compiled.par_iter().try_for_each(|Compiled { path, source }| {
        let Some(bytes) = retold(&former.join(path), &former.join(source), &release.join(source)) else { return Ok(()) };
        write(&release.join(path), &bytes)
    })
}

/// A `.pyc` of a release, and its source, by their paths within it.
struct Compiled {
    path: PathBuf,
    source: PathBuf,
}

/// Finds the bytecode of a release, for all sources but `changed`.
fn find(release: &Path, within: &Path, changed: &BTreeSet<&Path>, found: &mut Vec<Compiled>) -> Result<(), PythonError> {
    let dir = release.join(within);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        // The former one has it no more, or never had.
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => return Ok(()),
        Err(source) => return Err(PythonError::File { act: "read", path: dir, source }),
    };
    for entry in entries.flatten() {
        let (name, kind) = (entry.file_name(), entry.file_type());
        if !kind.is_ok_and(|kind| kind.is_dir()) || name.as_bytes().starts_with(b".") {
            continue;
        }
        if name != CACHE {
            find(release, &within.join(&name), changed, found)?;
            continue;
        }
        for compiled in fs::read_dir(dir.join(CACHE)).into_iter().flatten().flatten() {
            let name = compiled.file_name();
            // MODULE.cpython-311.pyc; what was compiled with -O has one part more.
            let parts: Vec<&str> = name.to_str().unwrap_or_default().split('.').collect();
            let [module, _, "pyc"] = parts.as_slice() else { continue };
            let source = within.join(format!("{module}.py"));
            if !changed.contains(source.as_path()) {
                found.push(Compiled { path: within.join(CACHE).join(&name), source });
            }
        }
    }
    Ok(())
}

/// A `.pyc` of the former source, as one of the new source with the same contents; nothing where it does not belong to the former one as it is now.
fn retold(compiled: &Path, former: &Path, new: &Path) -> Option<Vec<u8>> {
    if fs::symlink_metadata(compiled).ok().filter(fs::Metadata::is_file)?.len() > MOST {
        return None;
    }
    let (former, new) = (fs::symlink_metadata(former).ok()?, fs::symlink_metadata(new).ok()?);
    let mut bytes = fs::read(compiled).ok()?;
    let word = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default().to_le_bytes();
    let stamp = |meta: &fs::Metadata| [word(meta.mtime().unsigned_abs()), word(meta.size())].concat();
    // Flags of 0: it goes by time and size.
    if !new.is_file() || bytes.get(4..8)? != [0; 4] || *bytes.get(8..HEAD)? != *stamp(&former) || former.size() != new.size() {
        return None;
    }
    bytes.get_mut(8..HEAD)?.copy_from_slice(&stamp(&new));
    Some(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PythonError> {
    let failed = |source| PythonError::File { act: "write", path: path.to_owned(), source };
    match path.parent().map_or(Ok(()), fs::create_dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(failed(err)),
        _ => {}
    }
    match fs::File::create_new(path).and_then(|mut file| file.write_all(bytes)) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(failed(err)),
        _ => Ok(()),
    }
}

/// Compiles sources of a release. One that cannot be compiled is left for whoever imports it to say so.
///
/// # Errors
/// [`PythonError::Program`] when the interpreter cannot be run.
pub(crate) fn compile(python: &Path, release: &Path, sources: &[PathBuf], watch: &Watch<'_>) -> Result<(), PythonError> {
    let input: Vec<u8> = sources
        .iter()
        .filter(|source| release.join(source).is_file())
        .flat_map(|source| [source.as_os_str().as_bytes(), b"\n"].concat())
        .collect();
    if input.is_empty() {
        return Ok(());
    }
    // Isolated, so that nothing of the release is imported in place of the standard library.
    let program = Program::new(python).dir(release).args(["-I", "-S", "-c", COMPILE]).input(input);
    program.run(watch).map_err(|source| PythonError::Program {
        act: "compiling the sources that have changed".to_owned(),
        hint: None,
        source,
    })
}

/// compileall(1) would end badly over a single source that is none.
const COMPILE: &str = "import py_compile, sys\nfor line in sys.stdin:\n    try:\n        py_compile.compile(line.rstrip('\\n'), quiet=2)\n    except OSError:\n        pass\n";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::bench::{PYTHON, watched, write};
    use super::*;

    /// What Python says when it is told to import modules, and not to write bytecode; with -v it tells where each comes from.
    fn imported(dir: &Path, module: &str) -> String {
        let output = Command::new(PYTHON).args(["-B", "-v", "-c", &format!("import {module}")]).current_dir(dir).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn bytecode_goes_with_the_sources_that_are_the_same() {
        let (former, release) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (former, release) = (former.path(), release.path());
        for dir in [former, release] {
            write(dir, "shop/__init__.py", "");
            write(dir, "shop/same.py", "WHAT = 'the same'\n");
        }
        write(former, "shop/views.py", "WHAT = 'former'\n");
        write(former, "shop/gone.py", "WHAT = 'gone'\n");
        // As long as the former one, and no Python.
        write(release, "shop/views.py", "WHAT = 'newest\n\n");
        let changed = [PathBuf::from("shop/views.py")];
        let sources = ["shop/__init__.py", "shop/same.py", "shop/views.py", "shop/gone.py"].map(PathBuf::from);
        watched(|watch| compile(Path::new(PYTHON), former, &sources, watch)).unwrap();
        // The former release's clock is nobody's.
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(release.join("shop/same.py")).unwrap().set_modified(long_ago).unwrap();

        reuse_bytecode(former, release, &changed).unwrap();
        let told = imported(release, "shop.same");
        assert!(told.contains("matches") && told.contains("same.py") && !told.contains("bytecode is stale"), "{told}");
        watched(|watch| compile(Path::new(PYTHON), release, &changed, watch)).unwrap();
        assert!(imported(release, "shop.views").contains("SyntaxError"), "the former's bytecode is taken for the new source");
        assert!(
            !fs::read_dir(release.join("shop/__pycache__")).unwrap().any(|entry| entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains("gone"))
        );

        // What does not belong to the former source as it is now is nobody's.
        fs::remove_dir_all(release.join("shop/__pycache__")).unwrap();
        write(former, "shop/same.py", "WHAT = 'not as before'\n");
        reuse_bytecode(former, release, &changed).unwrap();
        let reused = fs::read_dir(release.join("shop/__pycache__")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!reused.into_iter().any(|name| name.to_string_lossy().starts_with("same")));
    }
}
