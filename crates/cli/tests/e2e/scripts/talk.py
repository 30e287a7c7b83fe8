"""What several of these programs say and hear on a connection."""

def line_of(c):
    line = b''
    while not line.endswith(b'\n'):
        byte = c.recv(1)
        if not byte:
            break
        line += byte
    return line.strip().decode()

def exchange(c, piece):
    c.sendall(piece)
    got = b''
    while len(got) < len(piece):
        more = c.recv(65536)
        if not more:
            break
        got += more
    return got == piece
