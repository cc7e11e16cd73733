//! A server over a real socket.
