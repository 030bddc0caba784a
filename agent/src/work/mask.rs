//! Masks secrets by value, whichever program prints them and wherever.

mod escapes;

use std::borrow::Cow;
use std::cell::RefCell;

use agent_wire::event::Stream;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use escapes::Escaped;

/// The replacement of a secret.
const MASK: &str = "***";
/// A secret shorter than this would mask half of every text, and protects nothing.
const SHORTEST: usize = 4;
/// Parts of a secret shorter than this occur by chance.
const SHORTEST_WITH_PARTS: usize = 8;

#[derive(Debug, Clone, Default)]
pub(crate) struct Mask {
    /// Longer ones first: a secret may be part of another.
    texts: Vec<String>,
    /// Secrets that are also searched across line ends.
    whole: Vec<String>,
    /// Secrets that programs write differently when they quote or escape them.
    escaped: Vec<Escaped>,
}

impl Mask {
    /// Masks each of these values, each line of a multi-line value, and the base64 of each, alone and within a longer text.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut whole: Vec<String> =
            values.into_iter().flat_map(|value| std::iter::once(value).chain(value.lines())).map(str::to_owned).collect();
        // The password within a database's address may also appear without the address.
        let within: Vec<String> = whole.iter().filter_map(|value| password_in(value).map(str::to_owned)).collect();
        whole.extend(within);
        whole.retain(|text| text.trim().len() >= SHORTEST);
        let mut escaped: Vec<Escaped> = whole.iter().filter_map(|value| Escaped::of(value)).collect();
        escaped.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut texts = whole.clone();
        for value in &whole {
            texts.extend(encoded(value.as_bytes()));
        }
        whole.retain(|text| text.len() >= SHORTEST_WITH_PARTS);
        // The rest of a secret whose first or last character is on another line.
        texts.extend(whole.iter().flat_map(|text| {
            let mut chars = text.chars();
            let (_, without_first) = (chars.next(), chars.as_str().to_owned());
            let mut chars = text.chars();
            let (_, without_last) = (chars.next_back(), chars.as_str().to_owned());
            [without_first, without_last]
        }));
        texts.retain(|text| text.trim().len() >= SHORTEST);
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        texts.dedup();
        Self { texts, whole, escaped }
    }

    /// Masks every secret in the text, and the user part of every URL that holds a password.
    pub(crate) fn cover<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut covered = Cow::Borrowed(text);
        // Escaped forms come first, because a plain match may be a part of one.
        for secret in &self.escaped {
            if let Some(text) = secret.cover(&covered, MASK) {
                covered = Cow::Owned(text);
            }
        }
        for secret in &self.texts {
            if covered.contains(secret.as_str()) {
                covered = Cow::Owned(covered.replace(secret.as_str(), MASK));
            }
        }
        match without_passwords(&covered) {
            Some(text) => Cow::Owned(text),
            None => covered,
        }
    }

    /// Whether the line may end with the beginning of a secret that continues in the next one.
    pub(crate) fn may_go_on(&self, line: &str) -> bool {
        self.whole.iter().any(|secret| parts(secret).any(|(first, _)| first.len() > 1 && line.ends_with(first)))
    }

    /// Masks a secret that begins at the end of one line and ends at the beginning of the next.
    pub(crate) fn cover_across(&self, first: &mut String, second: &mut String) {
        let found =
            self.whole.iter().flat_map(|secret| parts(secret)).find(|(head, tail)| first.ends_with(head) && second.starts_with(tail));
        if let Some((head, tail)) = found {
            first.truncate(first.len() - head.len());
            first.push_str(MASK);
            second.replace_range(..tail.len(), MASK);
        }
    }

    /// Consecutive lines, masked.
    pub(crate) fn cover_lines(&self, mut lines: Vec<String>) -> Vec<String> {
        for at in 1..lines.len() {
            if let [first, second, ..] = &mut lines[at - 1..] {
                self.cover_across(first, second);
            }
        }
        lines.into_iter().map(|line| self.cover(&line).into_owned()).collect()
    }
}

/// Masks output lines. A line that may end with the beginning of a secret waits for the next one of its stream.
#[derive(Debug)]
pub(crate) struct Lines {
    mask: Mask,
    held: RefCell<Vec<(Stream, String)>>,
}

impl Lines {
    pub(crate) fn new(mask: Mask) -> Self {
        Self { mask, held: RefCell::default() }
    }

    /// Takes a line, and passes on the lines that are complete.
    pub(crate) fn take(&self, stream: Stream, line: &str, say: &mut dyn FnMut(Stream, String)) {
        let mut line = line.to_owned();
        let before = self.held.borrow().iter().position(|(of, _)| *of == stream);
        if let Some(at) = before {
            let (stream, mut before) = self.held.borrow_mut().swap_remove(at);
            self.mask.cover_across(&mut before, &mut line);
            say(stream, self.mask.cover(&before).into_owned());
        }
        if self.mask.may_go_on(&line) {
            self.held.borrow_mut().push((stream, line));
        } else {
            say(stream, self.mask.cover(&line).into_owned());
        }
    }

    /// Passes on the lines that were held back.
    pub(crate) fn say_held(&self, say: &mut dyn FnMut(Stream, String)) {
        for (stream, line) in self.held.take() {
            say(stream, self.mask.cover(&line).into_owned());
        }
    }
}

/// All ways to cut a text in two.
fn parts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at))
}

/// The base64 of some bytes at any offset within an encoded text. It leaves out the characters that also depend on the neighbouring bytes (RFC 4648,
/// section 4, and the alphabet of section 5).
fn encoded(bytes: &[u8]) -> impl Iterator<Item = String> {
    [0, 1, 2].into_iter().flat_map(move |before: usize| {
        let shifted = [&[0; 2][..before], bytes].concat();
        let (first, last) = (before + usize::from(before > 0), (shifted.len() * 8) / 6);
        [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)].map(|text| text[first.min(last)..last].to_owned())
    })
}

/// The password of `scheme://user:password@host`.
fn password_in(address: &str) -> Option<&str> {
    let (user, _) = address.split_once("://")?.1.split(['/', '?']).next()?.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

/// Turns `scheme://user:password@host` into `scheme://***@host`. Over HTTP it masks a user alone as well, because that may be a token.
fn without_passwords(text: &str) -> Option<String> {
    let mut rest = text;
    let mut out = String::new();
    let mut changed = false;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let over_http = head.ends_with("http://") || head.ends_with("https://");
        let end = tail.find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'').unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(user) if over_http || tail[..user].contains(':') => {
                out.push_str(MASK);
                changed = true;
                &tail[user..]
            }
            _ => tail,
        };
    }
    out.push_str(rest);
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_goes_also_encoded_and_line_by_line() {
        let mask = Mask::of(["s3cret", "s3cret-longer", "line one\nline two", "abc", ""]);
        assert_eq!(mask.cover("a s3cret and s3cret-longer"), "a *** and ***");
        assert_eq!(mask.cover("got line two here"), "got *** here");
        assert_eq!(mask.cover("czNjcmV0"), "***");
        let mask = Mask::of(["postgres://shop:hunter2@db/shop"]);
        assert_eq!(mask.cover("password hunter2 was refused"), "password *** was refused");
        let mask = Mask::of(["abc"]);
        assert_eq!(mask.cover("abc is too short to be one"), "abc is too short to be one");
    }

    #[test]
    fn passwords_in_urls_go_whoever_knows_them() {
        let mask = Mask::default();
        assert_eq!(
            mask.cover("fatal: https://ci:tok@en@forge.example/x.git and ftp://a.example/b"),
            "fatal: https://***@forge.example/x.git and ftp://a.example/b"
        );
        assert_eq!(mask.cover("fatal: https://token@forge.example/x.git"), "fatal: https://***@forge.example/x.git");
        assert_eq!(mask.cover("postgres://shop:hunter2@db:5432/shop"), "postgres://***@db:5432/shop");
        assert_eq!(mask.cover("ssh://git@forge.example/x.git"), "ssh://git@forge.example/x.git");
    }

    #[test]
    fn base64_goes_wherever_the_secret_begins_in_what_is_encoded() {
        use base64::engine::general_purpose::STANDARD;
        let mask = Mask::of(["correct horse?battery>staple"]);
        for before in ["", "u", "us", "user:", "user: "] {
            let plain = format!("{before}correct horse?battery>staple{before}");
            for text in [STANDARD.encode(&plain), URL_SAFE_NO_PAD.encode(&plain)] {
                let covered = mask.cover(&text).into_owned();
                assert!(covered.contains(MASK) && covered.len() < 3 + 2 * (before.len() + 3) * 4 / 3 + 4, "{before:?}: {covered}");
            }
        }
    }

    #[test]
    fn a_secret_that_goes_on_in_the_next_line_goes_too() {
        let mask = Mask::of(["s3cret-value"]);
        for at in 1..12 {
            let (head, tail) = "s3cret-value".split_at(at);
            let lines = mask.cover_lines(vec![format!("a {head}"), format!("{tail} b")]);
            assert!(!lines.concat().contains("3cret-valu") && lines.iter().all(|line| line.len() < 8), "{at}: {lines:?}");
            assert!(mask.may_go_on(&format!("a {head}")) || at == 1);
        }
        assert!(!mask.may_go_on("nothing of it"));
        let lines = vec!["ends with s3cret".to_owned(), "and goes on otherwise".to_owned()];
        assert_eq!(mask.cover_lines(lines.clone()), lines);
    }
}
