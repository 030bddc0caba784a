//! Secrets files: `KEY=value`, one to a line, for owners' eyes only; and those of hints, which hold one secret each. No complaint repeats a value.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::kinds::variable_name;
use super::{Complaint, Hint, HintFile};

/// The most bytes of a file that is read for settings or secrets.
const MOST_BYTES: u64 = 1 << 20;

/// Reads secrets files, in order; where two set the same variable, the later one holds. Called when a run begins, so that a changed secret
/// needs no reload.
pub(crate) fn read_secrets(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let mut secrets: Vec<(String, String)> = Vec::new();
    let mut complaints = Vec::new();
    for path in paths {
        match read_one(path) {
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

fn read_one(path: &Path) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let text = read_closed(path).map_err(|complaint| vec![*complaint])?;
    parse(path, &text)
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

/// Reads the secrets of hints. Unlike those of releases they are needed at any moment, so they are part of the settings in force.
pub(super) fn read_hints(files: &[HintFile]) -> Result<Vec<Hint>, Vec<Complaint>> {
    let mut complaints = Vec::new();
    let mut hints = Vec::new();
    for HintFile { from, secret_file } in files {
        let secret =
            read_closed(secret_file).and_then(|text| from.secret(&text).map_err(|says| Box::new(Complaint::of_file(secret_file, says))));
        match secret {
            Ok(secret) => hints.push(Hint { from: *from, secret }),
            Err(complaint) => complaints.push(*complaint),
        }
    }
    if complaints.is_empty() { Ok(hints) } else { Err(complaints) }
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

/// Reads `text`: `NAME=value` lines, as systemd's `EnvironmentFile=` and most tools have them. Empty lines and lines that begin with `#` say
/// nothing; `export ` before a name is passed over. A value stands as it is, up to the end of the line, without the spaces around it; between
/// single quotes nothing in it means anything; between double quotes `\n`, `\"`, `\\` and `\$` do.
fn parse(path: &Path, text: &str) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    let mut pairs = Vec::new();
    let mut complaints = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok(pair) => pairs.push(pair),
            Err(says) => complaints.push(Complaint::of_file(path, says).at(text, start)),
        }
    }
    if complaints.is_empty() { Ok(pairs) } else { Err(complaints) }
}

fn parse_line(line: &str) -> Result<(String, String), String> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((name, value)) = line.split_once('=') else {
        return Err("must be KEY=value".to_owned());
    };
    let name = name.trim();
    variable_name(name)?;
    if value.contains('\0') {
        return Err("the value must not contain the character NUL".to_owned());
    }
    Ok((name.to_owned(), parse_value(value.trim())?))
}

fn parse_value(value: &str) -> Result<String, String> {
    let quote = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => return Ok(value.to_owned()),
    };
    let mut read = String::new();
    let mut chars = value.chars();
    // The opening quote.
    chars.next();
    while let Some(char) = chars.next() {
        match char {
            '\\' if quote == '"' => match chars.next() {
                Some('n') => read.push('\n'),
                Some(escaped @ ('"' | '\\' | '$' | '`')) => read.push(escaped),
                Some(other) => read.extend(['\\', other]),
                None => break,
            },
            _ if char == quote => {
                let rest = chars.as_str().trim_start();
                if rest.is_empty() || rest.starts_with('#') {
                    return Ok(read);
                }
                return Err("the value goes on after its closing quote".to_owned());
            }
            _ => read.push(char),
        }
    }
    Err("the value has an opening quote and no closing one on this line".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_and_without_quotes() {
        for (line, name, value) in [
            ("A=b", "A", "b"),
            ("  export A = b c ", "A", "b c"),
            ("A=", "A", ""),
            ("A=b#c", "A", "b#c"),
            ("A='b \"c\" \\n'", "A", "b \"c\" \\n"),
            (r#"A="b\nc \"d\" \$e \\ \w""#, "A", "b\nc \"d\" $e \\ \\w"),
            ("A=\"b\" # why", "A", "b"),
            ("DATABASE_URL=postgres://u:p=@h/d?x=y", "DATABASE_URL", "postgres://u:p=@h/d?x=y"),
            ("A=b\r", "A", "b"),
        ] {
            let read = parse(Path::new("x.env"), line).unwrap();
            assert_eq!(read, [(name.to_owned(), value.to_owned())], "{line}");
        }
    }

    #[test]
    fn every_bad_line_is_told_with_its_number_and_without_its_value() {
        let text = "# secrets\n\nA=1\nhunter2\n1A=hunter2\nRELEASE_NAME=hunter2\nB='hunter2\nC=\"hunter2\" hunter2\n";
        let complaints = parse(Path::new("x.env"), text).unwrap_err();
        assert_eq!(complaints.iter().map(|complaint| complaint.line).collect::<Vec<_>>(), [4, 5, 6, 7, 8].map(Some));
        assert!(complaints.iter().all(|complaint| !complaint.to_string().contains("hunter2")), "{complaints:?}");
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
        assert_eq!(read_secrets(&[one.clone(), two]).unwrap(), [pair("A", "1"), pair("B", "2")]);
        let complaints = read_secrets(&[open.clone(), dir.path().join("none.env"), dir.path().to_owned(), one]).unwrap_err();
        let said: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3);
        assert!(said[0].contains("mode 0644") && said[0].contains(&format!("chmod o= {}", open.display())), "{said:?}");
        assert!(said[1].ends_with("none.env: is not there"), "{said:?}");
        assert!(said[2].ends_with("is not a file"), "{said:?}");
    }
}
