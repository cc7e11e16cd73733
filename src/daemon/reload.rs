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

/// These are read at the start of the agent only (Patroni documentation, "Reload"): the former values stay. `docs/settings.md` says so of
/// each.
fn keep_what_needs_a_restart(local: &mut LocalConfig, former: &LocalConfig) {
    fn keep<T: Clone + PartialEq>(what: &str, value: &mut T, former: &T) {
        if value != former {
            tracing::warn!("{what} has changed: that takes effect when the agent is restarted");
            value.clone_from(former);
        }
    }
    keep("name", &mut local.name, &former.name);
    keep("scope", &mut local.scope, &former.scope);
    keep("namespace", &mut local.namespace, &former.namespace);
    keep("citus", &mut local.citus, &former.citus);
    keep("guard.mode", &mut local.guard, &former.guard);
    let (restapi, former_restapi) = (&mut local.restapi, &former.restapi);
    // Another address is another listener, which gets its own queue.
    if restapi.listen == former_restapi.listen {
        let size = &mut restapi.request_queue_size;
        keep(
            "restapi.request_queue_size",
            size,
            &former_restapi.request_queue_size,
        );
    }
    let (postgresql, former) = (&mut local.postgresql, &former.postgresql);
    keep("postgresql.data_dir", &mut postgresql.data_dir, &former.data_dir);
    keep(
        "postgresql.config_dir",
        &mut postgresql.config_dir,
        &former.config_dir,
    );
    // The running server reads the file that it was started with.
    let base_name = &mut postgresql.config_base_name;
    keep("postgresql.config_base_name", base_name, &former.config_base_name);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{name: a, scope: s, namespace: n, etcd3: {host: '127.0.0.1:2379'}, citus: {group: 0, database: c},
        guard: {mode: 'on'}, restapi: {listen: '127.0.0.1:1', connect_address: '127.0.0.1:1', request_queue_size: 5},
        postgresql: {listen: '127.0.0.1:2', data_dir: /d, config_dir: /c, config_base_name: b, database: p, pgpass: /p,
          authentication: {superuser: {username: s, password: s}, replication: {username: r, password: r}}}}";

    fn read(text: &str) -> LocalConfig {
        let tree = config::yaml::parse("test.yml", text).unwrap();
        LocalConfig::read(tree.as_map().cloned().unwrap()).unwrap().0
    }

    /// Of each setting that needs a restart by the table, and of some that do not.
    #[test]
    fn what_needs_a_restart_stays_and_the_rest_does_not() {
        let former = read(FILE);
        for (old, new, stays) in [
            ("name: a", "name: b", true),
            ("scope: s", "scope: t", true),
            ("namespace: n", "namespace: m", true),
            ("group: 0", "group: 1", true),
            ("database: c", "database: d", true),
            ("mode: 'on'", "mode: 'off'", true),
            ("request_queue_size: 5", "request_queue_size: 6", true),
            ("data_dir: /d", "data_dir: /e", true),
            ("config_dir: /c", "config_dir: /e", true),
            ("config_base_name: b", "config_base_name: e", true),
            ("database: p", "database: q", false),
            ("pgpass: /p", "pgpass: /q", false),
            ("127.0.0.1:2379", "127.0.0.1:2378", false),
            ("listen: '127.0.0.1:2'", "listen: '127.0.0.1:3'", false),
        ] {
            assert!(FILE.contains(old), "{old}");
            let mut local = read(&FILE.replace(old, new));
            keep_what_needs_a_restart(&mut local, &former);
            // The tree tells what is written.
            local.tree = former.tree.clone();
            assert_eq!(local == former, stays, "{new}");
        }
    }
}
