//! `init --tls`: a self-signed certificate. It suffices for a first try and for a few known clients that get a copy.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use agent_model::names::HostId;
use chrono::{Datelike, Days, Months, NaiveDate, Utc};
use nix::unistd::{User, chown, geteuid, gethostname};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};
use ssh_key::HashAlg;

use super::{For, write_new};
use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render::init::{MadeTls, tls_written};

/// How long it is valid. A short life gains nothing, because its few clients know it by its bytes.
const MONTHS: Months = Months::new(120);
/// The user that the agent runs as when it was installed by its package or by the README.
const AGENT: &str = "release-agent";

/// Makes a pair for these names, writes it, and prints the next steps.
pub(super) fn write(out: &mut Out, dir: &Path, names: Vec<String>) -> Result<Exit, Fault> {
    let names = if names.is_empty() { vec![own_name()?] } else { names };
    for name in &names {
        if name.parse::<HostId>().is_err() && name.parse::<IpAddr>().is_err() {
            return Err(Fault::Init {
                what: format!("the host {name:?}"),
                rule: "must be a host name in lower-case letters, or an address",
            });
        }
    }
    let host = names.iter().find_map(|name| name.parse::<HostId>().ok()).ok_or(Fault::Init {
        what: "the certificate".into(),
        rule: "must have a host name beside its addresses: it is what requests call the host",
    })?;
    let tls = dir.join("tls");
    let (cert, key) = (tls.join("cert.pem"), tls.join("key.pem"));
    if let Some(there) = [&cert, &key].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(Fault::Exists(there.clone()));
    }
    let today = Utc::now().date_naive();
    let until = today.checked_add_months(MONTHS).unwrap_or(NaiveDate::MAX);
    let made = make(&names, today, until).map_err(|err| Fault::Host { act: "make a certificate", source: err.into() })?;

    fs::create_dir_all(&tls).map_err(|source| Fault::Disk { act: "make", path: tls.clone(), source })?;
    write_new(&key, &made.key, For::ItsOwner)?;
    let owner = give_to_agent(&key)?;
    write_new(&cert, &made.cert, For::Everybody).inspect_err(|_| {
        // A key without its certificate is useless, and blocks the next attempt.
        let _ = fs::remove_file(&key);
    })?;
    out.words(&tls_written(&MadeTls {
        dir,
        names: &names,
        host: &host,
        fingerprint: &made.digest,
        until: &until.format("%Y-%m-%d").to_string(),
        owner: owner.as_deref(),
    }));
    Ok(Exit::GOOD)
}

struct Made {
    cert: String,
    key: String,
    /// The SHA-256 of the certificate.
    digest: Vec<u8>,
}

fn make(names: &[String], today: NaiveDate, until: NaiveDate) -> Result<Made, rcgen::Error> {
    // Valid from yesterday on, for clocks that are behind.
    let [from, until] = [today.checked_sub_days(Days::new(1)).unwrap_or(today), until].map(|day| {
        let part = |part: u32| u8::try_from(part).unwrap_or(1);
        date_time_ymd(day.year(), part(day.month()), part(day.day()))
    });
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.first().map_or(AGENT, String::as_str));
    params.not_before = from;
    params.not_after = until;
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem(), digest: HashAlg::Sha256.digest(cert.der()) })
}

fn own_name() -> Result<String, Fault> {
    let name = gethostname().map_err(|err| Fault::Host { act: "find out what this host is called", source: err.into() })?;
    Ok(name.to_string_lossy().to_ascii_lowercase())
}

/// Gives the key that root made to the agent's user, where there is one, because the agent must read it.
fn give_to_agent(key: &Path) -> Result<Option<String>, Fault> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    // A user whose lookup fails counts as missing.
    let Some(user) = User::from_name(AGENT).ok().flatten() else { return Ok(None) };
    chown(key, Some(user.uid), Some(user.gid)).map_err(|err| Fault::Disk {
        act: "change the owner of",
        path: key.to_owned(),
        source: err.into(),
    })?;
    Ok(Some(user.name))
}
