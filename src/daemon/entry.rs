//! The daemon as the program calls it: runtime, log, exit code.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ha::step::Exit;

use super::log::Log;
use super::{descriptors, memory, notify, start};

/// The hidden subcommand by which the program launches a postmaster that outlives it.
pub(crate) const LAUNCH_SUBCOMMAND: &str = "launch-postmaster";

/// The hidden subcommand by which the program passes on the log of a postmaster whose parent is the guard.
pub(crate) const RELAY_SUBCOMMAND: &str = "relay-log";

/// The hidden subcommand that is the guard; crate `guard` calls it.
const GUARD_SUBCOMMAND: &str = "guard";

/// How long the log may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Patroni's exit code for a log that could not be written out.
const LOG_NOT_WRITTEN: u8 = 5;

/// Name and version, as `--version` prints them.
#[must_use]
pub fn version_text() -> String {
    format!(
        "tamada {} (Patroni {} compatible)",
        env!("CARGO_PKG_VERSION"),
        crate::PATRONI_VERSION
    )
}

/// The whole program of a hidden subcommand, by which the program calls itself; `None` when `subcommand` is none.
pub fn hidden(subcommand: &OsStr, args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    match subcommand.to_str()? {
        LAUNCH_SUBCOMMAND => Some(postgres::process::detach_main(args)),
        RELAY_SUBCOMMAND => Some(postgres::process::relay_main()),
        GUARD_SUBCOMMAND => Some(::guard::main(args)),
        _ => None,
    }
}

/// Runs the daemon with the configuration in `path`, a file or a folder, and in the environment.
#[must_use]
pub fn run(path: Option<PathBuf>) -> ExitCode {
    if notify::end_with_supervisor().is_err() {
        return ExitCode::FAILURE;
    }
    let log = match Log::start() {
        Ok(log) => log,
        Err(error) => return fail_without_log(&error),
    };
    descriptors::raise();
    let code = {
        let _guard = AbortOnPanic { log: log.clone() };
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                drop(runtime.spawn(memory::keep_small()));
                code(runtime.block_on(start::run(path, &log)))
            }
            Err(error) => {
                tracing::error!("could not start: {error}");
                ExitCode::FAILURE
            }
        }
    };
    if log.flush(FLUSH_TIMEOUT) {
        code
    } else {
        ExitCode::from(LOG_NOT_WRITTEN)
    }
}

fn code(ended: anyhow::Result<Exit>) -> ExitCode {
    match ended {
        Ok(Exit::Graceful) => ExitCode::SUCCESS,
        Ok(Exit::Failure | Exit::FailedBootstrap) => ExitCode::FAILURE,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                tracing::error!(critical = true, "{line}");
            }
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "there is no log to say it")]
fn fail_without_log(error: &anyhow::Error) -> ExitCode {
    eprintln!("could not start the log: {error:#}");
    ExitCode::FAILURE
}

/// A panic of the loop must not leave a process behind that looks alive: the init system starts another one.
struct AbortOnPanic {
    log: Log,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.flush(Duration::from_secs(1));
            std::process::abort();
        }
    }
}
