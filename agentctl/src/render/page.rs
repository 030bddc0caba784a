//! The output of reading verbs that is no table.

use agent_wire::view::{App, Apps, Commit, Doctor, Finding, GrantView, Level, Plan, ReleaseDetail, Releases, Run, Whoami};
use chrono::{DateTime, Utc};

use super::table;
use super::words::{
    BAD, BOLD, DIM, GOOD, WARN, action, ago, bytes, clean_line, count, indented, listed, outcome, painted, short, short_ref, style_of, took,
};

/// The state of the apps.
pub(crate) fn status(apps: &Apps, now: DateTime<Utc>) -> String {
    let mut blocks = Vec::new();
    if apps.draining {
        blocks.push(painted(WARN, "! the agent is about to stop, and takes no request"));
    }
    if !apps.complaints.is_empty() {
        let mut lines = vec![painted(BAD, "! not in force, as it is on disk now:")];
        lines.extend(apps.complaints.iter().map(|complaint| format!("  {}", indented(complaint, 2))));
        blocks.push(lines.join("\n"));
    }
    if apps.apps.is_empty() {
        blocks.push("no app is configured; write the first one with: agentctl init NAME --repository URL".into());
    }
    blocks.extend(apps.apps.iter().map(|app| status_of(app, now)));
    blocks.join("\n\n")
}

fn status_of(app: &App, now: DateTime<Utc>) -> String {
    let mut page = Page::new(match &app.live {
        Some(live) => {
            let style = if live.fault.is_none() { GOOD } else { WARN };
            format!("{}  {}", painted(BOLD, clean_line(&app.name)), painted(style, format!("{} is live", clean_line(&live.name))))
        }
        None => format!("{}  {}", painted(BOLD, clean_line(&app.name)), painted(DIM, "no release is live")),
    });
    if let Some(live) = &app.live {
        let made = live.made.map(|made| ago(made, now));
        let by = live.caller.as_deref().map(|caller| format!("by {}", clean_line(caller)));
        let of = live.reference.as_deref().map(|name| format!("of {}", short_ref(name)));
        page.row("made", [made, of, by].into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    if let Some(fault) = app.live.as_ref().and_then(|live| live.fault.as_deref()) {
        page.row("no answer", painted(BAD, format!("{}: agentctl doctor", clean_line(fault))));
    }
    if let Some(again) = &app.started_again {
        let times = count(usize::try_from(again.times).unwrap_or(usize::MAX), "time", "times");
        page.row("restarts", painted(WARN, format!("the instance ended and was started again {times}, last {}", ago(again.last, now))));
    }
    if let Some(stuck) = app.stuck {
        page.row("stuck", painted(BAD, format!("run {stuck} needs a person to look: agentctl logs {stuck}")));
    }
    for left in &app.unsettled {
        page.row("database", painted(BAD, format!("since run {}: {}", left.run, clean_line(&left.text))));
        page.maybe("", left.restore.as_deref().map(|restore| format!("restore with: {}", clean_line(restore))));
        page.row("", format!("when it is in order: agentctl settle {}", left.run));
    }
    if let Some(follows) = &app.follows {
        page.row("follows", format!("{}, when a webhook says so", clean_line(follows)));
    }
    if let Some(lock) = &app.lock {
        page.row("locked", painted(WARN, format!("by {}, {}: {}", clean_line(&lock.who), ago(lock.since, now), clean_line(&lock.why))));
    }
    if let Some(run) = &app.running {
        let step = run.step.as_deref().map(|step| format!(", at {}", clean_line(step))).unwrap_or_default();
        page.row("running", format!("{}{step}, taken {}", run_line(run), ago(run.accepted, now)));
    }
    for run in &app.waiting {
        page.row("waiting", run_line(run));
    }
    if let Some(run) = &app.last {
        let ended = run.outcome.map(|word| painted(style_of(word), outcome(word))).unwrap_or_default();
        let step = match run.outcome {
            Some(word) if !matches!(word.exit_code(), 0 | 7) => {
                run.step.as_deref().map(|step| format!(" at {}", clean_line(step))).unwrap_or_default()
            }
            _ => String::new(),
        };
        let when = run.ended.map(|ended| format!(", {}", ago(ended, now))).unwrap_or_default();
        page.row("last", format!("{}: {ended}{step}{when}", run_line(run)));
    }
    page.row("disk", format!("{} free of {}", bytes(app.disk_free), bytes(app.disk_total)));
    page.text()
}

fn run_line(run: &Run) -> String {
    format!("run {}: {} by {}", run.run, action(&run.action, run.of.as_deref(), None), clean_line(&run.caller))
}

/// One release.
pub(crate) fn release(detail: &ReleaseDetail, now: DateTime<Utc>) -> String {
    let release = &detail.release;
    let mut page = Page::new(painted(BOLD, clean_line(&release.name)));
    let mut state = vec![serde_word(&release.state)];
    state.extend(release.previous.then(|| "what rollback would make live".to_owned()));
    state.extend(release.pinned.then(|| "pinned".to_owned()));
    page.row("state", state.join(", "));
    page.row("commit", clean_line(&release.commit));
    page.maybe("ref", release.reference.as_deref().map(short_ref));
    page.maybe("who", release.caller.as_deref().map(clean_line));
    page.maybe("run", release.run.map(|run| run.to_string()));
    page.maybe("made", release.made.map(|made| format!("{} ({})", made.format("%Y-%m-%d %H:%M:%S UTC"), ago(made, now))));
    page.maybe("took", release.ms.map(took));
    page.row("path", clean_line(&detail.path));
    page.maybe("environment", detail.environment.as_deref().map(clean_line));
    page.maybe("backup", detail.backup.as_deref().map(clean_line));
    if detail.migrations.is_empty() {
        page.row("migrations", painted(DIM, "none were applied with it"));
    }
    for (index, migration) in detail.migrations.iter().enumerate() {
        page.row(if index == 0 { "migrations" } else { "" }, clean_line(migration));
    }
    if detail.manifest.as_object().is_none_or(|manifest| !manifest.is_empty()) {
        let manifest = serde_json::to_string_pretty(&detail.manifest).unwrap_or_default();
        page.row("manifest", indented(&manifest, Page::INDENT));
    }
    page.text()
}

/// The word of a unit variant on the wire.
fn serde_word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The plan of a release.
pub(crate) fn plan(plan: &Plan, app: &str) -> String {
    let reference = plan.reference.as_deref().map(|name| format!(" ({})", short_ref(name))).unwrap_or_default();
    let mut blocks = vec![painted(BOLD, format!("{app}: a release of {}{reference}", short(&plan.commit)))];

    let commits = plan.commits.iter().map(commit_line);
    let left_out = usize::try_from(plan.ahead).unwrap_or(0).saturating_sub(plan.commits.len());
    let more = (left_out > 0).then(|| painted(DIM, format!("… and {}", count(left_out, "more", "more"))));
    let against = match (&plan.live, plan.ahead) {
        (None, _) => "no release is live to compare with".to_owned(),
        (Some(live), 0) => format!("the live release is of the same commit, {}", short(live)),
        (Some(live), ahead @ 1..) => {
            format!("{} since the live one, {}:", count(usize::try_from(ahead).unwrap_or(usize::MAX), "commit", "commits"), short(live))
        }
        (Some(live), behind) => painted(
            WARN,
            format!(
                "! the live release, {}, is {} ahead: this would go back",
                short(live),
                count(behind.unsigned_abs().try_into().unwrap_or(usize::MAX), "commit", "commits")
            ),
        ),
    };
    blocks.push(section(against, commits.chain(more)));

    if plan.live.is_some() {
        blocks.push(changed("requirements", &plan.requirements));
        blocks.push(changed("migrations", &plan.migrations));
    }
    let steps = plan.steps.iter().map(|step| match &step.skipped {
        Some(reason) => painted(DIM, format!("– {:14} skipped: {}", clean_line(&step.step), indented(reason, 19))),
        None => format!("{} {}", painted(GOOD, "·"), clean_line(&step.step)),
    });
    blocks.push(section("steps:".into(), steps));
    blocks.push(format!("disk: the tree takes {}, {} are free", bytes(plan.bytes), bytes(plan.disk_free)));
    blocks.extend(plan.warnings.iter().map(|warning| painted(WARN, format!("! {}", indented(warning, 2)))));
    blocks.push(painted(DIM, "nothing has been changed"));
    blocks.join("\n")
}

fn commit_line(commit: &Commit) -> String {
    format!(
        "{} {} {}",
        painted(WARN, short(&commit.commit)),
        clean_line(&commit.subject),
        painted(DIM, format!("({})", clean_line(&commit.author)))
    )
}

fn changed(what: &str, files: &[String]) -> String {
    match files {
        [] => format!("{what}: unchanged"),
        files => section(format!("{what} changed:"), files.iter().map(|file| clean_line(file))),
    }
}

fn section(head: String, lines: impl Iterator<Item = String>) -> String {
    lines.fold(head, |text, line| format!("{text}\n  {line}"))
}

/// The releases that `prune` would remove.
pub(crate) fn prunable(releases: &Releases, now: DateTime<Utc>, width: Option<u16>) -> String {
    match releases.releases.len() {
        0 => "prune would remove nothing".into(),
        number => format!("{}\n\nprune would remove {}", table::releases(releases, now, width), count(number, "release", "releases")),
    }
}

/// The findings, worst first.
pub(crate) fn doctor(doctor: &Doctor) -> String {
    let mut findings: Vec<&Finding> = doctor.findings.iter().collect();
    findings.sort_by_key(|finding| finding.level);
    let mut lines: Vec<String> = findings.iter().map(|finding| finding_lines(finding)).collect();
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (number(Level::Error), number(Level::Warning));
    lines.push(match (errors, warnings) {
        (0, 0) => painted(GOOD, "all is as it should be"),
        (0, _) => painted(WARN, format!("no error, {}", count(warnings, "warning", "warnings"))),
        (_, _) => painted(BAD, format!("{}, {}", count(errors, "error", "errors"), count(warnings, "warning", "warnings"))),
    });
    lines.join("\n")
}

fn finding_lines(finding: &Finding) -> String {
    let glyph = match finding.level {
        Level::Error => painted(BAD, "✗"),
        Level::Warning => painted(WARN, "!"),
        Level::Good => painted(GOOD, "✓"),
    };
    let of = listed(&[finding.app.as_deref(), Some(&finding.what)].into_iter().flatten().collect::<Vec<_>>()).replace(", ", " ");
    let hint = finding.hint.as_deref().map(|hint| format!("\n  {} {}", painted(BOLD, "hint:"), indented(hint, 8))).unwrap_or_default();
    format!("{glyph} {}: {}{hint}", painted(BOLD, of), indented(&finding.text, 2))
}

/// The caller as the agent identifies it, and its rights.
pub(crate) fn whoami(whoami: &Whoami) -> String {
    let mut page = Page::new(painted(BOLD, clean_line(&whoami.caller)));
    page.row("in grants", listed(&whoami.principals));
    if whoami.all {
        page.row("may do", painted(GOOD, "everything, and needs no grant for it"));
    }
    for grant in &whoami.grants {
        page.row("may do", granted(grant));
    }
    if !whoami.all && whoami.grants.is_empty() {
        page.row("may do", painted(WARN, "nothing: no [[grant]] in agent.toml is for this caller"));
    }
    page.text()
}

fn granted(grant: &GrantView) -> String {
    let some = |names: &Option<Vec<String>>, all: &str| names.as_ref().map_or_else(|| all.to_owned(), |names| listed(names));
    let mut text = format!("{} of {}", some(&grant.actions, "everything"), some(&grant.apps, "all apps"));
    if let Some(refs) = &grant.refs {
        text = format!("{text}, from {}", listed(refs));
    }
    if grant.downgrade {
        text += ", also back to older commits";
    }
    if grant.signatures > 1 {
        text = format!("{text}, when {} of {} sign", grant.signatures, listed(&grant.to));
    }
    if !grant.claims.is_empty() {
        let claims: Vec<String> = grant.claims.iter().map(|(claim, value)| format!("{claim} is {value}")).collect();
        text = format!("{text}, where {}", listed(&claims));
    }
    text
}

/// A heading with rows of a name and a value below it.
struct Page(Vec<String>);

impl Page {
    const NAME: usize = 12;
    const INDENT: usize = Self::NAME + 3;

    fn new(heading: String) -> Self {
        Self(vec![heading])
    }

    fn row(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            let name = format!("{name:width$}", width = Self::NAME);
            self.0.push(format!("  {} {value}", painted(DIM, name)));
        }
    }

    fn maybe(&mut self, name: &str, value: Option<String>) {
        self.row(name, value.unwrap_or_default());
    }

    fn text(self) -> String {
        self.0.join("\n")
    }
}
