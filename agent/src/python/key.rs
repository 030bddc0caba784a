//! The key of an environment.

use aws_lc_rs::digest::{Context, SHA256};

/// Changes whenever environments are built in another way, so that those built in the former way are not taken over.
const FORMAT: &str = "1";

/// Gathers what decides the result.
pub(super) struct Key(Context);

impl Default for Key {
    fn default() -> Self {
        let mut key = Self(Context::new(&SHA256));
        key.add("format", FORMAT);
        key
    }
}

impl Key {
    /// Adds a value under a label. Lengths go in first, so that no two lists of values look alike.
    pub(super) fn add(&mut self, label: &str, value: impl AsRef<[u8]>) {
        for part in [label.as_bytes(), value.as_ref()] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    /// 32 hexadecimal digits.
    pub(super) fn finish(self) -> String {
        hex::encode(&self.0.finish().as_ref()[..16])
    }
}

/// Text without the user and password of the URLs in it: they change without a change of what is served, and are not to be shown.
pub(super) fn without_userinfo(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority =
            after.find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '>' | ')') || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(at) => &after[at + 1..],
            None => after,
        };
    }
    out.push_str(rest);
    out
}
