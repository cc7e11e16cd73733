//! Making a new cluster: initdb or a script, then roles and `post_bootstrap`.

use crate::{Instant, Result, Server};
use config::BootstrapMethod;

impl Server {
    /// Runs initdb and adds the lines of `bootstrap.pg_hba` where they apply.
    ///
    /// # Errors
    /// When an option is forbidden or initdb fails; the message has its last lines.
    pub async fn initdb(
        &self,
        options: &[(String, Option<String>)],
        pg_hba: &[String],
        deadline: Instant,
    ) -> Result<()> {
        todo!()
    }

    /// Runs the command of a custom bootstrap method; returns how the server has to be started afterwards.
    ///
    /// # Errors
    /// When it fails, or leaves no data directory.
    pub async fn custom_bootstrap(
        &self,
        method: &BootstrapMethod,
        deadline: Instant,
    ) -> Result<crate::StartOptions> {
        todo!()
    }

    /// After the first start, out of recovery: superuser, `post_bootstrap`, replication and rewind roles; after a custom
    /// method the temporary pg_hba.conf gives way. Returns whether a restart is needed.
    ///
    /// # Errors
    /// When any part fails.
    pub async fn post_bootstrap(
        &self,
        method: &BootstrapMethod,
        post_bootstrap: Option<&str>,
        deadline: Instant,
    ) -> Result<bool> {
        todo!()
    }
}
