//! `[[check]]`.

use crate::http::{Check, Target};
use crate::settings::defaults;
use crate::settings::kinds::{integer, parsed, some_text, texts_by_name, timeout, wait};
use crate::settings::reader::{Section, shown};

pub(super) fn read(top: &Section<'_>) -> Vec<Check> {
    top.tables("check").iter().filter_map(check).collect()
}

fn check(section: &Section<'_>) -> Option<Check> {
    let url = section.need("url", parsed(|text| Target::parse(text).map_err(|err| err.to_string())));
    let status = section.get("status", integer(100..=599)).and_then(|status| u16::try_from(status).ok());
    let contains = section.get("contains", some_text);
    let location = section.get("location", some_text);
    let headers = section.get("headers", texts_by_name(check_header)).unwrap_or_default();
    let expect_headers = section.get("expect_headers", texts_by_name(check_header)).unwrap_or_default();
    let release_header = section.get("release_header", parsed(|text| header_name(text).map(|()| text.to_owned())));
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::CHECK_TIMEOUT);
    let within = section.get("within", wait).unwrap_or(defaults::CHECK_WITHIN);
    let stable_for = section.get("stable", wait).unwrap_or(defaults::CHECK_STABLE);
    let status = status.unwrap_or(defaults::STATUS);
    if section.has("location") && !matches!(status, 201 | 300..=399) {
        section.complain("location", format!("is sent with a redirect, and the status expected is {status}"), "set status, to 302 for one");
    }
    let (target, path) = url?;
    Some(Check { target, path, headers, status, contains, location, expect_headers, release_header, timeout, within, stable_for })
}

/// Headers that the agent sets itself, so that one request has one answer and an end.
const OWN_HEADERS: [&str; 5] = ["connection", "content-length", "transfer-encoding", "upgrade", "expect"];

fn header_name(name: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) { Err(format!("{:?} is not the name of a header", shown(name))) } else { Ok(()) }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    header_name(name)?;
    if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err("is a header that belongs to the connection, and cannot be set or expected".to_owned());
    }
    if value.chars().any(char::is_control) || !value.is_ascii() {
        return Err("must be one line of ASCII".to_owned());
    }
    Ok(())
}
