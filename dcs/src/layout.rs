//! The paths of a cluster's keys.

use ha::pg::MemberName;

use crate::Key;

/// Where the keys of one cluster lie: `/<namespace>/<scope>/`, with `<group>/` below it in a Citus cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// The layout of cluster `scope` in `namespace`; repeated slashes count as one.
    #[must_use]
    pub fn new(namespace: &str, scope: &str, citus_group: Option<u32>) -> Self {
        let parts = namespace
            .split('/')
            .chain(scope.split('/'))
            .filter(|part| !part.is_empty());
        let mut prefix = String::from("/");
        for part in parts {
            prefix.push_str(part);
            prefix.push('/');
        }
        if let Some(group) = citus_group {
            prefix.push_str(&format!("{group}/"));
        }
        Self { prefix }
    }

    /// What all keys of the cluster begin with; ends with a slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The path of a key.
    #[must_use]
    pub fn key(&self, key: Key) -> String {
        format!("{}{}", self.prefix, key.as_str())
    }

    /// The path of the leader key.
    #[must_use]
    pub fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    /// The path of the heartbeat, which tells of the leader's last renewal.
    #[must_use]
    pub fn heartbeat(&self) -> String {
        format!("{}heartbeat", self.prefix)
    }

    /// The path of a member's key.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> String {
        format!("{}members/{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_slashes_count_as_one() {
        for namespace in ["service", "/service", "/service/", "//service//"] {
            let layout = Layout::new(namespace, "batman", None);
            assert_eq!(layout.prefix(), "/service/batman/");
            assert_eq!(layout.leader(), "/service/batman/leader");
            assert_eq!(layout.key(Key::Config), "/service/batman/config");
            assert_eq!(layout.member(&"a".into()), "/service/batman/members/a");
        }
        assert_eq!(Layout::new("/a//b/", "c", Some(0)).leader(), "/a/b/c/0/leader");
        assert_eq!(Layout::new("/", "c", None).leader(), "/c/leader");
    }
}
