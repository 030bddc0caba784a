//! What is said of models and tables is held against Django's own SELECT, INSERT and UPDATE, for random pairs of both.

use std::process::Command;

use serde_json::{Value, json};

use super::{new, old};
use crate::database::bench::{PASSWORD, Server};
use crate::python::bench::environment;

/// How many pairs on each database, in each run of the tests. More can be asked for: `CONTRACT_PAIRS=5000`.
const PAIRS: u64 = 300;

fn pairs(python: &std::path::Path, seed: u64, database: &Value) {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/django");
    let wanted = std::env::var("CONTRACT_PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(PAIRS);
    let seed = std::env::var("CONTRACT_SEED").unwrap_or_else(|_| seed.to_string());
    let output = Command::new(python)
        .arg(here.join("tests/pairs.py"))
        .arg(here.join("contract.py"))
        .args([database.to_string(), seed, wanted.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    println!("{} pairs: {}", told["pairs"], told["told"]);
    assert!(told["pairs"].as_u64().unwrap() >= wanted, "{told:#}");
    assert_eq!(told["false_fits"], json!([]), "it is said to fit, and Django fails: {:#}", told["false_fits"]);
    let count = |verdict: &str| told["told"][verdict].as_u64().unwrap_or(0);
    let right: u64 = ["fits", "writes", "broken"].iter().map(|one| count(&format!("{one}, really {one}"))).sum();
    assert!(right * 10 >= told["pairs"].as_u64().unwrap() * 7, "it is right in {right} of {}: {}", told["pairs"], told["told"]);
    // The check would be of no use if nothing ever fitted.
    assert!(count("fits, really fits") * 10 >= told["pairs"].as_u64().unwrap(), "{}", told["told"]);
}

#[test]
fn what_is_said_to_fit_does_so_on_sqlite() {
    let sqlite = json!({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"});
    pairs(&new(), 1, &sqlite);
    pairs(&old(), 2, &sqlite);
}

#[test]
fn what_is_said_to_fit_does_so_on_mariadb() {
    let server = agent_tests::MariaDb::start();
    let settings =
        json!({"ENGINE": "django.db.backends.mysql", "NAME": "shop", "USER": "root", "HOST": server.socket().display().to_string()});
    pairs(&environment("django-5.2-pymysql", &["django==5.2.*", "pymysql==1.1.*"]), 3, &settings);
}

#[test]
fn what_is_said_to_fit_does_so_on_postgresql() {
    let server = Server::start();
    let host = server.socket().display().to_string();
    let settings = json!({"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "USER": "shop", "PASSWORD": PASSWORD, "HOST": host});
    // Seeds that meet a check over a column which has one of Django's own.
    pairs(&new(), 22, &settings);
    pairs(&environment("django-4.2-psycopg2", &["django==4.2.*", "psycopg2-binary"]), 23, &settings);
}
