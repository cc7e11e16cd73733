//! Picks daemon or ctl, by the name that the program is called with or by its first argument.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use tamada::ctl;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    let is_patronictl = Path::new(&called_as)
        .file_name()
        .is_some_and(|name| name == "patronictl");
    let mut rest = args.peekable();
    if is_patronictl {
        return ctl::main(std::iter::once(OsString::from("patronictl")).chain(rest));
    }
    if rest.next_if(|first| first == "ctl").is_some() {
        return ctl::main(std::iter::once(OsString::from("tamada ctl")).chain(rest));
    }
    ExitCode::from(2)
}
