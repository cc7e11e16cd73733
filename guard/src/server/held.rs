//! The postmaster that the guard holds: started or adopted, signalled, reaped, killed with all its backends.

use crate::clock::{BootTime, timespec};
use crate::command_line::{EXEC, SUBCOMMAND};
use crate::place;
use crate::proc_fs::{self, Likeness, Stat, each_child, each_process, owner, start_ticks};
use crate::protocol::{Exit, HeldServer, ServerCommand, ServerSignal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, pidfd_send_signal, wait,
};
use rustix::thread::nanosleep;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the short-lived process before the server may take.
const EXEC_TIME: Duration = Duration::from_secs(5);

/// How long to wait until a postmaster that was sent SIGSTOP stands still.
const HALT_TIME: Duration = Duration::from_millis(20);

/// How long to wait until killed backends are gone.
const SWEEP_TIME: Duration = Duration::from_millis(500);

pub(super) struct Held {
    pid: Pid,
    fd: OwnedFd,
    start_ticks: u64,
    is_child: bool,
    /// For one that is not our child: by what its backends are known when it has died.
    likeness: Option<Likeness>,
    _data_dir_lock: Option<OwnedFd>,
}

impl Held {
    /// Starts a server as our child. Standard output and error: ours, where none are given.
    pub(super) fn start(
        command: &ServerCommand,
        [stdout, stderr]: [Option<OwnedFd>; 2],
        data_dir: &Path,
        nice: i32,
    ) -> io::Result<Self> {
        let lock = place::lock_data_directory(data_dir)?;
        let (mut errors, pipe) = io::pipe()?;
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::inherit, Stdio::from);
        // Our own program, even when its file was replaced or removed by an upgrade.
        let mut child = Command::new("/proc/self/exe")
            .arg0("tamada")
            .args([SUBCOMMAND, EXEC])
            .arg(std::process::id().to_string())
            .arg(nice.to_string())
            .arg(&command.program)
            .args(&command.args)
            .env_clear()
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .current_dir(command.current_dir.as_deref().unwrap_or(Path::new("/")))
            .stdin(pipe)
            .stdout(stdio(stdout))
            .stderr(stdio(stderr))
            .spawn()?;
        let refused = match read_until_closed(&mut errors, EXEC_TIME) {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(io::Error::other(text)),
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(proc_fs::pid)
            .ok_or_else(|| io::Error::other("the server has no pid"))?;
        // A child of ours that was not reaped keeps its pid, so this is the one.
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        let start_ticks = Stat::read(pid)?.start_ticks;
        Ok(Self {
            pid,
            fd,
            start_ticks,
            is_child: true,
            likeness: None,
            _data_dir_lock: lock,
        })
    }

    /// Takes a server over that somebody else has started.
    pub(super) fn adopt(pid: i32, wanted_start_ticks: Option<u64>, data_dir: &Path) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("there is no process {pid}"));
        let invalid =
            |text: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("process {pid} {text}"));
        let process = proc_fs::pid(pid)
            .filter(|process| !process.is_init())
            .ok_or_else(gone)?;
        if process == getpid() {
            return Err(invalid("is the guard itself"));
        }
        let fd = pidfd_open(process, PidfdFlags::empty()).map_err(|_| gone())?;
        // After the pidfd: what is read now is about the process that it names.
        let Some(start_ticks) = start_ticks(process)? else {
            return Err(gone());
        };
        if wanted_start_ticks.is_some_and(|wanted| wanted != start_ticks) {
            return Err(invalid("is another one than meant: the pid was given away again"));
        }
        if owner(process) != Some(rustix::process::geteuid().as_raw()) {
            return Err(invalid("belongs to another user"));
        }
        let is_child = Stat::read(process)?.parent == getpid().as_raw_nonzero().get();
        Ok(Self {
            pid: process,
            fd,
            start_ticks,
            is_child,
            likeness: Likeness::of(process),
            _data_dir_lock: place::lock_data_directory(data_dir)?,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn summary(&self) -> HeldServer {
        HeldServer {
            pid: self.pid(),
            start_ticks: self.start_ticks,
            is_child: self.is_child,
        }
    }

    pub(super) fn signal(&self, signal: ServerSignal) -> io::Result<()> {
        let signal = match signal {
            ServerSignal::Smart => Signal::TERM,
            ServerSignal::Fast => Signal::INT,
            ServerSignal::Immediate => Signal::QUIT,
            ServerSignal::Reload => Signal::HUP,
            ServerSignal::Kill => {
                self.kill();
                return Ok(());
            }
        };
        pidfd_send_signal(&self.fd, signal)?;
        Ok(())
    }

    /// Kills postmaster and backends. The postmaster is halted first, so that the list of its children is complete:
    /// it starts no more, and those that end stay in it.
    fn kill(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::STOP);
        let until = BootTime::now() + HALT_TIME;
        while Stat::read(self.pid).is_ok_and(|stat| !stat.is_halted()) && BootTime::now() < until {
            let _ = nanosleep(&timespec(Duration::from_micros(200)));
        }
        let _ = each_child(self.pid, kill_one);
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// Whether it has ended, and how; reaps every child of ours that has.
    pub(super) fn ended(&self) -> Option<Exit> {
        let mut exit = None;
        reap(|pid, status| {
            if pid == self.pid {
                exit = Some(status);
            }
        });
        let has_ended = exit.is_some() || (!self.is_child && is_readable(self.as_fd(), Duration::ZERO));
        has_ended.then(|| exit.unwrap_or(Exit::Unknown))
    }

    /// After it has ended in disorder: waits for `patience`, then kills what it left. Its backends would go on, and
    /// acknowledge commits, until they next look for their parent. Those of a child of ours have become our children
    /// (`subreaper`).
    pub(super) fn sweep(&self, patience: Duration) {
        if self.is_child {
            sweep(patience, |visit| each_child(getpid(), visit));
        } else if let Some(likeness) = &self.likeness {
            sweep(patience, |visit| {
                each_process(|pid| {
                    let is_alive = Stat::read(pid).is_ok_and(|stat| !stat.has_ended());
                    if is_alive && pid != getpid() && likeness.is_shared_by(pid) {
                        visit(pid);
                    }
                })
            });
        }
    }
}

fn kill_one(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// Kills what `find` finds, after `patience`, until it finds nothing, or the time is over.
fn sweep(patience: Duration, find: impl Fn(&mut dyn FnMut(Pid)) -> io::Result<()>) {
    let kill_from = BootTime::now() + patience;
    let until = kill_from + SWEEP_TIME;
    loop {
        let is_time = BootTime::now() >= kill_from;
        let mut one = None;
        let found = find(&mut |pid| {
            // The pidfd first: a process that is still there then is the one that is killed.
            one = pidfd_open(pid, PidfdFlags::empty()).ok().or(one.take());
            if is_time {
                kill_one(pid);
            }
        });
        let now = BootTime::now();
        let Some(fd) = one else { break };
        if found.is_err() || now >= until {
            break;
        }
        is_readable(fd.as_fd(), now.until(if is_time { until } else { kill_from }));
        reap(|_, _| {});
    }
}

/// Reaps every child that has ended.
pub(super) fn reap(mut visit: impl FnMut(Pid, Exit)) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        };
        visit(pid, exit);
    }
}

/// Waits at most `time` until something can be read.
fn is_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let until = BootTime::now() + time;
    let ready = retry_on_intr(|| {
        let left = BootTime::now().until(until);
        poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&timespec(left)),
        )
    });
    matches!(ready, Ok(ready) if ready > 0)
}

fn read_until_closed(pipe: &mut io::PipeReader, time: Duration) -> io::Result<String> {
    let until = BootTime::now() + time;
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if !is_readable(pipe.as_fd(), BootTime::now().until(until)) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the server's program was not executed in time",
            ));
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
