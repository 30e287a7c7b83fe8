//! How two ends of a wire come to know each other, without a socket: messages in, messages out.
//!
//! ```text
//! server                          client
//!   HELLO        ───────────────►
//!                ◄───────────────   INIT
//!   ACK          ───────────────►
//!                ◄───────────────   ADD_REGION + memory     (each acknowledged)
//!                ◄───────────────   ADD_RING + eventfd      (each acknowledged)
//!                ◄───────────────   CONNECT
//!   CONNECTED    ───────────────►
//! ```
//! One ring each way. Left out: IP and punt modes, private headers of buffers.

use sys::fds::Fd;
use sys::memif::{LOG2_RING_MAX, MemifParts, Role, Way, pair};

use super::proto::{MESSAGE_BYTES, MODE_ETHERNET, Message, Secret, VERSION, secret_of};
use super::{MemifSpec, RingPart, ServedParts, Wire};

/// Regions that a client may show.
const REGIONS_MAX: usize = 16;

/// A message to send, with its descriptor.
pub(super) struct Out {
    pub(super) bytes: [u8; MESSAGE_BYTES],
    pub(super) fd: Option<Fd>,
}

/// Why the handshake or the connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer ended it and says why.
    Theirs(String),
    /// We end it and tell the peer why.
    Ours(&'static str),
}

/// What a message led to.
pub(super) enum Step {
    /// To be answered with this.
    Answer(Out),
    /// Nothing to be said.
    Silence,
    /// A wire; as server, after this answer is sent.
    Up(Wire, Option<Out>),
}

/// What the next message must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Client: HELLO.
    Greeting,
    /// Client: so many of our messages are acknowledged.
    Offering(u8),
    /// Client: CONNECTED.
    Waiting,
    /// Server: INIT.
    Asked,
    /// Server: regions, rings, CONNECT.
    Building,
    /// Only the end can come.
    Done,
}

/// One handshake.
pub(super) struct Handshake {
    stage: Stage,
    id: u32,
    secret: Secret,
    ours: Option<MemifParts>,
    regions: Vec<(Fd, u64)>,
    to_server: Option<RingPart>,
    to_client: Option<RingPart>,
}

impl Out {
    fn plain(message: &Message) -> Self {
        Self { bytes: message.encode(), fd: None }
    }
}

impl Handshake {
    /// A handshake in the role of `spec`, and what is to be sent at once.
    pub(super) fn new(spec: &MemifSpec) -> (Self, Option<Out>) {
        let (stage, first) = match spec.role {
            Role::Client => (Stage::Greeting, None),
            Role::Server => (
                Stage::Asked,
                Some(Out::plain(&Message::Hello {
                    min_version: VERSION,
                    max_version: VERSION,
                    max_region: REGIONS_MAX as u16 - 1,
                    max_to_client: 0,
                    max_to_server: 0,
                    max_log2_ring: LOG2_RING_MAX as u8,
                })),
            ),
        };
        let handshake = Self {
            stage,
            id: spec.id,
            secret: secret_of(&spec.secret),
            ours: None,
            regions: Vec::new(),
            to_server: None,
            to_client: None,
        };
        (handshake, first)
    }

    /// Takes one message of the peer with its descriptors.
    ///
    /// # Errors
    /// [`End`].
    pub(super) fn handle(&mut self, spec: &MemifSpec, bytes: &[u8], fds: Vec<Fd>) -> Result<Step, End> {
        let message = Message::decode(bytes).map_err(|_| End::Ours("a message that is none"))?;
        if let Message::Disconnect { text, .. } = message {
            return Err(End::Theirs(text));
        }
        let fd = fds.into_iter().next();
        match self.stage {
            Stage::Greeting => self.greeted(spec, &message),
            Stage::Offering(acked) => match message {
                Message::Ack => self.offer(acked + 1),
                _ => Err(End::Ours("expected an acknowledgement")),
            },
            Stage::Waiting => self.connected(&message),
            Stage::Asked => self.asked(&message),
            Stage::Building => self.build(message, fd),
            Stage::Done => match message {
                Message::Ack => Ok(Step::Silence),
                _ => Err(End::Ours("unexpected message on a connected wire")),
            },
        }
    }

    /// Client: what the server can do decides what we make.
    fn greeted(&mut self, spec: &MemifSpec, message: &Message) -> Result<Step, End> {
        let Message::Hello { min_version, max_version, max_log2_ring, .. } = *message else {
            return Err(End::Ours("expected a greeting"));
        };
        if min_version > VERSION || max_version < VERSION {
            return Err(End::Ours("incompatible memif version"));
        }
        let mut shape = spec.shape;
        shape.log2_ring = shape.log2_ring.min(u32::from(max_log2_ring));
        let (ours, _theirs) = pair(shape).map_err(|_| End::Ours("no memory for a wire"))?;
        self.ours = Some(ours);
        self.stage = Stage::Offering(0);
        let (id, secret) = (self.id, self.secret);
        let init = Message::Init { version: VERSION, id, mode: MODE_ETHERNET, secret };
        Ok(Step::Answer(Out::plain(&init)))
    }

    /// Client: `acked` of INIT, ADD_REGION, ADD_RING, ADD_RING are acknowledged; the next one.
    fn offer(&mut self, acked: u8) -> Result<Step, End> {
        let ours = self.ours.as_ref().ok_or(End::Ours("no memory for a wire"))?;
        let ring = |way| Message::AddRing {
            to_server: way == Way::ToServer,
            index: 0,
            region: 0,
            offset: ours.shape.ring_at(way),
            log2_size: ours.shape.log2_ring as u8,
            private_bytes: 0,
        };
        let (message, fd) = match acked {
            1 => (Message::AddRegion { index: 0, bytes: ours.shape.bytes() }, Some(&ours.memory)),
            2 => (ring(Way::ToServer), Some(&ours.to_server)),
            3 => (ring(Way::ToClient), Some(&ours.to_client)),
            _ => (Message::Connect { name: "corelane".to_owned() }, None),
        };
        let copied = fd.map(Fd::duplicate).transpose().map_err(|_| End::Ours("too many descriptors"))?;
        self.stage = if copied.is_some() { Stage::Offering(acked) } else { Stage::Waiting };
        Ok(Step::Answer(Out { bytes: message.encode(), fd: copied }))
    }

    /// Client: done.
    fn connected(&mut self, message: &Message) -> Result<Step, End> {
        match message {
            // Some servers acknowledge CONNECT before they answer it.
            Message::Ack => Ok(Step::Silence),
            Message::Connected { .. } => {
                self.stage = Stage::Done;
                let ours = self.ours.take().ok_or(End::Ours("no memory for a wire"))?;
                Ok(Step::Up(Wire::Client(ours), None))
            }
            _ => Err(End::Ours("expected a connection")),
        }
    }

    /// Server: who is it?
    fn asked(&mut self, message: &Message) -> Result<Step, End> {
        let Message::Init { version, id, mode, secret } = *message else {
            return Err(End::Ours("expected an introduction"));
        };
        if version != VERSION {
            return Err(End::Ours("incompatible memif version"));
        }
        if id != self.id {
            return Err(End::Ours("no interface with this id"));
        }
        if mode != MODE_ETHERNET {
            return Err(End::Ours("only Ethernet mode is supported"));
        }
        if secret != self.secret {
            return Err(End::Ours("wrong secret"));
        }
        self.stage = Stage::Building;
        Ok(Step::Answer(Out::plain(&Message::Ack)))
    }

    /// Server: takes what the client shows.
    fn build(&mut self, message: Message, fd: Option<Fd>) -> Result<Step, End> {
        match message {
            Message::AddRegion { index, bytes } => {
                let fd = fd.ok_or(End::Ours("a region without its memory"))?;
                if usize::from(index) != self.regions.len() || self.regions.len() >= REGIONS_MAX {
                    return Err(End::Ours("invalid region index"));
                }
                self.regions.push((fd, bytes));
            }
            Message::AddRing { to_server, index, region, offset, log2_size, private_bytes } => {
                let event = fd.ok_or(End::Ours("a ring without its event"))?;
                if index != 0 || private_bytes != 0 {
                    return Err(End::Ours("only one plain ring each way is supported"));
                }
                let log2_size = u32::from(log2_size);
                let part =
                    RingPart { region: usize::from(region), offset: offset as usize, log2_size, event };
                let slot = if to_server { &mut self.to_server } else { &mut self.to_client };
                if slot.replace(part).is_some() {
                    return Err(End::Ours("invalid ring index"));
                }
            }
            Message::Connect { .. } => {
                let (Some(to_server), Some(to_client)) = (self.to_server.take(), self.to_client.take())
                else {
                    return Err(End::Ours("a ring is missing"));
                };
                self.stage = Stage::Done;
                let regions = std::mem::take(&mut self.regions);
                let connected = Out::plain(&Message::Connected { name: "corelane".to_owned() });
                let parts = ServedParts { regions, to_server, to_client };
                return Ok(Step::Up(Wire::Server(parts), Some(connected)));
            }
            _ => return Err(End::Ours("expected a region, a ring or the end of them")),
        }
        Ok(Step::Answer(Out::plain(&Message::Ack)))
    }
}
