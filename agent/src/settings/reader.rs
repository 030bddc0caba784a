//! Reads one TOML file and keeps every complaint about it.
//!
//! A [`Section`] is asked for its keys one by one; whatever is wrong is noted with its place, and the reading goes on. What was never asked for
//! is not a key, so the list of keys that exist is the reading itself, and nothing else has to be kept in step with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong in a file: where, what, and what to do. It never repeats a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; nothing where the whole file is meant.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    /// The key with its section, such as `check[1].url`; empty where no key is meant.
    pub key: String,
    /// What is wrong, readable after the key and a colon.
    pub says: String,
    /// What to do about it, readable after a semicolon.
    pub hint: Option<String>,
}

impl Complaint {
    /// A complaint about a whole file.
    pub(super) fn of_file(file: &Path, says: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, column: None, key: String::new(), says: says.into(), hint: None }
    }

    /// With what to do about it.
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// At a place of `text`, which is what stands in the file.
    pub(super) fn at(mut self, text: &str, at: usize) -> Self {
        let (line, column) = place(text, at);
        (self.line, self.column) = (Some(line), Some(column));
        self
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.file.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(formatter, "{number}:")?;
        }
        if !self.key.is_empty() {
            write!(formatter, " {}:", self.key)?;
        }
        write!(formatter, " {}", self.says)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(formatter, "; {hint}"))
    }
}

/// Line and column, from 1, of a byte of `text`.
fn place(text: &str, at: usize) -> (usize, usize) {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    (line, before.chars().rev().take_while(|char| *char != '\n').count() + 1)
}

/// What was asked for and what was found, by section; `words` are those of the enumerations, by key.
#[derive(Debug, Default)]
#[cfg_attr(not(test), allow(dead_code, reason = "the test that the examples are complete is who reads all of it"))]
pub(super) struct KnownKeys {
    pub keys: BTreeMap<String, BTreeSet<&'static str>>,
    pub words: BTreeMap<String, BTreeSet<&'static str>>,
    pub found: BTreeMap<String, BTreeSet<String>>,
}

/// Reads `text`, which stands in `file`, with `read`; every complaint, in the order of the lines, when there is any.
pub(super) fn read<T>(file: &Path, text: &str, read: impl FnOnce(&Section<'_>) -> Option<T>) -> Result<T, Vec<Complaint>> {
    read_and_list(file, text, read).0
}

/// Like [`read`], and tells besides what was asked for.
pub(super) fn read_and_list<T>(
    path: &Path,
    text: &str,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> (Result<T, Vec<Complaint>>, KnownKeys) {
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(err) => {
            let complaint = Complaint::of_file(path, format!("this is not TOML: {}", err.message()));
            let complaint = err.span().map_or(complaint.clone(), |span| complaint.at(text, span.start));
            return (Err(vec![complaint]), KnownKeys::default());
        }
    };
    let file = File {
        path,
        text,
        complaints: RefCell::default(),
        sections: RefCell::default(),
        known: RefCell::default(),
        forgiven: RefCell::default(),
    };
    let top = Section::open(&file, table.get_ref(), String::new(), 0..0);
    let value = read(&top);
    file.complain_of_unknown_keys();
    let mut complaints = file.complaints.take();
    complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
    let result = match value {
        Some(value) if complaints.is_empty() => Ok(value),
        None if complaints.is_empty() => Err(vec![Complaint::of_file(path, "cannot be understood")]),
        _ => Err(complaints),
    };
    (result, file.known.take())
}

/// Where the value of a key stands in `text`, for a complaint that shows only when several files are compared.
pub(super) fn find(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (last, sections) = path.split_last()?;
    let mut table = table.get_ref();
    for section in sections {
        table = match table.get(*section)?.get_ref() {
            DeValue::Table(table) => table,
            _ => return None,
        };
    }
    table.get(*last).map(|value| value.span().start)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    complaints: RefCell<Vec<Complaint>>,
    /// Every section that was opened, with its keys.
    sections: RefCell<Vec<(String, &'a DeTable<'a>)>>,
    known: RefCell<KnownKeys>,
    /// Sections whose unknown keys are not worth a word, because what they mean hangs on a key that is wrong itself.
    forgiven: RefCell<BTreeSet<String>>,
}

impl File<'_> {
    fn note(&self, at: usize, key: String, says: String, hint: Option<String>) {
        let complaint = Complaint { file: self.path.to_owned(), line: None, column: None, key, says, hint };
        self.complaints.borrow_mut().push(complaint.at(self.text, at));
    }

    fn complain_of_unknown_keys(&self) {
        for (section, table) in self.sections.borrow().iter() {
            let known = self.known.borrow();
            let Some(here) = known.keys.get(&general(section)) else { continue };
            for key in table.keys() {
                let name: &str = key.get_ref();
                if !here.contains(name) && !self.forgiven.borrow().contains(section) {
                    let hint = hint_for_key(name, &general(section), here, &known.keys);
                    self.note(key.span().start, join(section, &shown(name)), "there is no such key".to_owned(), Some(hint));
                }
            }
        }
    }
}

/// Sections that had another name before the first version, and the one they have.
const RENAMED: [(&str, &str); 1] = [("hint", "webhook")];

fn hint_for_key(name: &str, section: &str, here: &BTreeSet<&'static str>, all: &BTreeMap<String, BTreeSet<&'static str>>) -> String {
    if let Some((_, new)) = RENAMED.iter().find(|(old, new)| *old == name && here.contains(new)) {
        return format!("[[{new}]] is what [[{name}]] was: write it instead");
    }
    if let Some(near) = nearest(name, here.iter().copied()) {
        return format!("did you mean {near}?");
    }
    let elsewhere = all.iter().find(|(other, keys)| other.as_str() != section && keys.contains(name));
    match elsewhere {
        Some((other, _)) if other.is_empty() => {
            format!("{name} belongs at the top of the file: what follows a [section] is part of that section")
        }
        Some((other, _)) => format!("it belongs into [{other}]"),
        None => format!("the keys here are {}", here.iter().copied().collect::<Vec<_>>().join(", ")),
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(text: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let text: String = text.chars().take(60).collect::<String>().to_lowercase().replace(['-', ' '], "_");
    words
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&text, &word.to_lowercase().replace('-', "_")), word))
        .filter(|(score, _)| *score > 0.84)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// A text of the file as it may stand in a complaint: short, and without line ends.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).map(|char| if char.is_control() { '?' } else { char }).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// `check[2]` is of the kind `check`.
fn general(section: &str) -> String {
    let mut name = String::new();
    let mut within = false;
    for char in section.chars() {
        match char {
            '[' => within = true,
            ']' => within = false,
            _ if !within => name.push(char),
            _ => {}
        }
    }
    name
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A table of the file.
pub(super) struct Section<'a> {
    file: &'a File<'a>,
    table: &'a DeTable<'a>,
    path: String,
    span: Range<usize>,
}

impl<'a> Section<'a> {
    fn open(file: &'a File<'a>, table: &'a DeTable<'a>, path: String, span: Range<usize>) -> Self {
        file.sections.borrow_mut().push((path.clone(), table));
        let found = table.keys().map(|key| key.get_ref().to_string());
        let mut known = file.known.borrow_mut();
        known.keys.entry(general(&path)).or_default();
        known.found.entry(general(&path)).or_default().extend(found);
        drop(known);
        Self { file, table, path, span }
    }

    fn ask(&self, key: &'static str) -> Option<(usize, &'a Spanned<DeValue<'a>>)> {
        self.file.known.borrow_mut().keys.entry(general(&self.path)).or_default().insert(key);
        self.table.get_key_value(key).map(|(key, value)| (key.span().start, value))
    }

    /// The value of a key; nothing when it is not set, or wrong and complained of.
    pub(super) fn get<T>(&self, key: &'static str, kind: impl Fn(&Value<'a>) -> Option<T>) -> Option<T> {
        let (_, item) = self.ask(key)?;
        kind(&Value { file: self.file, key: join(&self.path, key), item })
    }

    /// The value of a key that has to be set.
    pub(super) fn need<T>(&self, key: &'static str, kind: impl Fn(&Value<'a>) -> Option<T>) -> Option<T> {
        if self.ask(key).is_none() {
            self.file.note(self.span.start, join(&self.path, key), "is missing".to_owned(), None);
        }
        self.get(key, kind)
    }

    /// Whether a key is set, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The section `[key]`.
    pub(super) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let (at, item) = self.ask(key)?;
        let path = join(&self.path, key);
        match item.get_ref() {
            DeValue::Table(table) => Some(Section::open(self.file, table, path, at..at)),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                self.file.note(at, path.clone(), "stands only once".to_owned(), Some(format!("write [{path}]")));
                None
            }
            other => {
                let says = format!("is a section, and here {}", a_kind(other));
                self.file.note(at, path.clone(), says, Some(format!("write [{path}] and its keys below it")));
                None
            }
        }
    }

    /// The sections `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some((at, item)) = self.ask(key) else { return Vec::new() };
        let path = join(&self.path, key);
        let hint = Some(format!("write [[{path}]], once for each"));
        let DeValue::Array(items) = item.get_ref() else {
            self.file.note(at, path, format!("is a list of sections, and here {}", a_kind(item.get_ref())), hint);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let name = format!("{path}[{}]", place + 1);
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section::open(self.file, table, name, item.span())),
                other => self.file.note(item.span().start, name, format!("must be a section, and {}", a_kind(other)), hint.clone()),
            }
        }
        sections
    }

    /// A complaint about a key, or about the whole section where the key is not set.
    pub(super) fn complain(&self, key: &str, says: impl Into<String>, hint: impl Into<String>) {
        let at = self.table.get_key_value(key).map_or(self.span.start, |(key, _)| key.span().start);
        let path = if key.is_empty() { self.path.clone() } else { join(&self.path, key) };
        self.file.note(at, path, says.into(), Some(hint.into()));
    }

    /// Asks for no more keys, and does not complain of those that stand here.
    pub(super) fn forgive(&self) {
        self.file.forgiven.borrow_mut().insert(self.path.clone());
    }
}

/// A value of the file.
pub(super) struct Value<'a> {
    file: &'a File<'a>,
    key: String,
    item: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    /// The value as TOML has it.
    pub(super) fn item(&self) -> &'a DeValue<'a> {
        self.item.get_ref()
    }

    /// Notes what is wrong; always nothing.
    pub(super) fn complain<T>(&self, says: impl Into<String>, hint: Option<String>) -> Option<T> {
        self.file.note(self.item.span().start, self.key.clone(), says.into(), hint);
        None
    }

    /// Notes that it is of another kind than it must be; always nothing.
    pub(super) fn mistaken<T>(&self, must_be: &str, hint: Option<String>) -> Option<T> {
        self.complain(format!("must be {must_be}, and {}", a_kind(self.item())), hint)
    }

    /// The items of a list, each a value with a place of its own.
    pub(super) fn items(&self) -> Option<Vec<Value<'a>>> {
        let DeValue::Array(items) = self.item() else { return None };
        let value = |(place, item)| Value { file: self.file, key: format!("{}[{}]", self.key, place + 1), item };
        Some(items.iter().enumerate().map(value).collect())
    }

    /// The entries of a table: a value for the name, and one for what it is set to.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, Value<'a>)>> {
        let DeValue::Table(table) = self.item() else { return None };
        let entry = |(key, item): (&'a Spanned<_>, _)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            (name.as_ref(), Value { file: self.file, key: join(&self.key, &shown(name)), item })
        };
        Some(table.iter().map(entry).collect())
    }

    /// Remembers the words that are allowed here.
    pub(super) fn allow(&self, words: impl Iterator<Item = &'static str>) {
        self.file.known.borrow_mut().words.entry(general(&self.key)).or_default().extend(words);
    }
}

/// What a value is, readable after "and".
fn a_kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "is a text",
        DeValue::Integer(_) => "is a whole number",
        DeValue::Float(_) => "is a number with a fraction",
        DeValue::Boolean(_) => "is true or false",
        DeValue::Datetime(_) => "is a date",
        DeValue::Array(_) => "is a list",
        DeValue::Table(_) => "is a table",
    }
}
