//! Helpers: units of root's that each do one thing to one unit, and take no input. Where the socket of one is there, the agent asks it instead of
//! systemd, which would need a privilege that the agent has not.
//!
//! ```text
//! connect ──▶ release-agent-restart@shop.service.socket ──▶ release-agent-restart@shop.service.service: systemctl restart -- shop.service
//!    ▲                                                                     │ ended: systemd ends every connection that waits
//!    └──────────── the helper's invocation is still the one of before ◀────┴──▶ its result is read through D-Bus, which anybody may do
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::RestartError;
use super::bus::{Act, Bus, Unit};

/// Where the sockets of helpers are. Only root can put one there.
pub(super) const DIR: &str = "/run/release-agent-helpers";

/// How often a helper is asked that was busy with an earlier connection.
const TRIES: u32 = 3;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// How often a helper is looked at whose connections have ended and that has not.
const POLL: Duration = Duration::from_millis(20);

/// What came of asking a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelperAnswer {
    /// It did what it is there for.
    Done,
    /// There is none for this.
    Nobody,
}

/// The socket of the helper that does this to a unit.
fn socket(act: Act, unit: &str) -> PathBuf {
    Path::new(DIR).join(format!("{}.{unit}", act.word()))
}

/// The unit of that socket: whoever enables it grants the agent the act.
pub(super) fn socket_unit(act: Act, unit: &str) -> String {
    format!("release-agent-{}@{unit}.socket", act.word())
}

fn service_unit(act: Act, unit: &str) -> String {
    format!("release-agent-{}@{unit}.service", act.word())
}

/// Whether there is a helper that does this to a unit.
pub(super) fn is_there(act: Act, unit: &str) -> bool {
    socket(act, unit).exists()
}

/// Has the helper do this to a unit, and waits for its end.
pub(super) fn ask(bus: &Bus<'_>, act: Act, unit: &str, limit: Duration) -> Result<HelperAnswer, RestartError> {
    let (socket, helper) = (socket(act, unit), service_unit(act, unit));
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
    Err(RestartError::Unit {
        what: format!("ended {TRIES} connections and did nothing: it cannot be started"),
        hint: Some(format!("systemctl status {helper} says why; reset its socket by systemctl restart {}", socket_unit(act, unit))),
        tail: bus.journal(&helper),
        unit: helper,
    })
}

/// Has the helper do this to a unit, and waits for nothing: whoever connects has said all that can be said.
pub(super) fn tell(bus: &Bus<'_>, act: Act, unit: &str) -> Result<HelperAnswer, RestartError> {
    let socket = socket(act, unit);
    let met = bus.wait(&format!("{} {unit}", act.word()), CONNECTING, async { Ok(UnixStream::connect(&socket).await.map(drop)) })?;
    met_helper(act, unit, met)
}

/// What came of connecting to a helper.
fn met_helper(act: Act, unit: &str, met: io::Result<()>) -> Result<HelperAnswer, RestartError> {
    let socket = socket(act, unit);
    match met {
        Ok(()) => Ok(HelperAnswer::Done),
        // It was taken away in this moment, or left by a socket unit that is stopped.
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(HelperAnswer::Nobody),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            let socket_unit = socket_unit(act, unit);
            Err(RestartError::SetUp {
                what: format!("the agent's user may not connect to {}, the helper that should {} {unit}", socket.display(), act.word()),
                hint: format!(
                    "the socket belongs to SocketUser= of {socket_unit}, which must be the agent's user: systemctl edit {socket_unit}"
                ),
            })
        }
        Err(source) => Err(RestartError::File { act: "ask the helper at", path: socket, source }),
    }
}

/// Connects, and waits until the connection ends. Nothing is ever said on it.
async fn until_ended(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    match stream.read(&mut [0]).await {
        // A connection that nobody has accepted is reset where its socket goes.
        Err(err) if err.kind() != io::ErrorKind::ConnectionReset => Err(err),
        _ => Ok(()),
    }
}

/// The helper when it has ended: connections end before it where its socket is stopped.
fn ended(bus: &Bus<'_>, doing: &str, helper: &str, end: Instant) -> Result<Unit, RestartError> {
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

fn check_helper(bus: &Bus<'_>, act: Act, unit: &str, helper: &Unit) -> Result<(), RestartError> {
    if helper.result == "success" && helper.exit_status == 0 {
        return Ok(());
    }
    let how = match helper.exit_status {
        0 => format!("result {}", helper.result),
        status => format!("exit status {status}"),
    };
    let mut error = bus.failed(unit, format!("did not {}: its helper ended with {how}", act.word()));
    if let RestartError::Unit { tail, .. } = &mut error {
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
        for (act, does) in
            [(Act::Start, "start"), (Act::Stop, "stop"), (Act::Restart, "restart"), (Act::ReloadOrRestart, "reload-or-restart")]
        {
            let shipped = |name: String| std::fs::read_to_string(units.join(name)).unwrap();
            let socket_text = shipped(socket_unit(act, ""));
            assert!(socket_text.contains(&format!("ListenStream={}\n", socket(act, "%i").display())), "{socket_text}");
            assert!(socket_text.contains(&format!("systemctl enable --now {}\n", socket_unit(act, "shop.service"))), "{socket_text}");
            let service_text = shipped(service_unit(act, ""));
            assert!(service_text.contains(&format!("\nExecStart=/usr/bin/systemctl {does} -- %i\n")), "{service_text}");
        }
    }
}
