//! What a command works with: the settings, the DCS, the members' REST API, the user's patience.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dcs::{Dcs, Layout};
use ha::citus::COORDINATOR;
use ha::cluster::Member;
use net::http::{Method, Response};
use serde_json::Value;

use super::error::Error;
use super::rest::{NoAnswer, Rest, STATUS};
use super::settings::Settings;
use super::view::View;

/// One run of the program.
pub(crate) struct Session {
    settings: Settings,
    rest: Rest,
    ignores_interrupt: Cell<bool>,
    goes_on: RefCell<Option<String>>,
}

/// The DCS's side of one cluster.
pub(crate) struct Store {
    dcs: Arc<dyn Dcs>,
    is_citus: bool,
    group: Option<u32>,
}

impl Session {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            rest: Rest::default(),
            ignores_interrupt: Cell::new(false),
            goes_on: RefCell::new(None),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The group that was given, else the one of the configuration.
    pub(crate) fn group_or_own(&self, given: Option<u32>) -> Option<u32> {
        given.or(self.settings.citus_group)
    }

    /// The DCS's side of a cluster, or of one of its Citus groups.
    ///
    /// # Errors
    /// The DCS's settings cannot be used.
    pub(crate) async fn store(&self, cluster_name: &str, group: Option<u32>) -> Result<Store, Error> {
        let is_citus = group.is_some() || self.settings.citus_group.is_some();
        // Whoever asks for no group in particular sees them all, as the coordinator does.
        let shown = group.or(is_citus.then_some(COORDINATOR));
        let layout = Layout::new(&self.settings.namespace, cluster_name, shown);
        let dcs = self.settings.connect(layout).await?;
        Ok(Store { dcs, is_citus, group })
    }

    /// The same for the cluster that was named, else for the configuration's own; with the name.
    ///
    /// # Errors
    /// None is named, or the DCS's settings cannot be used.
    pub(crate) async fn store_or_scope(
        &self,
        cluster_name: Option<String>,
        group: Option<u32>,
    ) -> Result<(String, Store), Error> {
        let name = cluster_name
            .or_else(|| self.settings.scope.clone())
            .ok_or_else(|| {
                Error::new("no cluster name: give it as an argument, or set scope in the configuration")
            })?;
        let store = self.store(&name, group).await?;
        Ok((name, store))
    }

    /// A request to a member's REST API; all of it takes at most `timeout`.
    ///
    /// # Errors
    /// There is no answer. A bad status is an answer.
    pub(crate) async fn request(
        &self,
        member: &Member,
        target: (Method, &str),
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Response, NoAnswer> {
        self.rest
            .request(&self.settings, member, target, body, timeout)
            .await
    }

    /// A member's status document, for a person who watches; `None` without one.
    pub(crate) async fn status(&self, member: &Member) -> Option<Value> {
        let target = (Method::GET, "patroni");
        let response = self.request(member, target, None, STATUS).await.ok()?;
        response.json()
    }

    /// Runs something that Ctrl-C does not end.
    pub(crate) async fn without_interrupt<T>(&self, work: impl Future<Output = T>) -> T {
        self.ignores_interrupt.set(true);
        let result = work.await;
        self.ignores_interrupt.set(false);
        result
    }

    /// Waits for something that the members do whether anybody waits or not. `what` says so to whoever presses Ctrl-C.
    pub(crate) async fn while_it_goes_on<T>(&self, what: String, work: impl Future<Output = T>) -> T {
        self.goes_on.replace(Some(what));
        let result = work.await;
        self.goes_on.replace(None);
        result
    }

    /// What goes on when the program ends now.
    pub(crate) fn goes_on(&self) -> Option<String> {
        self.goes_on.borrow().clone()
    }

    /// Whether Ctrl-C ends the program now.
    pub(crate) fn minds_interrupt(&self) -> bool {
        !self.ignores_interrupt.get()
    }
}

impl Store {
    /// Reads everything about the cluster.
    ///
    /// # Errors
    /// The DCS does not answer.
    pub(crate) async fn view(&self) -> Result<View, Error> {
        let mut cluster = self.dcs.load().await?;
        let workers = std::mem::take(&mut cluster.workers);
        let mut groups = BTreeMap::from([(self.group.unwrap_or(COORDINATOR), cluster)]);
        if self.group.is_none() {
            groups.extend(workers);
        }
        Ok(View {
            groups,
            is_citus: self.is_citus,
            group: self.group,
            remarks: Vec::new(),
        })
    }

    /// For writing.
    pub(crate) fn dcs(&self) -> &dyn Dcs {
        self.dcs.as_ref()
    }
}
