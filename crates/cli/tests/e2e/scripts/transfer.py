"""One transfer each way, compared by digest.

transfer.py serve PORT              serves for ever
transfer.py fetch ADDRESS PORT CC UP DOWN   sends UP bytes, takes DOWN bytes; CC: congestion control of both ends, - for the default
"""

import hashlib
import random
import socket
import sys
import threading


def data(n, seed):
    return random.Random(seed).randbytes(n)


def take(sock, n):
    parts = []
    while n > 0:
        part = sock.recv(min(n, 1 << 18))
        assert part, "the stream ended %d bytes early" % n
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def line(sock):
    text = b""
    while not text.endswith(b"\n"):
        part = sock.recv(1)
        assert part, "no line"
        text += part
    return text.decode().split()


def control(sock, name):
    if name != "-":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def serve_one(sock):
    with sock:
        name, up, down = line(sock)
        control(sock, name)
        got = hashlib.sha256(take(sock, int(up))).hexdigest()
        sock.sendall(got.encode())
        sock.sendall(data(int(down), 2))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def serve(port):
    listener = socket.create_server(("", int(port)))
    print("serving", flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve_one, args=(sock,), daemon=True).start()


def fetch(address, port, name, up, down):
    with socket.create_connection((address, int(port)), 30) as sock:
        sock.settimeout(100)
        control(sock, name)
        sock.sendall(("%s %s %s\n" % (name, up, down)).encode())
        sent = data(int(up), 1)
        sock.sendall(sent)
        told = take(sock, 64).decode()
        assert told == hashlib.sha256(sent).hexdigest(), "what was sent arrived otherwise"
        got = take(sock, int(down))
        assert got == data(int(down), 2), "what was fetched is otherwise"
        assert sock.recv(1) == b"", "more than there should be"
    print("same", up, down)


{"serve": serve, "fetch": fetch}[sys.argv[1]](*sys.argv[2:])
