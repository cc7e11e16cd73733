//! The one local PostgreSQL server.
