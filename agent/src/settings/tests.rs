//! What operators write, and what they hear about it.

mod complaints;
mod examples;
mod files;
mod meaning;
mod watch;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{App, Complaint, app};

/// Reads the app `shop` from a text.
fn shop(text: &str) -> Result<App, Vec<Complaint>> {
    app::parse(&"shop".parse().unwrap(), Path::new("shop.toml"), text)
}

/// Like [`shop`], with the one line that has to be there before the text.
fn shop_with(text: &str) -> App {
    shop(&format!("repository = \"git@host:acme/shop.git\"\n{text}"))
        .unwrap_or_else(|complaints| panic!("{text}\n{}", sentences(&complaints)))
}

fn sentences(complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| format!("{complaint}\n")).collect()
}

/// A configuration directory, with closed secrets files and files that nobody else can write.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("etc")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        self.write_with_mode(name, text, 0o640)
    }

    /// Written under another name and renamed over the old one, as most editors do.
    fn write_with_mode(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let other = path.with_extension("new");
        fs::write(&other, text).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&other, &path).unwrap();
        path
    }
}

const MINIMAL: &str = "repository = \"git@host:acme/shop.git\"\n";
