//! SQL as a client of the cluster sends it, over TCP and with a password.

use super::wait::SECOND;
use std::future::Future;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub const SUPERUSER_PASSWORD: &str = "zalando super";
pub const REPLICATION_PASSWORD: &str = "rep-pass";
pub const REWIND_PASSWORD: &str = "rewind'pass";

/// The text of the error with what caused it.
pub fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// A connection that is looked after until it is dropped; to be used within [`block_on`] of the same runtime.
pub async fn connect(conninfo: &str) -> Result<Client, String> {
    let config: tokio_postgres::Config = conninfo.parse().expect("a valid connection string");
    let connect = tokio::time::timeout(3 * SECOND, config.connect(NoTls));
    let (client, connection) = connect
        .await
        .map_err(|_| "no connection within 3 s")?
        .map_err(|error| explain(&error))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs the statements and gives the rows of the last one as text.
pub async fn rows(
    client: &Client,
    statements: &str,
    limit: Duration,
) -> Result<Vec<Vec<Option<String>>>, String> {
    let messages = tokio::time::timeout(limit, client.simple_query(statements));
    let messages = messages
        .await
        .map_err(|_| format!("no answer within {limit:?}"))?
        .map_err(|error| explain(&error))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect())
}

/// Connects, runs the statements, disconnects.
pub fn query(conninfo: &str, statements: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    block_on(async {
        let client = connect(conninfo).await?;
        rows(&client, statements, 10 * SECOND).await
    })
    .map_err(|error| format!("{statements}: {error}"))
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
