//! What interpreters and installers have told of themselves, for as long as none of the files has changed that decide it: asking an interpreter takes longer
//! than all that git does for a small release.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::process::{first_program, identity, is_program};

/// Answers by the program that gave them.
pub(super) struct AnswerCache<T> {
    answers: Mutex<BTreeMap<PathBuf, CachedAnswer<T>>>,
}

struct CachedAnswer<T> {
    /// The files that decide it, and what tells whether they are the same later.
    decide: Vec<(PathBuf, String)>,
    told: T,
}

impl<T: Clone> AnswerCache<T> {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { answers: Mutex::new(BTreeMap::new()) }
    }

    /// What a program told, if it would tell the same.
    pub(super) fn get(&self, program: &Path) -> Option<T> {
        let answers = self.answers.lock();
        let CachedAnswer { decide, told } = answers.get(program)?;
        decide.iter().all(|(path, was)| identity(path) == *was).then(|| told.clone())
    }

    /// Remembers what a program told; beside its own file, `others` decide it.
    pub(super) fn keep(&self, program: PathBuf, others: &[PathBuf], told: T) {
        let decide = std::iter::once(&program).chain(others).map(|path| (path.clone(), identity(path))).collect();
        self.answers.lock().insert(program, CachedAnswer { decide, told });
    }
}

/// The file that a program's name leads to, where that file alone decides what runs: it is no script, as version managers put before interpreters, and is not
/// in an environment, whose `pyvenv.cfg` says which interpreter it is.
pub(super) fn file_of(program: &str, path: &OsStr) -> Option<PathBuf> {
    let file = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|file| file.is_absolute() && is_program(file))
    } else {
        first_program(std::env::split_paths(path), Path::new(program)).filter(|file| file.is_absolute())
    }?;
    let of_environment = file.ancestors().skip(1).take(2).any(|dir| dir.join("pyvenv.cfg").exists());
    let mut magic = [0; 4];
    let binary = File::open(&file).and_then(|mut open| open.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF";
    (binary && !of_environment).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_told_counts_until_a_file_changes_that_decides_it() {
        let dir = tempfile::tempdir().unwrap();
        let (program, other) = (dir.path().join("program"), dir.path().join("other"));
        fs::write(&program, "1").unwrap();
        fs::write(&other, "1").unwrap();
        let known = AnswerCache::new();
        assert_eq!(known.get(&program), None);
        for changed in [&program, &other] {
            known.keep(program.clone(), std::slice::from_ref(&other), "told");
            assert_eq!(known.get(&program), Some("told"));
            fs::remove_file(changed).unwrap();
            assert_eq!(known.get(&program), None, "gone: {}", changed.display());
            fs::write(changed, "something else").unwrap();
            assert_eq!(known.get(&program), None, "another: {}", changed.display());
        }
    }

    #[test]
    fn scripts_and_environments_are_asked_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().as_os_str();
        let bin = dir.path().join("venv/bin");
        fs::create_dir_all(&bin).unwrap();
        symlink("/bin/sh", dir.path().join("program")).unwrap();
        assert_eq!(file_of("program", path), Some(dir.path().join("program")));
        assert_eq!(file_of("absent", path), None);
        assert_eq!(file_of("./program", path), None);
        let shim = dir.path().join("shim");
        fs::write(&shim, "#!/bin/sh\n").unwrap();
        assert_eq!(file_of("shim", path), None, "nothing that runs");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(file_of("shim", path), None, "a script");
        symlink("/bin/sh", bin.join("python")).unwrap();
        let python = bin.join("python").display().to_string();
        assert!(file_of(&python, path).is_some());
        fs::write(dir.path().join("venv/pyvenv.cfg"), "").unwrap();
        assert_eq!(file_of(&python, path), None, "of an environment");
    }
}
