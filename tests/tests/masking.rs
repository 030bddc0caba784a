//! Secrets in what programs print, in whatever form they print them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agent_tests::Bench;

/// Prints a secret in every form in which programs print one.
const SHOW: &str = r#"
import html, json, os, shlex, urllib.parse
secret = os.environ["MAIL_PASSWORD"]
settings = {"password": secret}
print("as it is:", secret)
print("repr:", settings)
print("ascii:", ascii(secret))
print("bytes:", secret.encode())
print("json:", json.dumps(settings))
print("log:", json.dumps({"message": repr(settings)}))
print("twice:", json.dumps({"body": json.dumps(settings)}))
print("shell:", shlex.join(["mysql", "--password=" + secret]))
print("url:", "smtp://shop:" + urllib.parse.quote(secret, safe="") + "@mail")
print("form:", urllib.parse.urlencode(settings))
print("html:", html.escape(secret))
raise RuntimeError(settings)
"#;

#[test]
fn a_secret_is_masked_in_every_form_in_which_programs_print_it() {
    for (number, secret) in [r#"Tr0ub\dor&"three""#, "gehéim-wört", "it's a \\ 'real' 100% ß?"].into_iter().enumerate() {
        let bench = Bench::new(&format!("masked {number}"));
        let repo = bench.repo("site");
        repo.write("show.py", SHOW).commit("one");
        let file = bench.write("app.env", format!("MAIL_PASSWORD=\"{}\"\n", secret.replace('\\', "\\\\").replace('"', "\\\"")));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let hook = "[[hook]]\nafter = \"checkout\"\nrun = [\"python3\", \"show.py\"]\n";
        let settings = format!("repository = {:?}\nrefs = [\"refs/heads/main\"]\n[secrets]\nfiles = [{file:?}]\n{hook}", repo.path());
        bench.app("site", &settings).start();
        let told = bench.ctl(["release", "-v", "main"]).expect(1);
        let told = format!("{}{}{}", told.stdout, told.stderr, bench.ctl(["logs", "1", "--json"]).stdout);
        for form in
            ["as it is:", "repr:", "ascii:", "bytes:", "json:", "log:", "twice:", "shell:", "url:", "form:", "html:", "RuntimeError: "]
        {
            let lines: Vec<&str> = told.lines().filter(|line| line.contains(form)).collect();
            assert!(!lines.is_empty(), "{form} in {told}");
            for line in lines {
                assert!(line.contains("***"), "{form}: {line}");
                for part in ["dor", "three", "eh\\xe9im", "h\\u00e9im", "rt\"", "w\\xf6rt", "real", "100%"] {
                    assert!(!line.contains(part), "{form}: {line}");
                }
            }
        }
    }
}
