"""Says what connections agreed on and what their options are: `serve PORT`, `ask ADDRESS PORT`; `reach ADDRESS PORT` says how a connect ends.
`hold PORT` waits at a listener with a backlog of -1 and accepts nothing; `fill ADDRESS PORT` says how many connections that one takes, of 12, and
`crowd ADDRESS PORT` what it makes of handshakes that come all at once, by packets from an address that is nobody's."""
import ctypes, errno, os, select, socket, struct, sys, time

TCP_INFO_OPTIONS = 5
AGREED = 1 | 2 | 4 | 8  # timestamps, SACK, window scaling, ECN


def agreed(c):
    return c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[TCP_INFO_OPTIONS] & AGREED


class Crowd:
    SOURCE = '10.77.0.50'
    SYN, RST, ACK = 2, 4, 16

    def __init__(self, address, port):
        self.to, self.port = address, port
        self.out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.back = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
        self.back.settimeout(30)
        self.opened, self.reset = {}, set()

    def send(self, n, flags, seq, ack=0):
        ends = socket.inet_aton(self.SOURCE) + socket.inet_aton(self.to)
        tcp = lambda check: struct.pack('!HHIIBBHHH', 40000 + n, self.port, seq, ack, 5 << 4, flags, 65535, check, 0)
        words = struct.unpack('!16H', ends + struct.pack('!HH', socket.IPPROTO_TCP, 20) + tcp(0))
        check = sum(words)
        check = (check & 0xffff) + (check >> 16)
        check = (check & 0xffff) + (check >> 16)
        ip = struct.pack('!BBHHHBBH', 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
        self.out.sendto(ip + tcp(~check & 0xffff), (self.to, 0))

    def hear(self, n, where):
        while n not in where:
            packet = self.back.recv(2048)
            if packet[9] != socket.IPPROTO_TCP or packet[16:20] != socket.inet_aton(self.SOURCE):
                continue
            of, to, seq = struct.unpack('!HHI', packet[20:28])
            if of == self.port and packet[33] & self.RST:
                self.reset.add(to - 40000)
            elif of == self.port:
                self.opened[to - 40000] = seq

    def syn(self, n):
        self.send(n, self.SYN, 1000)

    def open(self, n):
        self.hear(n, self.opened)
        self.send(n, self.ACK, 1001, self.opened[n] + 1)


if sys.argv[1] == 'serve':
    s = socket.create_server(('', int(sys.argv[2])), backlog=64)
    waits = select.poll()
    waits.register(s, select.POLLIN)
    said = lambda c: (*(c.getsockopt(socket.IPPROTO_TCP, name) for name in names), c.getsockopt(socket.IPPROTO_IP, socket.IP_TTL), control(c))
    control = lambda c: c.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b'\0').decode()
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_SYNCNT)
    print('serving', os.getpid(), flush=True)
    while True:
        waits.poll()
        c, _ = s.accept()
        if c.recv(1):
            c.sendall(f'{agreed(c)} {" ".join(map(str, said(c)))}\n'.encode())
        c.close()
elif sys.argv[1] == 'ask':
    with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=60) as c:
        c.sendall(b'x')
        answer = c.makefile().readline().strip()
        print(agreed(c), answer)
elif sys.argv[1] == 'hold':
    s = socket.socket()
    s.bind(('', int(sys.argv[2])))
    assert ctypes.CDLL(None).listen(s.fileno(), -1) == 0  # listen of Python itself makes 0 of it
    waits = select.poll()
    waits.register(s, select.POLLIN)
    print('serving', os.getpid(), flush=True)
    while True:
        waits.poll()
        time.sleep(0.05)
elif sys.argv[1] == 'fill':
    taken = []
    for _ in range(12):
        c = socket.socket()
        c.settimeout(4)  # for two SYNs
        try:
            c.connect((sys.argv[2], int(sys.argv[3])))
        except TimeoutError:
            break
        taken.append(c)
    print(len(taken))
elif sys.argv[1] == 'crowd':
    crowd = Crowd(sys.argv[2], int(sys.argv[3]))
    for n in (1, 2, 3, 4):
        crowd.syn(n)
    crowd.open(1)
    crowd.syn(5)
    crowd.hear(5, crowd.opened)
    crowd.open(2)
    crowd.syn(6)
    for n in (3, 5, 6):
        crowd.open(n)
    crowd.hear(6, crowd.reset)
    print('opened', *sorted(crowd.opened), 'reset', *sorted(crowd.reset))
else:
    c = socket.socket()
    print(errno.errorcode[c.connect_ex((sys.argv[2], int(sys.argv[3])))])
