//! `patroni_aws`: tags this EC2 instance and its EBS volumes with the member's role; a callback (Patroni documentation,
//! "Integration with other tools").

mod cloud;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use self::cloud::{Cloud, Tag};
use super::journal::Journal;
use super::{parsed, run_to_end};

/// How long tagging is tried in all.
const DEADLINE: Duration = Duration::from_secs(300);

/// The first pause between two attempts; each is twice as long as the one before, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tag this EC2 instance and its volumes with the role of the member; a callback
#[derive(Debug, Parser)]
#[command(name = "patroni_aws")]
pub struct Aws {
    /// What has happened; filled in by the agent
    #[arg(value_enum)]
    action: Action,
    /// This member's role; filled in by the agent
    role: String,
    /// The cluster; filled in by the agent
    cluster: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    #[value(name = "on_start")]
    Start,
    #[value(name = "on_stop")]
    Stop,
    #[value(name = "on_role_change")]
    RoleChange,
}

/// Runs the program. What it cannot use is told with exit code 1, as by Patroni's.
pub(super) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        return parsed::<Aws>("patroni_aws", arguments.into_iter()).run();
    }
    let words = std::iter::once(OsString::from("patroni_aws")).chain(arguments);
    match Aws::try_parse_from(words) {
        Ok(program) => program.run(),
        Err(_) => {
            Journal::console().error("usage: patroni_aws on_start|on_stop|on_role_change ROLE CLUSTER");
            ExitCode::FAILURE
        }
    }
}

impl Aws {
    /// Tags, as soon as AWS lets it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let journal = Journal::console();
        let tagged = run_to_end(&journal, false, async {
            match tokio::time::timeout(DEADLINE, self.tag(&journal)).await {
                Ok(tagged) => tagged,
                Err(_) => {
                    journal.error(&format!(
                        "the instance and its volumes could not be tagged within {} s",
                        DEADLINE.as_secs()
                    ));
                    false
                }
            }
        });
        if tagged {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    async fn tag(&self, journal: &Journal) -> bool {
        let cloud = match Cloud::find().await {
            Ok(cloud) => cloud,
            Err(error) => {
                journal.error(&format!("cannot query AWS meta-data: {error}"));
                return false;
            }
        };
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.tag_once(&cloud).await {
            if !error.may_pass() {
                journal.error(&format!("{} was not tagged: {error}", cloud.instance()));
                return false;
            }
            journal.warning(&format!("{} was not tagged yet: {error}", cloud.instance()));
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        true
    }

    async fn tag_once(&self, cloud: &Cloud) -> Result<(), cloud::Error> {
        let role = Tag::new("Role", &self.role);
        let instance = cloud.instance().to_owned();
        cloud
            .create_tags(std::slice::from_ref(&instance), std::slice::from_ref(&role))
            .await?;
        let volumes = cloud.volumes().await?;
        if volumes.is_empty() {
            return Ok(());
        }
        let name = format!("spilo_{}", self.cluster);
        let tags = [Tag::new("Name", &name), role, Tag::new("Instance", &instance)];
        cloud.create_tags(&volumes, &tags).await
    }
}
