//! Checks the journal: the file by SQLite's own check, the events of each run by the rules for writing them, and each run's row by its events. It
//! changes nothing, and reads over a connection of its own because it may take long.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use agent_model::names::{AppName, ReleaseName, RunId};
use agent_wire::event::{OutcomeWord, What};
use rusqlite::{Connection, Row, params};

use super::Journal;

/// The most complaints of SQLite that are reported.
const MOST_COMPLAINTS: usize = 10;

/// The result of the check.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The number of runs that were read.
    pub runs: u64,
    /// The number of their events.
    pub events: u64,
    /// The flaws, each with its run if it concerns one.
    pub flaws: Vec<(Option<RunId>, String)>,
    /// The runs that have begun and not ended.
    pub unended: Vec<RunId>,
    /// The releases that were live, each with the last run that made it so.
    pub served: BTreeMap<ReleaseName, RunId>,
    /// The release that the link should name, and the run that left it so.
    pub last: Option<(RunId, ReleaseName)>,
    pub pruned: BTreeSet<String>,
}

/// The values of a run's columns that follow from its events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Columns {
    app: String,
    action: String,
    of: Option<String>,
    caller: String,
    accepted: i64,
    begun: Option<i64>,
    ended: Option<i64>,
    outcome: Option<String>,
    release: Option<String>,
    step: Option<String>,
    cancel_asked: Option<i64>,
    exposed: Option<i64>,
}

impl Columns {
    fn of_row(row: &Row<'_>) -> rusqlite::Result<(RunId, Self)> {
        let columns = Self {
            app: row.get(1)?,
            action: row.get(2)?,
            of: row.get(3)?,
            caller: row.get(4)?,
            accepted: row.get(5)?,
            begun: row.get(6)?,
            ended: row.get(7)?,
            outcome: row.get(8)?,
            release: row.get(9)?,
            step: row.get(10)?,
            cancel_asked: row.get(11)?,
            exposed: row.get(12)?,
        };
        Ok((RunId(row.get(0)?), columns))
    }

    /// Applies an event like the writer does.
    fn take(&mut self, at: i64, what: What) {
        match what {
            What::Accepted { app, action, of, caller } => {
                *self = Self { app, action, of, caller, accepted: at, ..Self::default() };
            }
            What::Planned { .. } => self.begun = Some(at),
            What::StepStarted { step } | What::StepFailed { step, .. } => self.step = Some(step),
            What::Resolved { release, .. } => self.release = Some(release),
            What::CancelAsked { .. } => self.cancel_asked = Some(at),
            What::Exposed { .. } => self.exposed = Some(at),
            What::Ended { outcome, .. } => {
                self.outcome = Some(outcome.word().to_owned());
                if matches!(outcome, OutcomeWord::Live | OutcomeWord::Done) {
                    self.step = None;
                }
                self.ended = Some(at);
            }
            _ => {}
        }
    }

    /// The names of the columns in which the two differ.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("app", self.app == other.app),
            ("action", self.action == other.action),
            ("of", self.of == other.of),
            ("caller", self.caller == other.caller),
            ("accepted", self.accepted == other.accepted),
            ("begun", self.begun == other.begun),
            ("ended", self.ended == other.ended),
            ("outcome", self.outcome == other.outcome),
            ("release", self.release == other.release),
            ("step", self.step == other.step),
            ("cancel_asked", self.cancel_asked == other.cancel_asked),
            ("exposed", self.exposed == other.exposed),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// The result of reading the events of one run in order.
#[derive(Default)]
struct EventSummary {
    columns: Columns,
    count: u64,
    ends: u64,
    last_is_end: bool,
    flaws: Vec<String>,
}

impl EventSummary {
    fn take(&mut self, n: u64, at: i64, text: &str) -> Option<What> {
        self.count += 1;
        if n != self.count {
            self.flaws.push(format!("its event {n} stands where {} should", self.count));
            self.count = n;
        }
        let what: What = match serde_json::from_str(text) {
            Ok(what) => what,
            Err(err) => {
                self.flaws.push(format!("its event {n} cannot be understood: {err}"));
                return None;
            }
        };
        if n == 1 && !matches!(what, What::Accepted { .. }) {
            self.flaws.push("it does not begin with `accepted`".to_owned());
        }
        self.last_is_end = matches!(what, What::Ended { .. });
        self.ends += u64::from(self.last_is_end);
        self.columns.take(at, what.clone());
        Some(what)
    }

    /// The flaws of the run, once all its events are known.
    fn close(mut self, row: &Columns) -> Vec<String> {
        match (self.count, self.ends, self.last_is_end) {
            (0, ..) => self.flaws.push("it has no event".to_owned()),
            (_, 0 | 1, true) | (_, 0, false) => {}
            (_, 1, false) => self.flaws.push("its events go on behind `ended`".to_owned()),
            (_, ends, _) => self.flaws.push(format!("it has ended {ends} times")),
        }
        // Broken events prove nothing about the row.
        if self.flaws.is_empty() {
            let columns = row.differences(&self.columns);
            if !columns.is_empty() {
                self.flaws.push(format!("its row says something else than its events: {}", columns.join(", ")));
            }
        }
        self.flaws
    }
}

impl Journal {
    /// The journal's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the file, and compares the runs of an app with their events. Ends early when `go_on` returns false. An unreadable file counts as a
    /// flaw.
    pub(crate) fn check(&self, app: &AppName, go_on: &dyn Fn() -> bool) -> Checked {
        let mut checked = Checked::default();
        if let Err(err) = checked.check(&self.path, app, go_on) {
            checked.flaws.push((None, format!("it cannot be read to its end: {err}")));
            checked.last = None;
        }
        checked
    }
}

/// SQLite's complaints about the file.
fn complaints(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut complaints = Vec::new();
    let mut query = connection.prepare(&format!("PRAGMA integrity_check({MOST_COMPLAINTS})"))?;
    let mut rows = query.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => complaints.extend(row.get::<_, String>(0).ok().filter(|said| said != "ok")),
            Ok(None) => break,
            Err(err) => {
                complaints.push(err.to_string());
                break;
            }
        }
    }
    let orphans = connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get::<_, u64>(0));
    match orphans {
        Ok(0) => {}
        Ok(count) => complaints.push(format!("{count} rows belong to runs that are not there")),
        // The check has reported it already.
        Err(_) if !complaints.is_empty() => {}
        Err(err) => complaints.push(err.to_string()),
    }
    Ok(complaints)
}

impl Checked {
    fn check(&mut self, path: &Path, app: &AppName, go_on: &dyn Fn() -> bool) -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "query_only", "on")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        self.flaws = complaints(&connection)?.into_iter().map(|text| (None, text)).collect();
        // One transaction gives one consistent view of the journal, however long the reading takes.
        connection.execute_batch("BEGIN")?;
        self.read(&connection, app, go_on)
    }

    fn read(&mut self, connection: &Connection, app: &AppName, go_on: &dyn Fn() -> bool) -> rusqlite::Result<()> {
        let mut runs = connection.prepare(
            "SELECT run, app, action, of, caller, accepted, begun, ended, outcome, release, step, cancel_asked, exposed FROM run WHERE app = ? ORDER BY run",
        )?;
        let mut events = connection.prepare("SELECT n, at, what FROM event WHERE run = ? ORDER BY n")?;
        let mut rows = runs.query([app.as_str()])?;
        while let Some(row) = rows.next()? {
            if !go_on() {
                return Ok(());
            }
            let (run, row) = Columns::of_row(row)?;
            self.runs += 1;
            let mut told = EventSummary::default();
            let mut each = events.query(params![run.0])?;
            while let Some(event) = each.next()? {
                self.events += 1;
                let text: String = event.get(2)?;
                match told.take(event.get(0)?, event.get(1)?, &text) {
                    Some(What::Note { step, text }) if step == "prune" => {
                        self.pruned.extend(text.strip_prefix("removed ").map(str::to_owned));
                    }
                    // The run could not be undone: the link stayed where the run left it.
                    Some(What::Ended { outcome: OutcomeWord::Stuck, live: Some(live), .. }) => {
                        self.last = live.parse().ok().map(|live| (run, live)).or(self.last.take());
                    }
                    _ => {}
                }
            }
            if row.begun.is_some() && row.ended.is_none() {
                self.unended.push(run);
            }
            if told.columns.outcome.as_deref() == Some("live")
                && let Some(release) = told.columns.release.as_ref().and_then(|release| release.parse::<ReleaseName>().ok())
            {
                self.served.insert(release.clone(), run);
                self.last = Some((run, release));
            }
            self.flaws.extend(told.close(&row).into_iter().map(|text| (Some(run), text)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: &str = r#"{"what":"accepted","app":"shop","action":"release","of":"main","caller":"unix:anna"}"#;
    const PLANNED: &str = r#"{"what":"planned","aim":"serve","steps":[]}"#;
    const STARTED: &str = r#"{"what":"step_started","step":"fetch"}"#;
    const ENDED: &str = r#"{"what":"ended","outcome":"failed","ms":1}"#;

    fn told(events: &[(u64, &str)]) -> EventSummary {
        let mut told = EventSummary::default();
        for (n, text) in events {
            told.take(*n, 100 + i64::try_from(*n).unwrap(), text);
        }
        told
    }

    fn row() -> Columns {
        let text = |text: &str| Some(text.to_owned());
        Columns {
            app: "shop".into(),
            action: "release".into(),
            of: text("main"),
            caller: "unix:anna".into(),
            accepted: 101,
            begun: Some(102),
            ended: Some(104),
            outcome: text("failed"),
            release: None,
            step: text("fetch"),
            cancel_asked: None,
            exposed: None,
        }
    }

    #[test]
    fn a_run_whose_events_and_row_agree_has_no_flaw_and_every_other_one_has() {
        let sound = [(1, ACCEPTED), (2, PLANNED), (3, STARTED), (4, ENDED)];
        assert_eq!(told(&sound).close(&row()), Vec::<String>::new());
        for (events, part) in [
            (&[][..], "no event"),
            (&[(1, ACCEPTED), (3, ENDED)], "event 3 stands where 2 should"),
            (&[(2, PLANNED)], "event 2 stands where 1 should"),
            (&[(1, PLANNED), (2, ENDED)], "does not begin"),
            (&[(1, ACCEPTED), (2, ENDED), (3, STARTED)], "go on behind"),
            (&[(1, ACCEPTED), (2, ENDED), (3, ENDED)], "ended 2 times"),
            (&[(1, ACCEPTED), (2, "{")], "event 2 cannot be understood"),
        ] {
            let flaws = told(events).close(&row()).join("; ");
            assert!(flaws.contains(part), "{part}: {flaws}");
        }
    }

    #[test]
    fn a_row_is_what_its_events_say_column_by_column() {
        let sound = [(1, ACCEPTED), (2, PLANNED), (3, STARTED), (4, ENDED)];
        let flaws = |row: Columns| told(&sound).close(&row).join("; ");
        assert!(flaws(Columns { outcome: Some("live".into()), step: None, ..row() }).ends_with("outcome, step"));
        assert!(flaws(Columns { ended: None, ..row() }).ends_with("ended"));
        assert!(flaws(Columns { caller: "unix:ben".into(), accepted: 1, ..row() }).ends_with("caller, accepted"));
    }

    #[test]
    fn a_word_of_a_newer_agent_is_no_flaw() {
        let told = told(&[(1, ACCEPTED), (2, PLANNED), (3, r#"{"what":"sang"}"#), (4, STARTED), (5, ENDED)]);
        assert_eq!(told.close(&Columns { ended: Some(105), ..row() }), Vec::<String>::new());
    }
}
