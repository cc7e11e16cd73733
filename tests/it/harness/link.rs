//! A network link between a member and a server, which can be cut: nothing is refused then, nothing arrives.

use super::ports;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Listens at an address of its own, and carries everything to `target` and back.
pub struct Link {
    /// `127.0.0.1:PORT`
    pub address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: Mutex<bool>,
    changed: Condvar,
    has_ended: AtomicBool,
}

impl State {
    /// Waits while the link is cut.
    fn wait(&self) {
        let is_cut = self.is_cut.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(is_cut, |is_cut| *is_cut);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Link {
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", ports::free())).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.wait();
                if shared.has_ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(&target) {
                    carry(&client, &server, &shared);
                    carry(&server, &client, &shared);
                }
            }
        });
        Self { address, state }
    }

    /// From now on every byte waits, in both directions, and so does every new connection.
    pub fn cut(&self) {
        *self.state.is_cut.lock().unwrap() = true;
    }

    /// What waited arrives.
    pub fn mend(&self) {
        *self.state.is_cut.lock().unwrap() = false;
        self.state.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::SeqCst);
        self.mend();
        let _ = TcpStream::connect(&self.address);
    }
}

fn carry(from: &TcpStream, to: &TcpStream, state: &Arc<State>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else {
        return;
    };
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    state.wait();
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        state.wait();
        let _ = to.shutdown(Shutdown::Write);
    });
}
