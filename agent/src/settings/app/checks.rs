//! `[[check]]`.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::settings::defaults;
use crate::settings::kinds::{integer, parsed, some_text, texts_by_name, timeout, wait};
use crate::settings::reader::{Section, shown};
use crate::tools::http::{Check, Target};

pub(super) fn read(top: &Section<'_>) -> Vec<Check> {
    top.tables("check").iter().filter_map(check).collect()
}

fn check(section: &Section<'_>) -> Option<Check> {
    let url = section.need("url", parsed(parse_check_url));
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

/// Where a check asks, and the path with its query: `http://host[:port]/path`, `unix:/run/x.sock` or `unix:/run/x.sock:/path`. An IPv6 address
/// loses its brackets.
pub(crate) fn parse_check_url(text: &str) -> Result<(Target, String), String> {
    if text.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err("must be http://host:port/path or unix:/run/app/web.sock:/path, without spaces and in ASCII".to_owned());
    }
    if let Some(rest) = text.strip_prefix("unix:") {
        return unix(rest);
    }
    if let Some(rest) = text.strip_prefix("http://unix:") {
        return Err(format!("a socket is written without http://: unix:{}", shown(rest)));
    }
    match text.split_once("://") {
        Some(("http", rest)) => tcp(rest),
        Some(("https", _)) => {
            Err("https is not asked: what is checked is the server itself, not what stands before it. Ask it over http, and add \
             headers = { X-Forwarded-Proto = \"https\" } where the app redirects http"
                .to_owned())
        }
        Some((scheme, _)) => Err(format!("{}:// is not asked; write http://… or unix:/…", shown(scheme))),
        None if text.starts_with('/') => Err("names no server; write http://127.0.0.1:8000/… or unix:/run/app/web.sock:/…".to_owned()),
        None => Err("must begin with http:// or unix:/".to_owned()),
    }
}

fn unix(rest: &str) -> Result<(Target, String), String> {
    let rest = rest.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(rest);
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    if !socket.starts_with('/') || socket == "/" || socket.split('/').any(|part| part == "..") {
        return Err("must name a socket by its absolute path, such as unix:/run/app/web.sock".to_owned());
    }
    if socket.contains(':') {
        return Err("the path that is asked for begins with a slash: unix:/run/app/web.sock:/path".to_owned());
    }
    if socket.len() > 107 {
        return Err(format!("names a socket of {} bytes, and the kernel knows none beyond 107", socket.len()));
    }
    Ok((Target::Unix(PathBuf::from(socket)), without_fragment(path)?))
}

fn tcp(rest: &str) -> Result<(Target, String), String> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("must not hold a user or a password; write headers = { Authorization = … } if the app asks for one".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("a [ has no ] behind it")?;
            address.parse::<Ipv6Addr>().map_err(|_| format!("[{}] is no IPv6 address", shown(address)))?;
            (address, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("")) })
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let named =
        !host.is_empty() && !host.starts_with('-') && host.chars().all(|char| char.is_ascii_alphanumeric() || ".-_:".contains(char));
    if !named {
        return Err(format!("{:?} is no host", shown(host)));
    }
    let port = match port {
        None => 80,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{:?} is no port", shown(port)))?
        }
        Some(port) => return Err(format!("{:?} is no port", shown(port))),
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((Target::Tcp(host.to_owned(), port), without_fragment(path)?))
}

fn without_fragment(path: String) -> Result<String, String> {
    if path.contains('#') { Err("must not hold a #: no server ever sees what follows it".to_owned()) } else { Ok(path) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_taken() {
        let tcp = |host: &str, port, path: &str| Ok((Target::Tcp(host.to_owned(), port), path.to_owned()));
        let unix = |socket: &str, path: &str| Ok((Target::Unix(socket.into()), path.to_owned()));
        for (text, expected) in [
            ("http://127.0.0.1:8000/healthz", tcp("127.0.0.1", 8000, "/healthz")),
            ("http://localhost", tcp("localhost", 80, "/")),
            ("http://localhost?x=1", tcp("localhost", 80, "/?x=1")),
            ("http://[::1]:8000/a?b=c", tcp("::1", 8000, "/a?b=c")),
            ("http://[::1]", tcp("::1", 80, "/")),
            ("unix:/run/shop/http.sock", unix("/run/shop/http.sock", "/")),
            ("unix:/run/shop/http.sock:/healthz?a=:/b", unix("/run/shop/http.sock", "/healthz?a=:/b")),
            ("unix:///run/shop/http.sock", unix("/run/shop/http.sock", "/")),
        ] {
            assert_eq!(parse_check_url(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_that_are_refused_and_why() {
        for (text, says) in [
            ("https://shop.example.com/", "X-Forwarded-Proto"),
            ("http://unix:/run/x.sock:/", "unix:/run/x.sock:/"),
            ("ftp://host/", "ftp://"),
            ("/healthz", "names no server"),
            ("127.0.0.1:8000", "must begin with"),
            ("http://", "no host"),
            ("http://a:b@host/", "user or a password"),
            ("http://host:0/", "no port"),
            ("http://host:/", "no port"),
            ("http://host:+80/", "no port"),
            ("http://host:99999/", "no port"),
            ("http://[::1/", "no ]"),
            ("http://[host]/", "no IPv6 address"),
            ("http://[::1]x/", "no port"),
            ("http://host/#x", "#"),
            ("http://ho st/", "without spaces"),
            ("http://host/\r\nX: y", "without spaces"),
            ("http://hëst/", "ASCII"),
            ("unix:run/x.sock", "absolute path"),
            ("unix:/run/../x.sock", "absolute path"),
            ("unix:/run/x.sock:healthz", "begins with a slash"),
            ("", "must be http"),
        ] {
            let found = parse_check_url(text).expect_err(text);
            assert!(found.contains(says), "{text}: {found}");
        }
        assert!(parse_check_url(&format!("unix:/{}", "x".repeat(120))).is_err());
    }
}
