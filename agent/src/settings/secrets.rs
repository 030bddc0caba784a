//! Secrets files: `KEY=value`, as systemd reads them, for owners' eyes only; and those of hints, which hold one secret each. No complaint repeats a value.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::environment::{NAME_IT_ONCE, SETTINGS_MODULE};
use super::kinds::variable_name;
use super::{App, Complaint, Webhook, WebhookFile};
use crate::systemd::environment_file;
use crate::systemd::environment_file::Assignment;

/// The most bytes of a file that is read for settings or secrets.
const MOST_BYTES: u64 = 1 << 20;

/// Reads secrets files, in order; where two set the same variable, the later one holds. Called when a run begins, so that a changed secret
/// needs no reload.
///
/// `module` is the settings module that the app's file names: none of them may name another.
fn read_secrets(paths: &[PathBuf], module: Option<&str>) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let mut secrets: Vec<(String, String)> = Vec::new();
    let mut complaints = Vec::new();
    for path in paths {
        match read_one(path, module) {
            Ok(pairs) => {
                for (name, value) in pairs {
                    secrets.retain(|(other, _)| *other != name);
                    secrets.push((name, value));
                }
            }
            Err(more) => complaints.extend(more),
        }
    }
    if complaints.is_empty() { Ok(secrets) } else { Err(complaints) }
}

fn read_one(path: &Path, module: Option<&str>) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let text = read_closed(path).map_err(|complaint| vec![*complaint])?;
    parse(path, &text, module)
}

/// The text of a file that not everybody on this host can open.
pub(super) fn read_closed(path: &Path) -> Result<String, Box<Complaint>> {
    let text = read_text(path)?;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
    if mode & 0o007 != 0 {
        let says = format!("can be opened by anybody on this host (mode {:04o}), and holds secrets", mode & 0o7777);
        return Err(Box::new(Complaint::of_file(path, says).hint(format!("chmod o= {}", path.display()))));
    }
    Ok(text)
}

pub(super) const OTHERS_WRITE: u32 = 0o002;

/// Refuses a file, or the directory of a file, in which anybody on this host can write.
pub(super) fn refuse_writable(path: &Path) -> Result<(), Box<Complaint>> {
    // What is not there is told by whoever reads it.
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let mode = metadata.permissions().mode();
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    let does = if metadata.is_dir() { "holds" } else { "decides" };
    let says = format!("can be written by anybody on this host (mode {:04o}), and {does} what is believed or run", mode & 0o7777);
    Err(Box::new(Complaint::of_file(path, says).hint(format!("chmod o-w {}", path.display()))))
}

impl App {
    /// Reads the app's secrets from these files, which are its own or copies of them.
    ///
    /// # Errors
    /// Every [`Complaint`] about the files.
    pub(crate) fn read_secrets(&self, files: &[PathBuf]) -> Result<Vec<(String, String)>, Vec<Complaint>> {
        read_secrets(files, self.settings_module())
    }
}

/// Reads the secrets of hints. Unlike those of releases they are needed at any moment, so they are part of the settings in force.
pub(super) fn read_webhooks(files: &[WebhookFile]) -> Result<Vec<Webhook>, Vec<Complaint>> {
    let mut complaints = Vec::new();
    let mut webhooks = Vec::new();
    for WebhookFile { from, secret_file } in files {
        let secret =
            read_closed(secret_file).and_then(|text| from.secret(&text).map_err(|says| Box::new(Complaint::of_file(secret_file, says))));
        match secret {
            Ok(secret) => webhooks.push(Webhook { from: *from, secret }),
            Err(complaint) => complaints.push(*complaint),
        }
    }
    if complaints.is_empty() { Ok(webhooks) } else { Err(complaints) }
}

/// The text of a file, if it is a file, of a bearable size, and text.
pub(super) fn read_text(path: &Path) -> Result<String, Box<Complaint>> {
    let complain = |says: String| Box::new(Complaint::of_file(path, says));
    let because = |err: &io::Error| match err.kind() {
        ErrorKind::NotFound => "is not there".to_owned(),
        ErrorKind::PermissionDenied => "cannot be read by the user that the agent runs as".to_owned(),
        _ => format!("cannot be read: {err}"),
    };
    // Looked at before it is opened: a pipe would never open.
    let metadata = fs::metadata(path).map_err(|err| complain(because(&err)))?;
    if !metadata.is_file() {
        return Err(complain("is not a file".to_owned()));
    }
    if metadata.len() > MOST_BYTES {
        return Err(complain(format!("has {} bytes, more than any such file needs", metadata.len())));
    }
    let bytes = fs::read(path).map_err(|err| complain(because(&err)))?;
    String::from_utf8(bytes).map_err(|err| {
        let valid = err.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(err.as_bytes().get(..valid).unwrap_or_default()).into_owned();
        Box::new(Complaint::of_file(path, "is not UTF-8 text").at(&text, valid))
    })
}

/// Reads `text` as systemd reads a file of `EnvironmentFile=`, for units read the same files. What a unit would not get, or would get in another way, is a
/// complaint.
fn parse(path: &Path, text: &str, module: Option<&str>) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let complain = |at: usize, says: String| Complaint::of_file(path, says).at(text, at);
    let mut pairs = Vec::new();
    let mut complaints = Vec::new();
    if let Some(at) = text.find('\0') {
        return Err(vec![complain(at, "must not contain the character NUL".to_owned())]);
    }
    let found = environment_file::parse(text)
        .map_err(|faults| faults.iter().map(|fault| complain(fault.at, fault.says.to_owned())).collect::<Vec<_>>())?;
    for Assignment { name, value, at } in found {
        let wrong = match variable_name(&name) {
            Ok(()) if name != SETTINGS_MODULE => None,
            Ok(()) => module.filter(|module| *module != value).map(|module| (contradicts(module), Some(NAME_IT_ONCE))),
            // systemd drops it without failing, and a unit would lack the variable.
            Err(_) if name.starts_with("export ") => Some((EXPORT.to_owned(), Some("leave out export"))),
            Err(says) => Some((says, None)),
        };
        match wrong {
            None => pairs.push((name, value)),
            Some((says, hint)) => complaints.push(match hint {
                Some(hint) => complain(at, says).hint(hint),
                None => complain(at, says),
            }),
        }
    }
    if complaints.is_empty() { Ok(pairs) } else { Err(complaints) }
}

const EXPORT: &str = "begins with export, and systemd passes over such a line";

/// That a file names another settings module than the app's file does. A module's name is no secret, but the file may hold anything in its place.
fn contradicts(module: &str) -> String {
    format!("sets {SETTINGS_MODULE} to something else than {module:?}, which the app's file names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_line_is_told_with_its_number_and_without_its_value() {
        let text = "# secrets\n\nA=1\n1A=hunter2\nRELEASE_NAME=hunter2\nexport B=hunter2\nÜ=hunter2\nA B=hunter2\n";
        let complaints = parse(Path::new("x.env"), text, None).unwrap_err();
        assert_eq!(complaints.iter().map(|complaint| complaint.line).collect::<Vec<_>>(), [4, 5, 6, 7, 8].map(Some));
        assert!(complaints.iter().all(|complaint| !complaint.to_string().contains("hunter2")), "{complaints:?}");
        let text = "A=1\nhunter2\nC=\"hunter2\" # hunter2\nB='hunter2\n";
        let complaints = parse(Path::new("x.env"), text, None).unwrap_err();
        assert_eq!(complaints.iter().map(|complaint| complaint.line).collect::<Vec<_>>(), [2, 3, 4].map(Some));
        assert!(complaints.iter().all(|complaint| !complaint.to_string().contains("hunter2")), "{complaints:?}");
        assert_eq!(parse(Path::new("x.env"), "A=1\nB=\0\n", None).unwrap_err()[0].line, Some(2));
    }

    #[test]
    fn a_secrets_file_names_no_other_settings_module_than_the_apps_file() {
        let parse = |text| parse(Path::new("x.env"), text, Some("shop.prod"));
        assert_eq!(parse("DJANGO_SETTINGS_MODULE=shop.prod\n").unwrap().len(), 1);
        let complaints = parse("A=1\nDJANGO_SETTINGS_MODULE=shop.hunter2\n").unwrap_err();
        let said = complaints[0].to_string();
        assert!(said.starts_with("x.env:2:1: ") && said.contains("shop.prod") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn files_are_read_in_order_and_only_when_nobody_else_can() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let one = file("one.env", "A=1\nB=1\n", 0o600);
        let two = file("two.env", "B=2\n", 0o640);
        let open = file("open.env", "C=hunter2\n", 0o644);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read_secrets(&[one.clone(), two], None).unwrap(), [pair("A", "1"), pair("B", "2")]);
        let complaints = read_secrets(&[open.clone(), dir.path().join("none.env"), dir.path().to_owned(), one], None).unwrap_err();
        let said: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3);
        assert!(said[0].contains("mode 0644") && said[0].contains(&format!("chmod o= {}", open.display())), "{said:?}");
        assert!(said[1].ends_with("none.env: is not there"), "{said:?}");
        assert!(said[2].ends_with("is not a file"), "{said:?}");
    }
}
