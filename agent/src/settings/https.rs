//! `[https]` of `agent.toml`, and the files that go with it. They are read apart from the settings: a key that is revoked, or a certificate that
//! was renewed, counts at once, whatever else may be wrong with a file of some app.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_model::names::HostId;

use super::kinds::{list, parsed, text};
use super::reader::{Section, Value, shown};
use super::secrets::{read_closed, read_text, refuse_writable};
use super::{Complaint, Settings};
use crate::trust::{BadLine, Certificate, CertificateError, Revoked, Signers};

/// How the agent can be asked over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Https {
    /// `host`: what this host is called in the requests that are meant for it.
    pub host: HostId,
    /// `listen`: addresses and ports; sockets of the service manager come beside them.
    pub listen: Vec<SocketAddr>,
    /// `proxies`: whose addresses may have more connections than others, for many people come by them.
    pub proxies: Vec<IpAddr>,
    /// `certificate`: the chain in PEM form; without it, `tls/cert.pem` in the configuration directory.
    pub certificate: Option<Place>,
    /// `key`: its private key in PEM form; without it, `tls/key.pem` in the configuration directory.
    pub key: Option<Place>,
    /// `url`: how people and forges reach the agent, for links; without it, `https://` and the host with the first port.
    pub url: Option<String>,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path.
    Path(PathBuf),
    /// `credential:NAME`: what the service manager hands over under this name (systemd.exec(5), `LoadCredential=`).
    Credential(String),
}

impl Https {
    /// How people and forges reach the agent, without a slash at the end.
    pub(crate) fn address(&self) -> String {
        self.url.clone().unwrap_or_else(|| match self.listen.first().map_or(443, SocketAddr::port) {
            443 => format!("https://{}", self.host),
            port => format!("https://{}:{port}", self.host),
        })
    }
}

pub(super) fn read(section: &Section<'_>) -> Option<Https> {
    let host = section.need("host", parsed(str::parse::<HostId>));
    let listen = section.get("listen", list(parsed(parse_address)));
    Some(Https {
        host: host?,
        listen: listen.unwrap_or_else(|| vec![SocketAddr::from(([0, 0, 0, 0], 8443))]),
        proxies: section.get("proxies", list(parsed(parse_proxy))).unwrap_or_default(),
        certificate: section.get("certificate", place),
        key: section.get("key", place),
        url: section.get("url", parsed(parse_url)),
    })
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{:?} is no address with a port, such as 0.0.0.0:8443 or [::]:8443", shown(text)))
}

fn parse_proxy(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{:?} is no address, such as 10.0.0.5 or fd00::5", shown(text)))
}

fn parse_url(text: &str) -> Result<String, String> {
    let fits = text
        .strip_prefix("https://")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte)));
    if fits { Ok(text.trim_end_matches('/').to_owned()) } else { Err(format!("{:?} is no address that begins with https://", shown(text))) }
}

fn place(value: &Value<'_>) -> Option<Place> {
    let text = text(value)?;
    if let Some(name) = text.strip_prefix("credential:") {
        let fits =
            !name.is_empty() && !name.starts_with('.') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        return if fits {
            Some(Place::Credential(name.to_owned()))
        } else {
            value.complain("must name a credential behind credential:", None)
        };
    }
    super::kinds::absolute(value).map(Place::Path)
}

/// What the files beside the settings hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Material {
    /// `allowed_signers`
    pub signers: Arc<Signers>,
    /// `revoked_keys`
    pub revoked: Arc<Revoked>,
    /// Whether there is such a file, or was one before.
    pub listed: Listed,
    /// The certificate; nothing without `[https]`.
    pub certificate: Option<Arc<Certificate>>,
}

/// Whether a list of revoked keys is known of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Listed {
    /// There was never one.
    #[default]
    Never,
    /// There is one, or was one before: one that is gone revokes no fewer keys.
    Once,
}

/// The files that go with `[https]`, for whoever watches them.
pub(super) fn files(settings: &Settings, config_dir: &Path) -> Vec<PathBuf> {
    let Some(https) = &settings.agent.https else { return Vec::new() };
    let tls = [(&https.certificate, "cert.pem"), (&https.key, "key.pem")].map(|(place, usual)| path_of(place.as_ref(), config_dir, usual));
    tls.into_iter().flatten().chain([config_dir.join("allowed_signers"), config_dir.join("revoked_keys")]).collect()
}

impl Https {
    /// Where the private key is, if that is a file.
    pub(super) fn key_file(&self, config_dir: &Path) -> Option<PathBuf> {
        path_of(self.key.as_ref(), config_dir, "key.pem")
    }
}

fn path_of(place: Option<&Place>, config_dir: &Path, usual: &str) -> Option<PathBuf> {
    match place {
        None => Some(config_dir.join("tls").join(usual)),
        Some(Place::Path(path)) => Some(path.clone()),
        Some(Place::Credential(name)) => std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(name)),
    }
}

/// Reads the files. What cannot be read stays as it was in `before`, and is complained of; a key that was revoked stays so until a list without any
/// mistake no longer has it.
pub(super) fn load(settings: &Settings, config_dir: &Path, before: &Material) -> (Material, Vec<Complaint>) {
    let Some(https) = &settings.agent.https else {
        // What was revoked stays so until a list says otherwise.
        return (Material { revoked: before.revoked.clone(), listed: before.listed, ..Material::default() }, Vec::new());
    };
    let mut complaints = Vec::new();
    let lines = |file: &Path, bad: Vec<BadLine>| {
        let complain = |bad: BadLine| Complaint { line: Some(bad.line), hint: bad.hint, ..Complaint::of_file(file, bad.says) };
        bad.into_iter().map(complain).collect::<Vec<_>>()
    };
    let file = config_dir.join("allowed_signers");
    let signers = match read_if_there(&file).map(|text| Signers::parse(&text)) {
        Ok(Ok(signers)) => Arc::new(signers),
        Ok(Err(bad)) => {
            complaints.extend(lines(&file, bad));
            before.signers.clone()
        }
        Err(complaint) => {
            complaints.push(*complaint);
            before.signers.clone()
        }
    };
    let file = config_dir.join("revoked_keys");
    let there = is_there(&file);
    let listed = if there { Listed::Once } else { before.listed };
    let revoked = match read_if_there(&file).map(|text| Revoked::parse(&text)) {
        _ if !there && before.listed == Listed::Once => {
            complaints.push(
                Complaint::of_file(&file, "is gone, and was there before: the keys that it revoked stay revoked")
                    .hint(format!("put it back; an empty one revokes no key: install -m 644 /dev/null {}", file.display())),
            );
            before.revoked.clone()
        }
        Ok((revoked, bad)) if bad.is_empty() => Arc::new(revoked),
        Ok((revoked, bad)) => {
            complaints.extend(lines(&file, bad));
            Arc::new(revoked.and(&before.revoked))
        }
        Err(complaint) => {
            complaints.push(*complaint);
            before.revoked.clone()
        }
    };
    let certificate = match read_certificate(https, config_dir) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(complaint) => {
            complaints.push(*complaint);
            before.certificate.clone()
        }
    };
    (Material { signers, revoked, listed, certificate }, complaints)
}

/// Whether there is such a file; one that nobody can look at counts as there, and is complained of when it is read.
fn is_there(file: &Path) -> bool {
    !matches!(file.symlink_metadata(), Err(err) if err.kind() == std::io::ErrorKind::NotFound)
}

fn read_if_there(file: &Path) -> Result<String, Box<Complaint>> {
    if !is_there(file) {
        return Ok(String::new());
    }
    refuse_writable(file)?;
    read_text(file)
}

fn read_certificate(https: &Https, config_dir: &Path) -> Result<Certificate, Box<Complaint>> {
    let located = |place: Option<&Place>, usual: &str| {
        path_of(place, config_dir, usual).ok_or_else(|| {
            let says = "names a credential, and the service manager hands over none (CREDENTIALS_DIRECTORY is not set)";
            let hint = "add LoadCredential= to the unit, or name the file by its path";
            Box::new(Complaint { key: "https".to_owned(), ..Complaint::of_file(&config_dir.join("agent.toml"), says).hint(hint) })
        })
    };
    let hint = "`agentctl init --tls` makes a certificate for a first try; `certificate` and `key` in [https] name another";
    let (chain_file, key_file) = (located(https.certificate.as_ref(), "cert.pem")?, located(https.key.as_ref(), "key.pem")?);
    let hinted = |complaint: Box<Complaint>| if complaint.hint.is_some() { complaint } else { Box::new(complaint.hint(hint)) };
    let (chain, key) = (read_text(&chain_file).map_err(hinted)?, read_closed(&key_file).map_err(hinted)?);
    Certificate::parse(chain.as_bytes(), key.as_bytes()).map_err(|err| {
        let file = match err {
            CertificateError::NoCertificate | CertificateError::Unreadable => &chain_file,
            CertificateError::NoKey | CertificateError::KeyKind | CertificateError::Mismatch => &key_file,
        };
        Box::new(Complaint::of_file(file, err.to_string()))
    })
}
