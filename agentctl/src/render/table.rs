//! Releases and runs in columns. No borders: columns align for people, and can be cut in a pipe.

use agent_wire::view::{Release, ReleaseState, Releases, Run, RunState, Runs};
use anstyle::{AnsiColor, Style};
use chrono::{DateTime, Utc};

use super::words::{BAD, DIM, GOOD, ago, clean_line, outcome, painted, short, short_ref, shortened, style_of, took, width};

/// The releases of an app, the live one marked.
pub(crate) fn releases(releases: &Releases, now: DateTime<Utc>, width: Option<u16>) -> String {
    if releases.releases.is_empty() {
        return "no release yet; the first one is made with: agentctl release REF".into();
    }
    let rows = releases.releases.iter().map(|release| release_row(release, now)).collect();
    let mut text = table(["", "release", "state", "subject", "when", "ref", "who", "commit", "took"], rows, RELEASES, width);
    for left in &releases.unsettled {
        let restore = left.restore.as_deref().map(|restore| format!("\n  restore with: {}", clean_line(restore))).unwrap_or_default();
        let told = format!("! {}: since run {}: {}", clean_line(&left.release), left.run, clean_line(&left.text));
        text = format!("{text}\n\n{}{restore}\n  when it is in order: agentctl settle {}", painted(BAD, told), left.run);
    }
    text
}

pub(crate) fn runs(runs: &Runs, now: DateTime<Utc>, width: Option<u16>) -> String {
    if runs.runs.is_empty() {
        return "no run yet; the first one begins with: agentctl release REF".into();
    }
    let rows = runs.runs.iter().map(|run| run_row(run, now)).collect();
    table(["run", "app", "what", "outcome", "when", "took", "who", "release"], rows, RUNS, width)
}

fn release_row(release: &Release, now: DateTime<Utc>) -> [Painted; 9] {
    let live = release.state == ReleaseState::Live;
    let mut state = match release.state {
        ReleaseState::Live => "live",
        ReleaseState::Good => "good",
        ReleaseState::Sealed => "sealed",
        ReleaseState::Failed => "failed",
        ReleaseState::Incomplete => "incomplete",
    }
    .to_owned();
    for (word, holds) in [("no answer", release.fault.is_some()), ("previous", release.previous), ("pinned", release.pinned)] {
        if holds {
            state = format!("{state}, {word}");
        }
    }
    let style = match release.state {
        ReleaseState::Live if release.fault.is_some() => BAD.bold(),
        ReleaseState::Live => GOOD.bold(),
        ReleaseState::Failed => BAD,
        ReleaseState::Incomplete => DIM,
        ReleaseState::Good | ReleaseState::Sealed => Style::new(),
    };
    [
        if live { "*" } else { "" }.to_owned(),
        clean_line(&release.name),
        state,
        release.subject.as_deref().map(clean_line).unwrap_or_default(),
        release.made.map(|made| ago(made, now)).unwrap_or_default(),
        release.reference.as_deref().map(short_ref).unwrap_or_default(),
        release.caller.as_deref().map(clean_line).unwrap_or_default(),
        short(&release.commit),
        release.ms.map(took).unwrap_or_default(),
    ]
    .map(|text| Painted { text, style })
}

fn run_row(run: &Run, now: DateTime<Utc>) -> [Painted; 8] {
    let (ended, style) = match (run.state, run.outcome) {
        (RunState::Waiting, _) => ("waiting".to_owned(), BUSY),
        (RunState::Running, _) => (format!("running{}", at(run)), BUSY),
        (RunState::Ended, Some(word)) => match word.exit_code() {
            0 | 7 => (outcome(word).to_owned(), style_of(word)),
            _ => (format!("{}{}", outcome(word), at(run)), style_of(word)),
        },
        (RunState::Ended, None) => ("ended".to_owned(), Style::new()),
    };
    let plain = |text: String| Painted { text, style: Style::new() };
    [
        plain(run.run.to_string()),
        plain(clean_line(&run.app)),
        plain(super::words::action(&run.action, run.of.as_deref(), None)),
        Painted { text: ended, style },
        plain(ago(run.accepted, now)),
        plain(run.ms.map(took).unwrap_or_default()),
        plain(clean_line(&run.caller)),
        plain(run.release.as_deref().map(clean_line).unwrap_or_default()),
    ]
}

/// The style of active runs.
const BUSY: Style = AnsiColor::Cyan.on_default();

fn at(run: &Run) -> String {
    run.step.as_deref().map(|step| format!(" at {}", clean_line(step))).unwrap_or_default()
}

/// A way to make a table narrower.
#[derive(Debug, Clone, Copy)]
enum Measure {
    /// Cut the texts of a column to this width.
    Shorten(&'static str, usize),
    /// Leave the column out.
    Drop(&'static str),
}

/// The measures for each table, applied in this order until the width suffices. The name of a release and the number of a run are never cut, because
/// people copy them.
const RELEASES: &[Measure] = &[
    Measure::Shorten("subject", 40),
    Measure::Drop("took"),
    Measure::Shorten("subject", 24),
    Measure::Drop("commit"),
    Measure::Drop("who"),
    Measure::Drop("ref"),
    // The name of a release contains its time.
    Measure::Drop("when"),
    Measure::Shorten("subject", 12),
    Measure::Drop("subject"),
    Measure::Shorten("state", 10),
];
const RUNS: &[Measure] = &[
    Measure::Shorten("what", 40),
    Measure::Drop("took"),
    Measure::Shorten("what", 24),
    Measure::Shorten("who", 16),
    Measure::Drop("release"),
    Measure::Shorten("what", 16),
    Measure::Drop("who"),
    Measure::Shorten("app", 12),
    Measure::Drop("when"),
    Measure::Shorten("outcome", 12),
];

/// The space between columns.
const GAP: usize = 2;

/// A text and its style.
struct Painted {
    text: String,
    style: Style,
}

/// Columns of text, each with its title.
struct Columns {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Painted>>,
}

impl Columns {
    fn widths(&self) -> Vec<usize> {
        let widest = |place: usize| self.rows.iter().map(|row| width(&row[place].text)).max().unwrap_or(0);
        self.titles.iter().enumerate().map(|(place, title)| width(title).max(widest(place))).collect()
    }

    /// Applies the measures in order until the table is narrow enough.
    fn fit(&mut self, measures: &[Measure], columns: usize) {
        for measure in measures {
            let widths = self.widths();
            if widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1) <= columns {
                return;
            }
            let (Measure::Shorten(title, _) | Measure::Drop(title)) = measure;
            let Some(place) = self.titles.iter().position(|known| known == title) else { continue };
            match measure {
                Measure::Shorten(_, most) => {
                    self.rows.iter_mut().for_each(|row| row[place].text = shortened(&row[place].text, *most));
                }
                Measure::Drop(_) => {
                    self.titles.remove(place);
                    self.rows.iter_mut().for_each(|row| drop(row.remove(place)));
                }
            }
        }
    }

    fn text(&self) -> String {
        let widths = self.widths();
        let line = |cells: Vec<(&str, Style)>| {
            let mut line = String::new();
            let last = cells.iter().rposition(|(text, _)| !text.is_empty()).unwrap_or(0);
            for (place, (text, style)) in cells.into_iter().enumerate().take(last + 1) {
                let gap = if place == last { 0 } else { widths[place] - width(text) + GAP };
                line = format!("{line}{}{:gap$}", painted(style, text), "");
            }
            line
        };
        let head = line(self.titles.iter().map(|title| (*title, DIM)).collect());
        let rows = self.rows.iter().map(|row| line(row.iter().map(|cell| (cell.text.as_str(), cell.style)).collect()));
        std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
    }
}

/// The rows below their titles, no wider than the terminal where there is one.
fn table<const N: usize>(titles: [&'static str; N], rows: Vec<[Painted; N]>, measures: &[Measure], width: Option<u16>) -> String {
    let mut columns = Columns { titles: titles.to_vec(), rows: rows.into_iter().map(Vec::from).collect() };
    if let Some(width) = width {
        columns.fit(measures, usize::from(width));
    }
    columns.text()
}
