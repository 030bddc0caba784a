//! A secret as programs write it when they quote it: Python's repr and ascii, JSON, shells, URLs, HTML. The program that wrote a line is unknown, and
//! a text may have passed through two of them. So each character matches in any of its forms, independently of the others.

/// The most backslashes in front of a character: each quoting doubles them, and three quotings of one backslash are eight.
const MOST_BACKSLASHES: usize = 8;

/// A secret that has other forms than its own.
#[derive(Debug, Clone)]
pub(super) struct Escaped(Vec<char>);

impl Escaped {
    /// `None` for a secret that no program escapes.
    pub(super) fn of(secret: &str) -> Option<Self> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        (!secret.chars().all(plain)).then(|| Self(secret.chars().collect()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The text with the secret masked, if it occurs in any form.
    pub(super) fn cover(&self, text: &str, mask: &str) -> Option<String> {
        // Without one of these characters the text has no escapes, and other code finds the plain secret.
        if !text.contains(['\\', '%', '&', '+', '\'']) {
            return None;
        }
        let mut covered = String::new();
        let (mut at, mut copied) = (0, 0);
        while at < text.len() {
            match self.ends_at(&text[at..]) {
                Some(length) => {
                    covered.push_str(&text[copied..at]);
                    covered.push_str(mask);
                    at += length;
                    copied = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        (copied > 0).then(|| covered + &text[copied..])
    }

    /// The length of the secret at the beginning of the text, if it is there; the longest of several forms.
    fn ends_at(&self, text: &str) -> Option<usize> {
        let mut reached = vec![0];
        for letter in &self.0 {
            let mut next = Vec::new();
            for at in reached {
                forms(*letter, &text[at..], &mut |length| next.push(at + length));
            }
            next.sort_unstable();
            next.dedup();
            if next.is_empty() {
                return None;
            }
            reached = next;
        }
        reached.into_iter().next_back()
    }
}

/// Passes on the length of each form of a letter that the text begins with.
fn forms(letter: char, text: &str, found: &mut dyn FnMut(usize)) {
    if text.starts_with(letter) {
        found(letter.len_utf8());
    }
    let backslashes = text.bytes().take(MOST_BACKSLASHES).take_while(|byte| *byte == b'\\').count();
    for count in 1..=backslashes {
        if letter == '\\' {
            found(count);
        } else if let Some(length) = behind_backslashes(letter, &text[count..], &text[..count]) {
            found(count + length);
        }
    }
    if letter == ' ' && text.starts_with('+') {
        found(1);
    }
    if letter == '\'' {
        // Shells leave a quotation and enter it again.
        ["'\\''", "'\"'\"'"].iter().filter(|form| text.starts_with(**form)).for_each(|form| found(form.len()));
    }
    // RFC 3986, section 2.1.
    if let Some(length) = bytes_of(letter, text, |text| hex(text.strip_prefix('%')?, 2).map(|byte| (byte, 3))) {
        found(length);
    }
    if let Some(length) = entity(letter, text) {
        found(length);
    }
}

/// The length of the letter's form after one or more backslashes.
fn behind_backslashes(letter: char, text: &str, backslashes: &str) -> Option<usize> {
    let short = match letter {
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        _ => None,
    };
    if text.starts_with(letter) || short.is_some_and(|short| text.starts_with(short)) {
        return Some(letter.len_utf8());
    }
    let number = |text: &str, mark: char, digits: usize| hex(text.strip_prefix(mark)?, digits).map(|number| (number, 1 + digits));
    for (mark, digits) in [('x', 2), ('u', 4), ('U', 8)] {
        if let Some((found, length)) = number(text, mark, digits)
            && found == u32::from(letter)
        {
            return Some(length);
        }
    }
    // Outside of the first plane, two units of UTF-16 (RFC 8259, section 7).
    let mut units = [0; 2];
    if let [high, low] = *letter.encode_utf16(&mut units)
        && number(text, 'u', 4) == Some((u32::from(high), 5))
        && number(text.get(5..)?.strip_prefix(backslashes)?, 'u', 4) == Some((u32::from(low), 5))
    {
        return Some(10 + backslashes.len());
    }
    // The bytes of UTF-8, in hexadecimal as in Python's bytes, or in octal as in shells.
    let rest = |text: &str, at: usize| if at == 0 { Some(0) } else { text.starts_with(backslashes).then_some(backslashes.len()) };
    for form in [hexadecimal as fn(&str) -> Option<(u32, usize)>, octal] {
        let mut at = 0;
        let mut buffer = [0; 4];
        let all = letter.encode_utf8(&mut buffer).bytes().all(|byte| {
            let Some(before) = text.get(at..).and_then(|text| rest(text, at)) else { return false };
            match text.get(at + before..).and_then(form) {
                Some((found, length)) if found == u32::from(byte) => {
                    at += before + length;
                    true
                }
                _ => false,
            }
        });
        if all {
            return Some(at);
        }
    }
    None
}

fn hexadecimal(text: &str) -> Option<(u32, usize)> {
    hex(text.strip_prefix('x')?, 2).map(|byte| (byte, 3))
}

fn octal(text: &str) -> Option<(u32, usize)> {
    let digits = text.get(..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    u32::from_str_radix(digits, 8).ok().map(|byte| (byte, 3))
}

/// The length of the bytes of a letter, each in the same form.
fn bytes_of(letter: char, text: &str, form: impl Fn(&str) -> Option<(u32, usize)>) -> Option<usize> {
    let mut buffer = [0; 4];
    letter.encode_utf8(&mut buffer).bytes().try_fold(0, |at, byte| {
        let (found, length) = form(text.get(at..)?)?;
        (found == u32::from(byte)).then_some(at + length)
    })
}

/// The length of an HTML reference to this letter.
fn entity(letter: char, text: &str) -> Option<usize> {
    let name = text.strip_prefix('&')?;
    // No reference is longer, and repeated searches to the end of the text would be slow.
    let name = &name[..name.bytes().take(11).position(|byte| byte == b';')?];
    let number = |text: &str, radix| u32::from_str_radix(text, radix).ok().and_then(char::from_u32);
    let meant = match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        name => match name.strip_prefix('#')? {
            digits if digits.starts_with(['x', 'X']) => number(digits.get(1..)?, 16),
            digits => number(digits, 10),
        },
    };
    (meant == Some(letter)).then_some(name.len() + 2)
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    let text = text.get(..digits).filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(secret: &str, text: &str) -> String {
        Escaped::of(secret).unwrap().cover(text, "***").unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn a_secret_is_found_as_python_json_shells_urls_and_html_write_it() {
        let secret = "Tr0ub\\dor&\"three\" d'é\u{1f600}\n";
        for text in [
            // repr, ascii and repr of the bytes.
            r#"'Tr0ub\\dor&"three" d\'é😀\n'"#,
            r#"'Tr0ub\\dor&"three" d\'\xe9\U0001f600\n'"#,
            r#"b'Tr0ub\\dor&"three" d\'\xc3\xa9\xf0\x9f\x98\x80\n'"#,
            // JSON, its plain form, that of Django's json_script, and JSON within JSON.
            r#""Tr0ub\\dor&\"three\" d'\u00e9\ud83d\ude00\n""#,
            r#""Tr0ub\\dor&\"three\" d'é😀\n""#,
            r#""Tr0ub\\dor\u0026\"three\" d\u0027é😀\n""#,
            r#"{"msg": "{\"password\": \"Tr0ub\\\\dor&\\\"three\\\" d'\\u00e9\\ud83d\\ude00\\n\"}"}"#,
            // shlex.quote, and bash with %q.
            "'Tr0ub\\dor&\"three\" d'\"'\"'é😀\n'",
            "'Tr0ub\\dor&\"three\" d'\\''é😀\n'",
            "$'Tr0ub\\\\dor&\"three\" d\\'\\303\\251\\360\\237\\230\\200\\n'",
            // quote, and quote_plus.
            "Tr0ub%5Cdor%26%22three%22%20d%27%C3%A9%F0%9F%98%80%0A",
            "Tr0ub%5cdor%26%22three%22+d%27%c3%a9%f0%9f%98%80%0a",
            "Tr0ub\\dor&amp;&quot;three&quot; d&#x27;é😀&#10;",
        ] {
            let masked = covered(secret, text);
            assert!(masked.contains("***") && !masked.contains("three") && !masked.contains("dor"), "{text}: {masked}");
        }
        // A backslash before a letter that needs none; `%q` writes one before each special letter.
        assert_eq!(covered("a b&c d", r"echo a\ b\&c\ d"), "echo ***");
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for text in ["a%20c and b&amp;c", r"\x61 \u0062", "'", r"a\", "%", "&;", "&#xzz;", r"\ud83d", r"\u12", "a+b"] {
            assert_eq!(covered("a b&c", text), text);
        }
        assert!(Escaped::of("plain-Secret_1.2").is_none());
        assert_eq!(covered("a b", "x a+b y a%20b"), "x *** y ***");
    }
}
