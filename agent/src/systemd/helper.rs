//! Helpers: root's units that each do one job on one unit, and take no input. Where a helper's socket exists, the agent uses it instead of systemd,
//! which would need a privilege that the agent does not have.
//!
//! ```text
//! connect ──▶ release-agent-restart@shop.service.socket ──▶ release-agent-restart@shop.service.service: systemctl restart -- shop.service
//!    ▲                                                                     │ ended: systemd ends every connection that waits
//!    └──────────── the helper's invocation is still the one of before ◀────┴──▶ its result is read through D-Bus, which anybody may do
//! ```

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::action::UnitAction;
use super::bus::Bus;
use super::error::SystemdError;
use super::unit::Unit;

/// How often the agent calls a helper that was busy with an earlier connection.
const TRIES: u32 = 3;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// How often the agent looks at a helper that still runs after its connections have ended.
const POLL: Duration = Duration::from_millis(20);

/// The result of calling a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HelperAnswer {
    /// It did its job.
    Done,
    /// There is no helper for this.
    Nobody,
}

/// Lets the helper do its job on a unit, and waits for its end.
pub(crate) fn ask(bus: &Bus<'_>, act: UnitAction, unit: &str, limit: Duration) -> Result<HelperAnswer, SystemdError> {
    let (socket, helper) = (act.helper(unit), act.helper_service(unit));
    if !socket.exists() {
        return Ok(HelperAnswer::Nobody);
    }
    let end = Instant::now() + limit;
    let doing = format!("{} {unit}", act.word());
    for _ in 0..TRIES {
        let before = bus.unit(&helper)?.invocation;
        let met = bus.wait(&doing, end.saturating_duration_since(Instant::now()), async { Ok(until_ended(&socket).await) })?;
        if met_helper(act, unit, met)? == HelperAnswer::Nobody {
            return Ok(HelperAnswer::Nobody);
        }
        let after = ended(bus, &doing, &helper, end)?;
        if after.invocation != before {
            return check_helper(bus, act, unit, &after).map(|()| HelperAnswer::Done);
        }
    }
    Err(SystemdError::Unit {
        what: format!("ended {TRIES} connections and did nothing: it cannot be started"),
        hint: Some(format!("systemctl status {helper} says why; reset its socket by systemctl restart {}", act.helper_socket(unit))),
        tail: bus.journal(&helper),
        unit: helper,
    })
}

/// Starts the helper and waits for nothing: the connection alone is the request.
pub(crate) fn tell(bus: &Bus<'_>, act: UnitAction, unit: &str) -> Result<HelperAnswer, SystemdError> {
    let socket = act.helper(unit);
    let met = bus.wait(&format!("{} {unit}", act.word()), CONNECTING, async { Ok(UnixStream::connect(&socket).await.map(drop)) })?;
    met_helper(act, unit, met)
}

/// The result of connecting to a helper.
fn met_helper(act: UnitAction, unit: &str, met: io::Result<()>) -> Result<HelperAnswer, SystemdError> {
    let socket = act.helper(unit);
    match met {
        Ok(()) => Ok(HelperAnswer::Done),
        // It was removed at this moment, or left by a socket unit that is stopped.
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(HelperAnswer::Nobody),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            let socket_unit = act.helper_socket(unit);
            Err(SystemdError::SetUp {
                what: format!("the agent's user may not connect to {}, the helper that should {} {unit}", socket.display(), act.word()),
                hint: format!(
                    "the socket belongs to SocketUser= of {socket_unit}, which must be the agent's user: systemctl edit {socket_unit}"
                ),
            })
        }
        Err(source) => Err(SystemdError::File { act: "ask the helper at", path: socket, source }),
    }
}

/// Connects, and waits until the connection ends. The connection carries no data.
async fn until_ended(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    match stream.read(&mut [0]).await {
        // A connection that was never accepted is reset when its socket goes.
        Err(err) if err.kind() != io::ErrorKind::ConnectionReset => Err(err),
        _ => Ok(()),
    }
}

/// Waits for the end of the helper: if its socket is stopped, connections end before it does.
fn ended(bus: &Bus<'_>, doing: &str, helper: &str, end: Instant) -> Result<Unit, SystemdError> {
    loop {
        let unit = bus.unit(helper)?;
        if matches!(unit.active_state.as_str(), "inactive" | "failed" | "active") {
            return Ok(unit);
        }
        bus.wait(doing, end.saturating_duration_since(Instant::now()), async {
            tokio::time::sleep(POLL).await;
            Ok(())
        })?;
    }
}

fn check_helper(bus: &Bus<'_>, act: UnitAction, unit: &str, helper: &Unit) -> Result<(), SystemdError> {
    if helper.result == "success" && helper.exit_status == 0 {
        return Ok(());
    }
    let how = match helper.exit_status {
        0 => format!("result {}", helper.result),
        status => format!("exit status {status}"),
    };
    let mut error = bus.failed(unit, format!("did not {}: its helper ended with {how}", act.word()));
    if let SystemdError::Unit { tail, .. } = &mut error {
        tail.extend(bus.journal_of(&helper.invocation));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_is_what_is_asked() {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/system");
        for (act, does) in [
            (UnitAction::Start, "start"),
            (UnitAction::Stop, "stop"),
            (UnitAction::Restart, "restart"),
            (UnitAction::ReloadOrRestart, "reload-or-restart"),
        ] {
            let shipped = |name: String| std::fs::read_to_string(units.join(name)).unwrap();
            let socket_text = shipped(act.helper_socket(""));
            assert!(socket_text.contains(&format!("ListenStream={}\n", act.helper("%i").display())), "{socket_text}");
            assert!(socket_text.contains(&format!("systemctl enable --now {}\n", act.helper_socket("shop.service"))), "{socket_text}");
            let service_text = shipped(act.helper_service(""));
            assert!(service_text.contains(&format!("\nExecStart=/usr/bin/systemctl {does} -- %i\n")), "{service_text}");
        }
    }
}
