//! The connection to one etcd endpoint: a channel of our own making, and authentication on it.

use std::time::Duration;

use config::EtcdConfig;
use etcd_client::{Channel, Client, ConnectOptions};
use net::tls::{ClientOptions, Verify};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use super::faults;

/// etcd closes connections that are pinged more often than every 5 s, or at all while nothing is asked
/// (`--grpc-keepalive-min-time`). The watch has a livelier check of its own.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot set up TLS")]
    Tls(#[from] net::tls::Error),
    #[error("malformed address or certificate")]
    Transport(#[from] tonic::transport::Error),
    #[error("{}", faults::words(.0))]
    Etcd(etcd_client::Error),
}

impl From<etcd_client::Error> for LinkError {
    fn from(error: etcd_client::Error) -> Self {
        Self::Etcd(error)
    }
}

/// A client for the endpoint `url`, authenticated if there is a user.
pub(super) async fn open(config: &EtcdConfig, url: &str, patience: Duration) -> Result<Client, LinkError> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?
        .user_agent(concat!("tamada/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout((patience / 2).max(Duration::from_millis(200)))
        .tcp_keepalive(Some(PING_INTERVAL))
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(false);
    if url.starts_with("https://") {
        let tls = tls(config);
        let mut options = ClientTlsConfig::new().timeout(patience);
        if let Some(identity) = tls.identity()? {
            options = options.identity(Identity::from_pem(identity.certificate_pem, identity.key_pem));
        }
        endpoint = endpoint.tls_config_with_verifier(options, tls.verifier()?)?;
    }
    // An endpoint that has lost its leader refuses rather than answers from its past.
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::from_channel(Channel::Tonic(endpoint.connect_lazy()), Some(options)).await?;
    if let (Some(user), Some(password)) = (&config.username, &config.password) {
        match client
            .update_user(Some((user.clone(), password.reveal().to_owned())))
            .await
        {
            Ok(()) => (),
            Err(error) if faults::is_authentication_off(&error) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(client)
}

/// How TLS is spoken to etcd.
pub(crate) fn tls(config: &EtcdConfig) -> ClientOptions {
    ClientOptions {
        ca: config.cacert.clone(),
        cert: config.cert.clone(),
        key: config.key.clone(),
        key_password: None,
        verify: if config.insecure {
            Verify::None
        } else {
            Verify::ChainAndHostName
        },
    }
}
