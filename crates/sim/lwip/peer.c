/* One host with lwIP's stack, whose clock, cable and programs are another process's: it reads requests on standard input and
 * answers each on standard output (numbers little endian, as the machine has them).
 *   request   u32 length of the rest, u64 now (us), u32 what, u32 a, u32 b, bytes
 *   answer    u32 length of the rest, i32 result, u32 ms until a timer of lwIP's is due, u32 number of sockets to look at,
 *             u32 bytes read, the sockets (u32 each), the bytes, frames sent (u32 length, bytes) up to the end */
#include "lwip/init.h"
#include "lwip/tcp.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/timeouts.h"
#include "lwip/netif.h"
#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/ip6_addr.h"
#include "netif/ethernet.h"
#include <string.h>
#include <stdint.h>
#include <unistd.h>

enum { ON_START, ON_TICK, ON_FRAME, ON_LISTEN, ON_CONNECT, ON_ACCEPT, ON_RECV, ON_SEND, ON_FINISH, ON_CLOSE, ON_ABORT, ON_LEFT };
enum { AGAIN = -1, RESET = -2, GIVEN_UP = -3, PIPE = -4, IMPOSSIBLE = -5 };
#define SOCKS 256

struct bytes { unsigned char *at; size_t len, cap; };
struct sock { struct tcp_pcb *pcb; struct bytes in; int used, open, eof, error, changed; };

static struct netif nif;
static struct sock socks[SOCKS];
static int waiting[SOCKS], n_waiting;
static struct bytes frames, answer;
static uint64_t now_us;

static void add(struct bytes *to, const void *from, size_t len) {
    if (to->len + len > to->cap) {
        to->cap = 2 * (to->len + len) + 4096;
        to->at = realloc(to->at, to->cap);
        if (!to->at) abort();
    }
    if (len) memcpy(to->at + to->len, from, len);
    to->len += len;
}
static void add_number(struct bytes *to, uint32_t n) { add(to, &n, sizeof n); }

u32_t sys_now(void) { return (u32_t)(now_us / 1000); }

static err_t frame_out(struct netif *n, struct pbuf *p) {
    (void)n;
    add_number(&frames, p->tot_len);
    for (struct pbuf *q = p; q; q = q->next) add(&frames, q->payload, q->len);
    return ERR_OK;
}
static err_t netif_start(struct netif *n) {
    n->name[0] = 's'; n->name[1] = 'm';
    n->output = etharp_output; n->output_ip6 = ethip6_output; n->linkoutput = frame_out;
    n->hwaddr_len = 6;
    n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}
static void address(ip_addr_t *to, uint32_t host, int six) {
    if (six) IP_ADDR6(to, PP_HTONL(0x20010db8UL), 0, 0, lwip_htonl(host + 1));
    else IP_ADDR4(to, 10, 0, 0, host + 1);
}
static int start(uint32_t host, uint32_t mtu) {
    ip4_addr_t ip, mask, gw;
    ip_addr_t six;
    lwip_init();
    IP4_ADDR(&ip, 10, 0, 0, host + 1); IP4_ADDR(&mask, 255, 255, 255, 0); IP4_ADDR(&gw, 0, 0, 0, 0);
    netif_add(&nif, &ip, &mask, &gw, 0, netif_start, ethernet_input);
    nif.mtu = mtu; nif.mtu6 = mtu;
    memcpy(nif.hwaddr, "\2\0\0\0\0", 5); nif.hwaddr[5] = host + 1;
    netif_set_default(&nif); netif_set_up(&nif);
    address(&six, host, 1);
    netif_create_ip6_linklocal_address(&nif, 1);
    netif_ip6_addr_set_state(&nif, 0, IP6_ADDR_PREFERRED);
    netif_ip6_addr_set(&nif, 1, ip_2_ip6(&six));
    netif_ip6_addr_set_state(&nif, 1, IP6_ADDR_PREFERRED);
    return 0;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t e) {
    struct sock *s = arg;
    (void)pcb; (void)e;
    if (p) for (struct pbuf *q = p; q; q = q->next) add(&s->in, q->payload, q->len);
    else s->eof = 1;
    if (p) pbuf_free(p);
    s->changed = 1;
    return ERR_OK;
}
static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len) {
    (void)pcb; (void)len;
    ((struct sock *)arg)->changed = 1;
    return ERR_OK;
}
static void on_error(void *arg, err_t e) {
    struct sock *s = arg;
    s->pcb = 0;
    if (e != ERR_CLSD) s->error = e == ERR_RST ? RESET : GIVEN_UP;
    s->changed = 1;
}
static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t e) {
    struct sock *s = arg;
    (void)pcb; (void)e;
    s->open = s->changed = 1;
    return ERR_OK;
}
static struct sock *sock_of(struct tcp_pcb *pcb) {
    for (int i = 0; i < SOCKS; i++) {
        struct sock *s = &socks[i];
        if (s->used) continue;
        free(s->in.at);
        memset(s, 0, sizeof *s);
        s->used = 1; s->pcb = pcb;
        /* A reset may be lost, and who only reads would wait for ever. */
        ip_set_option(pcb, SOF_KEEPALIVE);
        pcb->keep_idle = 60000; pcb->keep_intvl = 10000; pcb->keep_cnt = 5;
        tcp_arg(pcb, s); tcp_recv(pcb, on_recv); tcp_sent(pcb, on_sent); tcp_err(pcb, on_error);
        return s;
    }
    fprintf(stderr, "more than %d sockets\n", SOCKS);
    abort();
}
static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t e) {
    (void)arg;
    if (e != ERR_OK || !pcb || n_waiting == SOCKS) return ERR_VAL;
    struct sock *s = sock_of(pcb);
    s->open = s->changed = 1;
    waiting[n_waiting++] = s - socks;
    return ERR_OK;
}

static int do_listen(uint32_t port) {
    struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_ANY);
    if (!pcb || tcp_bind(pcb, IP_ANY_TYPE, port) != ERR_OK || !(pcb = tcp_listen(pcb))) return IMPOSSIBLE;
    tcp_accept(pcb, on_accept);
    return 0;
}
static int do_connect(uint32_t to, uint32_t ports, int six) {
    ip_addr_t here, there;
    struct tcp_pcb *pcb = tcp_new_ip_type(six ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
    if (!pcb) return IMPOSSIBLE;
    address(&here, nif.hwaddr[5] - 1, six); address(&there, to, six);
    ip_set_option(pcb, SOF_REUSEADDR);
    if (tcp_bind(pcb, &here, ports >> 16) != ERR_OK) { tcp_close(pcb); return AGAIN; }
    struct sock *s = sock_of(pcb);
    if (tcp_connect(pcb, &there, ports & 0xffff, on_connected) == ERR_OK) return s - socks;
    s->used = 0;
    tcp_arg(pcb, 0); tcp_err(pcb, 0);
    tcp_close(pcb);
    return AGAIN;
}
static int do_accept(void) {
    if (!n_waiting) return AGAIN;
    int s = waiting[0];
    memmove(waiting, waiting + 1, --n_waiting * sizeof *waiting);
    return s;
}
static int do_recv(struct sock *s, size_t most, struct bytes *to) {
    size_t n = s->in.len < most ? s->in.len : most;
    if (!n) return s->error ? s->error : s->eof ? 0 : AGAIN;
    add(to, s->in.at, n);
    memmove(s->in.at, s->in.at + n, s->in.len -= n);
    for (size_t left = n; left && s->pcb;) {
        u16_t part = left < 0xffff ? left : 0xffff;
        tcp_recved(s->pcb, part);
        left -= part;
    }
    return n;
}
static int do_send(struct sock *s, const unsigned char *data, size_t len) {
    if (!s->pcb) return s->error ? s->error : PIPE;
    if (!s->open) return AGAIN;
    size_t n = tcp_sndbuf(s->pcb);
    if (n > len) n = len;
    if (n > 0x8000) n = 0x8000;
    err_t e = ERR_MEM;
    while (n && (e = tcp_write(s->pcb, data, n, TCP_WRITE_FLAG_COPY)) == ERR_MEM) n /= 2;
    if (e == ERR_MEM) return AGAIN;
    if (e != ERR_OK) return PIPE;
    tcp_output(s->pcb);
    return n;
}
static int do_close(struct sock *s) {
    struct tcp_pcb *pcb = s->pcb;
    s->used = 0;
    if (!pcb) return 0;
    s->pcb = 0;
    tcp_arg(pcb, 0); tcp_recv(pcb, 0); tcp_sent(pcb, 0); tcp_err(pcb, 0);
    return tcp_close(pcb) == ERR_OK ? 0 : IMPOSSIBLE;
}
static int do_abort(struct sock *s) {
    struct tcp_pcb *pcb = s->pcb;
    s->used = 0;
    if (!pcb) return 0;
    s->pcb = 0;
    tcp_arg(pcb, 0); tcp_err(pcb, 0);
    tcp_abort(pcb);
    return 0;
}
/* Connections that are not over, and a word about each. */
static int do_left(struct bytes *to) {
    int n = 0;
    struct tcp_pcb *lists[] = { tcp_active_pcbs, tcp_tw_pcbs };
    for (int i = 0; i < 2; i++)
        for (struct tcp_pcb *p = lists[i]; p; p = p->next, n++) {
            char text[160];
            int len = snprintf(text, sizeof text, "%s port %u to %u, %u to be sent, %u in the window; ", tcp_debug_state_str(p->state),
                               p->local_port, p->remote_port, (unsigned)p->snd_queuelen, (unsigned)p->rcv_wnd);
            add(to, text, len);
        }
    return n;
}

static int act(uint32_t what, uint32_t a, uint32_t b, const unsigned char *data, size_t len, struct bytes *out) {
    struct sock *s = &socks[a % SOCKS];
    switch (what) {
    case ON_START: srand(len ? data[0] : 0); return start(a, b);
    case ON_FRAME: {
        struct pbuf *p = pbuf_alloc(PBUF_RAW, len, PBUF_RAM);
        if (!p || pbuf_take(p, data, len) != ERR_OK) abort();
        if (nif.input(p, &nif) != ERR_OK) pbuf_free(p);
        return 0;
    }
    case ON_LISTEN: return do_listen(a);
    case ON_CONNECT: return do_connect(a, b, len && data[0]);
    case ON_ACCEPT: return do_accept();
    case ON_RECV: return do_recv(s, b, out);
    case ON_SEND: return do_send(s, data, len);
    case ON_FINISH: return s->pcb && tcp_shutdown(s->pcb, 0, 1) == ERR_OK ? 0 : PIPE;
    case ON_CLOSE: return do_close(s);
    case ON_ABORT: return do_abort(s);
    case ON_LEFT: return do_left(out);
    default: return 0;
    }
}
static void read_all(void *to, size_t len) {
    for (size_t got = 0; got < len;) {
        ssize_t n = read(0, (char *)to + got, len - got);
        if (n <= 0) exit(0);
        got += n;
    }
}
int main(void) {
    static unsigned char data[1 << 18];
    struct bytes out = { 0 };
    for (;;) {
        uint32_t len, words[3];
        read_all(&len, sizeof len);
        read_all(&now_us, sizeof now_us);
        read_all(words, sizeof words);
        len -= sizeof now_us + sizeof words;
        if (len > sizeof data) abort();
        read_all(data, len);
        frames.len = out.len = answer.len = 0;
        int32_t result = act(words[0], words[1], words[2], data, len, &out);
        sys_check_timeouts();
        uint32_t changed = 0;
        for (int i = 0; i < SOCKS; i++) changed += socks[i].used && socks[i].changed;
        add_number(&answer, 16 + 4 * changed + out.len + frames.len);
        add(&answer, &result, sizeof result);
        add_number(&answer, sys_timeouts_sleeptime());
        add_number(&answer, changed);
        add_number(&answer, out.len);
        for (int i = 0; i < SOCKS; i++) {
            if (socks[i].used && socks[i].changed) add_number(&answer, i);
            socks[i].changed = 0;
        }
        add(&answer, out.at, out.len);
        add(&answer, frames.at, frames.len);
        for (size_t sent = 0; sent < answer.len;) {
            ssize_t n = write(1, answer.at + sent, answer.len - sent);
            if (n <= 0) return 1;
            sent += n;
        }
    }
}
