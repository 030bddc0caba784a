//! Secrets, masked by value: whatever prints them, wherever they come out.

use std::borrow::Cow;

/// What stands in a secret's place.
const MASK: &str = "***";
/// A secret shorter than this would mask half of every text, and is no secret.
const SHORTEST: usize = 4;

/// The texts that are masked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mask(Vec<String>);

impl Mask {
    /// Masks each of these values, each line of those that have several, and the base64 of each.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut masked: Vec<String> = Vec::new();
        for value in values {
            masked.push(value.to_owned());
            masked.extend(value.lines().map(str::to_owned));
            masked.push(base64(value.as_bytes()));
        }
        masked.retain(|text| text.trim().len() >= SHORTEST);
        // Longer ones first: a secret may be part of another.
        masked.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        masked.dedup();
        Self(masked)
    }

    /// The text with every secret masked, and the user part of every URL that holds a password.
    pub(crate) fn cover<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut covered = Cow::Borrowed(text);
        for secret in &self.0 {
            if covered.contains(secret.as_str()) {
                covered = Cow::Owned(covered.replace(secret.as_str(), MASK));
            }
        }
        match without_passwords(&covered) {
            Some(text) => Cow::Owned(text),
            None => covered,
        }
    }
}

/// `scheme://user:password@host` becomes `scheme://***@host`.
fn without_passwords(text: &str) -> Option<String> {
    let mut rest = text;
    let mut out = String::new();
    let mut changed = false;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'').unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(user) if tail[..user].contains(':') => {
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

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32, shift: u32| char::from(DIGITS[usize::try_from(bits >> shift & 63).unwrap_or(0)]);
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        text.extend([digit(bits, 18), digit(bits, 12)]);
        text.push(if chunk.len() > 1 { digit(bits, 6) } else { '=' });
        text.push(if chunk.len() > 2 { digit(bits, 0) } else { '=' });
    }
    text
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
        assert_eq!(mask.cover("abc is too short to be one"), "abc is too short to be one");
    }

    #[test]
    fn passwords_in_urls_go_whoever_knows_them() {
        let mask = Mask::default();
        assert_eq!(
            mask.cover("fatal: https://ci:tok@en@forge.example/x.git and ftp://a.example/b"),
            "fatal: https://***@forge.example/x.git and ftp://a.example/b"
        );
        assert_eq!(mask.cover("postgres://shop:hunter2@db:5432/shop"), "postgres://***@db:5432/shop");
        assert_eq!(mask.cover("ssh://git@forge.example/x.git"), "ssh://git@forge.example/x.git");
    }

    #[test]
    fn base64_is_what_the_rfc_says() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
