//! The program: daemon and ctl.
