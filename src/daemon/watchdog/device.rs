//! A watchdog device that is open, and counts: Linux's (kernel documentation, "The Linux Watchdog driver API"), or a FIFO
//! in its place for tests.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open};

use super::ioctl;

/// How a device is spoken to (`watchdog.driver`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    Linux,
    /// Plain text: `Ctimeout=N` and a newline, `1` to ping, `V` before closing.
    Testing,
}

impl Driver {
    pub(super) fn named(name: &str) -> Self {
        match name {
            "testing" => Self::Testing,
            _ => Self::Linux,
        }
    }
}

/// Whether we may write to the device. Does not open it: that would arm it.
pub(super) fn can_be_written(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// One that is open. Dropped without [`Device::disable`] it goes on counting, as it does when the process dies.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    driver: Driver,
    /// The device's name for itself.
    identity: String,
    options: u32,
}

impl Device {
    /// Opens, and thereby arms it.
    pub(super) fn open(path: &Path, driver: Driver) -> io::Result<Self> {
        // A FIFO without a reader shall not be waited for.
        let flags = match driver {
            Driver::Linux => OFlags::WRONLY | OFlags::CLOEXEC,
            Driver::Testing => OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        };
        Ok(Self {
            file: open(path, flags, Mode::empty())?.into(),
            driver,
            identity: "Testing watchdog".to_owned(),
            options: ioctl::CAN_SET_TIMEOUT | ioctl::MAGIC_CLOSE,
        })
    }

    pub(super) fn identity(&self) -> String {
        self.identity.clone()
    }

    /// Sets the timeout as near to this as it can; the one that it has then.
    pub(super) fn set_timeout(&mut self, wanted: Duration) -> io::Result<Duration> {
        let seconds = wanted.as_secs();
        if self.driver == Driver::Testing {
            self.file.write_all(format!("Ctimeout={seconds}\n").as_bytes())?;
            return Ok(Duration::from_secs(seconds));
        }
        let support = ioctl::support(self.file.as_fd()).map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOTTY.raw_os_error() => {
                io::Error::new(io::ErrorKind::InvalidInput, "it is not a watchdog")
            }
            _ => error,
        })?;
        self.identity = support.identity();
        self.options = support.options;
        if self.options & ioctl::CAN_SET_TIMEOUT != 0 {
            // What it makes of it is asked for below.
            ioctl::set_timeout(self.file.as_fd(), i32::try_from(seconds).unwrap_or(i32::MAX))?;
        }
        let seconds = ioctl::timeout(self.file.as_fd())?;
        Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    }

    pub(super) fn ping(&mut self) -> io::Result<()> {
        self.file.write_all(b"1")
    }

    /// Ends it in order: nothing is counted any more.
    pub(super) fn disable(mut self) -> io::Result<()> {
        if self.options & ioctl::MAGIC_CLOSE != 0 {
            return self.file.write_all(b"V");
        }
        // Closing ends it, unless the driver was loaded with `nowayout`: then there is the whole time to be stopped in.
        self.ping()
    }
}
