//! Messages on a memif control socket: 128 bytes each, fields packed, in the byte order of the machine (memif 2.0; as in the
//! public headers of DPDK's driver and of libmemif).

/// Bytes of every message.
pub(super) const MESSAGE_BYTES: usize = 128;
/// Protocol version 2.0.
pub(super) const VERSION: u16 = 2 << 8;
/// Interface mode: whole Ethernet frames.
pub(super) const MODE_ETHERNET: u8 = 0;

const NAME_BYTES: usize = 32;
const SECRET_BYTES: usize = 24;
const TEXT_BYTES: usize = 96;
const FLAG_TO_SERVER: u16 = 1;

/// A word that says who may connect.
pub(super) type Secret = [u8; SECRET_BYTES];

/// A message without its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The last message was understood.
    Ack,
    /// Server, first of all: what it can do. The limits are the highest indices it takes.
    Hello {
        min_version: u16,
        max_version: u16,
        max_region: u16,
        max_to_client: u16,
        max_to_server: u16,
        max_log2_ring: u8,
    },
    /// Client: which of the server's interfaces it wants.
    Init { version: u16, id: u32, mode: u8, secret: Secret },
    /// Client, with the memory: a region more.
    AddRegion { index: u16, bytes: u64 },
    /// Client, with the eventfd: a ring more.
    AddRing { to_server: bool, index: u16, region: u16, offset: u32, log2_size: u8, private_bytes: u16 },
    /// Client: that was all.
    Connect { name: String },
    /// Server: packets may go.
    Connected { name: String },
    /// Either: it is over, for this reason.
    Disconnect { code: u32, text: String },
}

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Writes fields one behind the other.
struct Writer {
    bytes: [u8; MESSAGE_BYTES],
    at: usize,
}

impl Writer {
    fn new(kind: u16) -> Self {
        Self { bytes: [0; MESSAGE_BYTES], at: 0 }.put(&kind.to_ne_bytes())
    }

    fn put(mut self, field: &[u8]) -> Self {
        if let Some(room) = self.bytes.get_mut(self.at..self.at + field.len()) {
            room.copy_from_slice(field);
        }
        self.at += field.len();
        self
    }

    /// A string in `width` bytes, the last of which is 0.
    fn put_text(self, text: &str, width: usize) -> Self {
        let end = text.floor_char_boundary(width - 1);
        let at = self.at;
        let mut next = self.put(text.get(..end).unwrap_or("").as_bytes());
        next.at = at + width;
        next
    }
}

/// Reads them.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_ne_bytes)
    }

    fn text<const N: usize>(&mut self) -> Result<String, Malformed> {
        let field = self.take::<N>()?;
        let text = field.split(|byte| *byte == 0).next().unwrap_or(&[]);
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

impl Message {
    pub(super) fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let writer = match self {
            Self::Ack => Writer::new(1),
            Self::Hello {
                min_version,
                max_version,
                max_region,
                max_to_client,
                max_to_server,
                max_log2_ring,
            } => Writer::new(2)
                .put_text("corelane", NAME_BYTES)
                .put(&min_version.to_ne_bytes())
                .put(&max_version.to_ne_bytes())
                .put(&max_region.to_ne_bytes())
                .put(&max_to_client.to_ne_bytes())
                .put(&max_to_server.to_ne_bytes())
                .put(&[*max_log2_ring]),
            Self::Init { version, id, mode, secret } => Writer::new(3)
                .put(&version.to_ne_bytes())
                .put(&id.to_ne_bytes())
                .put(&[*mode])
                .put(secret)
                .put_text("corelane", NAME_BYTES),
            Self::AddRegion { index, bytes } => {
                Writer::new(4).put(&index.to_ne_bytes()).put(&bytes.to_ne_bytes())
            }
            Self::AddRing { to_server, index, region, offset, log2_size, private_bytes } => Writer::new(5)
                .put(&if *to_server { FLAG_TO_SERVER } else { 0 }.to_ne_bytes())
                .put(&index.to_ne_bytes())
                .put(&region.to_ne_bytes())
                .put(&offset.to_ne_bytes())
                .put(&[*log2_size])
                .put(&private_bytes.to_ne_bytes()),
            Self::Connect { name } => Writer::new(6).put_text(name, NAME_BYTES),
            Self::Connected { name } => Writer::new(7).put_text(name, NAME_BYTES),
            Self::Disconnect { code, text } => {
                Writer::new(8).put(&code.to_ne_bytes()).put_text(text, TEXT_BYTES)
            }
        };
        writer.bytes
    }

    /// # Errors
    /// [`Malformed`]: the wrong size or an unknown kind.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() != MESSAGE_BYTES {
            return Err(Malformed);
        }
        let mut reader = Reader(bytes);
        Ok(match reader.u16()? {
            1 => Self::Ack,
            2 => {
                reader.take::<NAME_BYTES>()?;
                Self::Hello {
                    min_version: reader.u16()?,
                    max_version: reader.u16()?,
                    max_region: reader.u16()?,
                    max_to_client: reader.u16()?,
                    max_to_server: reader.u16()?,
                    max_log2_ring: reader.u8()?,
                }
            }
            3 => Self::Init {
                version: reader.u16()?,
                id: reader.u32()?,
                mode: reader.u8()?,
                secret: reader.take()?,
            },
            4 => Self::AddRegion { index: reader.u16()?, bytes: reader.u64()? },
            5 => Self::AddRing {
                to_server: reader.u16()? & FLAG_TO_SERVER != 0,
                index: reader.u16()?,
                region: reader.u16()?,
                offset: reader.u32()?,
                log2_size: reader.u8()?,
                private_bytes: reader.u16()?,
            },
            6 => Self::Connect { name: reader.text::<NAME_BYTES>()? },
            7 => Self::Connected { name: reader.text::<NAME_BYTES>()? },
            8 => Self::Disconnect { code: reader.u32()?, text: reader.text::<TEXT_BYTES>()? },
            _ => return Err(Malformed),
        })
    }
}

/// `text` as a secret: its first 24 bytes.
pub(super) fn secret_of(text: &str) -> Secret {
    let mut secret = [0; SECRET_BYTES];
    for (to, from) in secret.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        vec![
            Message::Ack,
            Message::Hello {
                min_version: VERSION,
                max_version: VERSION,
                max_region: 255,
                max_to_client: 1,
                max_to_server: 2,
                max_log2_ring: 14,
            },
            Message::Init { version: VERSION, id: 0x0102_0304, mode: 0, secret: secret_of("sesame") },
            Message::AddRegion { index: 3, bytes: 0x0102_0304_0506_0708 },
            Message::AddRing {
                to_server: true,
                index: 1,
                region: 2,
                offset: 0x0102_0304,
                log2_size: 10,
                private_bytes: 4,
            },
            Message::Connect { name: "eth0".to_owned() },
            Message::Connected { name: "x".repeat(31) },
            Message::Disconnect { code: 7, text: "enough".to_owned() },
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in all() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn fields_lie_where_the_public_headers_put_them() {
        // Packed structures behind a 16-bit type: offsets counted by hand from memif.h.
        let all: Vec<_> = all().iter().map(Message::encode).collect();
        let [_, hello, init, region, ring, connect, _, disconnect] = &all[..] else { panic!("eight") };
        assert_eq!((&hello[2..10], hello[44]), (&b"corelane"[..], 14));
        assert_eq!(&hello[34..44], &[0, 2, 0, 2, 255, 0, 1, 0, 2, 0]);
        assert_eq!(&init[2..9], &[0, 2, 4, 3, 2, 1, 0]);
        assert_eq!((&init[9..15], &init[33..41]), (&b"sesame"[..], &b"corelane"[..]));
        assert_eq!(&region[..12], &[4, 0, 3, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&ring[..15], &[5, 0, 1, 0, 1, 0, 2, 0, 4, 3, 2, 1, 10, 4, 0]);
        assert_eq!(&connect[..7], b"\x06\0eth0\0");
        assert_eq!(&disconnect[..13], b"\x08\0\x07\0\0\0enough\0");
    }

    #[test]
    fn what_is_no_message_is_refused_and_long_text_is_cut() {
        assert_eq!(Message::decode(&[1; 127]), Err(Malformed));
        assert_eq!(Message::decode(&[0; MESSAGE_BYTES]), Err(Malformed));
        assert_eq!(Message::decode(&[9; MESSAGE_BYTES]), Err(Malformed));
        let long = Message::Disconnect { code: 0, text: "\u{e9}".repeat(80) };
        let Ok(Message::Disconnect { text, .. }) = Message::decode(&long.encode()) else { panic!("cut") };
        assert_eq!(text, "\u{e9}".repeat(47));
    }
}
