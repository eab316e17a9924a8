//! The daemon's side: one call of the process, with a deadline.

use std::path::Path;
use std::time::Duration;

use mayfly_core::ports::Outcome;

use super::order::{Answer, Order};
use crate::runner::{Command, Runner};

/// A guest with many mounts, or with a file system of its own that does not answer, may use all of it.
const DEADLINE: Duration = Duration::from_secs(30);
const OUTPUT_LIMIT: usize = 64 << 10;

/// What came of it, or what of the guest's is in the way.
pub(crate) enum Entered {
    Done(Outcome),
    Refused(String),
}

/// Has the order carried out. A guest that is over shows nothing.
pub(crate) fn enter_guest(program: &Path, order: &Order) -> Result<Entered, String> {
    let input = serde_json::to_vec(order).map_err(|e| e.to_string())?;
    let command = Command::of_our_own(program)
        .arg("enter")
        .input(input)
        .deadline(DEADLINE)
        .output_limit(OUTPUT_LIMIT);
    let told = Runner::default()
        .run(&command)
        .map_err(|failure| match failure.stderr.trim() {
            "" => failure.to_string(),
            why => why.to_owned(),
        })?;
    match serde_json::from_slice(&told.stdout) {
        Ok(Answer::Changed {}) => Ok(Entered::Done(Outcome::Changed)),
        Ok(Answer::Unchanged {} | Answer::Over {}) => Ok(Entered::Done(Outcome::Unchanged)),
        Ok(Answer::Refused { why }) => Ok(Entered::Refused(why)),
        Err(e) => Err(format!("its answer is not understood: {e}")),
    }
}
