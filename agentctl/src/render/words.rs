//! Times, sizes, colours, and sanitized text from elsewhere.

use std::fmt::Display;

use agent_wire::event::OutcomeWord;
use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeDelta, Utc};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Success.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Failure.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Warnings.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// Emphasis.
pub(crate) const BOLD: Style = Style::new().bold();
/// Secondary text.
pub(crate) const DIM: Style = Style::new().dimmed();

/// The text in a style.
pub(crate) fn painted(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The style of an outcome.
pub(crate) fn style_of(outcome: OutcomeWord) -> Style {
    match outcome {
        OutcomeWord::Live | OutcomeWord::Done => GOOD,
        OutcomeWord::Failed | OutcomeWord::RolledBack | OutcomeWord::Stuck => BAD,
        OutcomeWord::Cancelled | OutcomeWord::Superseded => WARN,
    }
}

/// The outcome's word as people write it.
pub(crate) fn outcome(outcome: OutcomeWord) -> &'static str {
    match outcome {
        OutcomeWord::RolledBack => "rolled back",
        other => other.word(),
    }
}

/// Removes from untrusted text everything that moves the cursor, changes colours or turns the direction of writing: a commit's subject or a tool's
/// output can contain all of it. Line breaks stay.
pub(crate) fn clean(text: &str) -> String {
    let plain = anstream::adapter::strip_str(text).to_string();
    let mut cleaned = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '\n' => cleaned.push('\n'),
            '\t' => cleaned.push_str("    "),
            letter if is_unseen(letter) => {}
            letter => cleaned.push(letter),
        }
    }
    cleaned
}

/// The same on one line.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

/// Whether a character moves the cursor, changes the reading order, or has no width: with such characters a text looks different from its content.
fn is_unseen(letter: char) -> bool {
    matches!(letter,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Zero-width ones and marks of direction; line and paragraph separators; embeddings, overrides, isolates, invisible operators.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // The byte order mark, annotations, tags.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        || letter.is_control()
}

/// Whether a text has invisible characters, line ends and tabs aside.
pub(crate) fn hides(text: &str) -> bool {
    text.chars().any(|letter| is_unseen(letter) && !matches!(letter, '\n' | '\t'))
}

/// A text that is safe for a terminal: it keeps only colours and line ends of all control sequences. The rest is escaped like in JSON, so data keep
/// their meaning.
pub(crate) fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (taken, after) = rest.split_at(colour(rest).unwrap_or(letter.len_utf8()));
        rest = after;
        if taken.len() > letter.len_utf8() || matches!(letter, '\n' | '\t') || !is_unseen(letter) {
            tamed.push_str(taken);
        } else {
            tamed.extend(letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    tamed
}

/// The length of a leading sequence for a colour or a weight (ECMA-48, section 8.3.117, SGR).
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

/// A duration: `2 min 3 s`.
pub(crate) fn took(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The time since a moment: `3 h ago`.
pub(crate) fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let passed = now - then;
    let minutes = passed.num_minutes();
    if passed < TimeDelta::seconds(10) {
        "just now".into()
    } else if minutes < 1 {
        format!("{} s ago", passed.num_seconds())
    } else if minutes < 60 {
        format!("{minutes} min ago")
    } else if minutes < 48 * 60 {
        format!("{} h ago", minutes / 60)
    } else if passed.num_days() < 60 {
        format!("{} days ago", passed.num_days())
    } else {
        then.format("%Y-%m-%d").to_string()
    }
}

/// A size in decimal units.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A count with its noun.
pub(crate) fn count(number: usize, one: &str, several: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {several}") }
}

/// Items separated by commas.
pub(crate) fn listed(things: &[impl AsRef<str>]) -> String {
    things.iter().map(|thing| clean_line(thing.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The first twelve digits of a commit, as in release names.
pub(crate) fn short(commit: &str) -> String {
    clean_line(commit).chars().take(12).collect()
}

/// A ref without its `refs/…` prefix.
pub(crate) fn short_ref(name: &str) -> String {
    let name = clean_line(name);
    match name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/")) {
        Some(short) => short.to_owned(),
        None => name,
    }
}

/// The subject of a run: `release main of shop`.
pub(crate) fn action(action: &str, of: Option<&str>, app: Option<&str>) -> String {
    let mut text = clean_line(action);
    if let Some(of) = of.filter(|of| !of.is_empty()) {
        text = format!("{text} {}", clean_line(of));
    }
    match app {
        Some(app) if text.contains(' ') => format!("{text} of {}", clean_line(app)),
        Some(app) => format!("{text} {}", clean_line(app)),
        None => text,
    }
}

/// Text after a first line, with every further line indented.
pub(crate) fn indented(text: &str, by: usize) -> String {
    clean(text).trim_end().replace('\n', &format!("\n{:by$}", ""))
}

/// The columns that a text takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Text of at most this width; a mark shows the cut.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    for letter in text.chars() {
        if width(&cut) + UnicodeWidthChar::width(letter).unwrap_or(0) + 1 > columns {
            break;
        }
        cut.push(letter);
    }
    if columns == 0 { cut } else { format!("{}…", cut.trim_end()) }
}

/// A word quoted for a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@=+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
