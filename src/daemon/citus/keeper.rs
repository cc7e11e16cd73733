//! The coordinator's side: one change of `pg_dist_node` after the other, over one connection.
//!
//! While a worker changes, its change is a transaction that stays open: it holds the locks for which writes to that worker
//! wait. It ends when the new primary is there, and is taken back when that takes too long.

use std::collections::VecDeque;
use std::time::Duration;

use ha::citus::{Address, Change, Group, Moment, Row, before_demote};
use postgres::{CitusSession, Instant, Server};
use tokio::sync::mpsc;

use super::{Order, Told, WAITING_MAX, seconds};

/// How long statements may go on that hold locks which are in the way, when nobody says.
const COOLDOWN: Duration = Duration::from_secs(10);

/// How long the database may take for a step, above that.
const STEP_TIME: Duration = Duration::from_secs(10);

struct Keeping {
    server: Server,
    database: String,
    session: Option<CitusSession>,
    open: Option<Open>,
    /// What came while another group's transaction was open.
    waiting: VecDeque<Told>,
}

/// The transaction that is open.
struct Open {
    group: u32,
    until: Instant,
    /// The address that the group's primary has got in it.
    primary: Option<Address>,
}

type Result<T> = std::result::Result<T, postgres::Error>;

pub(super) async fn run(server: Server, database: String, mut orders: mpsc::Receiver<Order>) {
    let mut keeping = Keeping {
        server,
        database,
        session: None,
        open: None,
        waiting: VecDeque::new(),
    };
    loop {
        let until = keeping.open.as_ref().map(|open| open.until);
        let out_of_time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Keep(groups)) => keeping.keep(&groups).await,
                Some(Order::Notice(told)) => keeping.hear(told).await,
                None => return,
            },
            () = out_of_time => keeping.take_back().await,
        }
        while keeping.open.is_none()
            && let Some(told) = keeping.waiting.pop_front()
        {
            keeping.hear(told).await;
        }
    }
}

impl Keeping {
    async fn keep(&mut self, groups: &[Group]) {
        let kept = match &self.open {
            None => self.bring_in_order(groups).await,
            // The new primary's own word was lost; the DCS says the same.
            Some(open) => {
                let mut changing = groups.iter().filter(|group| group.id == open.group);
                match changing.find(|group| open.primary.as_ref() == Some(&group.primary)) {
                    Some(group) => self.end_with(&group.clone()).await,
                    None => Ok(()),
                }
            }
        };
        self.note(kept);
    }

    async fn hear(&mut self, told: Told) {
        let group = told.notice.group;
        if self.open.as_ref().is_some_and(|open| open.group != group) {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(told);
            }
            return;
        }
        let (moment, leader) = (told.notice.moment, &told.notice.leader);
        tracing::info!("Citus group {group}: {leader} tells {moment:?}");
        let acted = match moment {
            Moment::BeforeDemote => self.before_demote(&told).await,
            Moment::BeforePromote => self.before_promote(&told).await,
            Moment::AfterPromote => self.after_promote(&told).await,
        };
        self.note(acted);
        drop(told.done);
    }

    /// What failed has left nothing behind: the connection goes, and with it the transaction.
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!("pg_dist_node is left as it was: {error}");
            self.session = None;
            self.open = None;
        }
    }

    async fn session(&mut self) -> Result<&CitusSession> {
        if self.session.as_ref().is_some_and(CitusSession::is_closed) {
            self.session = None;
            self.open = None;
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let deadline = Instant::now() + STEP_TIME;
                self.server.citus_session(&self.database, deadline).await?
            }
        };
        Ok(self.session.insert(session))
    }

    async fn rows(&mut self) -> Result<Vec<Row>> {
        self.session().await?.nodes(Instant::now() + STEP_TIME).await
    }

    async fn begin(&mut self) -> Result<()> {
        self.session().await?.begin(Instant::now() + STEP_TIME).await
    }

    async fn make(&mut self, changes: &[Change], cooldown: Duration) -> Result<()> {
        for change in changes {
            let deadline = Instant::now() + cooldown + STEP_TIME;
            self.session().await?.change(change, cooldown, deadline).await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.session().await?.commit(Instant::now() + STEP_TIME).await?;
        self.open = None;
        Ok(())
    }

    async fn bring_in_order(&mut self, groups: &[Group]) -> Result<()> {
        let rows = self.rows().await?;
        // A group whose change fails does not keep the others from theirs.
        let mut result = Ok(());
        for group in groups {
            let changes = group.changes(&rows);
            if changes.is_empty() {
                continue;
            }
            let changed = self.change_at_once(&changes).await;
            if changed.is_err() {
                self.session = None;
            }
            result = result.and(changed);
        }
        result
    }

    async fn change_at_once(&mut self, changes: &[Change]) -> Result<()> {
        self.begin().await?;
        self.make(changes, COOLDOWN).await?;
        self.commit().await
    }

    async fn before_demote(&mut self, told: &Told) -> Result<()> {
        let group = told.notice.group;
        let Some(change) = before_demote(group, &self.rows().await?) else {
            return Ok(());
        };
        self.begin().await?;
        self.make(&[change], cooldown(told)).await?;
        self.keep_open(told, None);
        Ok(())
    }

    async fn before_promote(&mut self, told: &Told) -> Result<()> {
        let wanted = self.promoted(told).await?;
        let changes = wanted.changes(&self.rows().await?);
        if self.open.is_none() {
            if changes.is_empty() {
                return Ok(());
            }
            self.begin().await?;
        }
        self.make(&changes, cooldown(told)).await?;
        self.keep_open(told, Some(told.address.clone()));
        Ok(())
    }

    async fn after_promote(&mut self, told: &Told) -> Result<()> {
        let wanted = self.promoted(told).await?;
        self.end_with(&wanted).await
    }

    /// Makes a group's rows what they should be, in the transaction that is open for it or in one of their own.
    async fn end_with(&mut self, wanted: &Group) -> Result<()> {
        let changes = wanted.changes(&self.rows().await?);
        if self.open.is_none() {
            return if changes.is_empty() {
                Ok(())
            } else {
                self.change_at_once(&changes).await
            };
        }
        self.make(&changes, COOLDOWN).await?;
        self.commit().await
    }

    /// The group with its new primary, and otherwise as it is.
    async fn promoted(&mut self, told: &Told) -> Result<Group> {
        let rows = self.rows().await?;
        Ok(Group::promoted(told.notice.group, &told.address, &rows))
    }

    fn keep_open(&mut self, told: &Told, primary: Option<Address>) {
        let until = Instant::now() + seconds(told.notice.timeout);
        self.open = Some(Open {
            group: told.notice.group,
            until: self.open.as_ref().map_or(until, |open| open.until.min(until)),
            primary,
        });
    }

    async fn take_back(&mut self) {
        let Some(open) = self.open.take() else { return };
        tracing::warn!(
            "Citus group {}: there is no new primary in time: the change of pg_dist_node is taken back",
            open.group
        );
        if let Some(session) = self.session.take()
            && session.rollback(Instant::now() + STEP_TIME).await.is_ok()
        {
            self.session = Some(session);
        }
    }
}

fn cooldown(told: &Told) -> Duration {
    seconds(told.notice.cooldown / 1000.0)
}
