//! A point in time by which a wait must have ended.
//!
//! Every wait on the outside world takes a [`Deadline`], made once by the caller and passed down, so that
//! nested waits share one budget. Nothing to clean up.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// A point in time by which a wait must have ended; copied freely, never moved later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    at: Instant,
    given: Duration,
}

/// The deadline passed before the awaited thing happened; `given` is what was allowed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing within {given:?}")]
pub struct Elapsed {
    /// The time that was allowed when the deadline was made.
    pub given: Duration,
}

impl Deadline {
    /// The deadline that lies `given` from now.
    pub fn after(given: Duration) -> Self {
        Self { at: Instant::now() + given, given }
    }

    /// The sooner of this deadline and the one that lies `given` from now.
    pub fn within(self, given: Duration) -> Self {
        self.min(Self::after(given))
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn is_past(self) -> bool {
        Instant::now() >= self.at
    }

    /// Waits for `work`, or for the deadline. `work` is dropped when the deadline comes first.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::time::timeout_at(self.at, work).await.map_err(|_| Elapsed { given: self.given })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_nested_deadline_never_outlives_the_outer_one() {
        let outer = Deadline::after(Duration::from_secs(5));
        assert_eq!(outer.within(Duration::from_secs(60)), outer);
        assert!(outer.within(Duration::from_secs(1)) < outer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_deadline_and_says_what_was_given() {
        let given = Duration::from_secs(3);
        let ended = Deadline::after(given).bound(std::future::pending::<()>()).await;
        assert_eq!(ended, Err(Elapsed { given }));
    }
}
