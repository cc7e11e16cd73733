//! Tells the init system how far we are (systemd manual, `sd_notify`).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the init system's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Start-up or a reload is complete.
pub(crate) fn ready() {
    send("READY=1");
}

/// The configuration is being read again.
pub(crate) fn reloading() {
    let microseconds = super::clock::monotonic_microseconds();
    send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// The daemon is ending.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(name) = std::env::var_os(SOCKET_VARIABLE) else {
        return;
    };
    if let Err(error) = send_to(name.as_encoded_bytes(), state) {
        tracing::debug!("could not tell the init system {state:?}: {error}");
    }
}

fn send_to(name: &[u8], state: &str) -> std::io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', abstract_name)) => SocketAddr::from_abstract_name(abstract_name)?,
        _ => {
            use std::os::unix::ffi::OsStrExt;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?
        }
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
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
}
