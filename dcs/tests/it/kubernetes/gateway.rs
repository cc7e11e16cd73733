//! Plain HTTP before a server that speaks only TLS, as `kubectl proxy` does: so the proxy that makes trouble sees what it passes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::apiserver::ApiServer;

pub(crate) struct Gateway {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl Gateway {
    pub(crate) fn to(server: &ApiServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, is_over) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (known, ended) = (Arc::clone(&requests), Arc::clone(&is_over));
        let (tls, target) = (server.tls(), server.port);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (known, tls) = (Arc::clone(&known), Arc::clone(&tls));
                // A server that is down, or a client that went: the connection ends.
                thread::spawn(move || pass(&client, target, tls, &known));
            }
        });
        Self {
            port,
            requests,
            is_over,
        }
    }

    /// How many requests with this text in their first line have come.
    pub(crate) fn count(&self, text: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// One request, and its answer until that ends.
fn pass(
    client: &TcpStream,
    target: u16,
    tls: Arc<rustls::ClientConfig>,
    known: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    known.lock().unwrap().push(head.lines().next()?.to_owned());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(("127.0.0.1", target)).ok()?;
    let mut server = rustls::StreamOwned::new(rustls::ClientConnection::new(tls, name).ok()?, stream);
    write!(server, "{head}Connection: close\r\n\r\n").ok()?;
    server.write_all(&body).ok()?;
    let (mut out, mut buffer) = (client.try_clone().ok()?, [0; 16384]);
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        out.write_all(&buffer[..length]).ok()?;
    }
    client.shutdown(Shutdown::Both).ok()
}
