//! mayfly-engine
