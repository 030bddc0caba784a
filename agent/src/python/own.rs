//! The agent's own uv: one version for all hosts, so that a uv of the host that comes or goes changes no environment. It comes from the package index that the
//! host is set to, as a wheel whose SHA-256 is named here. `agentctl setup app` fetches it once for all apps of the host; without that, the first release of an app
//! fetches it among the caches of that app.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;

use super::host::{Host, Interpreter};
use super::{Place, PythonError, pip};
use crate::process::sandbox::Bounds;
use crate::process::{ProgramError, Watch};

/// Which uv it is. Another one changes the key of every environment.
pub(super) const VERSION: &str = "0.13.8";

/// The wheels of that version for Linux, by their SHA-256 as the index names them.
const WHEELS: &[&str] = &[
    // x86_64: manylinux, musl
    "e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984",
    "29451c60f5e8b07403e0a175d5229efc36b0289b34143ff4aaa499a5dd52553a",
    // aarch64: musl and older manylinux, manylinux
    "0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d",
    "5337c30bb893b4f9ce0ceb921ba2da0d13f649da644f40ad3bef84083bef0203",
    // armv7l: musl, manylinux; armv6l
    "9cf0b7b12f13da6ab1c85694ab618d97a2bbd0c904cdea7f0172fb1dd768b9d5",
    "86f1319f851e645bc295bb921e6be19beae7e69216c75ae809010ca7817393aa",
    "0ec33661a14e38dea8dfb18167d2a4a5c7fe3d476c62dd8eb6acf5f378727201",
    // i686: manylinux, musl
    "5ace7ec339798aca31be51a75fa7c1544fe84e02fadd17a9fa3324813bbaf237",
    "63d807451e63c8d21b1b33c945af16438ac9d8ffddc59b31ce69c692135891f5",
    // ppc64le, s390x, riscv64
    "6999618363d03a0a085a9491db319e00b461dbda205db06ef1fd55dfcbf6472b",
    "13050c64530a1ccfc223af0306a8152d41c0d36ea63bc19161221ca65dfe480a",
    "bfcaada3989c7716ad4b58673cd1413fad4fdc6b2e446f9553db0ef18da20850",
    "b26fe533dc6153787e40443b7d9428ed41349127bff36a954ec82c48be01ded9",
];

/// How long an index that had no uv is not asked for it again: a host without the network is not to wait in each release.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Names the directory that all apps share, where that is not [`SHARED`].
const VARIABLE: &str = "RELEASE_AGENT_CACHE";

/// Runners of every app can read it, and only root can write in it.
const SHARED: &str = "/var/cache/release-agent";

/// The program: the one that all apps share where it is there, else the one among the app's own caches, whether it is there or not.
pub(super) fn program(caches: &Path) -> PathBuf {
    shared_program().unwrap_or_else(|| directory(caches).join("bin/uv"))
}

/// The program that all apps share, where it is there and only root or this process's user could have put it there.
pub(super) fn shared_program() -> Option<PathBuf> {
    let shared = shared();
    let program = directory(&shared).join("bin/uv");
    let ours = |path: &Path| {
        path.symlink_metadata()
            .is_ok_and(|meta| [0, geteuid().as_raw()].contains(&meta.uid()) && !meta.is_symlink() && meta.mode() & 0o022 == 0)
    };
    program.ancestors().take_while(|path| path.starts_with(&shared)).all(ours).then_some(program)
}

/// The directory that all apps share.
pub(super) fn shared() -> PathBuf {
    std::env::var_os(VARIABLE).map(PathBuf::from).filter(|path| path.is_absolute()).unwrap_or_else(|| SHARED.into())
}

fn directory(caches: &Path) -> PathBuf {
    caches.join("agent-uv").join(VERSION)
}

/// Whether it was asked for in vain not long ago.
pub(super) fn was_refused(caches: &Path) -> bool {
    let age = |path: PathBuf| SystemTime::now().duration_since(path.metadata().ok()?.modified().ok()?).ok();
    age(refusal(caches)).is_some_and(|age| age < PATIENCE)
}

fn refusal(caches: &Path) -> PathBuf {
    caches.join("agent-uv").join(format!("{VERSION}.refused"))
}

/// Fetches it, and removes the versions before it.
pub(super) fn fetch(host: &Host, interpreter: &Interpreter, place: Place<'_>, watch: &Watch<'_>) -> Result<(), PythonError> {
    let all = place.caches.join("agent-uv");
    let part = all.join(".part");
    let file = |act: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| PythonError::File { act, path, source }
    };
    if all.symlink_metadata().is_ok() {
        fs::remove_dir_all(&all).map_err(file("remove", &all))?;
    }
    fs::create_dir(&all).map_err(file("make", &all))?;
    let wanted = all.join("wanted.txt");
    let hashes: String = WHEELS.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    fs::write(&wanted, format!("uv=={VERSION}{hashes}\n")).map_err(file("write", &wanted))?;
    let bounds = Bounds { writable: vec![place.caches.to_owned(), place.scratch.to_owned()], hidden: place.hidden.to_vec() };
    let install = host
        .program(&interpreter.real)
        .args(["-I", "-c", pip::RUN])
        .arg(pip::copies(place.caches))
        .called("pip")
        .args(["install", "--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile", "--no-cache-dir", "--target"])
        .arg(&part)
        .arg("--requirement")
        .arg(&wanted)
        .env("TMPDIR", place.scratch)
        .env("XDG_CACHE_HOME", place.caches)
        .confined(&Arc::new(bounds))
        .dir(place.scratch)
        .quiet();
    match install.capture(watch) {
        Ok(_) => fs::rename(&part, directory(place.caches)).map_err(file("rename", &part)),
        Err(source) => {
            // A cancel or a full disk says nothing of the index.
            if matches!(source, ProgramError::Failed { .. }) {
                fs::write(refusal(place.caches), "").map_err(file("write", &refusal(place.caches)))?;
            }
            Err(PythonError::Program { act: format!("fetching uv {VERSION}, by which the agent installs,"), hint: None, source })
        }
    }
}
