//! What Linux's watchdog drivers are asked by `ioctl` (`linux/watchdog.h`).
#![expect(
    unsafe_code,
    reason = "the kernel reads and writes memory whose type follows from the number of the request, which only we know"
)]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

/// `WDIOF_SETTIMEOUT`: the timeout can be set.
pub(super) const CAN_SET_TIMEOUT: u32 = 0x80;

/// `WDIOF_MAGICCLOSE`: closing ends it only after a `V`.
pub(super) const MAGIC_CLOSE: u32 = 0x100;

const GET_SUPPORT: Opcode = opcode::read::<Support>(b'W', 0);
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
const GET_TIMEOUT: Opcode = opcode::read::<i32>(b'W', 7);

/// `struct watchdog_info`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Support {
    pub(super) options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

impl Support {
    pub(super) fn identity(&self) -> String {
        let name = self.identity.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

/// `WDIOC_GETSUPPORT`
pub(super) fn support(device: BorrowedFd<'_>) -> io::Result<Support> {
    // SAFETY: the request writes a `struct watchdog_info`, which `Support` is; all its bytes are plain numbers.
    Ok(unsafe { ioctl(device, Getter::<GET_SUPPORT, Support>::new()) }?)
}

/// `WDIOC_SETTIMEOUT`
pub(super) fn set_timeout(device: BorrowedFd<'_>, mut seconds: i32) -> io::Result<()> {
    // SAFETY: the request reads and writes one `int`, which lives until it has returned.
    Ok(unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?)
}

/// `WDIOC_GETTIMEOUT`
pub(super) fn timeout(device: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the request writes one `int`.
    Ok(unsafe { ioctl(device, Getter::<GET_TIMEOUT, i32>::new()) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernels_header() {
        assert_eq!(size_of::<Support>(), 40);
        assert_eq!(
            [GET_SUPPORT, SET_TIMEOUT, GET_TIMEOUT],
            [0x8028_5700, 0xC004_5706, 0x8004_5707]
        );
    }
}
