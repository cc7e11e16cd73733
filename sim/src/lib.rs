//! A whole cluster in one deterministic process, for tests.
