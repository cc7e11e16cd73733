//! `tamada guard VERB ...`: the ways in which the program calls itself. Nothing here is for a user's hand.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// The program calls itself with this before the verb; the caller of [`main`] has taken it away.
pub(crate) const SUBCOMMAND: &str = "guard";
/// Starts a guard in the background.
pub(crate) const LAUNCH: &str = "launch";
/// Is the guard.
pub(crate) const SERVE: &str = "serve";
/// Becomes the postmaster.
pub(crate) const EXEC: &str = "exec";

/// The program behind the hidden subcommand `guard`. `args`: what follows it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let verb = args.next();
    match verb.as_ref().and_then(|verb| verb.to_str()) {
        Some(LAUNCH) => crate::server::launch_main(args),
        Some(SERVE) => crate::server::main(args),
        Some(EXEC) => crate::exec::main(args),
        _ => {
            let _ = writeln!(
                std::io::stderr(),
                "the guard is started by the agent; it has no commands of its own"
            );
            ExitCode::from(2)
        }
    }
}
