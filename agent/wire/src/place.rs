//! The default sockets of the agent on a host.

use std::path::PathBuf;

/// The control socket of an agent that the system runs.
pub const SYSTEM_SOCKET: &str = "/run/release-agent/control.sock";

/// The control socket of an agent that a user runs: in `XDG_RUNTIME_DIR`, else in `XDG_STATE_HOME`, else in `~/.local/state` (XDG Base Directory
/// Specification 0.8). The environment is a function, so that a test can replace it.
pub fn user_socket(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_RUNTIME_DIR")
        .or_else(|| absolute("XDG_STATE_HOME"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("release-agent/control.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_socket_follows_xdg_and_never_a_relative_path() {
        let with = |pairs: &'static [(&str, &str)]| {
            user_socket(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let expected = |text: &str| Some(PathBuf::from(text));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/a")]), expected("/run/user/7/release-agent/control.sock"));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "x"), ("HOME", "/home/a")]), expected("/home/a/.local/state/release-agent/control.sock"));
        assert_eq!(with(&[]), None);
    }
}
