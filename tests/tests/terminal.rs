//! What a terminal is shown of texts that others have written: nothing that it obeys, and nothing that nobody sees.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::time::Duration;

use agent_tests::Bench;

const MOST: Duration = Duration::from_secs(60);

/// Runs a program at a terminal of its own, and prints what the terminal got.
const AT_A_TERMINAL: &str = "import os, pty, sys\n\
    got = []\n\
    def read(fd):\n    data = os.read(fd, 65536)\n    got.append(data)\n    return data\n\
    pty.spawn(sys.argv[2:], read)\n\
    open(sys.argv[1], 'wb').write(b''.join(got))\n";

fn at_a_terminal(bench: &Bench, arguments: &[&str]) -> String {
    let mut python = bench.command("python3");
    let ctl = bench.agentctl();
    python.args(["-c", AT_A_TERMINAL, "got"]).arg(ctl.get_program()).arg("--socket").arg(bench.path("run/control.sock")).args(arguments);
    python.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    bench.begin(python).finish(MOST);
    std::fs::read_to_string(bench.path("got")).unwrap()
}

#[test]
fn a_terminal_gets_nothing_that_it_obeys_and_nothing_that_nobody_sees() {
    let bench = Bench::new("terminal");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    bench.app("site", &format!("repository = {:?}\nrefs = [\"refs/heads/main\"]\n", repo.path())).start();
    // An argument that clears the screen, in clap's own words; and one that only hides what comes after it.
    for hostile in ["\u{1b}[2J\u{1b}[Hshop", "shop\u{1b}[8m", "shop\u{9b}2J", "sh\u{202e}op"] {
        let got = at_a_terminal(&bench, &["--app", hostile, "status"]);
        assert!(got.contains("invalid value"), "{got:?}");
        for part in ["\u{1b}[2J", "\u{1b}[8m", "\u{9b}", "\u{202e}"] {
            assert!(!got.contains(part), "{hostile:?}: {got:?}");
        }
    }
    let unseen = "\u{61c}\u{ad}\u{200b}\u{202e}\u{2066}\u{feff}\u{e0041}";
    bench.ctl(["lock", "-m", &format!("a{unseen}b")]).expect(0);
    for arguments in [&["status"][..], &["status", "--json"], &["runs"], &["runs", "--json"]] {
        let got = at_a_terminal(&bench, arguments);
        assert!(got.contains("lock") && !got.chars().any(|letter| unseen.contains(letter)), "{arguments:?}: {got:?}");
    }
    // As data they are the same data: what is written out means the same to whoever reads JSON.
    let got = at_a_terminal(&bench, &["status", "--json"]);
    // The terminal itself shows that nothing more comes in.
    let told: serde_json::Value = serde_json::from_str(&got[got.find('{').unwrap()..=got.rfind('}').unwrap()]).unwrap();
    assert_eq!(told["apps"][0]["lock"]["why"], format!("a{unseen}b"));
    // And a program that reads them gets them as they came.
    assert!(bench.ctl(["status", "--json"]).stdout.contains(unseen));
}
