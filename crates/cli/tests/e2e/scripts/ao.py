# TCP-AO (RFC 5925) by the options of linux/tcp.h: `serve HOST PORT PEER NET`, `ask HOST PORT BIND SECRET SEND,RECV ALGORITHM WAIT`, `errors HOST PORT`.
import ctypes, errno, hashlib, socket, struct, sys, threading

ADD, DEL, INFO, GET, REPAIR = 38, 39, 40, 41, 42
TCP = socket.IPPROTO_TCP
C = ctypes.CDLL(None, use_errno=True)


def family(host):
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def address(host, fam=None, port=0):
    fam = fam or family(host)
    addr = socket.inet_pton(fam, host)
    return (struct.pack('=HH', fam, port) + (b'\0' * 4 if fam == socket.AF_INET6 else b'') + addr).ljust(128, b'\0')


def bits(host):
    return 128 if ':' in host else 32


def add(host, ids, secret, prefix=None, alg='hmac(sha1)', flags=0, maclen=0, keyflags=0, ifindex=0, reserved=0, keylen=None, **where):
    prefix = bits(host) if prefix is None else prefix
    return address(host, **where) + alg.encode().ljust(64, b'\0') + struct.pack(
        '=iIHBBBBBB', ifindex, flags, reserved, prefix, ids[0], ids[1], maclen, keyflags, len(secret) if keylen is None else keylen) + secret.ljust(80, b'\0')


def remove(host, ids, prefix=None, flags=0, current=0, rnext=0, keyflags=0):
    prefix = bits(host) if prefix is None else prefix
    return address(host) + struct.pack('=iIHBBBBBB', 0, flags, 0, prefix, ids[0], ids[1], current, rnext, keyflags)


def tell(flags=0, current=0, rnext=0, counters=(0,) * 5, reserved=0):
    return struct.pack('=IHBB5Q', flags, reserved, current, rnext, *counters)


def put(s, option, value):
    s.setsockopt(TCP, option, value)


def raw(s, option, buffer, length):
    """getsockopt whose buffer is also read. Gives the length that came back."""
    size = ctypes.c_uint(length)
    if C.getsockopt(s.fileno(), TCP, option, buffer, ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), '')
    return size.value


def info(s, length=48, **more):
    buffer = ctypes.create_string_buffer(max(length, 48))
    given = tell(**more)
    ctypes.memmove(buffer, given, len(given))
    raw(s, INFO, buffer, length)
    flags, _, current, rnext, *counters = struct.unpack('=IHBB5Q', buffer.raw[:48])
    return flags, current, rnext, counters


def keys(s, host=None, ids=(0, 0), prefix=0, select=4, room=8, reserved=0):
    buffer = ctypes.create_string_buffer(304 * max(room, 1))
    where = address(host) if host else b'\0' * 128
    first = where + b'\0' * 144 + struct.pack('=IHBBBBBBiQQ', room, select | reserved << 3, ids[0], ids[1], prefix, 0, 0, 0, 0, 0, 0)
    ctypes.memmove(buffer, first, len(first))
    length = raw(s, GET, buffer, 304)
    count = struct.unpack_from('=I', buffer, 272)[0]
    found = []
    for n in range(min(count, room)):
        one = buffer.raw[n * 304:(n + 1) * 304]
        use, send, recv, prefix, mac, flags, keylen, _, good, bad = struct.unpack_from('=HBBBBBBiQQ', one, 276)
        found.append((one[128:192].rstrip(b'\0').decode(), one[192:192 + keylen], use, send, recv, prefix, mac, flags, good > 0, bad))
    return length, count, found


def name(call):
    try:
        return repr(call())
    except OSError as e:
        return errno.errorcode.get(e.errno, 'timed out')


def data(seed, length):
    block = hashlib.sha256(seed.encode()).digest()
    return block * (length // len(block)) + block[:length % len(block)]


def drain(c, length):
    got = bytearray()
    while len(got) < length:
        piece = c.recv(1 << 16)
        if not piece:
            break
        got += piece
    return bytes(got)


THERE, BACK = data('there', 300_001), data('back', 200_003)


def serve(host, port, peer, net):
    s = socket.socket(family(host))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    put(s, ADD, add(net.split('/')[0], (100, 101), b'of the net', int(net.split('/')[1])))
    put(s, ADD, add(peer, (1, 2), b'only for you'))
    put(s, ADD, add(peer, (3, 4), b'with aes', alg='cmac(aes128)', keyflags=2))
    s.bind((host, int(port)))
    s.listen()
    print('ready', flush=True)
    s.settimeout(1000)
    while True:
        c, _ = s.accept()
        c.settimeout(60)
        with c:
            flags, current, rnext, counters = info(c)
            got = drain(c, len(THERE))
            c.sendall(BACK)
            print('good' if got == THERE else 'bad', len(got), current, rnext, len(keys(c)[2]), flush=True)
            c.recv(1)


def ask(host, port, bind, secret, ids, alg, wait):
    s = socket.socket(family(host))
    ids = tuple(int(n) for n in ids.split(','))
    if secret != '-':
        put(s, ADD, add(host, ids, secret.encode(), alg=alg, keyflags=2 if 'aes' in alg else 0))
    s.bind((bind, 0))
    s.settimeout(float(wait))
    try:
        s.connect((host, int(port)))
    except OSError as e:
        print(errno.errorcode[e.errno] if e.errno else 'timed out', flush=True)
        return
    sender = threading.Thread(target=lambda: s.sendall(THERE))
    s.settimeout(60)
    sender.start()
    got = drain(s, len(BACK))
    sender.join()
    flags, current, rnext, counters = info(s)
    print('good' if got == BACK else 'bad', len(got), flags, current, rnext, counters[0] > 0, counters[1:], flush=True)


def errors(host, port):
    """Prints what each call gives; what Linux's net/ipv4/tcp_ao.c gives is beside it, and both are the same."""
    fam = family(host)
    v6 = fam == socket.AF_INET6
    away = '2001:db8::' if v6 else '192.0.2.0'
    end = away + '9' if v6 else '192.0.2.9'
    other, ofam = ('127.0.0.1', socket.AF_INET) if v6 else ('::1', socket.AF_INET6)

    def each(what, tries):
        for title, wanted, call in tries:
            got = name(call)
            print('same' if got == wanted else 'DIFFERENT', what, title, got, wanted, flush=True)

    s = socket.socket(fam)
    good = add(end, (1, 2), b'k')
    each('fresh', [
        ('info without a key', 'ENOENT', lambda: info(s)),
        ('keys without one', 'ENOENT', lambda: keys(s)),
        ('remove without one', 'ENOENT', lambda: put(s, DEL, remove(end, (1, 2)))),
        ('short', 'EINVAL', lambda: put(s, ADD, good[:-1])),
        ('longer, not zero', 'E2BIG', lambda: put(s, ADD, good + b'\1')),
        ('reserved', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', reserved=1))),
        ('reserved bits', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', flags=4))),
        ('another family', 'EINVAL', lambda: put(s, ADD, add(other, (1, 2), b'k', fam=ofam))),
        ('a port', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', port=80))),
        ('too long a prefix', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', bits(end) + 1))),
        ('bits behind the prefix', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', 8))),
        ('no prefix', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', 0))),
        ('a long key', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', keylen=81))),
        ('unknown key flags', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', keyflags=4))),
        ('a device without its flag', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', ifindex=1))),
        ('no such device', 'EINVAL', lambda: put(s, ADD, add(end, (1, 2), b'k', ifindex=9999, keyflags=1))),
        ('an unknown algorithm', 'ENOENT', lambda: put(s, ADD, add(end, (1, 2), b'k', alg='no such thing'))),
        ('a long signature', 'EMSGSIZE', lambda: put(s, ADD, add(end, (1, 2), b'k', maclen=17))),
        ('longer, zero', 'None', lambda: put(s, ADD, good + b'\0' * 8)),
        ('again', 'EEXIST', lambda: put(s, ADD, good)),
        ('the same number for more', 'EEXIST', lambda: put(s, ADD, add(away, (7, 2), b'k', bits(away) - 8))),
        ('an MD5 key for it', 'EKEYREJECTED', lambda: s.setsockopt(TCP, 14, address(end) + struct.pack('=BBHi', 0, 0, 1, 0) + b'k'.ljust(80, b'\0'))),
        ('another', 'None', lambda: put(s, ADD, add(end, (3, 4), b'testvector', alg='cmac(aes128)', maclen=16, keyflags=2, flags=1))),
        ('info', '(1, 3, 0, [0, 0, 0, 0, 0])', lambda: info(s)),
        ('a short info', '(1, 0, 0, [0, 0, 0, 0, 0])', lambda: info(s, 4)),
        ('info with reserved bits', 'EINVAL', lambda: info(s, flags=32)),
        ('how many keys', '(304, 2)', lambda: keys(s, room=0)[:2]),
        ('the key in use', "['cmac(aes)']", lambda: [k[0] for k in keys(s, select=1)[2]]),
        ('its bytes', "[(16, 1, 3, 4, 16, 2)]", lambda: [(len(k[1]), *k[2:5], *k[6:8]) for k in keys(s, select=1)[2]]),
        ('one by name', "[('hmac(sha1)', b'k', 0, 1, 2)]", lambda: [k[:5] for k in keys(s, end, (1, 2), bits(end), select=0)[2]]),
        ('none by name', '(304, 0, [])', lambda: keys(s, end, (2, 2), bits(end), select=0)),
        ('all and one', 'EINVAL', lambda: keys(s, select=5)),
        ('keys of no family', 'EAFNOSUPPORT', lambda: keys(s, select=0)),
        ('keys with reserved bits', 'EINVAL', lambda: keys(s, reserved=1)),
        ('use an unknown one', 'ENOENT', lambda: put(s, INFO, tell(1, current=9))),
        ('remove the one in use', 'EBUSY', lambda: put(s, DEL, remove(end, (3, 4)))),
        ('remove as a listener', 'EINVAL', lambda: put(s, DEL, remove(end, (1, 2), flags=4))),
        ('remove an unknown one', 'ENOENT', lambda: put(s, DEL, remove(end, (9, 9)))),
        ('use another and remove', 'None', lambda: put(s, DEL, remove(end, (3, 4), flags=1, current=1))),
        ('set counters', 'None', lambda: put(s, INFO, tell(8 | 4 | 16, counters=(1, 2, 3, 4, 5)))),
        ('info once more', '(21, 1, 0, [1, 2, 3, 4, 5])', lambda: info(s)),
        ('an MD5 key when AO is required', 'EKEYREJECTED', lambda: s.setsockopt(TCP, 14, address(host) + struct.pack('=BBHi', 0, 0, 1, 0) + b'k'.ljust(80, b'\0'))),
        ('repair', 'EPERM', lambda: s.getsockopt(TCP, REPAIR, 16)),
        ('connect without a key', 'EKEYREJECTED', lambda: s.connect((host, int(port)))),
    ])
    listener = socket.socket(fam)
    put(listener, ADD, good)
    listener.listen()
    each('listener', [
        ('choose', 'EINVAL', lambda: put(listener, INFO, tell(1, current=1))),
        ('add', 'None', lambda: put(listener, ADD, add(end, (5, 6), b'k'))),
        ('remove', 'None', lambda: put(listener, DEL, remove(end, (1, 2), flags=4))),
        ('keys', '(304, 1)', lambda: keys(listener)[:2]),
    ])
    md5 = socket.socket(fam)
    md5.setsockopt(TCP, 14, address(end) + struct.pack('=BBHi', 0, 0, 1, 0) + b'k'.ljust(80, b'\0'))
    each('with MD5', [
        ('add', 'EKEYREJECTED', lambda: put(md5, ADD, good)),
        ('require', 'EKEYREJECTED', lambda: put(md5, INFO, tell(4))),
    ])
    c = socket.create_connection((host, int(port)), timeout=20)
    each('connected without', [
        ('add', 'EISCONN', lambda: put(c, ADD, add(host, (1, 2), b'k'))),
        ('tell', 'EISCONN', lambda: put(c, INFO, tell())),
        ('info', 'ENOENT', lambda: info(c)),
        ('keys', 'ENOENT', lambda: keys(c)),
        ('repair', 'EPERM', lambda: put(c, REPAIR, b'\0' * 16)),
    ])
    # Nobody but a lane could sign: not the kernel, to an address of this host.
    if not v6:
        local = socket.socket(fam)
        put(local, ADD, add('127.0.0.1', (1, 2), b'k'))
        print('to the kernel', name(lambda: local.connect(('127.0.0.1', 9))), flush=True)


def echo(host, port):
    s = socket.create_server((host, int(port)), family=family(host))
    while True:
        c, _ = s.accept()
        threading.Thread(target=lambda c=c: ([c.sendall(b) for b in iter(lambda: c.recv(100), b'')], c.close()), daemon=True).start()


globals()[sys.argv[1]](*sys.argv[2:])
