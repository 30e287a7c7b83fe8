"""Says what connections agreed on and what their options are: `serve PORT`, `ask ADDRESS PORT`; `reach ADDRESS PORT` says how a connect ends.
`hold PORT` waits at a listener with a backlog of -1 and accepts nothing; `fill ADDRESS PORT` says how many connections that one takes, of 12."""
import ctypes, errno, os, select, socket, sys, time

TCP_INFO_OPTIONS = 5
AGREED = 1 | 2 | 4 | 8  # timestamps, SACK, window scaling, ECN


def agreed(c):
    return c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[TCP_INFO_OPTIONS] & AGREED


if sys.argv[1] == 'serve':
    s = socket.create_server(('', int(sys.argv[2])), backlog=64)
    waits = select.poll()
    waits.register(s, select.POLLIN)
    said = lambda c: (*(c.getsockopt(socket.IPPROTO_TCP, name) for name in names), c.getsockopt(socket.IPPROTO_IP, socket.IP_TTL))
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
else:
    c = socket.socket()
    print(errno.errorcode[c.connect_ex((sys.argv[2], int(sys.argv[3])))])
