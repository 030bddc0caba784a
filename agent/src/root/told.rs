//! What a root's operators have been told already: a sentence that follows from the settings is the same in each release, and after the first one it is for
//! `doctor` to say.

use std::path::PathBuf;

use super::listing::digest;
use super::{AppRoot, own_file, temporary_beside, write_temporary};

/// The most bytes of the file.
const MOST_BYTES: u64 = 16 * 1024;

/// So many sentences are remembered; older ones are told again.
const MOST: usize = 100;

impl AppRoot {
    fn told_file(&self) -> PathBuf {
        self.path().join(".agent/told")
    }

    /// Whether a sentence is told for the first time. What cannot be remembered is told again.
    pub(crate) fn tell_once(&self, sentence: &str) -> bool {
        let path = self.told_file();
        let known = own_file(&path, MOST_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let told = digest(sentence.as_bytes());
        if known.lines().any(|line| line == told) {
            return false;
        }
        let kept: Vec<&str> = known.lines().rev().take(MOST - 1).collect();
        let text: String = kept.into_iter().rev().chain([told.as_str()]).map(|line| format!("{line}\n")).collect();
        let temporary = temporary_beside(&path);
        // Where it cannot be written, the next release says it once more.
        let _ = write_temporary(&temporary, text.as_bytes(), 0o600).and_then(|_| std::fs::rename(&temporary, &path));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_told_once_and_the_oldest_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let root = AppRoot::open(&dir.path().join("root")).unwrap();
        assert!(root.tell_once("no check is set") && !root.tell_once("no check is set"));
        for number in 0..MOST {
            assert!(root.tell_once(&number.to_string()));
        }
        assert!(!root.tell_once("99") && root.tell_once("no check is set"));
    }
}
