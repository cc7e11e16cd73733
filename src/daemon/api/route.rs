//! Which handler a request goes to: by its method and the first segment of its path. What stands behind that segment
//! is not looked at.

/// A handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A health check with the status document as its body.
    Health,
    /// A health check that is answered with its status alone.
    HealthBare,
    /// `GET /liveness`
    Liveness,
    /// `GET /readiness`
    Readiness,
    /// `GET /patroni`
    Patroni,
    /// `GET /cluster`
    Cluster,
    /// `GET /history`
    History,
    /// `GET /config`
    Config,
    /// `GET /metrics`
    Metrics,
    /// `GET /failsafe`
    Failsafe,
    /// `GET /events`
    Events,
    /// `GET /openapi.json`
    OpenApi,
    /// `POST /reload`
    Reload,
    /// `DELETE /restart`
    DeleteRestart,
    /// `DELETE /switchover`
    DeleteSwitchover,
    /// `POST /sigterm`
    Sigterm,
    /// What has a body.
    Wish(Wish),
    /// Nothing answers to that method there.
    Unsupported,
}

/// A wish, told in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// `PATCH /config`
    PatchConfig,
    /// `PUT /config`
    PutConfig,
    /// `POST /restart`
    Restart,
    /// `POST /reinitialize`
    Reinitialize,
    /// `POST /switchover`
    Switchover,
    /// `POST /failover`
    Failover,
    /// `POST /citus`, `POST /mpp`
    Citus,
    /// `POST /failsafe`
    Failsafe,
}

impl Wish {
    /// Whether it may come without a body.
    pub(crate) fn body_is_optional(self) -> bool {
        matches!(self, Self::Restart | Self::Reinitialize)
    }
}

/// The segments that some method has a handler of its own for.
#[cfg(test)]
pub(crate) const SEGMENTS: [&str; 17] = [
    "liveness",
    "readiness",
    "patroni",
    "cluster",
    "history",
    "config",
    "metrics",
    "failsafe",
    "events",
    "openapi.json",
    "reload",
    "restart",
    "reinitialize",
    "switchover",
    "failover",
    "citus",
    "sigterm",
];

impl Route {
    /// The handler for a method and a path.
    pub(crate) fn of(method: &str, path: &str) -> Self {
        let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        match (method, segment) {
            ("GET", "liveness") => Self::Liveness,
            ("GET", "readiness") => Self::Readiness,
            ("GET", "patroni") => Self::Patroni,
            ("GET", "cluster") => Self::Cluster,
            ("GET", "history") => Self::History,
            ("GET", "config") => Self::Config,
            ("GET", "metrics") => Self::Metrics,
            ("GET", "failsafe") => Self::Failsafe,
            ("GET", "events") => Self::Events,
            ("GET", "openapi.json") => Self::OpenApi,
            ("GET", _) => Self::Health,
            ("HEAD" | "OPTIONS", _) => Self::HealthBare,
            ("PATCH", "config") => Self::Wish(Wish::PatchConfig),
            ("PUT", "config") => Self::Wish(Wish::PutConfig),
            ("POST", "reload") => Self::Reload,
            ("POST", "restart") => Self::Wish(Wish::Restart),
            ("DELETE", "restart") => Self::DeleteRestart,
            ("POST", "reinitialize") => Self::Wish(Wish::Reinitialize),
            ("POST", "switchover") => Self::Wish(Wish::Switchover),
            ("POST", "failover") => Self::Wish(Wish::Failover),
            ("POST", "citus" | "mpp") => Self::Wish(Wish::Citus),
            ("POST", "failsafe") => Self::Wish(Wish::Failsafe),
            ("DELETE", "switchover") => Self::DeleteSwitchover,
            ("POST", "sigterm") => Self::Sigterm,
            _ => Self::Unsupported,
        }
    }

    /// Whether only those may use it whom access control lets in.
    pub(crate) fn is_protected(self) -> bool {
        match self {
            Self::Health
            | Self::HealthBare
            | Self::Liveness
            | Self::Readiness
            | Self::Patroni
            | Self::Cluster
            | Self::History
            | Self::Config
            | Self::Metrics
            | Self::Failsafe
            | Self::Events
            | Self::OpenApi
            | Self::Unsupported => false,
            Self::Wish(_) | Self::Reload | Self::DeleteRestart | Self::DeleteSwitchover | Self::Sigterm => {
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Route, Wish};

    #[test]
    fn by_method_and_first_segment() {
        for (method, path, route) in [
            ("GET", "/", Route::Health),
            ("GET", "/patroni/x", Route::Patroni),
            ("GET", "//patroni", Route::Patroni),
            ("GET", "/patronix", Route::Health),
            ("HEAD", "/patroni", Route::HealthBare),
            ("OPTIONS", "/liveness", Route::HealthBare),
            ("GET", "/switchover", Route::Health),
            ("POST", "/", Route::Unsupported),
            ("POST", "/config", Route::Unsupported),
            ("DELETE", "/config", Route::Unsupported),
            ("PATCH", "/config/", Route::Wish(Wish::PatchConfig)),
            ("POST", "/citus", Route::Wish(Wish::Citus)),
            ("POST", "/mpp", Route::Wish(Wish::Citus)),
            ("GET", "/events", Route::Events),
            ("GET", "/openapi.json", Route::OpenApi),
            ("DELETE", "/failover", Route::Unsupported),
            ("TRACE", "/", Route::Unsupported),
        ] {
            assert_eq!(Route::of(method, path), route, "{method} {path}");
        }
    }
}
