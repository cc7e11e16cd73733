//! One connection to one server, with the session that goes with it.
//!
//! Nothing is sent on it by itself, no ping either: a session lives on because somebody asks for something. It is never closed where it
//! may hold the lock, as that deletes the leader key at once; dropping the connection leaves the session to its timeout.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::ZookeeperConfig;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::auth;
use super::fault::Fault;
use super::transport::{self, Stream};
use super::wire::{
    Acl, Event, LARGEST_FRAME, LARGEST_VALUE, Malformed, Multi, Op, Reader, Stat, Writer, code, event, multi,
    multi_results, op, xid,
};

/// How many requests wait for their answers.
const MOST_PENDING: usize = 256;
/// How many events of watches wait to be heard.
const MOST_EVENTS: usize = 4096;
/// How long a server may take to accept what is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A session, as a server knows it again.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) password: [u8; 16],
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({:x})", self.id)
    }
}

/// One history of the store: what has been seen of it, in which no server may go back.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The newest transaction that an answer told of.
    pub(super) zxid: AtomicI64,
    /// Goes up when another store is accepted.
    pub(super) generation: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) data: String,
    pub(super) stat: Stat,
}

/// What was asked for, and the transaction up to which the server had come.
#[derive(Debug, Clone)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) zxid: i64,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) zxid: i64,
    pub(super) error: i32,
    pub(super) body: Vec<u8>,
}

struct Command {
    /// Where it is not one in the sequence.
    xid: Option<i32>,
    /// The operation's number and the body.
    request: Vec<u8>,
    reply: oneshot::Sender<Reply>,
}

/// What a connection is made with.
pub(super) struct Wanted<'a> {
    pub(super) config: &'a ZookeeperConfig,
    pub(super) server: &'a str,
    /// The session that is taken up; a new one otherwise.
    pub(super) session: Option<&'a Session>,
    /// How long the session is to live without a request.
    pub(super) timeout: Duration,
    pub(super) history: Arc<History>,
}

/// The connection.
pub(super) struct Connection {
    pub(super) session: Session,
    /// How long the session lives without a request, as the server has it.
    pub(super) timeout: Duration,
    pub(super) server: String,
    pub(super) history: Arc<History>,
    chroot: String,
    acls: Vec<Acl>,
    commands: mpsc::Sender<Command>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    /// Why it is over.
    end: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects, takes the session up or gets a new one, and authenticates. [`Fault::Expired`]: there is no such session any more.
    /// The caller limits the time.
    pub(super) async fn open(wanted: &Wanted<'_>) -> Result<Self, Fault> {
        let mut stream = transport::connect(wanted.config, wanted.server).await?;
        let (session, timeout) = handshake(&mut *stream, wanted).await?;
        let (commands, incoming) = mpsc::channel(64);
        let (told, events) = mpsc::channel(MOST_EVENTS);
        let end = Arc::new(Mutex::new(None));
        let (reader, writer) = split(stream);
        let wire = Wire {
            reader,
            writer,
            buffer: Vec::new(),
            pending: VecDeque::new(),
            next_xid: 1,
            history: wanted.history.clone(),
            events: told,
        };
        let task = tokio::spawn(wire.keep(incoming, end.clone()));
        let acls = wanted.config.set_acls.iter().map(|acl| Acl {
            rights: acl.rights,
            scheme: acl.scheme.clone(),
            id: acl.id.clone(),
        });
        let mut acls: Vec<_> = acls.collect();
        if acls.is_empty() {
            acls.push(Acl {
                rights: 31,
                scheme: "world".to_owned(),
                id: "anyone".to_owned(),
            });
        }
        let connection = Self {
            session,
            timeout,
            server: wanted.server.to_owned(),
            history: wanted.history.clone(),
            chroot: wanted.config.chroot.clone().unwrap_or_default(),
            acls,
            commands,
            events: Mutex::new(Some(events)),
            end,
            task,
        };
        auth::authenticate(&connection, &wanted.config.auth_data).await?;
        Ok(connection)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.task.is_finished() && lock(&self.end).is_none()
    }

    /// Nothing more is sent, and nobody waits any longer.
    pub(super) fn close(&self, why: &str) {
        lock(&self.end).get_or_insert_with(|| why.to_owned());
        self.task.abort();
    }

    /// What watches tell; once.
    pub(super) fn take_events(&self) -> Option<mpsc::Receiver<Event>> {
        lock(&self.events).take()
    }

    fn lost(&self) -> Fault {
        let why = lock(&self.end).clone();
        Fault::Lost(why.unwrap_or_else(|| "the connection was lost".to_owned()))
    }

    pub(super) async fn request(&self, kind: i32, body: Writer) -> Result<Reply, Fault> {
        self.send(None, kind, body).await
    }

    /// Credentials have a number of their own in place of one in the sequence.
    pub(super) async fn authenticate(&self, kind: i32, body: Writer) -> Result<Reply, Fault> {
        self.send(Some(xid::AUTH), kind, body).await
    }

    async fn send(&self, xid: Option<i32>, kind: i32, body: Writer) -> Result<Reply, Fault> {
        let mut request = Writer::default().int(kind).0;
        request.extend(body.0);
        if request.len() > LARGEST_VALUE + 2048 {
            return Err(Fault::Refused(format!(
                "{} bytes are more than ZooKeeper takes in one request (jute.maxbuffer, 1 MiB)",
                request.len()
            )));
        }
        let (reply, answered) = oneshot::channel();
        let command = Command { xid, request, reply };
        if self.commands.send(command).await.is_err() {
            let Fault::Lost(why) = self.lost() else {
                return Err(self.lost());
            };
            return Err(Fault::NotSent(why));
        }
        answered.await.map_err(|_| self.lost())
    }

    fn full(&self, path: &str) -> String {
        match (self.chroot.as_str(), path) {
            ("", path) => path.to_owned(),
            (chroot, "/") => chroot.to_owned(),
            (chroot, path) => format!("{chroot}{path}"),
        }
    }

    /// The path of an event without the chroot.
    pub(super) fn relative<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.chroot.as_str())
    }

    /// A node; with `watch` its next change is told.
    pub(super) async fn get(&self, path: &str, watch: bool) -> Result<Read<Option<Node>>, Fault> {
        let body = Writer::default().string(&self.full(path)).bool(watch);
        let reply = self.request(op::GET_DATA, body).await?;
        let read = |body: &[u8]| -> Result<Node, Malformed> {
            let mut reader = Reader(body);
            Ok(Node {
                data: reader.string()?,
                stat: reader.stat()?,
            })
        };
        found(&reply, read)
    }

    /// Whether a node is there; with `watch` its next change, or that it appears, is told.
    pub(super) async fn exists(&self, path: &str, watch: bool) -> Result<Read<bool>, Fault> {
        let body = Writer::default().string(&self.full(path)).bool(watch);
        let reply = self.request(op::EXISTS, body).await?;
        let read = found(&reply, |_| Ok(()))?;
        Ok(Read {
            value: read.value.is_some(),
            zxid: read.zxid,
        })
    }

    /// The names of a node's children.
    pub(super) async fn children(&self, path: &str, watch: bool) -> Result<Read<Option<Vec<String>>>, Fault> {
        let body = Writer::default().string(&self.full(path)).bool(watch);
        let reply = self.request(op::GET_CHILDREN, body).await?;
        found(&reply, |body| Reader(body).strings())
    }

    /// What is asked for after this on this connection shows all that was confirmed before.
    pub(super) async fn sync(&self, path: &str) -> Result<i64, Fault> {
        let reply = self
            .request(op::SYNC, Writer::default().string(&self.full(path)))
            .await?;
        match reply.error {
            code::OK | code::NO_NODE => Ok(reply.zxid),
            other => Err(Fault::of_code(other)),
        }
    }

    /// Tells of all changes at and below a path, until the connection ends. `false`: the server cannot (before ZooKeeper 3.6).
    pub(super) async fn watch_tree(&self, path: &str) -> Result<bool, Fault> {
        const RECURSIVE: i32 = 1;
        let body = Writer::default().string(&self.full(path)).int(RECURSIVE);
        match self.request(op::ADD_WATCH, body).await?.error {
            code::OK => Ok(true),
            found @ (code::NO_AUTH | code::SESSION_EXPIRED | code::SESSION_MOVED) => {
                Err(Fault::of_code(found))
            }
            _ => Ok(false),
        }
    }

    /// Carries out all of it or nothing. Parents of what is created are created where they are missing, before it.
    pub(super) async fn multi(&self, ops: &[Op]) -> Result<Multi, Fault> {
        let mut has_made_parents = false;
        loop {
            let body = multi(ops, |path| self.full(path), &self.acls);
            let reply = self.request(op::MULTI, body).await?;
            if reply.error != code::OK {
                return Err(Fault::of_code(reply.error));
            }
            let result = multi_results(reply.zxid, &reply.body)?;
            let Multi::Failed { index, code: found } = result else {
                return Ok(result);
            };
            match (found, ops.get(index)) {
                (code::NO_NODE, Some(Op::Create { path, .. })) if !has_made_parents => {
                    has_made_parents = true;
                    self.make_parents(path).await?;
                }
                (code::NO_NODE | code::BAD_VERSION | code::NODE_EXISTS | code::NOT_EMPTY, _) => {
                    return Ok(result);
                }
                (found, _) => return Err(Fault::of_code(found)),
            }
        }
    }

    async fn make_parents(&self, path: &str) -> Result<(), Fault> {
        let full = self.full(path);
        let ends = full.char_indices().skip(1).filter(|(_, letter)| *letter == '/');
        for (end, _) in ends {
            let create = [Op::create(&full[..end], "", false)];
            let body = multi(&create, str::to_owned, &self.acls);
            let reply = self.request(op::MULTI, body).await?;
            if reply.error != code::OK {
                return Err(Fault::of_code(reply.error));
            }
            match multi_results(reply.zxid, &reply.body)? {
                Multi::Done { .. }
                | Multi::Failed {
                    code: code::NODE_EXISTS,
                    ..
                } => {}
                // A directory above it may be none of ours: one that is missing shows at the next.
                Multi::Failed {
                    code: code::NO_AUTH, ..
                } if self.exists_in_full(&full[..end]).await? => {}
                Multi::Failed { code: found, .. } => return Err(Fault::of_code(found)),
            }
        }
        Ok(())
    }

    async fn exists_in_full(&self, path: &str) -> Result<bool, Fault> {
        let reply = self
            .request(op::EXISTS, Writer::default().string(path).bool(false))
            .await?;
        Ok(found(&reply, |_| Ok(()))?.value.is_some())
    }

    /// Deletes a node with everything below it, or only what is below it.
    pub(super) async fn delete_tree(&self, path: &str, with_itself: bool) -> Result<(), Fault> {
        // Others may write meanwhile; not for ever.
        for _ in 0..16 {
            let mut paths = self.tree(path).await?;
            if !with_itself {
                paths.retain(|found| found != path);
            }
            if paths.is_empty() {
                return Ok(());
            }
            // Children come after their parents in the list.
            let deletions = paths.iter().rev().map(|path| async move {
                let deletion = [Op::delete(path, -1)];
                self.multi(&deletion).await
            });
            for deleted in join_all(deletions).await {
                deleted?;
            }
        }
        Err(Fault::Later(code::NOT_EMPTY))
    }

    /// A node and all below it, parents first.
    pub(super) async fn tree(&self, path: &str) -> Result<Vec<String>, Fault> {
        const MOST_NODES: usize = 100_000;
        let mut paths = Vec::new();
        let mut level = vec![path.to_owned()];
        while !level.is_empty() {
            let listed = join_all(level.iter().map(|path| self.children(path, false))).await;
            let mut below = Vec::new();
            for (path, children) in level.into_iter().zip(listed) {
                let Some(children) = children?.value else { continue };
                let prefix = path.trim_end_matches('/').to_owned();
                below.extend(children.iter().map(|name| format!("{prefix}/{name}")));
                paths.push(path);
            }
            if paths.len() + below.len() > MOST_NODES {
                return Err(Fault::Refused(format!(
                    "there are more than {MOST_NODES} nodes below {path}"
                )));
            }
            level = below;
        }
        Ok(paths)
    }

    /// Ends the session: for one that holds nothing.
    pub(super) async fn close_session(&self) {
        let _ = self.request(op::CLOSE_SESSION, Writer::default()).await;
    }
}

fn found<T>(reply: &Reply, read: impl Fn(&[u8]) -> Result<T, Malformed>) -> Result<Read<Option<T>>, Fault> {
    let value = match reply.error {
        code::OK => Some(read(&reply.body)?),
        code::NO_NODE => None,
        other => return Err(Fault::of_code(other)),
    };
    Ok(Read {
        value,
        zxid: reply.zxid,
    })
}

/// The first exchange: which session it is, and how long it lives.
async fn handshake(stream: &mut dyn Stream, wanted: &Wanted<'_>) -> Result<(Session, Duration), Fault> {
    let asked = i32::try_from(wanted.timeout.as_millis()).unwrap_or(i32::MAX);
    let (id, password) = wanted
        .session
        .map_or((0, [0; 16]), |session| (session.id, session.password));
    let body = Writer::default()
        .int(0)
        .long(wanted.history.zxid.load(Ordering::Relaxed))
        .int(asked)
        .long(id)
        .buffer(&password)
        .bool(false);
    let length = i32::try_from(body.0.len()).unwrap_or_default();
    let mut frame = Writer::default().int(length).0;
    frame.extend(body.0);
    let turned_away = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Fault::TurnedAway,
        _ => Fault::NotSent(error.to_string()),
    };
    stream.write_all(&frame).await.map_err(turned_away)?;
    stream.flush().await.map_err(turned_away)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(turned_away)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > 1024 {
        return Err(Fault::NotSent("it is no ZooKeeper server".to_owned()));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.map_err(turned_away)?;
    let mut reader = Reader(&answer);
    let mut read = || -> Result<_, Malformed> {
        let (_protocol, timeout) = (reader.int()?, reader.int()?);
        let id = reader.long()?;
        Ok((timeout, id, reader.buffer()?))
    };
    let (timeout, id, given) = read().map_err(|_| Fault::NotSent("it is no ZooKeeper server".to_owned()))?;
    let timeout = u64::try_from(timeout).unwrap_or_default();
    let (Ok(password), true) = (<[u8; 16]>::try_from(given), timeout > 0) else {
        return Err(Fault::Expired);
    };
    Ok((Session { id, password }, Duration::from_millis(timeout)))
}

/// The connection's own task: sends what is asked for and hands the answers on.
struct Wire {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    /// What has come of a frame that is not whole.
    buffer: Vec<u8>,
    /// Answers come in the order of the requests.
    pending: VecDeque<(i32, oneshot::Sender<Reply>)>,
    next_xid: i32,
    history: Arc<History>,
    events: mpsc::Sender<Event>,
}

impl Wire {
    async fn keep(mut self, mut incoming: mpsc::Receiver<Command>, end: Arc<Mutex<Option<String>>>) {
        let why = loop {
            tokio::select! {
                command = incoming.recv(), if self.pending.len() < MOST_PENDING => {
                    let Some(command) = command else { return };
                    if let Err(why) = self.send(command).await {
                        break why;
                    }
                }
                read = self.reader.read_buf(&mut self.buffer) => {
                    match read {
                        Ok(0) => break "the server closed the connection".to_owned(),
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    }
                    if let Err(why) = self.take_frames() {
                        break why;
                    }
                }
            }
        };
        // Set before those who wait learn of the end.
        lock(&end).get_or_insert(why);
    }

    async fn send(&mut self, command: Command) -> Result<(), String> {
        let xid = command.xid.unwrap_or(self.next_xid);
        if command.xid.is_none() {
            self.next_xid = self.next_xid.checked_add(1).unwrap_or(1);
        }
        let length = i32::try_from(command.request.len() + 4).map_err(|error| error.to_string())?;
        let mut frame = Writer::default().int(length).int(xid).0;
        frame.extend(command.request);
        self.pending.push_back((xid, command.reply));
        let sent = timeout(SEND_TIMEOUT, async {
            self.writer.write_all(&frame).await?;
            self.writer.flush().await
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the server takes no more requests".to_owned()),
        }
    }

    fn take_frames(&mut self) -> Result<(), String> {
        let mut start = 0;
        while let Some((head, rest)) = self.buffer[start..].split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(usize::MAX);
            if length > LARGEST_FRAME {
                return Err(format!(
                    "an answer of {length} bytes is larger than {LARGEST_FRAME}"
                ));
            }
            let Some(frame) = rest.get(..length) else { break };
            let frame = frame.to_vec();
            start += 4 + length;
            self.take_frame(&frame)?;
        }
        self.buffer.drain(..start);
        if self.buffer.is_empty() && self.buffer.capacity() > 64 * 1024 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &[u8]) -> Result<(), String> {
        let mut reader = Reader(frame);
        let mut head = || -> Result<_, Malformed> { Ok((reader.int()?, reader.long()?, reader.int()?)) };
        let (xid, zxid, error) = head().map_err(|malformed| malformed.to_string())?;
        if xid == self::xid::NOTIFICATION {
            let told = event(reader.0).map_err(|malformed| malformed.to_string())?;
            // Where nobody listens nothing is watched.
            return match self.events.try_send(told) {
                Err(mpsc::error::TrySendError::Full(_)) => Err("too many changes at a time".to_owned()),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            };
        }
        self.history.zxid.fetch_max(zxid, Ordering::Relaxed);
        // What is refused for lack of SASL is told under the number of the request as well.
        match self.pending.pop_front() {
            Some((expected, reply)) if expected == xid => {
                let body = reader.0.to_vec();
                // Who asked may have given up.
                let _ = reply.send(Reply { zxid, error, body });
                Ok(())
            }
            _ => Err("an answer came that nobody has asked for".to_owned()),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
