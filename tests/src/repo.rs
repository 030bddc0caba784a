//! Git repositories as a project would have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::project;

/// A repository with a working tree.
#[derive(Debug, Clone)]
pub struct Repo {
    directory: PathBuf,
}

impl Repo {
    /// A new repository whose branch is `main`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        fs::create_dir_all(&directory).expect("the directory of a repository can be made");
        let repo = Self { directory };
        repo.git(["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// The demo project with its releases up to `upto` (1 to 4): tags `v1` and so on.
    pub fn demo(directory: impl Into<PathBuf>, upto: u8) -> Self {
        let directory = directory.into();
        let script = project("packaging/demo/make-repository");
        let mut command = Command::new(&script);
        run(command.arg(&directory).arg(format!("--upto={upto}")));
        Self { directory }
    }

    /// Where it is; what `repository` in an app file says.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let file = self.directory.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).expect("a directory of the working tree can be made");
        }
        fs::write(&file, text).expect("a file of the working tree can be written");
        self
    }

    /// Writes a program.
    pub fn write_program(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        self.write(path, text);
        fs::set_permissions(self.directory.join(path), fs::Permissions::from_mode(0o755)).expect("a file of the working tree is ours");
        self
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> &Self {
        fs::remove_file(self.directory.join(path)).expect("the file is in the working tree");
        self
    }

    /// Commits the working tree as it is, on the branch that is checked out; answers with the commit's id.
    pub fn commit(&self, message: &str) -> String {
        self.git(["add", "--all"]);
        self.git(["commit", "--quiet", "--allow-empty", "--message", message]);
        self.head()
    }

    /// The id of the commit that is checked out.
    pub fn head(&self) -> String {
        self.git(["rev-parse", "HEAD"])
    }

    /// The id of the commit that `revision` means.
    pub fn id(&self, revision: &str) -> String {
        self.git(["rev-parse", "--verify", &format!("{revision}^{{commit}}")])
    }

    /// Puts a tag on the commit that is checked out.
    pub fn tag(&self, name: &str) -> &Self {
        self.git(["tag", name]);
        self
    }

    /// Goes to a branch, which begins here if there is none of that name.
    pub fn branch(&self, name: &str) -> &Self {
        if self.git(["branch", "--list", name]).is_empty() {
            self.git(["checkout", "--quiet", "-b", name]);
        } else {
            self.git(["checkout", "--quiet", name]);
        }
        self
    }

    /// Makes the branch and the working tree what they were at `revision`.
    pub fn reset(&self, revision: &str) -> &Self {
        self.git(["reset", "--quiet", "--hard", revision]);
        self
    }

    /// Any git command; answers with what it printed, without the last newline.
    pub fn git<const N: usize>(&self, args: [&str; N]) -> String {
        run(Command::new("git").arg("-C").arg(&self.directory).args(["-c", "core.hooksPath=/dev/null"]).args(args))
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .env_clear()
        .envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            // A bench may be given to another user, and its repositories with it.
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
            ("GIT_AUTHOR_NAME", "Anna"),
            ("GIT_AUTHOR_EMAIL", "anna@example.com"),
            ("GIT_COMMITTER_NAME", "Anna"),
            ("GIT_COMMITTER_EMAIL", "anna@example.com"),
        ])
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_tags_and_branches_are_where_they_were_put() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::new(root.path().join("shop"));
        let first = repo.write("a/b.txt", "one").commit("One");
        repo.tag("v1").branch("next");
        let second = repo.write_program("run", "#!/bin/sh\n").remove("a/b.txt").commit("Two");
        assert_eq!((repo.id("v1"), repo.id("main"), repo.id("next")), (first.clone(), first, second.clone()));
        assert_eq!(repo.git(["ls-tree", "--name-only", "-r", "next"]), "run");
        repo.branch("main");
        assert!(repo.path().join("a/b.txt").exists());
        assert_eq!(repo.reset("next").head(), second);
    }

    #[test]
    fn the_demo_is_the_same_for_everybody_and_grows() {
        let root = tempfile::tempdir().unwrap();
        let whole = Repo::demo(root.path().join("whole"), 4);
        let grown = Repo::demo(root.path().join("grown"), 1);
        assert_eq!(grown.git(["tag", "--list"]), "v1");
        Repo::demo(grown.path(), 4);
        for tag in ["v1", "v2", "v3", "v4"] {
            assert_eq!(whole.id(tag), grown.id(tag));
        }
        assert_eq!(whole.id("main"), whole.id("v4"));
        assert!(whole.git(["status", "--porcelain"]).is_empty());
    }
}
