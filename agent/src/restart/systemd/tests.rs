//! What can be seen without a systemd; what needs one is tested from outside, in a machine that is booted for it.

use std::path::Path;

use super::*;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, Stage};

#[test]
fn without_a_bus_the_cure_is_told_before_anything_is_done() {
    if Path::new("/run/dbus/system_bus_socket").exists() {
        println!("*** NOT TESTED: there is a system bus here");
        return;
    }
    let settings = Settings {
        units: vec!["x.service".to_owned()],
        how: How::Restart,
        watch_for: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    };
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let error = stage.with_scene(|scene| Restart::Systemd(settings.clone()).prepare(scene, a.serving()).map(drop)).unwrap_err();
    assert!(error.to_string().contains("cannot reach systemd") && error.hint().unwrap().contains("is dbus running"), "{error}");
}
