//! The address of an agent: a socket of this host, or a URL.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use agent_model::names::{BadName, HostId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket of this host.
    Socket(PathBuf),
    /// A URL on the network.
    Network(Url),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Network(url) => url.fmt(formatter),
        }
    }
}

/// `https://`, a host and perhaps a port. The agent owns the whole host, so there is no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// The host's name in lower case, or its IP address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The default port, which URLs leave out.
const HTTPS: u16 = 443;

impl Url {
    /// Host and port, as in a URL and in the header `Host`.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }

    /// The host's default name in requests.
    pub(crate) fn host_id(&self) -> Result<HostId, BadName> {
        self.host.parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}", self.authority())
    }
}

impl FromStr for Url {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        // The part before an @ may be a password.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let bad = |rule| BadName { what: "URL", text: shown.chars().take(80).collect(), rule };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            _ => return Err(bad("must begin with https://, as in https://web1.example.org:8443")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(bad("must have nothing but a host and a port, as in https://web1.example.org:8443"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| bad("has a bracket that is not closed"))?,
            None => authority.split_at(authority.rfind(':').unwrap_or(authority.len())),
        };
        let port = match port {
            "" => HTTPS,
            port => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| bad("has no port behind its colon"))?,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let named = || {
            host.split('.')
                .all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)))
        };
        let fits = if authority.starts_with('[') { matches!(host.parse(), Ok(IpAddr::V6(_))) } else { named() };
        if fits { Ok(Self { host, port }) } else { Err(bad("has no host name that can be looked up")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        assert!(!"https://anna:secret@web1".parse::<Url>().unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for (text, written) in [
            ("https://web1.example.org:8443", "https://web1.example.org:8443"),
            ("HTTPS://Web1.Example.org./", "https://web1.example.org"),
            ("https://web1:443", "https://web1"),
            ("https://10.0.0.5:8443/", "https://10.0.0.5:8443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), written, "{text}");
        }
        assert_eq!("https://[fe80::1]".parse::<Url>().unwrap().host, "fe80::1");
        for text in [
            "web1:8443",
            "http://web1",
            "https://",
            "https://web1:",
            "https://web1:0",
            "https://web1:99999",
            "https://web1/agent",
            "https://anna@web1",
            "https://[::1",
            "https://[web1]",
            "https://::1",
            "https://we b1",
            "https://web1..org",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text} was taken");
        }
    }
}
