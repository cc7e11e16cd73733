//! ZooKeeper, with the znodes that Patroni uses, by a client of its own.
//!
//! Two sessions belong to an agent. Leader and member key are bound to the one on which verbs are carried out; nothing else is asked for
//! on it, so that the keys of an agent whose loop hangs go with their time. The other one watches (`watch`).

mod auth;
mod calls;
mod connection;
mod exhibitor;
mod fault;
mod heartbeat;
mod keys;
mod lock;
mod same_store;
mod transport;
mod tree;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use config::{ExhibitorConfig, ZookeeperConfig};
use futures_util::future::join_all;
use ha::cluster::{Cluster, Expired, Leader, Version};
use tokio::task::JoinHandle;

use self::calls::{Budget, Calls, Channel};
use self::connection::Session;
use self::exhibitor::Finder;
use self::heartbeat::Heartbeats;
use self::keys::{Keys, Touched};
use self::lock::Holder;
use self::watch::Watcher;
use crate::cache::Cache;
use crate::{
    Changes, Dcs, Error, Expect, Failure, Identity, Key, Layout, Renewed, Snapshot, Timing, WhenGone,
};

const CONNECT: &str = "connect to ZooKeeper";
const LOAD: &str = "read the cluster";
const TOUCH: &str = "write the member key";

/// A connection to a ZooKeeper ensemble.
pub struct Zookeeper {
    calls: Arc<Calls>,
    layout: Layout,
    member: Option<Member>,
    /// Of a reader, and until a member's verbs are called.
    reader: Channel,
    finder: Option<Finder>,
    /// What a reader without a watch listens to.
    silence: tokio::sync::watch::Sender<Changes>,
}

/// What only a member has.
struct Member {
    holder: Holder,
    cache: Arc<Cache>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Zookeeper {
    /// Connects to one of the servers and authenticates. With an identity it will hold a session and watches the cluster's keys, in tasks
    /// of the present runtime; without one it only reads and writes, and every read shows what a quorum has confirmed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while no server answers: try again. [`Error::Fatal`] if credentials or certificates are wrong.
    pub async fn connect(
        config: &ZookeeperConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        let servers = config.hosts.iter().map(ToString::to_string).collect();
        Self::connect_to(config, servers, None, layout, identity, timing).await
    }

    /// As [`Zookeeper::connect`], with the servers that Exhibitor names.
    ///
    /// # Errors
    /// Those of [`Zookeeper::connect`], and [`Error::Unavailable`] while Exhibitor does not answer.
    pub async fn connect_by_exhibitor(
        config: &ExhibitorConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        let finder = Finder::new(config)?;
        let servers = finder.servers().await?;
        Self::connect_to(&config.zookeeper, servers, Some(finder), layout, identity, timing).await
    }

    async fn connect_to(
        config: &ZookeeperConfig,
        servers: Vec<String>,
        finder: Option<Finder>,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        check(config)?;
        let calls = Arc::new(Calls::new(config, servers, timing));
        let reader = Channel::new(calls.clone());
        // What is wrong with addresses, credentials or certificates shows here.
        if identity.is_none() {
            exists(&reader, calls.persistent(), &layout).await?;
        }
        let member = match identity {
            Some(identity) => Some(Member::begin(&calls, &layout, identity, finder.clone()).await?),
            None => None,
        };
        Ok(Self {
            calls,
            layout,
            member,
            reader,
            finder,
            silence: tokio::sync::watch::channel(Changes::default()).0,
        })
    }

    /// The names of the clusters that have keys below `namespace`: for a person who types, not for a loop.
    ///
    /// # Errors
    /// Those of [`Zookeeper::connect`].
    pub async fn scopes(
        config: &ZookeeperConfig,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        let servers = config.hosts.iter().map(ToString::to_string).collect();
        Self::scopes_of(config, servers, namespace, timing).await
    }

    /// As [`Zookeeper::scopes`], with the servers that Exhibitor names.
    ///
    /// # Errors
    /// Those of [`Zookeeper::connect_by_exhibitor`].
    pub async fn scopes_by_exhibitor(
        config: &ExhibitorConfig,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        let servers = Finder::new(config)?.servers().await?;
        Self::scopes_of(&config.zookeeper, servers, namespace, timing).await
    }

    async fn scopes_of(
        config: &ZookeeperConfig,
        servers: Vec<String>,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        check(config)?;
        let calls = Arc::new(Calls::new(config, servers, timing));
        let channel = Channel::new(calls.clone());
        let layout = Layout::new(namespace, "", None);
        let top = match layout.read_prefix().trim_end_matches('/') {
            "" => "/".to_owned(),
            top => top.to_owned(),
        };
        let listed = channel.run("list the clusters", calls.persistent(), |connection, _| {
            let top = top.clone();
            Box::pin(async move {
                connection.sync(&top).await?;
                let names = connection.children(&top, false).await?.value.unwrap_or_default();
                let prefix = top.trim_end_matches('/').to_owned();
                let below = names.iter().map(|name| format!("{prefix}/{name}"));
                let below: Vec<String> = below.collect();
                let children = join_all(below.iter().map(|path| connection.children(path, false))).await;
                let mut scopes = BTreeSet::new();
                for (name, children) in names.into_iter().zip(children) {
                    let has_keys = children?.value.is_some_and(|children| !children.is_empty());
                    // ZooKeeper's own nodes.
                    if has_keys && !(prefix.is_empty() && name == "zookeeper") {
                        scopes.insert(name);
                    }
                }
                Ok(scopes)
            })
        });
        listed.await
    }

    /// Takes over another configuration: other servers, credentials, ACLs or certificates, without losing the session.
    ///
    /// # Errors
    /// As [`Zookeeper::connect`], or another chroot is another place; the former configuration stays in use.
    pub fn reload(&self, config: &ZookeeperConfig) -> Result<(), Error> {
        check(config)?;
        if config.chroot != self.calls.config().chroot {
            let why = "another chroot is another place: restart the agent";
            return Err(Error::Fatal(
                self.calls.failure("reload the configuration of ZooKeeper", why),
            ));
        }
        self.calls.reconfigure(config);
        self.calls
            .set_servers(config.hosts.iter().map(ToString::to_string).collect());
        Ok(())
    }

    /// As [`Zookeeper::reload`]; Exhibitor is asked for the servers.
    ///
    /// # Errors
    /// As [`Zookeeper::reload`].
    pub async fn reload_by_exhibitor(&self, config: &ExhibitorConfig) -> Result<(), Error> {
        // Servers that are not found keep those that are known.
        self.reload(&config.zookeeper)?;
        if let Some(finder) = &self.finder {
            finder.reconfigure(config);
            self.calls.set_servers(finder.servers().await?);
        }
        Ok(())
    }

    /// Whether Exhibitor names the servers.
    #[must_use]
    pub fn is_found_by_exhibitor(&self) -> bool {
        self.finder.is_some()
    }

    fn member(&self, operation: &'static str) -> Result<&Member, Error> {
        self.member.as_ref().ok_or_else(|| {
            Error::Fatal(
                self.calls
                    .failure(operation, "opened without a member's identity"),
            )
        })
    }

    /// The session for writes that are bound to none.
    fn channel(&self) -> &Channel {
        self.member
            .as_ref()
            .map_or(&self.reader, |member| &member.holder.channel)
    }

    fn keys(&self) -> Keys<'_> {
        Keys {
            layout: &self.layout,
            cache: self.member.as_ref().map(|member| &*member.cache),
        }
    }

    /// Status is written in every cycle anyway; everything else is worth waiting for.
    fn budget(&self, key: Key) -> Budget {
        match key {
            Key::Status | Key::Failsafe => self.calls.brief(),
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Origin => {
                self.calls.persistent()
            }
        }
    }
}

/// Whether the certificates can be used.
fn check(config: &ZookeeperConfig) -> Result<(), Error> {
    let hosts: Vec<String> = config.hosts.iter().map(ToString::to_string).collect();
    match transport::tls(config) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Fatal(Failure {
            operation: CONNECT,
            endpoint: hosts.join(","),
            source: error.into(),
        })),
    }
}

async fn exists(channel: &Channel, budget: Budget, layout: &Layout) -> Result<bool, Error> {
    let top = layout.read_prefix().trim_end_matches('/').to_owned();
    let top = if top.is_empty() { "/".to_owned() } else { top };
    let found = channel.run(CONNECT, budget, |connection, _| {
        let top = top.clone();
        Box::pin(async move { Ok(connection.exists(&top, false).await?.value) })
    });
    found.await
}

impl Member {
    async fn begin(
        calls: &Arc<Calls>,
        layout: &Layout,
        identity: Identity,
        finder: Option<Finder>,
    ) -> Result<Self, Error> {
        let cache = Arc::new(Cache::new(layout.clone()));
        let heartbeats = Arc::new(Heartbeats::default());
        let session = identity.lease.as_deref().and_then(parse_session);
        let channel = Channel::of_keys(calls.clone(), session);
        let watching = Channel::new(calls.clone());
        exists(&watching, calls.persistent(), layout).await?;
        let watcher = Watcher {
            channel: watching,
            cache: cache.clone(),
            layout: layout.clone(),
            heartbeats: heartbeats.clone(),
            is_plain: AtomicBool::new(false),
            has_broken: AtomicBool::new(false),
        };
        let mut tasks = vec![tokio::spawn(watcher.keep())];
        if let Some(finder) = finder {
            tasks.push(tokio::spawn(finder.keep(calls.clone())));
        }
        let holder = Holder::new(identity.name, layout.clone(), channel, cache.clone(), heartbeats);
        Ok(Self { holder, cache, tasks })
    }

    /// A leader key that is gone leaves a lock behind, which another member may hold until its heartbeat is old: the leader shows until
    /// then. Without a key it is bound to no session.
    fn with_lock(&self, snapshot: &Snapshot, mut cluster: Cluster) -> Cluster {
        let holder = &self.holder;
        if cluster.leader.is_none()
            && let Some(heartbeat) = cluster.heartbeat.as_ref().filter(|it| it.leader != holder.name)
            && !holder
                .heartbeats
                .is_over(snapshot.generation, heartbeat.version.0, heartbeat.ttl)
        {
            cluster.leader = Some(Leader {
                version: Version(0),
                name: heartbeat.leader.clone(),
                session: "0".to_owned(),
            });
        }
        cluster
    }
}

#[async_trait]
impl Dcs for Zookeeper {
    async fn load(&self) -> Result<Cluster, Error> {
        let budget = self.calls.persistent();
        let Some(member) = &self.member else {
            let read = self.reader.run(LOAD, budget, |connection, _| {
                Box::pin(async move { tree::read_confirmed(connection, &self.layout).await })
            });
            let tree = read.await?;
            let snapshot = Snapshot {
                revision: tree.zxid,
                generation: self.calls.history().generation,
                records: tree.records,
            };
            return Ok(snapshot.cluster(&self.layout));
        };
        let snapshot = member.cache.snapshot(budget.deadline).await;
        let snapshot = snapshot.map_err(|trouble| Error::Unavailable(self.calls.failure(LOAD, trouble)))?;
        if let Some(seen) = &member.holder.channel.seen {
            seen.store(snapshot.generation, Ordering::Relaxed);
        }
        Ok(member.with_lock(&snapshot, snapshot.cluster(&self.layout)))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        let holder = &self.member(TOUCH)?.holder;
        let touched = holder.channel.run(TOUCH, self.calls.brief(), |connection, _| {
            let data = data.to_owned();
            Box::pin(async move { holder.touch(&connection, &data).await })
        });
        match touched.await? {
            Touched::Yes => Ok(true),
            Touched::Taken => {
                let why = format!("there is already a node named '{}' running", holder.name);
                Err(Error::NameTaken(self.calls.failure(TOUCH, why)))
            }
        }
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        const OPERATION: &str = "acquire the leader key";
        let holder = &self.member(OPERATION)?.holder;
        let acquired = holder
            .channel
            .run(OPERATION, self.calls.persistent(), |connection, _| {
                Box::pin(async move { holder.acquire(&connection).await })
            });
        acquired.await
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        const OPERATION: &str = "supersede the leader";
        let holder = &self.member(OPERATION)?.holder;
        let superseded = holder.channel.run(
            OPERATION,
            self.calls.persistent(),
            move |connection, is_repeat| {
                Box::pin(async move { holder.supersede(&connection, expired, is_repeat).await })
            },
        );
        superseded.await
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        const OPERATION: &str = "renew the leader key";
        let holder = &self.member(OPERATION)?.holder;
        let renewed = holder
            .channel
            .run(OPERATION, self.calls.persistent(), move |connection, _| {
                Box::pin(async move {
                    let renewed = holder.renew(&connection, when_gone).await?;
                    if renewed == Renewed::No {
                        holder.check_store(&connection).await?;
                    }
                    Ok(renewed)
                })
            });
        renewed.await
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        const OPERATION: &str = "take the leader key";
        let holder = &self.member(OPERATION)?.holder;
        let taken = holder
            .channel
            .run(OPERATION, self.calls.persistent(), |connection, _| {
                Box::pin(async move { holder.take_whatever(&connection).await })
            });
        taken.await
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        const OPERATION: &str = "release the leader key";
        let holder = &self.member(OPERATION)?.holder;
        let released = holder
            .channel
            .run(OPERATION, self.calls.brief(), |connection, is_repeat| {
                let status = status.map(str::to_owned);
                Box::pin(async move { holder.release(&connection, status.as_deref(), is_repeat).await })
            });
        released.await
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        const OPERATION: &str = "write a key of the cluster";
        let written = self
            .channel()
            .run(OPERATION, self.budget(key), |connection, is_repeat| {
                let value = value.to_owned();
                Box::pin(async move {
                    self.keys()
                        .write(&connection, (key, &value), expect, is_repeat)
                        .await
                })
            });
        written.await
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        const OPERATION: &str = "delete a key of the cluster";
        let deleted = self
            .channel()
            .run(OPERATION, self.budget(key), move |connection, is_repeat| {
                Box::pin(async move { self.keys().delete(&connection, key, expect, is_repeat).await })
            });
        deleted.await
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        const OPERATION: &str = "delete the cluster";
        let deleted = self
            .channel()
            .run(OPERATION, self.calls.persistent(), |connection, _| {
                Box::pin(async move {
                    let top = self.layout.prefix().trim_end_matches('/');
                    connection.delete_tree(top, true).await
                })
            });
        deleted.await
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<Changes> {
        match &self.member {
            Some(member) => member.cache.changes(),
            None => self.silence.subscribe(),
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.calls.set_timing(timing);
    }

    fn adopt_lease(&self, lease: &str) {
        let id = lease.split(':').next().and_then(|id| id.parse().ok());
        if let (Some(member), Some(id)) = (&self.member, id) {
            member.holder.channel.adopt(id);
        }
    }

    fn lease(&self) -> Option<String> {
        let session = self.member.as_ref()?.holder.channel.session()?;
        let password: String = session
            .password
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Some(format!("{}:{password}", session.id))
    }
}

/// A session as [`Dcs::lease`] gives it.
fn parse_session(text: &str) -> Option<Session> {
    let (id, hex) = text.split_once(':')?;
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut password = [0; 16];
    for (at, byte) in password.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    let id = id.parse().ok()?;
    Some(Session { id, password })
}
