//! Whether a server lets clients in: what `pg_isready` finds out, by the same exchange (PostgreSQL manual, "Message
//! Flow": the first message of the server tells).

use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// Whether a server lets clients in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does (or would, were it not for the user's rights).
    Accepting,
    /// It answers that it does not: starting up, shutting down, or without hot standby.
    Rejecting,
    /// Nobody answers.
    NoResponse,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// The socket itself.
    Unix(PathBuf),
}

impl Address {
    /// Sets `host` and `port`.
    pub(crate) fn write_to(&self, conninfo: &mut crate::Conninfo) {
        match self {
            Self::Tcp(host, port) => {
                conninfo.set("host", Some(host.clone()));
                conninfo.set("port", Some(port.to_string()));
            }
            Self::Unix(socket) => {
                conninfo.set(
                    "host",
                    socket.parent().map(|directory| directory.display().to_string()),
                );
                conninfo.set(
                    "port",
                    socket.extension().map(|port| port.to_string_lossy().into_owned()),
                );
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// SQLSTATE of "the database system is starting up" and its kin.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// This process or machine has too little of something, such as descriptors: what failed for that says nothing about what was
/// looked at.
#[must_use]
pub fn is_lack_of_resources(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL)
    )
}

/// Asks a server whether it lets clients in; silence until the deadline counts as no response.
///
/// # Errors
/// It could not be asked, for want of something here.
pub(crate) async fn ask(
    address: &Address,
    user: &str,
    database: &str,
    deadline: Instant,
) -> io::Result<Readiness> {
    let asked = async {
        match address {
            Address::Tcp(host, port) => {
                exchange(TcpStream::connect((host.as_str(), *port)).await?, user, database).await
            }
            Address::Unix(path) => exchange(UnixStream::connect(path).await?, user, database).await,
        }
    };
    match tokio::time::timeout_at(deadline, asked).await {
        Ok(Ok(readiness)) => Ok(readiness),
        Ok(Err(error)) if is_lack_of_resources(&error) => Err(error),
        Ok(Err(_)) | Err(_) => Ok(Readiness::NoResponse),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    user: &str,
    database: &str,
) -> io::Result<Readiness> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in [
        "user",
        user,
        "database",
        database,
        "application_name",
        "Patroni heartbeat",
        "",
    ] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    let kind = stream.read_u8().await?;
    if kind != b'E' {
        return Ok(Readiness::Accepting);
    }
    let length = stream.read_u32().await?.clamp(4, 65_536) - 4;
    let mut fields = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut fields).await?;
    let code = fields
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"C"));
    let rejecting = code == Some(CANNOT_CONNECT_NOW.as_bytes());
    Ok(if rejecting {
        Readiness::Rejecting
    } else {
        Readiness::Accepting
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn server_says(answer: &'static [u8]) -> Readiness {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut start = [0; 8];
            stream.read_exact(&mut start).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        let address = Address::Tcp("127.0.0.1".to_owned(), port);
        ask(&address, "u", "d", deadline).await.unwrap()
    }

    #[tokio::test]
    async fn the_first_message_tells() {
        assert_eq!(server_says(b"R\0\0\0\x08\0\0\0\0").await, Readiness::Accepting);
        assert_eq!(
            server_says(b"E\0\0\0\x13SFATAL\0C57P03\0\0").await,
            Readiness::Rejecting
        );
        assert_eq!(
            server_says(b"E\0\0\0\x13SFATAL\0C28000\0\0").await,
            Readiness::Accepting
        );
        assert_eq!(server_says(b"").await, Readiness::NoResponse);
        let nowhere = Address::Unix("/nonexistent/.s.PGSQL.1".into());
        let deadline = Instant::now() + Duration::from_secs(5);
        let asked = ask(&nowhere, "u", "d", deadline).await;
        assert_eq!(asked.unwrap(), Readiness::NoResponse);
        assert!(is_lack_of_resources(&Errno::MFILE.into()));
        assert!(!is_lack_of_resources(&Errno::CONNREFUSED.into()));
    }
}
