//! The agent's log where standard error leads to systemd's journal: what `journalctl -o verbose` would show, and that
//! nothing is lost where no journal takes it. A socket in a temporary directory stands for the journal.

use crate::harness::directory::Directory;
use crate::harness::process::{Output, command};
use crate::harness::{seconds, wait};
use config::LocalConfig;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tamada::daemon::log::{Journal, Log, StandardError};
use tempfile::TempDir;
use tracing::subscriber::with_default;

/// No record of a test has as much to say in one datagram.
const DATAGRAM_MAX: usize = 1 << 20;

/// A record's fields by name.
type Fields = BTreeMap<String, String>;

/// What listens where the journal would.
struct Listener {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Listener {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = listen(&folder.path().join("socket"));
        Self { folder, socket }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The next record, and whether it came as a file; `None` when there is no other.
    fn next(&self) -> Option<(Fields, bool)> {
        let mut bytes = vec![0; DATAGRAM_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::DONTWAIT,
        );
        let length = received.ok()?.bytes;
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let Some(file) = file else {
            return Some((parse(&bytes[..length]), false));
        };
        assert_eq!(length, 0, "a file comes alone");
        let mut file = File::from(file);
        assert!(file.write_all(b"x").is_err(), "the file is sealed");
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        Some((parse(&content), true))
    }

    fn records(&self) -> Vec<Fields> {
        std::iter::from_fn(|| self.next())
            .map(|(fields, _)| fields)
            .collect()
    }
}

fn listen(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    // The agent may run as another user.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    socket
}

/// Reads a record as the journal does.
fn parse(mut bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let end = bytes
            .iter()
            .position(|byte| b"=\n".contains(byte))
            .expect("a name ends");
        let (name, rest) = bytes.split_at(end);
        let (value, rest) = if rest[0] == b'=' {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("a line ends");
            (&rest[1..end], &rest[end..])
        } else {
            let (length, rest) = rest[1..].split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap());
            rest.split_at(length.try_into().unwrap())
        };
        bytes = rest.strip_prefix(b"\n").expect("a field ends with its line");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let former = fields.insert(text(name), text(value));
        assert_eq!(former, None, "{} stands there twice", text(name));
    }
    fields
}

/// What stands for the stream of standard error.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The configuration of a member, with this section `log`.
fn member(log: &str) -> String {
    format!(
        "\
scope: demo
name: pg1
log: {{{log}}}
restapi: {{listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008', authentication: {{username: u, password: hush-rest}}}}
etcd3: {{host: '127.0.0.1:1', password: hush-etcd, username: u}}
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: /nonexistent/data
  bin_dir: /nonexistent/bin
  authentication:
    superuser: {{username: postgres, password: hush-superuser}}
    replication: {{username: replicator, password: hush-replication}}
"
    )
}

fn configuration(log: &str) -> LocalConfig {
    let files = [("pg1.yml".to_owned(), member(log))];
    LocalConfig::load(&files, &BTreeMap::new()).unwrap().0
}

/// A log of a configured member, to a journal.
fn log_to(listener: &Listener, text: &Text, section: &str) -> Log {
    let journal = Journal::at(listener.path(), "patroni").unwrap();
    let log = Log::to(StandardError::new(text.clone(), Some(journal))).unwrap();
    log.configure(&configuration(section));
    log
}

/// Has the log written what is told in the meantime.
#[track_caller]
fn tell(log: &Log, what: impl FnOnce()) {
    with_default(log.subscriber(), what);
    assert!(log.flush(seconds(30)), "the log is written");
}

/// As `journalctl -o verbose` shows it. The line of the code is only looked at.
#[track_caller]
fn verbose(mut fields: Fields) -> Vec<String> {
    let line = fields.remove("CODE_LINE").expect("a line of the code");
    assert!(line.parse::<u32>().unwrap() > 0);
    fields
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[test]
fn a_record_arrives_with_its_fields() {
    let (listener, text) = (Listener::new(), Text::default());
    let log = log_to(&listener, &text, "level: DEBUG");
    tell(&log, || {
        tracing::info!(target: "tamada::daemon::cycle", "no action. I am (pg1), the leader with the lock");
        tracing::debug!(target: "tamada_dcs::etcd3", name = "_etcd._tcp", priority = 7, tried.last = ?Some("a\nb"), "no record");
        tracing::error!(target: "tamada::daemon", critical = true, "first line\nPRIORITY=0\n\nlast line");
        tracing::warn!(target: "tamada::daemon", "");
        tracing::info!(target: "h2::client", "not one of ours: shown from WARNING on");
    });
    let records: Vec<Vec<String>> = listener.records().into_iter().map(verbose).collect();
    let expected: [&[&str]; 4] = [
        &[
            "CODE_FILE=tests/it/log.rs",
            "LOGGER=tamada.daemon.cycle",
            "MESSAGE=no action. I am (pg1), the leader with the lock",
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=patroni",
            "TAMADA_MEMBER=pg1",
            "TAMADA_SCOPE=demo",
        ],
        &[
            "CODE_FILE=tests/it/log.rs",
            "FIELD_PRIORITY=7",
            "LOGGER=tamada_dcs.etcd3",
            "MESSAGE=no record name=_etcd._tcp priority=7 tried.last=Some(\"a\\nb\")",
            "NAME=_etcd._tcp",
            "PRIORITY=7",
            "SYSLOG_IDENTIFIER=patroni",
            "TAMADA_MEMBER=pg1",
            "TAMADA_SCOPE=demo",
            "TRIED_LAST=Some(\"a\\nb\")",
        ],
        &[
            "CODE_FILE=tests/it/log.rs",
            "LOGGER=tamada.daemon",
            "MESSAGE=first line\nPRIORITY=0\n\nlast line",
            "PRIORITY=2",
            "SYSLOG_IDENTIFIER=patroni",
            "TAMADA_MEMBER=pg1",
            "TAMADA_SCOPE=demo",
        ],
        &[
            "CODE_FILE=tests/it/log.rs",
            "LOGGER=tamada.daemon",
            "MESSAGE=",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=patroni",
            "TAMADA_MEMBER=pg1",
            "TAMADA_SCOPE=demo",
        ],
    ];
    assert_eq!(records, expected);
    assert_eq!(text.take(), "", "standard error has nothing besides");
}

#[test]
fn a_record_too_large_for_a_datagram_arrives_whole() {
    let (listener, text) = (Listener::new(), Text::default());
    let log = log_to(&listener, &text, "");
    let long = "line\n".repeat(1 << 20);
    tell(&log, || {
        tracing::info!(target: "tamada", "{long}");
        tracing::info!(target: "tamada", "short");
    });
    let (first, is_file) = listener.next().expect("a record");
    assert!(is_file, "it comes as a file");
    assert!(first["MESSAGE"] == long, "{} bytes", first["MESSAGE"].len());
    assert_eq!(first["TAMADA_MEMBER"], "pg1");
    let (second, is_file) = listener.next().expect("a record");
    assert_eq!((second["MESSAGE"].as_str(), is_file), ("short", false));
    assert_eq!(text.take(), "");
}

#[test]
fn settings_of_the_log_hold_for_the_journal() {
    let (listener, text) = (Listener::new(), Text::default());
    let log = log_to(
        &listener,
        &text,
        "type: json, format: [levelname, {message: text}], static_fields: {app: db, priority: 1}, level: ERROR,
         loggers: {tamada.ctl: INFO}",
    );
    tell(&log, || {
        tracing::warn!(target: "tamada::daemon", "below the level");
        tracing::info!(target: "tamada::ctl", code = 3, "said \"x\"");
    });
    let records = listener.records();
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    assert_eq!(
        record["MESSAGE"],
        r#"{"levelname": "INFO", "text": "said \"x\" code=3", "app": "db", "priority": 1}"#
    );
    for (name, value) in [
        ("APP", "db"),
        ("FIELD_PRIORITY", "1"),
        ("CODE", "3"),
        ("PRIORITY", "6"),
    ] {
        assert_eq!(record[name], value, "{name}");
    }

    let folder = listener.folder.path().join("log");
    log.configure(&configuration(&format!(
        "dir: {}, format: '%(levelname)s %(message)s'",
        folder.display()
    )));
    tell(&log, || tracing::info!(target: "tamada", name = 1, "to a file"));
    let file = fs::read_to_string(folder.join("patroni.log")).unwrap();
    assert_eq!(file, "INFO to a file name=1\n");
    assert_eq!(listener.records(), [], "what goes to files goes nowhere else");

    log.configure(&configuration(""));
    tell(&log, || tracing::info!(target: "tamada", "and back"));
    assert_eq!(listener.records()[0]["MESSAGE"], "and back");
    assert_eq!(text.take(), "");
}

#[test]
fn a_journal_that_is_gone_leaves_lines_of_text() {
    let (mut listener, text) = (Listener::new(), Text::default());
    let log = log_to(&listener, &text, "format: '%(levelname)s: %(message)s'");
    let say = |what: &str| tell(&log, || tracing::info!(target: "tamada", code = 3, "{what}"));
    fs::remove_file(listener.path()).unwrap();
    say("no socket");
    assert_eq!(text.take(), "INFO: no socket code=3\n");

    listener.socket = listen(&listener.path());
    say("it is back");
    let records = listener.records();
    assert_eq!(records[0]["MESSAGE"], "it is back code=3");
    assert_eq!((records.len(), text.take().as_str()), (1, ""));

    listener.socket = UnixDatagram::unbound().unwrap();
    say("nobody listens");
    assert_eq!(text.take(), "INFO: nobody listens code=3\n");
}

#[test]
fn a_journal_that_hangs_holds_nobody_up() {
    let (listener, text) = (Listener::new(), Text::default());
    let log = log_to(&listener, &text, "format: '%(message)s'");
    // No more than what may wait at once.
    let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let begin = Instant::now();
    tell(&log, || {
        for number in &expected {
            tracing::info!(target: "tamada", "{number}");
        }
        assert!(
            begin.elapsed() < crate::harness::patience(seconds(2)),
            "the log's writer waits, not who logs"
        );
    });
    assert_eq!(log.backlog().lost, 0);
    let taken = listener.records();
    let mut all: Vec<String> = taken.iter().map(|fields| fields["MESSAGE"].clone()).collect();
    assert!(all.len() < expected.len(), "the journal cannot have taken all");
    all.extend(text.take().lines().map(str::to_owned));
    assert_eq!(all, expected, "each is told once, in order");
}

// ---- the program

/// Runs an agent that ends by itself, as there is no PostgreSQL. `listener` is what it finds where the journal should
/// be, and the file that is its standard error is the journal's or is not. `None`: not permitted here.
fn agent(listener: &Listener, is_journals: bool) -> Option<Output> {
    let directory = Directory::new();
    let config = directory.write("pg1.yml", &member(""));
    let mut stderr = tempfile::tempfile().unwrap();
    let metadata = stderr.metadata().unwrap();
    let inode = metadata.st_ino() + u64::from(!is_journals);
    let stream = format!("{}:{inode}", metadata.st_dev());
    let mut unshare = vec!["--mount"];
    if !rustix::process::geteuid().is_root() {
        unshare.extend(["--user", "--map-root-user"]);
    }
    let is_permitted = Command::new("unshare").args(&unshare).arg("true").output();
    if !is_permitted.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may not make a mount namespace here");
        return None;
    }
    // The folder of the journal lies where a new, empty file system hides what this machine has there.
    let script = r#"
        folder=$1 && shift && exec 3<"$folder" && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal &&
        mount --bind /proc/self/fd/3 /run/systemd/journal && exec 3<&- && exec "$@"
    "#;
    let program = crate::harness::process::place_program(&directory, env!("CARGO_BIN_EXE_tamada").as_ref());
    let inside = command(&directory, program);
    let mut outside = Command::new("unshare");
    outside.args(&unshare).args(["sh", "-c", script, "sh"]);
    outside.arg(listener.folder.path()).arg(inside.get_program());
    outside.args(inside.get_args()).arg("run").arg(config);
    outside
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C.UTF-8")
        .env("JOURNAL_STREAM", stream)
        .stdin(std::process::Stdio::null())
        .stderr(stderr.try_clone().unwrap());
    let mut child = outside.spawn().unwrap();
    let status = wait::eventually("the agent ends", seconds(30), || {
        child.try_wait().unwrap().ok_or("it still runs")
    });
    let mut text = String::new();
    stderr.rewind().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    Some(Output {
        code: status.code(),
        stdout: String::new(),
        stderr: text,
    })
}

#[test]
fn the_program_writes_to_the_journal_that_its_standard_error_leads_to() {
    let listener = Listener::new();
    fs::set_permissions(
        listener.folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let Some(output) = agent(&listener, true) else {
        return;
    };
    let records = listener.records();
    println!("{}\n{records:#?}", output.stderr);
    assert_eq!((output.code, output.stderr.as_str()), (Some(1), ""));
    let begin = format!("{}, member pg1 of cluster demo", tamada::daemon::version_text());
    let first = records
        .iter()
        .find(|record| record["MESSAGE"] == begin)
        .expect("it says who it is");
    for (name, value) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "tamada"),
        ("LOGGER", "tamada.daemon.start"),
        ("CODE_FILE", "src/daemon/start.rs"),
        ("TAMADA_SCOPE", "demo"),
        ("TAMADA_MEMBER", "pg1"),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    let last = records.last().unwrap();
    assert!(last["MESSAGE"].contains("/nonexistent/bin"), "{last:?}");
    assert_eq!(last["PRIORITY"], "2");
    let told = format!("{records:?}");
    assert!(!told.contains("hush-"), "no password is told: {told}");
}

#[test]
fn the_program_writes_text_where_standard_error_leads_elsewhere() {
    let listener = Listener::new();
    let Some(output) = agent(&listener, false) else {
        return;
    };
    println!("{}", output.stderr);
    assert_eq!(output.code, Some(1));
    assert_eq!(listener.records(), []);
    let begin = format!(
        " INFO: {}, member pg1 of cluster demo",
        tamada::daemon::version_text()
    );
    let line = output.stderr.lines().find(|line| line.ends_with(&begin));
    let (time, _) = line.expect("it says who it is").split_once(" INFO").unwrap();
    assert_eq!(
        time.len(),
        "2026-01-31 12:34:56,789".len(),
        "{time:?} is Patroni's time"
    );
    assert!(output.stderr.contains(" CRITICAL: "), "{}", output.stderr);
}
