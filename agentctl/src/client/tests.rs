use super::follower::{Follower, Met};
use super::pretend::{Pretend, Say};
use super::*;
use crate::act;
use agent_model::request::Right;
use agent_wire::view::Apps;

fn client(socket: PathBuf) -> Client {
    let patience = Patience { comeback: Duration::from_millis(200), pause: Duration::from_millis(5), ..Patience::default() };
    Client::new(Transport::Socket(socket), patience)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn started(n: u64) -> String {
    format!(r#"{{"run":12,"n":{n},"at":"2026-11-20T22:45:23Z","what":"step_started","step":"fetch"}}"#)
}

fn ended(n: u64) -> String {
    format!(r#"{{"run":12,"n":{n},"at":"2026-11-20T22:45:23Z","what":"ended","outcome":"done","ms":1}}"#)
}

/// The items until the end: the numbers of the events, 0 for a loss.
async fn met(follower: &mut Follower<'_>) -> Result<Vec<u64>, Fault> {
    let mut numbers = Vec::new();
    while let Some(met) = follower.next().await? {
        numbers.push(match met {
            Met::Event { event, .. } => event.n,
            Met::Loss => 0,
        });
    }
    Ok(numbers)
}

#[test]
fn a_dropped_stream_is_taken_up_behind_the_last_event() {
    let agent = Pretend::saying(vec![
        Say::BreakAfter(vec![started(1), started(2)]),
        Say::HangUp,
        Say::Json(503, r#"{"status":503,"code":"draining","detail":"the agent stops"}"#.into()),
        // Drops a repeated event at the beginning.
        Say::Events(vec![started(2), String::new(), started(3)]),
        Say::Events(vec![ended(4)]),
    ]);
    let client = client(agent.socket());
    let numbers = block_on(async { met(&mut Follower::new(&client, 12, None)).await }).unwrap();
    // Two losses are reported; the three failed attempts of the first count as one.
    assert_eq!(numbers, [1, 2, 0, 3, 0, 4]);
    let asked = agent.asked();
    let after: Vec<_> = asked.iter().map(|line| line.rsplit('=').next().unwrap()).collect();
    assert_eq!(after, ["0", "2", "2", "2", "3"]);
}

#[test]
fn an_agent_that_stays_away_is_given_up() {
    let agent = Pretend::saying(vec![Say::BreakAfter(vec![started(1)])]);
    let client = client(agent.socket());
    let fault = block_on(async { met(&mut Follower::new(&client, 12, None)).await }).unwrap_err();
    assert!(matches!(fault, Fault::Lost { run: 12, .. }), "{fault:?}");
    assert_eq!(fault.exit_code(), 5);
}

#[test]
fn a_request_is_asked_again_with_the_same_bytes() {
    let agent =
        Pretend::saying(vec![Say::HangUp, Say::HangUp, Say::Json(200, r#"{"run":12,"events":"/v1/runs/12/events","token":"x"}"#.into())]);
    let form = act::form(&"shop".parse().unwrap(), Right::Prune).unwrap();
    let client = client(agent.socket());
    let mut losses = 0;
    let taken = block_on(async { client.ask(&form, || losses += 1).await }).unwrap();
    assert_eq!((taken.view.run, losses), (12, 1));
    assert!(taken.raw.contains("token"), "what is newer than we are is lost: {}", taken.raw);
    let asked = agent.asked();
    assert_eq!(asked[0], asked[2]);
    assert!(asked[0].starts_with("POST /v1/requests {"), "{}", asked[0]);
}

#[test]
fn a_problem_is_a_refusal_and_anything_else_is_strange() {
    let problem = r#"{"status":409,"code":"busy","detail":"run 11 is under way","hint":"wait"}"#;
    for (status, body, code, words) in [
        (409, problem, 4, "run 11 is under way"),
        (502, "<html>", 5, "does not understand (HTTP status 502)"),
        (200, r#"{"apps":7}"#, 5, "does not understand (HTTP status 200)"),
    ] {
        let agent = Pretend::saying(vec![Say::Json(status, body.into())]);
        let client = client(agent.socket());
        let fault = block_on(async { client.read::<Apps>("/v1/apps", Effort::Little).await }).unwrap_err();
        assert_eq!(fault.exit_code(), code);
        assert!(fault.to_string().contains(words), "{fault}");
        agent.asked();
    }
}

#[test]
fn an_agent_out_of_reach_is_told_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for (socket, hint) in [(dir.path().join("none.sock"), "has made this socket"), (stale, "the agent behind it is gone")] {
        let client = client(socket.clone());
        let fault = block_on(async { client.read::<Apps>("/v1/apps", Effort::Little).await }).unwrap_err();
        assert_eq!(fault.exit_code(), 5);
        let text = crate::render::fault(&fault).unwrap();
        assert!(text.contains(socket.to_str().unwrap()) && text.contains(hint), "{text}");
    }
}

#[test]
fn what_goes_into_a_path_cannot_leave_its_place() {
    assert_eq!(encoded("feature/a b?c=ü&#"), "feature%2Fa%20b%3Fc%3D%C3%BC%26%23");
    assert_eq!(encoded("v1.2-rc_3~"), "v1.2-rc_3~");
}
