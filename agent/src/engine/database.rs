//! What `doctor` finds about the database: what runs may have left in it, and what the live release's own code says of it.

use agent_model::names::RunId;
use agent_wire::view::{Finding, Level};

use super::AppEngine;
use crate::settings::{App, Executor, read_secrets};
use crate::steps::left_out;
use crate::tools::Watch;
use crate::tools::manage::{Schema, some_of};
use crate::work::mask::Mask;
use crate::work::{Answer, Bytecode, Failure, Ground, Job, Order, Ordered, Workshop, ask_runner, chain};

/// Adds the findings about an app's database.
pub(super) fn examine(engine: &AppEngine, findings: &mut Vec<Finding>, watch: &Watch<'_>) {
    let mut add = |level, text: String, cure: Option<String>| {
        findings.push(Finding { app: Some(engine.name.to_string()), what: "database".to_owned(), level, text, cure });
    };
    for left in engine.unsettled() {
        let restore = left.restore.map(|restore| format!("restore the dump from before: {restore}; or ")).unwrap_or_default();
        let run = left.run;
        let cure =
            format!("{restore}release a commit whose migrations put it right; when it is in order by other means: agentctl settle {run}");
        add(Level::Error, format!("since run {run}: {}", left.text), Some(cure));
    }
    let app = engine.settings();
    // A run under way asks for itself, and has the only runner.
    if app.django.is_none() || engine.at_hand().is_some() {
        return;
    }
    let schema = match ask(engine, &app, watch) {
        Ok(Some(schema)) => schema,
        Ok(None) => return,
        Err(failure) => return add(Level::Error, failure.reason, failure.hint),
    };
    for text in left_out(&schema, &app) {
        let cure = "name every database that is to be migrated: [django] database = [\"default\", …]";
        add(Level::Warning, text, Some(cure.to_owned()));
    }
    for index in &schema.invalid_indexes {
        let text = format!("the index {} of {} is invalid: an interrupted build left it, and no query uses it", index.index, index.table);
        add(Level::Warning, text, Some(format!("drop it and have it built again: {};", index.drop)));
    }
    if schema.pending.is_empty() {
        add(Level::Good, "the database has every migration of the live release".to_owned(), None);
    } else {
        let text = format!("the live release has migrations that the database does not: {}", some_of(&schema.pending));
        add(Level::Warning, text, Some("was an older copy put back? A release applies them: agentctl release REF".to_owned()));
    }
}

/// How the database stands to the live release; nothing where none is live.
fn ask(engine: &AppEngine, app: &App, watch: &Watch<'_>) -> Result<Option<Schema>, Failure> {
    let Ok(Some(live)) = engine.site.live() else { return Ok(None) };
    // One that is damaged is told of elsewhere.
    let Ok(manifest) = engine.site.manifest(&live) else { return Ok(None) };
    let commit = manifest.commit.parse().map_err(|err| Failure::new(chain(&err)))?;
    let release = Ordered { name: live, commit, reference: manifest.reference.and_then(|reference| reference.parse().ok()) };
    let order = Order { run: RunId(0), marker: watch.marker.to_owned(), caller: "agent".to_owned(), release: Some(release), former: None };
    let job = Job::Inspect(Bytecode::NotWritten);
    let answer = match app.executor {
        Executor::Units => ask_runner(&app.name, &order, &job, watch),
        Executor::Direct => {
            // Secrets that cannot be read are told of elsewhere.
            let Ok(secrets) = read_secrets(&app.secrets) else { return Ok(None) };
            let mask = Mask::of(secrets.iter().map(|(_, value)| value.as_str()));
            let env: Vec<(String, String)> = app.env.iter().cloned().chain(secrets).collect();
            let workshop = Workshop::new(app, &engine.site, &env, Vec::new(), Ground::Root);
            let covered = |failure: Failure| Failure { reason: mask.cover(&failure.reason).into_owned(), ..failure };
            workshop.carry_out(&order, &job, None, watch, &|_| {}).map_err(covered)
        }
    };
    match answer? {
        Answer::Inspected(inspection) => crate::steps::schema_of(&inspection).cloned().map(Some),
        other => Err(other.unexpected()),
    }
}
