//! A socket that is a piece of memory: what was written can be read, and the client says what it is given to say.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use aether::edges::line::{Frame, Socket};
use aether::edges::wire::Ending;
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Clone, Default)]
pub struct Line {
    pub written: Arc<Mutex<Vec<u8>>>,
    /// What the client says; given before the connection begins.
    pub frames: Arc<Mutex<VecDeque<Frame>>>,
}

impl Line {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock()).into_owned()
    }
}

impl Socket for Line {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn room(&self) -> usize {
        64 * 1024
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Frame, Ending>> {
        self.frames.lock().pop_front().map_or(Poll::Pending, |frame| Poll::Ready(Ok(frame)))
    }

    async fn finish(&mut self, _: Instant) {}
}
