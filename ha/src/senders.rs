//! Which of the connections that stream WAL from this server are members' own.
//!
//! PostgreSQL goes by `application_name` when it counts standbys for a commit, and whoever may replicate can call itself by a
//! member's name. A member's own WAL receiver uses the member's slot; without slots it comes from the member's address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::citus::Address;
use crate::cluster::{Cluster, Member};
use crate::facts::{Node, WalSender};
use crate::pg::MemberName;

/// `NAMEDATALEN - 1`: as much of a name as `pg_stat_replication` shows.
const SHOWN_MAX: usize = 63;

/// Since then PostgreSQL writes bytes that are not printable ASCII as `\xHH`; before as `?`.
const ESCAPES_SINCE: u32 = 160_000;

/// A name as PostgreSQL makes it when it comes as `application_name`, and compares it with `synchronous_standby_names`.
#[must_use]
pub fn application_name(name: &str, server_version: u32) -> String {
    let mut clean = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b' '..=b'~' => clean.push(char::from(byte)),
            _ if server_version >= ESCAPES_SINCE => clean.push_str(&format!("\\x{byte:02x}")),
            _ => clean.push('?'),
        }
    }
    clean
}

/// The connections that stream from a member's server.
#[derive(Debug, Clone, Copy)]
pub struct Senders<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    all: &'a [WalSender],
}

impl<'a> Senders<'a> {
    /// Those of the member `node`.
    #[must_use]
    pub fn new(cluster: &'a Cluster, node: &'a Node, all: &'a [WalSender]) -> Self {
        Self { cluster, node, all }
    }

    fn is_named(&self, sender: &WalSender, name: &MemberName) -> bool {
        let name = application_name(name.as_str(), self.node.server_version);
        // All of it is ASCII, so it can be cut anywhere.
        let shown = name.get(..SHOWN_MAX).unwrap_or(&name);
        sender.application_name.eq_ignore_ascii_case(shown)
    }

    /// Connections under the member's name. What only asks something, or copies the data directory, counts for no commit.
    fn named(&self, member: &'a Member) -> impl Iterator<Item = &'a WalSender> {
        let senders = *self;
        let streams = |sender: &&WalSender| sender.is_streaming || sender.is_catching_up;
        let named = move |sender: &&WalSender| senders.is_named(sender, &member.name);
        self.all.iter().filter(streams).filter(named)
    }

    fn is_own(&self, sender: &WalSender, member: &Member) -> bool {
        if self.node.use_slots {
            return sender.slot.as_ref() == Some(&member.name.slot_name());
        }
        let published = member.data.conn_url.as_deref().and_then(Address::of_conn_url);
        match published.and_then(|address| address.host.parse::<IpAddr>().ok()) {
            Some(address) => match sender.client.as_deref() {
                Some(client) => {
                    let client = client.parse::<IpAddr>().ok();
                    client.is_some_and(|client| client.to_canonical() == address.to_canonical())
                }
                // Over a Unix-domain socket: from this host.
                None => address.is_loopback(),
            },
            // A name of a host says nothing of the address, but not two addresses are one member's.
            None => self.named(member).all(|other| other.client == sender.client),
        }
    }

    /// The member's own connections.
    pub fn of(&self, member: &'a Member) -> impl Iterator<Item = &'a WalSender> {
        let senders = *self;
        self.named(member)
            .filter(move |sender| senders.is_own(sender, member))
    }

    /// The members whose names are used by connections that are not theirs: PostgreSQL would count those.
    #[must_use]
    pub fn with_strangers(&self) -> BTreeSet<MemberName> {
        let others = self
            .cluster
            .members
            .iter()
            .filter(|member| member.name != self.node.name);
        let has_stranger = |member: &&Member| self.named(member).any(|sender| !self.is_own(sender, member));
        others
            .filter(has_stranger)
            .map(|member| member.name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_postgresql_makes_of_them() {
        for (name, old, new) in [
            ("pg-1", "pg-1", "pg-1"),
            ("jürgen", "j??rgen", "j\\xc3\\xbcrgen"),
            ("a\tb", "a?b", "a\\x09b"),
        ] {
            assert_eq!(application_name(name, 150_004), old);
            assert_eq!(application_name(name, 160_000), new);
        }
    }
}
