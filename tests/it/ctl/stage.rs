//! What the tests of ctl play on: etcd with the keys of `keys.txt`, and a REST API with canned answers.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const KEYS: &str = include_str!("keys.txt");
const START_LIMIT: Duration = Duration::from_secs(20);

/// Everything is stopped and removed when it is dropped.
pub struct Stage {
    folder: TempDir,
    etcd: Child,
    etcd_endpoint: String,
    rest: Rest,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Stage {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let (client, peer) = (free_port(), free_port());
        let etcd_endpoint = format!("127.0.0.1:{client}");
        let (client, peer) = (
            format!("http://{etcd_endpoint}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let log = fs::File::create(folder.path().join("etcd.log")).unwrap();
        let etcd = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.path().join("etcd"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--unsafe-no-fsync",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd must be installed");
        symlink(env!("CARGO_BIN_EXE_tamada"), folder.path().join("patronictl")).unwrap();
        let stage = Self {
            folder,
            etcd,
            etcd_endpoint,
            rest: Rest::start(),
        };
        stage.put_keys();
        stage
    }

    fn put_keys(&self) {
        let started = Instant::now();
        while !self.etcdctl(&["endpoint", "health"]).0 {
            assert!(
                started.elapsed() < crate::harness::patience(START_LIMIT),
                "etcd does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        for line in KEYS.lines() {
            let (key, value) = line.split_once(' ').unwrap();
            let value = value.replace("REST", &self.rest.port.to_string());
            assert!(
                self.etcdctl(&["put", &format!("/service/{key}"), "--", &value]).0,
                "{line}"
            );
        }
    }

    /// `host:port` of etcd.
    pub fn etcd_endpoint(&self) -> &str {
        &self.etcd_endpoint
    }

    /// The value of a key, by its path below `/service/`.
    pub fn key(&self, key: &str) -> String {
        let value = self
            .etcdctl(&["get", "--print-value-only", &format!("/service/{key}")])
            .1;
        value.trim_end_matches('\n').to_owned()
    }

    /// An etcdctl command as a line of shell.
    pub fn etcdctl_line(&self, arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
        format!(
            "ETCDCTL_API=3 etcdctl --endpoints {} {}",
            self.etcd_endpoint,
            arguments.join(" ")
        )
    }

    fn etcdctl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.etcd_endpoint])
            .args(arguments)
            .output()
            .expect("etcdctl must be installed");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    /// A file with that content.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A shell script.
    pub fn script(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.file(name, &format!("#!/bin/sh\n{lines}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Runs the program as patronictl. An empty variable is not set at all.
    pub fn run(&self, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
        let home = self.folder.path();
        let mut command = Command::new(home.join("patronictl"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", home)
            .env("TZ", "UTC")
            .env("PATRONI_ETCD3_HOST", &self.etcd_endpoint)
            .envs(variables.iter().copied());
        for (name, _) in variables.iter().filter(|(_, value)| value.is_empty()) {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end without reading all of it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Plays a transcript once more, and returns what came of it in the same form:
    ///
    /// - `> STATUS BODY` is a canned answer for the next command; `> hangup` is none;
    /// - `$ ARGUMENTS < "INPUT"` runs a command; its standard output follows (with `%` where the last line has no
    ///   end), then `! ` and its standard error, then `* ` and the requests that were received, then its exit code;
    /// - `= KEY` reads a key.
    pub fn replay(&self, transcript: &str) -> String {
        let mut lines: Vec<String> = Vec::new();
        for block in transcript
            .trim_end()
            .split("\n\n")
            .filter(|block| is_played(block))
        {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            let mut answers = VecDeque::new();
            for line in block.lines() {
                if let Some(answer) = line.strip_prefix("> ") {
                    answers.push_back(answer.to_owned());
                    lines.push(line.to_owned());
                } else if let Some(key) = line.strip_prefix("= ") {
                    lines.extend([line.to_owned(), self.key(key)]);
                } else if let Some(command) = line.strip_prefix("$ ") {
                    lines.push(line.to_owned());
                    self.rest.prepare(std::mem::take(&mut answers));
                    lines.extend(self.play(command));
                }
            }
        }
        lines.join("\n") + "\n"
    }

    fn play(&self, command: &str) -> Vec<String> {
        let (arguments, input) = command.split_once(" < ").unwrap_or((command, "\"\""));
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let input: String = serde_json::from_str(input).unwrap();
        let output = self.run(&arguments, &input, &[]);
        let mut stdout = self.without_chance(&output.stdout);
        if !stdout.is_empty() && !stdout.ends_with('\n') {
            stdout.push_str("%\n");
        }
        let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
        lines.extend(
            self.without_chance(&output.stderr)
                .lines()
                .map(|line| format!("! {line}")),
        );
        lines.extend(self.rest.requests());
        lines.extend(
            output
                .code
                .filter(|code| *code != 0)
                .map(|code| format!("exit {code}")),
        );
        lines
    }

    /// Replaces the present time and the port of the REST API.
    fn without_chance(&self, text: &str) -> String {
        let mut rest = text.replace(&self.rest.port.to_string(), "REST");
        let mut result = String::new();
        while let Some(start) = rest.find("20").filter(|start| *start < rest.len()) {
            let (before, from) = rest.split_at(start);
            result.push_str(before);
            match time_length(from) {
                Some((length, fraction)) => {
                    let fraction = if fraction > 0 {
                        format!(".{fraction}")
                    } else {
                        String::new()
                    };
                    result.push_str(&format!("<time{fraction}>"));
                    rest = from[length..].to_owned();
                }
                None => {
                    result.push_str("20");
                    rest = from[2..].to_owned();
                }
            }
        }
        result + &rest
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn is_played(block: &str) -> bool {
    block
        .lines()
        .any(|line| line.starts_with("$ ") || line.starts_with("= "))
}

/// The length of a time at the beginning of `text`, and how many digits its fraction of a second has.
fn time_length(text: &str) -> Option<(usize, usize)> {
    let pattern = |pattern: &str, text: &str| {
        text.len() >= pattern.len()
            && pattern
                .bytes()
                .zip(text.bytes())
                .all(|(expected, found)| match expected {
                    b'0' => found.is_ascii_digit(),
                    b'_' => found == b' ' || found == b'T',
                    other => found == other,
                })
    };
    let is_recent = text
        .as_bytes()
        .get(2)
        .is_some_and(|digit| (b'2'..=b'9').contains(digit));
    if !is_recent || !pattern("0000-00-00_00:00", text) {
        return None;
    }
    let mut length = 16;
    if pattern(":00", &text[length..]) {
        length += 3;
    }
    let digits = text[length..].strip_prefix(['.', ',']).map_or(0, |fraction| {
        fraction.bytes().take_while(u8::is_ascii_digit).count()
    });
    if digits > 0 {
        length += 1 + digits;
    }
    Some((length, digits))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// One REST API for all members: it answers with what was prepared, and remembers what it was asked.
struct Rest {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<String>,
    requests: Vec<String>,
}

impl Rest {
    /// The thread ends with the test's process.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &shared);
            }
        });
        Self { port, state }
    }

    fn prepare(&self, answers: VecDeque<String>) {
        *self.state.lock().unwrap() = State {
            answers,
            requests: Vec::new(),
        };
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// Serves one request and closes the connection.
fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut state = state.lock().unwrap();
    state.requests.push(describe(&first, &body));
    let answer = state.answers.pop_front().unwrap_or_else(|| "200 ".to_owned());
    drop(state);
    let (status, text) = answer.split_once(' ').unwrap_or((&answer, ""));
    if status == "hangup" {
        return Ok(());
    }
    let length = text.len();
    let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let mut stream = stream;
    stream.write_all(format!("{head}{text}").as_bytes())
}

/// `* METHOD PATH BODY`, the body's keys sorted.
fn describe(request_line: &str, body: &[u8]) -> String {
    let mut words = request_line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if body.is_empty() {
        return format!("* {method} {path}");
    }
    let Value::Object(fields) = serde_json::from_slice(body).unwrap() else {
        panic!("no object")
    };
    let mut sorted: Vec<_> = fields.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    format!(
        "* {method} {path} {}",
        Value::Object(sorted.into_iter().collect())
    )
}
