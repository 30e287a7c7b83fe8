"""Workers that were forked after listen(), each with one connection at a time, and a client that keeps all but one of them busy."""

import os, select, socket, sys, time

WORKERS = 4


def wait_for(how, listener):
    """Until a connection may be there; accept waits by itself."""
    if how == "poll":
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.poll()
    elif how == "epoll":
        with select.epoll() as epoll:
            epoll.register(listener, select.EPOLLIN)
            epoll.poll()


def work(how, folder, listener):
    listener.setblocking(how == "accept")
    while True:
        wait_for(how, listener)
        try:
            conn, _ = listener.accept()
        except BlockingIOError:
            continue
        conn.setblocking(True)
        with conn:
            while line := conn.recv(100):
                if line == b"sleep\n":
                    conn.sendall(b"asleep\n")
                    # Nothing of the library's: neither a socket nor a descriptor.
                    while not os.path.exists(folder + "/awake"):
                        time.sleep(0.01)
                conn.sendall(b"%d\n" % os.getpid())


def serve(how, folder, addr, port):
    listener = socket.create_server((addr, port), backlog=64)
    for _ in range(WORKERS):
        if os.fork() == 0:
            work(how, folder, listener)
    os.wait()


def connect(to):
    conn = socket.create_connection(to, timeout=20)
    conn.settimeout(20)
    return conn


def ask(conn, line=b"who\n"):
    conn.sendall(line)
    return conn.recv(100)


def once(to):
    with connect(to) as conn:
        return ask(conn)


def several(to, most):
    """Open connections to `most` workers at once."""
    kept = [connect(to) for _ in range(most)]
    return kept, len({ask(conn) for conn in kept})


def main(addr, port, folder):
    to = (addr, port)
    # Every worker has waited at the listener before.
    for _ in range(3):
        kept, _ = several(to, WORKERS)
        for conn in kept:
            conn.close()
    kept, workers = several(to, WORKERS - 1)
    print("one worker left of", workers + 1)
    print("answers", sum(bool(once(to)) for _ in range(30)))
    for conn in kept:
        conn.close()
    kept, _ = several(to, WORKERS - 1)
    print("sleep", [ask(conn, b"sleep\n") for conn in kept])
    print("answers", sum(bool(once(to)) for _ in range(30)))
    last = connect(to)
    print("the last worker", ask(last) != b"")
    late = [connect(to) for _ in range(6)]
    for conn in late:
        conn.sendall(b"who\n")
    last.close()
    # The one worker that is free now serves them one after the other.
    free = []
    waiting = set(late)
    while waiting:
        ready, _, _ = select.select(waiting, [], [], 20)
        if not ready:
            break
        for conn in ready:
            free.append(conn.recv(100))
            conn.close()
            waiting.discard(conn)
    print("served by the free one", len(free), len(set(free)))
    open(folder + "/awake", "w").close()
    print("awake", [conn.recv(100) != b"" for conn in kept])


if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
else:
    main(sys.argv[2], int(sys.argv[3]), sys.argv[4])
