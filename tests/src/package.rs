//! The package and the archive, built of the programs that are tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{binaries, project};

/// Builds the Debian package into a directory, with more options if there are any; answers with its path.
#[track_caller]
pub fn build_package(directory: &Path, options: &[&str]) -> PathBuf {
    built(Command::new(project("packaging/deb")).args(options), directory)
}

/// Builds the archive into a directory; answers with its path. Its ctl is not static: that one would have to be built.
#[track_caller]
pub fn build_archive(directory: &Path) -> PathBuf {
    built(&mut Command::new(project("packaging/tarball")), directory)
}

#[track_caller]
fn built(command: &mut Command, directory: &Path) -> PathBuf {
    let output =
        command.args(["--quick", "--bin"]).arg(binaries()).arg("--out").arg(directory).output().expect("the project has its scripts");
    let (said, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "it cannot be built:\n{said}{words}");
    said.trim_end().into()
}
