/* A stand-in for llama-server that costs next to nothing, so that what a gateway in front of it costs can be seen.
 *
 * One thread, one epoll.  It takes llama-server's command line (flags it does not know are ignored), answers
 * GET /health at once, and any POST with an answer of the shape and headers of llama-server.  What it answers is
 * chosen by plain text in the first 64 KiB of the request body:
 *     "stream":true       server-sent events, each one chunk in one write at the moment it is due
 *     "max_tokens":N      how many events (default 16)
 *     "bench_rate":R      events per second of this stream, 1 to 1000 (default 100)
 *     "bench_size":B      bytes of an answer that is not streamed (default 600)
 * Each event carries "bench_ns", the CLOCK_MONOTONIC time at which it was due, and "bench_seq", so that whoever reads
 * it on this machine knows how late it is and that none is missing.  Connections are kept as llama-server keeps them:
 * 5 seconds idle, 100 requests.  It binds loopback addresses and UNIX sockets only and ends by itself after
 * --max-seconds. */
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MAX_FD = 65536,
    HEAD_MAX = 65536,         /* of a request's head */
    PEEK_MAX = 65536,         /* of a request's body that is looked at */
    WHEEL = 2048,             /* milliseconds; longer than the longest pause between two events */
    BACKLOG_MAX = 4 << 20,    /* bytes a slow reader may leave unread before its events wait */
    ANSWER_MAX = 64 << 20,
    IDLE_MS = 5000,
    REQUESTS_MAX = 100,
};
#define MS 1000000LL

enum phase { READ_HEAD, READ_BODY, ANSWERING };

struct conn {
    int fd, requests, closing, wants_write;
    enum phase phase;
    char *in;                 /* the head, then the first part of the body */
    size_t in_len, in_cap, head_len;
    int is_chunked;
    struct chunked chunked;
    size_t body_left;         /* when a Content-Length was given */
    char *peek;
    size_t peek_len;
    char *out;                /* what the socket would not take yet */
    size_t out_len, out_off, out_cap;
    int64_t idle_since;
    /* a stream */
    int streaming;
    long seq, events;
    int64_t due, step;        /* ns */
    struct conn *prev, *next; /* in its slot of the wheel */
    int slot;
};

static struct conn *conns[MAX_FD];
static struct conn *wheel[WHEEL];
static int streams, max_fd, ep, tick_fd;
static int64_t wheel_ms;      /* the slot that was served last */
static char scratch[1 << 18];
static volatile sig_atomic_t stopped;

static const char HELP[] =
    "----- common params -----\n\n"
    "-h,    --help, --usage                  print usage and exit\n"
    "--version                               show version and build info\n"
    "-t,    --threads N                      number of CPU threads to use during generation (default: -1)\n"
    "-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)\n"
    "-b,    --batch-size N                   logical maximum batch size (default: 2048)\n"
    "-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM\n"
    "-m,    --model FNAME                    model path to load\n\n"
    "----- example-specific params -----\n\n"
    "-np,   --parallel N                     number of server slots (default: -1, -1 = auto)\n"
    "-kvu,  --kv-unified, -no-kvu, --no-kv-unified\n"
    "                                        use single unified KV buffer shared across all sequences\n"
    "-a,    --alias STRING                   set model name aliases, comma-separated (to be used by API)\n"
    "--host HOST                             ip address to listen, or a UNIX socket if it\n"
    "                                        ends with .sock (default: 127.0.0.1)\n"
    "--port PORT                             port to listen (default: 8080)\n"
    "--embeddings                            accepted and ignored\n"
    "--pooling {none,mean,cls,last,rank}     accepted and ignored\n"
    "--max-seconds N                         end after this time (default: 600)\n";

static void on_term(int signum) { (void)signum; stopped = 1; }

static void unlink_stream(struct conn *c)
{
    if (!c->streaming)
        return;
    if (c->prev)
        c->prev->next = c->next;
    else
        wheel[c->slot] = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->prev = c->next = NULL;
}

static void set_tick(int on)
{
    struct itimerspec spec = {0};
    if (on) {
        wheel_ms = now_ns() / MS;
        spec.it_interval.tv_nsec = MS;
        spec.it_value.tv_sec = (wheel_ms + 1) / 1000;
        spec.it_value.tv_nsec = (wheel_ms + 1) % 1000 * MS;
    }
    timerfd_settime(tick_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Puts a stream where its next event is due; one that is overdue goes into the next slot. */
static void link_stream(struct conn *c)
{
    int64_t ms = c->due / MS;
    if (ms <= wheel_ms)
        ms = wheel_ms + 1;
    c->slot = (int)(ms % WHEEL);
    c->prev = NULL;
    c->next = wheel[c->slot];
    if (c->next)
        c->next->prev = c;
    wheel[c->slot] = c;
}

static void end_stream(struct conn *c)
{
    unlink_stream(c);
    c->streaming = 0;
    if (--streams == 0)
        set_tick(0);
}

static void drop(struct conn *c)
{
    if (c->streaming)
        end_stream(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c->peek);
    free(c->out);
    free(c);
}

static void watch(struct conn *c, int write_too)
{
    if (c->wants_write == write_too)
        return;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (write_too ? EPOLLOUT : 0u), .data.fd = c->fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
    c->wants_write = write_too;
}

static void keep_for_later(struct conn *c, const char *data, size_t len)
{
    if (c->out_off) {
        memmove(c->out, c->out + c->out_off, c->out_len - c->out_off);
        c->out_len -= c->out_off;
        c->out_off = 0;
    }
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out)
            abort();
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

/* False when the connection is gone (and dropped). */
static int send_bytes(struct conn *c, const char *data, size_t len)
{
    if (c->out_len == c->out_off) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            drop(c);
            return 0;
        }
        if (n == (ssize_t)len)
            return 1;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    keep_for_later(c, data, len);
    watch(c, 1);
    return 1;
}

static void answer_done(struct conn *c)
{
    c->phase = READ_HEAD;
    c->idle_since = now_ns();
    if (c->closing && c->out_len == c->out_off)
        drop(c);
}

static const char *keep_alive(const struct conn *c)
{
    return c->closing ? "Connection: close\r\n" : "Keep-Alive: timeout=5, max=100\r\n";
}

static void answer_json(struct conn *c, const char *status, const char *body, size_t len)
{
    char *message = len + 512 <= sizeof scratch ? scratch : malloc(len + 512);
    if (!message)
        abort();
    int n = snprintf(message, 512,
                     "HTTP/1.1 %s\r\n%sContent-Type: application/json; charset=utf-8\r\nServer: llama.cpp\r\n"
                     "Content-Length: %zu\r\nAccess-Control-Allow-Origin: \r\n\r\n", status, keep_alive(c), len);
    memcpy(message + n, body, len);
    if (send_bytes(c, message, (size_t)n + len))
        answer_done(c);
    if (message != scratch)
        free(message);
}

static void answer_plain(struct conn *c, long size)
{
    static const char start[] =
        "{\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char end[] =
        "\"}}],\"created\":1795364808,\"model\":\"bench\",\"system_fingerprint\":\"b10068-571d0d5\",\"object\":"
        "\"chat.completion\",\"usage\":{\"completion_tokens\":3,\"prompt_tokens\":31,\"total_tokens\":34},\"id\":"
        "\"chatcmpl-DCSfyjxPsMgHNzW8MOHgL40OlH83CLO7\"}";
    static char *body;
    static long have;
    long least = (long)(sizeof start + sizeof end) - 2;
    if (size < least)
        size = least;
    if (size != have) {
        body = realloc(body, (size_t)size);
        if (!body)
            abort();
        memset(body, 'x', (size_t)size);
        memcpy(body, start, sizeof start - 1);
        memcpy(body + size - (sizeof end - 1), end, sizeof end - 1);
        have = size;
    }
    answer_json(c, "200 OK", body, (size_t)size);
}

static void digits(char *at, int width, uint64_t value)
{
    while (width--) {
        at[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* One event as one chunk: the text never changes in length, only the two numbers in it are written anew. */
static int send_event(struct conn *c)
{
    static char event[] =
        "101\r\n"
        "data: {\"bench_ns\":\"0000000000000000000\",\"bench_seq\":\"0000000\",\"choices\":[{\"finish_reason\":null,"
        "\"index\":0,\"delta\":{\"content\":\" token\"}}],\"created\":1795364808,\"id\":"
        "\"chatcmpl-C3Yo55M2SP7bYQ9cp7vuF9tHXDQ3egL8\",\"model\":\"bench\",\"object\":\"chat.completion.chunk\"}\n\n"
        "\r\n";
    _Static_assert(sizeof event - 1 == 5 + 0x101 + 2, "the chunk says its own size");
    digits(event + 5 + sizeof "data: {\"bench_ns\":\"" - 1, 19, (uint64_t)c->due);
    digits(event + 5 + sizeof "data: {\"bench_ns\":\"0000000000000000000\",\"bench_seq\":\"" - 1, 7, (uint64_t)c->seq);
    return send_bytes(c, event, sizeof event - 1);
}

static void answer_stream(struct conn *c, long events, long rate)
{
    int n = snprintf(scratch, sizeof scratch,
                     "HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\nAccess-Control-Allow-Origin: \r\n"
                     "X-Accel-Buffering: no\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n\r\n",
                     keep_alive(c));
    c->seq = 0;
    c->events = events;
    c->step = 1000000000 / rate;
    if (!send_bytes(c, scratch, (size_t)n))
        return;
    if (streams++ == 0)
        set_tick(1);
    c->streaming = 1;
    c->due = (now_ns() / MS + 1) * MS;
    link_stream(c);
}

/* The event of one stream that is due, or the end of the stream. */
static void stream_due(struct conn *c)
{
    static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    if (c->out_len - c->out_off < BACKLOG_MAX) {
        if (c->seq < c->events) {
            if (!send_event(c))
                return;
            c->seq++;
            if (c->seq < c->events)
                c->due += c->step;
        }
        if (c->seq == c->events) {
            end_stream(c);
            if (send_bytes(c, end, sizeof end - 1))
                answer_done(c);
            return;
        }
    }
    unlink_stream(c);
    link_stream(c);
}

static void tick(void)
{
    uint64_t expired;
    if (read(tick_fd, &expired, sizeof expired) < 0)
        return;
    int64_t until = now_ns() / MS;
    while (wheel_ms < until && streams) {
        wheel_ms++;
        int slot = (int)(wheel_ms % WHEEL);
        for (struct conn *c = wheel[slot], *next; c; c = next) {
            next = c->next;
            stream_due(c);
        }
    }
}

static long number_after(const char *body, size_t len, const char *key, long fallback, long least, long most)
{
    const char *found = memmem(body, len, key, strlen(key));
    if (!found)
        return fallback;
    long value = 0;
    const char *end = body + len;
    for (found += strlen(key); found < end && *found == ' '; found++)
        ;
    for (; found < end && isdigit((unsigned char)*found) && value < 1000000000; found++)
        value = value * 10 + (*found - '0');
    return value < least ? least : value > most ? most : value;
}

static void answer(struct conn *c)
{
    static const char ok[] = "{\"status\":\"ok\"}";
    static const char missing[] = "{\"error\":{\"code\":404,\"message\":\"File Not Found\",\"type\":\"not_found_error\"}}";
    const char *head = c->in;
    c->phase = ANSWERING;
    c->requests++;
    c->closing = c->requests >= REQUESTS_MAX || header_is(head, c->head_len, "connection:", "close");
    int is_health = strncmp(head, "GET /health ", 12) == 0;
    int is_post = strncmp(head, "POST ", 5) == 0;
    c->in_len -= c->head_len;
    memmove(c->in, c->in + c->head_len, c->in_len);
    if (is_health) {
        answer_json(c, "200 OK", ok, sizeof ok - 1);
    } else if (!is_post) {
        answer_json(c, "404 Not Found", missing, sizeof missing - 1);
    } else if (memmem(c->peek, c->peek_len, "\"stream\":true", 13)
               || memmem(c->peek, c->peek_len, "\"stream\": true", 14)) {
        answer_stream(c, number_after(c->peek, c->peek_len, "\"max_tokens\":", 16, 1, 1000000),
                      number_after(c->peek, c->peek_len, "\"bench_rate\":", 100, 1, 1000));
    } else {
        answer_plain(c, number_after(c->peek, c->peek_len, "\"bench_size\":", 600, 1, ANSWER_MAX));
    }
}

static void peek(struct conn *c, const char *data, size_t len)
{
    if (!c->peek && !(c->peek = malloc(PEEK_MAX)))
        abort();
    if (len > PEEK_MAX - c->peek_len)
        len = PEEK_MAX - c->peek_len;
    memcpy(c->peek + c->peek_len, data, len);
    c->peek_len += len;
}

/* Takes body bytes; says how many it used.  Sets *done when the body is whole, -1 when it is broken. */
static size_t take_body(struct conn *c, const char *data, size_t len, int *done)
{
    if (!c->is_chunked) {
        size_t n = len < c->body_left ? len : c->body_left;
        peek(c, data, n);
        c->body_left -= n;
        *done = c->body_left == 0;
        return n;
    }
    const char *at = data, *run;
    size_t n;
    while ((run = chunked_next(&c->chunked, &at, data + len, &n)))
        peek(c, run, n);
    *done = c->chunked.state == CHUNK_DONE ? 1 : c->chunked.state == CHUNK_BAD ? -1 : 0;
    return (size_t)(at - data);
}

/* The head is in c->in as a whole: what follows it there is the start of the body. */
static int begin_body(struct conn *c)
{
    const char *length = header(c->in, c->head_len, "content-length:");
    c->is_chunked = header_is(c->in, c->head_len, "transfer-encoding:", "chunked");
    c->chunked = (struct chunked){0};
    c->body_left = length ? strtoull(length, NULL, 10) : 0;
    c->peek_len = 0;
    c->phase = READ_BODY;
    if (header_is(c->in, c->head_len, "expect:", "100-continue"))
        return send_bytes(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    return 1;
}

/* Works on what is in c->in while no answer is on its way. */
static void serve_input(struct conn *c)
{
    if (c->phase == READ_HEAD) {
        char *end = c->in_len ? memmem(c->in, c->in_len, "\r\n\r\n", 4) : NULL;
        if (!end) {
            if (c->in_len >= HEAD_MAX)
                drop(c);
            return;
        }
        c->head_len = (size_t)(end - c->in) + 4;
        if (!begin_body(c))
            return;
    }
    if (c->phase == READ_BODY) {
        int done;
        size_t used = take_body(c, c->in + c->head_len, c->in_len - c->head_len, &done);
        memmove(c->in + c->head_len, c->in + c->head_len + used, c->in_len - c->head_len - used);
        c->in_len -= used;
        if (done < 0)
            drop(c);
        else if (done)
            answer(c);
    }
}

static void readable(struct conn *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                drop(c);
            return;
        }
        if (c->in_len + (size_t)n > c->in_cap) {
            c->in_cap = c->in_len + (size_t)n + 4096;
            c->in = realloc(c->in, c->in_cap);
            if (!c->in)
                abort();
        }
        memcpy(c->in + c->in_len, scratch, (size_t)n);
        c->in_len += (size_t)n;
        if (c->phase == ANSWERING)
            return;    /* the next request, early: it waits; its peer is not asked for more */
        int fd = c->fd;
        serve_input(c);
        if (conns[fd] != c || n < (ssize_t)sizeof scratch)
            return;
    }
}

static void writable(struct conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN)
                drop(c);
            return;
        }
        c->out_off += (size_t)n;
    }
    c->out_len = c->out_off = 0;
    watch(c, 0);
    if (c->closing && c->phase == READ_HEAD)
        drop(c);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct conn *c = fd < MAX_FD ? calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->idle_since = now_ns();
        conns[fd] = c;
        if (fd > max_fd)
            max_fd = fd;
        struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
}

static void drop_idle(void)
{
    int64_t limit = now_ns() - IDLE_MS * MS;
    for (int fd = 0; fd <= max_fd; fd++)
        if (conns[fd] && conns[fd]->phase == READ_HEAD && conns[fd]->idle_since < limit)
            drop(conns[fd]);
}

static int listen_on_path(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path) {
        fprintf(stderr, "fakebackend: %s is too long a path\n", path);
        exit(2);
    }
    strcpy(addr.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 4096) != 0) {
        fprintf(stderr, "fakebackend: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return fd;
}

static int listen_on(const char *host, int port)
{
    size_t length = strlen(host);
    if (length > 5 && strcmp(host + length - 5, ".sock") == 0)
        return listen_on_path(host);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &addr.sin_addr) != 1 || ntohl(addr.sin_addr.s_addr) >> 24 != 127) {
        fprintf(stderr, "fakebackend: only loopback addresses are served, not %s\n", host);
        exit(2);
    }
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 4096) != 0) {
        fprintf(stderr, "fakebackend: %s:%d: %s\n", host, port, strerror(errno));
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    const char *host = "127.0.0.1";
    int port = 8080;
    long max_seconds = 600;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(HELP, stdout);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            puts("version: 0 (fake)");
            return 0;
        }
        if (strcmp(argv[i], "--host") == 0)
            host = value;
        else if (strcmp(argv[i], "--port") == 0)
            port = atoi(value);
        else if (strcmp(argv[i], "--max-seconds") == 0)
            max_seconds = atol(value);
    }
    if (max_seconds < 1 || max_seconds > 7200)
        max_seconds = 600;
    raise_file_limit();
    struct sigaction term = {.sa_handler = on_term};
    sigaction(SIGTERM, &term, NULL);
    sigaction(SIGINT, &term, NULL);
    signal(SIGPIPE, SIG_IGN);

    int listener = listen_on(host, port);
    ep = epoll_create1(EPOLL_CLOEXEC);
    tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
    ev.data.fd = tick_fd;
    epoll_ctl(ep, EPOLL_CTL_ADD, tick_fd, &ev);
    fprintf(stderr, "main: server is listening on http://%s:%d\n", host, port);

    int64_t end = now_ns() + max_seconds * 1000 * MS, swept = now_ns();
    struct epoll_event events[512];
    while (!stopped && now_ns() < end) {
        int n = epoll_wait(ep, events, 512, 250);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            if (fd == tick_fd) {
                tick();
                continue;
            }
            if (conns[fd] && events[i].events & EPOLLOUT)
                writable(conns[fd]);
            if (conns[fd] && events[i].events & ~(unsigned)EPOLLOUT)
                readable(conns[fd]);
        }
        if (now_ns() - swept > 250 * MS) {
            drop_idle();
            swept = now_ns();
        }
    }
    return 0;
}
