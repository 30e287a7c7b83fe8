//! The engine's verbs for keys that sign segments.

use state::SockRef;

use crate::Engine;
use crate::errors::KeyError;
use crate::tcp::{ao_keys, ao_socket, keys};
use crate::types::{AoCounters, AoKey, AoKeyState, AoSocket, KeyPeer};

impl Engine<'_> {
    /// Segments of listener or connection `s` from and to `peer` are signed with `key` by MD5 (RFC 2385; TCP_MD5SIG), 80 bytes at most; an empty
    /// key removes the one that was set for just that peer. What a listener has, its connections get. For a connection that is to begin with
    /// signed segments: before the next [`Engine::poll_transmit`].
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn tcp_set_md5_key(&mut self, s: SockRef, peer: KeyPeer, key: &[u8]) -> Result<(), KeyError> {
        keys::set_md5(&mut self.mem, self.now, s, peer, key)
    }

    /// Segments of listener or connection `s` from and to the peers of `key` are signed by TCP-AO (RFC 5925; TCP_AO_ADD_KEY). The first key of a
    /// connection, which has to be there before its SYN, is the one in use.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn tcp_add_ao_key(&mut self, s: SockRef, key: &AoKey<'_>) -> Result<(), KeyError> {
        ao_keys::add_ao(&mut self.mem, self.now, s, key)
    }

    /// Removes the TCP-AO key of `s` for just `peer` with these numbers (TCP_AO_DEL_KEY).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn tcp_remove_ao_key(
        &mut self,
        s: SockRef,
        peer: KeyPeer,
        send_id: u8,
        recv_id: u8,
    ) -> Result<(), KeyError> {
        ao_keys::remove_ao(&mut self.mem, s, peer, (send_id, recv_id))
    }

    /// Connection `s` signs with the key whose SendID is `current` from now on, and asks the peer for the one whose RecvID is `next` (RFC 5925 7.5.2;
    /// TCP_AO_INFO); `None` leaves one as it is.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn tcp_use_ao_keys(
        &mut self,
        s: SockRef,
        current: Option<u8>,
        next: Option<u8>,
    ) -> Result<(), KeyError> {
        ao_keys::use_ao(&mut self.mem, self.now, s, current, next)
    }

    /// The SendID of the key that connection `s` signs with, and the RecvID of the one that the peer is asked to sign with. `None`: it does not use
    /// TCP-AO, or does not exist.
    #[must_use]
    pub fn tcp_ao_keys(&self, s: SockRef) -> Option<(u8, u8)> {
        ao_keys::ao_in_use(&self.mem, s)
    }

    /// What `s`, a listener or connection that uses TCP-AO, is told and has counted (TCP_AO_INFO). `None`: it does not use TCP-AO, or does not exist.
    #[must_use]
    pub fn tcp_ao(&self, s: SockRef) -> Option<AoSocket> {
        ao_socket::get(&self.mem, s)
    }

    /// Does `s` take `required`ly nothing that TCP-AO does not sign, and does it hear ICMP errors about open connections? And what its counters
    /// are from now on. A listener's connections inherit the two, with counters of their own.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn tcp_set_ao(
        &mut self,
        s: SockRef,
        required: bool,
        hears_icmp: bool,
        counters: Option<AoCounters>,
    ) -> Result<(), KeyError> {
        ao_socket::set(&mut self.mem, self.now, s, (required, hears_icmp), counters)
    }

    /// Calls `take` with every key of TCP-AO that `s` has, the youngest first (TCP_AO_GET_KEYS).
    pub fn tcp_each_ao_key(&self, s: SockRef, take: impl FnMut(&AoKeyState<'_>)) {
        ao_socket::each_key(&self.mem, s, take);
    }

    /// Are segments that TCP-AO signs taken as if they were not signed where there is no key (RFC 5925 7.3)? They are until set otherwise.
    pub fn set_ao_without_key(&mut self, taken: bool) {
        self.mem.globals.keys.strict = u32::from(!taken);
    }
}
