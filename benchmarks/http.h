/* What the fake backend and the load generator share: a clock, header look-up in a complete HTTP/1.1 head, and an
 * incremental reader of chunked bodies.  Just enough of HTTP for two programs that trust each other on loopback. */
#ifndef LLAMAGW_BENCH_HTTP_H
#define LLAMAGW_BENCH_HTTP_H

#define _GNU_SOURCE
#include <ctype.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <time.h>

static inline int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The value of a header in head[0..len), or NULL.  `name` is given with its colon: "content-length:". */
static inline const char *header(const char *head, size_t len, const char *name)
{
    size_t n = strlen(name);
    const char *end = head + len, *line = head;
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line < end) {
        if ((size_t)(end - line) > n && strncasecmp(line, name, n) == 0) {
            line += n;
            while (line < end && (*line == ' ' || *line == '\t'))
                line++;
            return line;
        }
    }
    return NULL;
}

static inline int header_is(const char *head, size_t len, const char *name, const char *value)
{
    const char *found = header(head, len, name);
    return found && strncasecmp(found, value, strlen(value)) == 0;
}

enum chunk_state { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_CR, CHUNK_LF, CHUNK_TRAILER, CHUNK_DONE, CHUNK_BAD };

struct chunked {
    enum chunk_state state;
    size_t left;    /* bytes still to come of this chunk; while its size is read, the size so far */
    int digits;     /* of the chunk size, or bytes of the present trailer line */
};

/* The next run of body bytes in *at..end; NULL when the input is used up or the body has ended (state CHUNK_DONE). */
static inline const char *chunked_next(struct chunked *c, const char **at, const char *end, size_t *len)
{
    while (*at < end && c->state != CHUNK_DONE && c->state != CHUNK_BAD) {
        if (c->state == CHUNK_DATA) {
            const char *run = *at;
            *len = (size_t)(end - run) < c->left ? (size_t)(end - run) : c->left;
            *at += *len;
            c->left -= *len;
            if (c->left == 0)
                c->state = CHUNK_CR;
            return run;
        }
        unsigned char ch = (unsigned char)*(*at)++;
        switch (c->state) {
        case CHUNK_SIZE:
            if (isxdigit(ch) && c->digits < 12) {
                c->left = c->left * 16 + (size_t)(isdigit(ch) ? ch - '0' : (ch | 32) - 'a' + 10);
                c->digits++;
                break;
            }
            c->state = c->digits ? CHUNK_EXTENSION : CHUNK_BAD;
            /* fall through */
        case CHUNK_EXTENSION:
            if (ch == '\n' && c->state == CHUNK_EXTENSION) {
                c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
                c->digits = 0;
            }
            break;
        case CHUNK_CR:
            c->state = ch == '\r' ? CHUNK_LF : CHUNK_BAD;
            break;
        case CHUNK_LF:
            c->state = ch == '\n' ? CHUNK_SIZE : CHUNK_BAD;
            break;
        case CHUNK_TRAILER:
            if (ch == '\n') {
                if (c->digits == 0)
                    c->state = CHUNK_DONE;
                c->digits = 0;
            } else if (ch != '\r') {
                c->digits++;
            }
            break;
        default:
            break;
        }
    }
    return NULL;
}

#endif
