//! The wire format: big-endian integers, and strings and buffers with their length before them (-1: null).

/// A node's data may not be larger: `jute.maxbuffer` of the servers, less the rest of a request.
pub(super) const LARGEST_VALUE: usize = 1024 * 1024 - 4096;
/// The largest answer that is read. Servers send what they have stored, whatever their limit for requests.
pub(super) const LARGEST_FRAME: usize = 4 * 1024 * 1024;

/// The numbers of the requests.
pub(super) mod op {
    pub(in super::super) const CREATE: i32 = 1;
    pub(in super::super) const DELETE: i32 = 2;
    pub(in super::super) const EXISTS: i32 = 3;
    pub(in super::super) const GET_DATA: i32 = 4;
    pub(in super::super) const SET_DATA: i32 = 5;
    pub(in super::super) const GET_CHILDREN: i32 = 8;
    pub(in super::super) const SYNC: i32 = 9;
    pub(in super::super) const CHECK: i32 = 13;
    pub(in super::super) const MULTI: i32 = 14;
    pub(in super::super) const AUTH: i32 = 100;
    pub(in super::super) const SASL: i32 = 102;
    pub(in super::super) const ADD_WATCH: i32 = 106;
    pub(in super::super) const CLOSE_SESSION: i32 = -11;
}

/// The numbers of the errors.
pub(super) mod code {
    pub(in super::super) const OK: i32 = 0;
    pub(in super::super) const CONNECTION_LOSS: i32 = -4;
    pub(in super::super) const OPERATION_TIMEOUT: i32 = -7;
    pub(in super::super) const NO_NODE: i32 = -101;
    pub(in super::super) const NO_AUTH: i32 = -102;
    pub(in super::super) const BAD_VERSION: i32 = -103;
    pub(in super::super) const NODE_EXISTS: i32 = -110;
    pub(in super::super) const NOT_EMPTY: i32 = -111;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
    pub(in super::super) const AUTH_FAILED: i32 = -115;
    pub(in super::super) const SESSION_MOVED: i32 = -118;
    pub(in super::super) const SASL_REQUIRED: i32 = -124;
    pub(in super::super) const THROTTLED: i32 = -127;
    const NAMES: [(i32, &str); 15] = [
        (-2, "runtime inconsistency"),
        (-5, "marshalling error"),
        (-6, "the server does not know this request"),
        (-8, "bad arguments"),
        (CONNECTION_LOSS, "connection loss"),
        (OPERATION_TIMEOUT, "operation timeout"),
        (NO_NODE, "no node"),
        (NO_AUTH, "permission denied (NoAuth)"),
        (BAD_VERSION, "bad version"),
        (-108, "an ephemeral node has no children"),
        (NODE_EXISTS, "node exists"),
        (NOT_EMPTY, "not empty"),
        (-114, "invalid ACL"),
        (AUTH_FAILED, "authentication failed"),
        (-125, "quota exceeded"),
    ];

    /// The error in words.
    pub(in super::super) fn words(code: i32) -> String {
        let name = NAMES.iter().find(|(known, _)| *known == code);
        name.map_or_else(|| format!("error {code}"), |(_, name)| (*name).to_owned())
    }
}

/// The numbers that stand for a request where no answer belongs to one.
pub(super) mod xid {
    pub(in super::super) const NOTIFICATION: i32 = -1;
    pub(in super::super) const AUTH: i32 = -4;
}

/// What is sent.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    pub(super) fn buffer(mut self, value: &[u8]) -> Self {
        self = self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.0.extend(value);
        self
    }

    pub(super) fn string(self, value: &str) -> Self {
        self.buffer(value.as_bytes())
    }
}

/// An answer is shorter than it says, or no answer of ZooKeeper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is malformed")]
pub(super) struct Malformed;

/// What has come.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.take().map(i64::from_be_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, Malformed> {
        self.take::<1>().map(|[byte]| byte != 0)
    }

    /// Null is empty.
    pub(super) fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        let Ok(length) = usize::try_from(self.int()?) else {
            return Ok(&[]);
        };
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn string(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(self.buffer()?).into_owned())
    }

    pub(super) fn strings(&mut self) -> Result<Vec<String>, Malformed> {
        let count = usize::try_from(self.int()?).unwrap_or_default();
        (0..count).map(|_| self.string()).collect()
    }

    pub(super) fn stat(&mut self) -> Result<Stat, Malformed> {
        let (_czxid, mzxid, _ctime, _mtime) = (self.long()?, self.long()?, self.long()?, self.long()?);
        let (version, _cversion, _aversion) = (self.int()?, self.int()?, self.int()?);
        let ephemeral_owner = self.long()?;
        let (_length, _children, _pzxid) = (self.int()?, self.int()?, self.long()?);
        Ok(Stat {
            mzxid,
            version,
            ephemeral_owner,
        })
    }
}

/// What is used of a node's `Stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// The transaction that wrote it last: orders all writes of all nodes.
    pub(super) mzxid: i64,
    /// How often it was written since it was created: what conditions compare.
    pub(super) version: i32,
    /// The session that it goes with; 0: it stays.
    pub(super) ephemeral_owner: i64,
}

/// An entry of an access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) rights: i32,
    pub(super) scheme: String,
    pub(super) id: String,
}

/// One write of a `multi`, which is carried out as a whole or not at all. Version -1: whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Create {
        path: String,
        data: String,
        is_ephemeral: bool,
    },
    Delete {
        path: String,
        version: i32,
    },
    Set {
        path: String,
        data: String,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
}

impl Op {
    pub(super) fn create(path: &str, data: &str, is_ephemeral: bool) -> Self {
        Self::Create {
            path: path.to_owned(),
            data: data.to_owned(),
            is_ephemeral,
        }
    }

    pub(super) fn delete(path: &str, version: i32) -> Self {
        Self::Delete {
            path: path.to_owned(),
            version,
        }
    }

    pub(super) fn set(path: &str, data: &str, version: i32) -> Self {
        Self::Set {
            path: path.to_owned(),
            data: data.to_owned(),
            version,
        }
    }

    pub(super) fn check(path: &str, version: i32) -> Self {
        Self::Check {
            path: path.to_owned(),
            version,
        }
    }

    pub(super) fn path(&self) -> &str {
        match self {
            Self::Create { path, .. }
            | Self::Delete { path, .. }
            | Self::Set { path, .. }
            | Self::Check { path, .. } => path,
        }
    }
}

/// The body of a `multi`.
pub(super) fn multi(ops: &[Op], full: impl Fn(&str) -> String, acls: &[Acl]) -> Writer {
    let mut body = Writer::default();
    for one in ops {
        let path = full(one.path());
        body = match one {
            Op::Create {
                data, is_ephemeral, ..
            } => create(header(body, op::CREATE), &path, data, acls, *is_ephemeral),
            Op::Delete { version, .. } => header(body, op::DELETE).string(&path).int(*version),
            Op::Set { data, version, .. } => header(body, op::SET_DATA)
                .string(&path)
                .string(data)
                .int(*version),
            Op::Check { version, .. } => header(body, op::CHECK).string(&path).int(*version),
        };
    }
    body.int(-1).bool(true).int(-1)
}

fn header(body: Writer, kind: i32) -> Writer {
    body.int(kind).bool(false).int(-1)
}

fn create(body: Writer, path: &str, data: &str, acls: &[Acl], is_ephemeral: bool) -> Writer {
    let mut body = body.string(path).string(data);
    body = body.int(i32::try_from(acls.len()).unwrap_or_default());
    for acl in acls {
        body = body.int(acl.rights).string(&acl.scheme).string(&acl.id);
    }
    body.int(i32::from(is_ephemeral))
}

/// What came of a `multi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Multi {
    /// All of it is done, by this transaction. The nodes that were written as they are now, one for each operation.
    Done { zxid: i64, stats: Vec<Option<Stat>> },
    /// Nothing is done, for this operation failed.
    Failed { index: usize, code: i32 },
}

/// Reads the body of the answer to a `multi`.
pub(super) fn multi_results(zxid: i64, body: &[u8]) -> Result<Multi, Malformed> {
    let mut reader = Reader(body);
    let mut stats = Vec::new();
    let mut failed = None;
    loop {
        let (kind, is_done, _) = (reader.int()?, reader.bool()?, reader.int()?);
        if is_done {
            break;
        }
        match kind {
            -1 => {
                let found = reader.int()?;
                // Those before the one that failed have 0, those after it -2.
                if failed.is_none() && found != code::OK {
                    failed = Some((stats.len(), found));
                }
                stats.push(None);
            }
            op::CREATE => {
                reader.string()?;
                stats.push(None);
            }
            op::SET_DATA => stats.push(Some(reader.stat()?)),
            op::DELETE | op::CHECK => stats.push(None),
            _ => return Err(Malformed),
        }
    }
    Ok(match failed {
        Some((index, code)) => Multi::Failed { index, code },
        None => Multi::Done { zxid, stats },
    })
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The path with the chroot; empty when the event is about the session.
    pub(super) path: String,
}

pub(super) fn event(body: &[u8]) -> Result<Event, Malformed> {
    let mut reader = Reader(body);
    let (_kind, _state) = (reader.int()?, reader.int()?);
    Ok(Event {
        path: reader.string()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_zookeeper_reads() {
        let acl = Acl {
            rights: 31,
            scheme: "world".into(),
            id: "anyone".into(),
        };
        let written = multi(
            &[Op::check("/a", 1), Op::create("/b", "x", true)],
            |path| format!("/r{path}"),
            &[acl],
        );
        let mut expected = Vec::new();
        expected.extend([0, 0, 0, 13, 0, 0xff, 0xff, 0xff, 0xff]);
        expected.extend([0, 0, 0, 4]);
        expected.extend(b"/r/a");
        expected.extend([0, 0, 0, 1]);
        expected.extend([0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]);
        expected.extend([0, 0, 0, 4]);
        expected.extend(b"/r/b");
        expected.extend([0, 0, 0, 1, b'x']);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 31, 0, 0, 0, 5]);
        expected.extend(b"world");
        expected.extend([0, 0, 0, 6]);
        expected.extend(b"anyone");
        expected.extend([0, 0, 0, 1]);
        expected.extend([0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(written.0, expected);
    }

    #[test]
    fn the_operation_that_failed_is_found() {
        let error = |body: Writer, code| body.int(-1).bool(false).int(code).int(code);
        let body = [0, -103, -2].into_iter().fold(Writer::default(), error);
        let body = body.int(-1).bool(true).int(-1);
        assert_eq!(
            multi_results(7, &body.0),
            Ok(Multi::Failed { index: 1, code: -103 })
        );
        let deleted = Writer::default()
            .int(2)
            .bool(false)
            .int(0)
            .int(-1)
            .bool(true)
            .int(-1);
        assert_eq!(
            multi_results(7, &deleted.0),
            Ok(Multi::Done {
                zxid: 7,
                stats: vec![None]
            })
        );
    }

    #[test]
    fn whatever_comes_is_read_or_refused() {
        for length in 0..64_u8 {
            for fill in [0, 1, 0x7f, 0xff] {
                let body = vec![fill; usize::from(length)];
                let _ = (multi_results(1, &body), event(&body), Reader(&body).strings());
                let _ = Reader(&body).stat();
            }
        }
    }
}
