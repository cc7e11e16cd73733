//! A command on a pseudo-terminal: what it writes, and what a person sees of it in the end.

use super::wait::{SECOND, eventually, holds};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Wide enough for the tables.
const COLUMNS: u16 = 120;

/// A program that runs on a terminal; killed when this is dropped.
pub struct Terminal {
    child: Child,
    keyboard: File,
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// What is left of it.
pub struct Seen {
    pub code: Option<i32>,
    /// All that was written, control characters included.
    pub written: String,
    /// The lines that stand on the screen, and the one with the cursor last.
    pub screen: Vec<String>,
}

impl Terminal {
    /// Starts the command with its three streams on a new terminal. For Ctrl-C to reach it the command has to be run
    /// by `setsid --ctty`.
    pub fn start(mut command: Command) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize {
            ws_row: 50,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&controller, size).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = ptsname(&controller, Vec::new()).unwrap();
        let terminal = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        command
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal);
        let child = command.spawn().unwrap();
        // The reader's end comes when nobody has the terminal open any more.
        drop(command);
        let keyboard = File::from(controller);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, all) = (keyboard.try_clone().unwrap(), written.clone());
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut part) {
                all.lock().unwrap().extend_from_slice(&part[..length]);
            }
        });
        Self {
            child,
            keyboard,
            written,
            reader: Some(reader),
        }
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// Waits until that has been written.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_written: impl Fn(&str) -> bool) {
        eventually(&format!("{what} on the terminal"), 30 * SECOND, || {
            let written = self.written();
            holds(is_written(&written), || written)
        });
    }

    /// As if it were typed.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the program ends.
    #[track_caller]
    pub fn end(mut self) -> Seen {
        let status = eventually("the program on the terminal ends", 60 * SECOND, || {
            self.child.try_wait().unwrap().ok_or_else(|| self.written())
        });
        self.reader.take().unwrap().join().unwrap();
        let written = self.written();
        Seen {
            code: status.code(),
            screen: screen(&written),
            written,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands on a screen of endless height after that was written. Knows as much as is needed here.
fn screen(written: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let mut column = 0;
    let mut rest = written;
    while let Some(character) = rest.chars().next() {
        let line: &mut Vec<char> = lines.last_mut().unwrap();
        if let Some(after) = rest.strip_prefix("\x1b[K") {
            line.truncate(column);
            rest = after;
            continue;
        }
        match character {
            '\r' => column = 0,
            '\n' => lines.push(Vec::new()),
            '\x1b' => panic!("the terminal does not know {rest:?}"),
            character => {
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
                assert!(column < usize::from(COLUMNS), "the line is too long: {line:?}");
            }
        }
        rest = &rest[character.len_utf8()..];
    }
    lines.into_iter().map(|line| line.into_iter().collect()).collect()
}
