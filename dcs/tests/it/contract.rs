//! The contract of [`Dcs`], scenario by scenario, on every store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha::cluster::{Expired, Takeover, Version};
use ha::pg::Lsn;
use tamada_dcs::etcd3::Etcd3;
use tamada_dcs::memory::{MemoryDcs, SharedStore};
use tamada_dcs::{Dcs, Error, Expect, Identity, Key, Layout, Renewed, Timing, WhenGone};

use crate::etcd::Etcd;
use crate::server::{Server, Traits};

/// Patroni's defaults. A busy machine may take seconds for a few calls: no lease runs out meanwhile.
pub(crate) const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(10),
};

/// For leases that are to run out.
const SHORT: Timing = Timing {
    ttl: Duration::from_secs(5),
    ..TIMING
};

/// How long a change may take to show that takes milliseconds on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn identity(name: &str) -> Identity {
    Identity {
        name: name.into(),
        lease: None,
    }
}

/// A server and the cluster on it that one scenario has for itself.
pub(crate) struct Scene<'a> {
    pub(crate) server: &'a dyn Server,
    pub(crate) layout: Layout,
}

impl Scene<'_> {
    pub(crate) async fn open(&self, identity: Identity) -> Arc<dyn Dcs> {
        self.open_with(identity, TIMING).await
    }

    pub(crate) async fn open_with(&self, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        self.server.open(&self.layout, identity, timing).await
    }

    pub(crate) async fn member(&self, name: &str) -> Arc<dyn Dcs> {
        self.open(identity(name)).await
    }

    fn traits(&self) -> Traits {
        self.server.traits()
    }

    fn put(&self, key: &str, value: &str) {
        self.server.put(&format!("{}{key}", self.layout.prefix()), value);
    }

    fn expire(&self, name: &str, dcs: &dyn Dcs) {
        self.server.expire(&self.layout, name, dcs.lease());
    }

    fn wipe(&self) {
        self.server.wipe(self.layout.prefix());
    }

    /// The session that keys bound to this agent's lease have.
    fn session(&self, dcs: &dyn Dcs) -> String {
        match self.traits().has_leases {
            true => self.server.session(&dcs.lease().unwrap()),
            false => "0".to_owned(),
        }
    }

    /// Takes the leader key after its holder's lease has expired.
    async fn take_over(&self, dcs: &dyn Dcs) {
        if self.traits().absence_is_the_end {
            assert!(dcs.acquire_leader().await.unwrap());
            return;
        }
        assert!(
            !dcs.acquire_leader().await.unwrap(),
            "its holder's lock may not have expired"
        );
        let expired = eventually(dcs, LIMIT, "a leader without its key", expired).await;
        assert!(dcs.supersede_leader(expired).await.unwrap());
    }
}

/// What must still be so for the leader to be superseded.
pub(crate) fn expired(cluster: &ha::cluster::Cluster) -> Option<Expired> {
    cluster.heartbeat.as_ref()?.expired(cluster.leader.as_ref()?)
}

/// Waits for a change that makes `is_so` true; a limit instead of a sleep.
pub(crate) async fn eventually<T>(
    dcs: &dyn Dcs,
    limit: Duration,
    what: &str,
    is_so: impl Fn(&ha::cluster::Cluster) -> Option<T>,
) -> T {
    let until = tokio::time::Instant::now() + limit;
    let mut changes = dcs.changes();
    loop {
        if let Ok(cluster) = dcs.load().await
            && let Some(found) = is_so(&cluster)
        {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "not within {limit:?}: {what}"
        );
        let step = until.min(tokio::time::Instant::now() + Duration::from_millis(200));
        let _ = tokio::time::timeout_at(step, changes.changed()).await;
    }
}

async fn one_member_holds_the_leader_key(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(a.load().await.unwrap().is_empty());
    assert!(a.acquire_leader().await.unwrap());
    assert!(!b.acquire_leader().await.unwrap());
    let leader = a.load().await.unwrap().leader.unwrap();
    assert_eq!(
        (leader.name.as_str(), leader.session.clone()),
        ("a", scene.session(&*a))
    );
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let renewed = a.load().await.unwrap().leader;
    if scene.traits().has_heartbeat {
        assert_eq!(renewed, Some(leader), "a renewal leaves the key as it is");
    } else {
        assert!(renewed.is_some_and(|renewed| renewed.version > leader.version));
    }
    assert!(!b.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert!(!b.release_leader(Some(r#"{"optime":1}"#)).await.unwrap());
    assert_eq!(
        b.load().await.unwrap().status.optime,
        None,
        "only the leader tells its position"
    );

    assert!(a.release_leader(Some(r#"{"optime":77}"#)).await.unwrap());
    let cluster = a.load().await.unwrap();
    assert_eq!((cluster.leader, cluster.status.optime), (None, Some(Lsn(77))));
    assert!(!a.release_leader(None).await.unwrap());
    assert!(b.acquire_leader().await.unwrap());
    assert!(a.take_leader().await.unwrap());
    assert!(!b.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

async fn only_a_leader_that_renewed_no_more_is_superseded(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(a.acquire_leader().await.unwrap());
    let told = |cluster: &ha::cluster::Cluster| cluster.heartbeat.clone();
    let unproven = eventually(&*b, LIMIT, "the first heartbeat", told).await;
    let takeover = match scene.traits().has_takeover_lease {
        // No lease permits it yet.
        true => Takeover::Never,
        false => Takeover::Always,
    };
    assert_eq!(unproven.takeover, takeover);
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let first = eventually(&*b, LIMIT, "a heartbeat", expired).await;
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert!(!b.supersede_leader(first).await.unwrap(), "it has renewed since");
    let newer = |cluster: &ha::cluster::Cluster| expired(cluster).filter(|seen| *seen != first);
    let second = eventually(&*b, LIMIT, "the next heartbeat", newer).await;
    assert!(b.supersede_leader(second).await.unwrap());
    assert!(
        !a.renew_leader(WhenGone::Recreate).await.unwrap().is_held(),
        "it is another's now"
    );
    let others = |cluster: &ha::cluster::Cluster| cluster.leader.clone().filter(|l| l.name.0 == "b");
    eventually(&*a, LIMIT, "the new leader shows", others).await;
}

async fn a_leader_whose_key_was_overwritten_has_lost_it(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    assert!(a.acquire_leader().await.unwrap());
    scene.put("leader", "stranger");
    assert!(!a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let name = |cluster: &ha::cluster::Cluster| cluster.leader.clone().filter(|l| l.name.0 == "stranger");
    let found = eventually(&*a, LIMIT, "the stranger shows", name).await;
    assert_eq!(found.session, "0", "bound to no lease");
}

/// Somebody writes another member's name into the leader key: that one has no lock while the last leader may have one.
async fn a_member_that_a_hand_names_does_not_lead_at_once(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    scene.put("leader", "b");
    let named = |cluster: &ha::cluster::Cluster| {
        let leader = cluster.leader.clone().filter(|leader| leader.name.0 == "b")?;
        let heartbeat = cluster.heartbeat.as_ref();
        // Where the key is its own heartbeat, only one without `ttl` shows that a hand has written it.
        let is_shown =
            leader.is_unproved(heartbeat) || heartbeat.is_some_and(|it| it.version == leader.version);
        is_shown.then(|| Expired {
            leader: leader.version,
            heartbeat: heartbeat.map_or(Version(0), |heartbeat| heartbeat.version),
            takeover: None,
        })
    };
    let expired = eventually(&*b, LIMIT, "the name shows", named).await;
    if scene.traits().has_heartbeat {
        for when_gone in [WhenGone::Lost, WhenGone::Recreate] {
            assert!(!b.renew_leader(when_gone).await.unwrap().is_held());
        }
        assert!(!b.acquire_leader().await.unwrap());
    }
    assert!(!a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    // What the race decides when that lock is over.
    assert!(b.supersede_leader(expired).await.unwrap());
    assert!(b.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

async fn a_leader_recreates_its_key_and_binds_it_to_its_lease(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    assert!(a.acquire_leader().await.unwrap());
    scene.wipe();
    assert!(
        a.renew_leader(WhenGone::Recreate).await.unwrap().is_held(),
        "the store was wiped"
    );
    scene.put("leader", "a");
    assert!(
        a.renew_leader(WhenGone::Recreate).await.unwrap().is_held(),
        "the key is ours but bound to no lease"
    );
    let leader = a.load().await.unwrap().leader.unwrap();
    assert_eq!(leader.session, scene.session(&*a));
}

/// An acquisition that was not answered, and was done: the lock of the next one counts from its own heartbeat.
async fn a_key_that_is_ours_already_is_renewed(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    assert!(a.acquire_leader().await.unwrap());
    let heartbeat = |cluster: &ha::cluster::Cluster| cluster.heartbeat.as_ref().map(|known| known.version);
    let first = eventually(&*a, LIMIT, "the first heartbeat", heartbeat).await;
    if !a.acquire_leader().await.unwrap() {
        // The store knows whose attempt it was.
        return;
    }
    let newer = |cluster: &ha::cluster::Cluster| heartbeat(cluster).filter(|version| *version > first);
    eventually(&*a, LIMIT, "a heartbeat of the second call", newer).await;
}

/// A host that was suspended for longer than ttl.
async fn a_leader_does_not_take_its_key_back_from_who_led_since(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(a.acquire_leader().await.unwrap());
    scene.expire("a", &*a);
    let lost = a.renew_leader(WhenGone::Lost).await.unwrap();
    assert_eq!(lost, Renewed::No, "the race decides");
    let recreated = a.renew_leader(WhenGone::Recreate).await.unwrap();
    assert_eq!(recreated, Renewed::Yes, "nobody has led since");
    scene.expire("a", &*a);
    scene.take_over(&*b).await;
    scene.expire("b", &*b);
    if scene.traits().has_heartbeat {
        assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    }
    let gone = |cluster: &ha::cluster::Cluster| {
        let is_bound = cluster
            .leader
            .as_ref()
            .is_some_and(|leader| leader.session != "0");
        (!is_bound).then_some(())
    };
    eventually(&*a, Duration::from_secs(2), "the key is gone", gone).await;
    // By a race it may.
    scene.take_over(&*a).await;
}

async fn two_agents_of_one_name_are_told_apart(scene: &Scene<'_>) {
    let (a, clone) = (scene.member("a").await, scene.member("a").await);
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    assert_eq!(clone.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    assert!(!clone.acquire_leader().await.unwrap());
    for data in ["{}", r#"{"state":"running"}"#] {
        let error = clone.touch_member(data).await.unwrap_err();
        assert!(matches!(error, Error::NameTaken(_)), "{error:#}");
    }
    let cluster = a.load().await.unwrap();
    let bound = (
        cluster.leader.map(|leader| leader.session),
        Some(cluster.members[0].session.clone()),
    );
    let session = Some(scene.session(&*a));
    assert_eq!(bound, (session.clone(), session), "nothing was taken");
    // The agent that held it is proved to have ended, and left no note.
    clone.adopt_lease(&a.lease().unwrap());
    assert_eq!(
        clone.renew_leader(WhenGone::Recreate).await.unwrap(),
        Renewed::Yes
    );
    assert!(clone.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

/// Only the agent that holds the key releases it: no agent of the same name, and no earlier life of it.
async fn only_the_agent_that_holds_the_key_releases_it(scene: &Scene<'_>) {
    let (a, clone) = (scene.member("a").await, scene.member("a").await);
    assert!(a.acquire_leader().await.unwrap());
    let leads = |cluster: &ha::cluster::Cluster| cluster.leader.clone();
    let leader = eventually(&*clone, LIMIT, "the leader shows", leads).await;
    assert!(!clone.release_leader(Some(r#"{"optime":1}"#)).await.unwrap());
    assert_eq!(clone.load().await.unwrap().leader, Some(leader.clone()));
    // The next life has a lease of its own; what the life before asks for comes too late.
    clone.adopt_lease(&a.lease().unwrap());
    assert!(clone.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert!(!a.release_leader(Some(r#"{"optime":2}"#)).await.unwrap());
    let cluster = clone.load().await.unwrap();
    assert_eq!(
        cluster.leader.map(|leader| leader.session),
        Some(scene.session(&*clone)),
        "the key of the next life stays"
    );
    assert_eq!(cluster.status.optime, None);
    assert!(clone.release_leader(Some(r#"{"optime":3}"#)).await.unwrap());
    let cluster = clone.load().await.unwrap();
    assert_eq!((cluster.leader, cluster.status.optime), (None, Some(Lsn(3))));
    // A key of this name that is bound to no lease, as somebody wrote it by hand.
    scene.put("leader", "a");
    assert!(clone.release_leader(None).await.unwrap());
}

async fn writes_are_guarded(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    let first = a
        .write(Key::Config, r#"{"ttl":30}"#, Expect::Absent)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        a.load().await.unwrap().config.unwrap().version,
        first,
        "own writes show at once"
    );
    assert_eq!(a.write(Key::Config, "{}", Expect::Absent).await.unwrap(), None);
    let second = a
        .write(Key::Config, r#"{"ttl":31}"#, Expect::Version(first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        a.write(Key::Config, "{}", Expect::Version(first)).await.unwrap(),
        None
    );
    scene.put("config", r#"{"ttl":32}"#);
    assert_eq!(
        a.write(Key::Config, "{}", Expect::Version(second)).await.unwrap(),
        None
    );
    let config = a.load().await.unwrap().config.unwrap();
    assert_eq!(
        config.value["ttl"], 32,
        "a refused write shows what stands in its place"
    );
    assert!(
        a.write(Key::Config, r#"{"ttl":33}"#, Expect::Version(config.version))
            .await
            .unwrap()
            .is_some()
    );

    assert!(!a.delete(Key::Sync, Expect::Version(Version(1))).await.unwrap());
    let sync = r#"{"leader":"a","quorum":0,"sync_standby":null}"#;
    let version = a.write(Key::Sync, sync, Expect::Anything).await.unwrap().unwrap();
    assert!(!a.delete(Key::Sync, Expect::Version(second)).await.unwrap());
    assert!(a.delete(Key::Sync, Expect::Version(version)).await.unwrap());
    assert!(a.load().await.unwrap().sync.is_empty());
    assert!(
        a.write(Key::Initialize, "", Expect::Absent)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(a.load().await.unwrap().initialize.as_deref(), Some(""));
    assert!(a.delete(Key::Initialize, Expect::Anything).await.unwrap());
    a.delete_cluster().await.unwrap();
    let gone = |cluster: &ha::cluster::Cluster| cluster.is_empty().then_some(());
    eventually(&*a, LIMIT, "everything is deleted", gone).await;
}

async fn a_member_key_is_written_when_it_changes(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let data = r#"{"conn_url":"postgres://h:1/postgres","state":"running"}"#;
    assert!(a.touch_member(data).await.unwrap());
    let member = a.load().await.unwrap().member(&"a".into()).cloned().unwrap();
    assert_eq!(
        (member.session.clone(), member.data.to_json().as_str()),
        (scene.session(&*a), data)
    );
    assert!(a.touch_member(data).await.unwrap());
    if scene.traits().has_leases {
        assert_eq!(
            a.load().await.unwrap().member(&"a".into()),
            Some(&member),
            "unchanged"
        );
    }
    let changed = data.replace("running", "stopping");
    assert!(a.touch_member(&changed).await.unwrap());
    let version = a.load().await.unwrap().members[0].version;
    assert!(version > member.version);
    let seen =
        |cluster: &ha::cluster::Cluster| cluster.members.first().filter(|m| m.version == version).cloned();
    eventually(&*b, LIMIT, "the other member sees it", seen).await;
    // A key that is bound to no lease of ours is written again, however equal it is.
    scene.put("members/a", &changed);
    scene.put("members/a/deeper", "ignored");
    let foreign =
        |cluster: &ha::cluster::Cluster| cluster.members.first().filter(|m| m.session == "0").cloned();
    eventually(&*a, LIMIT, "the foreign write", foreign).await;
    assert!(a.touch_member(&changed).await.unwrap());
    let cluster = a.load().await.unwrap();
    assert_eq!(
        (cluster.members.len(), cluster.members[0].session.clone()),
        (1, scene.session(&*a))
    );
}

async fn keys_of_a_silent_member_run_out(scene: &Scene<'_>) {
    let a = scene.open_with(identity("a"), SHORT).await;
    let b = scene.open_with(identity("b"), SHORT).await;
    assert!(a.touch_member("{}").await.unwrap());
    assert!(a.acquire_leader().await.unwrap());
    let begun = Instant::now();
    // Half of ttl later the lease is prolonged, and lives for another ttl.
    tokio::time::sleep(SHORT.ttl / 2).await;
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let renewed = Instant::now();
    let free = |cluster: &ha::cluster::Cluster| {
        (cluster.leader.is_none() && cluster.members.is_empty()).then_some(())
    };
    let seen = |cluster: &ha::cluster::Cluster| cluster.leader.clone();
    eventually(&*b, LIMIT, "the leader shows", seen).await;
    if !scene.traits().leases_expire {
        // Its record is superseded when it is old; the member is there as long as its pod.
        assert!(!b.acquire_leader().await.unwrap());
        let expired = eventually(&*b, LIMIT, "the record", expired).await;
        assert!(b.supersede_leader(expired).await.unwrap());
        assert!(!a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
        return;
    }
    eventually(&*b, SHORT.ttl + LIMIT, "leader and member keys run out", free).await;
    let lived = renewed.elapsed();
    assert!(
        lived >= SHORT.ttl - Duration::from_millis(50),
        "{lived:?} of {:?}",
        begun.elapsed()
    );
    assert!(b.acquire_leader().await.unwrap());
    assert!(
        !a.renew_leader(WhenGone::Recreate).await.unwrap().is_held(),
        "with a new lease, but not as leader"
    );
    assert!(a.touch_member("{}").await.unwrap());
    assert_eq!(a.load().await.unwrap().members.len(), 1);
}

async fn another_ttl_means_another_lease(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    let old = a.lease();
    a.set_timing(Timing {
        ttl: Duration::from_secs(40),
        ..TIMING
    });
    assert!(
        a.renew_leader(WhenGone::Recreate).await.unwrap().is_held() && a.touch_member("{}").await.unwrap()
    );
    let cluster = a.load().await.unwrap();
    assert_ne!(a.lease(), old);
    let session = scene.session(&*a);
    assert_eq!(cluster.leader.unwrap().session, session);
    assert_eq!(cluster.members[0].session, session);
}

async fn a_member_that_comes_back_takes_its_lease_up_again(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    assert!(a.acquire_leader().await.unwrap());
    let (lease, leader) = (a.lease(), a.load().await.unwrap().leader);
    drop(a);
    let back = scene
        .open(Identity {
            name: "a".into(),
            lease: lease.clone(),
        })
        .await;
    assert!(back.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert_eq!((back.lease(), back.load().await.unwrap().leader), (lease, leader));
    let late = scene
        .open(Identity {
            name: "b".into(),
            lease: Some("4711".into()),
        })
        .await;
    assert!(!late.acquire_leader().await.unwrap());
    if !scene.traits().leases_expire {
        return;
    }
    assert!(late.lease().is_some_and(|lease| lease != "4711"));
}

async fn changes_are_told_at_once(scene: &Scene<'_>) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    b.load().await.unwrap();
    let mut changes = b.changes();
    // Of several the quickest counts: other work on the machine delays now and then.
    let mut quickest = Duration::MAX;
    for round in 0..5 {
        let before = *changes.borrow_and_update();
        a.write(Key::Config, &format!(r#"{{"ttl":{round}}}"#), Expect::Anything)
            .await
            .unwrap();
        let begun = Instant::now();
        tokio::time::timeout(LIMIT, changes.changed())
            .await
            .unwrap()
            .unwrap();
        quickest = quickest.min(begun.elapsed());
        let after = *changes.borrow_and_update();
        assert_eq!(
            after,
            tamada_dcs::Changes {
                config: before.config + 1,
                ..before
            }
        );
    }
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    let before = *changes.borrow_and_update();
    assert!(a.acquire_leader().await.unwrap());
    let until = tokio::time::Instant::now() + LIMIT;
    let told = |changes: &tamada_dcs::Changes| changes.leader > before.leader;
    tokio::time::timeout_at(until, changes.wait_for(told))
        .await
        .unwrap()
        .unwrap();
    let held = *changes.borrow_and_update();
    assert!(a.release_leader(Some(r#"{"optime":1}"#)).await.unwrap());
    let told = |changes: &tamada_dcs::Changes| changes.leader > held.leader && changes.status > held.status;
    tokio::time::timeout_at(until, changes.wait_for(told))
        .await
        .unwrap()
        .unwrap();
}

async fn malformed_values_do_not_break_the_view(scene: &Scene<'_>) {
    let a = scene.member("a").await;
    for key in [
        "config",
        "failover",
        "sync",
        "history",
        "status",
        "failsafe",
        "members/x",
        "unknown",
    ] {
        scene.put(key, "{broken");
    }
    scene.put("optime/leader", "5");
    let seen = |cluster: &ha::cluster::Cluster| (!cluster.members.is_empty()).then(|| cluster.clone());
    let cluster = eventually(&*a, LIMIT, "the member shows", seen).await;
    assert!(cluster.config.is_none() && cluster.sync.is_empty() && cluster.failsafe.is_none());
    assert_eq!(cluster.members.len(), 1);
}

/// Plays all scenarios.
pub(crate) async fn play(server: &dyn Server) {
    let scene = |scope: &str| Scene {
        server,
        layout: Layout::new("/service/", scope, None),
    };
    let (s1, s2, s3, s4, s5) = (scene("s1"), scene("s2"), scene("s3"), scene("s4"), scene("s5"));
    let (s6, s7, s8, s9, s10) = (scene("s6"), scene("s7"), scene("s8"), scene("s9"), scene("s10"));
    let (s11, s12, s13) = (scene("s11"), scene("s12"), scene("s13"));
    let (s14, s15, s16) = (scene("s14"), scene("s15"), scene("s16"));
    let of_leases = async {
        if server.traits().has_leases {
            tokio::join!(
                async {
                    if server.traits().leases_expire {
                        another_ttl_means_another_lease(&s7).await;
                    }
                },
                a_member_that_comes_back_takes_its_lease_up_again(&s8),
                two_agents_of_one_name_are_told_apart(&s13),
                only_the_agent_that_holds_the_key_releases_it(&s14),
            );
        }
    };
    tokio::join!(
        one_member_holds_the_leader_key(&s1),
        a_leader_whose_key_was_overwritten_has_lost_it(&s2),
        a_leader_recreates_its_key_and_binds_it_to_its_lease(&s3),
        writes_are_guarded(&s4),
        a_member_key_is_written_when_it_changes(&s5),
        keys_of_a_silent_member_run_out(&s6),
        malformed_values_do_not_break_the_view(&s10),
        only_a_leader_that_renewed_no_more_is_superseded(&s11),
        a_leader_does_not_take_its_key_back_from_who_led_since(&s12),
        a_key_that_is_ours_already_is_renewed(&s15),
        a_member_that_a_hand_names_does_not_lead_at_once(&s16),
        of_leases,
    );
    changes_are_told_at_once(&s9).await;
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    play(&SharedStore::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    play(&Etcd::start(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_cluster_keeps_the_contract() {
    play(&Etcd::start(3)).await;
}

#[tokio::test]
async fn an_unreachable_store_in_memory_is_an_error() {
    let store = SharedStore::new();
    let a = MemoryDcs::new(&store, &Layout::new("service", "a", None), &identity("a"), TIMING);
    assert!(a.acquire_leader().await.unwrap());
    a.set_reachable(false);
    assert!(
        a.renew_leader(WhenGone::Recreate)
            .await
            .unwrap_err()
            .is_maybe_applied()
            && a.load().await.is_err()
    );
    a.set_reachable(true);
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

#[tokio::test]
async fn the_layout_is_patronis_byte_for_byte() {
    let etcd = Etcd::start(1);
    let layout = Layout::new("/service/", "batman", None);
    let a = Etcd3::connect(&etcd.config(), layout, Some(identity("a")), TIMING)
        .await
        .unwrap();
    let member = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","state":"running"}"#;
    assert!(a.touch_member(member).await.unwrap() && a.acquire_leader().await.unwrap());
    let keys = [
        (Key::Initialize, "7277694203142172922"),
        (Key::Config, r#"{"ttl":30}"#),
        (Key::Failover, "{}"),
        (Key::Sync, r#"{"leader":"a","quorum":0,"sync_standby":null}"#),
        (Key::History, "[]"),
        (Key::Status, r#"{"optime":67108968}"#),
        (Key::Failsafe, r#"{"a":"http://127.0.0.1:8008/patroni"}"#),
    ];
    for (key, value) in keys {
        assert!(a.write(key, value, Expect::Anything).await.unwrap().is_some());
    }
    let expected = format!(
        "/service/batman/config\n{{\"ttl\":30}}\n\
         /service/batman/failover\n{{}}\n\
         /service/batman/failsafe\n{{\"a\":\"http://127.0.0.1:8008/patroni\"}}\n\
         /service/batman/heartbeat\n{{\"leader\":\"a\",\"ttl_ms\":30000,\"takeover\":0}}\n\
         /service/batman/history\n[]\n\
         /service/batman/initialize\n7277694203142172922\n\
         /service/batman/leader\na\n\
         /service/batman/members/a\n{member}\n\
         /service/batman/status\n{{\"optime\":67108968}}\n\
         /service/batman/sync\n{{\"leader\":\"a\",\"quorum\":0,\"sync_standby\":null}}\n"
    );
    // When the heartbeat was sent is another time in each run.
    let stored = etcd.ctl(&["get", "--prefix", "/"]).unwrap();
    let (start, rest) = stored.split_once(",\"sent\":").unwrap();
    let (_, end) = rest.split_once('}').unwrap();
    assert_eq!(format!("{start}{end}"), expected);
    let json = etcd
        .ctl(&["get", "/service/batman/leader", "-w", "json"])
        .unwrap();
    assert!(
        json.contains(&format!("\"lease\":{}", a.lease().unwrap())),
        "{json}"
    );
}
