//! Citus (Patroni documentation, "Citus support"): the coordinator's primary keeps `pg_dist_node`, and the leaders of the
//! workers tell it what they are about to do, so that writes wait for a moment instead of failing.
//!
//! [`keeper`] is the coordinator's side, [`notice`] the workers'. What has to be changed is decided by `ha::citus`.

mod keeper;
pub(crate) mod notice;

use std::time::Duration;

use ha::citus::{Address, Group, Notice};
use postgres::Server;
use tokio::sync::{mpsc, oneshot};

/// How many orders may wait; what is left out is said again in the next cycle.
const WAITING_MAX: usize = 64;

/// The longest time for which a worker may have a transaction kept open.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Keeps `pg_dist_node`, beside the loop. Clones are cheap.
#[derive(Clone)]
pub struct Keeper {
    orders: mpsc::Sender<Order>,
}

enum Order {
    /// This is how it should be.
    Keep(Vec<Group>),
    /// A worker changes.
    Notice(Told),
}

/// What a worker's leader has told.
struct Told {
    notice: Notice,
    /// Where its server is.
    address: Address,
    /// Dropped when it was acted upon.
    done: oneshot::Sender<()>,
}

impl Keeper {
    /// Starts it; it ends with the last clone. Connects when there is something to do.
    pub(crate) fn start(server: Server, database: String) -> Self {
        let (orders, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(keeper::run(server, database, receiver));
        Self { orders }
    }

    /// Has `pg_dist_node` brought in order, without waiting.
    pub(crate) fn keep(&self, groups: &[Group]) {
        let _ = self.orders.try_send(Order::Keep(groups.to_vec()));
    }

    /// Hands on what a worker's leader has told. What is returned ends when it was acted upon.
    pub(crate) fn tell(&self, notice: Notice, address: Address) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let told = Told {
            notice,
            address,
            done,
        };
        let _ = self.orders.try_send(Order::Notice(told));
        receiver
    }
}

/// A time that came in a body; it may be anything.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .min(TIMEOUT_MAX)
}
