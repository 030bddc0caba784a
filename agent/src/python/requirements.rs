//! Requirement files, as far as one must understand them before they are handed to an installer: which files they include, whom they ask for,
//! and whether they reach outside. Nothing outside of the release is ever read.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::PythonError;
use super::key::without_userinfo;
use super::vcs::{Moving, Place};

/// A requirement or lock file larger than this is refused.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// The tree of a release, for reading only what lies in it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree under a directory.
    pub(super) fn of(release: &Path) -> Result<Self, PythonError> {
        let root = release.canonicalize().map_err(|source| PythonError::File { act: "read", path: release.to_owned(), source })?;
        Ok(Self { root })
    }

    /// Its directory, without links.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a file by its path in the release; `by` says who names it.
    pub(super) fn read(&self, file: &Path, by: &str) -> Result<Vec<u8>, PythonError> {
        self.read_if_there(file)?.ok_or_else(|| PythonError::NotThere { file: shown(file), by: by.to_owned() })
    }

    /// Reads a file by its path in the release, if it is there.
    pub(super) fn read_if_there(&self, file: &Path) -> Result<Option<Vec<u8>>, PythonError> {
        let outside = || PythonError::Outside { file: shown(file) };
        let unreadable = |source| PythonError::Unreadable { file: shown(file), source };
        if file.is_absolute() || leaves(file) {
            return Err(outside());
        }
        let path = self.root.join(file);
        let real = match path.canonicalize() {
            Ok(real) if real.starts_with(&self.root) => real,
            Ok(_) => return Err(outside()),
            // A link that leads nowhere is a mistake, and not the absence of a file.
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => return Ok(None),
            Err(source) => return Err(unreadable(source)),
        };
        // A pipe would be waited on for ever.
        if !real.is_file() {
            return Err(PythonError::Refused { file: shown(file), line: None, why: "is not a file".into() });
        }
        let mut bytes = Vec::new();
        std::fs::File::open(&real).and_then(|open| open.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(PythonError::Refused { file: shown(file), line: None, why: "is larger than 16 MiB".into() });
        }
        Ok(Some(bytes))
    }

    /// Whether there is something by this name.
    pub(super) fn has(&self, file: &Path) -> bool {
        self.root.join(file).symlink_metadata().is_ok()
    }
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// Whether a path climbs above where it begins.
fn leaves(path: &Path) -> bool {
    let mut depth = 0_i32;
    path.components().any(|component| {
        depth += match component {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            _ => 0,
        };
        depth < 0
    })
}

/// A package that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedPackage {
    /// Its normalised name; a URL or a path need not tell it.
    pub name: Option<String>,
    /// The file that asks.
    pub file: String,
    /// The line, where the file has lines for people.
    pub line: Option<usize>,
    /// Whether a marker may leave it out.
    pub conditional: bool,
}

/// What was read of the files that decide what is installed.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Every file, by its path in the release.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Every package that is asked for by name, path or URL.
    pub asked: Vec<WantedPackage>,
    /// Requirements whose places can change.
    pub moving: Vec<Moving>,
    /// What people should know.
    pub notes: Vec<String>,
    /// Whether packages are pinned by hashes: then every package of the same command must be.
    pub hashed: bool,
    /// Whether something is installed from the release itself: such an environment serves this release and no other.
    pub tied: bool,
}

impl Reading {
    /// Keeps a file.
    pub(super) fn keep(&mut self, file: &Path, bytes: Vec<u8>) {
        if !self.files.iter().any(|(kept, _)| kept == file) {
            self.files.push((file.to_owned(), bytes));
        }
    }

    /// Notes that something is installed from a path.
    pub(super) fn tie(&mut self, file: &str, line: Option<usize>) {
        let place = line.map(|line| format!(", line {line},")).unwrap_or_default();
        if !self.tied {
            self.tie_for(format!("{file}{place} installs from a path"));
        }
    }

    /// Notes why no other release can use the environment.
    pub(super) fn tie_for(&mut self, why: String) {
        self.notes.push(format!("{why}: the environment is built for this release alone"));
        self.tied = true;
    }

    /// Keeps that a requirement names a place whose content can change, if it does.
    pub(super) fn names(&mut self, package: &Package, file: &str, line: Option<usize>) {
        let Some(place) = package.url.as_deref().and_then(Place::of) else { return };
        let by = line.map_or_else(|| file.to_owned(), |line| format!("{file}, line {line}"));
        self.moving.push(Moving { by, name: package.name.clone(), place });
    }

    /// Reads a requirement file and all that it includes.
    pub(super) fn requirements(&mut self, tree: &Tree, file: &Path) -> Result<(), PythonError> {
        self.include(tree, file, Role::Requirements, "[python] requirements names", &mut Vec::new())
    }

    fn include(&mut self, tree: &Tree, file: &Path, role: Role, by: &str, above: &mut Vec<PathBuf>) -> Result<(), PythonError> {
        let file = tidy(file);
        if above.contains(&file) {
            return Err(PythonError::Refused { file: shown(&file), line: None, why: "includes itself".into() });
        }
        let bytes = tree.read(&file, by)?;
        let text = decode(&bytes).ok_or_else(|| PythonError::Refused {
            file: shown(&file),
            line: None,
            why: "declares an encoding in which it cannot be read here; write it in UTF-8".into(),
        })?;
        self.keep(&file, bytes);
        above.push(file.clone());
        for (number, line) in logical_lines(&text) {
            self.line(tree, &file, role, number, &line, above)?;
        }
        above.pop();
        Ok(())
    }

    fn line(
        &mut self,
        tree: &Tree,
        file: &Path,
        role: Role,
        number: usize,
        line: &str,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), PythonError> {
        let refused = |why: &str| PythonError::Refused { file: shown(file), line: Some(number), why: why.to_owned() };
        if line.contains("--hash") || line.contains("--require-hashes") {
            self.hashed = true;
        }
        if !line.starts_with('-') {
            let package = package_of(line);
            // A constraint decides where a package is from, too; and the hashes of a line are those of its file.
            if !line.contains("--hash") {
                self.names(&package, &shown(file), Some(number));
            }
            if role == Role::Requirements {
                if package.local {
                    self.tie(&shown(file), Some(number));
                }
                self.asked.push(WantedPackage {
                    name: package.name,
                    file: shown(file),
                    line: Some(number),
                    conditional: package.conditional,
                });
            }
            return Ok(());
        }
        for (option, value) in options_of(line) {
            let included = match option.as_str() {
                "-r" | "--requirement" => Role::Requirements,
                "-c" | "--constraint" => Role::Constraints,
                "-e" | "--editable" if role == Role::Constraints => continue,
                "-e" | "--editable" => {
                    let package = package_of(&value);
                    self.names(&package, &shown(file), Some(number));
                    if package.local {
                        self.tie(&shown(file), Some(number));
                    }
                    self.asked.push(WantedPackage { name: None, file: shown(file), line: Some(number), conditional: package.conditional });
                    continue;
                }
                "-i" | "--index-url" | "--pypi-url" | "--extra-index-url" => {
                    self.notes.push(format!("{}, line {number}, names an index of its own: {}", shown(file), index_of(&value)));
                    continue;
                }
                "-f" | "--find-links" => {
                    self.notes.push(format!(
                        "{}, line {number}, names a place of its own to find packages: {}",
                        shown(file),
                        index_of(&value)
                    ));
                    if !value.contains("://") || value.starts_with("file:") {
                        self.tie(&shown(file), Some(number));
                    }
                    continue;
                }
                "--trusted-host" => {
                    self.notes.push(format!("{}, line {number}, trusts a host without its certificate", shown(file)));
                    continue;
                }
                _ => continue,
            };
            if value.contains("://") {
                return Err(refused("includes a URL; what it says can change at any time: commit the file instead"));
            }
            if value.contains("${") {
                return Err(refused("includes a file by a variable, whose value installers would take from elsewhere"));
            }
            // A constraint file cannot ask for anything, whatever it includes.
            let role = if role == Role::Constraints { role } else { included };
            let path = file.parent().unwrap_or(Path::new("")).join(&value);
            self.include(tree, &path, role, &format!("line {number} of {} includes", shown(file)), above)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Requirements,
    Constraints,
}

/// A relative path without `.` and with `..` taken back where that is possible.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(tidy.components().next_back(), Some(Component::Normal(_))) => {
                tidy.pop();
            }
            other => tidy.push(other),
        }
    }
    tidy
}

/// The text of a requirement file. It may begin with a byte order mark, for PowerShell writes UTF-16. None when an installer could read it in an
/// encoding that is not understood here, and would find other lines in it.
fn decode(bytes: &[u8]) -> Option<String> {
    let wide = |bytes: &[u8], of: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    // pip obeys PEP 263 in the first two lines.
    let declared = text.split('\n').take(2).filter(|line| line.starts_with('#')).find_map(|line| {
        let rest = line.split_once("coding")?.1.strip_prefix([':', '='])?.trim_start();
        Some(rest.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).next()?.to_ascii_lowercase().replace('_', "-"))
    });
    let is_like_ours =
        |name: &str| ["utf-8", "utf8", "ascii", "us-ascii", "latin-1", "latin1", "iso-8859-1", "iso-8859-15", "cp1252"].contains(&name);
    (!text.contains('\0') && declared.is_none_or(|name| is_like_ours(&name))).then_some(text)
}

/// What ends a line for pip, which reads with `str.splitlines()` of Python.
pub(super) const LINE_ENDS: &[char] = &['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

/// Lines with their continuations, without comments; each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.replace("\r\n", "\n").split(LINE_ENDS).enumerate() {
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        // A comment ends a continuation (pip, req_file.py).
        let is_comment = line.trim_start().starts_with('#');
        match line.strip_suffix('\\') {
            Some(begun) if !is_comment => {
                whole.push_str(begun);
                open = Some((number, whole));
            }
            _ => {
                if !is_comment {
                    whole.push_str(line);
                }
                lines.push((number, whole));
            }
        }
    }
    lines.extend(open);
    let bare = lines.into_iter().map(|(number, line)| (number, without_comment(&line).trim().to_owned()));
    bare.filter(|(_, line)| !line.is_empty()).collect()
}

fn without_comment(line: &str) -> &str {
    let starts = line.char_indices().zip(std::iter::once(' ').chain(line.chars()));
    let comment = starts.filter(|((_, c), before)| *c == '#' && before.is_whitespace()).map(|((at, _), _)| at).next();
    comment.map_or(line, |at| &line[..at])
}

/// The options of a line with their values: `-r a`, `-ra`, `--requirement a`, `--requirement=a`.
fn options_of(line: &str) -> Vec<(String, String)> {
    let mut words = words_of(line).into_iter().peekable();
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        if let Some((option, value)) = word.split_once('=').filter(|(option, _)| option.starts_with("--")) {
            options.push((whole(option), value.to_owned()));
        } else if word.starts_with("--") {
            let value = words.next_if(|next| !next.starts_with('-')).unwrap_or_default();
            options.push((whole(&word), value));
        } else if word.len() > 1 && word.starts_with('-') && word.is_char_boundary(2) {
            let (option, value) = word.split_at(2);
            let value = if value.is_empty() { words.next().unwrap_or_default() } else { value.trim_start_matches('=').to_owned() };
            options.push((option.to_owned(), value));
        }
    }
    options
}

/// A long option as it is meant: pip takes every beginning of one that is unambiguous.
fn whole(option: &str) -> String {
    const LONG: &[&str] =
        &["--requirement", "--constraint", "--editable", "--index-url", "--extra-index-url", "--find-links", "--trusted-host"];
    let whole = LONG.iter().find(|long| option.len() > 3 && long.starts_with(option));
    whole.map_or(option, |long| long).to_owned()
}

/// The words of a line, as a shell would split them.
fn words_of(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some('"'), '\\') => {
                let word = word.get_or_insert_default();
                match chars.next() {
                    Some(next @ ('"' | '\\')) => word.push(next),
                    next => word.extend(std::iter::once('\\').chain(next)),
                }
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What a requirement says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Its normalised name.
    pub name: Option<String>,
    /// Whether it is a path.
    pub local: bool,
    /// Whether a marker may leave it out.
    pub conditional: bool,
    /// The URL that it is installed from.
    pub url: Option<String>,
}

/// Whether a name is a whole object name of git, which names one commit for ever.
pub(super) fn is_whole_id(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Understands one requirement.
pub(super) fn package_of(requirement: &str) -> Package {
    let requirement = requirement.trim();
    let name_end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).unwrap_or(requirement.len());
    let (name, rest) = requirement.split_at(name_end);
    let rest = rest.trim_start();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && (rest.is_empty() || rest.starts_with(['[', '=', '<', '>', '!', '~', ';', '@', '(', ',']) || rest.starts_with("--"));
    let is_file = [".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz"].iter().any(|end| name.ends_with(end)) && !rest.starts_with('@');
    let place = if is_name {
        rest.trim_start_matches(|c: char| c != '@' && c != ';').strip_prefix('@').unwrap_or_default().trim_start()
    } else {
        requirement
    };
    let by_url = place.contains("://") || place.starts_with("file:");
    let local = is_file || place.starts_with("file:") || place.starts_with("git+file:") || !is_name && !by_url;
    let conditional = if by_url { requirement.contains(" ;") } else { requirement.contains(';') };
    let url = place.split_whitespace().next().filter(|_| by_url).map(str::to_owned);
    Package { name: (is_name && !is_file).then(|| normalised(name)), local, conditional, url }
}

/// The name under which packages are compared (PEP 503).
pub(super) fn normalised(name: &str) -> String {
    let mut normalised = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '.' | '_' | '-' if normalised.ends_with('-') => {}
            '.' | '_' | '-' => normalised.push('-'),
            _ => normalised.push(c.to_ascii_lowercase()),
        }
    }
    normalised
}

/// The host of an index: users, passwords and tokens stand before it or in the path behind it.
pub(super) fn index_of(url: &str) -> String {
    let url = without_userinfo(url);
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split(['/', '?', '#']).next().unwrap_or_default()),
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let text =
            "# first\nDjango==4.2 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11  # why\n\nurl @ https://x.test/a#egg=b\nattrs # c\n";
        let lines = logical_lines(text);
        let hashes = "Django==4.2     --hash=sha256:00     --hash=sha256:11".to_owned();
        assert_eq!(logical_lines("six\u{c}-r a\r\nb"), [(1, "six".to_owned()), (2, "-r a".to_owned()), (3, "b".to_owned())]);
        assert_eq!(lines, [(2, hashes), (6, "url @ https://x.test/a#egg=b".to_owned()), (7, "attrs".to_owned())]);
    }

    #[test]
    fn options_are_found_however_they_are_written() {
        let found = |line: &str| options_of(line);
        let is = |option: &str, value: &str| (option.to_owned(), value.to_owned());
        assert_eq!(found("-r a.txt"), [is("-r", "a.txt")]);
        assert_eq!(found("-ra.txt"), [is("-r", "a.txt")]);
        assert_eq!(found("--requirem a.txt"), [is("--requirement", "a.txt")]);
        assert_eq!(found("--require-hashes"), [is("--require-hashes", "")]);
        assert_eq!(found(r#"-r "a\b\"c""#), [is("-r", r#"a\b"c"#)]);
        assert_eq!(found("--requirement=a.txt"), [is("--requirement", "a.txt")]);
        assert_eq!(found("--requirement 'a b.txt'"), [is("--requirement", "a b.txt")]);
        assert_eq!(
            found("-i https://x --pre --extra-index-url https://y"),
            [is("-i", "https://x"), is("--pre", ""), is("--extra-index-url", "https://y")]
        );
    }

    #[test]
    fn requirements_are_understood() {
        let of = |text: &str| {
            let Package { name, local, conditional, .. } = package_of(text);
            (name.unwrap_or_default(), local, conditional)
        };
        assert_eq!(of("Django_Thing.x==4.2"), ("django-thing-x".into(), false, false));
        assert_eq!(of("psycopg[binary] >= 3 ; python_version > '3'"), ("psycopg".into(), false, true));
        assert_eq!(of("six"), ("six".into(), false, false));
        assert_eq!(of("shop @ git+https://h.test/shop@v1"), ("shop".into(), false, false));
        assert_eq!(of("shop[x] @ file:///srv/shop"), ("shop".into(), true, false));
        assert_eq!(of("git+https://h.test/shop@v1#egg=shop"), (String::new(), false, false));
        assert_eq!(of("."), (String::new(), true, false));
        assert_eq!(of("./lib"), (String::new(), true, false));
        assert_eq!(of("lib/thing"), (String::new(), true, false));
        assert_eq!(of("thing-1.0-py3-none-any.whl"), (String::new(), true, false));
        assert_eq!(of("six --hash=sha256:00"), ("six".into(), false, false));
    }

    #[test]
    fn wide_text_is_read() {
        assert_eq!(decode(b"\xff\xfes\0i\0x\0\n\0").unwrap(), "six\n");
        assert_eq!(decode(b"\xef\xbb\xbfsix").unwrap(), "six");
        assert_eq!(decode(b"# -*- coding: utf-8 -*-\nsix").unwrap(), "# -*- coding: utf-8 -*-\nsix");
        assert_eq!(decode(b"#coding=utf-7\n+AC0-r /etc/passwd"), None);
        assert_eq!(decode(b"\xff\xfe\0\0s\0\0\0"), None, "UTF-32");
    }

    #[test]
    fn hosts_are_shown_without_secrets() {
        assert_eq!(index_of("https://user:secret@host.test/token/simple"), "https://host.test");
        assert_eq!(without_userinfo("a https://u:p@h/x b http://t@i c"), "a https://h/x b http://i c");
    }

    #[test]
    fn paths_that_climb_are_seen() {
        assert!(leaves(Path::new("a/../../b")) && leaves(Path::new("../b")));
        assert!(!leaves(Path::new("a/../b")));
    }
}
