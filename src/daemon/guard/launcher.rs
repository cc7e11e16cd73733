//! Postmasters whose parent is the guard.

use std::ffi::OsString;
use std::io;

use futures_util::future::BoxFuture;
use guard::ServerCommand;
use postgres::process::{DetachedLauncher, Launched, Launcher, LogRelay, PostmasterCommand, own_executable};

use super::Guard;
use super::worker::Refusal;

/// Starts postmasters through the guard; without one, where it is not required, detached.
pub(crate) struct GuardLauncher {
    guard: Guard,
    relay: Vec<OsString>,
    detached: DetachedLauncher,
}

impl GuardLauncher {
    /// `relay_subcommand`: calls our own program to pass the server's log on.
    pub(crate) fn new(guard: Guard, relay_subcommand: &str, detached: DetachedLauncher) -> Self {
        Self {
            guard,
            relay: own_executable(relay_subcommand),
            detached,
        }
    }

    async fn through_guard(&self, command: &PostmasterCommand) -> Result<Launched, Refusal> {
        let failed = |error: io::Error| Refusal::Failed(error.to_string());
        let LogRelay { input, log } = LogRelay::start(&self.relay).map_err(failed)?;
        let command = ServerCommand {
            program: command.program.clone(),
            args: command.args.clone(),
            env: command.env.clone().into_iter().collect(),
            current_dir: std::env::current_dir().ok(),
        };
        let pid = self.guard.start(command, input).await?;
        Ok(Launched { pid, log })
    }
}

impl Launcher for GuardLauncher {
    fn launch(&self, command: PostmasterCommand) -> BoxFuture<'_, io::Result<Launched>> {
        Box::pin(async move {
            match self.through_guard(&command).await {
                Ok(launched) => Ok(launched),
                Err(Refusal::Failed(why)) => Err(io::Error::other(why)),
                Err(Refusal::Missing(why)) if self.guard.is_required => Err(io::Error::other(format!(
                    "there is no guard, and guard.mode is required: {why}"
                ))),
                Err(Refusal::Missing(why)) => {
                    tracing::warn!(
                        "PostgreSQL is started without a guard, nothing stops it when this agent dies: {why}"
                    );
                    self.detached.launch(command).await
                }
            }
        })
    }
}
