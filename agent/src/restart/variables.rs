//! Files of variables for units. Processes that the agent starts itself get `[env]` and the settings module directly. A unit reads them from a file
//! of the root, by `EnvironmentFile=`, so the server has the variables that its release was made with, however it is started.
//!
//! There is one file for each instance, named after its unit (`.agent/variables/blue`), and `live` for units that serve in place. Only the agent may
//! write there, because the service manager reads the files as root. No other user may read them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{ReleaseRef, RestartContext, RestartError};
use crate::root::write_durably;
use crate::systemd::environment_file;

/// The file of units that serve in place.
pub(crate) const LIVE: &str = "live";
/// Its content before the run.
const FORMER: &str = "live.former";

/// The variables that units get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variables<'a> {
    /// The directory of the files.
    pub dir: &'a Path,
    /// `[env]` and the settings module, without secrets.
    pub plain: &'a [(String, String)],
}

impl Variables<'_> {
    /// The file of the instance with this name.
    pub(super) fn file(&self, called: &str) -> PathBuf {
        self.dir.join(called)
    }
}

/// Writes the file of an instance, before its unit is started.
pub(super) fn write(context: &RestartContext<'_>, called: &str, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
    let mut variables = serving.env(context.variables.plain);
    variables.push(("RELEASE_APP".to_owned(), context.app.to_string()));
    write_file(context, called, &variables)
}

/// Writes the file of units in place. It does not name the release, because a server that is only reloaded keeps the variables that it was started
/// with.
pub(super) fn write_live(context: &RestartContext<'_>) -> Result<(), RestartError> {
    write_file(context, LIVE, context.variables.plain)
}

fn write_file(context: &RestartContext<'_>, called: &str, variables: &[(String, String)]) -> Result<(), RestartError> {
    let (text, left_out) = environment_file::written(variables);
    if !left_out.is_empty() {
        (context.warn)(&format!(
            "units do not get {} of [env]: something in its value is no character to Unicode, and systemd would refuse the file",
            left_out.join(", ")
        ));
    }
    let text = format!("# Written by release-agent for {} of {}, and written anew by each run.\n{text}", called, context.app);
    replace(context, called, text.as_bytes())
}

/// Leaves an unchanged file alone, because its modification time shows which processes have its content.
fn replace(context: &RestartContext<'_>, called: &str, text: &[u8]) -> Result<(), RestartError> {
    let (dir, file) = (context.variables.dir, context.variables.file(called));
    if fs::read(&file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|source| RestartError::File { act: "make", path: dir.to_owned(), source })?,
    }
    Ok(write_durably(&file, text, 0o600)?)
}

/// Keeps the content of the file of units in place, for the way back. A missing file is kept as an empty one.
pub(super) fn keep_former(context: &RestartContext<'_>) -> Result<(), RestartError> {
    let text = fs::read(context.variables.file(LIVE)).unwrap_or_default();
    replace(context, FORMER, &text)
}

/// Restores the content from before the run. Does nothing if nothing was kept, or if it was restored already.
pub(super) fn put_back(context: &RestartContext<'_>) -> Result<(), RestartError> {
    let Ok(text) = fs::read(context.variables.file(FORMER)) else { return Ok(()) };
    replace(context, LIVE, &text)?;
    forget_former(context);
    Ok(())
}

/// Drops the kept content once the new release serves, or never will.
pub(super) fn forget_former(context: &RestartContext<'_>) {
    // The next run replaces a leftover before it begins.
    let _ = fs::remove_file(context.variables.file(FORMER));
}

/// Removes the files of releases that are gone.
pub(super) fn sweep(context: &RestartContext<'_>, releases: &Path) {
    for entry in fs::read_dir(context.variables.dir).into_iter().flatten().flatten() {
        let release = entry.file_name().to_str().and_then(|name| name.parse::<agent_model::names::ReleaseName>().ok());
        if release.is_some_and(|release| !releases.join(release.as_str()).exists()) {
            // A leftover does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}
