//! Decides which migrations a run may have left halfway. It uses the project's report from before, the notes of the process that applied them, and
//! the database's own list. That list alone is not enough: it has a migration only after its end.

use chrono::Utc;

use super::StepContext;
use crate::django::{Begun, some_of};
use crate::root::{ApplyOrder, Migrated, Unsettled};

/// Migrations that may be halfway. `applied` is the database's list; `None` where it could not be queried.
pub(super) fn half_of(record: &Migrated, applied: Option<&[String]>, begun: &Begun) -> Vec<String> {
    let open: Vec<&String> = record.pending.iter().filter(|migration| applied.is_none_or(|applied| !applied.contains(migration))).collect();
    let may_have_begun: Vec<&String> = match (begun, record.order) {
        (Begun::This(migration), _) => open.into_iter().filter(|open| *open == migration).collect(),
        // A command other than Django's own may apply migrations without writing notes.
        (Begun::Nothing | Begun::Ended, ApplyOrder::Kept) => Vec::new(),
        // Migrations are applied in order: after the first one that the database lacks, none was begun.
        (Begun::Unknown, ApplyOrder::Kept) if applied.is_some() => open.into_iter().take(1).collect(),
        (Begun::Unknown, ApplyOrder::Kept) | (Begun::Nothing | Begun::Ended | Begun::Unknown, ApplyOrder::Unknown) => open,
    };
    may_have_begun.into_iter().filter(|migration| record.may_leave.contains_key(*migration)).cloned().collect()
}

/// How migrate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Well,
    /// It failed, or was killed.
    Badly,
    /// The agent died while it ran, or the database could not be asked.
    CutOff,
}

/// The unsettled state after a run as a sentence: migrations that may be halfway, or the work after the last migration.
pub(super) fn left(record: &Migrated, begun: &Begun, end: End) -> Option<String> {
    if !record.half.is_empty() {
        return Some(sentence(record, &record.half, begun));
    }
    let all = record.applied.as_ref().is_some_and(|applied| applied.len() == record.pending.len());
    let unfinished = end == End::Badly || end == End::CutOff && *begun == Begun::Nothing;
    (all && unfinished).then(|| {
        "every migration is applied, and migrate did not come to its end: what follows them (post_migrate) may be missing".to_owned()
    })
}

/// A sentence that these migrations may be halfway.
pub(super) fn sentence(record: &Migrated, half: &[String], begun: &Begun) -> String {
    match (half, begun) {
        ([one], begun) => {
            let was = if matches!(begun, Begun::This(_)) { "was begun" } else { "may have been begun" };
            let why = record.may_leave.get(one).map_or("is not atomic", String::as_str);
            format!("{one} {was} and {why}: the database may be half migrated")
        }
        (several, _) => {
            format!("{} may have been begun, and may leave a part of what they do: the database may be half migrated", some_of(several))
        }
    }
}

/// The entry about it in the root.
pub(super) fn entry(cx: &StepContext<'_>, record: &Migrated, text: String) -> Unsettled {
    Unsettled {
        by: cx.run.marker.to_owned(),
        run: cx.run.id.0,
        release: cx.found.target.as_ref().map(|target| target.release.to_string()).unwrap_or_default(),
        at: Utc::now(),
        text,
        migrations: record.half.clone(),
        backup: record.backup.clone(),
        restore: record.restore.clone(),
    }
}

/// Repeats the unsettled state of earlier runs in each run that makes a release live, until it is settled.
pub(super) fn warn_of_unsettled(cx: &StepContext<'_>) {
    for Unsettled { run, text, restore, .. } in cx.run.root.unsettled().into_iter().filter(|entry| entry.by != cx.run.marker) {
        let restore = restore.map(|restore| format!("; the dump from before is restored with: {restore}")).unwrap_or_default();
        cx.warn(format!("since run {run}: {text}{restore}"));
    }
}

/// Settles the migrations that the database now has, once a release serves on it.
pub(super) fn settle_what_is_applied(cx: &StepContext<'_>) {
    let Some(Ok(schema)) = cx.found.inspection.as_ref().map(|inspection| &inspection.schema) else { return };
    // One that cannot be understood names no run, and stays until a person has looked.
    let is_settled =
        |entry: &Unsettled| !entry.by.is_empty() && entry.migrations.iter().all(|migration| schema.applied.contains(migration));
    match cx.run.root.settle(is_settled) {
        Ok(settled) => {
            for Unsettled { run, .. } in settled {
                cx.note(format!("what run {run} left halfway is applied now: settled"));
            }
        }
        Err(err) => cx.warn(format!("what is settled cannot be written down: {}", super::chain(&err))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn record(may_leave: &[&str], order: ApplyOrder) -> Migrated {
        let may_leave = may_leave.iter().map(|name| ((*name).to_owned(), "is not atomic".to_owned())).collect();
        Migrated { pending: names(&["a.1", "a.2", "a.3"]), may_leave, order, ..Migrated::default() }
    }

    #[test]
    fn what_was_written_down_decides() {
        let record = record(&["a.2", "a.3"], ApplyOrder::Kept);
        let half = |applied: Option<&[&str]>, begun: &Begun| half_of(&record, applied.map(names).as_deref(), begun);
        let this = |name: &str| Begun::This(name.to_owned());
        assert_eq!(half(Some(&["a.1"]), &this("a.2")), ["a.2"]);
        assert_eq!(half(Some(&[]), &this("a.1")), [""; 0], "it is atomic: the database has taken it back");
        assert_eq!(half(Some(&["a.1", "a.2"]), &this("a.2")), [""; 0], "it came to its end, and only that was not written down");
        assert_eq!(half(Some(&["a.1"]), &Begun::Nothing), [""; 0], "a.1 came to its end, and a.2 was not begun");
        assert_eq!(half(None, &this("a.3")), ["a.3"]);
    }

    #[test]
    fn where_nothing_was_written_down_all_that_may_have_begun_count() {
        let kept = record(&["a.2", "a.3"], ApplyOrder::Kept);
        assert_eq!(half_of(&kept, Some(&names(&["a.1"])), &Begun::Unknown), ["a.2"], "they are applied one after the other");
        assert_eq!(half_of(&kept, Some(&[]), &Begun::Unknown), [""; 0], "a.1 is atomic, and nothing behind it was begun");
        assert_eq!(half_of(&kept, None, &Begun::Unknown), ["a.2", "a.3"], "the database could not be asked");
        let unknown = record(&["a.2", "a.3"], ApplyOrder::Unknown);
        assert_eq!(half_of(&unknown, Some(&[]), &Begun::Unknown), ["a.2", "a.3"]);
        assert_eq!(half_of(&unknown, Some(&[]), &Begun::Nothing), ["a.2", "a.3"], "another command writes nothing down");
    }

    #[test]
    fn what_follows_the_last_migration_is_not_forgotten() {
        let mut record = record(&[], ApplyOrder::Kept);
        record.applied = Some(record.pending.clone());
        let missing = |begun, end| left(&record, &begun, end).is_some_and(|text| text.contains("post_migrate"));
        assert!(missing(Begun::Nothing, End::Badly) && missing(Begun::Nothing, End::CutOff));
        assert!(!missing(Begun::Ended, End::Well) && !missing(Begun::Ended, End::CutOff) && !missing(Begun::Unknown, End::CutOff));
        record.applied = Some(names(&["a.1"]));
        assert_eq!(left(&record, &Begun::Nothing, End::Badly), None);
    }

    #[test]
    fn the_sentence_claims_no_more_than_is_known() {
        let mut record = record(&["a.2", "a.3"], ApplyOrder::Kept);
        let told = |record: &Migrated, half: &[&str], begun: &Begun| sentence(record, &names(half), begun);
        let this = Begun::This("a.2".to_owned());
        assert_eq!(told(&record, &["a.2"], &this), "a.2 was begun and is not atomic: the database may be half migrated");
        assert_eq!(
            told(&record, &["a.2"], &Begun::Unknown),
            "a.2 may have been begun and is not atomic: the database may be half migrated"
        );
        record.may_leave.insert("a.2".into(), "is on MySQL, which does not roll a changed table back".into());
        let mysql = "a.2 was begun and is on MySQL, which does not roll a changed table back: the database may be half migrated";
        assert_eq!(told(&record, &["a.2"], &this), mysql);
        let many: Vec<String> = (0..100).map(|number| format!("a.{number}")).collect();
        assert!(sentence(&record, &many, &Begun::Unknown).starts_with("a.0, a.1, a.2 and 97 more may have been begun"));
    }
}
