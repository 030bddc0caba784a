//! The command line of the release agent: it turns arguments into requests, and answers and events into sentences. The agent makes all decisions and
//! reports all results.
//!
//! In reading order, each module using only those above it:
//!
//! 1. [`address`]: where an agent is;
//! 2. [`key`]: the keys that sign;
//! 3. [`tls`]: which certificates are trusted;
//! 4. [`fault`]: the reasons why a verb fails, and the exit code of each;
//! 5. [`render`]: every sentence and table the user sees, as pure functions;
//! 6. [`out`]: the only place that writes to a terminal or a pipe;
//! 7. [`client`]: HTTP over the agent's socket or over the network;
//! 8. [`route`]: the options that say how the agent is reached;
//! 9. [`session`]: what all verbs share: the client, the output, the app;
//! 10. [`follow`]: shows a run as it goes;
//! 11. [`act`]: sends a request and follows its run;
//! 12. a file a verb;
//! 13. [`arguments`]: the verbs as the command line has them.

mod address;

mod key;

mod tls;

mod fault;
mod render;

mod out;

mod client;

mod route;

mod session;

mod follow;

mod act;

mod activate;
mod cancel;
mod check;
mod doctor;
mod exec;
mod fsck;
mod init;
mod list;
mod lock;
mod logs;
mod pin;
mod plan;
mod prune;
mod release;
mod restart;
mod runs;
mod restore;
mod settle;
mod setup;
mod shell;
mod show;
mod sign;
mod status;
mod whoami;

mod arguments;

use std::ffi::OsString;
use std::process::ExitCode;

pub use arguments::command;

use arguments::Cli;
use fault::{Exit, Fault};
use out::Out;

/// Runs the program with the arguments and streams of this process.
pub fn run() -> ExitCode {
    ExitCode::from(run_with(std::env::args_os(), Out::of_process()))
}

/// Runs the program, prints the error, and picks the exit code. No other code does either.
fn run_with(arguments: impl IntoIterator<Item = OsString>, mut out: Out) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let hides = arguments.iter().any(|argument| render::words::hides(&argument.to_string_lossy()));
    let ended = Cli::read(arguments).and_then(|cli| cli.run(&mut out));
    match ended {
        Ok(Exit(code)) => code,
        Err(Fault::Usage(err)) => {
            // The text repeats the arguments, including colours and other terminal sequences.
            let text = if hides { render::words::clean(&err.render().to_string()) } else { err.render().ansi().to_string() };
            if err.use_stderr() {
                out.words(&text);
            } else if let Err(fault) = out.data(&text) {
                return fault.exit_code();
            }
            u8::try_from(err.exit_code()).unwrap_or(2)
        }
        Err(fault) => {
            if let Some(text) = render::fault(&fault) {
                out.words(&text);
            }
            fault.exit_code()
        }
    }
}

#[cfg(test)]
mod tests;
