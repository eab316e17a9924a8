//! mayfly-api
