//! What a command still uses is not removed under it, whoever runs it and however it was started.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use agent_tests::{Bench, is_root, wait_until};

const MOST: Duration = Duration::from_secs(120);
const DAEMON: u32 = 1;
const NOBODY: u32 = 65534;

/// Says that it runs, and waits until it may end.
const COMMAND: &str = "#!/bin/sh\n: >\"$1.runs\"\nuntil [ -e \"$1.ends\" ]; do sleep 0.1; done\n";

#[test]
fn a_release_stays_while_a_command_that_was_started_from_it_runs() {
    if !is_root("that a release stays under a command of another user") {
        return;
    }
    let bench = Bench::new("in use");
    let repo = bench.repo("site");
    repo.write("bin/nightly.sh", COMMAND).write("page.html", "0");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.path().join("bin/nightly.sh"), mode).unwrap();
    repo.commit("0");
    bench.app("site", &format!("repository = {:?}\nbranches = [\"main\"]\nkeep_releases = 1\n", repo.path()));
    let signs = bench.path("signs");
    fs::create_dir_all(&signs).unwrap();
    bench.let_others_in().give_to(DAEMON);
    fs::set_permissions(&signs, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    bench.start();
    let link = bench.root_of("site").join("app");
    let release = |text: &str| {
        repo.write("page.html", text).commit(text);
        bench.ctl(["release", "main"]).expect(0);
        link.canonicalize().unwrap()
    };
    // How each is started: by whom, where, and by which words.
    let ways: [(&str, u32, &Path, String); 3] = [
        ("the agent's user, by the link", DAEMON, Path::new("/"), link.join("bin/nightly.sh").display().to_string()),
        ("another user, by the link", NOBODY, Path::new("/"), link.join("bin/nightly.sh").display().to_string()),
        ("another user, within", NOBODY, &link, "bin/nightly.sh".to_owned()),
    ];
    for (at, (way, user, dir, program)) in ways.iter().enumerate() {
        let used = release(&format!("used {at}"));
        let sign = signs.join(at.to_string());
        let mut command = bench.as_user(*user, &[], program);
        command.arg(&sign).current_dir(dir).stdin(Stdio::null());
        let mut running = command.spawn().unwrap();
        wait_until("the command runs", MOST, || sign.with_extension("runs").exists());
        for number in 0..3 {
            release(&format!("{at}.{number}"));
        }
        assert!(used.exists(), "{way}: the release of a running command was removed");
        fs::write(sign.with_extension("ends"), "").unwrap();
        assert!(running.wait().unwrap().success());
        release(&format!("{at} ended"));
        assert!(!used.exists(), "{way}: the release is kept although the command has ended");
    }
    bench.assert_sound();
}
