//! Which release was live when. A command that was started through the link uses the release that the link named then, and nothing else tells which one
//! that was.
//!
//! The list is a help for `prune`, and nothing depends on its durability: no process outlives a power cut. Of what it does not tell, every release that
//! has served may have been live.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use agent_model::names::ReleaseName;
use chrono::{DateTime, Duration, SecondsFormat, Utc};

use super::{AppRoot, Served, own_file};

/// The list is begun anew, with its second half, when it is longer.
const MOST_BYTES: u64 = 64 * 1024;
/// The clock may have been set, and a process takes a moment from its start to the link.
const SLACK: Duration = Duration::seconds(5);

/// From when on a release was live.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    /// At the earliest.
    from: DateTime<Utc>,
    /// At the latest.
    surely_from: DateTime<Utc>,
    release: ReleaseName,
}

impl AppRoot {
    fn history_path(&self) -> PathBuf {
        self.path().join(".agent/live.log")
    }

    /// Notes that the link is about to name this release.
    pub(super) fn note_the_swap(&self, release: &ReleaseName) {
        let path = self.history_path();
        let line = format!("{} {release}\n", Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
        let known = own_file(&path, MOST_BYTES).ok();
        let is_long = known.as_ref().is_none_or(|known| known.len() as u64 > MOST_BYTES - 1024);
        let written = if is_long {
            let text = String::from_utf8(known.unwrap_or_default()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let kept = lines[lines.len() / 2..].iter().flat_map(|line| [line, "\n"]).collect::<String>();
            fs::write(&path, kept + &line)
        } else {
            let file = fs::OpenOptions::new().append(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
            file.and_then(|mut file| file.write_all(line.as_bytes()))
        };
        if let Err(err) = written {
            tracing::debug!("{} cannot be written: {err}", path.display());
        }
    }

    /// The releases that may have been live at a moment.
    pub(crate) fn live_around(&self, moment: DateTime<Utc>) -> Vec<ReleaseName> {
        let text = own_file(&self.history_path(), MOST_BYTES).unwrap_or_default();
        let noted = String::from_utf8_lossy(&text).lines().filter_map(turn).collect::<Vec<_>>();
        let begins = noted.first().map(|turn| turn.from);
        let mut turns = noted;
        // What an older agent made live, or could not note.
        for release in self.release_names().unwrap_or_default() {
            let served = self.fact::<Served>(&release).ok().flatten();
            if let Some(served) = served.filter(|served| begins.is_none_or(|begins| served.at < begins)) {
                let from = served.at - Duration::milliseconds(i64::try_from(served.ms).unwrap_or(i64::MAX / 2).min(86_400_000));
                turns.push(Turn { from, surely_from: served.at, release });
            }
        }
        at(turns, moment, begins)
    }
}

fn turn(line: &str) -> Option<Turn> {
    let (from, release) = line.split_once(' ')?;
    let from = DateTime::parse_from_rfc3339(from).ok()?.with_timezone(&Utc);
    Some(Turn { from, surely_from: from, release: release.parse().ok()? })
}

/// Those of the turns that a moment may lie in. `begins` is where the list begins: before it the live release may have changed without a trace.
fn at(mut turns: Vec<Turn>, moment: DateTime<Utc>, begins: Option<DateTime<Utc>>) -> Vec<ReleaseName> {
    turns.sort_by_key(|turn| turn.from);
    let is_noted = begins.is_some_and(|begins| moment >= begins);
    let surely_over = |at: usize| turns[at + 1..].iter().any(|next| next.surely_from + SLACK < moment);
    let within = |at: &usize| turns[*at].from - SLACK <= moment && !(is_noted && surely_over(*at));
    let mut found: Vec<ReleaseName> = (0..turns.len()).filter(within).map(|at| turns[at].release.clone()).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> ReleaseName {
        format!("2026-11-20-22-45-{number:02}-{number:012x}").parse().unwrap()
    }

    fn when(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_moment_lies_in_the_turn_of_the_release_that_was_live() {
        let turns = |list: &[(i64, u32)]| -> Vec<Turn> {
            list.iter().map(|(from, release)| Turn { from: when(*from), surely_from: when(*from), release: name(*release) }).collect()
        };
        // The first one was live twice.
        let list = turns(&[(0, 1), (100, 2), (200, 1), (300, 3)]);
        let at = |moment| at(list.clone(), when(moment), Some(when(0)));
        assert_eq!(at(50), [name(1)]);
        assert_eq!(at(150), [name(2)]);
        assert_eq!(at(250), [name(1)]);
        assert_eq!(at(10_000), [name(3)]);
        // Close to a swap it may be either.
        assert_eq!(at(99), [name(1), name(2)]);
        assert_eq!(at(104), [name(1), name(2)]);
    }

    #[test]
    fn of_what_was_not_noted_every_release_that_had_served_may_have_been_live() {
        let served = |from: i64, surely: i64, release| Turn { from: when(from), surely_from: when(surely), release: name(release) };
        let turns = vec![served(0, 10, 1), served(100, 110, 2), served(200, 210, 3)];
        assert_eq!(at(turns.clone(), when(150), None), [name(1), name(2)]);
        assert_eq!(at(turns, when(150), Some(when(200))), [name(1), name(2)]);
    }
}
