//! The kinds of value that a key can have. Each is a function from a value to what it means, and complains by itself.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::reader::{Value, nearest, shown};

/// A text.
pub(super) fn text(value: &Value<'_>) -> Option<String> {
    match value.item() {
        DeValue::String(text) if text.contains('\0') => value.complain("must not contain the character NUL", None),
        DeValue::String(text) => Some(text.to_string()),
        _ => value.mistaken("a text", Some("write it between quotes".to_owned())),
    }
}

/// A text with something in it.
pub(super) fn some_text(value: &Value<'_>) -> Option<String> {
    let text = text(value)?;
    if text.trim().is_empty() { value.complain("must not be empty", None) } else { Some(text) }
}

/// A text that `parse` understands.
pub(super) fn parsed<T, E: Display>(parse: impl Fn(&str) -> Result<T, E>) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| match parse(&text(value)?) {
        Ok(parsed) => Some(parsed),
        Err(err) => value.complain(err.to_string(), None),
    }
}

/// `true` or `false`.
pub(super) fn switch(value: &Value<'_>) -> Option<bool> {
    match value.item() {
        DeValue::Boolean(word) => Some(*word),
        DeValue::String(text) if matches!(text.as_ref(), "true" | "false") => {
            value.mistaken("true or false", Some("write it without quotes".to_owned()))
        }
        _ => value.mistaken("true or false", None),
    }
}

/// A whole number within bounds.
pub(super) fn integer(bounds: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Option<u64> {
    move |value| {
        let must_be = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        match value.item() {
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) if bounds.contains(&number) => Some(number),
                _ => value.complain(format!("must be {must_be}, and is {}", shown(&number.to_string())), None),
            },
            DeValue::String(text) if text.parse::<u64>().is_ok() => value.mistaken(&must_be, Some("write it without quotes".to_owned())),
            _ => value.mistaken(&must_be, None),
        }
    }
}

/// A word out of some.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        value.allow(words.iter().map(|(word, _)| *word));
        let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        if !value.item().is_str() {
            return value.mistaken(&format!("one of {all}"), None);
        }
        let text = text(value)?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meant)) => Some(*meant),
            None => {
                let near = nearest(&text, words.iter().map(|(word, _)| *word));
                value.complain(
                    format!("must be one of {all}, and is {:?}", shown(&text)),
                    near.map(|near| format!("did you mean {near:?}?")),
                )
            }
        }
    }
}

/// A list of anything; what is wrong with one item does not hide what is wrong with the next.
pub(super) fn list<'a, T>(of: impl Fn(&Value<'a>) -> Option<T>) -> impl Fn(&Value<'a>) -> Option<Vec<T>> {
    move |value| {
        let Some(items) = value.items() else {
            let hint = value.item().as_str().map(|text| format!("write [{:?}]", shown(text)));
            return value.mistaken("a list", hint);
        };
        let read: Vec<Option<T>> = items.iter().map(&of).collect();
        read.into_iter().collect()
    }
}

/// A list with something in it; `why` says why it cannot be empty.
pub(super) fn some_list<'a, T>(why: &'static str, of: impl Fn(&Value<'a>) -> Option<T>) -> impl Fn(&Value<'a>) -> Option<Vec<T>> {
    let list = list(of);
    move |value| match list(value) {
        Some(items) if items.is_empty() => value.complain(format!("must not be empty: {why}"), None),
        read => read,
    }
}

/// A program with its arguments.
pub(super) fn command(value: &Value<'_>) -> Option<Vec<String>> {
    if let Some(line) = value.item().as_str() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hint = format!("no shell reads it; write {}", shown(&format!("{words:?}")));
        return value.mistaken("a list of the program and its arguments", Some(hint));
    }
    let words = some_list("the first item is the program", text)(value)?;
    match words.first() {
        Some(program) if program.trim().is_empty() || program.starts_with('-') => {
            value.complain(format!("{:?} is not a program", shown(program)), Some("the first item is the program".to_owned()))
        }
        _ => Some(words),
    }
}

/// A table of names and texts, in the order of the names; `check` refuses names, and says why.
pub(super) fn texts_by_name(check: impl Fn(&str, &str) -> Result<(), String>) -> impl Fn(&Value<'_>) -> Option<Vec<(String, String)>> {
    move |value| {
        let Some(entries) = value.entries() else { return value.mistaken("a table of names and texts", None) };
        let read: Vec<Option<(String, String)>> = entries
            .iter()
            .map(|(name, value)| {
                let text = text(value)?;
                match check(name, &text) {
                    Ok(()) => Some(((*name).to_owned(), text)),
                    Err(says) => value.complain(says, None),
                }
            })
            .collect();
        read.into_iter().collect()
    }
}

/// A length of time: `500ms`, `90s`, `10m`, `2h`, `1h30m`. A bare number is refused: nothing says what it counts.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&Value<'_>) -> Option<Duration> {
    move |value| {
        const MUST_BE: &str = "a length of time such as \"30s\", \"10m\", \"500ms\" or \"1h30m\"";
        let text = match value.item() {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                return value.mistaken(MUST_BE, Some(format!("for seconds write \"{}s\"", shown(number.as_str()))));
            }
            _ => return value.mistaken(MUST_BE, None),
        };
        match parse_duration(text) {
            None => value.complain(format!("must be {MUST_BE}, and is {:?}", shown(text)), None),
            Some(time) if bounds.contains(&time) => Some(time),
            Some(_) => {
                value.complain(format!("must be from {} to {}, and is {}", spell(*bounds.start()), spell(*bounds.end()), shown(text)), None)
            }
        }
    }
}

/// From a second to a day: what most timeouts can be.
pub(super) fn timeout(value: &Value<'_>) -> Option<Duration> {
    duration(Duration::from_secs(1)..=Duration::from_secs(86_400))(value)
}

/// From nothing to a day: a wait that can be left out.
pub(super) fn wait(value: &Value<'_>) -> Option<Duration> {
    duration(Duration::ZERO..=Duration::from_secs(86_400))(value)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = after.trim_start();
    }
    Some(sum)
}

/// The digits, the letters behind them, and the rest.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let (digits, rest) = text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len()));
    let rest = rest.trim_start();
    let (unit, rest) = rest.split_at(rest.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(rest.len()));
    Some((digits.parse().ok()?, unit, rest))
}

fn spell(time: Duration) -> String {
    let millis = time.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

/// A size: `"500 MiB"`, `"2 GiB"`, `"100 MB"`, or a whole number of bytes.
pub(super) fn size(value: &Value<'_>) -> Option<u64> {
    const MUST_BE: &str = "a size such as \"500 MiB\" or \"2 GiB\", or a whole number of bytes";
    match value.item() {
        DeValue::Integer(_) => integer(1..=u64::MAX >> 1)(value),
        DeValue::String(text) => match parse_size(text) {
            Some(size) => Some(size),
            None => value.complain(format!("must be {MUST_BE}, and is {:?}", shown(text)), None),
        },
        _ => value.mistaken(MUST_BE, None),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, rest) = number_and_unit(text.trim())?;
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).filter(|size| rest.is_empty() && *size > 0 && *size <= u64::MAX >> 1)
}

/// A path from the root of the file system, without `..`.
pub(super) fn absolute(value: &Value<'_>) -> Option<PathBuf> {
    parsed(|text| {
        let path = plain_path(text)?;
        if !path.is_absolute() {
            return Err(format!("{:?} must be an absolute path, one that begins with a slash", shown(text)));
        }
        Ok(path)
    })(value)
}

/// A path of a Unix socket, which the kernel limits to 107 bytes; `room` bytes of them are left for what is appended.
pub(super) fn socket(room: usize) -> impl Fn(&Value<'_>) -> Option<PathBuf> {
    move |value| {
        let path = absolute(value)?;
        let most = 107 - room;
        if path.as_os_str().len() > most {
            return value.complain(
                format!("has {} bytes, and the path of a socket can have {most} here", path.as_os_str().len()),
                (room > 0).then(|| "each instance binds this path, a dot and the release's name".to_owned()),
            );
        }
        Some(path)
    }
}

/// Names at the top of a release that are the agent's own.
const OWN: [&str; 4] = [".release", "venv", "REVISION", ".git"];

/// A path within the release: relative, without `..`, and none of the agent's own names.
pub(super) fn within_release(value: &Value<'_>) -> Option<PathBuf> {
    parsed(|text| {
        let path = plain_path(text)?;
        if path.is_absolute() {
            return Err(format!("{:?} must be a path within the release, one that does not begin with a slash", shown(text)));
        }
        let first = path.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        if OWN.contains(&first.as_str()) {
            return Err(format!("{:?} is the agent's own in every release ({})", shown(text), OWN.join(", ")));
        }
        if first.starts_with('-') {
            return Err(format!("{:?} begins with a hyphen, and programs would take it for an option", shown(text)));
        }
        Ok(path)
    })(value)
}

fn plain_path(text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() {
        return Err("a path must not be empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a path must not contain control characters".to_owned());
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!("{:?} must not contain \"..\"", shown(text)));
    }
    let path: PathBuf = Path::new(text).components().filter(|part| !matches!(part, Component::CurDir)).collect();
    if path.as_os_str().is_empty() { Err(format!("{:?} names no file or directory", shown(text))) } else { Ok(path) }
}

/// The name of an environment variable that the operator may set.
///
/// `RELEASE_…`, `REVISION` and `PREVIOUS_REVISION` are told by the agent, and it finds the processes of a run by one of them. `LD_…` and `PATH`
/// are the operator's: the file is as trusted as the agent, and `LD_PRELOAD=libjemalloc.so` is a common need.
pub(super) fn variable_name(name: &str) -> Result<(), String> {
    let starts = name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    if !starts || !name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_') {
        return Err("the name of a variable must be a letter or underscore followed by letters, digits and underscores".to_owned());
    }
    if name.starts_with("RELEASE_") || matches!(name, "REVISION" | "PREVIOUS_REVISION") {
        return Err("RELEASE_…, REVISION and PREVIOUS_REVISION are set by the agent itself, and must keep its meaning".to_owned());
    }
    Ok(())
}

/// Whether a unit may be a template, an instance of one, or neither.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// `name@.service`
    Template,
    /// Anything that can be started by this name.
    Startable,
    /// Either.
    Any,
}

/// The name of a unit of systemd.
pub(super) fn unit(which: Unit) -> impl Fn(&Value<'_>) -> Option<String> {
    const SUFFIXES: [&str; 5] = [".service", ".socket", ".target", ".path", ".timer"];
    move |value| {
        let name = text(value)?;
        let grammar = !name.is_empty()
            && name.len() <= 200
            && !name.starts_with(['-', '.'])
            && name.chars().all(|char| char.is_ascii_alphanumeric() || ":_.@\\-".contains(char));
        if !grammar {
            return value.complain(format!("{:?} is not the name of a unit", shown(&name)), None);
        }
        match which {
            Unit::Template if !name.ends_with("@.service") => {
                let stem = name.trim_end_matches(".service").split('@').next().unwrap_or_default();
                value.complain(
                    format!("{name:?} must be a template unit: one instance runs for each release"),
                    Some(format!("write \"{stem}@.service\"")),
                )
            }
            Unit::Startable | Unit::Any if !SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) => {
                value.complain(format!("{name:?} has no suffix"), Some(format!("write \"{name}.service\"")))
            }
            Unit::Startable if name.contains("@.") => {
                value.complain(format!("{name:?} is a template, which cannot be started without an instance"), None)
            }
            Unit::Any if name.contains("@.") && !name.ends_with("@.service") => {
                value.complain(format!("{name:?} is a template of something else than services"), None)
            }
            _ => Some(name),
        }
    }
}
