//! The user's terminal, or what stands in its place.

use std::io::{IsTerminal, Write};

use jiff::Zoned;

use super::error::Error;

/// Writes to standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|_| Error::OutputClosed)
}

/// Writes a line to standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_line(line: &str) -> Result<(), Error> {
    print(&format!("{line}\n"))
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
    print(&format!(
        "{clear}\x1b[1;1H{}\x1b[J",
        text.replace('\n', "\x1b[K\n")
    ))
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes the end of a command to standard error.
pub(crate) fn report(error: &Error) {
    let text = match error {
        Error::Failed(text) => format!("Error: {text}\n"),
        Error::Aborted => format!("{error}\n"),
        Error::OutputClosed => return,
    };
    // There is nobody left to tell when standard error is closed.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
