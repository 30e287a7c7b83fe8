# steady.py serve PORT: echoes every connection.  steady.py talk ADDRESS PORT STOP: sends until the file STOP is there, compares what comes back.
import hashlib, os, random, socket, socketserver, sys, threading


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


def talk(address, port, stop):
    s = socket.create_connection((address, port))
    sent, got = hashlib.sha256(), hashlib.sha256()
    count = [0]

    def hear():
        while data := s.recv(65536):
            got.update(data)
            count[0] += len(data)

    ear = threading.Thread(target=hear)
    ear.start()
    rng = random.Random(7)
    total, told = 0, 0
    while not os.path.exists(stop):
        data = rng.randbytes(rng.randrange(1, 50000))
        s.sendall(data)
        sent.update(data)
        total += len(data)
        if count[0] - told >= 1_000_000:
            told = count[0]
            print("at", told, flush=True)
    s.shutdown(socket.SHUT_WR)
    ear.join()
    print("end", total, count[0], sent.digest() == got.digest(), flush=True)


if sys.argv[1] == "serve":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    server = socketserver.ThreadingTCPServer(("", int(sys.argv[2])), Echo)
    print("ready", flush=True)
    server.serve_forever()
else:
    talk(sys.argv[2], int(sys.argv[3]), sys.argv[4])
