/* One TCP end on lwIP: its raw API, no operating system, and a small program that answers, sends or takes. */
#include "lwip/init.h"
#include "lwip/tcp.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/netif.h"
#include "lwip/etharp.h"
#include "netif/ethernet.h"
#include <string.h>
#include "end.h"

static struct netif nif;
static struct fifo *txq;
static struct frame **freel;
static int nslots, msg;
static uint64_t n_done, n_bytes, want;
static int n_open;
struct slot { struct tcp_pcb *pcb; int got, kind, idle; };
static struct slot *slots;
static char data[65536], sink[1 << 17];
static struct slot *bulk;

uint32_t sys_now(void) { return 0; }

static err_t link_out(struct netif *n, struct pbuf *p) {
    struct frame *f = *freel;
    if (f) *freel = f->next; else f = malloc(sizeof *f + FRAME_CAP);
    unsigned off = 0;
    for (struct pbuf *q = p; q; q = q->next) { memcpy(f->data + off, q->payload, q->len); off += q->len; }
    f->len = off; f->next = 0;
    if (txq->tail) txq->tail->next = f; else txq->head = f;
    txq->tail = f; txq->n++;
    return ERR_OK;
}
static err_t nif_init(struct netif *n) {
    n->name[0] = 'm'; n->name[1] = 'w';
    n->output = etharp_output; n->linkoutput = link_out;
    n->hwaddr_len = 6;
    n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}
static void f_init(int host, int csum, int mtu, struct fifo *tx, struct frame **fl) {
    ip4_addr_t ip, mask, gw;
    txq = tx; freel = fl;
    lwip_init();
    IP4_ADDR(&ip, 198, 18, 0, host); IP4_ADDR(&mask, 255, 255, 255, 0); IP4_ADDR(&gw, 0, 0, 0, 0);
    netif_add(&nif, &ip, &mask, &gw, 0, nif_init, ethernet_input);
    nif.mtu = mtu;
    memcpy(nif.hwaddr, "\2\0\0\0\0", 5); nif.hwaddr[5] = host;
    NETIF_SET_CHECKSUM_CTRL(&nif, csum ? NETIF_CHECKSUM_ENABLE_ALL : NETIF_CHECKSUM_DISABLE_ALL);
    netif_set_default(&nif); netif_set_up(&nif);
    slots = calloc(nslots ? nslots : 1, sizeof *slots);
}
static void rx_free(struct pbuf *p) {
    struct frame *f = (struct frame *)((char *)p - offsetof(struct frame, pb));
    f->next = *freel; *freel = f;
}
static void f_input(struct frame *f) {
    struct pbuf_custom *c = (struct pbuf_custom *)f->pb;
    _Static_assert(sizeof(struct pbuf_custom) <= sizeof(f->pb), "pb");
    c->custom_free_function = rx_free;
    struct pbuf *p = pbuf_alloced_custom(PBUF_RAW, f->len, PBUF_REF, c, f->data, FRAME_CAP);
    if (nif.input(p, &nif) != ERR_OK) pbuf_free(p);
}
static void f_timers(void) { tcp_tmr(); }

/* server */
static err_t s_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t e) {
    if (!p) { tcp_close(pcb); return ERR_OK; }
    for (struct pbuf *q = p; q; q = q->next) tcp_write(pcb, q->payload, q->len, TCP_WRITE_FLAG_COPY);
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    return ERR_OK;              /* tcp_input outputs after the callback */
}
static err_t s_sink(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t e) {
    if (!p) { tcp_close(pcb); return ERR_OK; }
    pbuf_copy_partial(p, sink, p->tot_len, 0);
    n_bytes += p->tot_len;
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    return ERR_OK;
}
static int srv_bulk;
static err_t s_accept(void *arg, struct tcp_pcb *pcb, err_t e) {
    tcp_nagle_disable(pcb);
    tcp_recv(pcb, srv_bulk ? s_sink : s_recv);
    return ERR_OK;
}
static void f_listen(int port, int b) {
    srv_bulk = b;
    struct tcp_pcb *l = tcp_new();
    tcp_bind(l, IP_ADDR_ANY, port);
    l = tcp_listen(l);
    tcp_accept(l, s_accept);
}
/* client */
static err_t c_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t e) {
    struct slot *s = arg;
    if (!p) { if (s) tcp_close(pcb); return ERR_OK; }
    pbuf_copy_partial(p, sink, p->tot_len, 0);
    if (s) s->got += p->tot_len;
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    if (s && s->got >= msg) {
        n_done++; s->got = 0;
        if (s->kind == 0) { tcp_arg(pcb, 0); tcp_close(pcb); s->pcb = 0; s->idle = 1; }
    }
    return ERR_OK;
}
static void f_push(void) {
    if (!bulk) return;
    struct tcp_pcb *pcb = bulk->pcb;
    while (want) {
        u32_t n = tcp_sndbuf(pcb);
        if (n > sizeof data / 2) n = sizeof data / 2;
        if (n > want) n = want;
        if (!n || tcp_write(pcb, data, n, TCP_WRITE_FLAG_COPY) != ERR_OK) break;
        want -= n;
    }
    tcp_output(pcb);
}
static err_t c_sent(void *arg, struct tcp_pcb *pcb, u16_t len) { f_push(); return ERR_OK; }
static err_t c_conn(void *arg, struct tcp_pcb *pcb, err_t e) {
    struct slot *s = arg;
    n_open++;
    if (s->kind == 0) { tcp_write(pcb, data, msg, TCP_WRITE_FLAG_COPY); tcp_output(pcb); }
    if (s->kind == 2) { bulk = s; tcp_sent(pcb, c_sent); f_push(); }
    return ERR_OK;
}
static void c_err(void *arg, err_t e) { fprintf(stderr, "client error %d\n", e); abort(); }
static void f_open(int i, int host, int port, int lport, int kind) {
    struct slot *s = &slots[i];
    struct tcp_pcb *pcb = tcp_new();
    ip_addr_t a;
    if (!pcb) { fprintf(stderr, "no pcb\n"); abort(); }
    s->pcb = pcb; s->kind = kind; s->got = 0; s->idle = 0;
    ip_set_option(pcb, SOF_REUSEADDR);
    tcp_nagle_disable(pcb);
    if (tcp_bind(pcb, IP_ADDR_ANY, lport) != ERR_OK) { fprintf(stderr, "bind %d\n", lport); abort(); }
    tcp_arg(pcb, s); tcp_recv(pcb, c_recv); tcp_err(pcb, c_err);
    IP4_ADDR(&a, 198, 18, 0, host);
    if (tcp_connect(pcb, &a, port, c_conn) != ERR_OK) { fprintf(stderr, "connect\n"); abort(); }
}
static void f_request(int i) { tcp_write(slots[i].pcb, data, msg, TCP_WRITE_FLAG_COPY); tcp_output(slots[i].pcb); }
static uint64_t f_done(void) { return n_done; }
static uint64_t f_bytes(void) { return n_bytes; }
static int f_idle(int i) { return slots[i].idle; }
static int f_opened(void) { return n_open; }
static void f_target(uint64_t b) { want = b; }
__attribute__((visibility("default"))) const struct end_ops *end_get(int n, int m) {
    static const struct end_ops o = { f_init, f_input, f_timers, f_listen, f_open, f_request, f_done, f_bytes, f_idle, f_opened, f_target, f_push };
    nslots = n; msg = m;
    return &o;
}
