"""The kernel's side: one thread a connection, told by the first line what to do."""
import socket, struct, sys, threading, time

def handle(c, addr):
    f = c.makefile('rb')
    word = f.readline().decode().split()
    if word[0] == 'echo':
        while True:
            d = f.read1(65536)
            if not d:
                break
            c.sendall(d)
    elif word[0] == 'give':
        c.sendall(b''.join(struct.pack('>I', i) for i in range(int(word[1]) // 4)))
    elif word[0] == 'rst':
        f.read(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    elif word[0] == 'count':
        time.sleep(float(word[1]))
        n = 0
        while True:
            d = f.read1(65536)
            if not d:
                break
            n += len(d)
        c.sendall(b'%d' % n)
    elif word[0] == 'call':
        # Connects to the given port of the other side and does what the rest says.
        for _ in range(int(word[2])):
            b = socket.create_connection((addr[0], int(word[1])), timeout=10)
            threading.Thread(target=talk, args=(b, word[3] if len(word) > 3 else 'hello')).start()
        f.read(1)
    f.close()
    c.close()

def talk(b, what):
    b.sendall(what.encode())
    b.shutdown(socket.SHUT_WR)
    while b.recv(65536):
        pass
    b.close()

s = socket.create_server(('', int(sys.argv[1])), backlog=128)
while True:
    c, a = s.accept()
    threading.Thread(target=handle, args=(c, a), daemon=True).start()
