//! Sockets that listen where `restapi.listen` says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use config::{ListenAddress, RestApiConfig};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};

/// The operating system limits it to its own maximum.
const BACKLOG_MIN: u32 = 1024;

/// The REST API cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "the REST API cannot listen on {host}:{port}: {source}; check restapi.listen, and whether the port is in use"
)]
pub struct ListenError {
    host: String,
    port: u16,
    source: io::Error,
}

/// One socket for each address; `*` and the empty one mean all addresses, IPv6 included where there is any.
///
/// # Errors
/// An address is not one of this machine, or its port is in use.
pub(crate) async fn bind(restapi: &RestApiConfig) -> Result<Vec<TcpListener>, ListenError> {
    let ListenAddress { hosts, port } = &restapi.listen;
    let mut listeners = Vec::new();
    let everywhere = hosts.iter().find(|host| host.is_empty() || *host == "*");
    // All of IPv6 includes IPv4 unless an address of IPv4 stands beside it.
    let has_other = hosts.iter().any(|host| host.parse::<Ipv6Addr>().is_err());
    let wanted: Vec<&String> = match everywhere {
        Some(host) => vec![host],
        None => hosts.iter().collect(),
    };
    for host in wanted {
        let listener = bind_host(host, *port, restapi.request_queue_size, has_other).await;
        let fail = |source| ListenError {
            host: host.clone(),
            port: *port,
            source,
        };
        listeners.push(listener.map_err(fail)?);
    }
    Ok(listeners)
}

async fn bind_host(host: &str, port: u16, queue_size: u32, has_other: bool) -> io::Result<TcpListener> {
    if host.is_empty() || host == "*" {
        let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        return match bind_address(everywhere, queue_size, false) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => bind_address(
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
                queue_size,
                false,
            ),
            bound => bound,
        };
    }
    let address = match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => tokio::net::lookup_host((host, port))
            .await?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?,
    };
    bind_address(address, queue_size, has_other)
}

fn bind_address(address: SocketAddr, queue_size: u32, is_ipv6_only: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        sockopt::set_ipv6_v6only(&socket, is_ipv6_only)?;
        socket
    };
    socket.set_reuseaddr(true)?;
    // Connections inherit these from the socket that accepts them: a client that is gone without a word does not
    // hold its connection for hours.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(3))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    sockopt::set_tcp_user_timeout(&socket, 10_000)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    socket.bind(address)?;
    // Patroni's default of 5 lets a burst of health checks wait for a second try of TCP.
    socket.listen(queue_size.max(BACKLOG_MIN))
}

#[cfg(test)]
mod tests {
    use super::bind_host;

    #[tokio::test]
    async fn both_protocols_may_be_listed() {
        let first = bind_host("0.0.0.0", 0, 1, true).await.unwrap();
        let port = first.local_addr().unwrap().port();
        // Without IPv6 on this machine there is nothing to collide with.
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            bind_host("::", port, 1, true).await.unwrap();
        }
    }
}
