//! The words on the socket, for agents of other versions.

use crate::scene::*;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use tamada_guard::BootTime;

struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    fn connect(scene: &Scene) -> Self {
        let stream = UnixStream::connect(socket_of(scene)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
        self.line()
    }
}

#[test]
fn an_agent_of_another_version_is_understood() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    // An older one knows fewer keys, a newer one more; neither needs an id.
    let mut other = Raw::connect(&scene);
    let status = other.ask("hello protocol=99 colour=red\n");
    assert!(
        status.starts_with("ok id=0 version=") && status.contains(&format!(" pid={server} ")),
        "{status}"
    );
    let later = (BootTime::now() + LIMIT).as_nanos();
    let lease = format!("lease id=5 deadline_boottime_ns={later} fence=true moon=full\n");
    assert_eq!(other.ask(lease), "ok id=5 stage=running\n");
    let unknown = "error id=6 reason=unknown message=this%20guard%20does%20not%20know%20the%20request\n";
    assert_eq!(other.ask("dance id=6 with=me\n"), unknown);
    for (line, reason) in [
        ("lease id=7 fence=true\n", "malformed"),
        ("start id=7\n", "running"),
        ("adopt id=7\n", "malformed"),
        ("signal id=7 name=USR1\n", "malformed"),
        ("\n", "unknown"),
    ] {
        let answer = other.ask(line);
        assert!(answer.contains(&format!(" reason={reason} ")), "{line} {answer}");
    }
    assert!(
        other
            .ask(b"lease\xff id=7\n")
            .starts_with("error id=0 reason=unknown")
    );
    signal(server, Signal::INT);
    assert_eq!(other.line(), format!("event what=exited pid={server} code=0\n"));
}

#[test]
fn notes_are_kept_for_the_next_agent() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    assert_eq!(agent.recall("lease").unwrap(), None);
    agent.remember("lease", b"1").unwrap();
    agent.remember("lease", b"2\n\x00\xff").unwrap();
    agent.remember("other", b"").unwrap();
    assert_eq!(refusal(agent.remember("big", &[b'x'; 4096])), "full");
    drop(agent);
    let mut agent = scene.agent();
    assert_eq!(
        agent.recall("lease").unwrap().as_deref(),
        Some(&b"2\n\x00\xff"[..])
    );
    assert_eq!(agent.recall("other").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(agent.recall("big").unwrap(), None);
    agent.forget("lease").unwrap();
    assert_eq!(agent.recall("lease").unwrap(), None);
    // Room that a note had is free for the next.
    agent.remember("big", &[b'x'; 4000]).unwrap();
    agent.remember("big", &[b'y'; 4000]).unwrap();
}

#[test]
fn nobody_else_may_speak_to_it() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = socket_of(&scene);
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    // And it shows nothing of the agent's configuration.
    let guard = agent.status().unwrap().guard_pid;
    let command_line = std::fs::read_to_string(format!("/proc/{guard}/cmdline")).unwrap();
    let words: Vec<_> = command_line.trim_end_matches('\0').split('\0').collect();
    let (data_dir, socket) = (scene.data_dir.to_str().unwrap(), socket.to_str().unwrap());
    assert_eq!(words, ["tamada", "guard", "serve", data_dir, socket, "10000"]);
    // Away from the agent: own session, no terminal, no folder that it would keep busy.
    let stat = std::fs::read_to_string(format!("/proc/{guard}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let own = std::fs::read_to_string("/proc/self/stat").unwrap();
    let own: Vec<_> = own.rsplit(") ").next().unwrap().split(' ').collect();
    assert_ne!(fields[3], own[3], "the session");
    let link = |name: &str| std::fs::read_link(format!("/proc/{guard}/{name}")).unwrap();
    assert_eq!(link("cwd"), std::path::Path::new("/"));
    assert_eq!(link("fd/0"), std::path::Path::new("/dev/null"));
}
