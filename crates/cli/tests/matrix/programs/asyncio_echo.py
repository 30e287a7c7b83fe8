"""asyncio_echo.py ADDRESS PORT [HOST PORT]: echoes, or passes everything on to HOST PORT and back."""
import asyncio, sys

async def pump(reader, writer):
    while data := await reader.read(30000):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()

# A loop refers to its tasks weakly: one that waits for a reader that only itself knows may be collected.
running = set()

async def serve(reader, writer):
    task = asyncio.current_task()
    running.add(task)
    task.add_done_callback(running.discard)
    if len(sys.argv) > 3:
        r, w = await asyncio.open_connection(sys.argv[3], int(sys.argv[4]))
        await asyncio.gather(pump(reader, w), pump(r, writer))
        w.close()
    else:
        await pump(reader, writer)
    writer.close()
    await writer.wait_closed()

async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]))
    async with server:
        await server.serve_forever()

asyncio.run(main())
