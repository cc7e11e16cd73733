//! The text of `postgresql.conf`: an include of the user's own file, sorted parameters, then the recovery settings.

use super::HEADER;
use std::collections::BTreeMap;

/// The parameters of recovery: never among the ordinary ones (PostgreSQL manual, "Archive Recovery", "Recovery Target",
/// "Standby Servers").
pub(crate) const RECOVERY_PARAMETERS: [&str; 15] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
];

pub(crate) fn is_recovery_parameter(name: &str) -> bool {
    RECOVERY_PARAMETERS.contains(&name)
}

/// What the file is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Settings that give way to those of the included file.
    pub defaults: BTreeMap<String, String>,
    /// The file that is included.
    pub include: String,
    /// Ordinary parameters.
    pub parameters: BTreeMap<String, String>,
    /// `hba_file`
    pub hba_file: String,
    /// `ident_file`
    pub ident_file: String,
    /// Recovery settings.
    pub recovery: BTreeMap<String, String>,
}

impl Contents {
    /// The text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = HEADER.to_owned();
        if !self.defaults.is_empty() {
            text.push_str("# Defaults of a standby: all that follows goes before them.\n");
            for (name, value) in &self.defaults {
                text.push_str(&line(name, value));
            }
        }
        text.push_str(&include(&self.include));
        text.push('\n');
        for (name, value) in &self.parameters {
            text.push_str(&line(name, value));
        }
        text.push_str(&line("hba_file", &self.hba_file));
        text.push_str(&line("ident_file", &self.ident_file));
        if !self.recovery.is_empty() {
            text.push_str("\n# recovery.conf\n");
            for (name, value) in &self.recovery {
                text.push_str(&line(name, value));
            }
        }
        text
    }
}

fn include(file: &str) -> String {
    format!("include '{}'\n", escape(file))
}

pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", escape(value))
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\'', "''")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// The parameter that a line sets, with its value where that is written in quotes as we write it.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim();
    let value = match value.strip_prefix('\'') {
        None => value
            .split(['#', ' ', '\t'])
            .next()
            .unwrap_or_default()
            .to_owned(),
        Some(quoted) => {
            let mut text = String::new();
            let mut chars = quoted.chars().peekable();
            while let Some(c) = chars.next() {
                match c {
                    '\'' if chars.next_if_eq(&'\'').is_some() => text.push('\''),
                    '\'' => break,
                    '\\' => match chars.next() {
                        Some('n') => text.push('\n'),
                        Some('r') => text.push('\r'),
                        Some(c) => text.push(c),
                        None => break,
                    },
                    c => text.push(c),
                }
            }
            text
        }
    };
    Some((name.to_ascii_lowercase(), value))
}

/// All settings of a configuration file, the last of each name; includes are not followed.
pub(crate) fn read_settings(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(setting).collect()
}

/// The defaults of a file that [`Contents::render`] has written: what stands before its include.
pub(crate) fn read_defaults(text: &str) -> BTreeMap<String, String> {
    let is_ours = text.starts_with(HEADER);
    text.lines()
        .take_while(|line| is_ours && !line.starts_with("include "))
        .filter_map(setting)
        .collect()
}

/// The text of `postgresql.auto.conf` without recovery settings, which pg_basebackup, pg_rewind and `ALTER SYSTEM` may have
/// left there and which would beat ours; and the names of those.
pub(crate) fn without_recovery_settings(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut removed) = (String::new(), Vec::new());
    for line in text.lines() {
        match setting(line) {
            Some((name, _)) if is_recovery_parameter(&name) => removed.push(name.to_ascii_lowercase()),
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (kept, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_layout_is_patronis() {
        let mut contents = Contents {
            defaults: BTreeMap::new(),
            include: "postgresql.base.conf".to_owned(),
            parameters: map(&[("work_mem", "4MB"), ("archive_command", "cp '%p' \\x")]),
            hba_file: "/data/pg_hba.conf".to_owned(),
            ident_file: "/data/pg_ident.conf".to_owned(),
            recovery: map(&[("recovery_target_timeline", "latest"), ("primary_slot_name", "a")]),
        };
        expect![[r#"
            # Do not edit this file manually!
            # It will be overwritten by Patroni!
            include 'postgresql.base.conf'

            archive_command = 'cp ''%p'' \\x'
            work_mem = '4MB'
            hba_file = '/data/pg_hba.conf'
            ident_file = '/data/pg_ident.conf'

            # recovery.conf
            primary_slot_name = 'a'
            recovery_target_timeline = 'latest'
        "#]]
        .assert_eq(&contents.render());
        assert_eq!(read_defaults(&contents.render()), map(&[]));
        contents.defaults = map(&[("wal_receiver_timeout", "10s")]);
        expect![[r#"
            # Do not edit this file manually!
            # It will be overwritten by Patroni!
            # Defaults of a standby: all that follows goes before them.
            wal_receiver_timeout = '10s'
            include 'postgresql.base.conf'

            archive_command = 'cp ''%p'' \\x'
        "#]]
        .assert_eq(
            &contents
                .render()
                .split_inclusive('\n')
                .take(7)
                .collect::<String>(),
        );
        assert_eq!(read_defaults(&contents.render()), contents.defaults);
        // A file of the user's has none of ours.
        assert_eq!(
            read_defaults("wal_receiver_timeout = '1s'\ninclude 'x'\n"),
            map(&[])
        );
    }

    #[test]
    fn recovery_settings_are_taken_out_of_the_auto_file() {
        let text = "# comment\nwork_mem = '4MB'\nprimary_conninfo = 'host=a'\n  Restore_Command='x'\n";
        let (kept, removed) = without_recovery_settings(text);
        assert_eq!(kept, "# comment\nwork_mem = '4MB'\n");
        assert_eq!(removed, ["primary_conninfo", "restore_command"]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in "\\PC{0,40}") {
            prop_assert_eq!(read_settings(&line("a_b", &value)), map(&[("a_b", &value)]));
        }
    }
}
