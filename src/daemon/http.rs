//! This member as a client of the other members' REST API.

use config::LocalConfig;
use net::http::Options;
use net::tls::{ClientOptions, Verify};

/// How the other members are asked: `ctl`, and where it says nothing `restapi`.
pub(crate) fn options(local: &LocalConfig) -> Options {
    let (ctl, restapi) = (&local.ctl, &local.restapi);
    let login = ctl.authentication.as_ref().or(restapi.authentication.as_ref());
    Options {
        tls: ClientOptions {
            ca: ctl.cacert.clone().or_else(|| restapi.cafile.clone()),
            cert: ctl.certfile.clone(),
            key: ctl.keyfile.clone(),
            key_password: ctl.keyfile_password.clone(),
            verify: if ctl.insecure {
                Verify::None
            } else {
                Verify::default()
            },
        },
        auth: login.map(|login| (login.username.clone(), login.password.clone())),
        user_agent: format!(
            "Patroni/{} tamada/{}",
            crate::PATRONI_VERSION,
            env!("CARGO_PKG_VERSION")
        ),
    }
}
