//! Pipes in memory, for scripts that splice.

use std::collections::VecDeque;

use crate::errno::{AGAIN, Errno, Outcome};

/// Bytes a pipe holds, as Linux's.
const PIPE_BYTES: usize = 65_536;

/// One pipe.
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    pub(crate) readers: u32,
    pub(crate) writers: u32,
}

impl Pipe {
    /// A pipe with both ends open.
    pub(crate) fn open() -> Self {
        Self { bytes: VecDeque::new(), readers: 1, writers: 1 }
    }

    /// Bytes that fit.
    pub(crate) fn room(&self) -> usize {
        PIPE_BYTES.saturating_sub(self.bytes.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A copy of the first `len` bytes.
    pub(crate) fn front(&self, len: usize) -> Vec<u8> {
        self.bytes.iter().take(len).copied().collect()
    }

    /// Takes the first `len` bytes away.
    pub(crate) fn take(&mut self, len: usize) {
        self.bytes.drain(..len.min(self.bytes.len()));
    }

    /// As `read`; EAGAIN: it would wait.
    pub(crate) fn read(&mut self, len: usize) -> Outcome<Vec<u8>> {
        if self.bytes.is_empty() && self.writers > 0 && len > 0 {
            return Err(AGAIN);
        }
        let front = self.front(len);
        self.take(front.len());
        Ok(front)
    }

    /// As `write`; EAGAIN: it would wait.
    pub(crate) fn write(&mut self, data: &[u8]) -> Outcome<usize> {
        if self.readers == 0 {
            return Err(Errno(libc::EPIPE));
        }
        let n = data.len().min(self.room());
        if n == 0 && !data.is_empty() {
            return Err(AGAIN);
        }
        self.bytes.extend(data.iter().take(n));
        Ok(n)
    }
}
