/* The load that the benchmarks put on a gateway, from one thread and one epoll, so that it costs far less than what it
 * measures.  Two modes:
 *     requests   N connections ask again and again, for --seconds or until --requests answers have come
 *     streams    N connections ask once each for --events server-sent events at --rate per second
 * Latency runs from the moment a request could be sent (a new connection included) to the last byte of its answer.
 * Lateness of an event is the time of reading it less the time at which the fake backend says that it was due.  All
 * that comes back is checked: status, length, the order of the events, the closing [DONE].
 * Bounded in count and time, loopback only.  Prints one JSON object. */
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 8000,
    SAMPLES_MAX = 8000000,
    SECONDS_MAX = 300,
    BODY_MAX = 64 << 20,
    HEAD_MAX = 16384,
    LINE_MAX_KEPT = 128,      /* of an event's line: the numbers stand at its start */
};
#define MS 1000000LL

enum phase { IDLE, SENDING, READ_HEAD, READ_BODY, FINISHED };

struct conn {
    int fd, fresh, close_after, is_chunked, wants_write, saw_done;
    enum phase phase;
    size_t sent, head_len, body_left, body_got, line_len;
    int64_t began;
    long seq;
    struct chunked chunked;
    char line[LINE_MAX_KEPT];
    char head[HEAD_MAX];
};

static struct options {
    const char *host, *path, *model;
    int port, streams, connections;
    long seconds, requests, events, rate, body_bytes, answer_bytes, ramp_ms;
} opt = {"127.0.0.1", "/v1/chat/completions", "bench", 0, 0, 1, 5, 0, 100, 10, 0, 600, 0};

static struct conn *conns;
static int ep;
static struct sockaddr_in target;
static char *request;
static size_t request_len;
static char buffer[1 << 18];

static int64_t started, stop_asking, give_up;
static int running;           /* connections that still have work to do */
static long done, errors, events, disordered, broken, lost;
static char first_error[160];
static uint32_t *lateness, *latency;    /* microseconds */
static long latencies;

static void die(const char *what)
{
    fprintf(stderr, "loadgen: %s\n", what);
    exit(2);
}

static void note_error(const char *what)
{
    errors++;
    if (!first_error[0])
        snprintf(first_error, sizeof first_error, "%s", what);
}

/* Words with a line break now and then, so that a parser has the escapes of a real prompt to look at. */
static void fill(char *at, size_t len)
{
    static const char words[] =
        "The quick brown fox jumps over the lazy dog, and then it sits down to read what the others wrote.\\n";
    size_t n = sizeof words - 1;
    for (; len >= n; at += n, len -= n)
        memcpy(at, words, n);
    memset(at, 'x', len);
}

static void make_request(void)
{
    static const char end[] = "\"}],\"model\":\"%s\"}";
    char start[512], stop[256], head[1024];
    int start_len, stop_len = snprintf(stop, sizeof stop, end, opt.model);
    if (opt.streams)
        start_len = snprintf(start, sizeof start, "{\"stream\":true,\"max_tokens\":%ld,\"bench_rate\":%ld,"
                             "\"messages\":[{\"role\":\"user\",\"content\":\"", opt.events, opt.rate);
    else
        start_len = snprintf(start, sizeof start, "{\"max_tokens\":16,\"bench_size\":%ld,"
                             "\"messages\":[{\"role\":\"user\",\"content\":\"", opt.answer_bytes);
    size_t text = 200;
    if (opt.body_bytes > start_len + stop_len)
        text = (size_t)(opt.body_bytes - start_len - stop_len);
    size_t body_len = (size_t)start_len + text + (size_t)stop_len;
    int head_len = snprintf(head, sizeof head,
                            "POST %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: application/json\r\n"
                            "Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.0\r\n"
                            "Authorization: Bearer none\r\nContent-Length: %zu\r\n\r\n",
                            opt.path, opt.host, opt.port, body_len);
    if (head_len >= (int)sizeof head || stop_len >= (int)sizeof stop)
        die("path or model too long");
    request_len = (size_t)head_len + body_len;
    if (!(request = malloc(request_len)))
        die("no memory");
    char *at = request;
    memcpy(at, head, (size_t)head_len);
    memcpy(at += head_len, start, (size_t)start_len);
    fill(at += start_len, text);
    memcpy(at + text, stop, (size_t)stop_len);
}

static void watch(struct conn *c, int write_too)
{
    if (c->wants_write == write_too)
        return;
    struct epoll_event ev = {.events = EPOLLIN | (write_too ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
    c->wants_write = write_too;
}

static void hang_up(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void finish(struct conn *c)
{
    hang_up(c);
    c->phase = FINISHED;
    running--;
}

static void begin(struct conn *c);

/* The present request is over, well or badly. */
static void request_over(struct conn *c, const char *error)
{
    if (error)
        note_error(error);
    if (error || c->close_after)
        hang_up(c);
    if (opt.streams) {
        lost += !c->saw_done || c->seq != opt.events || error;
        finish(c);
    } else if ((opt.requests && done + errors >= opt.requests) || now_ns() >= stop_asking || errors > 10000) {
        finish(c);
    } else {
        begin(c);
    }
}

static void send_request(struct conn *c)
{
    while (c->sent < request_len) {
        ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == ENOTCONN)
                watch(c, 1);
            else
                request_over(c, "the connection broke while a request was sent");
            return;
        }
        c->sent += (size_t)n;
    }
    watch(c, 0);
    if (c->phase == SENDING)
        c->phase = READ_HEAD;
}

static void begin(struct conn *c)
{
    c->phase = SENDING;
    c->sent = c->head_len = c->body_got = c->line_len = 0;
    c->seq = 0;
    c->saw_done = c->close_after = 0;
    c->began = now_ns();
    if (c->fd < 0) {
        int one = 1;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->fd < 0)
            die("out of file descriptors: raise `ulimit -n`");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(c->fd, (struct sockaddr *)&target, sizeof target) != 0 && errno != EINPROGRESS) {
            note_error("cannot connect");
            lost += opt.streams;
            finish(c);
            return;
        }
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
        c->wants_write = 1;
        return;
    }
    send_request(c);
}

static int64_t number(const char *at)
{
    int64_t value = 0;
    while (isdigit((unsigned char)*at))
        value = value * 10 + (*at++ - '0');
    return value;
}

static void event_line(struct conn *c, int64_t now)
{
    static const char event[] = "data: {\"bench_ns\":\"", seq[] = "\",\"bench_seq\":\"";
    c->line[c->line_len < LINE_MAX_KEPT ? c->line_len : LINE_MAX_KEPT - 1] = 0;
    if (strncmp(c->line, event, sizeof event - 1) == 0) {
        const char *digits = c->line + sizeof event - 1, *rest = strchr(digits, '"');
        int64_t late = now - number(digits);
        if (!rest || strncmp(rest, seq, sizeof seq - 1) != 0 || number(rest + sizeof seq - 1) != c->seq)
            disordered++;
        c->seq++;
        if (events < SAMPLES_MAX)
            lateness[events] = late < 0 ? 0 : late / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(late / 1000);
        events++;
    } else if (strcmp(c->line, "data: [DONE]") == 0) {
        c->saw_done = 1;
    } else if (c->line_len) {
        broken++;
    }
    c->line_len = 0;
}

static void body_bytes(struct conn *c, const char *at, size_t len, int64_t now)
{
    c->body_got += len;
    if (!opt.streams)
        return;
    if (c->body_got == len && latencies < SAMPLES_MAX)    /* the first bytes of this stream */
        latency[latencies++] = (uint32_t)((now - c->began) / 1000);
    const char *end = at + len;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t part = (size_t)((stop ? stop : end) - at);
        if (c->line_len < LINE_MAX_KEPT - 1) {
            size_t room = LINE_MAX_KEPT - 1 - c->line_len;
            memcpy(c->line + c->line_len, at, part < room ? part : room);
        }
        c->line_len += part;
        if (stop)
            event_line(c, now);
        at += part + (stop != NULL);
    }
}

static void body_over(struct conn *c, int64_t now)
{
    if (opt.streams) {
        done++;
    } else {
        if ((long)c->body_got != opt.answer_bytes) {
            request_over(c, "an answer of the wrong length");
            return;
        }
        done++;
        if (latencies < SAMPLES_MAX)
            latency[latencies++] = (uint32_t)((now - c->began) / 1000);
    }
    request_over(c, NULL);
}

/* Returns how many of the bytes were of the head, -1 when the answer is not what was asked for. */
static ssize_t take_head(struct conn *c, const char *data, size_t len)
{
    size_t before = c->head_len, take = len < HEAD_MAX - before ? len : HEAD_MAX - before;
    memcpy(c->head + before, data, take);
    c->head_len += take;
    char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
    if (!end)
        return c->head_len == HEAD_MAX ? -1 : (ssize_t)take;
    c->head_len = (size_t)(end - c->head) + 4;
    if (strncmp(c->head, "HTTP/1.1 200", 12) != 0) {
        if (!first_error[0])
            snprintf(first_error, sizeof first_error, "status %.3s", c->head + 9);
        return -1;
    }
    const char *length = header(c->head, c->head_len, "content-length:");
    c->is_chunked = header_is(c->head, c->head_len, "transfer-encoding:", "chunked");
    c->close_after = header_is(c->head, c->head_len, "connection:", "close");
    if (!length && !c->is_chunked)
        return -1;
    c->chunked = (struct chunked){0};
    c->body_left = length ? strtoull(length, NULL, 10) : 0;
    c->phase = READ_BODY;
    return (ssize_t)(c->head_len - before);
}

static void readable(struct conn *c)
{
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            request_over(c, "the connection ended before its answer did");
        return;
    }
    int64_t now = now_ns();
    const char *at = buffer, *end = buffer + n, *run;
    if (c->phase == READ_HEAD || c->phase == SENDING) {
        ssize_t used = take_head(c, at, (size_t)n);
        if (used < 0) {
            request_over(c, "an answer that is no 200");
            return;
        }
        at += used;
    }
    if (c->phase != READ_BODY)
        return;
    if (!c->is_chunked) {
        size_t len = (size_t)(end - at) < c->body_left ? (size_t)(end - at) : c->body_left;
        body_bytes(c, at, len, now);
        c->body_left -= len;
        if (c->body_left == 0)
            body_over(c, now);
        return;
    }
    size_t len;
    while ((run = chunked_next(&c->chunked, &at, end, &len)))
        body_bytes(c, run, len, now);
    if (c->chunked.state == CHUNK_BAD)
        request_over(c, "a broken chunk");
    else if (c->chunked.state == CHUNK_DONE)
        body_over(c, now);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void percentiles(const char *name, uint32_t *samples, long count)
{
    if (count > SAMPLES_MAX)
        count = SAMPLES_MAX;
    if (count == 0) {
        printf(",\"%s\":null", name);
        return;
    }
    qsort(samples, (size_t)count, sizeof *samples, ascending);
    printf(",\"%s\":{\"p50\":%u,\"p95\":%u,\"p99\":%u,\"max\":%u}", name, samples[(count - 1) / 2],
           samples[(count - 1) * 95 / 100], samples[(count - 1) * 99 / 100], samples[count - 1]);
}

static void report(double seconds)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
               + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"mode\":\"%s\",\"connections\":%d,\"seconds\":%.3f,\"cpu_s\":%.3f,\"done\":%ld,\"errors\":%ld",
           opt.streams ? "streams" : "requests", opt.connections, seconds, cpu, done, errors);
    if (first_error[0])
        printf(",\"first_error\":\"%s\"", first_error);
    if (opt.streams) {
        printf(",\"lost\":%ld,\"events\":%ld,\"expected\":%ld,\"disordered\":%ld,\"broken\":%ld", lost, events,
               opt.events * opt.connections, disordered, broken);
        percentiles("late_us", lateness, events);
        percentiles("first_us", latency, latencies);
    } else {
        percentiles("latency_us", latency, latencies);
    }
    puts("}");
}

static long bounded(const char *text, const char *name, long least, long most)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < least || value > most) {
        fprintf(stderr, "loadgen: --%s must be %ld to %ld\n", name, least, most);
        exit(2);
    }
    return value;
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, 0, 'H'}, {"port", 1, 0, 'p'}, {"path", 1, 0, 'P'}, {"model", 1, 0, 'm'},
        {"streams", 0, 0, 'S'}, {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"requests", 1, 0, 'n'},
        {"events", 1, 0, 'e'}, {"rate", 1, 0, 'r'}, {"body-bytes", 1, 0, 'b'}, {"answer-bytes", 1, 0, 'a'},
        {"ramp-ms", 1, 0, 'R'}, {0, 0, 0, 0}};
    for (int o, i; (o = getopt_long(argc, argv, "", known, &i)) != -1;) {
        switch (o) {
        case 'H': opt.host = optarg; break;
        case 'P': opt.path = optarg; break;
        case 'm': opt.model = optarg; break;
        case 'S': opt.streams = 1; break;
        case 'p': opt.port = (int)bounded(optarg, "port", 1, 65535); break;
        case 'c': opt.connections = (int)bounded(optarg, "connections", 1, CONNECTIONS_MAX); break;
        case 's': opt.seconds = bounded(optarg, "seconds", 1, SECONDS_MAX); break;
        case 'n': opt.requests = bounded(optarg, "requests", 1, SAMPLES_MAX); break;
        case 'e': opt.events = bounded(optarg, "events", 1, 1000000); break;
        case 'r': opt.rate = bounded(optarg, "rate", 1, 1000); break;
        case 'b': opt.body_bytes = bounded(optarg, "body-bytes", 0, BODY_MAX); break;
        case 'a': opt.answer_bytes = bounded(optarg, "answer-bytes", 400, BODY_MAX); break;
        case 'R': opt.ramp_ms = bounded(optarg, "ramp-ms", 0, 60000); break;
        default: exit(2);
        }
    }
    if (!opt.port)
        die("--port is needed");
    if (opt.streams && (opt.events * opt.connections > SAMPLES_MAX || opt.events / opt.rate > SECONDS_MAX))
        die("too many events");
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)opt.port);
    if (inet_pton(AF_INET, opt.host, &target.sin_addr) != 1 || ntohl(target.sin_addr.s_addr) >> 24 != 127)
        die("--host must be a loopback address (127.0.0.1)");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    raise_file_limit();
    signal(SIGPIPE, SIG_IGN);
    make_request();
    ep = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc((size_t)opt.connections, sizeof *conns);
    latency = malloc(SAMPLES_MAX * sizeof *latency);
    lateness = malloc(SAMPLES_MAX * sizeof *lateness);
    if (!conns || !latency || !lateness)
        die("no memory");
    for (int i = 0; i < opt.connections; i++)
        conns[i].fd = -1;

    started = now_ns();
    stop_asking = started + opt.seconds * 1000 * MS;
    give_up = opt.streams ? started + (opt.ramp_ms + opt.events * 1000 / opt.rate + 15000) * MS
                          : stop_asking + 15000 * MS;
    running = opt.connections;
    int begun = 0;
    struct epoll_event ready[512];
    while (running && now_ns() < give_up) {
        /* connections begin evenly over the ramp, so that they do not all speak at once */
        int64_t since = now_ns() - started;
        while (begun < opt.connections && (int64_t)begun * opt.ramp_ms * MS <= since * opt.connections)
            begin(&conns[begun++]);
        int n = epoll_wait(ep, ready, 512, begun < opt.connections ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (c->fd >= 0 && ready[i].events & EPOLLOUT)
                send_request(c);
            if (c->fd >= 0 && ready[i].events & ~(unsigned)EPOLLOUT)
                readable(c);
        }
    }
    double seconds = (double)(now_ns() - started) / 1e9;
    for (int i = 0; i < opt.connections; i++) {
        if (conns[i].phase != FINISHED) {
            note_error("no end of an answer in time");
            lost += opt.streams;
        }
    }
    report(seconds);
    return 0;
}
