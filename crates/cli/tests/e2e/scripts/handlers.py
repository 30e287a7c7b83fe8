"""The client of handlers.c: for each way to wait, messages that must come back, what the handlers write, and connections that they accept.

handlers.py ADDR PORT WAY...
"""
import socket, sys, threading

def exchange(c, piece):
    c.sendall(piece)
    got = b''
    while len(got) < len(piece):
        more = c.recv(65536)
        if not more:
            break
        got += more
    return got == piece

def all_of(c):
    got = b''
    while True:
        more = c.recv(65536)
        if not more:
            return got
        got += more

def ask(addr, port, way):
    address = (addr, port)
    c = socket.create_connection(address, timeout=20)
    c.sendall(way.encode() + b'\n')
    told, said = socket.create_connection(address, timeout=20), []
    reader = threading.Thread(target=lambda: said.append(all_of(told)))
    reader.start()
    good, hi = 0, 0
    for n in range(1500):
        good += exchange(c, bytes([n & 255]) * (1 + n * 37 % 9000))
        if n % 100 == 50:
            with socket.create_connection(address, timeout=20) as more:
                hi += more.recv(2) == b'hi'
    c.shutdown(socket.SHUT_WR)
    ticks, forks, accepted, reaped = (int(word) for word in all_of(c).split())
    reader.join()
    whole = (said[0].count(b't'), said[0].count(b'f'), accepted, reaped) == (ticks, forks, 15, forks)
    print(way, good, hi, whole, ticks > 100 and forks > 3, flush=True)

if __name__ == '__main__':
    for way in sys.argv[3:]:
        try:
            ask(sys.argv[1], int(sys.argv[2]), way)
        except TimeoutError:
            print(way, 'hangs', flush=True)
