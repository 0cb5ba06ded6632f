//! How much this process has computed. Reads the kernel's count, and leaves nothing.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time that all threads of this process have been on a CPU, children not counted; zero where the kernel does not
/// tell.
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
