/* SPDX-License-Identifier: Apache-2.0 */
/* The zygote: holds the loaded plug-ins, forks children when the master asks, tells how they ended.
 *
 * One thread, no event loop: ppoll on the master's socket and a signalfd for SIGCHLD. It never runs a task. It ends
 * when the socket closes, and its children with it (PR_SET_PDEATHSIG); the kernel does the same to the zygote when the
 * master dies, and whoever was forked too late to see that finds a wrong parent and leaves.
 *
 * Signals to a child go through here, because only the parent knows that a pid is still that child. SIGTERM, SIGINT,
 * SIGQUIT and SIGHUP are ignored by zygote and children: a terminal or a service manager sends them to every process
 * of the worker, and it is the master that decides what becomes of running tasks. When the master asks for one of
 * them, SIGKILL is sent and the death is reported with the signal that was asked for. */

#include "celeryc/pool/pool.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/base/num.h"
#include "celeryc/pool/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MASTER_FD 3
#define MAX_FDS   8

struct kid {
    uint64_t id;
    pid_t pid;
    int asked_signal; /* reported instead of SIGKILL */
};

struct zygote {
    struct task_registry *registry;
    struct task_settings settings;
    bool has_settings;
    int signal_fd;
    struct buf in;
    int fds[MAX_FDS]; /* passed by the master, in order */
    size_t n_fds;
    struct kid *kids;
    size_t n_kids, cap_kids;
    uint64_t oom_kills; /* of the cgroup, when last read */
    char *node, *default_queue;
    char *wire_texts[8];
    struct wire *wire;
};

static void __attribute__((noreturn)) die(const char *why)
{
    (void)fprintf(stderr, "celeryc zygote: %s\n", why);
    _exit(70);
}

/* ---- life ---- */

static void ignore_group_signals(void)
{
    static const int ignored[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGPIPE};
    for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
        (void)signal(ignored[i], SIG_IGN);
}

/* The socket pair was made by the master, so its peer credentials name it, whatever became of it since. */
static void bind_to_master(void)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(MASTER_FD, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        die("this program is started by the worker, not by hand");
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != peer.pid)
        _exit(0);
}

void pool_zygote_init(void)
{
    bind_to_master();
    ignore_group_signals();
    /* What tasks leave behind is ours to reap, also when the master is PID 1. */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    (void)close_range(MASTER_FD + 1, ~0u, 0);
    if (fcntl(MASTER_FD, F_SETFD, FD_CLOEXEC) < 0)
        die("no socket to the master");
    (void)prctl(PR_SET_NAME, "celeryc-zygote");
}

/* ---- talking to the master ---- */

static void send_all(const struct buf *b)
{
    if (buf_ok(b) < 0)
        die("out of memory");
    for (size_t at = 0; at < b->len;) {
        ssize_t n = send(MASTER_FD, b->data + at, b->len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(0);
        at += (size_t)n;
    }
}

static void send_two(enum frame_type type, uint64_t id, uint32_t a, uint32_t b)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    size_t at = frame_begin(&out, type, id);
    buf_append_u32le(&out, a);
    buf_append_u32le(&out, b);
    frame_end(&out, at);
    send_all(&out);
}

static void send_table(const struct task_registry *registry, const char *error)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    size_t at = frame_begin(&out, error ? FRAME_ERROR : FRAME_TABLE, 0);
    if (error)
        buf_append_str(&out, error);
    else if (task_registry_encode(registry, &out) < 0)
        die("out of memory for the task table");
    frame_end(&out, at);
    send_all(&out);
}

/* ---- out of memory? ---- */

static size_t read_file(const char *path, char *dst, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, dst, size - 1);
    (void)close(fd);
    dst[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

/* "oom_kill 3" in the events file of our own cgroup; 0 when there is none to read. */
static uint64_t count_oom_kills(void)
{
    char self[4096], path[4352], events[1024];
    uint64_t n = 0;
    if (read_file("/proc/self/cgroup", self, sizeof self) == 0)
        return 0;
    char *line = strstr(self, "0::/");
    size_t len = line ? strcspn(line + 3, "\n") : 0;
    (void)snprintf(path, sizeof path, "/sys/fs/cgroup%.*s/memory.events", (int)len,
                   line ? line + 3 : "");
    if (read_file(path, events, sizeof events) == 0 &&
        read_file("/sys/fs/cgroup/memory.events", events, sizeof events) == 0 &&
        read_file("/sys/fs/cgroup/memory/memory.oom_control", events, sizeof events) == 0)
        return 0;
    char *at = strstr(events, "oom_kill ");
    if (!at)
        return 0;
    at += strlen("oom_kill ");
    return num_parse_u64((struct slice){at, strcspn(at, "\n")}, &n) < 0 ? 0 : n;
}

/* ---- children ---- */

static void reap(struct zygote *z)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        size_t i = 0;
        while (i < z->n_kids && z->kids[i].pid != pid)
            i++;
        if (i == z->n_kids)
            continue; /* a process that a plug-in started when it was loaded, or that a task left behind */
        struct kid kid = z->kids[i];
        z->kids[i] = z->kids[--z->n_kids];
        bool oom = false;
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
            uint64_t kills = count_oom_kills();
            oom = kills > z->oom_kills && !kid.asked_signal;
            z->oom_kills = kills;
            if (kid.asked_signal)
                status = kid.asked_signal;
        }
        send_two(FRAME_EXITED, kid.id, (uint32_t)status, oom);
    }
}

static void __attribute__((noreturn))
become_child(struct zygote *z, uint64_t id, const char *process, uint32_t threads, const int fds[2],
             pid_t zygote_pid)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != zygote_pid)
        _exit(0);
    (void)close(MASTER_FD);
    (void)close(z->signal_fd);
    (void)prctl(PR_SET_NAME, "celeryc-child");
    sigset_t none;
    (void)sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    int arenas = threads == 1 ? 1 : 4;
    (void)mallopt(M_ARENA_MAX, arenas); /* NOLINT(concurrency-mt-unsafe): one thread */
    log_set_process(process);
    child_main(&(struct child_options){
        .fd = fds[0],
        .page_fd = fds[1],
        .id = id,
        .threads = threads,
        .registry = z->registry,
        .settings = &z->settings,
    });
}

static void spawn(struct zygote *z, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    struct slice process = cursor_slice(&c);
    uint32_t threads = cursor_u32(&c);
    if (c.bad || threads < 1 || threads > LIMIT_THREADS || z->n_fds < 2 || !z->has_settings)
        die("a broken order to fork");
    int fds[2] = {z->fds[0], z->fds[1]};
    z->n_fds -= 2;
    memmove(z->fds, z->fds + 2, z->n_fds * sizeof *z->fds);
    if (z->n_kids == z->cap_kids) {
        size_t cap = z->cap_kids ? z->cap_kids * 2 : 16;
        struct kid *grown = reallocarray(z->kids, cap, sizeof *grown);
        if (!grown)
            die("out of memory");
        z->kids = grown;
        z->cap_kids = cap;
    }
    CLEANUP(mem_free) char *name = slice_dup(process);
    pid_t self = getpid();
    pid_t pid = name ? fork() : -1;
    int error = pid < 0 ? errno : 0;
    if (pid == 0)
        become_child(z, f->id, name, threads, fds, self);
    (void)close(fds[0]);
    (void)close(fds[1]);
    if (pid > 0)
        z->kids[z->n_kids++] = (struct kid){f->id, pid, 0};
    send_two(FRAME_SPAWNED, f->id, pid > 0 ? (uint32_t)pid : 0, (uint32_t)error);
}

static void signal_kid(struct zygote *z, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    int sig = (int)cursor_u32(&c);
    bool asked = cursor_u32(&c) != 0;
    for (size_t i = 0; i < z->n_kids && !c.bad; i++) {
        if (z->kids[i].id != f->id)
            continue;
        bool ignored = sig == SIGTERM || sig == SIGINT || sig == SIGQUIT || sig == SIGHUP;
        if (asked && !z->kids[i].asked_signal && (ignored || sig == SIGKILL))
            z->kids[i].asked_signal = sig;
        (void)kill(z->kids[i].pid, ignored ? SIGKILL : sig);
        return;
    }
}

/* ---- orders ---- */

/* Keys are read here once: children inherit what was made of them. */
static void take_wire(struct zygote *z, struct cursor *c)
{
    struct err e = ERR_INIT;
    char **t = z->wire_texts;
    for (size_t i = 0; i < ARRAY_SIZE(z->wire_texts); i++) {
        struct slice s = cursor_slice(c);
        if (s.p && !(t[i] = slice_dup(s)))
            die("out of memory");
    }
    if (c->bad)
        die("broken settings");
    z->settings.wire_options =
        (struct wire_options){t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]};
    int rc = wire_new(&z->settings.wire_options, &z->wire, &e);
    if (rc)
        die(err_text(&e, rc));
    z->settings.wire = z->wire;
}

static void take_settings(struct zygote *z, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    struct slice node = cursor_slice(&c), queue = cursor_slice(&c);
    uint8_t flags = cursor_u8(&c);
    double hard = cursor_f64(&c), soft = cursor_f64(&c);
    uint32_t priority = cursor_u32(&c);
    if (c.bad || z->has_settings)
        die("broken settings");
    z->node = slice_dup(node);
    z->default_queue = slice_dup(queue);
    if (!z->node || !z->default_queue)
        die("out of memory");
    z->settings = (struct task_settings){
        .node = z->node,
        .default_queue = z->default_queue,
        .result_extended = flags & 1,
        .ignore_result = flags & 2,
        .store_errors_even_if_ignored = flags & 4,
        .track_started = flags & 8,
        .inherit_parent_priority = flags & 16,
        .header_errbacks = flags & 32,
        .default_priority = (int)priority,
        .time_limit = hard,
        .soft_time_limit = soft,
    };
    take_wire(z, &c);
    z->has_settings = true;
}

static void obey(struct zygote *z)
{
    struct frame f;
    size_t size, at = 0;
    int rc;
    while ((rc = frame_parse((struct slice){z->in.data + at, z->in.len - at}, &f, &size)) == 0) {
        if (f.type == FRAME_SETTINGS)
            take_settings(z, &f);
        else if (f.type == FRAME_SPAWN)
            spawn(z, &f);
        else if (f.type == FRAME_SIGNAL)
            signal_kid(z, &f);
        at += size;
    }
    if (rc < 0)
        die("the master speaks another protocol");
    buf_consume(&z->in, at);
}

static void receive(struct zygote *z)
{
    char bytes[4096];

    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    ssize_t n = recvmsg(MASTER_FD, &msg, MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0)
        _exit(0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (z->n_fds + count > MAX_FDS)
            die("too many descriptors");
        memcpy(z->fds + z->n_fds, CMSG_DATA(c), count * sizeof(int));
        z->n_fds += count;
    }
    buf_append(&z->in, bytes, (size_t)n);
    if (buf_ok(&z->in) < 0)
        die("out of memory");
    obey(z);
}

static void drain_signals(const struct zygote *z)
{
    struct signalfd_siginfo info[16];
    while (read(z->signal_fd, info, sizeof info) > 0)
        ;
}

void pool_zygote_main(struct task_registry *registry, const char *table_error)
{
    struct zygote z = {.registry = registry};
    bind_to_master();
    ignore_group_signals();
    /* Children inherit these: no growing thresholds, freed memory goes back. */
    (void)mallopt(M_MMAP_THRESHOLD, 128 << 10); /* NOLINT(concurrency-mt-unsafe): one thread */
    (void)mallopt(M_TRIM_THRESHOLD, 128 << 10); /* NOLINT(concurrency-mt-unsafe): one thread */
    (void)mallopt(M_TOP_PAD, 16 << 10);         /* NOLINT(concurrency-mt-unsafe): one thread */
    sigset_t chld;
    (void)sigemptyset(&chld);
    (void)sigaddset(&chld, SIGCHLD);
    (void)pthread_sigmask(SIG_BLOCK, &chld, NULL);
    z.signal_fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
    if (z.signal_fd < 0)
        die("no signalfd");
    send_table(registry, table_error);
    z.oom_kills = count_oom_kills();
    (void)malloc_trim(0);
    for (;;) {
        struct pollfd fds[] = {{MASTER_FD, POLLIN, 0}, {z.signal_fd, POLLIN, 0}};
        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
            die("poll failed");
        if (fds[1].revents)
            drain_signals(&z);
        reap(&z);
        if (fds[0].revents)
            receive(&z);
    }
}
