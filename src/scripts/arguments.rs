//! Command lines with words that are for others.

use std::ffi::OsString;

use clap::Command;

/// What `command` or a command below it knows; other options are left out, as Python's `parse_known_args` does.
/// As there, what follows an unknown option and is no option itself stays, as one of the words at the end.
pub(super) fn known(command: &Command, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut names: Vec<String> = vec!["help".to_owned()];
    collect(command, &mut names);
    let is_known = |argument: &OsString| {
        let text = argument.to_string_lossy();
        let Some(option) = text.strip_prefix("--") else {
            return true;
        };
        let name = option.split('=').next().unwrap_or_default();
        names.iter().any(|known| known.starts_with(name))
    };
    arguments.filter(is_known).collect()
}

fn collect(command: &Command, names: &mut Vec<String>) {
    for argument in command.get_arguments() {
        let all = argument.get_long_and_visible_aliases().unwrap_or_default();
        names.extend(all.into_iter().map(str::to_owned));
    }
    for below in command.get_subcommands() {
        collect(below, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn options_of_others_are_left_out() {
        let command =
            Command::new("x").subcommand(Command::new("y").arg(Arg::new("datadir").long("datadir")));
        let given = [
            "y",
            "--datadir=/d",
            "--scope=demo",
            "--role",
            "replica",
            "--data",
            "/d",
        ];
        let known = known(&command, given.iter().map(OsString::from));
        assert_eq!(known, ["y", "--datadir=/d", "replica", "--data", "/d"]);
    }
}
