//! The user's terminal, or what stands in its place.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use config::escape;
use jiff::Zoned;
use rustix::termios::tcgetwinsize;

use super::error::Error;

/// What a terminal is taken for that does not know its own width.
const COLUMNS: usize = 80;

/// Whether a painted line stands on the terminal.
static LINE_STANDS: AtomicBool = AtomicBool::new(false);

/// Writes a text of some lines to standard output. What a terminal would obey is written out.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    print_raw(&escape::lines(text))
}

fn print_raw(text: &str) -> Result<(), Error> {
    remove_line();
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|_| Error::OutputClosed)
}

/// Writes a line to standard output; one, whatever stands in it.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_line(line: &str) -> Result<(), Error> {
    print_raw(&format!("{}\n", escape::line(line)))
}

/// Writes over what stands on the screen, if there is one, so that it does not flicker: `text` is all that is to be seen.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn repaint(text: &str, is_first: bool) -> Result<(), Error> {
    if !is_terminal() {
        return print(text);
    }
    // Home, each line without what was longer before, and nothing below.
    let clear = if is_first { "\x1b[2J" } else { "" };
    print_raw(&format!(
        "{clear}\x1b[1;1H{}\x1b[J",
        escape::lines(text).replace('\n', "\x1b[K\n")
    ))
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether a person sees a line that is painted on standard error, and nobody reads the output but that person.
pub(crate) fn shows_progress() -> bool {
    let can_move = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    can_move && is_terminal() && std::io::stderr().is_terminal()
}

/// How wide the terminal is that [`paint_line`] writes to.
pub(crate) fn columns() -> usize {
    let size = tcgetwinsize(std::io::stderr());
    size.map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS)
}

/// Writes a line to standard error over the one that stands there. It has to fit into [`columns`].
pub(crate) fn paint_line(line: &str) {
    LINE_STANDS.store(true, Ordering::Relaxed);
    write_error(&format!("\r{}\x1b[K", escape::line(line)));
}

/// Removes the line that [`paint_line`] has left, if there is one.
pub(crate) fn remove_line() {
    if LINE_STANDS.swap(false, Ordering::Relaxed) {
        write_error("\r\x1b[K");
    }
}

/// Writes to standard error, below what is there for good.
pub(crate) fn print_error(text: &str) {
    remove_line();
    write_error(&escape::lines(text));
}

fn write_error(text: &str) {
    // There is nobody left to tell when standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes the end of a command to standard error.
pub(crate) fn report(error: &Error) {
    let text = match error {
        Error::Failed(text) => format!("Error: {text}\n"),
        Error::Aborted | Error::Interrupted(_) => format!("{error}\n"),
        Error::OutputClosed => return,
    };
    print_error(&text);
}

/// The local time with `digits` of a second's fraction, as the commands print it.
pub(crate) fn timestamp(digits: usize) -> String {
    let now = Zoned::now();
    let seconds = now.strftime("%Y-%m-%d %H:%M:%S");
    if digits == 0 {
        return seconds.to_string();
    }
    let fraction = format!("{:09}", now.subsec_nanosecond());
    format!("{seconds}.{}", fraction.get(..digits).unwrap_or_default())
}
