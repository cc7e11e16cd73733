//! The short-lived process that becomes the postmaster: it asks the kernel for the parent-death signal, then executes
//! the server in its own place, so that the pid stays and the guard is the parent.

use crate::proc_fs;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setpriority_process, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// `args`: the guard's pid, the nice value for the server, the server program, its arguments. Standard input is a pipe
/// to the guard: it takes the error, and is closed by the kernel when the server begins. Ends only when that fails.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // A copy that does not outlive the execution, unlike standard input itself.
    let Ok(pipe) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let error = become_server(args);
    let _ = write!(File::from(pipe), "{error}");
    ExitCode::FAILURE
}

/// Returns only the error.
fn become_server(args: impl IntoIterator<Item = OsString>) -> io::Error {
    let mut args = args.into_iter();
    let mut number = || -> Option<i32> { args.next()?.to_str()?.parse().ok() };
    let (Some(guard), Some(nice)) = (number(), number()) else {
        return io::Error::new(
            io::ErrorKind::InvalidInput,
            "guard's pid and nice value are missing",
        );
    };
    let Some(program) = args.next() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no server program");
    };
    if let Err(error) = prepare(guard, nice) {
        return error;
    }
    let error = Command::new(&program).args(args).stdin(Stdio::null()).exec();
    io::Error::new(
        error.kind(),
        format!("cannot execute {}: {error}", program.to_string_lossy()),
    )
}

fn prepare(guard: i32, nice: i32) -> io::Result<()> {
    // A session of its own, as pg_ctl gives it, so that a terminal's signals do not reach it.
    setsid()?;
    // The guard's own priority is not the server's.
    let _ = setpriority_process(None, nice);
    // Stays over the execution. PostgreSQL takes it as the command for an immediate shutdown.
    set_parent_process_death_signal(Some(Signal::QUIT))?;
    // The guard may have died before: then the signal will never come.
    if getppid() != proc_fs::pid(guard) {
        return Err(io::Error::other("the guard has ended meanwhile"));
    }
    Ok(())
}
