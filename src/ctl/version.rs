//! `version`: of this program, and of the members and their servers.

use clap::Args;
use ha::cluster::Member;
use net::http::Method;
use serde_json::Value;

use super::console::print_line;
use super::error::Error;
use super::rest::SHORT;
use super::session::Session;
use super::view::RoleFilter;

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Cluster whose members are asked
    cluster_name: Option<String>,
    /// Members; default: all
    member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
}

impl Version {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        print_line(&format!("patronictl version {}", crate::PATRONI_VERSION))?;
        let Some(name) = &self.cluster_name else {
            return Ok(());
        };
        print_line("")?;
        let view = session.store(name, self.group).await?.view().await?;
        for member in view.members(RoleFilter::Any) {
            let is_meant = self.member_names.is_empty() || self.member_names.contains(&member.name.0);
            if member.data.api_url.is_none() || !is_meant {
                continue;
            }
            let response = session
                .request(member, (Method::GET, "patroni"), None, SHORT)
                .await;
            let answer = match response {
                Ok(response) => response.json().ok_or_else(|| "the answer is no JSON".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            print_line(&match answer {
                Ok(status) => {
                    let program = program(session, member).await;
                    let program = program.map_or(String::new(), |version| format!(" (Tamada {version})"));
                    format!("{}: {}{program}", member.name, versions(&status))
                }
                Err(error) => format!("{}: failed to get version: {error}", member.name),
            })?;
        }
        Ok(())
    }
}

/// The version of Tamada, if the member runs that: only it describes its API.
async fn program(session: &Session, member: &Member) -> Option<String> {
    let asked = session.request(member, (Method::GET, "openapi.json"), None, SHORT);
    let answer = asked.await.ok().filter(|answer| answer.status.is_success())?;
    Some(answer.json()?.pointer("/info/version")?.as_str()?.to_owned())
}

fn versions(status: &Value) -> String {
    let agent = status
        .pointer("/patroni/version")
        .and_then(Value::as_str)
        .unwrap_or("None");
    match status
        .get("server_version")
        .and_then(Value::as_u64)
        .filter(|version| *version > 0)
    {
        Some(server) => format!("Patroni {agent} PostgreSQL {}", server_version(server)),
        None => format!("Patroni {agent}"),
    }
}

/// `server_version_num` as people write it: three parts before PostgreSQL 10.
fn server_version(number: u64) -> String {
    if number < 100_000 {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    } else {
        format!("{}.{}", number / 10_000, number % 100)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::versions;

    #[test]
    fn a_server_that_does_not_run_has_no_version() {
        let status = json!({"patroni": {"version": "4.1.4"}, "server_version": 160_004});
        assert_eq!(versions(&status), "Patroni 4.1.4 PostgreSQL 16.4");
        let status = json!({"patroni": {"version": "4.1.4"}, "server_version": 90_624});
        assert_eq!(versions(&status), "Patroni 4.1.4 PostgreSQL 9.6.24");
        assert_eq!(
            versions(&json!({"patroni": {"version": "4.1.4"}})),
            "Patroni 4.1.4"
        );
    }
}
