"""What programs do with sockets, each a function whose printed result must be the same on the kernel and on a lane."""
import array, ctypes, errno, fcntl, os, select, signal, socket, struct, sys, termios, threading, time

PEER = (sys.argv[1], int(sys.argv[2]))
MINE = sys.argv[3]

def dial(line, **kw):
    c = socket.create_connection(PEER, timeout=kw.get('timeout', 10))
    c.settimeout(kw.get('keep'))
    c.sendall(line.encode() + b'\n')
    return c

def all_of(c):
    d = b''
    while True:
        x = c.recv(65536)
        if not x:
            return d
        d += x

def name(e):
    return errno.errorcode.get(e.errno, str(e)) if isinstance(e, OSError) and e.errno else type(e).__name__

def attempt(f):
    try:
        return f()
    except OSError as e:
        return name(e)

def names_of_both_ends():
    c = dial('echo')
    a, b = c.getsockname(), c.getpeername()
    return a[0] == MINE, a[1] > 0, b == PEER, c.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM

def echo_and_half_close():
    c = dial('echo')
    c.sendall(b'abc' * 1000)
    c.shutdown(socket.SHUT_WR)
    d = all_of(c)
    return len(d), attempt(lambda: c.send(b'x', socket.MSG_NOSIGNAL))

def peek_waitall_trunc_dontwait():
    c = dial('give 4000')
    r = [c.recv(8, socket.MSG_PEEK) == c.recv(8)]
    r.append(len(c.recv(2000, socket.MSG_WAITALL)))
    r.append(c.recv(4, socket.MSG_TRUNC) is not None)
    r.append(len(all_of(c)))
    e = dial('echo')
    r.append(attempt(lambda: e.recv(1, socket.MSG_DONTWAIT)))
    return r

def vectors():
    c = dial('echo')
    n = os.writev(c.fileno(), [b'ab', b'', b'cdef', b'g'])
    bufs = [bytearray(3), bytearray(2), bytearray(9)]
    time.sleep(0.2)
    m = os.readv(c.fileno(), bufs)
    c.sendmsg([b'12', b'345'])
    time.sleep(0.2)
    d, anc, fl, _ = c.recvmsg(100)
    return n, m, [bytes(b) for b in bufs], d, anc, fl

def timeouts():
    c = dial('echo')
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 100000))
    t = time.time()
    e = attempt(lambda: c.recv(1))
    return e, 0.09 < time.time() - t < 2, c.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == struct.pack('ll', 0, 100000)

def nonblocking_connect():
    c = socket.socket()
    c.setblocking(False)
    r = [errno.errorcode[c.connect_ex(PEER)]]
    p = select.poll()
    p.register(c, select.POLLOUT)
    r.append(p.poll(5000) == [(c.fileno(), select.POLLOUT)])
    r.append(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    r.append(errno.errorcode.get(c.connect_ex(PEER), 0))
    r.append(errno.errorcode.get(c.connect_ex(PEER), 0))
    return r

def sockets_before_they_connect():
    """Whatever is asked of a socket between `socket` and `connect`; the connections before have gone over a lane."""
    dial('echo').close()
    r = []
    def fresh():
        dial('echo').close()
        return socket.socket()
    c = fresh()
    r.append((c.getsockname(), attempt(c.getpeername), attempt(lambda: c.recv(1)), c.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)))
    c = fresh()
    p = select.poll()
    p.register(c)
    r.append(p.poll(0)[0][1])
    c = fresh()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    c.setblocking(False)
    r.append([c.getsockopt(*o) for o in [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                                         (socket.SOL_SOCKET, socket.SO_REUSEADDR)]])
    r.append((fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK != 0, fcntl.fcntl(c, fcntl.F_GETFD), os.get_inheritable(c.fileno())))
    r.append(attempt(lambda: c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0)))
    for n in range(8):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, n % 2)
    c.setblocking(True)
    c.connect(PEER)
    r.append((c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), c.getpeername() == PEER))
    c = fresh()
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    c.connect(PEER)
    r.append((c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), c.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
    d = fresh().dup()
    d.connect(PEER)
    d.sendall(b'echo\nxyz')
    r.append(d.recv(3))
    c = fresh()
    c.bind((MINE, 0))
    c.listen()
    k = socket.create_connection(c.getsockname(), timeout=5)
    a, _ = c.accept()
    k.sendall(b'to myself')
    r.append(a.recv(100))
    c = fresh()
    if os.fork() == 0:
        c.connect(PEER)
        c.sendall(b'echo\nfrom the child')
        os._exit(c.recv(5, socket.MSG_WAITALL) != b'from ')
    r.append(os.wait()[1])
    c = fresh()
    old = c.fileno()
    os.dup2(os.open('/dev/null', os.O_RDWR), old)
    r.append(os.read(old, 5))
    e = select.epoll()
    c = fresh()
    c.setblocking(False)
    e.register(c, select.EPOLLOUT | select.EPOLLIN)
    r.append(errno.errorcode[c.connect_ex(PEER)])
    until = time.time() + 5
    while [ev for _, ev in e.poll(5)] != [select.EPOLLOUT] and time.time() < until:
        pass
    r.append([ev for _, ev in e.poll(5)])
    r.append(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    c = fresh()
    r.append(errno.errorcode[c.connect_ex((PEER[0], 1))])
    r.append(attempt(lambda: c.recv(1)))
    c = fresh()
    r.append((errno.errorcode[c.connect_ex(('127.0.0.1', 1))], errno.errorcode[c.connect_ex(('127.0.0.1', 1))]))
    return r

def refused():
    c = socket.socket()
    r = [errno.errorcode[c.connect_ex((PEER[0], 1))]]
    c = socket.socket()
    c.setblocking(False)
    c.connect_ex((PEER[0], 1))
    p = select.poll()
    p.register(c, select.POLLOUT | select.POLLIN)
    r.append(p.poll(5000)[0][1])
    r.append(errno.errorcode[c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    r.append(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return r

def reset_by_peer():
    c = dial('rst')
    c.sendall(b'x')
    p = select.poll()
    p.register(c, select.POLLIN)
    ev = p.poll(5000)[0][1]
    return ev, attempt(lambda: c.recv(10)), attempt(lambda: c.recv(10)), attempt(lambda: c.send(b'y', socket.MSG_NOSIGNAL))

def broken_pipe_signal():
    hit = []
    old = signal.signal(signal.SIGPIPE, lambda *_: hit.append(1))
    c = dial('echo')
    c.shutdown(socket.SHUT_WR)
    e = attempt(lambda: c.send(b'x'))
    signal.signal(signal.SIGPIPE, old)
    return e, hit

def options():
    c = dial('echo')
    r = []
    for level, opt, v in [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                          (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 33), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
                          (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4), (socket.IPPROTO_IP, socket.IP_TTL, 33)]:
        c.setsockopt(level, opt, v)
        r.append(c.getsockopt(level, opt) == v)
    # TCP_SYNCNT, TCP_DEFER_ACCEPT, TCP_MAXSEG, TCP_QUICKACK, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT
    for opt, values in [(7, (3, 0, 128)), (9, (0, 1, 5, 100)), (2, (1000, 87, 40000)), (12, (0, 1)), (18, (1234, -1)),
                        (25, (16384, 0)), (socket.TCP_KEEPIDLE, (0, 40000)), (socket.TCP_KEEPCNT, (0, 128))]:
        for v in values:
            r.append((opt, v, attempt(lambda: c.setsockopt(socket.IPPROTO_TCP, opt, v)),
                      opt in (2, 12) or c.getsockopt(socket.IPPROTO_TCP, opt)))
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3))
    r.append(c.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack('ii', 1, 3))
    r.append(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0])
    r.append(attempt(lambda: c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b'nosuch')))
    r.append(attempt(lambda: c.getsockopt(socket.SOL_SOCKET, 9999)))
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.connect(PEER)
    r.append(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return r

def limits_on_the_pace():
    # SO_MAX_PACING_RATE, in 32 and in 64 bits, before and after the connection is open.
    def told(c):
        r = [attempt(lambda: c.getsockopt(socket.SOL_SOCKET, 47, n)) for n in (1, 3, 4, 5, 7, 8, 9, 16)]
        return r + [c.getsockopt(socket.SOL_SOCKET, 47), struct.unpack_from('Q', c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 120), 112)[0]]
    values = [struct.pack('I', n) for n in (10000, 2**32 - 1, 2**32 - 2)] + [struct.pack('Q', n) for n in (10**10, 2**32 - 1, 2**64 - 1)]
    values += [b'', b'1', b'123', b'12345', b'1234567', b'123456789', struct.pack('QQ', 50000, 7)]
    s, c = socket.socket(), dial('echo')
    r = [told(s), told(c)]
    for v in values:
        r += [attempt(lambda: x.setsockopt(socket.SOL_SOCKET, 47, v)) for x in (s, c)] + [told(s), told(c)]
    s.setsockopt(socket.SOL_SOCKET, 47, 200000)
    s.connect(PEER)
    r.append(told(s))
    s.sendall(b'count 0\n')
    t = time.time()
    s.sendall(b'x' * 120000)
    s.shutdown(socket.SHUT_WR)
    d = all_of(s)
    info = struct.unpack_from('Q', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 120), 104)[0]
    return r, d, 0.45 < time.time() - t < 5, info

def options_that_nobody_set():
    c = dial('echo')
    # SO_BROADCAST, SO_PRIORITY, SO_OOBINLINE, SO_BINDTODEVICE, SO_TIMESTAMP, SO_MARK, SO_BUSY_POLL, SO_ZEROCOPY ...
    r = [attempt(lambda: c.getsockopt(socket.SOL_SOCKET, n, 8)) for n in (1, 5, 6, 10, 12, 16, 25, 29, 36, 40, 42, 46, 47, 60, 69)]
    # TCP_LINGER2, TCP_THIN_*, TCP_REPAIR, TCP_TX_DELAY
    r += [attempt(lambda: c.getsockopt(socket.IPPROTO_TCP, n, 4)) for n in (8, 16, 17, 19, 27, 37)]
    # IP_HDRINCL, IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVERR, IP_MTU, IP_TRANSPARENT, IP_MINTTL, IP_FREEBIND
    r += [attempt(lambda: c.getsockopt(socket.IPPROTO_IP, n, 4)) for n in (3, 8, 10, 11, 14, 15, 19, 21)]
    c.setsockopt(socket.SOL_SOCKET, 12, 5)
    r.append(c.getsockopt(socket.SOL_SOCKET, 12))
    cookies = {dial('echo').getsockopt(socket.SOL_SOCKET, 57, 8) for _ in range(3)}
    return r, len(cookies)

def flags_and_ioctls():
    c = dial('give 100')
    time.sleep(0.2)
    buf = array.array('i', [0])
    fcntl.ioctl(c, termios.FIONREAD, buf)
    r = [buf[0]]
    fl = fcntl.fcntl(c, fcntl.F_GETFL)
    r.append(fl & os.O_NONBLOCK)
    fcntl.fcntl(c, fcntl.F_SETFL, fl | os.O_NONBLOCK)
    r.append(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK != 0)
    d = os.dup(c.fileno())
    r.append(fcntl.fcntl(d, fcntl.F_GETFL) & os.O_NONBLOCK != 0)
    r.append(len(os.read(d, 1000)))
    os.close(d)
    return r

def duplicates_keep_it_open():
    c = dial('echo')
    d = c.dup()
    e = os.dup2(c.fileno(), 77)
    c.close()
    d.sendall(b'one')
    r = [d.recv(3, socket.MSG_WAITALL)]
    d.close()
    os.write(77, b'two')
    time.sleep(0.2)
    r.append(os.read(77, 10))
    os.close(77)
    r.append(attempt(lambda: os.read(77, 1)))
    return r

def calls_by_number():
    """libuv closes so. Whatever gets the number next is no connection any more."""
    libc = ctypes.CDLL(None)
    buf = ctypes.create_string_buffer(10)
    c = dial('echo')
    r = [libc.syscall(1, c.fileno(), b'abc', 3)]
    c.settimeout(5)
    r.append((c.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL), libc.syscall(0, c.fileno(), buf, 10), buf.raw[:3]))
    fd = c.detach()
    r.append(libc.syscall(3, fd))
    f = os.open('/dev/zero', os.O_RDONLY)
    if f != fd:
        os.dup2(f, fd)
        os.close(f)
    r.append(os.read(fd, 3))
    os.close(fd)
    r.append(libc.syscall(3, fd))
    return r

def more_children_than_the_family_has_places():
    """One after another, and then many at a time: the parent's connection is its own whatever they do at their end."""
    c = dial('echo')
    for n in range(100):
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    c.sendall(b'one')
    out = [c.recv(3, socket.MSG_WAITALL)]
    r, w = os.pipe()
    for n in range(80):
        if os.fork() == 0:
            os.close(w)
            os.read(r, 1)
            os._exit(0)
    os.close(w), os.close(r)
    for n in range(80):
        os.wait()
    c.sendall(b'two')
    out.append(c.recv(3, socket.MSG_WAITALL))
    if os.fork() == 0:
        c.sendall(b'six')
        os._exit(0)
    os.wait()
    out.append(c.recv(3, socket.MSG_WAITALL))
    return out

def big_both_ways():
    c = dial('echo')
    data = os.urandom(5_000_000)
    got = []
    t = threading.Thread(target=lambda: got.append(all_of(c)))
    t.start()
    c.sendall(data)
    c.shutdown(socket.SHUT_WR)
    t.join()
    return got[0] == data

def slow_reader_fills_the_buffer():
    c = dial('count 0.3')
    c.setblocking(False)
    n = 0
    while True:
        try:
            n += c.send(b'z' * 65536)
        except BlockingIOError:
            break
    p = select.poll()
    p.register(c, select.POLLOUT)
    # There may be room again at once: the peer's kernel takes some for its reader.
    r = [len(p.poll(5000))]
    c.setblocking(True)
    c.sendall(b'z' * 1_000_000)
    c.shutdown(socket.SHUT_WR)
    r.append(int(all_of(c)) == n + 1_000_000)
    return r

def sendfile_of_a_file():
    path = '/tmp/cl-sendfile-%d' % os.getpid()
    with open(path, 'wb') as f:
        f.write(b'0123456789' * 100_000)
    c = dial('count 0')
    with open(path, 'rb') as f:
        f.seek(5)
        a = os.sendfile(c.fileno(), f.fileno(), 0, 1000)
        at = f.tell()
        n = c.sendfile(f, 10)
    os.unlink(path)
    c.shutdown(socket.SHUT_WR)
    return a, at, n, all_of(c)

def select_both_kinds():
    c = dial('echo')
    r, w = os.pipe()
    out = [select.select([c, r], [c], [], 0.1)[1] == [c]]
    os.write(w, b'x')
    out.append(select.select([c, r], [], [], 5)[0] == [r])
    os.read(r, 1)
    c.sendall(b'hi')
    out.append(select.select([c, r], [], [], 5)[0] == [c])
    c.recv(10)
    t = time.time()
    out.append(select.select([c, r], [], [], 0.1))
    out.append(time.time() - t >= 0.1)
    os.close(r), os.close(w)
    return out

def epoll_level_edge_oneshot():
    c = dial('echo')
    ep = select.epoll()
    ep.register(c, select.EPOLLIN)
    out = [ep.poll(0.05)]
    c.sendall(b'abcd')
    fd = c.fileno()
    out.append(ep.poll(5) == [(fd, 1)])
    out.append(ep.poll(0) == [(fd, 1)])
    c.recv(2)
    out.append(ep.poll(0) == [(fd, 1)])
    c.recv(2)
    out.append(ep.poll(0.05))
    ep.modify(c, select.EPOLLIN | select.EPOLLET)
    c.sendall(b'abcd')
    out.append(ep.poll(5) == [(fd, 1)])
    out.append(ep.poll(0.05))
    c.recv(2)
    out.append(ep.poll(0.05))
    c.sendall(b'more')
    out.append(ep.poll(5) == [(fd, 1)])
    ep.modify(c, select.EPOLLIN | select.EPOLLONESHOT)
    out.append(ep.poll(5) == [(fd, 1)])
    c.sendall(b'again')
    out.append(ep.poll(0.1))
    ep.modify(c, select.EPOLLIN | select.EPOLLOUT | select.EPOLLONESHOT)
    out.append([e for _, e in ep.poll(5)])
    ep.unregister(c)
    out.append(ep.poll(0.05))
    out.append(attempt(lambda: ep.unregister(c)))
    ep.register(c, select.EPOLLIN | select.EPOLLRDHUP)
    out.append(attempt(lambda: ep.register(c, select.EPOLLIN)))
    c.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    out.append([e for _, e in ep.poll(5)])
    all_of(c)
    c.close()
    out.append(ep.poll(0.05))
    return out

def epoll_mixed_with_pipe_and_thread():
    c = dial('echo')
    r, w = os.pipe()
    ep = select.epoll()
    ep.register(r, select.EPOLLIN)
    got = []
    t = threading.Thread(target=lambda: got.append(ep.poll(5)))
    t.start()
    time.sleep(0.1)
    ep.register(c, select.EPOLLIN)      # while the other thread waits
    c.sendall(b'x')
    t.join()
    out = [got == [[(c.fileno(), 1)]]]
    c.recv(1)
    os.write(w, b'y')
    out.append(ep.poll(5) == [(r, 1)])
    return out

def epoll_in_poll():
    c = dial('echo')
    ep = select.epoll()
    ep.register(c, select.EPOLLIN)
    p = select.poll()
    p.register(ep.fileno(), select.POLLIN)
    out = [p.poll(50)]
    c.sendall(b'x')
    out.append(p.poll(5000) == [(ep.fileno(), 1)])
    return out

def epoll_before_connect():
    c = socket.socket()
    c.setblocking(False)
    ep = select.epoll()
    ep.register(c, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
    ep.poll(0.05)
    c.connect_ex(PEER)
    fd = c.fileno()
    out = [ep.poll(5) == [(fd, select.EPOLLOUT)]]
    c.send(b'echo\nhello')
    out.append([(f == fd, e & select.EPOLLIN) for f, e in ep.poll(5)])
    out.append(c.recv(10))
    return out

def listen_on(n=1, what='hello', **kw):
    s = socket.create_server(('', 0), backlog=64, **kw)
    ask = dial('call %d %d %s' % (s.getsockname()[1], n, what))
    return s, ask

def accept_blocking():
    s, ask = listen_on(3)
    out = []
    for _ in range(3):
        c, a = s.accept()
        out.append((all_of(c), a[0] == PEER[0], c.getpeername() == a, c.getsockname()[1] == s.getsockname()[1]))
        c.close()
    s.close()
    return out

def accept_nonblocking_by_epoll():
    s = socket.create_server(('', 0))
    s.setblocking(False)
    out = [attempt(lambda: s.accept())]
    ep = select.epoll()
    ep.register(s, select.EPOLLIN)
    ask = dial('call %d 2' % s.getsockname()[1])
    seen = 0
    while seen < 2:
        for fd, e in ep.poll(5):
            try:
                c, _ = s.accept()
            except BlockingIOError:
                continue
            seen += 1
            out.append((all_of(c), c.getblocking()))
    return out

def accept_over_loopback_too():
    s = socket.create_server(('', 0))
    threading.Thread(target=lambda: (time.sleep(0.2), socket.create_connection(('127.0.0.1', s.getsockname()[1])).close())).start()
    c, a = s.accept()
    out = [a[0], c.recv(1)]
    ask = dial('call %d 1' % s.getsockname()[1])
    c, a = s.accept()
    out.append(all_of(c))
    return out

def dual_stack_listener():
    s = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
    ask = dial('call %d 1' % s.getsockname()[1])
    c, a = s.accept()
    return a[0] == '::ffff:' + PEER[0], c.getsockname()[0] == '::ffff:' + MINE, all_of(c), c.family.name

def accept_in_threads():
    s = socket.create_server(('', 0), backlog=64)
    out = []
    def work():
        c, _ = s.accept()
        out.append(all_of(c))
        c.close()
    ts = [threading.Thread(target=work) for _ in range(6)]
    for t in ts:
        t.start()
    ask = dial('call %d 6' % s.getsockname()[1])
    for t in ts:
        t.join(10)
    return out

def fork_child_serves_the_connection():
    s, ask = listen_on(1, 'forked')
    c, _ = s.accept()
    pid = os.fork()
    if pid == 0:
        s.close()
        d = all_of(c)
        c.sendall(d.upper())
        os._exit(3 if d == b'forked' else 4)
    c.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fork_child_exec_does_not_hold():
    c = dial('echo')
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.execvp('sleep', ['sleep', '1'])
    c.sendall(b'before')
    d = c.recv(6, socket.MSG_WAITALL)
    c.shutdown(socket.SHUT_WR)
    e = all_of(c)
    c.close()
    os.waitpid(pid, 0)
    return d, e

def twenty_callers_of_two_forked_acceptors(s):
    """How many of twenty connections two forked children of the listener `s` take between them."""
    r, w = os.pipe()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            s.settimeout(3)
            n = 0
            while True:
                try:
                    c, _ = s.accept()
                except TimeoutError:
                    break
                if all_of(c) == b'hello':
                    n += 1
                c.close()
            os.write(w, bytes([n]))
            os._exit(0)
        pids.append(pid)
    time.sleep(1)
    ask = dial('call %d 20' % s.getsockname()[1])
    for p in pids:
        os.waitpid(p, 0)
    ask.close()
    return sum(os.read(r, 10))

def forked_acceptors_share_a_listener():
    return twenty_callers_of_two_forked_acceptors(socket.create_server(('', 0), backlog=64))

def acceptors_forked_after_the_first_accept():
    s = socket.create_server(('', 0), backlog=64)
    ask = dial('call %d 1' % s.getsockname()[1])
    c, _ = s.accept()
    all_of(c)
    c.close()
    return twenty_callers_of_two_forked_acceptors(s)

def nested_epoll():
    c = dial('echo')
    inner, outer = select.epoll(), select.epoll()
    inner.register(c, select.EPOLLIN)
    outer.register(inner.fileno(), select.EPOLLIN)
    out = [outer.poll(0.05)]
    t = threading.Timer(0.2, lambda: c.sendall(b'x'))
    t.start()
    out.append(outer.poll(5) == [(inner.fileno(), 1)])
    out.append(inner.poll(0) == [(c.fileno(), 1)])
    c.recv(1)
    out.append(outer.poll(0.05))
    t.join()
    return out

def close_in_the_middle_is_fin():
    s, ask = listen_on(1)
    c, _ = s.accept()
    d = all_of(c)
    c.close()
    c2 = dial('echo')
    c2.close()
    return d, attempt(lambda: c2.send(b'x'))

def closed_descriptors_are_bad():
    s, ask = listen_on(1)
    c, _ = s.accept()
    fd = c.detach()
    os.close(fd)
    return attempt(lambda: os.close(fd)), attempt(lambda: fcntl.fcntl(fd, fcntl.F_GETFL)), attempt(lambda: os.dup(fd))

def listener_errors():
    s = socket.create_server(('', 0))
    t = socket.socket()
    return (attempt(lambda: t.bind(('', s.getsockname()[1]))), attempt(lambda: s.recv(1)), attempt(lambda: s.getpeername()),
            attempt(lambda: socket.socket().recv(1)), attempt(lambda: socket.socket().accept()))

def bound_client_port():
    probe = socket.socket()
    probe.bind(('', 0))
    port = probe.getsockname()[1]
    probe.close()
    c = socket.socket()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    c.bind(('', port))
    c.connect(PEER)
    return c.getsockname() == (MINE, port)

def interrupted_calls():
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    c = dial('echo')
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    t = threading.Timer(0.3, lambda: c.send(b'late'))
    t.start()
    d = c.recv(4)       # python goes on after EINTR by itself
    t.join()
    libc = ctypes.CDLL(None, use_errno=True)
    # Again and again: on a busy machine the first may come before the call.
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    buf = ctypes.create_string_buffer(4)
    signal.siginterrupt(signal.SIGALRM, True)
    n = libc.recv(c.fileno(), buf, 4, 0)
    e1 = errno.errorcode[ctypes.get_errno()] if n < 0 else n
    fds = (ctypes.c_int * 2)(c.fileno(), 1)
    n = libc.poll(fds, 1, 3000)
    e2 = errno.errorcode[ctypes.get_errno()] if n < 0 else n
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return d, e1, e2, len(hits) >= 3

def many_short_connections():
    total = 0
    for i in range(200):
        c = dial('echo')
        c.sendall(b'%04d' % i)
        total += int(c.recv(4, socket.MSG_WAITALL))
        c.close()
    return total

def loopback_stays_with_the_kernel():
    s = socket.create_server(('127.0.0.1', 0))
    c = socket.create_connection(s.getsockname())
    a, _ = s.accept()
    c.sendall(b'x')
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(('127.0.0.1', 0))
    u.sendto(b'dgram', u.getsockname())
    return a.recv(1), u.recv(10)

TESTS = [v for k, v in list(globals().items()) if callable(v) and getattr(v, '__module__', '') == '__main__'
         and k not in ('dial', 'all_of', 'name', 'attempt', 'listen_on', 'twenty_callers_of_two_forked_acceptors')]
only = sys.argv[4:]
for f in TESTS:
    if only and f.__name__ not in only:
        continue
    try:
        r = f()
    except Exception as e:
        r = 'raised %s %s' % (type(e).__name__, e)
    print('%s: %r' % (f.__name__, r), flush=True)
