//! The command lines of the program by its names `tamada` and `patroni`; that of `patronictl` is in [`crate::ctl`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{configure, ctl, debian, scripts};

/// Keeps a PostgreSQL cluster alive: one elected primary, replicas that follow, failover within seconds.
#[derive(Parser)]
#[command(name = "tamada", disable_version_flag = true, arg_required_else_help = true)]
pub struct Program {
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Print the version and exit
    #[arg(long, short = 'V')]
    pub version: bool,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the agent beside a PostgreSQL server
    Run(Run),
    /// Show the cluster and steer it, as patronictl does
    #[command(disable_help_flag = true)]
    Ctl {
        /// A command of its own with its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Make configurations
    #[command(subcommand)]
    Config(Config),
    /// Restore from Barman, or switch its configuration: patroni_barman
    Barman(Box<scripts::Barman>),
    /// Restore a replica from WAL-E or WAL-G: patroni_wale_restore
    WaleRestore(Box<scripts::WaleRestore>),
    /// Tag the EC2 instance: patroni_aws
    Aws(scripts::Aws),
}

/// What to do with configurations.
#[derive(Subcommand)]
pub enum Config {
    /// Make this host's configuration for a cluster
    Create(Box<debian::ConfigCreate>),
    /// Print the JSON Schema of configurations, for editors
    Schema {
        /// Of a member's file, or of what `edit-config` shows
        #[arg(value_enum, default_value_t = Side::Local)]
        side: Side,
    },
}

/// Which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// A member's file
    Local,
    /// What all members share
    Dynamic,
}

/// How to run the agent, or what else to do with its configuration.
#[derive(clap::Args)]
pub struct Run {
    /// Patroni's YAML file, or a folder of them; without it PATRONI_* variables are read
    #[arg(value_name = "CONFIG")]
    pub config: Option<PathBuf>,
    /// Start the agent again when it dies or hangs, as an init system does; always so as process 1
    #[arg(long)]
    pub supervise: bool,
    /// What to do instead
    #[command(flatten)]
    pub mode: configure::Mode,
    /// More about that
    #[command(flatten)]
    pub details: configure::Details,
}

/// Keeps a PostgreSQL cluster alive, by Patroni's name.
#[derive(Parser)]
#[command(name = "patroni", disable_version_flag = true)]
pub struct Patroni {
    /// Everything else
    #[command(flatten)]
    pub run: Run,
    /// Print the version and exit
    #[arg(long)]
    pub version: bool,
}

/// The command lines by the names of the program, with all that `ctl` takes, for manuals and completions.
#[must_use]
pub fn commands() -> Vec<clap::Command> {
    let whole = Program::command().mut_subcommand("ctl", |_| ctl::command().name("ctl"));
    let mut commands = vec![whole, Patroni::command(), ctl::command().name("patronictl")];
    commands.extend(scripts::commands());
    commands
}
