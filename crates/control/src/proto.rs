//! Messages between a program and the keeper, over a SEQPACKET socket; file descriptors go beside them by SCM_RIGHTS.
//!
//! One message is one packet of at most [`KEEPER_MESSAGE_BYTES`] bytes: a kind byte, then the fields in the order they are declared,
//! little-endian, without padding. A text is its length (u16) and its bytes. Decoding is strict: an unknown kind, a value
//! out of range, a missing or a surplus byte is an error, because either side may be hostile. Each request gets exactly one reply,
//! [`Reply::Error`] or the kind named at the request; notices ([`Reply::is_notice`]) may come at any time. Which fds belong to a message is said at the message; this file never sees them.

pub(crate) mod codec;
mod devices;
mod entrust;
mod flows;
mod rule;
mod wire;

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, LaneId, Port};
use codec::{Reader, Writer};
pub use devices::{DeviceKind, DeviceList, LaneDevice, device_flags};
pub use entrust::Stopped;
pub use flows::{FLOWS_MAX, FlowEnds, FlowList};
pub use rule::{Proto, Rule};
pub use wire::WireEnd;

/// Version of this protocol. The keeper refuses any other with `EPROTONOSUPPORT`.
pub const VERSION: u16 = 3;
/// Words that describe the shape of a lane in [`RegionWish`]; `state` gives them their meaning.
pub const SHAPE_WORDS: usize = 16;
/// One encoded message, with room for the longest.
pub type MessageBuffer = [u8; KEEPER_MESSAGE_BYTES];

/// Why bytes are not a message, or a message does not become bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtoError {
    /// The message ends before its last field.
    TooShort,
    /// Bytes follow the last field.
    Surplus,
    /// No message has this kind byte.
    UnknownKind(u8),
    /// A field holds a value that does not exist.
    BadValue,
    /// The message is longer than [`KEEPER_MESSAGE_BYTES`].
    TooLong,
}

/// What a program wants its region to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionWish {
    /// Lanes, 1 to `limits::LANES`.
    pub lanes: u16,
    /// Frames in the frame area.
    pub frames: u32,
    /// Back the region with hugepages if there are enough.
    pub hugepages: bool,
    /// `state::LaneShape` as words, in field order; unused words are 0.
    pub shape: [u32; SHAPE_WORDS],
}

/// What the program asks; the reply is named at each.
// As for Reply.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// The first message of a connection. Reply: [`Reply::Welcome`].
    Hello {
        /// [`VERSION`] of the program.
        version: u16,
        /// Process id of the program, in its own pid namespace (the keeper trusts SO_PEERCRED only).
        pid: u32,
        /// Value of `CORELANE_TOKEN`.
        token: [u8; 16],
    },
    /// Make a region. Reply: [`Reply::Region`].
    NewRegion(RegionWish),
    /// Share the region of whichever lane listens on the kernel's listener whose fd this carries: the program was started by, or sent it by, the
    /// program whose region it is. Reply: [`Reply::Region`]; an error of ENOENT: no lane does.
    Join,
    /// Take the next lane of a region and its devices. Reply: [`Reply::Lane`].
    NewLane {
        /// Region number.
        region: u32,
    },
    /// Steer a listener to a lane. Carries the fd of the bound kernel socket, of which the keeper keeps a copy so that the port
    /// stays taken as long as the rule lives. Reply: [`Reply::Done`].
    Listen(Rule),
    /// Take [`Request::Listen`] back. Reply: [`Reply::Done`].
    Unlisten {
        /// The rule.
        rule: Rule,
        /// Which of the lane's listeners there (SO_REUSEPORT): the kernel socket's inode number (stat(2)); 0: the only one.
        inode: u64,
    },
    /// Reserve a local port and steer it to a lane; may carry the fd of an already bound kernel socket. Reply: [`Reply::Port`].
    TakePort(Rule),
    /// Reserve a block of [`crate::steer::BLOCK_PORTS`] local ports of the keeper's choice for connections that go out, and steer it to a lane;
    /// the rule's port is 0. Reply: [`Reply::Ports`].
    TakePorts(Rule),
    /// Take [`Request::TakePort`] back. Reply: [`Reply::Done`].
    GivePort(Rule),
    /// Ask the kernel to resolve a next hop; the answer shows up in the tables. Reply: [`Reply::Done`].
    Resolve {
        /// Device of the next hop.
        ifindex: u32,
        /// Address of the next hop.
        addr: IpAddress,
    },
    /// Lines for `corelane explain`: why sockets of this process are or are not accelerated. Reply: [`Reply::Done`].
    Reasons {
        /// Lines, each ended by a newline.
        text: &'a str,
    },
    /// Ask for a wire to a program of this host that listens at (`rule.addr`, `rule.port`), for the lane that the rule names.
    /// Reply: [`Reply::Wire`], with the fds of the wire's end if it is new; an error of ENOENT: nobody that a wire leads to listens there.
    Introduce {
        /// The lane that connects, and whereto.
        rule: Rule,
        /// The device by which the route leaves; 0: the address is one of this network namespace.
        ifindex: u32,
        /// Which of the lanes that listen there, below [`Reply::Wire`]'s `lanes`.
        turn: u8,
    },
    /// Connections that nobody has accepted yet go from the lane of `rule` to lane `to` of the region, which listens at the rule's end, too:
    /// have their segments come there, and its process look. The two lanes are locked meanwhile. Reply: [`Reply::Done`].
    HandOn {
        /// The lane that has them, and its listener's end.
        rule: Rule,
        /// The lane that gets them. The rule's own: those that were to go there last do not, as far as their segments come there.
        to: LaneId,
        /// The connections.
        flows: FlowList,
    },
    /// The program closed a listener at the rule's end, which another process of the region has, too, perhaps; connections wait at it that no
    /// lane takes yet. See that one gets them. Reply: [`Reply::Done`]; an error: there is nobody, so reset them.
    Leave(Rule),
    /// Connections have come to the rule's lane from another one of its region, or are to go by a device instead of a wire. Have their segments come there.
    /// Reply: [`Reply::Done`].
    Fetch {
        /// The lane that has them now.
        rule: Rule,
        /// The connections.
        flows: FlowList,
    },
    /// Connections wait to be accepted at these other lanes of a region in which the process has a lane, and which accepts: have those lanes'
    /// processes look. Reply: [`Reply::Done`].
    Rouse {
        /// Region number.
        region: u32,
        /// The lanes, a bit each.
        lanes: u64,
    },
    /// The memory of a region of a lane of the process, which has lost sight of it by exec. Reply: [`Reply::Region`].
    Enter {
        /// Region number.
        region: u32,
    },
    /// The process goes on, after exec, with this lane, which is its own. Reply: as to [`Request::NewLane`]; then comes a [`Reply::Met`] for each
    /// wire that the lane has.
    Resume {
        /// Region number.
        region: u32,
        /// The lane.
        lane: LaneId,
    },
    /// The kernel is to go on with a connection of the rule's lane, which is of the same user and locked meanwhile. Carries memory with its bytes, if it
    /// has any. Reply: [`Reply::Connection`]; an error: the lane has it still.
    Entrust {
        /// The lane, and the connection's own end.
        rule: Rule,
        /// Where it stopped.
        stopped: Stopped,
    },
    /// Ask for what the keeper knows. Reply: [`Reply::Description`].
    Describe {
        /// First byte of the description wanted: a long one is fetched in pieces.
        offset: u32,
    },
}

/// What the keeper answers.
// Boxing the devices would need the heap for a value that lives for one message.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// The request failed.
    Error {
        /// errno for the caller, positive.
        errno: u16,
        /// What failed, why, and what to do. Cut at the message's end.
        text: &'a str,
    },
    /// Done, nothing to say.
    Done,
    /// Answer to Hello. One fd: the memfd of the control tables, read-only.
    Welcome {
        /// Number of this connection, for logs.
        session: u32,
        /// Settings for the program, `KEY=VALUE` lines with the keys of the environment (`CORELANE_*`).
        config: &'a str,
    },
    /// Answer to NewRegion. One fd: the region's memfd, formatted and sealed.
    Region {
        /// Region number.
        id: u32,
    },
    /// Answer to NewLane. The fds of all devices.
    Lane {
        /// Number of the lane in its region.
        lane: LaneId,
        /// Its devices.
        devices: DeviceList,
    },
    /// Answer to TakePort.
    Port {
        /// The port taken.
        port: Port,
    },
    /// Answer to TakePorts.
    Ports {
        /// The first port taken.
        first: Port,
        /// How many there are, one after the other.
        count: u16,
    },
    /// Answer to Entrust. One fd: the kernel's socket.
    Connection,
    /// Answer to Introduce.
    Wire {
        /// The end. The message has its fds if `fresh`.
        end: WireEnd,
        /// How many lanes listen there.
        lanes: u8,
        /// Is the wire new? Else the lane has it already.
        fresh: bool,
    },
    /// Nobody asked for this one: another lane has a wire to this lane now. The fds of its end.
    Met {
        /// The end.
        end: WireEnd,
    },
    /// Nobody asked for this one: a wire is no more.
    Parted {
        /// Its number.
        wire: u32,
    },
    /// Nobody asked for this one: another process put connections into a listener of the process's lane.
    Look {
        /// The lane.
        lane: LaneId,
    },
    /// Answer to Describe.
    Description {
        /// The piece at the wanted offset.
        text: &'a str,
        /// Bytes after this piece.
        more: u32,
    },
}

/// Longest text that fits beside the other fields of any message, bytes.
pub const TEXT_BYTES_MAX: usize = KEEPER_MESSAGE_BYTES - 64;

/// `text` cut at a character boundary so that it fits a message.
#[must_use]
pub fn fit_text(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text)
}

impl<'a> Request<'a> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// [`ProtoError::TooLong`] for a text above [`TEXT_BYTES_MAX`].
    pub fn encode(&self, out: &mut MessageBuffer) -> Result<usize, ProtoError> {
        let mut w = Writer::new(out);
        match self {
            Self::Hello { version, pid, token } => {
                w.u8(1).u16(*version).u32(*pid).bytes(token);
            }
            Self::NewRegion(wish) => {
                w.u8(2).u16(wish.lanes).u32(wish.frames).u8(u8::from(wish.hugepages));
                wish.shape.iter().for_each(|&word| {
                    w.u32(word);
                });
            }
            Self::NewLane { region } => {
                w.u8(3).u32(*region);
            }
            Self::Listen(rule) => rule.encode(w.u8(4)),
            Self::Unlisten { rule, inode } => {
                rule.encode(w.u8(5));
                w.u64(*inode);
            }
            Self::TakePort(rule) => rule.encode(w.u8(6)),
            Self::GivePort(rule) => rule.encode(w.u8(7)),
            Self::Resolve { ifindex, addr } => {
                w.u8(8).u32(*ifindex).bytes(&addr.0);
            }
            Self::Reasons { text } => {
                w.u8(9).text(text);
            }
            Self::Describe { offset } => {
                w.u8(10).u32(*offset);
            }
            Self::TakePorts(rule) => rule.encode(w.u8(11)),
            Self::Introduce { rule, ifindex, turn } => {
                rule.encode(w.u8(12));
                w.u32(*ifindex).u8(*turn);
            }
            Self::Leave(rule) => rule.encode(w.u8(14)),
            Self::Join => {
                w.u8(15);
            }
            Self::Fetch { rule, flows } => {
                rule.encode(w.u8(16));
                flows.encode(&mut w);
            }
            Self::Rouse { region, lanes } => {
                w.u8(21).u32(*region).u64(*lanes);
            }
            Self::Enter { region } => {
                w.u8(18).u32(*region);
            }
            Self::Resume { region, lane } => {
                w.u8(17).u32(*region).u16(lane.0);
            }
            Self::Entrust { rule, stopped } => {
                rule.encode(w.u8(19));
                stopped.encode(&mut w);
            }
            Self::HandOn { rule, to, flows } => {
                rule.encode(w.u8(13));
                flows.encode(w.u16(to.0));
            }
        }
        w.finish()
    }

    /// Reads one whole message.
    ///
    /// # Errors
    /// Whatever is wrong with it first; see [`ProtoError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(bytes);
        let request = match r.u8()? {
            1 => Self::Hello { version: r.u16()?, pid: r.u32()?, token: r.array()? },
            2 => Self::NewRegion(RegionWish {
                lanes: r.u16()?,
                frames: r.u32()?,
                hugepages: r.bool()?,
                shape: decode_shape(&mut r)?,
            }),
            3 => Self::NewLane { region: r.u32()? },
            4 => Self::Listen(Rule::decode(&mut r)?),
            5 => Self::Unlisten { rule: Rule::decode(&mut r)?, inode: r.u64()? },
            6 => Self::TakePort(Rule::decode(&mut r)?),
            7 => Self::GivePort(Rule::decode(&mut r)?),
            8 => Self::Resolve { ifindex: r.u32()?, addr: IpAddress(r.array()?) },
            9 => Self::Reasons { text: r.text()? },
            10 => Self::Describe { offset: r.u32()? },
            11 => Self::TakePorts(Rule::decode(&mut r)?),
            12 => Self::Introduce { rule: Rule::decode(&mut r)?, ifindex: r.u32()?, turn: r.u8()? },
            13 => Self::HandOn {
                rule: Rule::decode(&mut r)?,
                to: LaneId(r.u16()?),
                flows: FlowList::decode(&mut r)?,
            },
            14 => Self::Leave(Rule::decode(&mut r)?),
            15 => Self::Join,
            16 => Self::Fetch { rule: Rule::decode(&mut r)?, flows: FlowList::decode(&mut r)? },
            19 => Self::Entrust { rule: Rule::decode(&mut r)?, stopped: Stopped::decode(&mut r)? },
            21 => Self::Rouse { region: r.u32()?, lanes: r.u64()? },
            18 => Self::Enter { region: r.u32()? },
            17 => Self::Resume { region: r.u32()?, lane: LaneId(r.u16()?) },
            other => return Err(ProtoError::UnknownKind(other)),
        };
        r.finish(request)
    }
}

impl<'a> Reply<'a> {
    /// Writes the message into `out`; returns its length.
    ///
    /// # Errors
    /// [`ProtoError::TooLong`] for a text above [`TEXT_BYTES_MAX`].
    pub fn encode(&self, out: &mut MessageBuffer) -> Result<usize, ProtoError> {
        let mut w = Writer::new(out);
        match self {
            Self::Error { errno, text } => {
                w.u8(128).u16(*errno).text(text);
            }
            Self::Done => {
                w.u8(129);
            }
            Self::Welcome { session, config } => {
                w.u8(130).u32(*session).text(config);
            }
            Self::Region { id } => {
                w.u8(131).u32(*id);
            }
            Self::Lane { lane, devices } => {
                w.u8(132).u16(lane.0);
                devices.encode(&mut w);
            }
            Self::Port { port } => {
                w.u8(133).u16(port.0);
            }
            Self::Ports { first, count } => {
                w.u8(135).u16(first.0).u16(*count);
            }
            Self::Connection => {
                w.u8(140);
            }
            Self::Wire { end, lanes, fresh } => {
                end.encode(w.u8(136));
                w.u8(*lanes).u8(u8::from(*fresh));
            }
            Self::Met { end } => end.encode(w.u8(137)),
            Self::Look { lane } => {
                w.u8(139).u16(lane.0);
            }
            Self::Parted { wire } => {
                w.u8(138).u32(*wire);
            }
            Self::Description { text, more } => {
                w.u8(134).u32(*more).text(text);
            }
        }
        w.finish()
    }

    /// Does the keeper say it without being asked, between a request and its reply perhaps?
    #[must_use]
    pub fn is_notice(&self) -> bool {
        matches!(self, Self::Met { .. } | Self::Parted { .. } | Self::Look { .. })
    }

    /// Reads one whole message.
    ///
    /// # Errors
    /// Whatever is wrong with it first; see [`ProtoError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(bytes);
        let reply = match r.u8()? {
            128 => Self::Error { errno: r.u16()?, text: r.text()? },
            129 => Self::Done,
            130 => Self::Welcome { session: r.u32()?, config: r.text()? },
            131 => Self::Region { id: r.u32()? },
            132 => Self::Lane { lane: LaneId(r.u16()?), devices: DeviceList::decode(&mut r)? },
            133 => Self::Port { port: Port(r.u16()?) },
            134 => {
                let more = r.u32()?;
                Self::Description { text: r.text()?, more }
            }
            135 => Self::Ports { first: Port(r.u16()?), count: r.u16()? },
            136 => Self::Wire { end: WireEnd::decode(&mut r)?, lanes: r.u8()?, fresh: r.bool()? },
            137 => Self::Met { end: WireEnd::decode(&mut r)? },
            140 => Self::Connection,
            138 => Self::Parted { wire: r.u32()? },
            139 => Self::Look { lane: LaneId(r.u16()?) },
            other => return Err(ProtoError::UnknownKind(other)),
        };
        r.finish(reply)
    }
}

fn decode_shape(r: &mut Reader<'_>) -> Result<[u32; SHAPE_WORDS], ProtoError> {
    let mut shape = [0; SHAPE_WORDS];
    for word in &mut shape {
        *word = r.u32()?;
    }
    Ok(shape)
}
