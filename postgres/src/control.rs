//! `pg_controldata`, and crash recovery in single-user mode.

use crate::{Instant, Result, Server};
use ha::pg::{ControlData, Lsn};

impl Server {
    /// What the control file says.
    ///
    /// # Errors
    /// When there is no control file or it is damaged.
    pub async fn control_data(&self, deadline: Instant) -> Result<ControlData> {
        todo!()
    }

    /// The position of the last record before the shutdown checkpoint of a cleanly stopped primary: what a standby must
    /// have received to lack nothing.
    ///
    /// # Errors
    /// When pg_waldump cannot read the WAL.
    pub async fn last_record_before_shutdown(&self, control: &ControlData, deadline: Instant) -> Result<Lsn> {
        todo!()
    }

    /// Lets the server recover from a crash in single-user mode, so that it can be rewound.
    ///
    /// # Errors
    /// When it fails or takes longer than allowed.
    pub async fn single_user_recovery(&self, deadline: Instant) -> Result<()> {
        todo!()
    }
}
