/* lwIP as a peer in the simulator: raw API, no operating system, both families. Timers, limits and windows are lwIP's own,
 * but for what PEER_LARGE adds: options and buffers of a large machine. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H
#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_SOCKET 0
#define LWIP_NETCONN 0
#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_UDP 0
#define LWIP_ICMP 1
#define LWIP_RAW 0
#define LWIP_STATS 0
#define LWIP_RAND() ((u32_t)rand())
#define MEM_ALIGNMENT 8
#define MEM_LIBC_MALLOC 1
#define MEMP_MEM_MALLOC 1
#define SO_REUSE 1
#define LWIP_TCP_KEEPALIVE 1
#define LWIP_NETIF_TX_SINGLE_PBUF 0
/* Pointers are of 64 bits. */
#define IPV6_FRAG_COPYHEADER 1
/* IPv6 with an address that is given: nothing is asked of routers, nobody is told of groups. */
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_IPV6_AUTOCONFIG 0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0
#define LWIP_IPV6_MLD 0
#define MEMP_NUM_TCP_PCB 128
#define MEMP_NUM_TCP_SEG 4096
#ifdef PEER_LARGE
#define TCP_MSS PEER_LARGE
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 3
#define TCP_WND (256 * 1024)
#define TCP_SND_BUF (256 * 1024)
#define TCP_SND_QUEUELEN 2048
#define TCP_SNDLOWAT 4096
#define LWIP_TCP_TIMESTAMPS 1
#define LWIP_TCP_SACK_OUT 1
#endif
#endif
