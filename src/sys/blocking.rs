//! Work that blocks for longer than a millisecond, off the async threads: copying, hashing, unpacking.

use tokio::task::spawn_blocking;

/// Does the work on a thread that may block. A panic in it goes on here. Must be called in a tokio runtime.
///
/// Cancelled, it leaves the work to go on to its end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
