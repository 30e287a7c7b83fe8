"""MSG_ZEROCOPY: `serve PORT` is the kernel's side, which takes whatever is sent, and connects to the port it is told; `ask PEER PORT MINE` prints what must
be the same on a lane."""
import errno, select, socket, struct, sys, threading

SO_ZEROCOPY, ZEROCOPY, ERRQUEUE = 60, 0x4000000, 0x2000
SOL = socket.SOL_SOCKET

def take_all(s):
    while s.recv(65536):
        pass

def serve(port):
    listener = socket.create_server(('', port), backlog=64)
    while True:
        s, addr = listener.accept()
        def talk(s=s, addr=addr):
            first = s.recv(64)
            if first.startswith(b'back '):
                back = socket.create_connection((addr[0], int(first[5:])), timeout=10)
                back.settimeout(None)
                s.sendall(b'.')
                take_all(back)
                back.close()
            take_all(s)
            s.close()
        threading.Thread(target=talk, daemon=True).start()

def named(f):
    try:
        return f()
    except OSError as e:
        return errno.errorcode[e.errno]

def polled(s, events=0, ms=10000):
    p = select.poll()
    p.register(s, events)
    return [hex(got) for _, got in p.poll(ms)]

def taken(s, room=512, flags=0):
    """One message of the error queue, the range of sends apart."""
    data, control, told, _ = s.recvmsg(8, room, ERRQUEUE | flags)
    return data, [(level, kind, len(c), c[:8].hex(), c[16:].count(0)) for level, kind, c in control], hex(told)

def ranges(s, last):
    """The first number that is told of, and the last, once that is `last`."""
    first = None
    while True:
        polled(s)
        control = s.recvmsg(8, 512, ERRQUEUE)[1]
        low, high = struct.unpack('II', control[0][2][8:16])
        first = low if first is None else first
        if high == last:
            return first, high

def values(s):
    given = [-1, 2, struct.pack('i', 1), b'\1', b'', 0, 1]
    said = [(named(lambda: s.setsockopt(SOL, SO_ZEROCOPY, v)), s.getsockopt(SOL, SO_ZEROCOPY)) for v in given]
    s.setsockopt(SOL, SO_ZEROCOPY, 0)
    return said

def connected(peer, family=socket.AF_INET):
    s = socket.socket(family)
    s.connect((('::ffff:' if family == socket.AF_INET6 else '') + peer[0], peer[1]))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

def ask(peer, mine):
    print('values', values(socket.socket()), values(socket.socket(socket.AF_INET6)))
    print('unconnected', named(lambda: socket.socket().send(b'x', ZEROCOPY | socket.MSG_NOSIGNAL)))
    s = connected(peer)
    print('connected', values(s))
    print('not asked for', s.send(b'x', ZEROCOPY), named(lambda: taken(s)), polled(s, 0, 0))
    s.setsockopt(SOL, SO_ZEROCOPY, 1)
    print('sent', s.send(b'x' * 1000, ZEROCOPY))
    print('polled', polled(s), polled(s, select.POLLOUT), s.getsockopt(SOL, socket.SO_ERROR))
    print('selected', [len(those) for those in select.select([s], [s], [s], 0)])
    print('taken', taken(s), polled(s, 0, 0), named(lambda: taken(s)), named(lambda: taken(s, 512, socket.MSG_DONTWAIT)))
    sent = 1
    for _ in range(5):
        s.send(b'y' * 10, ZEROCOPY)
    print('range', ranges(s, 5))
    sent = 6
    print('nothing sent', s.send(b'', ZEROCOPY), named(lambda: taken(s)))
    for room in (0, 8, 15, 16, 20, 31, 32, 47, 48, 64):
        s.send(b'z', ZEROCOPY)
        polled(s)
        data, control, told, _ = s.recvmsg(8, room, ERRQUEUE)
        print('room', room, data, [(level, kind, len(c)) for level, kind, c in control], hex(told), named(lambda: taken(s)))
        sent += 1
    s.send(b'z', ZEROCOPY)
    polled(s)
    print('recv', named(lambda: s.recv(5, ERRQUEUE)), named(lambda: taken(s)))
    s.send(b'z', ZEROCOPY)
    polled(s)
    print('peek', taken(s, 512, socket.MSG_PEEK), named(lambda: taken(s)))
    sent += 2
    twin = s.dup()
    twin.sendmsg([b'one', b'two'], [], ZEROCOPY)
    print('dup', ranges(s, sent), named(lambda: taken(twin)))
    sent += 1
    e = select.epoll()
    e.register(s, select.EPOLLET | select.EPOLLIN)
    print('edge, before', e.poll(0))
    for _ in range(2):
        s.send(b'e', ZEROCOPY)
        print('edge', [hex(got) for _, got in e.poll(10)], e.poll(0))
    print('edge, taken', ranges(s, sent + 1), e.poll(0))
    sent += 2
    e.modify(s, select.EPOLLIN)
    s.send(b'l', ZEROCOPY)
    print('level', [hex(got) for _, got in e.poll(10)], [hex(got) for _, got in e.poll(10)], ranges(s, sent), e.poll(0))
    sent += 1
    woken = []
    waits = threading.Thread(target=lambda: woken.append(polled(s)))
    waits.start()
    s.send(b't', ZEROCOPY)
    waits.join(20)
    print('another thread', woken, ranges(s, sent))
    sent += 1
    s.setsockopt(SOL, SO_ZEROCOPY, 0)
    print('off', s.send(b'x', ZEROCOPY), named(lambda: taken(s)))
    s.setsockopt(SOL, SO_ZEROCOPY, 1)
    s.shutdown(socket.SHUT_WR)
    print('shut', named(lambda: s.send(b'x', ZEROCOPY | socket.MSG_NOSIGNAL)), named(lambda: taken(s)))
    six = connected(peer, socket.AF_INET6)
    six.setsockopt(SOL, SO_ZEROCOPY, 1)
    six.send(b'6', ZEROCOPY)
    polled(six)
    print('six', taken(six), named(lambda: taken(six)))
    listener = socket.socket()
    listener.setsockopt(SOL, socket.SO_REUSEADDR, 1)
    listener.setsockopt(SOL, SO_ZEROCOPY, 1)
    listener.bind((mine, 9101))
    listener.listen(8)
    listener.setblocking(False)
    # Waited on: from here on connections come to the lane.
    named(listener.accept)
    polled(listener, select.POLLIN, 0)
    control = connected(peer)
    control.sendall(b'back 9101')
    polled(listener, select.POLLIN)
    accepted, _ = listener.accept()
    accepted.setblocking(True)
    control.recv(1)
    print('accepted', accepted.getsockopt(SOL, SO_ZEROCOPY), accepted.send(b'a', ZEROCOPY), ranges(accepted, 0))

if sys.argv[1] == 'serve':
    serve(int(sys.argv[2]))
else:
    ask((sys.argv[2], int(sys.argv[3])), sys.argv[4])
