//! `completions` and `man`: files that a package installs beside the program, made from the program's own arguments.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render;

/// What `completions` takes.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write a page for every verb to this directory, instead of printing the main one
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn run(&self, out: &mut Out, mut command: Command) -> Result<Exit, Fault> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "agentctl", &mut script);
        out.data(&String::from_utf8_lossy(&script))?;
        Ok(Exit::GOOD)
    }
}

impl Man {
    /// Prints the main page, or writes all.
    pub(crate) fn run(self, out: &mut Out, command: Command) -> Result<Exit, Fault> {
        match self.dir {
            Some(dir) => {
                let written = std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(command, &dir));
                written.map_err(|source| Fault::Disk { act: "write manual pages to", path: dir.clone(), source })?;
                out.words(&render::pages_written(&dir));
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(command).render(&mut page).map_err(Fault::Print)?;
                out.data(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(Exit::GOOD)
    }
}
