//! The engine's edge: what goes in from network and clock, what comes out, and the verbs of programs.

use base::{Idx, Instant, IpAddress, MacAddr};
use state::ports::PORT_ADDRESSES;
use state::{
    Counters, Endpoint, Event, Hop, LaneMem, PathSettings, PortInfo, Ready, RxBatch, SockKind, SockRef,
    TcpOptions, TxBatch, TxFrame, Usual,
};

use crate::errors::{AcceptError, ConnectError, ListenError, RecvError, SendError, ShutdownError, SockError};
use crate::load::Load;
use crate::tcp::{Algorithm, Ecn, borrow, fast_open, stream, urgent, verbs};
use crate::types::{Accepted, Buffers, HopKey, How, RouteTo, TcpInfo};
use crate::{away, events, hop_names, load, pipeline, reroute, signals, transmit, udp};

/// One lane's transport, for as long as the lane lock is held. It does no I/O and reads no clock.
pub struct Engine<'a> {
    pub(crate) mem: LaneMem<'a>,
    pub(crate) now: Instant,
}

impl<'a> Engine<'a> {
    /// The engine over the tables `mem` at time `now`.
    #[must_use]
    #[inline]
    pub fn new(mem: LaneMem<'a>, now: Instant) -> Self {
        Self { mem, now }
    }

    /// Time goes on. A `now` before the last one is ignored.
    pub fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// The time it works at.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Describes the port numbered `index` (below [`base::limits::PORTS`]). False: no such row.
    pub fn set_port(&mut self, index: u8, info: &PortInfo) -> bool {
        let Some(row) = self.mem.ports.get_mut(Idx::new(u32::from(index))) else { return false };
        *row = *info;
        crate::tcp::verify::forget_all(&mut self.mem);
        crate::tcp::usual_out::ways_changed(&mut self.mem);
        true
    }

    /// The port numbered `index` is gone for good: its connections end as by a reset, but for those of a wire that had no answer yet and go on by the device beside it, and its row says nothing any more. Gives the
    /// number of connections.
    pub fn drop_port(&mut self, index: u8) -> u32 {
        crate::tcp::syns_go_over(&mut self.mem, self.now, index);
        let addrs = [IpAddress::ANY; PORT_ADDRESSES];
        let none = PortInfo {
            addrs,
            addr_count: 0,
            flags: 0,
            super_segment_max: 0,
            mac: MacAddr::default(),
            mtu: 0,
        };
        self.set_port(index, &none);
        crate::tcp::drop_port(&mut self.mem, self.now, index)
    }

    /// The port by which connection `s` sends. `None`: no such connection.
    #[must_use]
    pub fn port_of(&self, s: SockRef) -> Option<u8> {
        let at = crate::tcp::lookup(&self.mem, s)?;
        self.mem.hot.get(at).map(|row| row.port)
    }

    /// Counters since the lane was made.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.mem.counters
    }

    /// The lane's tables, for who allocates frames for the ports, and for diagnosis.
    pub fn mem(&mut self) -> &mut LaneMem<'a> {
        &mut self.mem
    }

    /// Does everything hold that holds of connections between two steps? `deep`: their queues are walked too.
    ///
    /// # Errors
    /// [`crate::Finding`]: the first thing that does not.
    pub fn audit(&self, deep: bool) -> Result<(), crate::Finding> {
        crate::tcp::audit::audit(&self.mem, deep)
    }

    /// Takes every packet of `batch`, which is empty afterwards.
    pub fn handle_frames(&mut self, batch: &mut RxBatch) {
        pipeline::handle_frames(&mut self.mem, self.now, batch);
    }

    /// Moves what other lanes of the region handed to this one to `batch`, for [`Engine::handle_frames`]. Gives the number of packets.
    pub fn take_mail(&mut self, batch: &mut RxBatch) -> usize {
        away::receive(&mut self.mem, batch)
    }

    /// How what was received since the last call is made up; empty while the region's directory names no lane.
    pub fn take_load(&mut self) -> Load {
        load::take(&mut self.mem)
    }

    /// The lanes that sleep and were handed packets since the last call, as bits: the caller wakes them.
    pub fn take_rung(&mut self) -> u64 {
        core::mem::take(&mut self.mem.globals.load.rung)
    }

    /// Does everything that is due.
    pub fn handle_timers(&mut self) {
        pipeline::handle_timers(&mut self.mem, self.now);
    }

    /// The answer for a next hop that [`Engine::poll_unresolved`] gave. `None`: it does not answer.
    pub fn handle_hop(&mut self, hop: Idx<Hop>, key: &HopKey, mac: Option<MacAddr>) {
        pipeline::handle_hop(&mut self.mem, self.now, hop, key, mac);
    }

    /// The other answer, for a next hop that is `by_mac`: packets to the address in `key` go by the neighbour `next_hop`, whose Ethernet address is `mac`.
    /// Without this answer they go where the peer's came from.
    pub fn name_hop(&mut self, hop: Idx<Hop>, key: &HopKey, next_hop: IpAddress, mac: MacAddr) {
        pipeline::name_hop(&mut self.mem, self.now, (hop, key), next_hop, mac);
    }

    /// The next hops whose Ethernet address is known, and that address. A caller who learns another one says so by [`Engine::handle_hop`].
    pub fn known_hops(&self) -> impl Iterator<Item = (Idx<Hop>, HopKey, MacAddr)> {
        hop_names::known(&self.mem)
    }

    /// The kernel's routes are those with this `number`, which is not 0: if they were others before, connections on ports whose address the kernel has, too, go by `way`, which gives
    /// the way from a port to an address by the routes that there are now. `None` from it: they lead to another device, or nowhere, and what goes there stays as it is.
    pub fn follow_routes(&mut self, number: u64, way: impl FnMut(u8, IpAddress) -> Option<RouteTo>) {
        reroute::follow(&mut self.mem, self.now, number, way);
    }

    /// Fills `out` with packets to send: resets and the like, then ACKs, then data. Gives the number added. The payload of
    /// these packets stays in place until the next call of `poll_transmit` or `handle_frames`.
    pub fn poll_transmit(&mut self, out: &mut TxBatch) -> usize {
        transmit::poll(&mut self.mem, self.now, out)
    }

    /// Takes packets back that a port did not take: they come again, first, with the next [`Engine::poll_transmit`].
    pub fn requeue_unsent(&mut self, packets: &[TxFrame]) {
        transmit::requeue(&mut self.mem, packets);
    }

    /// May [`Engine::poll_transmit`] have something?
    #[must_use]
    pub fn transmit_pending(&self) -> bool {
        transmit::pending(&self.mem)
    }

    /// When [`Engine::handle_timers`] must be called next, at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        pipeline::next_deadline(&self.mem)
    }

    /// The next event of `queue` (1 and up).
    pub fn poll_event(&mut self, queue: u16) -> Option<Event> {
        events::poll(&mut self.mem, queue)
    }

    /// A next hop whose Ethernet address the caller shall find; each is given once per attempt.
    pub fn poll_unresolved(&mut self) -> Option<(Idx<Hop>, HopKey)> {
        pipeline::poll_unresolved(&mut self.mem, self.now)
    }

    /// Has events of `s` delivered to `queue` with `token`; queue 0: to nobody. What is ready now makes an event at once.
    /// False: no such socket or queue.
    pub fn set_event_queue(&mut self, s: SockRef, queue: u16, token: u64) -> bool {
        if s.kind() == Some(SockKind::Tcp) {
            return verbs::subscribe(&mut self.mem, self.now, s, queue, token);
        }
        let ready = self.ready(s);
        self.exists(s) && events::subscribe(&mut self.mem, s, queue, token, ready)
    }

    /// Readiness as Linux's poll gives it. A socket that does not exist: ERR and HUP.
    #[must_use]
    pub fn ready(&self, s: SockRef) -> Ready {
        match s.kind() {
            Some(SockKind::Tcp) => verbs::ready(&self.mem, s),
            Some(SockKind::Listener) => crate::tcp::listen::ready(&self.mem, s),
            Some(SockKind::Udp) => udp::ready(&self.mem, s),
            None => Ready::ERR | Ready::HUP,
        }
    }

    /// Does `s` name a socket?
    #[must_use]
    pub fn exists(&self, s: SockRef) -> bool {
        match s.kind() {
            Some(SockKind::Tcp) => crate::tcp::exists(&self.mem, s),
            Some(SockKind::Listener) => crate::tcp::listen::lookup(&self.mem, s).is_some(),
            Some(SockKind::Udp) => udp::lookup(&self.mem, s).is_some(),
            None => false,
        }
    }

    /// SO_ERROR: what happened to the connection; told once.
    pub fn take_error(&mut self, s: SockRef) -> Option<SockError> {
        match s.kind() {
            Some(SockKind::Udp) => udp::take_error(&mut self.mem, s),
            Some(SockKind::Tcp | SockKind::Listener) | None => verbs::take_error(&mut self.mem, s),
        }
    }

    /// Listens at `local` (any address allowed). `backlog` is cut to [`base::limits::BACKLOG_MAX`], 0 counts as 1.
    ///
    /// Several may listen at the same end if all say [`TcpOptions::set_reuse_port`] (socket(7), SO_REUSEPORT): a hash of both ends chooses who gets
    /// a connection. What waits at one that closes, another one takes over, as Linux does with net.ipv4.tcp_migrate_req.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn tcp_listen(
        &mut self,
        local: Endpoint,
        backlog: u32,
        opts: &TcpOptions,
    ) -> Result<SockRef, ListenError> {
        crate::tcp::listen::open(&mut self.mem, local, backlog, opts)
    }

    /// Changes the backlog of a listener (a second `listen()`). False: no such listener.
    pub fn tcp_set_backlog(&mut self, listener: SockRef, backlog: u32) -> bool {
        crate::tcp::listen::set_backlog(&mut self.mem, listener, backlog)
    }

    /// Takes the oldest connection from a listener.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn tcp_accept(&mut self, listener: SockRef) -> Result<Accepted, AcceptError> {
        crate::tcp::listen::accept(&mut self.mem, listener)
    }

    /// Begins to connect `local` (address and port given) to `remote`. The socket is ready to send when connected.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn tcp_connect(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        route: &RouteTo,
        opts: &TcpOptions,
    ) -> Result<SockRef, ConnectError> {
        crate::tcp::connect::open(
            &mut self.mem,
            self.now,
            &crate::tcp::connect::Ends { local, remote },
            route,
            opts,
        )
    }

    /// As [`Engine::tcp_connect`], with fast open (RFC 7413), if [`Engine::set_fast_open`] lets us. True: a cookie of `remote` is known (or
    /// none needed), and the SYN waits for the first [`Engine::tcp_send`], whose data go with it; the socket is ready to send until then. False:
    /// the SYN asks for a cookie.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn tcp_connect_fast(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        route: &RouteTo,
        opts: &TcpOptions,
    ) -> Result<(SockRef, bool), ConnectError> {
        let sock = self.tcp_connect(local, remote, route, opts)?;
        Ok((sock, fast_open::begin(&mut self.mem, self.now, sock)))
    }

    /// Fast open at a listener (TCP_FASTOPEN, TCP_FASTOPEN_KEY): at most `max` connections are the program's before their handshake is complete;
    /// `keys` (up to two, none: the region's own) make the cookies, the first those that are given away. False: no such listener.
    pub fn tcp_set_fast_open(&mut self, listener: SockRef, max: u32, keys: &[[u8; 16]]) -> bool {
        fast_open::configure(&mut self.mem, listener, max, keys)
    }

    /// What is done of fast open, with the bits of Linux's net.ipv4.tcp_fastopen: 1 as a client, 2 as a server, 4 and 0x200 the same without
    /// cookies. 1 until set.
    pub fn set_fast_open(&mut self, ways: u16) {
        self.mem.globals.tcp.fast_open = ways;
    }

    /// Puts up to `most` idle connections to sleep, in rows of [`state::Dormant`]; gives their number. They wake by the next segment or
    /// call. Happens by itself when rows run short, or after a time without traffic.
    pub fn hibernate_idle(&mut self, most: u32) -> u32 {
        crate::tcp::hibernate_idle(&mut self.mem, self.now, most)
    }

    /// Without traffic for so long, a connection hibernates, once a quarter of the rows is in use; 0: only when rows run
    /// short. ms.
    pub fn set_hibernate_after(&mut self, idle_ms: u32) {
        self.mem.globals.dormant.idle_ms = idle_ms;
    }

    /// Buffers of connections whose options name none, from now on.
    pub fn set_buffers(&mut self, receive: Buffers, send: Buffers) {
        let most = state::buffer_max(self.mem.frames.count());
        let tcp = &mut self.mem.globals.tcp;
        (tcp.rcv_buf_bytes, tcp.rcv_buf_max) = receive.within(most);
        (tcp.snd_buf_bytes, tcp.snd_buf_max) = send.within(most);
    }

    /// Congestion control of connections whose options name none. Those that have begun to use theirs keep it.
    pub fn set_congestion(&mut self, algorithm: Algorithm) {
        self.mem.globals.tcp.congestion = algorithm as u8;
    }

    /// What connections do whose options say nothing of it, from now on.
    pub fn set_usual(&mut self, usual: &Usual) {
        self.mem.globals.tcp.usual = *usual;
    }

    /// How the MTU of paths is searched, from now on (RFC 4821).
    pub fn set_path_search(&mut self, settings: &PathSettings) {
        self.mem.globals.tcp.path = *settings;
    }

    /// Whether connections that begin from now on use ECN (RFC 3168).
    pub fn set_ecn(&mut self, ecn: Ecn) {
        self.mem.globals.tcp.ecn = ecn as u8;
    }

    /// Congestion control of connections whose options name none.
    #[must_use]
    pub fn congestion(&self) -> Algorithm {
        Algorithm::chosen(0, self.mem.globals.tcp.congestion)
    }

    /// Queues a copy of as much of `data` as fits, and gives the number of bytes. `more`: a partial segment at the end may
    /// wait for what comes (MSG_MORE).
    ///
    /// # Errors
    /// [`SendError`].
    pub fn tcp_send(&mut self, s: SockRef, data: &[u8], more: bool) -> Result<usize, SendError> {
        stream::send(&mut self.mem, self.now, s, data, more)
    }

    /// As [`Engine::tcp_send`], without the copy: hands `fill` room for the next of `len` bytes where they will be sent from, a
    /// frame at a time, until it fills less than it was given (it gives the number), `len` bytes are queued or nothing more
    /// fits. The room may be shorter than `len`, and what is in it before is undefined. Gives the number of bytes queued.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn tcp_send_with(
        &mut self,
        s: SockRef,
        len: usize,
        fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<usize, SendError> {
        borrow::send_with(&mut self.mem, self.now, s, len, fill)
    }

    /// As [`Engine::tcp_recv`], without the copy: hands `take` the received bytes where they lie, piece by piece, until it
    /// takes less than it was given (it gives the number) or there are no more. Gives the number of bytes taken; 0 without
    /// a call of `take` is the end of the stream.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn tcp_recv_with(
        &mut self,
        s: SockRef,
        take: impl FnMut(&[u8]) -> usize,
    ) -> Result<usize, RecvError> {
        borrow::recv_with(&mut self.mem, self.now, s, take)
    }

    /// Copies received bytes to `buf`, and gives their number; 0 is the end of the stream (or an empty `buf`). `peek`
    /// leaves them where they are.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn tcp_recv(&mut self, s: SockRef, buf: &mut [u8], peek: bool) -> Result<usize, RecvError> {
        stream::recv(&mut self.mem, self.now, s, buf, peek)
    }

    /// Copies received bytes from `skip` bytes behind the first unread one on to `buf`, and leaves them unread.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn tcp_peek_at(&mut self, s: SockRef, skip: usize, buf: &mut [u8]) -> Result<usize, RecvError> {
        stream::peek_at(&mut self.mem, s, skip, buf)
    }

    /// Discards up to `len` received bytes (MSG_TRUNC), and gives their number; 0 is the end of the stream.
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn tcp_recv_skip(&mut self, s: SockRef, len: usize) -> Result<usize, RecvError> {
        stream::skip(&mut self.mem, self.now, s, len)
    }

    /// Closes one direction or both.
    ///
    /// # Errors
    /// [`ShutdownError`].
    pub fn shutdown(&mut self, s: SockRef, how: How) -> Result<(), ShutdownError> {
        match s.kind() {
            Some(SockKind::Udp) => udp::shutdown(&mut self.mem, s, how),
            Some(SockKind::Tcp | SockKind::Listener) | None => {
                signals::quietly(&mut self.mem, s, |mem| verbs::shutdown(mem, self.now, s, how))
            }
        }
    }

    /// Gives the socket up; its name is dead afterwards. A connection ends as its linger option says: by FIN after what is
    /// queued, or by RST when unread data is thrown away (RFC 2525 2.17) or the linger time is 0. Of a connection that moved to another
    /// lane nothing ends: see [`Engine::take_moved`].
    pub fn close(&mut self, s: SockRef) {
        signals::forget_sock(&mut self.mem, s);
        match s.kind() {
            Some(SockKind::Tcp) => verbs::close(&mut self.mem, self.now, s),
            Some(SockKind::Listener) => crate::tcp::listen::close(&mut self.mem, self.now, s),
            Some(SockKind::Udp) => udp::close(&mut self.mem, s),
            None => {}
        }
    }

    /// Ends the connection by RST at once; the name is dead afterwards. One that moved to another lane does not end: see
    /// [`Engine::take_moved`].
    pub fn abort(&mut self, s: SockRef) {
        signals::forget_sock(&mut self.mem, s);
        match s.kind() {
            Some(SockKind::Tcp) => verbs::abort(&mut self.mem, self.now, s),
            Some(SockKind::Listener) => crate::tcp::listen::close(&mut self.mem, self.now, s),
            Some(SockKind::Udp) => udp::close(&mut self.mem, s),
            None => {}
        }
    }

    /// Replaces the options of a connection or listener. False: no such socket.
    pub fn set_tcp_options(&mut self, s: SockRef, opts: &TcpOptions) -> bool {
        verbs::set_options(&mut self.mem, self.now, s, opts)
    }

    /// TCP_QUICKACK: acknowledges at once for a while, or from now on with a delay. False: there is no such connection.
    pub fn tcp_set_quick_ack(&mut self, s: SockRef, on: bool) -> bool {
        verbs::set_quick_ack(&mut self.mem, self.now, s, on)
    }

    /// The options of a connection or listener.
    #[must_use]
    pub fn tcp_options(&self, s: SockRef) -> Option<TcpOptions> {
        verbs::options(&self.mem, s)
    }

    /// Our end and the peer's; the peer's is all zero for a listener.
    #[must_use]
    pub fn names(&self, s: SockRef) -> Option<(Endpoint, Endpoint)> {
        match s.kind() {
            Some(SockKind::Udp) => udp::names(&self.mem, s),
            Some(SockKind::Tcp | SockKind::Listener) | None => verbs::names(&self.mem, s),
        }
    }

    /// TCP_INFO.
    #[must_use]
    pub fn tcp_info(&self, s: SockRef) -> Option<TcpInfo> {
        verbs::info(&self.mem, s)
    }

    /// Received bytes that can be read, as far as the mark of urgent data (SIOCINQ).
    #[must_use]
    pub fn unread_bytes(&self, s: SockRef) -> u32 {
        verbs::info(&self.mem, s).map_or(0, |i| urgent::readable(&self.mem, s, i.unread_bytes))
    }

    /// Bytes queued and not acknowledged (SIOCOUTQ).
    #[must_use]
    pub fn unacked_bytes(&self, s: SockRef) -> u32 {
        verbs::info(&self.mem, s).map_or(0, |i| i.unacked_bytes.saturating_add(i.unsent_bytes))
    }

    /// Bytes queued and not sent (SIOCOUTQNSD).
    #[must_use]
    pub fn unsent_bytes(&self, s: SockRef) -> u32 {
        verbs::info(&self.mem, s).map_or(0, |i| i.unsent_bytes)
    }
}
