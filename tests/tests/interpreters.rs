//! The interpreter of a release belongs to the host, which may be upgraded below it.

use std::fs;

use agent_tests::Bench;

#[test]
fn a_release_whose_interpreter_is_gone_is_told_before_anybody_goes_back_to_it() {
    let bench = Bench::new("interpreter-gone");
    let repo = bench.repo("shop");
    repo.write("requirements.txt", "six==1.16.0\n").commit("One");
    // An interpreter that can be taken away: a copy of the host's.
    let (first, second) = (bench.path("one/python3"), bench.path("two/python3"));
    for copy in [&first, &second] {
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), copy).unwrap();
    }
    let app = |interpreter: &std::path::Path| {
        let toml = format!(
            "repository = {:?}\nallow_local = true\nrefs = [\"refs/heads/main\"]\n[python]\ninterpreter = {interpreter:?}\n",
            repo.path()
        );
        bench.app("shop", &toml);
    };
    app(&first);
    bench.start();
    bench.ctl(["release", "main"]).expect(0);
    let old = bench.live("shop").unwrap();
    repo.write("requirements.txt", "six==1.17.0\n").commit("Two");
    app(&second);
    bench.reload();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("shop").unwrap();

    bench.ctl(["doctor"]).says(&[&format!("{} is Python 3", second.display())]);
    fs::remove_file(&first).unwrap();
    let gone = format!("the interpreter of the previous release {old}, {}, is gone", first.display());
    bench.ctl(["doctor"]).expect(1).says(&[&gone, "agentctl release REF --rebuild"]);
    let words = format!("the interpreter of {old}, {}, is not on this host any more", first.display());
    bench.ctl(["rollback"]).expect(1).says(&[&words, "install it again, or make the commit anew"]);
    assert_eq!(bench.live("shop"), Some(live));
}
