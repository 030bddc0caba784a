//! Tells a run as it goes, until it ends or the user turns away. A user who turns away cancels nothing.

use std::time::Duration;

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

/// When nothing has come for so long, all that has happened so far has come.
const QUIET: Duration = Duration::from_millis(300);

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the end of the run, whenever that is.
    End,
    /// Only what has happened so far.
    SoFar,
}

/// Follows a run that this program started; the outcome gives the exit code.
pub(crate) async fn mine(session: &mut Session<'_>, run: u64) -> Result<Exit, Fault> {
    follow(session, run, Opening::Told, Stream::Words, Reach::End).await
}

/// Tells a run that the user asked to read; followed to its end, the outcome gives the exit code.
pub(crate) async fn read(session: &mut Session<'_>, run: u64, reach: Reach) -> Result<Exit, Fault> {
    follow(session, run, Opening::ToTell, Stream::Data, reach).await
}

async fn follow(session: &mut Session<'_>, run: u64, opening: Opening, stream: Stream, reach: Reach) -> Result<Exit, Fault> {
    let Session { client, out, manner, .. } = session;
    tokio::select! {
        biased;
        told = tell(client, out, *manner, run, opening, stream, reach) => told,
        Ok(()) = tokio::signal::ctrl_c() => Err(Fault::Detached { run }),
    }
}

async fn tell(
    client: &Client,
    out: &mut Out,
    manner: Manner,
    run: u64,
    opening: Opening,
    stream: Stream,
    reach: Reach,
) -> Result<Exit, Fault> {
    let detail = match (manner, stream) {
        // Who reads a run again wants to read all of it.
        (_, Stream::Data) => Detail::Full,
        (Manner::Words(detail), Stream::Words) => detail,
        (Manner::Quiet | Manner::Json, Stream::Words) => Detail::Usual,
    };
    let mut story = Story::new(run, detail, opening);
    let mut board = Board::new(out, if manner == Manner::Json { Stream::Data } else { stream });
    let mut follower = Follower::new(client, run);
    loop {
        let next = match reach {
            Reach::End => follower.next().await,
            Reach::SoFar => match timeout(QUIET, follower.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(Exit::GOOD),
            },
        };
        match next? {
            None => return Ok(Exit::GOOD),
            Some(Met::Loss) => board.aside(&render::lost(client.patience.comeback)),
            Some(Met::Event { raw, event }) => {
                let told = story.tell(&event);
                match manner {
                    Manner::Json => board.lines(&[raw])?,
                    Manner::Words(_) => {
                        board.lines(&told.lines)?;
                        board.moves(story.now(), Utc::now());
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
                    return Ok(Exit(if reach == Reach::End { code } else { 0 }));
                }
            }
        }
    }
}
