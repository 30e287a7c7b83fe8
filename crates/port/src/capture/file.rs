//! The file: section header, one interface description, and a packet block for each packet, in native byte order.

use rustix::io::Errno;
use sys::fds::Fd;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const LINK_ETHERNET: u16 = 1;
const OPTION_NAME: u16 = 2;
const OPTION_FLAGS: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;
/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// In.
    Received,
    /// Out.
    Sent,
}

/// A pcapng file that is being written.
pub struct CaptureFile {
    fd: Fd,
    buffer: Vec<u8>,
    snap_bytes: usize,
    packets: u64,
    failed: Option<Errno>,
}

impl CaptureFile {
    /// Begins a capture in `fd`, an empty file or a pipe. `interface`: its name in the file. At most `snap_bytes` of
    /// each packet are kept; 0: all.
    #[must_use]
    pub fn new(fd: Fd, interface: &str, snap_bytes: usize) -> Self {
        let mut file = Self { fd, buffer: Vec::new(), snap_bytes, packets: 0, failed: None };
        let mut section = Vec::new();
        section.extend(BYTE_ORDER.to_ne_bytes());
        section.extend(1_u16.to_ne_bytes()); // version 1.0
        section.extend(0_u16.to_ne_bytes());
        section.extend((-1_i64).to_ne_bytes()); // its length is not known
        file.block(SECTION_HEADER, &section);
        let mut description = Vec::new();
        description.extend(LINK_ETHERNET.to_ne_bytes());
        description.extend(0_u16.to_ne_bytes());
        description.extend((snap_bytes as u32).to_ne_bytes());
        option(&mut description, OPTION_NAME, interface.as_bytes());
        option(&mut description, OPTION_RESOLUTION, &[9]); // times in 10^-9 s
        option(&mut description, 0, &[]);
        file.block(INTERFACE, &description);
        file
    }

    /// Adds a packet that passed at `time_ns`.
    pub fn packet(&mut self, direction: Direction, time_ns: u64, bytes: &[u8]) {
        let kept = match self.snap_bytes {
            0 => bytes,
            snap => bytes.get(..snap).unwrap_or(bytes),
        };
        let mut block = Vec::with_capacity(kept.len() + 40);
        block.extend(0_u32.to_ne_bytes()); // the only interface
        block.extend(((time_ns >> 32) as u32).to_ne_bytes());
        block.extend((time_ns as u32).to_ne_bytes());
        block.extend((kept.len() as u32).to_ne_bytes());
        block.extend((bytes.len() as u32).to_ne_bytes());
        block.extend(kept);
        block.resize(block.len().next_multiple_of(4), 0);
        let flags: u32 = match direction {
            Direction::Received => 1,
            Direction::Sent => 2,
        };
        option(&mut block, OPTION_FLAGS, &flags.to_ne_bytes());
        option(&mut block, 0, &[]);
        self.block(PACKET, &block);
        self.packets += 1;
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let length = (body.len() as u32 + 12).to_ne_bytes();
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(length);
        self.buffer.extend(body);
        self.buffer.extend(length);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Writes what is gathered. After a failure nothing more is written: half a block would spoil the file.
    pub fn flush(&mut self) {
        let mut from = 0;
        while let (Some(rest), None) = (self.buffer.get(from..).filter(|r| !r.is_empty()), self.failed) {
            match rustix::io::write(&self.fd, rest) {
                Ok(written) => from += written,
                Err(Errno::INTR) => {}
                Err(errno) => self.failed = Some(errno),
            }
        }
        self.buffer.clear();
    }

    /// Packets so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Why the file ends early, if it does.
    #[must_use]
    pub fn failed(&self) -> Option<Errno> {
        self.failed
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Appends an option, padded to whole words.
fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_ne_bytes());
    block.extend((value.len() as u16).to_ne_bytes());
    block.extend(value);
    block.resize(block.len().next_multiple_of(4), 0);
}
