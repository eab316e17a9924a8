//! mayfly-server
