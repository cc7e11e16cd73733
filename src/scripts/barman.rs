//! `patroni_barman`: restores a backup, or switches Barman's configuration, through `pg-backup-api` on Barman's host
//! (Patroni documentation, "Integration with other tools").

mod api;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::api::{Api, OperationStatus};
use super::journal::Journal;
use super::run_to_end;
use crate::option_value;

/// How often a switch of the configuration is asked for: it takes seconds, where a recovery takes hours.
const SWITCH_WAIT: Duration = Duration::from_secs(5);

/// Restore backups and switch configurations of Barman through pg-backup-api
#[derive(Debug, Parser)]
#[command(
    name = "patroni_barman",
    infer_long_args = true,
    allow_negative_numbers = true
)]
pub struct Barman {
    /// URL of pg-backup-api, as in http://localhost:7480
    #[arg(long, value_name = "URL")]
    api_url: String,
    /// Certificate to show to the API
    #[arg(long, value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Seconds to wait before a failed request is made again
    #[arg(value_parser = option_value::whole::<u64>, long, value_name = "SECONDS", default_value_t = 2)]
    retry_wait: u64,
    /// How often a request is made whose answer cannot be understood
    #[arg(value_parser = option_value::whole::<u32>, long, value_name = "TIMES", default_value_t = 5)]
    max_retries: u32,
    /// Where to log; otherwise to standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Restore a backup to this host, as `barman recover` does
    Recover(Recover),
    /// Switch a server's configuration, as `barman config-switch` does; a callback on_role_change
    ConfigSwitch(ConfigSwitch),
}

#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
struct Recover {
    /// Barman's name of the server to restore from
    #[arg(long, value_name = "NAME")]
    barman_server: String,
    /// Which backup, in any form that `barman recover` takes
    #[arg(long, value_name = "ID", default_value = "latest")]
    backup_id: String,
    /// How Barman reaches this host: its `--remote-ssh-command`
    #[arg(long, value_name = "COMMAND")]
    ssh_command: String,
    /// Where to
    #[arg(long, visible_alias = "datadir", value_name = "DIRECTORY")]
    data_directory: String,
    /// Seconds between questions how far it is
    #[arg(value_parser = option_value::whole::<u64>, long, value_name = "SECONDS", default_value_t = 10)]
    loop_wait: u64,
    /// Words for others
    #[arg(hide = true)]
    others: Vec<String>,
}

#[derive(Debug, Args)]
struct ConfigSwitch {
    /// What has happened; filled in by the agent
    #[arg(value_enum)]
    action: Action,
    /// This member's new role; filled in by the agent
    #[arg(value_enum)]
    role: Role,
    /// The cluster; filled in by the agent
    cluster: String,
    /// Barman's name of the server whose configuration is switched
    #[arg(long, value_name = "NAME")]
    barman_server: String,
    /// The model to apply
    #[arg(
        long,
        value_name = "MODEL",
        required_unless_present = "reset",
        conflicts_with = "reset"
    )]
    barman_model: Option<String>,
    /// Take back the model that is applied, if there is one
    #[arg(long)]
    reset: bool,
    /// On which new roles
    #[arg(long, value_enum, value_name = "WHEN")]
    switch_when: When,
    /// Words for others
    #[arg(hide = true)]
    others: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Action {
    OnRoleChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Role {
    Primary,
    Promoted,
    StandbyLeader,
    Replica,
    Demoted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// It leads now
    Promoted,
    /// It does not lead any more
    Demoted,
    /// Any
    Always,
}

/// Exit codes; those of Patroni's program.
mod exit {
    /// No sub-command (-1).
    pub(super) const NO_COMMAND: u8 = 255;
    /// pg-backup-api does not work (-2).
    pub(super) const API_NOT_OK: u8 = 254;
    /// recover: the operation failed.
    pub(super) const RECOVERY_FAILED: u8 = 1;
    /// recover: pg-backup-api did not answer, or not understandably.
    pub(super) const RECOVERY_HTTP_ERROR: u8 = 2;
    /// config-switch: not for this role.
    pub(super) const SWITCH_SKIPPED: u8 = 1;
    /// config-switch: the operation failed.
    pub(super) const SWITCH_FAILED: u8 = 2;
    /// config-switch: pg-backup-api did not answer, or not understandably.
    pub(super) const SWITCH_HTTP_ERROR: u8 = 3;
}

/// An operation at Barman's, and what its end means.
struct Operation<'a> {
    /// For the log.
    name: &'static str,
    server: &'a str,
    body: Value,
    wait: Duration,
    /// The exit codes.
    failed: u8,
    http_error: u8,
}

impl Barman {
    /// Does it, to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let journal = match Journal::open(self.log_file.as_deref()) {
            Ok(journal) => journal,
            Err(error) => {
                let path = self.log_file.unwrap_or_default();
                Journal::console().error(&format!(
                    "cannot write to the log file {}: {error}",
                    path.display()
                ));
                return ExitCode::from(exit::API_NOT_OK);
            }
        };
        let Some(command) = &self.command else {
            journal.error("a sub-command is missing: recover or config-switch (see --help)");
            return ExitCode::from(exit::NO_COMMAND);
        };
        if let Command::ConfigSwitch(switch) = command
            && !switch.is_for(switch.role)
        {
            journal.info(&format!(
                "config switch operation was skipped (role={}, switch_when={})",
                name(switch.role),
                name(switch.switch_when)
            ));
            return ExitCode::from(exit::SWITCH_SKIPPED);
        }
        let code = run_to_end(
            &journal,
            exit::API_NOT_OK,
            self.perform(&journal, command.operation()),
        );
        ExitCode::from(code)
    }

    async fn perform(&self, journal: &Journal, operation: Operation<'_>) -> u8 {
        let api = match Api::open(self, journal).await {
            Ok(api) => api,
            Err(error) => {
                journal.error(&format!("pg-backup-api is not working: {error}"));
                return exit::API_NOT_OK;
            }
        };
        match operation.run(&api, journal).await {
            Ok(OperationStatus::Done) => {
                journal.info(&format!("{} operation finished successfully", operation.name));
                0
            }
            Ok(OperationStatus::Failed) => {
                journal.error(&format!(
                    "{} operation failed: Barman's log tells why",
                    operation.name
                ));
                operation.failed
            }
            Err(error) => {
                journal.error(&format!("{} operation: {error}", operation.name));
                operation.http_error
            }
        }
    }
}

impl Command {
    fn operation(&self) -> Operation<'_> {
        match self {
            Self::Recover(recover) => Operation {
                name: "recovery",
                server: &recover.barman_server,
                body: json!({
                    "type": "recovery",
                    "backup_id": recover.backup_id,
                    "remote_ssh_command": recover.ssh_command,
                    "destination_directory": recover.data_directory,
                }),
                wait: Duration::from_secs(recover.loop_wait),
                failed: exit::RECOVERY_FAILED,
                http_error: exit::RECOVERY_HTTP_ERROR,
            },
            Self::ConfigSwitch(switch) => Operation {
                name: "config switch",
                server: &switch.barman_server,
                body: switch.barman_model.as_ref().map_or_else(
                    || json!({"type": "config_switch", "reset": true}),
                    |model| json!({"type": "config_switch", "model_name": model}),
                ),
                wait: SWITCH_WAIT,
                failed: exit::SWITCH_FAILED,
                http_error: exit::SWITCH_HTTP_ERROR,
            },
        }
    }
}

impl ConfigSwitch {
    fn is_for(&self, role: Role) -> bool {
        match self.switch_when {
            When::Promoted => matches!(role, Role::Primary | Role::Promoted),
            When::Demoted => matches!(role, Role::Replica | Role::Demoted),
            When::Always => true,
        }
    }
}

impl Operation<'_> {
    /// Begins it and waits for its end.
    async fn run(&self, api: &Api<'_>, journal: &Journal) -> Result<OperationStatus, api::Error> {
        let id = api.create(self.server, &self.body).await?;
        journal.info(&format!("created the {} operation with ID {id}", self.name));
        loop {
            if let Some(ended) = api.status(self.server, &id).await? {
                return Ok(ended);
            }
            journal.info(&format!("{} operation {id} is still in progress", self.name));
            tokio::time::sleep(self.wait).await;
        }
    }
}

/// The word on the command line.
fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
