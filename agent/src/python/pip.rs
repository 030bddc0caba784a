//! The pip that an interpreter carries for its environments (`ensurepip`), run from a copy among the caches and not installed into each environment.
//!
//! `python -m venv` spends most of its time on installing pip, and an environment has no other use for it. From the wheel itself pip would be compiled anew
//! at every start, so the wheel is unpacked once.

use std::path::{Path, PathBuf};

/// Makes an environment without pip. Up to Python 3.11 `venv` brings setuptools, which old servers and packages import without naming it, so the
/// environment gets the one that the interpreter carries.
pub(super) const CREATE: &str = r#"
import ensurepip, glob, os, sys, venv, zipfile
target = sys.argv[1]
venv.main(["--without-pip", target])
if "setuptools" in str(getattr(ensurepip, "_PACKAGE_NAMES", None) or getattr(ensurepip, "_PROJECTS", "")):
    wheels = getattr(ensurepip, "_WHEEL_PKG_DIR", None) or os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    packages = os.path.join(target, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
    for wheel in sorted(glob.glob(os.path.join(wheels, "setuptools-*.whl")))[-1:]:
        zipfile.ZipFile(wheel).extractall(packages)
"#;

/// Runs pip for the interpreter that this is given to. The first argument is the directory of the copies.
pub(super) const RUN: &str = r#"
import ensurepip, glob, os, runpy, shutil, sys, tempfile, zipfile
copies = sys.argv.pop(1)
wheels = getattr(ensurepip, "_WHEEL_PKG_DIR", None) or os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
wheel = sorted(glob.glob(os.path.join(wheels, "pip-*.whl")))[-1]
# Two interpreters can carry the same version with different patches.
copy = os.path.join(copies, "%s-%d" % (os.path.basename(wheel)[:-4], os.stat(wheel).st_size))
if not os.path.isdir(copy):
    os.makedirs(copies, exist_ok=True)
    part = tempfile.mkdtemp(dir=copies)
    zipfile.ZipFile(wheel).extractall(part)
    try:
        os.rename(part, copy)
    except OSError:
        shutil.rmtree(part)
sys.path.insert(0, copy)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"#;

/// Compiles all packages of an environment on all cores. A file that is no Python is left as it is, as pip leaves it.
pub(super) const COMPILE: &str = r#"
import compileall, sys
def compiled(workers):
    return compileall.compile_dir(sys.argv[1], maxlevels=100, quiet=2, workers=workers)
if __name__ == "__main__":
    try:
        compiled(0)
    except (OSError, NotImplementedError, ImportError, RuntimeError):
        compiled(1)
"#;

/// Where the copies are.
pub(super) fn copies(caches: &Path) -> PathBuf {
    caches.join("agent-pip")
}
