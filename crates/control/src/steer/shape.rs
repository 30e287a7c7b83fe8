//! Where the steering programs keep what they work on: offsets in the frame and on the stack, for each family.

/// Where the IP header begins in the frame.
pub(super) const IP: i16 = 14;
/// Ethernet and IPv4 header without options.
const HEADERS: i32 = 34;

/// On the stack, below what the families have: place and number of bytes that are being read.
pub(super) const LOAD_OFFSET: i16 = -200;
pub(super) const LOAD_BYTES: i16 = -208;

/// Where the code for one family finds what it needs: in the frame, and on its part of the stack, from the frame pointer down. The copied
/// headers start at 2 mod 4, so that the IP header is aligned.
pub(super) struct Shape {
    /// Offsets in the frame.
    pub(super) proto: i16,
    pub(super) src: i16,
    pub(super) dst: i16,
    /// 32-bit words of an address.
    pub(super) words: i16,
    pub(super) flow_key: i16,
    pub(super) listener_key: i16,
    pub(super) headers_copy: i16,
    pub(super) ports_copy: i16,
    pub(super) pin_value: i16,
    /// An ICMP message up to the IP header that it quotes.
    pub(super) quoted_copy: i16,
}

pub(super) const FOUR: Shape = Shape {
    proto: IP + 9,
    src: IP + 12,
    dst: IP + 16,
    words: 1,
    flow_key: -16,
    ports_copy: -32,
    headers_copy: -70,
    listener_key: -80,
    pin_value: -88,
    quoted_copy: -120,
};

pub(super) const SIX: Shape = Shape {
    proto: IP + 6,
    src: IP + 8,
    dst: IP + 24,
    words: 4,
    flow_key: -40,
    ports_copy: -56,
    headers_copy: -114,
    listener_key: -136,
    pin_value: -144,
    quoted_copy: -192,
};

impl Shape {
    /// Bytes of an address.
    const fn address(&self) -> i16 {
        4 * self.words
    }

    /// Of a listener's key: where the port is.
    pub(super) const fn listener_port(&self) -> i16 {
        self.listener_key + self.address()
    }

    /// Of a flow's key: where the remote address and the ports are.
    pub(super) const fn flow_remote(&self) -> i16 {
        self.flow_key + self.address()
    }

    pub(super) const fn flow_ports(&self) -> i16 {
        self.flow_key + 2 * self.address()
    }

    /// Bytes of an IP header without more.
    pub(super) const fn ip_bytes(&self) -> i32 {
        self.headers() - IP as i32
    }

    /// IPv4?
    pub(super) const fn is_four(&self) -> bool {
        self.words == 1
    }

    /// Ethernet and IP header without more.
    pub(super) const fn headers(&self) -> i32 {
        (self.dst + self.address()) as i32
    }
}
const _: () = assert!(FOUR.headers() == HEADERS && SIX.headers() == 54);
