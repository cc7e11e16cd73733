//! Starting a guard in the background.

use super::Options;
use crate::clock::timespec;
use crate::command_line::{LAUNCH, SUBCOMMAND};
use crate::place;
use crate::server::READY;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as net_connect, socket_with,
};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A connection to whoever listens at `socket`, if that can only be our guard.
pub(super) fn connect(socket: &Path) -> Option<UnixStream> {
    if !place::is_private(socket) {
        return None;
    }
    let stream = connect_now(socket)?;
    let peer = socket_peercred(&stream).ok()?.uid;
    (peer == rustix::process::geteuid()).then_some(stream)
}

/// Without waiting: a guard that is suspended accepts nothing, and whoever waits for room in its queue waits for it.
fn connect_now(socket: &Path) -> Option<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    net_connect(&fd, &SocketAddrUnix::new(socket).ok()?).ok()?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// Kills whoever listens at `socket` and waits for its end. Whether there was one.
pub(super) fn kill(socket: &Path, time: Duration) -> io::Result<bool> {
    let Some(stream) = connect(socket) else {
        return Ok(false);
    };
    // Whoever called listen(2): it cannot have been another process since then, as its end closes the socket.
    let pid = socket_peercred(&stream)?.pid;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    let ended = retry_on_intr(|| poll(&mut fds, Some(&timespec(time))))?;
    if ended == 0 {
        let text = format!("process {} does not end", pid.as_raw_nonzero());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    Ok(true)
}

/// Starts a guard, waits until it listens, and connects to it.
pub(super) fn launch(options: &Options) -> io::Result<UnixStream> {
    let data_dir = place::canonical(&options.data_dir)?;
    let sockets = place::candidates(options.runtime_dir.as_deref(), &data_dir)?;
    let socket = place::prepare(&sockets)?;
    let (pipe, guard_end) = io::pipe()?;
    let output = |options: &Options| match &options.log {
        Some(log) => log.try_clone().map(Stdio::from),
        None => Ok(Stdio::inherit()),
    };
    // The command line names the data directory only: whoever kills the agent by the name of its file spares the guard.
    let mut launcher = Command::new(&options.program)
        .arg0("tamada")
        .args([SUBCOMMAND, LAUNCH])
        .arg(&data_dir)
        .arg(socket)
        .arg(options.idle.as_millis().to_string())
        .current_dir("/")
        .stdin(guard_end)
        .stdout(output(options)?)
        .stderr(output(options)?)
        .spawn()?;
    let answer = read_line(pipe, options.timeout);
    // It ends as soon as it has started the guard.
    if answer.is_err() {
        let _ = launcher.kill();
    }
    launcher.wait()?;
    match answer? {
        answer if answer == READY => {}
        answer if answer.is_empty() => return Err(io::Error::other("it ended without a word")),
        answer => return Err(io::Error::other(answer)),
    }
    connect(socket).ok_or_else(|| io::Error::other(format!("it does not listen at {}", socket.display())))
}

fn read_line(mut pipe: io::PipeReader, time: Duration) -> io::Result<String> {
    let until = Instant::now() + time;
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    while !text.ends_with(b"\n") {
        // Interrupted it is by every child of the agent that ends.
        let ready = retry_on_intr(|| {
            let left = until.saturating_duration_since(Instant::now());
            poll(
                &mut [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)],
                Some(&timespec(left)),
            )
        })?;
        if ready == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it did not begin to listen in time",
            ));
        }
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}
