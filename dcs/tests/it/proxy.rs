//! A TCP proxy before a store's server, which loses answers, delays, falls silent, or hangs up.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Plan {
    /// Answers to requests that contain this are lost, so many times.
    lost: Option<(String, usize)>,
    delay: Duration,
    /// Nothing passes in either direction, and no connection is closed: a half-open one.
    is_silent: bool,
    is_closed: bool,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (plan, is_over) = (Arc::<Mutex<Plan>>::default(), Arc::<AtomicBool>::default());
        let (known, ended) = (Arc::clone(&plan), Arc::clone(&is_over));
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let address = SocketAddr::from(([127, 0, 0, 1], server));
                let is_closed = known.lock().unwrap().is_closed;
                if let (Ok(client), false) = (client, is_closed)
                    && let Ok(server) = TcpStream::connect(address)
                {
                    pass(&client, &server, &known, &ended);
                }
            }
        });
        Self { port, plan, is_over }
    }

    /// The answers to the next `count` requests that contain `pattern` are lost, after they were carried out.
    pub(crate) fn lose(&self, pattern: &str, count: usize) {
        self.plan.lock().unwrap().lost = Some((pattern.to_owned(), count));
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.plan.lock().unwrap().delay = delay;
    }

    pub(crate) fn silence(&self, is_silent: bool) {
        self.plan.lock().unwrap().is_silent = is_silent;
    }

    pub(crate) fn close(&self, is_closed: bool) {
        self.plan.lock().unwrap().is_closed = is_closed;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn pass(client: &TcpStream, server: &TcpStream, plan: &Arc<Mutex<Plan>>, is_over: &Arc<AtomicBool>) {
    let is_mute = Arc::<AtomicBool>::default();
    for is_request in [true, false] {
        let (from, to) = if is_request {
            (client, server)
        } else {
            (server, client)
        };
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (plan, is_over, is_mute) = (Arc::clone(plan), Arc::clone(is_over), Arc::clone(&is_mute));
        from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !is_over.load(Ordering::Relaxed) && !plan.lock().unwrap().is_closed {
                let length = match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error)
                        if matches!(
                            error.kind(),
                            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                        ) =>
                    {
                        continue;
                    }
                    Err(_) => break,
                };
                let delay = plan.lock().unwrap().delay;
                if !delay.is_zero() {
                    thread::sleep(delay);
                }
                while plan.lock().unwrap().is_silent && !is_over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
                if is_request {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let mut plan = plan.lock().unwrap();
                    if let Some((pattern, count)) = &mut plan.lost
                        && *count > 0
                        && text.contains(pattern.as_str())
                    {
                        *count -= 1;
                        is_mute.store(true, Ordering::Relaxed);
                    }
                } else if is_mute.load(Ordering::Relaxed) {
                    continue;
                }
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}
