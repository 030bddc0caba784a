//! The output of `init`.

use std::path::Path;

use agent_model::names::HostId;

/// The executor of the releases' jobs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunBy {
    /// The agent itself.
    Agent,
    /// Units with users of their own, which must be set up once.
    Units,
}

/// The text after an app file was written.
pub(crate) fn written(path: &Path, app: &str, run_by: RunBy) -> String {
    let path = path.display();
    let setup = match run_by {
        RunBy::Agent => String::new(),
        RunBy::Units => {
            format!("\n  agentctl setup app {app}           as root, once: makes its users, directories and units; asks before it does")
        }
    };
    format!(
        "wrote {path}
next: read it and set what differs, then{setup}
  agentctl --app {app} doctor          checks everything it names
  agentctl --app {app} plan main       shows what a release would do
  agentctl --app {app} release main    makes the first one"
    )
}

/// The results of `init --tls`.
pub(crate) struct MadeTls<'a> {
    /// The configuration directory.
    pub(crate) dir: &'a Path,
    /// The names in the certificate.
    pub(crate) names: &'a [String],
    /// The host's name in requests.
    pub(crate) host: &'a HostId,
    /// The SHA-256 of the certificate.
    pub(crate) fingerprint: &'a [u8],
    /// The last day of the certificate.
    pub(crate) until: &'a str,
    /// The new owner of the key, if not the caller.
    pub(crate) owner: Option<&'a str>,
}

/// The text after a certificate and its key were written.
pub(crate) fn tls_written(made: &MadeTls<'_>) -> String {
    let MadeTls { dir, names, host, until, .. } = made;
    let dir = dir.display();
    let names = names.join(", ");
    let owner = made.owner.map(|owner| format!(", which is now {owner}'s alone")).unwrap_or_default();
    let fingerprint = made.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    format!(
        "wrote {dir}/tls/cert.pem, self-signed for {names}, good until {until}
wrote {dir}/tls/key.pem, its private key{owner}
fingerprint of the certificate (SHA-256): {fingerprint}
next:
  add this to {dir}/agent.toml
    [https]
    host = \"{host}\"
  let somebody in: their public key as a line of {dir}/allowed_signers, and what they may do in agent.toml
    anna@example.org ssh-ed25519 AAAA...
    [[grant]]
    to = \"key:anna@example.org\"
    apps = [\"*\"]
    actions = [\"release\", \"activate\", \"plan\", \"read\"]
  give them a copy of cert.pem, and they ask from anywhere
    agentctl --url https://{host}:8443 --ca cert.pem --key ~/.ssh/id_ed25519 whoami"
    )
}
