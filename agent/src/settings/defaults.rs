//! What holds where nothing is set. The commented example of an app shows the same values, and a test compares the two.

use std::time::Duration;

use agent_model::grant::RefPattern;

/// `branches`, `tags`, `refs`: any branch and any tag. What no branch or tag reaches (the commits of pull requests, say) is never released. A forge whose branches
/// are open to more people than may release wants a narrower list.
pub(super) fn refs() -> Vec<RefPattern> {
    [RefPattern::branch("*"), RefPattern::tag("*")].into_iter().flatten().collect()
}
/// `auto_pause`
pub(super) const AUTO_PAUSE: Duration = Duration::from_secs(10);
/// `keep_releases`
pub(super) const KEEP_RELEASES: usize = 20;
/// `[limits] files`
pub(super) const LIMIT_FILES: u64 = 200_000;
/// `[limits] bytes`
pub(super) const LIMIT_BYTES: u64 = 4 << 30;

/// `[python] interpreter`
pub(super) const INTERPRETER: &str = "python3";
/// `[django] manage`
pub(super) const MANAGE: &str = "manage.py";
/// `[django] database`
pub(super) const DATABASE: &str = "default";
/// `[django] lock_timeout`
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// `[backup] keep`
pub(super) const KEEP_BACKUPS: usize = 5;
/// `[[hook]] timeout`
pub(super) const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// `[restart] start_timeout` of `handover`
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// `[restart] drain` of `handover`
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// `[restart] timeout`: longer than the 60 s that uWSGI gives its workers for mercy.
pub(super) const RESTART_TIMEOUT: Duration = Duration::from_secs(90);
/// `[restart] watch` of `systemd`, and `[[worker]] watch`
pub(super) const WATCH: Duration = Duration::from_secs(10);
/// `[[worker]] timeout`
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(60);

/// `[[check]] status`
pub(super) const STATUS: u16 = 200;
/// `[[check]] timeout`
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// `[[check]] within`
pub(super) const CHECK_WITHIN: Duration = Duration::from_secs(30);
/// `[[check]] stable`
pub(super) const CHECK_STABLE: Duration = Duration::from_secs(3);

/// `drain_timeout` of the agent
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);
/// `[restart] slots` of a handover by units
pub(super) const SLOTS: [&str; 2] = ["blue", "green"];
