"""The client of handlers.c: for each way to wait, messages that must come back, what the handlers write, and connections that they accept.

handlers.py ADDR PORT WAY...
"""
import itertools, socket, sys, threading, time

from talk import exchange

def all_of(c, so_far=None):
    got = bytearray() if so_far is None else so_far
    while True:
        more = c.recv(65536)
        if not more:
            return got
        got += more

def ask(addr, port, way):
    address = (addr, port)
    c = socket.create_connection(address, timeout=20)
    c.sendall(way.encode() + b'\n')
    told, said = socket.create_connection(address, timeout=20), bytearray()
    reader = threading.Thread(target=all_of, args=(told, said))
    reader.start()
    good, hi, end = 0, 0, time.monotonic() + 60
    for n in itertools.count():
        # Until the handlers have run often, however fast the exchanges are.
        if n >= 1500 and (said.count(b't') > 100 and said.count(b'f') > 3 or time.monotonic() > end):
            break
        good += exchange(c, bytes([n & 255]) * (1 + n * 37 % 9000))
        if n < 1500 and n % 100 == 50:
            with socket.create_connection(address, timeout=20) as more:
                hi += more.recv(2) == b'hi'
    c.shutdown(socket.SHUT_WR)
    ticks, forks, accepted, reaped = (int(word) for word in all_of(c).split())
    reader.join()
    whole = (said.count(b't'), said.count(b'f'), accepted, reaped) == (ticks, forks, 15, forks)
    print(way, good == n, hi, whole, ticks > 100 and forks > 3, flush=True)

if __name__ == '__main__':
    for way in sys.argv[3:]:
        try:
            ask(sys.argv[1], int(sys.argv[2]), way)
        except TimeoutError:
            print(way, 'hangs', flush=True)
