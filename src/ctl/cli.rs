//! The command line: which command with which options, and the exit code.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::dsn::Dsn;
use super::edit_config::EditConfig;
use super::error::Error;
use super::events::Events;
use super::failover::Failover;
use super::flush::Flush;
use super::history::History;
use super::list::{List, Topology};
use super::pause::Pause;
use super::query::Query;
use super::reinit::Reinit;
use super::reload::Reload;
use super::remove::Remove;
use super::restart::Restart;
use super::session::Session;
use super::settings::Settings;
use super::show_config::ShowConfig;
use super::standby_cluster::{DemoteCluster, PromoteCluster};
use super::store_copy::Store;
use super::switchover::Switchover;
use super::version::Version;
use super::why::Why;
use super::{console, log};
use crate::option_value;

/// Command-line interface for interacting with the cluster.
#[derive(Debug, Parser)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Configuration file [env: PATRONICTL_CONFIG_FILE] [default: patronictl.yaml in ~/.config/patroni]
    #[arg(short, long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// The DCS connect url [env: DCS_URL]
    #[arg(short, long, alias = "dcs", value_name = "URL")]
    dcs_url: Option<String>,
    /// Allow connections to SSL sites without certs
    #[arg(short = 'k', long)]
    insecure: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Demote cluster to a standby cluster
    DemoteCluster(DemoteCluster),
    /// Generate a dsn for the provided member, defaults to a dsn of the leader
    Dsn(Dsn),
    /// Edit cluster configuration
    EditConfig(EditConfig),
    /// Show what has happened on the members
    Events(Events),
    /// Failover to a replica
    Failover(Failover),
    /// Discard scheduled events
    Flush(Flush),
    /// Show the history of failovers/switchovers
    History(History),
    /// List the members of a cluster
    List(List),
    /// Disable auto failover
    Pause(Pause),
    /// Promote cluster, make it run standalone
    PromoteCluster(PromoteCluster),
    /// Query a member, by default the leader
    Query(Query),
    /// Reinitialize cluster member
    Reinit(Reinit),
    /// Reload cluster member configuration
    Reload(Reload),
    /// Remove cluster from DCS
    Remove(Remove),
    /// Restart cluster member
    Restart(Restart),
    /// Resume auto failover
    Resume(Pause),
    /// Show cluster configuration
    ShowConfig(ShowConfig),
    /// Move what a cluster keeps in the DCS to another DCS
    Store(Store),
    /// Switchover to a replica
    Switchover(Switchover),
    /// Print the members of a cluster as a tree
    Topology(Topology),
    /// Output version of this command or of the members of a cluster
    Version(Version),
    /// Tell the last failover, switchover or demotion, and why a member does not lead
    Why(Why),
}

/// The command line, with all commands.
#[must_use]
pub fn command() -> clap::Command {
    with_numbers(Cli::command())
}

/// A number below 0 is a value, which is refused in its place, and no option.
fn with_numbers(command: clap::Command) -> clap::Command {
    command
        .allow_negative_numbers(true)
        .mut_args(|arg| match arg.get_id().as_str() {
            "group" => arg.value_parser(option_value::whole::<u32>),
            "limit" => arg.value_parser(option_value::whole::<usize>),
            "port" => arg.value_parser(option_value::port),
            _ => arg,
        })
        .mut_subcommands(with_numbers)
}

/// Runs `tamada ctl` with `args`, the first of which is the program's name as it is shown. Exit codes as in Patroni's
/// patronictl: 0 for success and for what a member refused, 1 for errors, 2 for wrong usage.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        if let Command::Flush(flush) = &cli.command {
            let usage = |text| clap::Error::raw(ErrorKind::InvalidValue, format!("{text}\n"));
            flush.check().map_err(usage)?;
        }
        Ok(cli)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when the output is closed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    log::start();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(format!("could not start: {error}")))?;
    if let Command::Store(store) = cli.command {
        // It has two configurations, and neither is the usual one.
        return runtime.block_on(store.run());
    }
    let settings = Settings::load(cli.config_file, cli.dcs_url, cli.insecure)?;
    let session = Session::new(settings);
    let result = runtime.block_on(until_interrupted(&session, perform(cli.command, &session)));
    // A thread may still wait for an answer that will not come.
    runtime.shutdown_background();
    result
}

async fn until_interrupted(
    session: &Session,
    command: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let interrupted = async {
        loop {
            if tokio::signal::ctrl_c().await.is_err() {
                // Without a handler the signal ends the program by itself.
                std::future::pending::<()>().await;
            }
            if session.minds_interrupt() {
                return;
            }
        }
    };
    tokio::select! {
        result = command => result,
        () = interrupted => Err(session.goes_on().map_or(Error::Aborted, Error::Interrupted)),
    }
}

async fn perform(command: Command, session: &Session) -> Result<(), Error> {
    match command {
        Command::DemoteCluster(demote) => demote.run(session).await,
        Command::Dsn(dsn) => dsn.run(session).await,
        Command::EditConfig(edit) => edit.run(session).await,
        Command::Events(events) => events.run(session).await,
        Command::Failover(failover) => failover.run(session).await,
        Command::Flush(flush) => flush.run(session).await,
        Command::History(history) => history.run(session).await,
        Command::List(list) => list.run(session).await,
        Command::Pause(pause) => pause.run(session, true).await,
        Command::PromoteCluster(promote) => promote.run(session).await,
        Command::Query(query) => query.run(session).await,
        Command::Reinit(reinit) => reinit.run(session).await,
        Command::Reload(reload) => reload.run(session).await,
        Command::Remove(remove) => remove.run(session).await,
        Command::Restart(restart) => restart.run(session).await,
        Command::Resume(resume) => resume.run(session, false).await,
        Command::ShowConfig(show) => show.run(session).await,
        Command::Store(store) => store.run().await,
        Command::Switchover(switchover) => switchover.run(session).await,
        Command::Topology(topology) => topology.run(session).await,
        Command::Version(version) => version.run(session).await,
        Command::Why(why) => why.run(session).await,
    }
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_number_is_a_value_that_is_refused_with_what_is_expected() {
        let whole = "expected a whole number from 0 up";
        for (words, option, told) in [
            (
                "list -w -5",
                "--watch <X>",
                "expected a number of seconds from 0 up",
            ),
            (
                "list -w inf",
                "--watch <X>",
                "expected a number of seconds that is not too large",
            ),
            ("list -w x", "--watch <X>", "'x' is not a valid float."),
            ("list --group -1", "--group <GROUP>", whole),
            ("list --group 1.5", "--group <GROUP>", whole),
            (
                "list --group 4294967296",
                "--group <GROUP>",
                "the number is too large",
            ),
            ("restart demo --group -1", "--group <GROUP>", whole),
            ("store copy --group -1", "--group <GROUP>", whole),
            ("events -n -1", "--limit <LIMIT>", whole),
            (
                "demote-cluster demo --port -1",
                "--port <PORT>",
                "expected a port from 1 to 65535",
            ),
            (
                "demote-cluster demo --port 0",
                "--port <PORT>",
                "expected a port from 1 to 65535",
            ),
        ] {
            let value = words.rsplit(' ').next().unwrap();
            let line = std::iter::once("ctl").chain(words.split(' '));
            let error = command().try_get_matches_from(line).unwrap_err().to_string();
            let expected = format!("error: invalid value '{value}' for '{option}': {told}\n");
            assert!(error.starts_with(&expected), "{words}: {error}");
            assert!(!error.contains("tip:"), "{words}: {error}");
        }
        // The member judges it, as a time may have a unit.
        let words = ["ctl", "restart", "demo", "--timeout", "-5"];
        assert!(command().try_get_matches_from(words).is_ok());
    }
}
