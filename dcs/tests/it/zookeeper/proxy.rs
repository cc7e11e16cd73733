//! A TCP proxy before a server, which delays, swallows, cuts and changes what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct State {
    is_shut: AtomicBool,
    /// Requests pass, answers do not: half-open.
    swallows_answers: AtomicBool,
    /// Each direction.
    delay: Mutex<Duration>,
    /// The connection is cut in the place of this many answers to writes.
    lost_answers: AtomicUsize,
    /// Servers before 3.6 do not know the watch of a tree.
    is_old: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

const MULTI: i32 = 14;
const ADD_WATCH: i32 = 106;
const UNKNOWN: i32 = 4711;

impl Proxy {
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { return };
                if shared.is_shut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                pass(&shared, client, server);
            }
        });
        Self { port, state }
    }

    /// All connections are cut, and no new one is made; or they are made again.
    pub(crate) fn shut(&self, is_shut: bool) {
        self.state.is_shut.store(is_shut, Ordering::SeqCst);
        if is_shut {
            self.cut();
        }
    }

    pub(crate) fn cut(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn swallow_answers(&self, swallows: bool) {
        self.state.swallows_answers.store(swallows, Ordering::SeqCst);
        if !swallows {
            self.cut();
        }
    }

    pub(crate) fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    pub(crate) fn lose_answers(&self, count: usize) {
        self.state.lost_answers.store(count, Ordering::SeqCst);
    }

    pub(crate) fn lost_answers_left(&self) -> usize {
        self.state.lost_answers.load(Ordering::SeqCst)
    }

    pub(crate) fn be_old(&self) {
        self.state.is_old.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(state: &Arc<State>, client: TcpStream, server: TcpStream) {
    let copies = [client.try_clone().unwrap(), server.try_clone().unwrap()];
    state.streams.lock().unwrap().extend(copies);
    let is_losing = Arc::new(AtomicBool::new(false));
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (requests, answers) = (state.clone(), state.clone());
    let losing = is_losing.clone();
    std::thread::spawn(move || pass_requests(&requests, &losing, from, to));
    std::thread::spawn(move || pass_answers(&answers, &is_losing, server, client));
}

fn close(a: &TcpStream, b: &TcpStream) {
    let _ = a.shutdown(Shutdown::Both);
    let _ = b.shutdown(Shutdown::Both);
}

/// Frame by frame, as the operation's number stands in each; the first one has none.
fn pass_requests(state: &State, is_losing: &AtomicBool, mut from: TcpStream, mut to: TcpStream) {
    let mut is_first = true;
    loop {
        let mut length = [0; 4];
        if from.read_exact(&mut length).is_err() {
            break;
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        if from.read_exact(&mut frame).is_err() {
            break;
        }
        let op = frame
            .get(4..8)
            .map(|op| i32::from_be_bytes(op.try_into().unwrap()));
        if !is_first && op == Some(MULTI) {
            let lost = state
                .lost_answers
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            is_losing.store(lost.is_ok(), Ordering::SeqCst);
        }
        if !is_first && op == Some(ADD_WATCH) && state.is_old.load(Ordering::SeqCst) {
            frame[4..8].copy_from_slice(&UNKNOWN.to_be_bytes());
        }
        is_first = false;
        std::thread::sleep(*state.delay.lock().unwrap());
        if to.write_all(&[&length[..], &frame].concat()).is_err() {
            break;
        }
    }
    close(&from, &to);
}

fn pass_answers(state: &State, is_losing: &AtomicBool, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if is_losing.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(*state.delay.lock().unwrap());
        if !state.swallows_answers.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    close(&from, &to);
}
