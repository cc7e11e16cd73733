//! A foreign hand on ZooKeeper: a small client that knows nothing of ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) struct Hand {
    stream: TcpStream,
    xid: i32,
}

/// A node: what it holds and the session that it goes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) data: String,
    pub(crate) version: i32,
    pub(crate) owner: i64,
}

impl Hand {
    pub(crate) fn new(port: u16) -> Self {
        Self::with_session(port, 0, &[0; 16])
    }

    /// Waits until a server that has just started has its quorum.
    pub(crate) fn with_session(port: u16, id: i64, password: &[u8]) -> Self {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            match Self::connect(port, id, password) {
                Ok(hand) => return hand,
                Err(error) => assert!(Instant::now() < limit, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn connect(port: u16, id: i64, password: &[u8]) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut hand = Self { stream, xid: 0 };
        let mut body = Vec::new();
        body.extend(0_i32.to_be_bytes());
        body.extend(0_i64.to_be_bytes());
        body.extend(30_000_i32.to_be_bytes());
        body.extend(id.to_be_bytes());
        body.extend(16_i32.to_be_bytes());
        body.extend(password);
        body.push(0);
        hand.write(&body)?;
        hand.read()?;
        Ok(hand)
    }

    fn write(&mut self, body: &[u8]) -> std::io::Result<()> {
        let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(body);
        self.stream.write_all(&frame)
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn ask(&mut self, op: i32, body: &[u8]) -> (i32, Vec<u8>) {
        self.xid += 1;
        let mut request = self.xid.to_be_bytes().to_vec();
        request.extend(op.to_be_bytes());
        request.extend(body);
        self.write(&request).unwrap();
        let answer = self.read().unwrap();
        (
            i32::from_be_bytes(answer[12..16].try_into().unwrap()),
            answer[16..].to_vec(),
        )
    }

    pub(crate) fn get(&mut self, path: &str) -> Option<Found> {
        let mut body = text(path);
        body.push(0);
        let (error, answer) = self.ask(4, &body);
        if error != 0 {
            return None;
        }
        let length = usize::try_from(i32::from_be_bytes(answer[..4].try_into().unwrap())).unwrap_or(0);
        let stat = &answer[4 + length..];
        Some(Found {
            data: String::from_utf8(answer[4..4 + length].to_vec()).unwrap(),
            version: i32::from_be_bytes(stat[32..36].try_into().unwrap()),
            owner: i64::from_be_bytes(stat[44..52].try_into().unwrap()),
        })
    }

    pub(crate) fn children(&mut self, path: &str) -> Vec<String> {
        let mut body = text(path);
        body.push(0);
        let (error, answer) = self.ask(8, &body);
        if error != 0 {
            return Vec::new();
        }
        let mut rest = &answer[4..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let length = usize::try_from(i32::from_be_bytes(rest[..4].try_into().unwrap())).unwrap();
            names.push(String::from_utf8(rest[4..4 + length].to_vec()).unwrap());
            rest = &rest[4 + length..];
        }
        names
    }

    pub(crate) fn delete(&mut self, path: &str) {
        let mut body = text(path);
        body.extend((-1_i32).to_be_bytes());
        self.ask(2, &body);
    }

    pub(crate) fn delete_all(&mut self, path: &str) {
        for name in self.children(path) {
            self.delete_all(&format!("{path}/{name}"));
        }
        self.delete(path);
    }

    pub(crate) fn create(&mut self, path: &str, data: &str, acl: (i32, &str, &str)) -> i32 {
        let mut body = text(path);
        body.extend(text(data));
        body.extend(1_i32.to_be_bytes());
        body.extend(acl.0.to_be_bytes());
        body.extend(text(acl.1));
        body.extend(text(acl.2));
        body.extend(0_i32.to_be_bytes());
        self.ask(1, &body).0
    }

    pub(crate) fn set(&mut self, path: &str, data: &str) -> i32 {
        let mut body = text(path);
        body.extend(text(data));
        body.extend((-1_i32).to_be_bytes());
        self.ask(5, &body).0
    }

    /// Writes a node that is bound to no session, whatever it was bound to before.
    pub(crate) fn put(&mut self, path: &str, data: &str) {
        if self.get(path).is_some_and(|found| found.owner != 0) {
            self.delete(path);
        }
        if self.set(path, data) == 0 {
            return;
        }
        for (end, _) in path.char_indices().skip(1).filter(|(_, letter)| *letter == '/') {
            self.create(&path[..end], "", (31, "world", "anyone"));
        }
        assert_eq!(self.create(path, data, (31, "world", "anyone")), 0, "{path}");
    }

    pub(crate) fn set_acl(&mut self, path: &str, acl: (i32, &str, &str)) {
        let mut body = text(path);
        body.extend(1_i32.to_be_bytes());
        body.extend(acl.0.to_be_bytes());
        body.extend(text(acl.1));
        body.extend(text(acl.2));
        body.extend((-1_i32).to_be_bytes());
        assert_eq!(self.ask(7, &body).0, 0, "{path}");
    }

    /// Ends an agent's session, if a server answers.
    pub(crate) fn end_session(port: u16, lease: &str) {
        let (id, password) = session(lease);
        if let Ok(hand) = Self::connect(port, id, &password) {
            hand.close_session();
        }
    }

    /// The nodes of a session go at once.
    pub(crate) fn close_session(mut self) {
        let mut request = (self.xid + 1).to_be_bytes().to_vec();
        request.extend((-11_i32).to_be_bytes());
        let _ = self.write(&request).and_then(|()| self.read());
    }
}

/// The number and the password of an agent's session.
pub(crate) fn session(lease: &str) -> (i64, Vec<u8>) {
    let (id, password) = lease.split_once(':').unwrap();
    let byte = |at: usize| u8::from_str_radix(&password[at..at + 2], 16).unwrap();
    (id.parse().unwrap(), (0..16).map(|at| byte(at * 2)).collect())
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = i32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
