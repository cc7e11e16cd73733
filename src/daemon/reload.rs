//! Reading the configuration again: SIGHUP, or `POST /reload`. A broken one changes nothing.

use std::sync::Arc;

use config::LocalConfig;
use ha::event::{Origin, What};

use super::cycle::Daemon;
use super::settings::{self, Change};
use super::{http, notify};

impl Daemon {
    /// Reads the configuration again and puts it into force as far as that is possible without a restart.
    pub(crate) async fn reload(&mut self) {
        notify::reloading();
        if self.configuration.has_files() {
            match self.configuration.read() {
                Ok((local, problems)) => {
                    settings::log_problems(&problems);
                    self.adopt_local(local).await;
                }
                Err(error) => {
                    tracing::error!(
                        "the former configuration stays in force, the new one cannot be used: {error:#}"
                    );
                }
            }
        }
        // Files that the configuration only names may have changed: certificates, what is included in postgresql.conf.
        if let Err(error) = self.world.http.reload(&http::options(&self.world.settings.local)) {
            tracing::error!("{error}");
        }
        self.applier.request_reload();
        notify::ready();
    }

    async fn adopt_local(&mut self, mut local: LocalConfig) {
        let former = Arc::clone(&self.world.settings.local);
        keep_what_needs_a_restart(&mut local, &former);
        if local == *former {
            tracing::info!("No local configuration items changed.");
            // A value of its own all the same: whoever reads files that it names, reads them again.
            self.world.settings.local = Arc::new(local);
            return;
        }
        self.log.configure(&local);
        if local.dcs != former.dcs
            && let Err(error) = self.store.reload(&local.dcs).await
        {
            tracing::error!("the former DCS settings stay in force: {error:#}");
            local.dcs = former.dcs.clone();
        }
        if self.change_settings(Change::Local(Arc::new(local))) {
            self.events.tell(What::Configuration {
                origin: Origin::Member,
                changed: Vec::new(),
            });
        }
    }
}

/// Patroni documentation, "Reload": these are read at the start of the agent only.
fn keep_what_needs_a_restart(local: &mut LocalConfig, former: &LocalConfig) {
    let keep = |what: &str, is_same: bool| {
        if !is_same {
            tracing::warn!("{what} has changed: that takes effect when the agent is restarted");
        }
    };
    keep("name", local.name == former.name);
    keep("scope", local.scope == former.scope);
    keep("namespace", local.namespace == former.namespace);
    keep(
        "postgresql.data_dir",
        local.postgresql.data_dir == former.postgresql.data_dir,
    );
    keep(
        "postgresql.config_dir",
        local.postgresql.config_dir == former.postgresql.config_dir,
    );
    local.name.clone_from(&former.name);
    local.scope.clone_from(&former.scope);
    local.namespace.clone_from(&former.namespace);
    local.postgresql.data_dir.clone_from(&former.postgresql.data_dir);
    local
        .postgresql
        .config_dir
        .clone_from(&former.postgresql.config_dir);
}
