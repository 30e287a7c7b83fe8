//! The engine's verbs for keys that sign segments.

use state::SockRef;

use crate::Engine;
use crate::errors::KeyError;
use crate::tcp::keys;
use crate::types::KeyPeer;

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
}
