//! Ports of this machine that are nobody else's while the test runs.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;

/// Below the range from which the kernel takes ports for outgoing connections: a server that is down for a moment
/// must find its port again.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// The locks on the ports, held until the process ends.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that nobody listens on and that no other test gets.
pub fn free() -> u16 {
    let user = rustix::process::geteuid().as_raw();
    let directory = std::env::temp_dir().join(format!("tamada-test-ports-{user}"));
    std::fs::create_dir_all(&directory).unwrap();
    let mut taken = TAKEN.lock().unwrap();
    let length = u32::from(RANGE.end - RANGE.start);
    let first = std::process::id().wrapping_mul(97);
    for i in 0..length {
        let offset = u16::try_from(first.wrapping_add(i) % length).unwrap();
        let port = RANGE.start + offset;
        let lock = File::create(directory.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.push(lock);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}
