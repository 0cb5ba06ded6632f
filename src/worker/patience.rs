//! A stream whose other end may be slow, but not for ever: a write that makes no step within the bound fails.
//!
//! Reading has its bounds where it is known what is read. Nothing to clean up.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that gives up on a reader who takes nothing.
pub struct Patient<S> {
    stream: S,
    silence: Duration,
    /// Runs while a write waits.
    running: bool,
    bound: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    /// The same stream, whose writes wait for as long as `silence`.
    pub fn new(stream: S, silence: Duration) -> Self {
        // sleep: it is the bound itself.
        Self { stream, silence, running: false, bound: Box::pin(tokio::time::sleep(silence)) }
    }

    /// Passes a step on; one that waits, waits no longer than the bound.
    fn step<T>(&mut self, context: &mut Context<'_>, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.running = false;
            return step;
        }
        if !self.running {
            self.running = true;
            self.bound.as_mut().reset(Instant::now() + self.silence);
        }
        ready!(self.bound.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.step(context, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.step(context, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_flush(context);
        self.step(context, step)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_shutdown(context);
        self.step(context, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let silence = Duration::from_secs(30);
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut ours = Patient::new(ours, silence);
        let slow = async {
            for _ in 0..3 {
                tokio::time::advance(silence * 9 / 10).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(b"abcd"), slow);
        written.unwrap();
        assert_eq!(ours.write_all(b"e").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
