//! Where an app's commits come from: `repository`, `allow_local`, `ssh_key`, `known_hosts`.

use std::path::PathBuf;

use crate::git::{Repository, Settings};
use crate::settings::kinds::{absolute, switch, text};
use crate::settings::reader::{Section, shown};

pub(super) fn read(top: &Section<'_>) -> Option<Settings> {
    let allow_local = top.get("allow_local", switch).unwrap_or(false);
    let repository = top.need("repository", |value| {
        let text = text(value)?;
        match parse_repository(&text) {
            Ok(Repository::Local(path)) if !allow_local => value.complain(
                format!("{} is a path on this host: whoever can write there decides what is run", shown(&path.display().to_string())),
                Some("if that is meant, add allow_local = true".to_owned()),
            ),
            Ok(repository) => Some(repository),
            Err((says, hint)) => value.complain(says, Some(hint)),
        }
    });
    let ssh_key = top.get("ssh_key", absolute);
    let known_hosts = top.get("known_hosts", absolute);
    if let Some(Repository::Https(_) | Repository::Local(_)) = repository {
        for key in ["ssh_key", "known_hosts"].into_iter().filter(|key| top.has(key)) {
            top.complain(key, "is for ssh, and the repository is not reached by ssh", "leave it out, or write git@host:path");
        }
    }
    Some(Settings { repository: repository?, ssh_key, known_hosts })
}

/// What is wrong, and what to do.
type Wrong = (String, String);

fn wrong<T>(says: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((says.into(), hint.into()))
}

const FORMS: &str = "write https://host/path, git@host:path or ssh://git@host/path";

/// Reads where a repository is. Whatever is refused may hold a password, so no complaint repeats what stands before an `@`.
fn parse_repository(text: &str) -> Result<Repository, Wrong> {
    if text.is_empty() || text.chars().any(|char| char.is_whitespace() || char.is_control()) {
        return wrong("must be the address of a git repository, without spaces", FORMS);
    }
    if text.starts_with('/') {
        return local(text);
    }
    if let Some((transport, _)) = text.split_once("::")
        && transport.chars().all(|char| char.is_ascii_alphanumeric() || char == '-')
    {
        return wrong(format!("{}:: would have git run a helper program of that name", shown(transport)), FORMS);
    }
    match text.split_once("://") {
        Some(("https", rest)) => https(text, rest),
        Some(("ssh", rest)) => ssh(text, rest),
        Some(("http", rest)) => {
            wrong("http is not encrypted: anybody on the way could change the code", format!("write https://{}", without_user(rest)))
        }
        Some(("git", rest)) => {
            wrong("git:// proves nothing: anybody on the way could change the code", format!("write https://{}", without_user(rest)))
        }
        Some(("file", _)) => wrong("file:// is not taken", "write the path itself, and allow_local = true"),
        Some((scheme, _)) => wrong(format!("{}:// is no way to reach a repository that the agent takes", shown(scheme)), FORMS),
        None => scp_like(text),
    }
}

fn without_user(rest: &str) -> String {
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    shown(&format!("{}{path}", authority.rsplit('@').next().unwrap_or_default()))
}

fn local(text: &str) -> Result<Repository, Wrong> {
    if text.split('/').any(|part| part == "..") {
        return wrong("must not contain \"..\"", "write the path without it");
    }
    Ok(Repository::Local(PathBuf::from(text)))
}

fn https(text: &str, rest: &str) -> Result<Repository, Wrong> {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return wrong(
            "has a user, a token or a password in it, which would be seen in process lists, in git's own files and in every event",
            "leave it out, change the token, and use a deploy key: git@host:path and ssh_key",
        );
    }
    if path.contains(['?', '#']) {
        return wrong("must not have a query or a fragment", "if there is a token in it, use a deploy key: git@host:path and ssh_key");
    }
    check_host(authority)?;
    check_path(path.trim_start_matches('/'))?;
    Ok(Repository::Https(text.to_owned()))
}

fn ssh(text: &str, rest: &str) -> Result<Repository, Wrong> {
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            check_user(user)?;
            host
        }
        None => authority,
    };
    check_host(host)?;
    check_path(path.trim_start_matches('/'))?;
    Ok(Repository::Ssh(text.to_owned()))
}

fn scp_like(text: &str) -> Result<Repository, Wrong> {
    let Some((place, path)) = text.split_once(':').filter(|(place, _)| !place.contains('/')) else {
        let hint = match text.split_once('/') {
            Some((host, _)) if host.contains('.') && !host.starts_with('.') => format!("write https://{}", without_user(text)),
            _ => format!("{FORMS}; a path on this host begins with a slash"),
        };
        return wrong("is not the address of a repository", hint);
    };
    // `user:password@host/path`, a URL that lost its scheme.
    if path.contains('@') && !place.contains('@') {
        return wrong("has a user and a password in it", FORMS);
    }
    let host = match place.rsplit_once('@') {
        Some((user, host)) => {
            check_user(user)?;
            host
        }
        None => place,
    };
    check_host(host)?;
    check_path(path)?;
    Ok(Repository::Ssh(text.to_owned()))
}

fn check_user(user: &str) -> Result<(), Wrong> {
    if user.contains(':') {
        return wrong(
            "has a password in it, which would be seen in process lists and events",
            "leave it out, change it, and use a deploy key with ssh_key",
        );
    }
    let fits = !user.is_empty() && !user.starts_with('-') && user.chars().all(|char| char.is_ascii_alphanumeric() || "._-+".contains(char));
    if fits { Ok(()) } else { wrong("has something before the @ that is not the name of a user", FORMS) }
}

/// A host, with a port behind it or not. ssh would take one that begins with a hyphen for an option.
fn check_host(authority: &str) -> Result<(), Wrong> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
        Some(_) => return wrong("names no host", FORMS),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.starts_with('-') {
        return wrong("names a host that begins with a hyphen, which ssh would take for an option", FORMS);
    }
    if host.is_empty() || !host.chars().all(|char| char.is_ascii_alphanumeric() || ".-_".contains(char)) {
        return wrong("names no host", FORMS);
    }
    if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()) {
        return wrong("names a port that is not a number from 0 to 65535", FORMS);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), Wrong> {
    if path.is_empty() {
        return wrong("names a host, and no repository on it", FORMS);
    }
    if path.starts_with('-') {
        return wrong("names a path that begins with a hyphen, which the other side would take for an option", FORMS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_taken() {
        for (text, expected) in [
            ("https://github.com/acme/shop.git", Repository::Https as fn(String) -> Repository),
            ("https://git.example.org:8443/acme/shop", Repository::Https),
            ("https://[2001:db8::1]/acme/shop", Repository::Https),
            ("git@github.com:acme/shop.git", Repository::Ssh),
            ("github.com:acme/shop.git", Repository::Ssh),
            ("ssh://git@github.com/acme/shop.git", Repository::Ssh),
            ("ssh://git@git.example.org:2222/acme/shop.git", Repository::Ssh),
            ("ssh://git.example.org/~/shop.git", Repository::Ssh),
        ] {
            assert_eq!(parse_repository(text), Ok(expected(text.to_owned())), "{text}");
        }
        assert_eq!(parse_repository("/srv/git/shop.git"), Ok(Repository::Local("/srv/git/shop.git".into())));
    }

    #[test]
    fn addresses_that_are_refused_and_why() {
        for (text, says, hint) in [
            ("http://github.com/acme/shop", "not encrypted", "write https://github.com/acme/shop"),
            ("http://me:hunter2@github.com/acme/shop", "not encrypted", "write https://github.com/acme/shop"),
            ("git://github.com/acme/shop", "proves nothing", "https://github.com"),
            ("file:///srv/git/shop.git", "file:// is not taken", "allow_local = true"),
            ("ftp://host/shop", "ftp://", "https://"),
            ("ext::sh -c id", "without spaces", "https://"),
            ("ext::id", "helper program", "https://"),
            ("ext::https://host/x", "helper program", "https://"),
            ("https://me:hunter2@github.com/acme/shop", "a token or a password", "deploy key"),
            ("https://hunter2@github.com/acme/shop", "a token or a password", "deploy key"),
            ("https://github.com/acme/shop?private_token=hunter2", "query", "deploy key"),
            ("ssh://git:hunter2@github.com/acme/shop", "a password", "deploy key"),
            ("me:hunter2@github.com/acme/shop", "a password", "https://"),
            ("ssh://-oProxyCommand=id/x", "begins with a hyphen", "https://"),
            ("ssh://git@-oProxyCommand=id/x", "begins with a hyphen", "https://"),
            ("-oProxyCommand=id:x", "begins with a hyphen", "https://"),
            ("git@-oProxyCommand=id:x", "begins with a hyphen", "https://"),
            ("-u@host:x", "not the name of a user", "https://"),
            ("https://-x/acme", "begins with a hyphen", "https://"),
            ("git@host:-x", "path that begins with a hyphen", "https://"),
            ("git@host:", "no repository", "https://"),
            ("https://github.com", "no repository", "https://"),
            ("https:///acme/shop", "names no host", "https://"),
            ("https://host:99999/x", "port", "https://"),
            ("github.com/acme/shop", "not the address", "write https://github.com/acme/shop"),
            ("../shop", "not the address", "begins with a slash"),
            ("shop", "not the address", "begins with a slash"),
            ("/srv/../etc", "\"..\"", "without it"),
            ("", "address of a git repository", "https://"),
            ("git@host:a\nb", "without spaces", "https://"),
        ] {
            let (found, told) = parse_repository(text).expect_err(text);
            assert!(found.contains(says), "{text}: {found}");
            assert!(told.contains(hint), "{text}: {told}");
            assert!(!format!("{found}{told}").contains("hunter2"), "{text}: a secret is repeated: {found} {told}");
        }
    }
}
