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

/// The handlers with a name: method, first segment.
pub(crate) const NAMED: &[(&str, &str, Route)] = &[
    ("GET", "liveness", Route::Liveness),
    ("GET", "readiness", Route::Readiness),
    ("GET", "patroni", Route::Patroni),
    ("GET", "cluster", Route::Cluster),
    ("GET", "history", Route::History),
    ("GET", "config", Route::Config),
    ("GET", "metrics", Route::Metrics),
    ("GET", "failsafe", Route::Failsafe),
    ("GET", "events", Route::Events),
    ("GET", "openapi.json", Route::OpenApi),
    ("PATCH", "config", Route::Wish(Wish::PatchConfig)),
    ("PUT", "config", Route::Wish(Wish::PutConfig)),
    ("POST", "reload", Route::Reload),
    ("POST", "restart", Route::Wish(Wish::Restart)),
    ("DELETE", "restart", Route::DeleteRestart),
    ("POST", "reinitialize", Route::Wish(Wish::Reinitialize)),
    ("POST", "switchover", Route::Wish(Wish::Switchover)),
    ("POST", "failover", Route::Wish(Wish::Failover)),
    ("POST", "citus", Route::Wish(Wish::Citus)),
    ("POST", "mpp", Route::Wish(Wish::Citus)),
    ("POST", "failsafe", Route::Wish(Wish::Failsafe)),
    ("DELETE", "switchover", Route::DeleteSwitchover),
    ("POST", "sigterm", Route::Sigterm),
];

impl Route {
    /// The handler for a method and a path.
    pub(crate) fn of(method: &str, path: &str) -> Self {
        let segment = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let named = NAMED
            .iter()
            .find(|(of, name, _)| *of == method && *name == segment);
        match (named, method) {
            (Some((_, _, route)), _) => *route,
            (None, "GET") => Self::Health,
            (None, "HEAD" | "OPTIONS") => Self::HealthBare,
            (None, _) => Self::Unsupported,
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
            ("DELETE", "/failover", Route::Unsupported),
            ("TRACE", "/", Route::Unsupported),
        ] {
            assert_eq!(Route::of(method, path), route, "{method} {path}");
        }
    }
}
