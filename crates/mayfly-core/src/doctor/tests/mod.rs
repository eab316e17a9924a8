//! What is read of a configuration, what hostile texts come to, and what is said of it all.

#[cfg(feature = "nix")]
mod hostile;
mod judging;
#[cfg(feature = "nix")]
mod reading;
