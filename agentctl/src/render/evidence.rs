//! The output of `show RUN --evidence`: the signed bytes, the signatures in OpenSSH's own form, and the commands that verify them.

use std::path::{Path, PathBuf};

use agent_wire::view::Evidence;

use super::words::{clean_line, listed, quoted};

/// The files of one run's evidence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    request: PathBuf,
    signatures: Vec<PathBuf>,
}

impl Files {
    /// Their names in a directory.
    pub(crate) fn of(evidence: &Evidence, directory: &Path) -> Self {
        let run = evidence.run;
        let name = |at: usize| if at == 0 { format!("run-{run}.sig") } else { format!("run-{run}.{}.sig", at + 1) };
        let signatures = (0..evidence.signatures.len()).map(|at| directory.join(name(at))).collect();
        Self { request: directory.join(format!("run-{run}.json")), signatures }
    }

    /// The content of each file.
    pub(crate) fn contents<'a>(&'a self, evidence: &Evidence) -> Vec<(&'a PathBuf, String)> {
        let signatures = evidence.signatures.iter().map(|blob| armoured(blob));
        std::iter::once((&self.request, evidence.request.clone())).chain(self.signatures.iter().zip(signatures)).collect()
    }

    /// The caller, the written files, and the commands that verify them.
    pub(crate) fn told(&self, evidence: &Evidence) -> String {
        let name = |path: &Path| clean_line(&path.display().to_string());
        let (run, caller) = (evidence.run, clean_line(&evidence.caller));
        let mut lines = vec![format!("wrote {}: the request of run {run}, by {caller}", name(&self.request))];
        if self.signatures.is_empty() {
            lines.push("it has no signature: the kernel, an ID token or a webhook said who asked".to_owned());
        }
        let principals: Vec<&str> = evidence.caller.strip_prefix("key:").unwrap_or_default().split('+').collect();
        for (path, key) in self.signatures.iter().zip(&evidence.keys) {
            lines.push(format!("wrote {}: its signature by {}", name(path), clean_line(key)));
        }
        for path in &self.signatures {
            let (signers, file) = (quoted(&evidence.allowed_signers), quoted(&path.display().to_string()));
            let principal = match principals[..] {
                [one] => quoted(one),
                _ => format!("\"$(ssh-keygen -Y find-principals -f {signers} -s {file})\""),
            };
            lines.push(format!(
                "ssh-keygen -Y verify -O verify-time={} -f {signers} -I {principal} -n {} -s {file} < {}",
                evidence.accepted.format("%Y%m%d%H%M%SZ"),
                quoted(&evidence.namespace),
                quoted(&self.request.display().to_string())
            ));
        }
        if principals.len() > 1 {
            lines.push(format!("all of {} signed", listed(&principals.iter().map(|name| clean_line(name)).collect::<Vec<_>>())));
        }
        lines.join("\n")
    }
}

/// A signature in the format of ssh-keygen's files (OpenSSH's PROTOCOL.sshsig, section 2): lines of 70 characters.
fn armoured(blob: &str) -> String {
    let mut text = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
    for line in blob.as_bytes().chunks(70) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END SSH SIGNATURE-----\n"
}
