//! Files that change while the agent runs. Nothing here sleeps: each test waits for the change that it made.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch::Receiver;

use super::{Directory, MINIMAL};
use crate::settings::watch::InForce;
use crate::settings::{Complaint, Settings};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Waits until `so` holds, for as long as a slow machine may need.
fn until<T: Clone + Send + Sync + 'static>(receiver: &mut Receiver<T>, what: &str, so: impl Fn(&T) -> bool) -> T {
    runtime().block_on(async {
        let seen = tokio::time::timeout(Duration::from_secs(20), receiver.wait_for(|value| so(value))).await;
        seen.unwrap_or_else(|_| panic!("{what} was not seen")).unwrap().clone()
    })
}

fn keeps(settings: &Arc<Settings>, number: usize) -> bool {
    settings.apps.values().any(|app| app.keep_releases == number)
}

fn keep(number: usize) -> String {
    format!("{MINIMAL}keep_releases = {number}\n")
}

#[test]
fn a_file_is_taken_up_however_it_is_written_and_a_broken_one_is_not() {
    let dir = Directory::new();
    let file = dir.write("apps/shop.toml", &keep(1));
    let in_force = InForce::load(&dir.path()).unwrap();
    let mut settings = in_force.follow();
    let mut complaints = in_force.follow_complaints();
    let watching = in_force.watch();

    fs::write(&file, keep(2)).unwrap();
    until(&mut settings, "a file that was written in place", |settings| keeps(settings, 2));
    // Twice: a watch on the file itself would be blind by now.
    for number in [3, 4] {
        dir.write("apps/shop.toml", &keep(number));
        until(&mut settings, "a file that was renamed over", |settings| keeps(settings, number));
    }

    dir.write("apps/shop.toml", "keep_release = 5\n");
    let told: Arc<Vec<Complaint>> = until(&mut complaints, "a broken file", |complaints| !complaints.is_empty());
    assert_eq!(told.len(), 2);
    assert_eq!(*in_force.complaints(), *told);
    assert!(keeps(&in_force.settings(), 4), "the good one stays in force");

    dir.write("apps/shop.toml", &keep(6));
    until(&mut settings, "a mended file", |settings| keeps(settings, 6));
    assert!(in_force.complaints().is_empty());

    fs::remove_file(&file).unwrap();
    until(&mut settings, "a file that is gone", |settings| settings.apps.is_empty());
    drop(watching);
}

#[test]
fn directories_may_come_later_and_may_be_replaced() {
    let dir = Directory::new();
    let in_force = InForce::load(&dir.path()).unwrap();
    let mut settings = in_force.follow();
    let _watching = in_force.watch();

    dir.write("agent.toml", "drain_timeout = \"1m\"\n");
    until(&mut settings, "a configuration directory that was made", |settings| settings.agent.drain_timeout == Duration::from_secs(60));
    dir.write("apps/shop.toml", &keep(1));
    until(&mut settings, "a directory of apps that was made", |settings| keeps(settings, 1));

    let (new, old) = (dir.path().with_extension("next"), dir.path().with_extension("old"));
    fs::create_dir_all(new.join("apps")).unwrap();
    fs::write(new.join("apps/shop.toml"), keep(2)).unwrap();
    fs::rename(dir.path(), &old).unwrap();
    fs::rename(&new, dir.path()).unwrap();
    until(&mut settings, "a directory that took another's place", |settings| keeps(settings, 2));
    dir.write("apps/shop.toml", &keep(3));
    until(&mut settings, "a file in it", |settings| keeps(settings, 3));
}

#[test]
fn a_reload_can_be_asked_for_and_tells_what_is_wrong() {
    let dir = Directory::new();
    dir.write("apps/shop.toml", &keep(1));
    let in_force = InForce::load(&dir.path()).unwrap();
    let mut settings = in_force.follow();
    settings.mark_unchanged();
    assert!(in_force.reload().is_ok());
    assert!(!settings.has_changed().unwrap(), "what did not change is not announced");
    dir.write("apps/shop.toml", &keep(2));
    assert!(keeps(&in_force.reload().unwrap(), 2));
    assert!(settings.has_changed().unwrap());
    dir.write("apps/shop.toml", "");
    assert_eq!(in_force.reload().unwrap_err().len(), 1);
    assert!(keeps(&in_force.settings(), 2));
    assert!(InForce::load(&dir.path()).is_err());
}

/// A remedy in a place that is not watched: the file is read again all the same.
#[test]
fn what_is_wrong_is_looked_at_again_without_an_event() {
    let dir = Directory::new();
    let elsewhere = Directory::new();
    let secrets = elsewhere.path().join("shop.env");
    dir.write("apps/shop.toml", &keep(1));
    let in_force = InForce::load(&dir.path()).unwrap();
    let (mut settings, mut complaints) = (in_force.follow(), in_force.follow_complaints());
    let _watching = in_force.watch();
    dir.write("apps/shop.toml", &format!("{}[secrets]\nfiles = [{secrets:?}]\n", keep(2)));
    until(&mut complaints, "a missing file of secrets", |complaints| !complaints.is_empty());
    elsewhere.write("shop.env", "A=1\n");
    until(&mut settings, "the file of secrets", |settings| keeps(settings, 2));
}
