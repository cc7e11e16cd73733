//! The files that are written for the server.
