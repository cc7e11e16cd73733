//! Questions to the user, in the words and with the defaults that scripts around patronictl answer to.

use std::io::BufRead;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::console::{print, print_line};
use super::error::Error;

/// Asks for a text; an empty answer means the default.
///
/// # Errors
/// The input ends.
pub(crate) async fn text(question: &str, default: &str) -> Result<String, Error> {
    let answer = ask(&format!("{question} [{default}]: ")).await?;
    Ok(if answer.is_empty() {
        default.to_owned()
    } else {
        answer
    })
}

/// Asks for a text until one is given.
///
/// # Errors
/// The input ends.
pub(crate) async fn required_text(question: &str) -> Result<String, Error> {
    loop {
        let answer = ask(&format!("{question}: ")).await?;
        if !answer.is_empty() {
            return Ok(answer);
        }
    }
}

/// Asks for a whole number until one is given.
///
/// # Errors
/// The input ends.
pub(crate) async fn number(question: &str) -> Result<u32, Error> {
    loop {
        let answer = required_text(question).await?;
        match answer.trim().parse() {
            Ok(number) => return Ok(number),
            Err(_) => print_line(&format!("Error: '{answer}' is not a valid integer."))?,
        }
    }
}

/// Asks for something that nobody is to see on the screen.
///
/// # Errors
/// The input ends.
pub(crate) async fn hidden(question: &str) -> Result<String, Error> {
    let _hidden = Hidden::begin();
    let answer = ask(question).await;
    print_line("")?;
    answer
}

/// While it lives, the terminal does not show what is typed. Without a terminal it does nothing.
struct Hidden(Option<Termios>);

impl Hidden {
    fn begin() -> Self {
        let Ok(before) = tcgetattr(std::io::stdin()) else {
            return Self(None);
        };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        Self(
            tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)
                .is_ok()
                .then_some(before),
        )
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Asks for a yes or no; an empty answer is a no.
///
/// # Errors
/// The input ends.
pub(crate) async fn confirm(question: &str) -> Result<bool, Error> {
    loop {
        let answer = ask(&format!("{question} [y/N]: ")).await?;
        match yes_or_no(&answer) {
            Some(answer) => return Ok(answer),
            None => print_line("Error: invalid input")?,
        }
    }
}

fn yes_or_no(answer: &str) -> Option<bool> {
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" | "1" | "true" | "t" | "on" => Some(true),
        "" | "n" | "no" | "0" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Reads on a thread of its own, so that Ctrl-C is noticed meanwhile.
async fn ask(prompt: &str) -> Result<String, Error> {
    print(prompt)?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map(|length| (length > 0).then_some(line))
    });
    match read.await {
        Ok(Ok(Some(line))) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Ok(Ok(None) | Err(_)) | Err(_) => Err(Error::Aborted),
    }
}

#[cfg(test)]
mod tests {
    use super::yes_or_no;

    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["y", "Y", "yes", "YES "] {
            assert_eq!(yes_or_no(yes), Some(true), "{yes}");
        }
        for no in ["", "n", "No", " "] {
            assert_eq!(yes_or_no(no), Some(false), "{no:?}");
        }
        assert_eq!(yes_or_no("maybe"), None);
    }
}
