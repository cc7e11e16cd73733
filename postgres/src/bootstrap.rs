//! Making a new cluster: initdb or a script, then roles and `post_bootstrap`.

use crate::command::{Invocation, Output};
use crate::connection::{quote_ident, quote_literal, rows};
use crate::data_directory::{Elsewhere, Filling, Leftovers};
use crate::files::memory_file::MemoryFile;
use crate::files::passfile::Credentials;
use crate::files::{ensure_directory, pg_hba, remove, signal, write_configuration};
use crate::process::watch::Watch;
use crate::server::locked;
use crate::{Conninfo, Error, Instant, Recovery, RecoverySignal, Result, Server, StartOptions};
use config::{BootstrapMethod, Role};
use std::ffi::OsString;
use std::net::ToSocketAddrs as _;
use std::time::Duration;
use tokio_postgres::Client;

/// Options of initdb that are given here, or that would make an unsafe cluster.
const FORBIDDEN: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Functions that pg_rewind calls on its source (PostgreSQL manual, pg_rewind, "Notes").
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// How often recovery is looked at where no file event tells of its end.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(200);

impl Server {
    /// Runs a program that fills the data directory, which is recorded as unfinished until
    /// [`Server::mark_finished`].
    pub(crate) async fn fill(
        &self,
        invocation: Invocation,
        filling: &Filling,
        deadline: Instant,
    ) -> Result<Output> {
        let was_unfinished = self.unfinished()?.is_some();
        let mut record = self.begin_filling(filling).await?;
        let (variable, token) = Self::mark_of_programs(&record);
        let invocation = invocation.env(variable, token).gently();
        // Declared first, so that it looks after the program was told to end.
        let _leftovers;
        let mut running = match invocation.spawn() {
            Ok(running) => running,
            Err(error) => {
                // Nothing was touched.
                if !was_unfinished {
                    self.mark_finished()?;
                }
                return Err(error);
            }
        };
        let pid = running.id();
        self.note_filling(&mut record, pid);
        _leftovers = Leftovers(record.clone());
        self.note_copying(|copying| copying.group = pid);
        tokio::select! {
            outcome = tokio::time::timeout_at(deadline, running.finish(&invocation)) => {
                outcome.map_err(|_| Error::timeout(invocation.name()))?
            }
            () = self.keep_marked_unfinished(&record) => Err(Error::Cancelled { what: invocation.name() }),
        }
    }

    /// Runs initdb and adds the lines of `bootstrap.pg_hba` where they apply.
    ///
    /// # Errors
    /// When an option is forbidden or initdb fails; the message has its last lines.
    pub async fn initdb(
        &self,
        options: &[(String, Option<String>)],
        pg_hba: &[String],
        deadline: Instant,
    ) -> Result<()> {
        let mut args: Vec<OsString> = Vec::new();
        for (name, value) in options {
            if FORBIDDEN.contains(&name.as_str()) {
                return Err(Error::Setting(format!(
                    "bootstrap.initdb: the option {name} is not allowed"
                )));
            }
            args.push(
                value
                    .as_ref()
                    .map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
                    .into(),
            );
        }
        let settings = self.settings();
        let superuser = &settings.local.authentication.superuser;
        if let Some(user) = &superuser.username {
            args.push(format!("--username={user}").into());
        }
        // Until initdb has ended.
        let mut password_file = None;
        if let Some(password) = &superuser.password {
            let file = MemoryFile::new("the password file of initdb", &format!("{}\n", password.reveal()))?;
            let mut option = OsString::from("--pwfile=");
            option.push(file.path());
            args.push(option);
            password_file = Some(file);
        }
        args.push(settings.local.data_dir.clone().into());
        let invocation = Invocation::new(self.program("initdb"), args).env("LC_MESSAGES", "C");
        let filling = Filling {
            is_new_cluster: true,
            keep_data: false,
            elsewhere: Elsewhere {
                wal: directories_of_wal(options),
                tablespaces: Vec::new(),
            },
        };
        // What another try has left, and is kept for it, is of no use here.
        self.discard_unfinished().await?;
        let outcome = self.fill(invocation, &filling, deadline).await;
        drop(password_file);
        if let Err(error) = outcome.and_then(Output::into_success) {
            self.discard_unfinished().await?;
            return Err(error);
        }
        if settings.pg_hba.is_none() && !self.has_custom_hba_file() && !pg_hba.is_empty() {
            self.append_to_hba(pg_hba)?;
        }
        self.mark_filled()
    }

    fn append_to_hba(&self, lines: &[String]) -> Result<()> {
        let settings = self.settings();
        ensure_directory(&settings.local.config_dir)?;
        self.write_hba_and_ident()?;
        let path = settings.local.config_dir.join("pg_hba.conf");
        let mut text = net::file::read(&path).map_err(Error::file("read", &path))?;
        for line in lines {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
        write_configuration(&path, &text, &settings.local.data_dir).map(drop)
    }

    /// Runs the command of a custom bootstrap method; returns how the server has to be started afterwards.
    ///
    /// # Errors
    /// When it fails, or leaves no data directory.
    pub async fn custom_bootstrap(
        &self,
        method: &BootstrapMethod,
        deadline: Instant,
    ) -> Result<StartOptions> {
        let BootstrapMethod::Custom {
            name,
            command,
            no_params,
            keep_existing_recovery_conf,
            recovery_conf,
            options,
        } = method
        else {
            return Err(Error::Setting(
                "the bootstrap method initdb has no command to run".to_owned(),
            ));
        };
        let mut invocation = Invocation::of_command_line(command)?;
        let data_dir = self.data_dir();
        if !no_params {
            let mut datadir = OsString::from("--datadir=");
            datadir.push(&data_dir);
            invocation = invocation.arg(format!("--scope={}", self.scope())).arg(datadir);
        }
        for (key, value) in options {
            invocation = invocation.arg(format!("--{key}={value}"));
        }
        tracing::info!("Running custom bootstrap script: {}", invocation.name());
        let filling = Filling {
            is_new_cluster: true,
            ..Filling::default()
        };
        self.discard_unfinished().await?;
        let output = self.fill(invocation, &filling, deadline).await?;
        if !output.status.success() {
            return Err(output.failure());
        }
        if !self.holds_a_cluster() {
            let text = format!(
                "bootstrap method {name} succeeded, but left no cluster in {}",
                data_dir.display()
            );
            return Err(Error::Unsuitable(text));
        }
        self.mark_filled()?;
        self.restore_configuration()?;
        self.trust_ourselves();
        let recovery = match recovery_conf {
            Some(settings) => Recovery::Custom(settings.iter().cloned().collect()),
            None if *keep_existing_recovery_conf => Recovery::Keep,
            None => Recovery::Primary,
        };
        let promotes_itself = matches!(&recovery, Recovery::Custom(settings)
            if settings.get("recovery_target_action").is_some_and(|action| action.eq_ignore_ascii_case("promote")));
        Ok(StartOptions {
            recovery,
            without_hot_standby: *keep_existing_recovery_conf || promotes_itself,
        })
    }

    /// Until the roles are as configured, we get in without passwords that the new cluster may not know.
    fn trust_ourselves(&self) {
        let settings = self.settings();
        let authentication = &settings.local.authentication;
        let superuser = authentication
            .superuser
            .username
            .clone()
            .unwrap_or_else(crate::connection::default_user);
        let replication = authentication.replication.username.clone();
        let users: Vec<&str> = std::iter::once(superuser.as_str())
            .chain(replication.as_deref())
            .collect();
        let host = settings.local.listen.local_host();
        let addresses = (host, settings.local.listen.port)
            .to_socket_addrs()
            .map(|addresses| {
                addresses
                    .map(|address| address.ip().to_string())
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default();
        let present = net::file::read_text(settings.local.config_dir.join("pg_hba.conf")).ok();
        let mut memory = locked(&self.shared.parameters);
        memory.former_hba = present;
        memory.bootstrap_hba = Some(pg_hba::bootstrap_lines(&users, &addresses));
    }

    /// After the first start: waits for the end of recovery, then superuser, `post_bootstrap`, replication and rewind
    /// roles; after a custom method the temporary pg_hba.conf gives way. Returns whether a restart is needed.
    ///
    /// # Errors
    /// When any part fails.
    pub async fn post_bootstrap(
        &self,
        method: &BootstrapMethod,
        post_bootstrap: Option<&str>,
        deadline: Instant,
    ) -> Result<bool> {
        let work = async {
            let client = self.connect(None, deadline).await?;
            self.wait_for_end_of_recovery(&client).await?;
            let authentication = self.settings().local.authentication.clone();
            let superuser = &authentication.superuser;
            if superuser.username.is_some() && superuser.password.is_some() {
                set_role(&client, superuser, "SUPERUSER").await?;
            }
            if let Some(command) = post_bootstrap {
                self.run_post_bootstrap(command, deadline).await?;
            }
            set_role(&client, &authentication.replication, "REPLICATION").await?;
            if let Some(rewind) = authentication
                .rewind
                .filter(|rewind| rewind.username != superuser.username)
            {
                set_role(&client, &rewind, "").await?;
                grant_rewind(&client, &rewind).await?;
            }
            Ok(())
        };
        tokio::time::timeout_at(deadline, work)
            .await
            .map_err(|_| Error::timeout("the bootstrap"))??;
        let needs_restart = match method {
            BootstrapMethod::Initdb => false,
            BootstrapMethod::Custom { .. } => self.end_custom_bootstrap(deadline).await?,
        };
        Ok(needs_restart)
    }

    /// The new cluster is complete: an agent that is started from now on keeps it.
    ///
    /// # Errors
    /// When the record that it is not cannot be removed.
    pub fn finish_new_cluster(&self) -> Result<()> {
        self.mark_finished()
    }

    async fn end_custom_bootstrap(&self, deadline: Instant) -> Result<bool> {
        locked(&self.shared.parameters).bootstrap_hba = None;
        locked(&self.shared.follow).current = Some(Recovery::Primary);
        signal::write(&self.data_dir(), RecoverySignal::None)?;
        remove(&self.data_dir().join(signal::PROMOTE))?;
        if self.settings().pg_hba.is_none() && !self.has_custom_hba_file() {
            self.restore_hba_from_backup()?;
        }
        self.apply(true, deadline).await?;
        Ok(self.has_custom_hba_file() || !self.pending_restart(deadline).await?.is_empty())
    }

    /// Without configured rules those that came with the copied cluster are put back.
    fn restore_hba_from_backup(&self) -> Result<()> {
        let settings = self.settings();
        let path = settings.local.config_dir.join("pg_hba.conf");
        match locked(&self.shared.parameters).former_hba.take() {
            Some(text) => write_configuration(&path, &text, &settings.local.data_dir).map(drop),
            None => Ok(()),
        }
    }

    async fn wait_for_end_of_recovery(&self, client: &Client) -> Result<()> {
        let data_dir = self.data_dir();
        let watch = Watch::new(&[&data_dir, &data_dir.join("global")]);
        loop {
            let answer = rows(
                client,
                "asking whether recovery has ended",
                "SELECT pg_is_in_recovery()",
            )
            .await?;
            if answer.first().and_then(|row| row.get(0)) == Some("f") {
                return Ok(());
            }
            tokio::select! {
                () = watch.changed(|name| name == "pg_control") => {}
                () = tokio::time::sleep(RECOVERY_INTERVAL) => {}
            }
        }
    }

    async fn run_post_bootstrap(&self, command: &str, deadline: Instant) -> Result<()> {
        let settings = self.settings();
        let superuser = &settings.local.authentication.superuser;
        let mut conninfo: Conninfo = superuser.options.clone().into_iter().collect();
        conninfo.set("user", superuser.username.clone());
        conninfo.set("dbname", Some(settings.local.database.clone()));
        self.local_address(settings.use_unix_socket)
            .write_to(&mut conninfo);
        let credentials = Credentials::new(conninfo, superuser)?;
        let mut invocation = Invocation::of_command_line(command)?
            .arg(credentials.conninfo.to_text())
            .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
        invocation.env.extend(credentials.env.clone());
        let output = invocation.run(deadline).await?;
        if output.status.success() {
            Ok(())
        } else {
            Err(output.failure())
        }
    }
}

/// The WAL directory elsewhere that initdb or pg_basebackup are to make.
pub(crate) fn directories_of_wal(options: &[(String, Option<String>)]) -> Vec<std::path::PathBuf> {
    options
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "waldir" | "xlogdir"))
        .filter_map(|(_, value)| value.as_ref().map(std::path::PathBuf::from))
        .collect()
}

/// Keeps a statement that holds a password out of the server's log and its extensions' memory.
const SILENTLY: &str = "SET log_statement TO none; SET log_min_duration_statement TO -1; \
     SET log_min_error_statement TO panic; SET log_duration TO off; SET log_min_messages TO fatal; \
     SET pg_stat_statements.track_utility TO off; SET pgaudit.log TO none; SET synchronous_commit TO local";

const AGAIN: &str = "RESET log_statement; RESET log_min_duration_statement; RESET log_min_error_statement; \
     RESET log_duration; RESET log_min_messages; RESET pg_stat_statements.track_utility; RESET pgaudit.log";

/// Creates or alters a role with its password; without a name there is nothing to do.
async fn set_role(client: &Client, role: &Role, attributes: &str) -> Result<()> {
    let Some(name) = &role.username else { return Ok(()) };
    let what = format!("setting up the role {name}");
    let exists = format!("SELECT 1 FROM pg_roles WHERE rolname = {}", quote_literal(name));
    let verb = if rows(client, &what, &exists).await?.is_empty() {
        "CREATE"
    } else {
        "ALTER"
    };
    let password = role
        .password
        .as_ref()
        .map(|password| format!(" PASSWORD {}", quote_literal(password.reveal())));
    let statement = format!(
        "{verb} ROLE {} WITH LOGIN {attributes}{}",
        quote_ident(name),
        password.unwrap_or_default()
    );
    // One at a time: a text of several statements is logged as a whole before its first one is executed.
    rows(client, &what, SILENTLY).await?;
    let set = rows(client, &what, &statement).await;
    rows(client, &what, AGAIN).await?;
    set.map(drop)
}

async fn grant_rewind(client: &Client, role: &Role) -> Result<()> {
    let Some(name) = &role.username else { return Ok(()) };
    for function in REWIND_FUNCTIONS {
        let sql = format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {}",
            quote_ident(name)
        );
        rows(client, "granting what pg_rewind needs", &sql).await?;
    }
    Ok(())
}
