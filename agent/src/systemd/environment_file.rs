//! Files for systemd's `EnvironmentFile=`: read as systemd reads them, so that a file means the same to the agent and to a unit; and written so that
//! systemd reads back what was meant.
//!
//! The states are those of `parse_env_file_internal` in systemd's src/basic/env-file.c, from version 229 on. Text that versions of systemd read in
//! different ways, or of which a unit would get less than the file says, is a fault.

use std::fmt::Write;

/// A variable that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Its name, as the file has it: nobody has looked whether it may be one.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where its name begins in the text.
    pub at: usize,
}

/// Text that does not mean what it seems to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands in the text.
    pub at: usize,
    /// What is wrong, without a value.
    pub says: &'static str,
}

const NO_ASSIGNMENT: &str = "must be KEY=value: systemd passes over a line without =";
const COMMENT_GOES_ON: &str =
    "is a comment that ends with a backslash, and only some versions of systemd take the next line for a part of it";
const COMMENT_IN_VALUE: &str = "has a comment behind the value, and systemd takes it for a part of the value: put it on a line of its own";
const NO_CLOSING_QUOTE: &str = "has an opening quote and no closing one, and systemd takes the rest of the file for the value";
const NO_CHARACTER: &str = "has something in its value that Unicode calls no character, and systemd refuses the whole file for it";

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeName,
    Name,
    BeforeValue,
    Value,
    Escape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

struct Reader {
    found: Vec<Assignment>,
    faults: Vec<Fault>,
    name: String,
    value: String,
    /// Where the assignment begins, and its quote that was opened last.
    at: usize,
    quote_at: usize,
    /// How much of the value stays when the spaces at its end go.
    kept: usize,
    /// Whether a quote was closed, and spaces followed it.
    spaces_after_quote: bool,
}

/// Reads a file's text; all its faults, where it has any.
///
/// # Errors
/// Every [`Fault`], in the order of the text.
pub(crate) fn parse(text: &str) -> Result<Vec<Assignment>, Vec<Fault>> {
    let mut reader = Reader {
        found: Vec::new(),
        faults: Vec::new(),
        name: String::new(),
        value: String::new(),
        at: 0,
        quote_at: 0,
        kept: 0,
        spaces_after_quote: false,
    };
    let mut state = State::BeforeName;
    for (at, char) in text.char_indices() {
        state = reader.step(state, at, char);
    }
    reader.end(state);
    if reader.faults.is_empty() { Ok(reader.found) } else { Err(reader.faults) }
}

fn is_newline(char: char) -> bool {
    matches!(char, '\n' | '\r')
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r')
}

/// What systemd lets into an environment: UTF-8, control characters too, without what Unicode calls no character (`unichar_is_valid` in its
/// src/basic/utf8.c).
pub(crate) fn may_be_in_a_value(char: char) -> bool {
    let code = u32::from(char);
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}

impl Reader {
    fn step(&mut self, state: State, at: usize, char: char) -> State {
        match state {
            State::BeforeName if matches!(char, '#' | ';') => {
                self.at = at;
                State::Comment
            }
            State::BeforeName if is_space(char) => State::BeforeName,
            State::BeforeName => {
                (self.at, self.spaces_after_quote) = (at, false);
                self.name = String::from(char);
                self.value.clear();
                // systemd takes a line that begins with = for one whose name begins so.
                State::Name
            }
            State::Name if is_newline(char) => {
                self.fault(self.at, NO_ASSIGNMENT);
                State::BeforeName
            }
            State::Name if char == '=' => {
                self.kept = 0;
                State::BeforeValue
            }
            State::Name => {
                self.name.push(char);
                State::Name
            }
            State::BeforeValue | State::Value if is_newline(char) => {
                self.push(state);
                State::BeforeName
            }
            State::BeforeValue => self.before_value(at, char),
            State::Value if char == '\\' => {
                self.kept = self.value.len();
                State::Escape
            }
            State::Value => {
                self.value.push(char);
                if !is_space(char) {
                    self.kept = self.value.len();
                }
                State::Value
            }
            State::Escape => {
                if !is_newline(char) {
                    self.value.push(char);
                }
                self.kept = self.value.len();
                State::Value
            }
            State::Single | State::Double if char == if state == State::Single { '\'' } else { '"' } => State::BeforeValue,
            State::Double if char == '\\' => State::DoubleEscape,
            State::Single | State::Double => {
                self.value.push(char);
                state
            }
            State::DoubleEscape => {
                match char {
                    '"' | '\\' | '`' | '$' => self.value.push(char),
                    '\n' => {}
                    _ => self.value.extend(['\\', char]),
                }
                State::Double
            }
            State::Comment if char == '\\' => State::CommentEscape,
            State::Comment if is_newline(char) => State::BeforeName,
            State::CommentEscape if is_newline(char) => {
                self.fault(self.at, COMMENT_GOES_ON);
                State::BeforeName
            }
            State::Comment | State::CommentEscape => State::Comment,
        }
    }

    /// Before the value, and between quoted pieces of it, which are joined.
    fn before_value(&mut self, at: usize, char: char) -> State {
        match char {
            '\'' | '"' => {
                self.quote_at = at;
                if char == '\'' { State::Single } else { State::Double }
            }
            '\\' => {
                self.kept = self.value.len();
                State::Escape
            }
            _ if is_space(char) => {
                self.spaces_after_quote |= self.quote_at > self.at;
                State::BeforeValue
            }
            _ => {
                if char == '#' && self.spaces_after_quote {
                    self.fault(self.at, COMMENT_IN_VALUE);
                }
                self.value.push(char);
                self.kept = self.value.len();
                State::Value
            }
        }
    }

    fn push(&mut self, state: State) {
        if state == State::Value {
            self.value.truncate(self.kept);
        }
        if !self.value.chars().all(may_be_in_a_value) {
            return self.fault(self.at, NO_CHARACTER);
        }
        let name = self.name.trim_end_matches(is_space).to_owned();
        self.found.push(Assignment { name, value: std::mem::take(&mut self.value), at: self.at });
    }

    fn end(&mut self, state: State) {
        match state {
            State::BeforeName | State::Comment | State::CommentEscape => {}
            State::Name => self.fault(self.at, NO_ASSIGNMENT),
            State::Single | State::Double | State::DoubleEscape => self.fault(self.quote_at, NO_CLOSING_QUOTE),
            State::BeforeValue | State::Value | State::Escape => self.push(state),
        }
    }

    fn fault(&mut self, at: usize, says: &'static str) {
        self.faults.push(Fault { at, says });
    }
}

/// The text of a file that sets these variables, and the names of those that no such file can set.
pub(crate) fn written(variables: &[(String, String)]) -> (String, Vec<&str>) {
    let mut text = String::new();
    let mut left_out = Vec::new();
    for (name, value) in variables {
        if !value.chars().all(may_be_in_a_value) {
            left_out.push(name.as_str());
            continue;
        }
        let mut quoted = String::with_capacity(value.len());
        for char in value.chars() {
            if matches!(char, '"' | '\\' | '`' | '$') {
                quoted.push('\\');
            }
            quoted.push(char);
        }
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{name}=\"{quoted}\"");
    }
    (text, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files, and what systemd makes of them: the same list is asked of systemd itself, by the test
    /// `a_secrets_file_means_to_the_agent_what_it_means_to_systemd`.
    const CORPUS: &str = include_str!("../../../tests/src/environment-files.json");

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        sets: Vec<(String, String)>,
    }

    #[test]
    fn a_file_means_what_systemd_makes_of_it() {
        let cases: Vec<Case> = serde_json::from_str(CORPUS).unwrap();
        assert!(cases.len() > 40);
        for Case { text, sets } in cases {
            let read = parse(&text).unwrap_or_else(|faults| panic!("{text:?}: {faults:?}"));
            let read: Vec<(String, String)> = read.into_iter().map(|one| (one.name, one.value)).collect();
            assert_eq!(read, sets, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_as_it_was_meant() {
        let values = ["", "a", " a ", "a\"b'c`d$e\\f\\n", "one\ntwo\n", "\ttab", "#no comment", "ü → 東", "a\\\nb", "a\r\nb\r"];
        let pairs: Vec<(String, String)> = values.iter().enumerate().map(|(at, value)| (format!("T_{at}"), (*value).to_owned())).collect();
        let (text, left_out) = written(&pairs);
        assert!(left_out.is_empty());
        let read: Vec<(String, String)> = parse(&text).unwrap().into_iter().map(|one| (one.name, one.value)).collect();
        assert_eq!(read, pairs);
        let odd = [("A".to_owned(), "a\u{fffe}b".to_owned()), ("B".to_owned(), "b".to_owned())];
        assert_eq!(written(&odd), ("B=\"b\"\n".to_owned(), vec!["A"]));
    }

    #[test]
    fn what_would_not_mean_what_it_says_is_a_fault() {
        for (text, at, says) in [
            ("A=1\nhunter2\nB=2\n", 4, NO_ASSIGNMENT),
            ("hunter2", 0, NO_ASSIGNMENT),
            ("A=1\n# one \\\nB=2\n", 4, COMMENT_GOES_ON),
            ("A=1\nA=\"b\" # why\n", 4, COMMENT_IN_VALUE),
            ("A=\"b\nB=2\n", 2, NO_CLOSING_QUOTE),
            ("A='b\"\n", 2, NO_CLOSING_QUOTE),
            ("A=\"b\\", 2, NO_CLOSING_QUOTE),
            ("A=a\u{ffff}b\n", 0, NO_CHARACTER),
            ("A=a\u{fdd0}b\n", 0, NO_CHARACTER),
        ] {
            assert_eq!(parse(text), Err(vec![Fault { at, says }]), "{text:?}");
        }
    }
}
