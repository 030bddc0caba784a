//! Shows a run as it goes, until it ends or the user presses Ctrl-C. Ctrl-C cancels nothing.

use std::time::Duration;

use agent_wire::view::Taken;
use chrono::Utc;
use tokio::time::timeout;

use crate::client::Client;
use crate::client::follower::{Follower, Met};
use crate::fault::{Exit, Fault};
use crate::out::{Board, Out, Stream};
use crate::render::{
    self,
    run::{Detail, Opening, Story},
};
use crate::session::{Manner, Session};

/// After this long without an event, all past events have come.
const QUIET: Duration = Duration::from_millis(300);

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the end of the run, whenever that is.
    End,
    /// Only the events so far.
    SoFar,
}

/// The parameters of following a run.
#[derive(Debug, Clone)]
struct FollowRequest {
    run: u64,
    token: Option<String>,
    opening: Opening,
    stream: Stream,
    reach: Reach,
}

/// Follows a run that this program started; the outcome gives the exit code.
pub(crate) async fn mine(session: &mut Session<'_>, taken: Taken) -> Result<Exit, Fault> {
    // On the socket the kernel identifies the reader, and that needs no token.
    let token = taken.token.filter(|_| session.client.network().is_some());
    follow(session, FollowRequest { run: taken.run, token, opening: Opening::Told, stream: Stream::Words, reach: Reach::End }).await
}

/// Shows a run that the user asked to read; followed to its end, the outcome gives the exit code.
pub(crate) async fn read(session: &mut Session<'_>, run: u64, reach: Reach) -> Result<Exit, Fault> {
    follow(session, FollowRequest { run, token: None, opening: Opening::ToTell, stream: Stream::Data, reach }).await
}

async fn follow(session: &mut Session<'_>, request: FollowRequest) -> Result<Exit, Fault> {
    let Session { client, out, manner, .. } = session;
    let run = request.run;
    tokio::select! {
        biased;
        told = tell(client, out, *manner, request) => told,
        Ok(()) = tokio::signal::ctrl_c() => Err(Fault::Detached { run, called: client.called.clone() }),
    }
}

async fn tell(client: &Client, out: &mut Out, manner: Manner, request: FollowRequest) -> Result<Exit, Fault> {
    let detail = match (manner, request.stream) {
        // A user who reads a run again wants all of it.
        (_, Stream::Data) => Detail::Full,
        (Manner::Words(detail), Stream::Words) => detail,
        (Manner::Quiet | Manner::Json, Stream::Words) => Detail::Usual,
    };
    let mut story = Story::new(request.run, detail, request.opening, &client.called).fit(out.width_of(request.stream));
    let mut board = Board::new(out, if manner == Manner::Json { Stream::Data } else { request.stream });
    let mut follower = Follower::new(client, request.run, request.token);
    let mut begun = false;
    loop {
        let next = match request.reach {
            Reach::SoFar if begun => match timeout(QUIET, follower.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(Exit::GOOD),
            },
            // Every run has a first event, however long it takes to come.
            Reach::SoFar | Reach::End => follower.next().await,
        };
        match next? {
            None => return Ok(Exit::GOOD),
            Some(Met::Loss) => board.aside(&render::lost(client.patience.comeback)),
            Some(Met::Event { raw, event }) => {
                begun = true;
                let told = story.tell(&event);
                match manner {
                    Manner::Json => board.lines(&[raw])?,
                    Manner::Words(_) => {
                        board.moves(story.now(), Utc::now());
                        board.lines(&told.lines)?;
                    }
                    Manner::Quiet => {}
                }
                if let Some((outcome, sentence)) = told.ending {
                    board.still();
                    let code = outcome.exit_code();
                    match manner {
                        Manner::Json => {}
                        Manner::Quiet if code == 0 => {}
                        Manner::Quiet | Manner::Words(_) => board.lines(&sentence)?,
                    }
                    return Ok(Exit(if request.reach == Reach::End { code } else { 0 }));
                }
            }
        }
    }
}
