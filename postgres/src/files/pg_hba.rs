//! `pg_hba.conf` and `pg_ident.conf`: lists of lines of the configuration.

use super::HEADER;

/// The text of either file.
#[must_use]
pub fn render(lines: &[String]) -> String {
    let mut text = format!("{HEADER}\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The rules while a custom bootstrap is finished: only we get in, from this machine, without a password that the new
/// cluster may not know yet.
#[must_use]
pub fn bootstrap_lines(users: &[&str], local_addresses: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for user in users {
        let user = format!("\"{}\"", user.replace('"', "\"\""));
        lines.push(format!("local all {user} trust"));
        lines.push(format!("local replication {user} trust"));
        for address in local_addresses {
            let bits = if address.contains(':') { 128 } else { 32 };
            lines.push(format!("host all {user} {address}/{bits} trust"));
            lines.push(format!("host replication {user} {address}/{bits} trust"));
        }
    }
    lines
}
