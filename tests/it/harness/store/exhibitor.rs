//! ZooKeeper behind an Exhibitor, which is a server of our own that says one thing.

use super::{Store, Zookeeper};
use crate::harness::directory::Directory;
use crate::harness::ports;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

pub struct Exhibitor {
    zookeeper: Zookeeper,
    port: u16,
}

impl Exhibitor {
    pub fn new() -> Self {
        let (zookeeper, port) = (Zookeeper::new(), ports::free());
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let list = format!(r#"{{"servers":["127.0.0.1"],"port":{}}}"#, zookeeper.port());
        // It ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &list);
            }
        });
        Self { zookeeper, port }
    }
}

fn answer(mut stream: TcpStream, list: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match request.starts_with("GET /exhibitor/v1/cluster/list ") {
        true => ("200 OK", list),
        false => ("404 Not Found", ""),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

impl Store for Exhibitor {
    fn start(&mut self, directory: &Directory) {
        self.zookeeper.start(directory);
    }

    fn stop(&mut self) {
        self.zookeeper.stop();
    }

    fn freeze(&self) {
        self.zookeeper.freeze();
    }

    fn thaw(&self) {
        self.zookeeper.thaw();
    }

    fn section(&self) -> String {
        format!("exhibitor:\n  hosts: [127.0.0.1]\n  port: {}\n", self.port)
    }
}
