//! The walk over IPv6 extension headers to the upper layer (RFC 8200 4): Hop-by-Hop Options, Destination Options,
//! Routing, Fragment. ESP and the Authentication Header end the walk like an upper layer: IPsec is left out.
//!
//! The walk stops at a Fragment header; what follows it is a piece of a packet to be reassembled, and the walk goes on
//! over the whole with [`Start::Reassembled`].

use base::limits::IPV6_EXTENSIONS;

use crate::bytes::{TooShort, be16, be32, put, put16, put32, room};
use crate::ip::IpProtocol;
use crate::ipv6::HEADER_LEN;

/// Bytes of a Fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// Option kinds of one byte, and of padding (RFC 8200 4.2).
const PAD1: u8 = 0;
const PADN: u8 = 1;
/// Router Alert (RFC 2711).
const ROUTER_ALERT: u8 = 5;
/// Offset of the Next Header field of the fixed header.
const NEXT_HEADER_OFFSET: u32 = 6;

/// Where a walk starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Behind the fixed header.
    FixedHeader,
    /// At the front of a reassembled payload, whose first header cannot be Hop-by-Hop Options.
    Reassembled,
}

/// What an extension header means for its packet: drop it, and mostly tell the sender. `pointer` is the offset from the
/// start of the packet's fixed header that an ICMPv6 Parameter Problem has to name (RFC 4443 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtensionError {
    /// The bytes end within an extension header.
    Truncated,
    /// More than [`IPV6_EXTENSIONS`] extension headers, or options in one of them.
    TooMany,
    /// Hop-by-Hop Options are not the first extension header: code 1.
    HopByHopMisplaced {
        /// Offset of the Next Header field that announced it.
        pointer: u32,
    },
    /// A Routing header with segments left, of whatever type: code 0 (RFC 8200 4.4, RFC 5095).
    RoutingType {
        /// Offset of the Routing Type field.
        pointer: u32,
    },
    /// An unknown option whose sender wants to be told: code 2.
    UnknownOption {
        /// Offset of the option type.
        pointer: u32,
        /// Also when the destination of the packet is a multicast group.
        even_multicast: bool,
    },
    /// An unknown option that says: drop the packet without a word.
    Discard,
}

/// A Fragment header (RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fragment {
    /// The type of the first header of the fragmentable part.
    pub next_header: IpProtocol,
    /// Where the payload belongs in the fragmentable part, bytes: a multiple of 8 (the rest is cut off).
    pub offset: u16,
    /// Fragments with larger offsets follow.
    pub more: bool,
    /// Identification, common to the fragments of a packet.
    pub ident: u32,
}

impl Fragment {
    /// The header at the front of `bytes`.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<FRAGMENT_LEN>()?;
        let place = be16::<2, _>(head);
        Some(Self {
            next_header: IpProtocol(head[0]),
            offset: place & 0xfff8,
            more: place & 1 != 0,
            ident: be32::<4, _>(head),
        })
    }

    /// Is this the whole packet all the same (an atomic fragment, RFC 6946)?
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }

    /// Writes the header to the front of `out`; returns [`FRAGMENT_LEN`].
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<FRAGMENT_LEN>(out)?;
        put::<0, 2, _>(to, [self.next_header.0, 0]);
        put16::<2, _>(to, (self.offset & 0xfff8) | u16::from(self.more));
        put32::<4, _>(to, self.ident);
        Ok(FRAGMENT_LEN)
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpperLayer {
    /// The protocol after the last header walked over; for a fragment, the type of the first header of its part.
    pub protocol: IpProtocol,
    /// Bytes from the start of the walk to what `protocol` names.
    pub offset: usize,
    /// Offset from the start of the fixed header of the field that says `protocol`: the pointer of "unrecognized Next
    /// Header" (RFC 4443 3.4, code 1). A reassembled payload counts as if it followed the fixed header.
    pub next_header_at: u32,
    /// The Fragment header, if it was there and not atomic: `offset` is then that of the fragment's payload.
    pub fragment: Option<Fragment>,
    /// Routers look at this packet (RFC 2711), as MLD wants.
    pub router_alert: bool,
}

/// Walks over the extension headers in `bytes`, of which the first is of type `first`.
///
/// # Errors
/// See [`ExtensionError`].
#[inline]
pub fn walk(first: IpProtocol, bytes: &[u8], start: Start) -> Result<UpperLayer, ExtensionError> {
    let upper = UpperLayer {
        protocol: first,
        offset: 0,
        next_header_at: NEXT_HEADER_OFFSET,
        fragment: None,
        router_alert: false,
    };
    if is_extension(first) { walk_on(upper, bytes, start) } else { Ok(upper) }
}

/// Is `protocol` one of the headers we walk over?
const fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::FRAGMENT | IpProtocol::DESTINATION_OPTIONS
    )
}

fn walk_on(mut at: UpperLayer, bytes: &[u8], start: Start) -> Result<UpperLayer, ExtensionError> {
    for turn in 0..IPV6_EXTENSIONS {
        if !is_extension(at.protocol) {
            return Ok(at);
        }
        let rest = bytes.get(at.offset..).ok_or(ExtensionError::Truncated)?;
        let (next, len) = match at.protocol {
            IpProtocol::FRAGMENT => {
                let fragment = Fragment::parse(rest).ok_or(ExtensionError::Truncated)?;
                // RFC 6946 4: a fragment that is a whole packet is not put through reassembly.
                at.fragment = (!fragment.is_atomic()).then_some(fragment);
                (fragment.next_header, FRAGMENT_LEN)
            }
            // RFC 8200 4.1: Hop-by-Hop Options come right after the fixed header; anywhere else they are an
            // unrecognized Next Header.
            IpProtocol::HOP_BY_HOP if turn > 0 || start == Start::Reassembled => {
                return Err(ExtensionError::HopByHopMisplaced { pointer: at.next_header_at });
            }
            _ => skip(&mut at, rest)?,
        };
        at.next_header_at = pointer(at.offset);
        at.protocol = next;
        at.offset += len;
        if at.fragment.is_some() {
            return Ok(at);
        }
    }
    if is_extension(at.protocol) { Err(ExtensionError::TooMany) } else { Ok(at) }
}

/// Offset from the start of the fixed header.
const fn pointer(offset: usize) -> u32 {
    (HEADER_LEN + offset) as u32
}

/// Looks at the options or routing header at the front of `rest`; gives the type of the next header and the length of
/// this one.
fn skip(at: &mut UpperLayer, rest: &[u8]) -> Result<(IpProtocol, usize), ExtensionError> {
    let &[next, words, _, segments_left, ..] = rest else {
        return Err(ExtensionError::Truncated);
    };
    let len = (usize::from(words) + 1) * 8;
    let header = rest.get(..len).ok_or(ExtensionError::Truncated)?;
    if at.protocol == IpProtocol::ROUTING {
        // RFC 8200 4.4: an unknown routing type is ignored when no segment is left, else the packet is dropped and the
        // sender told. We know none; type 0 must be treated so (RFC 5095 3).
        if segments_left != 0 {
            return Err(ExtensionError::RoutingType { pointer: pointer(at.offset + 2) });
        }
    } else {
        options(at, header)?;
    }
    Ok((IpProtocol(next), len))
}

/// Looks at the options of a Hop-by-Hop or Destination Options header.
fn options(at: &mut UpperLayer, header: &[u8]) -> Result<(), ExtensionError> {
    let mut place = 2;
    let mut seen = 0;
    while let Some(&kind) = header.get(place) {
        if kind == PAD1 {
            place += 1;
            continue;
        }
        let &len = header.get(place + 1).ok_or(ExtensionError::Truncated)?;
        let end = place + 2 + usize::from(len);
        if end > header.len() {
            return Err(ExtensionError::Truncated);
        }
        // RFC 8504 5.3: a host may limit the number of options it looks at.
        seen += usize::from(kind != PADN);
        if seen > IPV6_EXTENSIONS {
            return Err(ExtensionError::TooMany);
        }
        match (kind, kind >> 6) {
            (PADN, _) => {}
            (ROUTER_ALERT, _) => at.router_alert |= at.protocol == IpProtocol::HOP_BY_HOP && len == 2,
            // RFC 8200 4.2: the two high bits of an unknown option say what to do.
            (_, 0) => {}
            (_, 1) => return Err(ExtensionError::Discard),
            (_, action) => {
                return Err(ExtensionError::UnknownOption {
                    pointer: pointer(at.offset + place),
                    even_multicast: action == 2,
                });
            }
        }
        place = end;
    }
    Ok(())
}
