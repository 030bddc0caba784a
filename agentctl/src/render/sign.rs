//! The output of `sign`: header lines, a curl command, and a summary of the request.

use std::path::Path;

use agent_wire::REQUEST_TYPE;
use agent_wire::form::Form;
use chrono::DateTime;

use super::words::{action, clean_line, listed, quoted};

/// The headers that must be sent with the bytes.
pub(crate) fn headers(signatures: &[String]) -> String {
    signatures.iter().map(|signature| format!("Agent-Signature: {signature}")).collect::<Vec<_>>().join("\n")
}

/// The command that sends it all.
pub(crate) fn curl(signatures: &[String], body: &Path, ca: Option<&Path>, url: &str) -> String {
    let mut parts = vec!["curl -sS --fail-with-body".to_owned()];
    parts.extend(ca.map(|ca| format!("--cacert {}", quoted(&ca.display().to_string()))));
    parts.push(format!("-H {}", quoted(&format!("Content-Type: {REQUEST_TYPE}"))));
    parts.extend(signatures.iter().map(|signature| format!("-H {}", quoted(&format!("Agent-Signature: {signature}")))));
    parts.push(format!("--data-binary {}", quoted(&format!("@{}", body.display()))));
    parts.push(quoted(&format!("{url}/v1/requests")));
    parts.join(" \\\n  ")
}

/// The text after the file was written.
pub(crate) fn written(body: &Path, form: &Form) -> String {
    let of = [&form.revision, &form.commit, &form.release, &form.path].into_iter().flatten().next().map(String::as_str);
    let app = Some(form.app.as_str()).filter(|app| !app.is_empty());
    let until = form.exp.and_then(|exp| DateTime::from_timestamp(i64::try_from(exp).ok()?, 0));
    let until = until.map(|until| format!(", until {}", until.format("%H:%M:%S UTC"))).unwrap_or_default();
    let hosts = listed(form.aud.as_deref().unwrap_or_default());
    format!("wrote {}: {}, for {hosts}{until}", clean_line(&body.display().to_string()), action(&form.action, of, app))
}
