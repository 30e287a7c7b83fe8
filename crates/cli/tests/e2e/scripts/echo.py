"""Echoes on the port it is given; one thread, epoll."""
import os, selectors, socket, sys

s = socket.create_server(('', int(sys.argv[1])), backlog=64)
s.setblocking(False)
events = selectors.DefaultSelector()
events.register(s, selectors.EVENT_READ)
print('serving', os.getpid(), flush=True)
while True:
    for key, _ in events.select():
        if key.fileobj is s:
            try:
                c, _ = s.accept()
            except BlockingIOError:
                continue
            events.register(c, selectors.EVENT_READ)
            continue
        c = key.fileobj
        data = c.recv(65536)
        if data:
            # What a client sends before it reads fits into the socket's buffers.
            c.sendall(data)
        else:
            events.unregister(c)
            c.close()
