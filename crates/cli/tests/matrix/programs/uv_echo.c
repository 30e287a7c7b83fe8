/* An echo server on libuv. */
#include <stdlib.h>
#include <string.h>
#include <uv.h>

struct request { uv_write_t write; uv_buf_t buf; };

static void on_close(uv_handle_t *handle) { free(handle); }

static void on_shutdown(uv_shutdown_t *req, int status) {
    (void)status;
    uv_close((uv_handle_t *)req->handle, on_close);
    free(req);
}

static void on_write(uv_write_t *req, int status) {
    struct request *r = (struct request *)req;
    (void)status;
    free(r->buf.base);
    free(r);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *buf) {
    (void)handle;
    *buf = uv_buf_init(malloc(wanted), wanted);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    if (n > 0) {
        struct request *r = malloc(sizeof *r);
        r->buf = uv_buf_init(buf->base, n);
        uv_write(&r->write, stream, &r->buf, 1, on_write);
        return;
    }
    free(buf->base);
    if (n == UV_EOF) {
        uv_shutdown_t *s = malloc(sizeof *s);
        uv_shutdown(s, stream, on_shutdown);
    } else if (n < 0) {
        uv_close((uv_handle_t *)stream, on_close);
    }
}

static void on_connection(uv_stream_t *server, int status) {
    if (status < 0) return;
    uv_tcp_t *client = malloc(sizeof *client);
    uv_tcp_init(server->loop, client);
    if (uv_accept(server, (uv_stream_t *)client) == 0) uv_read_start((uv_stream_t *)client, on_alloc, on_read);
    else uv_close((uv_handle_t *)client, on_close);
}

int main(int argc, char **argv) {
    uv_tcp_t server;
    struct sockaddr_in any;
    (void)argc;
    uv_tcp_init(uv_default_loop(), &server);
    uv_ip4_addr("0.0.0.0", atoi(argv[1]), &any);
    if (uv_tcp_bind(&server, (struct sockaddr *)&any, 0) || uv_listen((uv_stream_t *)&server, 128, on_connection)) return 1;
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
