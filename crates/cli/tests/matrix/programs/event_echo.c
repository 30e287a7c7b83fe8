/* An echo server on libevent. Its listener and buffers are the library's own. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static void on_drained(struct bufferevent *b, void *arg) {
    (void)arg;
    if (evbuffer_get_length(bufferevent_get_output(b)) == 0) bufferevent_free(b);
}

static void on_read(struct bufferevent *b, void *arg) {
    (void)arg;
    evbuffer_add_buffer(bufferevent_get_output(b), bufferevent_get_input(b));
}

static void on_event(struct bufferevent *b, short what, void *arg) {
    if (what & BEV_EVENT_ERROR) { bufferevent_free(b); return; }
    if (what & BEV_EVENT_EOF) {
        on_read(b, arg);
        if (evbuffer_get_length(bufferevent_get_output(b)) == 0) bufferevent_free(b);
        else bufferevent_setcb(b, NULL, on_drained, on_event, NULL);
    }
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
    (void)a; (void)n; (void)arg;
    struct bufferevent *b = bufferevent_socket_new(evconnlistener_get_base(l), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(b, on_read, NULL, on_event, NULL);
    bufferevent_enable(b, EV_READ | EV_WRITE);
}

int main(int argc, char **argv) {
    (void)argc;
    struct event_base *base = event_base_new();
    struct sockaddr_in any;
    memset(&any, 0, sizeof any);
    any.sin_family = AF_INET;
    any.sin_port = htons(atoi(argv[1]));
    if (!evconnlistener_new_bind(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, -1, (struct sockaddr *)&any, sizeof any)) return 1;
    return event_base_dispatch(base);
}
