//! What tests of environments and of Django share: uv, and environments that are built once and kept beside what cargo builds.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent_wire::event::Stream;

use crate::process::{Cancel, Watch};

/// Debian's own interpreter, which has ensurepip where python3-venv is installed.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Acts with a watch of two minutes; gives what was heard.
pub(crate) fn heard<T>(act: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<String>) {
    let lines = RefCell::new(Vec::new());
    let hear = |_: Stream, line: &str| lines.borrow_mut().push(line.to_owned());
    let (cancel, deadline) = (Cancel::default(), Instant::now() + Duration::from_secs(120));
    // Tests run in processes of their own, and each ends what carries its mark.
    let marker = format!("test:{}:{:?}", std::process::id(), std::thread::current().id());
    let result = act(&Watch { marker: &marker, deadline, cancel: &cancel, lines: &hear });
    (result, lines.into_inner())
}

/// Acts with a watch of two minutes.
pub(crate) fn watched<T>(act: impl FnOnce(&Watch<'_>) -> T) -> T {
    heard(act).0
}

/// Writes a file of a test's tree.
pub(crate) fn write(root: &Path, file: &str, text: impl AsRef<[u8]>) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn kept() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let kept = exe.ancestors().nth(3).unwrap().join("test-tools");
    fs::create_dir_all(&kept).unwrap();
    kept
}

/// Makes something once for all tests and all test programs; `make` is given its final path.
fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let path = kept().join(name);
    let (done, lock) = (kept().join(format!("{name}.done")), File::create(kept().join(format!("{name}.lock"))).unwrap());
    lock.lock().unwrap();
    if !done.exists() {
        let _ = fs::remove_dir_all(&path);
        make(&path);
        File::create(done).unwrap();
    }
    path
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The directory of a uv that is the agent's own, by its version.
pub(crate) fn uv() -> PathBuf {
    let wanted = format!("uv=={}", super::own::VERSION);
    let path = once(&wanted, |path| {
        let venv = path.with_file_name("uv-by-pip");
        succeed(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv));
        succeed(Command::new(venv.join("bin/pip")).args(["install", "-q", &wanted, "--target"]).arg(path));
    });
    path.join("bin")
}

/// The interpreter of an environment that holds these packages.
pub(crate) fn environment(name: &str, packages: &[&str]) -> PathBuf {
    let path = once(name, |path| {
        succeed(Command::new(uv().join("uv")).args(["venv", "-q", "--python", PYTHON]).arg(path));
        succeed(
            Command::new(uv().join("uv"))
                .args(["pip", "install", "-q", "--compile-bytecode", "--python"])
                .arg(path.join("bin/python"))
                .args(packages),
        );
    });
    path.join("bin/python")
}
