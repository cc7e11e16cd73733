//! Tells whoever has started us how far we are: the init system (systemd manual, `sd_notify`), or our own supervisor,
//! which speaks the same language. Nothing is ever waited for: a reader that does not read loses what we say.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// The variable that names the init system's socket.
pub(crate) const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// The variable that says how long the init system waits for a sign of life, in microseconds.
pub(crate) const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";

/// The variable that says whose signs of life are meant.
pub(crate) const WATCHDOG_PID_VARIABLE: &str = "WATCHDOG_PID";

/// The variable by which our supervisor names itself, by its process id. Its end of a socket is our standard input.
pub(crate) const SUPERVISOR_VARIABLE: &str = "TAMADA_SUPERVISOR";

/// The variable by which our supervisor says how the agent before us ended.
pub(crate) const BEFORE_VARIABLE: &str = "TAMADA_AGENT_BEFORE";

/// Start-up or a reload is complete.
pub(crate) const READY: &str = "READY=1";

/// The daemon is ending.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// A sign of life.
pub(crate) const ALIVE: &str = "WATCHDOG=1";

/// Start-up or a reload is complete.
pub(crate) fn ready() {
    tell(READY);
}

/// The configuration is being read again.
pub(crate) fn reloading() {
    let microseconds = super::clock::monotonic_microseconds();
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// The daemon is ending.
pub(crate) fn stopping() {
    tell(STOPPING);
}

/// Sends one message to the supervisor, else to the init system, if there is one.
pub(crate) fn tell(state: &str) {
    let sent = if is_supervised() {
        send(
            io::stdin(),
            state.as_bytes(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
        .map(drop)
        .map_err(io::Error::from)
    } else if let Some(name) = std::env::var_os(SOCKET_VARIABLE) {
        send_to(name.as_encoded_bytes(), state)
    } else {
        return;
    };
    if let Err(error) = sent {
        tracing::debug!("could not tell the init system {state:?}: {error}");
    }
}

/// Whether anybody listens to [`tell`].
pub(crate) fn has_listener() -> bool {
    is_supervised() || std::env::var_os(SOCKET_VARIABLE).is_some()
}

/// How long we may be silent; `None` when nobody waits for signs of life.
pub(crate) fn watchdog_time() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = match std::env::var_os(WATCHDOG_PID_VARIABLE) {
        Some(_) => number(WATCHDOG_PID_VARIABLE) == Some(u64::from(std::process::id())),
        None => true,
    };
    let time = number(WATCHDOG_VARIABLE).filter(|time| is_for_us && *time > 0)?;
    has_listener().then(|| Duration::from_micros(time))
}

/// Our parent is our supervisor. Not so for whoever only inherited the variable.
fn is_supervised() -> bool {
    supervisor().is_some_and(|pid| getppid() == Some(pid))
}

fn supervisor() -> Option<Pid> {
    Pid::from_raw(std::env::var(SUPERVISOR_VARIABLE).ok()?.parse().ok()?)
}

/// Lets the kernel end us with our supervisor: whoever starts another one gets another agent, and two of one member
/// would be in each other's way. Not under our own supervisor: does nothing.
///
/// # Errors
/// The supervisor has ended already, or the kernel refuses.
pub(crate) fn end_with_supervisor() -> io::Result<()> {
    if !is_supervised() {
        return Ok(());
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_supervised() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "the supervisor of process {} has ended",
            getpid()
        )))
    }
}

fn send_to(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', abstract_name)) => SocketAddr::from_abstract_name(abstract_name)?,
        _ => {
            use std::os::unix::ffi::OsStrExt;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let name = format!("@{}", path.display());
        let abstract_address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).expect("an address");
        for (socket, name) in [
            (UnixDatagram::bind(&path), path.as_os_str().as_encoded_bytes()),
            (UnixDatagram::bind_addr(&abstract_address), name.as_bytes()),
        ] {
            let socket = socket.expect("binds");
            send_to(name, "READY=1").expect("is sent");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("arrives");
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).expect("binds");
        let name = path.as_os_str().as_encoded_bytes();
        let refused = (0..100_000).find_map(|_| send_to(name, ALIVE).err());
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
