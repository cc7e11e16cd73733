//! Which member streams from which: the tags `replicatefrom` and `nostream`, and what becomes of a loop of `replicatefrom`.
//!
//! A loop is broken at the member whose name sorts first: that one streams from the leader. All members know the same tags, so
//! they agree on which it is.

use crate::cluster::{Cluster, Member, Tags};
use crate::pg::MemberName;

/// The members as a tree that the leader is the root of.
#[derive(Debug, Clone, Copy)]
pub struct Cascade<'a> {
    cluster: &'a Cluster,
    /// A member's own tags, which are newer than those in its member key.
    own: Option<(&'a MemberName, &'a Tags)>,
}

impl<'a> Cascade<'a> {
    /// By the member keys alone.
    #[must_use]
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, own: None }
    }

    /// As the member `me` with these tags sees it.
    #[must_use]
    pub fn seen_by(cluster: &'a Cluster, me: &'a MemberName, tags: &'a Tags) -> Self {
        Self {
            cluster,
            own: Some((me, tags)),
        }
    }

    fn tags(&self, name: &MemberName) -> Option<&'a Tags> {
        let own = self.own.filter(|(me, _)| *me == name).map(|(_, tags)| tags);
        own.or_else(|| self.cluster.member(name).map(|member| &member.data.tags))
    }

    /// The member that `replicatefrom` names, if it can be streamed from.
    fn named(&self, name: &MemberName) -> Option<&'a Member> {
        let tags = self.tags(name)?;
        if tags.nostream() || self.cluster.is_leader(name) {
            return None;
        }
        let upstream = self.cluster.member(&tags.replicatefrom()?)?;
        (upstream.data.conn_url.is_some()).then_some(upstream)
    }

    /// The loop of `replicatefrom` that a member is in, from that member on; a member that names itself is a loop of one.
    #[must_use]
    pub fn loop_of(&self, name: &MemberName) -> Option<Vec<&'a MemberName>> {
        let mut found = vec![&self.named(name)?.name];
        while found.last().is_some_and(|last| *last != name) {
            let next = &self.named(found.last()?)?.name;
            if found.contains(&next) {
                // It leads into a loop and is not part of it.
                return None;
            }
            found.push(next);
        }
        found.rotate_right(1);
        Some(found)
    }

    /// The loop that is broken at this member.
    #[must_use]
    pub fn broken_loop(&self, name: &MemberName) -> Option<Vec<&'a MemberName>> {
        self.loop_of(name).filter(|all| all.iter().min() == Some(&name))
    }

    /// The member that this one streams from instead of the leader.
    #[must_use]
    pub fn instead_of_leader(&self, name: &MemberName) -> Option<&'a Member> {
        self.named(name).filter(|_| self.broken_loop(name).is_none())
    }

    /// The member that this one streams from; `None` for the leader, with `nostream`, and when nobody leads.
    #[must_use]
    pub fn upstream(&self, name: &MemberName) -> Option<&'a Member> {
        if self.cluster.is_leader(name) || self.tags(name).is_none_or(Tags::nostream) {
            return None;
        }
        self.instead_of_leader(name)
            .or_else(|| self.cluster.leader_member())
    }

    /// The members between this one and the leader, this one first: each streams from the next, the last one from the leader.
    ///
    /// # Errors
    /// The member at which the way ends, as it has the tag `nostream`.
    pub fn way_to_leader(&self, name: &'a MemberName) -> Result<Vec<&'a MemberName>, &'a MemberName> {
        let mut way = vec![name];
        loop {
            let last = way.last().copied().unwrap_or(name);
            match self.upstream(last) {
                Some(upstream) if self.cluster.is_leader(&upstream.name) => return Ok(way),
                // Without loops a way is never longer than there are members.
                Some(upstream) if way.len() <= self.cluster.members.len() => way.push(&upstream.name),
                Some(_) | None if self.tags(last).is_some_and(Tags::nostream) => return Err(last),
                Some(_) | None => return Ok(way),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, MemberData};

    fn cluster(members: &[(&str, &str)]) -> Cluster {
        let member = |(name, tags): &(&str, &str)| Member {
            name: (*name).into(),
            version: crate::cluster::Version(1),
            session: String::new(),
            data: MemberData {
                conn_url: Some(format!("postgres://{name}:5432/postgres")),
                tags: Tags(serde_json::from_str(tags).unwrap()),
                ..MemberData::default()
            },
        };
        Cluster {
            leader: Some(Leader {
                version: crate::cluster::Version(1),
                name: "a".into(),
                session: String::new(),
            }),
            members: members.iter().map(member).collect(),
            ..Cluster::default()
        }
    }

    fn upstreams(members: &[(&str, &str)]) -> Vec<Option<String>> {
        let cluster = cluster(members);
        let cascade = Cascade::new(&cluster);
        let upstream = |(name, _): &(&str, &str)| cascade.upstream(&(*name).into());
        let all = members.iter().map(upstream);
        all.map(|upstream| upstream.map(|member| member.name.to_string()))
            .collect()
    }

    fn some(names: &[&str]) -> Vec<Option<String>> {
        let name = |name: &&str| (*name != "-").then(|| (*name).to_owned());
        names.iter().map(name).collect()
    }

    #[test]
    fn a_loop_is_broken_at_the_first_name() {
        let from = |name: &str| format!(r#"{{"replicatefrom":"{name}"}}"#);
        let (b, c, d, e) = (from("b"), from("c"), from("d"), from("e"));
        let leader = ("a", "{}");
        assert_eq!(upstreams(&[leader, ("b", &c), ("c", &b)]), some(&["-", "a", "b"]));
        assert_eq!(
            upstreams(&[leader, ("d", &c), ("c", &e), ("e", &d)]),
            some(&["-", "c", "a", "d"]),
            "of any length"
        );
        assert_eq!(
            upstreams(&[leader, ("b", &c), ("c", &d), ("d", &c)]),
            some(&["-", "c", "a", "c"]),
            "who leads into a loop follows it"
        );
        assert_eq!(
            upstreams(&[leader, ("b", &b), ("c", &b)]),
            some(&["-", "a", "b"]),
            "a member that names itself"
        );
        let archive = r#"{"replicatefrom":"c","nostream":true}"#;
        assert_eq!(
            upstreams(&[leader, ("b", archive), ("c", &b)]),
            some(&["-", "-", "b"]),
            "a member that does not stream ends it"
        );
        assert_eq!(
            upstreams(&[("a", &b), ("b", &from("a"))]),
            some(&["-", "a"]),
            "the leader follows nobody"
        );
    }

    #[test]
    fn a_way_to_the_leader_may_end_at_a_member_that_does_not_stream() {
        let members = cluster(&[
            ("a", "{}"),
            ("b", r#"{"nostream":true}"#),
            ("c", r#"{"replicatefrom":"b"}"#),
            ("d", r#"{"replicatefrom":"e"}"#),
            ("e", "{}"),
        ]);
        let cascade = Cascade::new(&members);
        let (b, c, d, e): (MemberName, MemberName, MemberName, MemberName) =
            ("b".into(), "c".into(), "d".into(), "e".into());
        assert_eq!(cascade.way_to_leader(&c), Err(&b));
        assert_eq!(cascade.way_to_leader(&d), Ok(vec![&d, &e]));
    }
}
