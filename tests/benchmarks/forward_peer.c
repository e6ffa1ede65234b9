/* Both ends of a measured proxy: an upstream, and callers. One thread, one core.
 *
 *   peer serve PORT
 *   peer load PORT TARGET WARM_SECONDS SECONDS CALLERS RATE BODY_BYTES
 *
 * The upstream does what the target asks of it: `?delay=MS` waits before it
 * answers, `?chunks=N&gap=MS` streams N events so far apart, each with the time at
 * which it was sent. The callers send calls of an SDK's shape: back to back
 * (RATE 0), or RATE a second, whether earlier ones were answered or not; delays
 * then count from when a call was due. After WARM_SECONDS, of which nothing is
 * told, comes a line `warm`, and at the end a line of JSON with what they saw.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 8192, BUFFER = 1 << 17, MAX_SAMPLES = 1 << 22, ANSWER_SECONDS = 30 };

struct connection {
    int fd;
    int busy;          /* a call is under way */
    int chunks, gap;   /* server: events still to send, milliseconds apart */
    int status;        /* caller: of the answer; 0 before its head */
    int chunked;
    int64_t due;       /* when to act next, or when the call was due; nanoseconds */
    size_t head, wanted, scanned, filled;
    char *buffer;
};

static struct connection connections[MAX_CONNECTIONS];
static int poller;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct connection *watch(int fd) {
    if (fd >= MAX_CONNECTIONS) fail("too many connections");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = &connections[fd];
    char *buffer = c->buffer ? c->buffer : malloc(BUFFER + 1);
    *c = (struct connection){.fd = fd, .buffer = buffer};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    return c;
}

static void drop(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    c->busy = 0;
}

static int send_all(struct connection *c, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        data += sent;
        size -= sent;
    }
    return 0;
}

/* Read what is there; -1 at the end, or where the buffer is full. */
static int fill(struct connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->filled, BUFFER - c->filled, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) return -1;
    c->filled += got;
    c->buffer[c->filled] = 0;
    return 1;
}

/* Return where the head ends, and whether a length or chunks frame the body. */
static size_t read_head(struct connection *c, long *length, int *chunked) {
    char *end = strstr(c->buffer, "\r\n\r\n");
    if (!end) return 0;
    *end = 0;
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    *length = field ? atol(field + 17) : -1;
    *chunked = strcasestr(c->buffer, "\r\ntransfer-encoding: chunked") != NULL;
    *end = '\r';
    return end + 4 - c->buffer;
}

static int ends_in_last_chunk(struct connection *c, size_t head) {
    return c->filled >= head + 5 && !memcmp(c->buffer + c->filled - 5, "0\r\n\r\n", 5);
}

/* The upstream. */

static char json_answer[4096];
static size_t json_size;

static void make_json_answer(void) {
    char body[1401];
    memset(body, ' ', sizeof body);
    const char *start = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"choices\":[]";
    memcpy(body, start, strlen(start));
    body[1399] = '}';
    json_size = snprintf(json_answer, sizeof json_answer,
        "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\n"
        "Content-Type: application/json\r\nx-request-id: req_0123456789\r\n"
        "openai-organization: org-bench\r\nopenai-processing-ms: 7\r\n"
        "openai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
        "x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 9999\r\n"
        "x-ratelimit-remaining-tokens: 199000\r\nServer: bench\r\n"
        "Content-Length: 1400\r\n\r\n%.1400s", body);
}

static int asked(const char *line, const char *name) {
    const char *found = strstr(line, name);
    return found ? atoi(found + strlen(name)) : 0;
}

/* Do what is due on a connection; -1 if its peer is gone. */
static int serve_due(struct connection *c) {
    char event[512];
    if (!c->chunks) {
        c->busy = 0;
        return send_all(c, json_answer, json_size);
    }
    char data[256];
    int size = snprintf(data, sizeof data,
        "data: {\"sent\":\"T%lldT\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,"
        "\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n", (long long)now());
    int framed = snprintf(event, sizeof event, "%x\r\n%s\r\n%s", size, data,
        c->chunks == 1 ? "0\r\n\r\n" : "");
    c->due += c->gap * 1000000LL;
    if (--c->chunks == 0) c->busy = 0;
    return send_all(c, event, framed);
}

static int serve_requests(struct connection *c) {
    while (!c->busy && c->filled) {
        long length;
        int chunked;
        size_t head = read_head(c, &length, &chunked);
        if (!head) return 0;
        size_t end = head + (length > 0 ? length : 0);
        if (chunked) {
            if (!ends_in_last_chunk(c, head)) return 0;
            end = c->filled;
        }
        if (c->filled < end) return 0;
        char *line_end = strchr(c->buffer, '\r');
        *line_end = 0;
        c->chunks = asked(c->buffer, "chunks=");
        c->gap = asked(c->buffer, "gap=");
        c->due = now() + asked(c->buffer, "delay=") * 1000000LL;
        c->busy = 1;
        memmove(c->buffer, c->buffer + end, c->filled - end);
        c->filled -= end;
        c->buffer[c->filled] = 0;
        if (c->chunks) {
            const char *start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                "x-request-id: req_0123456789\r\nTransfer-Encoding: chunked\r\n\r\n";
            if (send_all(c, start, strlen(start))) return -1;
        }
        if (c->due <= now() && serve_due(c)) return -1;
    }
    return 0;
}

static void serve(int port) {
    make_json_answer();
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) fail("bind");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    int highest = listener;
    for (;;) {
        int64_t next = INT64_MAX, at = now();
        for (int fd = 0; fd <= highest; fd++) {
            struct connection *c = &connections[fd];
            if (c->buffer && c->fd == fd && c->busy) {
                while (c->busy && c->due <= at)
                    if (serve_due(c)) { drop(c); break; }
                if (c->fd == fd && !c->busy && serve_requests(c)) drop(c);
                if (c->busy && c->due < next) next = c->due;
            }
        }
        int wait_ms = next == INT64_MAX ? -1 : (int)((next - now() + 999999) / 1000000);
        int count = epoll_wait(poller, events, 256, wait_ms < -1 ? 0 : wait_ms);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int accepted = accept(listener, NULL, NULL);
                if (accepted < 0) continue;
                watch(accepted);
                if (accepted > highest) highest = accepted;
                continue;
            }
            struct connection *c = &connections[fd];
            int got = fill(c);
            if (got < 0 || (got > 0 && serve_requests(c))) drop(c);
        }
    }
}

/* The callers. */

struct samples {
    float *values;
    long count;
};

static void sample(struct samples *s, double value) {
    if (!s->values) s->values = malloc(sizeof(float) * MAX_SAMPLES);
    if (s->count < MAX_SAMPLES) s->values[s->count++] = value;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(struct samples *s, double q) {
    if (!s->count) return 0;
    qsort(s->values, s->count, sizeof(float), by_value);
    return s->values[(long)(q * (s->count - 1))];
}

static struct sockaddr_in proxy_address;
static char *request;
static size_t request_size;
static struct samples latencies, delays;
static long answered, errors;

static struct connection *dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&proxy_address, sizeof proxy_address)) fail("connect");
    return watch(fd);
}

static void call(struct connection *c, int64_t due) {
    c->busy = 1;
    c->due = due;
    c->status = 0;
    c->filled = c->head = c->scanned = 0;
    if (send_all(c, request, request_size)) {
        errors++;
        c->busy = 0;
    }
}

/* Note the delay of each event that came. */
static void scan_events(struct connection *c, int64_t at) {
    char *found;
    while ((found = strstr(c->buffer + c->scanned, "\"T")) && strchr(found + 2, 'T')) {
        sample(&delays, (at - atoll(found + 2)) / 1e3);
        c->scanned = strchr(found + 2, 'T') + 1 - c->buffer;
    }
}

/* Take what came; tell whether the answer is whole. */
static int take(struct connection *c, int64_t at) {
    if (!c->head) {
        long length;
        c->head = read_head(c, &length, &c->chunked);
        if (!c->head) return 0;
        c->status = atoi(c->buffer + 9);
        c->wanted = c->head + (length > 0 ? length : 0);
        c->scanned = c->head;
    }
    if (!c->chunked) return c->filled >= c->wanted;
    scan_events(c, at);
    int whole = ends_in_last_chunk(c, c->head);
    if (!whole && c->filled > BUFFER / 2) {
        size_t kept = c->filled - c->scanned;
        memmove(c->buffer + c->head, c->buffer + c->scanned, kept);
        c->filled = c->head + kept;
        c->scanned = c->head;
        c->buffer[c->filled] = 0;
    }
    return whole;
}

static void make_request(const char *target, int port, int body) {
    request = malloc(body + 4096);
    request_size = sprintf(request,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\n"
        "X-Stainless-Package-Version: 3.54.0\r\nX-Stainless-OS: Linux\r\n"
        "X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.7\r\nX-Stainless-Async: false\r\n"
        "x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
        "Authorization: Bearer sk-bench-0123456789abcdef\r\nContent-Length: %d\r\n\r\n",
        target, port, body);
    memset(request + request_size, ' ', body);
    memcpy(request + request_size, "{\"model\":\"m\",\"messages\":[", 25);
    memcpy(request + request_size + body - 2, "]}", 2);
    request_size += body;
}

static void load(int port, double warm_seconds, double seconds, int callers, double rate) {
    proxy_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int *fds = malloc(sizeof(int) * callers);
    for (int i = 0; i < callers; i++) fds[i] = dial()->fd;
    int64_t start = now(), next = start, warm = start + warm_seconds * 1e9;
    int64_t end = INT64_MAX;
    for (int i = 0; rate == 0 && i < callers; i++) call(&connections[fds[i]], start);
    struct epoll_event events[256];
    int turn = 0;
    long sent = 0;
    for (;;) {
        int64_t at = now();
        /* On a machine that is busy elsewhere a short measurement waits for its first answer. */
        if (at > end && (answered || at > end + ANSWER_SECONDS * 1000000000LL)) break;
        if (warm && at >= warm) {
            answered = errors = latencies.count = delays.count = 0;
            warm = 0;
            end = at + seconds * 1e9;
            puts("warm");
            fflush(stdout);
        }
        while (rate > 0 && next <= at) {
            int tried = 0;
            while (tried < callers && connections[fds[turn]].busy) {
                turn = (turn + 1) % callers;
                tried++;
            }
            if (tried == callers) break; /* late calls keep their due time */
            call(&connections[fds[turn]], next);
            next = start + (int64_t)(++sent * (1e9 / rate));
        }
        int64_t until = rate > 0 && next < end && next > at ? next : end;
        struct timespec wait = {.tv_sec = 0, .tv_nsec = until - at};
        if (wait.tv_nsec < 0 || wait.tv_nsec > 50000000) wait.tv_nsec = 50000000;
        int count = epoll_pwait2(poller, events, 256, &wait, NULL);
        for (int i = 0; i < count; i++) {
            struct connection *c = &connections[events[i].data.fd];
            int slot = 0;
            int got = fill(c);
            at = now();
            if (got < 0) {
                if (c->busy) errors++;
                while (fds[slot] != c->fd) slot++;
                drop(c);
                fds[slot] = dial()->fd;
                if (rate == 0) call(&connections[fds[slot]], at);
            } else if (got > 0 && c->busy && take(c, at)) {
                if (c->status != 200) errors++;
                sample(&latencies, (at - c->due) / 1e3);
                answered++;
                c->busy = 0;
                if (rate == 0) call(c, at);
            }
        }
    }
    printf("{\"answered\": %ld, \"errors\": %ld, \"seconds\": %.6f, \"latency_p50_us\": %.1f, "
        "\"latency_p99_us\": %.1f, \"chunks\": %ld, \"delay_p50_us\": %.1f, \"delay_p99_us\": %.1f}\n",
        answered, errors, (now() - end) / 1e9 + seconds, quantile(&latencies, 0.5),
        quantile(&latencies, 0.99), delays.count, quantile(&delays, 0.5), quantile(&delays, 0.99));
}

int main(int count, char **arguments) {
    poller = epoll_create1(0);
    if (count == 3 && !strcmp(arguments[1], "serve")) {
        serve(atoi(arguments[2]));
    } else if (count == 9 && !strcmp(arguments[1], "load")) {
        int port = atoi(arguments[2]);
        make_request(arguments[3], port, atoi(arguments[8]));
        load(port, atof(arguments[4]), atof(arguments[5]), atoi(arguments[6]), atof(arguments[7]));
    } else {
        fprintf(stderr, "usage: peer serve PORT | load PORT TARGET WARM SECONDS CALLERS RATE BODY\n");
        return 2;
    }
    return 0;
}
