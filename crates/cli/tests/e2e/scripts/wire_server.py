"""An echo server. `wire_server.py ADDRESS PORT [WORKERS]`: WORKERS processes accept on one listener, and each answers a new
connection with its process id first. It is the first to close once somebody said `bye`."""
import os, socket, sys, threading

listener = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(128)
workers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
for _ in range(workers - 1):
    if os.fork() == 0:
        break


def say(line):
    """One write, so that the lines of several workers do not mix."""
    os.write(1, line.encode() + b"\n")


def serve(connection, peer):
    say("from %s to %s" % (peer[0], connection.getsockname()[0]))
    try:
        connection.sendall(b"%10d\n" % os.getpid())
        while True:
            data = connection.recv(1 << 20)
            if not data:
                break
            connection.sendall(data)
            if data == b"bye":
                break
        say("end")
    except OSError as error:
        say("broken %d" % error.errno)
    connection.close()


say("serving %d" % os.getpid())
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
