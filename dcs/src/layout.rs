//! The paths of a cluster's keys.

use ha::pg::MemberName;

use crate::Key;

/// The group of a Citus cluster's coordinator.
const COORDINATOR: u32 = 0;

/// Where the keys of one cluster lie: `/<namespace>/<scope>/`, with `<group>/` below it in a Citus cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
    namespace: String,
    scope: String,
    citus_group: Option<u32>,
    /// Of a Citus coordinator: where the groups lie.
    groups: Option<String>,
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
        let groups = citus_group
            .filter(|group| *group == COORDINATOR)
            .map(|_| prefix.clone());
        if let Some(group) = citus_group {
            prefix.push_str(&format!("{group}/"));
        }
        Self {
            prefix,
            namespace: namespace.to_owned(),
            scope: scope.to_owned(),
            citus_group,
            groups,
        }
    }

    /// The cluster's name.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The namespace as it was written.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The group of a Citus cluster.
    #[must_use]
    pub fn citus_group(&self) -> Option<u32> {
        self.citus_group
    }

    /// What all keys begin with that are read: the cluster's own, and those of all groups for a Citus coordinator.
    #[must_use]
    pub fn read_prefix(&self) -> &str {
        self.groups.as_deref().unwrap_or(&self.prefix)
    }

    /// The layout of another group, for a Citus coordinator.
    pub(crate) fn worker(&self, group: u32) -> Option<Self> {
        let prefix = format!("{}{group}/", self.groups.as_ref()?);
        Some(Self {
            prefix,
            citus_group: Some(group),
            groups: None,
            ..self.clone()
        })
    }

    /// The worker group that a key belongs to and the key's path within it, for a Citus coordinator.
    pub(crate) fn worker_of<'a>(&self, key: &'a str) -> Option<(u32, &'a str)> {
        let (group, rest) = key.strip_prefix(self.groups.as_ref()?)?.split_once('/')?;
        let is_number = group.bytes().all(|byte| byte.is_ascii_digit()) && !group.starts_with('0');
        let group = group.parse().ok().filter(|_| is_number)?;
        Some((group, rest))
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

    #[test]
    fn a_coordinator_reads_all_groups() {
        let coordinator = Layout::new("service", "c", Some(0));
        assert_eq!(
            (coordinator.read_prefix(), coordinator.prefix()),
            ("/service/c/", "/service/c/0/")
        );
        assert_eq!(
            coordinator.worker_of("/service/c/12/members/a"),
            Some((12, "members/a"))
        );
        for key in [
            "/service/c/0/leader",
            "/service/c/01/leader",
            "/service/c/x/leader",
            "/service/c/leader",
            "/d/1/leader",
        ] {
            assert_eq!(coordinator.worker_of(key), None, "{key}");
        }
        let worker = Layout::new("service", "c", Some(1));
        assert_eq!(worker.read_prefix(), "/service/c/1/");
        assert_eq!(
            coordinator.worker(1).map(|layout| layout.prefix),
            Some(worker.prefix)
        );
    }
}
