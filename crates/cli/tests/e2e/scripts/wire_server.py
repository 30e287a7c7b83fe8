"""An echo server. `wire_server.py ADDRESS PORT [WORKERS]`: WORKERS processes accept on one listener, and each answers a new
connection with its process id first. It is the first to close once somebody said `bye`."""
import os, socket, sys, threading

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(128)
workers = int(sys.argv[3]) if len(sys.argv) > 3 else 1
for _ in range(workers - 1):
    if os.fork() == 0:
        break


def serve(connection, peer):
    print("from", peer[0], "to", connection.getsockname()[0], flush=True)
    try:
        connection.sendall(b"%10d\n" % os.getpid())
        while True:
            data = connection.recv(1 << 20)
            if not data:
                break
            connection.sendall(data)
            if data == b"bye":
                break
        print("end", flush=True)
    except OSError as error:
        print("broken", error.errno, flush=True)
    connection.close()


print("serving", os.getpid(), flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
