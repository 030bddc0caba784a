//! Releases and runs in columns. No borders anywhere: what a person reads aligns, and what a pipe takes can be cut.

use agent_wire::view::{Release, ReleaseState, Releases, Run, RunState, Runs};
use chrono::{DateTime, Utc};
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};

use super::words::{ago, clean_line, outcome, short, short_ref, took};

/// The releases of an app, the live one marked.
pub(crate) fn releases(releases: &Releases, now: DateTime<Utc>, width: Option<u16>) -> String {
    if releases.releases.is_empty() {
        return "no release yet; the first one is made with: agentctl release REF".into();
    }
    let rows = releases.releases.iter().map(|release| release_row(release, now)).collect();
    table(["", "release", "commit", "ref", "state", "who", "when", "took"], rows, width)
}

/// Runs.
pub(crate) fn runs(runs: &Runs, now: DateTime<Utc>, width: Option<u16>) -> String {
    if runs.runs.is_empty() {
        return "no run yet; the first one begins with: agentctl release REF".into();
    }
    let rows = runs.runs.iter().map(|run| run_row(run, now)).collect();
    table(["run", "app", "what", "who", "outcome", "release", "when", "took"], rows, width)
}

fn release_row(release: &Release, now: DateTime<Utc>) -> Vec<Cell> {
    let live = release.state == ReleaseState::Live;
    let mut state = match release.state {
        ReleaseState::Live => "live",
        ReleaseState::Good => "good",
        ReleaseState::Sealed => "sealed",
        ReleaseState::Failed => "failed",
        ReleaseState::Incomplete => "incomplete",
    }
    .to_owned();
    for (word, holds) in [("previous", release.previous), ("pinned", release.pinned)] {
        if holds {
            state = format!("{state}, {word}");
        }
    }
    let texts = [
        if live { "*" } else { "" }.to_owned(),
        clean_line(&release.name),
        short(&release.commit),
        release.reference.as_deref().map(short_ref).unwrap_or_default(),
        state,
        release.caller.as_deref().map(clean_line).unwrap_or_default(),
        release.made.map(|made| ago(made, now)).unwrap_or_default(),
        release.ms.map(took).unwrap_or_default(),
    ];
    texts
        .into_iter()
        .map(|text| match release.state {
            ReleaseState::Live => Cell::new(text).add_attribute(Attribute::Bold).fg(Color::Green),
            ReleaseState::Failed => Cell::new(text).fg(Color::Red),
            ReleaseState::Incomplete => Cell::new(text).add_attribute(Attribute::Dim),
            ReleaseState::Good | ReleaseState::Sealed => Cell::new(text),
        })
        .collect()
}

fn run_row(run: &Run, now: DateTime<Utc>) -> Vec<Cell> {
    let (ended, colour) = match (run.state, run.outcome) {
        (RunState::Waiting, _) => ("waiting".to_owned(), Some(Color::Cyan)),
        (RunState::Running, _) => (format!("running{}", at(run)), Some(Color::Cyan)),
        (RunState::Ended, Some(word)) => match word.exit_code() {
            0 => (outcome(word).to_owned(), Some(Color::Green)),
            7 => (outcome(word).to_owned(), Some(Color::Yellow)),
            _ => (format!("{}{}", outcome(word), at(run)), Some(Color::Red)),
        },
        (RunState::Ended, None) => ("ended".to_owned(), None),
    };
    let mut cells = vec![
        Cell::new(run.run),
        Cell::new(clean_line(&run.app)),
        Cell::new(super::words::action(&run.action, run.of.as_deref(), None)),
        Cell::new(clean_line(&run.caller)),
    ];
    let ended = Cell::new(ended);
    cells.push(match colour {
        Some(colour) => ended.fg(colour),
        None => ended,
    });
    cells.push(Cell::new(run.release.as_deref().map(clean_line).unwrap_or_default()));
    cells.push(Cell::new(ago(run.accepted, now)));
    cells.push(Cell::new(run.ms.map(took).unwrap_or_default()));
    cells
}

fn at(run: &Run) -> String {
    run.step.as_deref().map(|step| format!(" at {}", clean_line(step))).unwrap_or_default()
}

fn table<const N: usize>(header: [&str; N], rows: Vec<Vec<Cell>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().enforce_styling();
    table.style_text_only();
    table.set_header(header.map(|title| Cell::new(title).add_attribute(Attribute::Dim)));
    table.add_rows(rows);
    if let Some(width) = width {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
    }
    let release = header.iter().position(|title| *title == "release");
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == N { 0 } else { 2 }));
        // A name that is broken in two can be copied by nobody.
        if Some(index) == release {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}
