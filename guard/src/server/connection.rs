//! One connection of an agent: lines in, lines out, descriptors on the way.

use crate::protocol::MAX_LINE_BYTES;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send, sockopt::socket_peercred,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Room for the lines of every day.
const ROOM: usize = 16_384;

/// Descriptors that came and were not used yet.
#[derive(Debug, Default)]
pub(super) struct Descriptors([Option<OwnedFd>; 2]);

impl Descriptors {
    fn add(&mut self, fd: OwnedFd) {
        // More than standard output and error have no use; dropping closes them.
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = Some(fd);
        }
    }

    /// The two that came, in their order.
    pub(super) fn take(&mut self) -> [Option<OwnedFd>; 2] {
        std::mem::take(&mut self.0)
    }
}

pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// How much of the buffer has been read as lines.
    taken: usize,
    pub(super) descriptors: Descriptors,
    /// Grows with every connection.
    pub(super) number: u64,
}

impl Connection {
    /// # Errors
    /// When the other side is neither root nor a process of our own user.
    pub(super) fn new(stream: UnixStream, number: u64) -> io::Result<Self> {
        let peer = socket_peercred(&stream)?.uid;
        if !peer.is_root() && peer != rustix::process::geteuid() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(ROOM),
            taken: 0,
            descriptors: Descriptors::default(),
            number,
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// When the other side has gone, or sends a line without end.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        // A bound: a sender that never pauses does not keep us from the deadline.
        for _ in 0..16 {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let mut iov = [IoSliceMut::new(&mut chunk)];
            let count = match recvmsg(&self.stream, &mut iov, &mut control, flags) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    fds.for_each(|fd| self.descriptors.add(fd));
                }
            }
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.buffer.len() + count > MAX_LINE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
        Ok(())
    }

    /// The next whole line without its end, if one has come, and the descriptors that came up to now.
    pub(super) fn next_line(&mut self) -> Option<(&[u8], &mut Descriptors)> {
        let length = self.buffer[self.taken..].iter().position(|byte| *byte == b'\n')?;
        let start = self.taken;
        self.taken += length + 1;
        Some((&self.buffer[start..start + length], &mut self.descriptors))
    }

    /// Forgets the lines that were taken.
    pub(super) fn forget_taken(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > ROOM {
            self.buffer = Vec::with_capacity(ROOM);
        }
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// When the other side has gone, or has not read for so long that there is no room.
    pub(super) fn send(&self, text: &str) -> io::Result<()> {
        let sent = send(
            &self.stream,
            text.as_bytes(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        if sent < text.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(connection: &mut Connection) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some((line, _)) = connection.next_line() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
        connection.forget_taken();
        lines
    }

    #[test]
    fn lines_come_in_pieces_and_in_heaps() {
        let (mut agent, guard) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(guard, 1).unwrap();
        let mut feed = |text: &str| {
            agent.write_all(text.as_bytes()).unwrap();
            connection.receive().unwrap();
            lines(&mut connection)
        };
        assert_eq!(feed("lea"), [""; 0]);
        assert_eq!(feed("se id=1\nstatus\nhal"), ["lease id=1", "status"]);
        assert_eq!(feed("lo\n"), ["hallo"]);
        let long = "x".repeat(100_000);
        let mut came = feed(&format!("{long}\n"));
        while came.is_empty() {
            came = feed("");
        }
        assert_eq!(came, [long]);
        assert_eq!(connection.buffer.capacity(), ROOM);
        drop(agent);
        assert!(connection.receive().is_err());
    }

    #[test]
    fn a_line_without_end_and_a_reader_that_does_not_read_end_it() {
        let (agent, guard) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(guard, 1).unwrap();
        agent.set_nonblocking(true).unwrap();
        let chunk = vec![b'x'; 65_536];
        let mut sent = 0;
        let failed = loop {
            if let Ok(count) = (&agent).write(&chunk) {
                sent += count;
            }
            if let Err(error) = connection.receive() {
                break error;
            }
        };
        assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        assert!(sent > MAX_LINE_BYTES);
        assert!((0..100_000).any(|_| connection.send("event what=sang\n").is_err()));
    }
}
