//! What cannot be tested on this machine is said where everybody sees it.

use std::fmt::Display;
use std::io::Write;

/// Says that a test, or a part of one, did not run, and why: on the process's own standard error, which the test
/// harness does not swallow. `./test` lists such lines.
pub fn tell(what: impl Display, reason: impl Display) {
    // Nobody is left to be told if this fails.
    let _ = writeln!(std::io::stderr(), "!!! SKIPPED: {what}: {reason}");
}
