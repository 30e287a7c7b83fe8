//! Segments as scripts write them: relative numbers, only the fields that matter; built, and compared with what came.

use base::{Port, SeqNum};
use wire::tcp_options::{FastOpen, SackBlock, Timestamps};
use wire::{Sign, TcpFlags, TcpHeader, TcpOptions, TcpSegment};

use crate::md5;
use crate::packet::{self, Extension, Family};

/// A field of an expected segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field<T> {
    /// Not looked at, or (in a segment to send) the default.
    Any,
    /// This value.
    Is(T),
    /// In a segment to send: the last value the stack sent.
    Last,
}

/// A segment as a script writes it. Numbers are relative to the initial ones of their sender.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub seq: u32,
    /// Payload bytes.
    pub len: u32,
    /// Acknowledgement number.
    pub ack: Field<u32>,
    /// The window field.
    pub win: Field<u16>,
    /// The urgent pointer; `None`: 0 in one to send, and in an expected one, where it counts.
    pub urgent: Option<u16>,
    /// Options.
    pub options: Options,
    /// Port of the script's side.
    pub port: u16,
    /// The ECN field of its packet; `None`: 0 in one to send, anything in an expected one.
    pub ecn: Option<u8>,
    /// What is between the packet's header and the segment, in one to send.
    pub extension: Option<Extension>,
}

/// The fast open option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cookie {
    /// With a cookie.
    Any,
    /// With this one; none of its bytes are a request.
    Is(Vec<u8>),
    /// In a segment to send: with the last one the stack gave.
    Last,
}

/// The options of a segment.
#[derive(Clone, Debug)]
pub struct Options {
    /// Were any written? An expected segment without `<...>` may have any.
    pub given: bool,
    /// MSS.
    pub mss: Option<Field<u16>>,
    /// Window scale.
    pub scale: Option<Field<u8>>,
    /// SACK-permitted.
    pub sack_ok: bool,
    /// Timestamps: value and echo.
    pub ts: Option<(Field<u32>, Field<u32>)>,
    /// SACK blocks.
    pub sack: Vec<(u32, u32)>,
    /// Fast open.
    pub fast_open: Option<Cookie>,
    /// Signed by MD5 with this key; 0: with none that the stack could have.
    pub md5: Option<u32>,
}

impl Options {
    /// None.
    pub const NONE: Self = Self {
        given: false,
        mss: None,
        scale: None,
        sack_ok: false,
        ts: None,
        sack: Vec::new(),
        fast_open: None,
        md5: None,
    };
}

/// Port the stack listens on.
pub const STACK_PORT: u16 = 8080;
/// Port of the script's side when a line names none.
pub const SCRIPT_PORT: u16 = 40_000;
/// Initial sequence number of the script's side.
pub const SCRIPT_ISS: SeqNum = SeqNum(0xffff_f000);

/// What both sides of one conversation have shown so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation {
    /// The stack's initial sequence number, once it sent one.
    pub stack_iss: Option<SeqNum>,
    /// The stack's port.
    pub stack_port: u16,
    /// Its last timestamp.
    pub last_ts: u32,
    /// The last fast open cookie that it gave.
    pub cookie: Option<FastOpen>,
}

/// The byte of a stream at `offset` from its first one. Both sides use it, so that what is sent and read is checked.
#[must_use]
pub fn stream_byte(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// A TCP segment that came, taken apart.
pub struct Came {
    /// Its header.
    pub header: TcpHeader,
    /// Its options.
    pub options: TcpOptions,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The ECN field of its packet.
    pub ecn: u8,
    /// The key it is signed with by MD5; 0: with none of those that scripts use.
    pub md5: Option<u32>,
}

impl Came {
    /// The TCP segment in an Ethernet frame; `None` for everything else, and for what is not from the stack.
    #[must_use]
    pub fn parse(frame: &[u8], family: Family) -> Option<Self> {
        let (ecn, segment) = packet::segment_from(frame, family)?;
        let tcp = TcpSegment::parse(segment).ok()?;
        Some(Self {
            header: tcp.header(),
            options: TcpOptions::parse(tcp.options()),
            payload: tcp.payload().to_vec(),
            ecn,
            md5: md5::signer(family, segment),
        })
    }

    /// As a script would write it.
    #[must_use]
    pub fn text(&self, talk: &Conversation) -> String {
        let iss = talk.stack_iss.unwrap_or(SeqNum(0));
        let seq = self.header.seq.0.wrapping_sub(iss.0);
        let mut text = format!("{} {seq}", flag_letters(self.header.flags));
        if !self.payload.is_empty() {
            text += &format!(":{}", seq.wrapping_add(self.payload.len() as u32));
        }
        if self.header.flags.is_ack() {
            text += &format!(" ack {}", self.header.ack.0.wrapping_sub(SCRIPT_ISS.0));
        }
        text += &format!(" win {}", self.header.window);
        if self.header.flags.intersects(TcpFlags::URG) {
            text += &format!(" urg {}", self.header.urgent);
        }
        if self.ecn != 0 {
            text += &format!(" ecn {}", self.ecn);
        }
        let mut options = Vec::new();
        let o = &self.options;
        options.extend(o.mss.map(|m| format!("mss {m}")));
        options.extend(o.sack_permitted.then(|| "sackOK".to_owned()));
        options.extend(o.timestamps.map(|t| format!("ts {} {}", t.value, t.echo)));
        options.extend(o.window_scale.map(|s| format!("wscale {s}")));
        options.extend(o.fast_open().map(|f| format!("FO {}", digits(f.cookie()))));
        options.extend(self.md5.map(|n| format!("md5 {n}")));
        for block in o.sack.as_slice() {
            let (left, right) = (block.left.0, block.right.0);
            options.push(format!(
                "sack {}:{}",
                left.wrapping_sub(SCRIPT_ISS.0),
                right.wrapping_sub(SCRIPT_ISS.0)
            ));
        }
        if !options.is_empty() {
            text += &format!(" <{}>", options.join(","));
        }
        text
    }
}

/// Bytes in hexadecimal digits.
fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The flags as scripts write them.
#[must_use]
pub fn flag_letters(flags: TcpFlags) -> String {
    let letters = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
        (TcpFlags::ACK, '.'),
    ];
    letters.iter().filter(|(f, _)| flags.contains(*f)).map(|(_, c)| *c).collect()
}

impl Pattern {
    /// The Ethernet frame of this segment from the script's side.
    #[must_use]
    pub fn build(&self, talk: &Conversation, family: Family) -> Vec<u8> {
        let stack_iss = talk.stack_iss.unwrap_or(SeqNum(0));
        let ack = match self.ack {
            Field::Is(n) => stack_iss.plus(n),
            Field::Any | Field::Last => SeqNum(0),
        };
        let window = match self.win {
            Field::Is(w) => w,
            Field::Any | Field::Last => 65_535,
        };
        let header = TcpHeader {
            src_port: Port(self.port),
            dst_port: Port(talk.stack_port),
            seq: SCRIPT_ISS.plus(self.seq),
            ack,
            flags: self.flags,
            window,
            urgent: self.urgent.unwrap_or(0),
        };
        let mut bytes = vec![0; 60];
        let Ok(len) = header.emit(&self.wire_options(talk, stack_iss), &mut bytes) else { return Vec::new() };
        bytes.truncate(len);
        // The first payload byte of a stream has number 1.
        let first = self.first_byte();
        bytes.extend((0..u64::from(self.len)).map(|at| stream_byte(first + at)));
        if let Some(number) = self.options.md5 {
            md5::sign(family, &mut bytes, number);
        }
        packet::frame(family, self.ecn.unwrap_or(0), self.extension, bytes)
    }

    /// Where in its stream the payload begins; behind a SYN is the first byte.
    fn first_byte(&self) -> u64 {
        u64::from(self.seq + u32::from(self.flags.is_syn())).saturating_sub(1)
    }

    fn wire_options(&self, talk: &Conversation, stack_iss: SeqNum) -> TcpOptions {
        let mut options = TcpOptions::NONE;
        if let Some(Field::Is(mss)) = self.options.mss {
            options.mss = Some(mss);
        }
        if let Some(Field::Is(scale)) = self.options.scale {
            options.window_scale = Some(scale);
        }
        options.sack_permitted = self.options.sack_ok;
        if let Some((value, echo)) = self.options.ts {
            let number = |f: Field<u32>| match f {
                Field::Is(n) => n,
                Field::Any => 0,
                Field::Last => talk.last_ts,
            };
            options.timestamps = Some(Timestamps { value: number(value), echo: number(echo) });
        }
        if self.options.md5.is_some() {
            options.sign = Sign::Md5;
        }
        let fast_open = match &self.options.fast_open {
            Some(Cookie::Is(bytes)) => FastOpen::of(bytes, false),
            Some(Cookie::Last) => talk.cookie,
            Some(Cookie::Any) | None => None,
        };
        if let Some(option) = fast_open {
            options = options.with_fast_open(&option);
        }
        for (left, right) in &self.options.sack {
            options.sack.push(SackBlock { left: stack_iss.plus(*left), right: stack_iss.plus(*right) });
        }
        options
    }

    /// Says in what way `came` is not what is expected.
    #[must_use]
    pub fn differs(&self, came: &Came, talk: &Conversation) -> Option<String> {
        let iss = talk.stack_iss.unwrap_or(SeqNum(0));
        let mut wrong = Vec::new();
        let mut check = |what: &str, want: String, got: String| {
            if want != got {
                wrong.push(format!("{what} {got} instead of {want}"));
            }
        };
        // Whether PSH is set is the sender's choice (RFC 9293 3.9.1.2).
        let bare = |flags: TcpFlags| flag_letters(flags.without(TcpFlags::PSH));
        check("flags", bare(self.flags), bare(came.header.flags));
        check("seq", self.seq.to_string(), came.header.seq.0.wrapping_sub(iss.0).to_string());
        check("length", self.len.to_string(), came.payload.len().to_string());
        if let Field::Is(ack) = self.ack {
            check("ack", ack.to_string(), came.header.ack.0.wrapping_sub(SCRIPT_ISS.0).to_string());
        }
        if let Field::Is(win) = self.win {
            check("win", win.to_string(), came.header.window.to_string());
        }
        check("urg", self.urgent.unwrap_or(0).to_string(), came.header.urgent.to_string());
        if let Some(ecn) = self.ecn {
            check("ecn", ecn.to_string(), came.ecn.to_string());
        }
        let first = self.first_byte();
        let good = (0..).zip(&came.payload).all(|(at, byte)| *byte == stream_byte(first + at));
        check(
            "payload",
            "the stream's bytes".into(),
            if good { "the stream's bytes" } else { "other bytes" }.into(),
        );
        if self.options.given {
            check("md5", format!("{:?}", self.options.md5), format!("{:?}", came.md5));
            self.check_options(&came.options, &mut check);
        }
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }

    fn check_options(&self, came: &TcpOptions, check: &mut impl FnMut(&str, String, String)) {
        fn presence<T: ToString>(want: Option<Field<T>>, got: Option<T>) -> (String, String) {
            let none = || "none".to_owned();
            match (want, got) {
                (Some(Field::Any | Field::Last), Some(_)) => (none(), none()),
                (want, got) => (
                    match want {
                        Some(Field::Is(v)) => v.to_string(),
                        Some(Field::Any | Field::Last) => "some".to_owned(),
                        None => none(),
                    },
                    got.map_or_else(none, |v| v.to_string()),
                ),
            }
        }
        let (want, got) = presence(self.options.mss, came.mss);
        check("mss", want, got);
        let (want, got) = presence(self.options.scale, came.window_scale);
        check("wscale", want, got);
        check("sackOK", self.options.sack_ok.to_string(), came.sack_permitted.to_string());
        let given = came.fast_open().map(|f| f.cookie().to_vec());
        match (&self.options.fast_open, &given) {
            (Some(Cookie::Any | Cookie::Last), Some(cookie)) if !cookie.is_empty() => {}
            (want, got) => {
                let want =
                    want.as_ref().map(|w| if let Cookie::Is(b) = w { digits(b) } else { "some".into() });
                let got = got.as_ref().map(|b| digits(b));
                check("FO", format!("{want:?}"), format!("{got:?}"));
            }
        }
        let (want, got) = presence(self.options.ts.map(|t| t.0), came.timestamps.map(|t| t.value));
        check("ts value", want, got);
        let (want, got) = presence(self.options.ts.map(|t| t.1), came.timestamps.map(|t| t.echo));
        check("ts echo", want, got);
        let relative = |n: SeqNum| n.0.wrapping_sub(SCRIPT_ISS.0);
        let blocks = came.sack.as_slice().iter().map(|b| (relative(b.left), relative(b.right)));
        check("sack", format!("{:?}", self.options.sack), format!("{:?}", blocks.collect::<Vec<_>>()));
    }
}

/// An ICMP error that a script sends, about a segment that the stack sent.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What it says.
    pub fault: packet::Fault,
    /// The segment's first number, relative to the stack's initial one.
    pub seq: u32,
    /// Its payload bytes.
    pub len: u32,
}

impl Report {
    /// The Ethernet frame of this error.
    #[must_use]
    pub fn build(&self, talk: &Conversation, family: Family) -> Vec<u8> {
        let header = TcpHeader {
            src_port: Port(talk.stack_port),
            dst_port: Port(SCRIPT_PORT),
            seq: talk.stack_iss.unwrap_or(SeqNum(0)).plus(self.seq),
            ack: SCRIPT_ISS.plus(1),
            flags: TcpFlags::ACK,
            window: 0,
            urgent: 0,
        };
        let mut bytes = vec![0; 20];
        let _ = header.emit(&TcpOptions::NONE, &mut bytes);
        bytes.resize(20 + self.len as usize, 0);
        packet::error(family, self.fault, &bytes)
    }
}
