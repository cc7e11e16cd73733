//! The way to systemd's journal by its native protocol (systemd, "Native Journal Protocol").
//!
//! A sender waits no longer than [`PATIENCE`]; a record that the journal has not taken is the caller's again.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};

use super::entry::Entry;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The variable that says which stream is the journal's (systemd.exec(5)).
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

/// How long a record may wait for a journal that has too much to do.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a journal that let us wait in vain is left alone.
const PAUSE: Duration = Duration::from_secs(10);

/// The journal, as a target of records.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    address: SocketAddrUnix,
    identifier: String,
    avoided_until: Option<Instant>,
}

impl Journal {
    /// The journal, if that is where this process's standard error leads: its device and inode are those in
    /// `JOURNAL_STREAM` (systemd.exec(5)).
    #[must_use]
    pub fn behind_stderr() -> Option<Self> {
        let stream = std::env::var(STREAM_VARIABLE).ok()?;
        if !is_stream(&stream, io::stderr()) {
            return None;
        }
        let called_as = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&called_as).file_name().unwrap_or("tamada".as_ref());
        Self::at(SOCKET, &name.to_string_lossy()).ok()
    }

    /// A journal that listens, now or later, on the socket of this path, and is to know this program by `identifier`
    /// (`SYSLOG_IDENTIFIER`).
    ///
    /// # Errors
    /// The path is too long for a socket, or no socket can be had to send from.
    pub fn at(path: impl AsRef<Path>, identifier: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            address: SocketAddrUnix::new(path.as_ref())?,
            identifier: identifier.to_owned(),
            avoided_until: None,
        })
    }

    pub(super) fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Hands a record over.
    ///
    /// # Errors
    /// Nobody listens, or does not take the record in time, or has not done so lately.
    pub(super) fn send(&mut self, entry: &Entry) -> io::Result<()> {
        if self.avoided_until.is_some_and(|until| Instant::now() < until) {
            return Err(Errno::AGAIN.into());
        }
        let bytes = entry.as_bytes();
        let sent = match retry_on_intr(|| sendto(&self.socket, bytes, SendFlags::NOSIGNAL, &self.address)) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.send_as_file(bytes),
            sent => sent.map(drop),
        };
        let has_waited = sent == Err(Errno::AGAIN);
        self.avoided_until = has_waited.then(|| Instant::now() + PAUSE);
        Ok(sent?)
    }

    /// What is too large for a datagram goes as a file in memory, sealed.
    fn send_as_file(&self, bytes: &[u8]) -> rustix::io::Result<()> {
        let file = sealed_file(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let descriptors = [file.as_fd()];
        retry_on_intr(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg_addr(
                &self.socket,
                &self.address,
                &[],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        })
        .map(drop)
    }
}

fn sealed_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create("journal-entry", flags)?);
    file.write_all(bytes)?;
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Whether `device:inode` is this descriptor's.
fn is_stream(stream: &str, descriptor: impl AsFd) -> bool {
    let Some((device, inode)) = stream.split_once(':') else {
        return false;
    };
    fstat(descriptor).is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::fs::MetadataExt;

    #[test]
    fn only_the_stream_of_that_device_and_inode_is_the_journals() {
        let file = tempfile::tempfile().expect("temporary file");
        let metadata = file.metadata().expect("has metadata");
        let (device, inode) = (metadata.st_dev(), metadata.st_ino());
        assert!(is_stream(&format!("{device}:{inode}"), &file));
        for other in [
            format!("{device}:{}", inode + 1),
            format!("{}:{inode}", device + 1),
            inode.to_string(),
            "a:b".to_owned(),
            String::new(),
        ] {
            assert!(!is_stream(&other, &file), "{other}");
        }
    }
}
