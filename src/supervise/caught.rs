//! The signals that come to the supervisor.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

/// Those that are heard, with what they ask for. A child's end only wakes us.
const HEARD: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

pub(super) struct Caught {
    came: [(Signal, Arc<AtomicBool>); 4],
    bell: UnixStream,
}

/// What was asked of us by signals.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// End: by SIGTERM or SIGINT, whichever came.
    pub(super) stop: Option<Signal>,
    /// SIGHUP.
    pub(super) reload: bool,
}

impl Caught {
    /// Begins to listen; from here on these signals do not end us.
    pub(super) fn begin() -> io::Result<Self> {
        let (bell, ringer) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let came = HEARD.map(|signal| (signal, Arc::new(AtomicBool::new(false))));
        for (signal, flag) in &came {
            // The flag first, so that whoever hears the bell finds it.
            signal_hook::flag::register(signal.as_raw(), Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal.as_raw(), ringer.try_clone()?)?;
        }
        Ok(Self { came, bell })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What has come since the last time.
    pub(super) fn take(&mut self) -> Asked {
        let mut rings = [0; 64];
        while matches!(self.bell.read(&mut rings), Ok(count) if count == rings.len()) {}
        let mut asked = Asked::default();
        for (signal, flag) in &self.came {
            if !flag.swap(false, Ordering::SeqCst) {
                continue;
            }
            match *signal {
                Signal::HUP => asked.reload = true,
                Signal::CHILD => {}
                stop => asked.stop = Some(stop),
            }
        }
        asked
    }
}
