/* SPDX-License-Identifier: Apache-2.0 */
/* The pool with a real zygote and real children: this program is its own zygote (`test_pool zygote PLUGIN`), and forks
 * a process for each case, because a case ends with a dead pool. No Criterion: it would be forked along.
 *
 *     test_pool PLUGIN            all cases, TAP on standard output
 *     test_pool PLUGIN CASE       one case, in this process
 *     test_pool PLUGIN bench N C  N tiny jobs on C children, prints jobs per second */

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/message/message.h"
#include "celeryc/pool/pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLINE_MS 60000
#define MAX_JOBS    20000

/* What became of a job. */
enum end {
    OPEN,
    DONE,
    LOST,
    RECALLED,
};

struct seen {
    enum end end;
    enum outcome_kind kind;
    bool started;
    int pid;
    bool oom;
    int n_states, n_sends, n_applied;
    char text[64];
    char repr[64];
};

struct test {
    uv_loop_t loop;
    uv_timer_t deadline;
    struct pool *pool;
    struct seen *jobs; /* by id */
    size_t n_open, n_done, n_lost, n_recalled, n_started;
    bool ready, stopped, fatal;
    int fatal_code;
    char fatal_text[512];
    size_t n_tasks;
    bool resubmit; /* recalled jobs go back at once */
    struct slice raw[MAX_JOBS];
    char *messages[16]; /* to be freed */
    size_t n_messages;
    char dir[64];
};

static const char *plugin;
static struct test *t; /* one case per process */

#define CHECK(cond)                                                                 \
    do {                                                                            \
        if (!(cond)) {                                                              \
            (void)printf("# %s:%d: %s does not hold\n", __FILE__, __LINE__, #cond); \
            (void)fflush(stdout);                                                   \
            cleanup();                                                              \
            _exit(1);                                                               \
        }                                                                           \
    } while (0)

static void cleanup(void)
{
    if (t && t->dir[0]) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s/go", t->dir);
        (void)unlink(path);
        (void)rmdir(t->dir);
    }
}

/* ---- events ---- */

static void on_ready(const struct task_registry *table, void *arg)
{
    t->ready = true;
    t->n_tasks = task_registry_len(table);
}

static void on_started(uint64_t job, int pid, const char *process, void *arg)
{
    CHECK(!t->jobs[job].started && t->jobs[job].end == OPEN);
    t->jobs[job].started = true;
    t->jobs[job].pid = pid;
    t->n_started++;
}

static void on_state(uint64_t job, struct slice record, void *arg)
{
    CHECK(t->jobs[job].end == OPEN && record.len > 0);
    t->jobs[job].n_states++;
}

static void on_send(uint64_t job, const struct outcome_message *m, void *arg)
{
    CHECK(t->jobs[job].end == OPEN && m->raw.len > 0 && slice_eq_str(m->queue, "celery"));
    t->jobs[job].n_sends++;
}

static void on_apply(uint64_t job, const struct outcome *o, void *arg)
{
    CHECK(t->jobs[job].end == OPEN && o->n_messages == 2 && o->n_starts == 1);
    CHECK(slice_eq_str(o->messages[1].queue, "celery"));
    t->jobs[job].n_applied++;
}

static struct seen *end_job(uint64_t job, enum end end)
{
    struct seen *s = &t->jobs[job];
    CHECK(s->end == OPEN); /* never twice */
    s->end = end;
    t->n_open--;
    return s;
}

static void on_done(uint64_t job, const struct outcome *o, int pid, const char *process, void *arg)
{
    struct seen *s = end_job(job, DONE);
    CHECK(s->started);
    s->kind = o->kind;
    s->pid = pid;
    (void)snprintf(s->repr, sizeof s->repr, "%.*s", (int)MIN(o->repr.len, sizeof s->repr - 1),
                   o->repr.p ? o->repr.p : "");
    t->n_done++;
}

static void on_lost(uint64_t job, int pid, const char *text, bool oom, void *arg)
{
    struct seen *s = end_job(job, LOST);
    (void)snprintf(s->text, sizeof s->text, "%s", text);
    s->pid = pid;
    s->oom = oom;
    t->n_lost++;
}

static void on_recalled(uint64_t job, void *arg)
{
    CHECK(t->jobs[job].end == OPEN);
    CHECK(!t->jobs[job].started);
    t->n_recalled++;
    if (t->resubmit)
        pool_submit(t->pool, job, SLICE_LIT("celery"), t->raw[job]);
    else
        (void)end_job(job, RECALLED);
}

static void on_fatal(const char *reason, int exit_code, void *arg)
{
    CHECK(!t->fatal);
    t->fatal = true;
    t->fatal_code = exit_code;
    (void)snprintf(t->fatal_text, sizeof t->fatal_text, "%s", reason);
}

static void on_stopped(void *arg)
{
    t->stopped = true;
}

/* ---- driving ---- */

static void on_deadline(uv_timer_t *h)
{
    (void)printf("# deadline: %zu open, %zu done, %zu lost, %zu recalled, ready %d\n", t->n_open,
                 t->n_done, t->n_lost, t->n_recalled, t->ready);
    CHECK(!"in time");
}

#define RUN_UNTIL(cond)                          \
    do {                                         \
        while (!(cond))                          \
            (void)uv_run(&t->loop, UV_RUN_ONCE); \
    } while (0)

static const struct task_settings settings = {.node = "test@host", .default_queue = "celery"};

static void open_pool(struct pool_options o, const char *so)
{
    static const char *argv[3];
    static const struct pool_events events = {on_ready, on_started, on_state,    on_send, on_apply,
                                              on_done,  on_lost,    on_recalled, NULL,    on_fatal};
    struct err e = ERR_INIT;
    t = calloc(1, sizeof *t);
    t->jobs = calloc(MAX_JOBS, sizeof *t->jobs);
    argv[0] = "zygote";
    argv[1] = so;
    o.program = "/proc/self/exe";
    o.zygote_argv = argv;
    o.settings = &settings;
    (void)uv_loop_init(&t->loop);
    (void)uv_timer_init(&t->loop, &t->deadline);
    (void)uv_timer_start(&t->deadline, on_deadline, DEADLINE_MS, 0);
    (void)snprintf(t->dir, sizeof t->dir, "/tmp/pool-test-XXXXXX");
    CHECK(mkdtemp(t->dir) != NULL);
    t->pool = pool_new(&t->loop, &o, &events, NULL);
    CHECK(t->pool && pool_start(t->pool, &e) == 0);
}

static void start(enum pool_kind kind, size_t concurrency)
{
    open_pool((struct pool_options){.kind = kind, .concurrency = concurrency}, plugin);
    RUN_UNTIL(t->ready || t->fatal);
    CHECK(t->ready);
}

static struct slice message(const char *task, const char *args)
{
    struct buf b = BUF_INIT;
    struct message_new n = {.task = slice_str(task),
                            .id = SLICE_LIT("00000000-0000-4000-8000-000000000001"),
                            .args = slice_str(args),
                            .queue = SLICE_LIT("celery"),
                            .ignore_result = TRI_UNSET};
    CHECK(message_write_new(&b, &n) == 0 && t->n_messages < ARRAY_SIZE(t->messages));
    t->messages[t->n_messages++] = b.data;
    return buf_slice(&b);
}

static void submit(uint64_t job, struct slice raw)
{
    t->raw[job] = raw;
    t->n_open++;
    pool_submit(t->pool, job, SLICE_LIT("celery"), raw);
}

static void path_args(char *dst, size_t size)
{
    (void)snprintf(dst, size, "[\"%s/go\"]", t->dir);
}

static void go(void)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/go", t->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    (void)close(fd);
}

static void close_all(void)
{
    pool_free(t->pool);
    uv_close((uv_handle_t *)&t->deadline, NULL);
    (void)uv_run(&t->loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&t->loop) == 0);
    cleanup();
    free(t->jobs);
    for (size_t i = 0; i < t->n_messages; i++)
        free(t->messages[i]);
    free(t);
    t = NULL;
}

static void stop_pool(void)
{
    pool_stop(t->pool, on_stopped, NULL);
    RUN_UNTIL(t->stopped);
    int pids[16];
    CHECK(pool_pids(t->pool, pids, 16) == 0);
    close_all();
}

static void drive(size_t n, struct slice raw)
{
    size_t next = 0;
    t->resubmit = true; /* on a busy machine a child may stand still, and what it holds moves on */
    while (t->n_done + t->n_lost < n) {
        for (size_t room = pool_room(t->pool); room > 0 && next < n; room--) {
            t->jobs[next] = (struct seen){0};
            submit(next++, raw);
        }
        (void)uv_run(&t->loop, UV_RUN_ONCE);
    }
}

/* ---- cases ---- */

static void case_many(void)
{
    start(POOL_PREFORK, 2);
    CHECK(t->n_tasks > 5);
    CHECK(pool_slots(t->pool) == 2 && pool_room(t->pool) == 2 && pool_free_slots(t->pool) == 2);
    struct slice raw = message("t.echo", "[{\"a\": [1, 2.50, null]}]");
    drive(10000, raw);
    CHECK(t->n_done == 10000 && t->n_lost == 0 && t->n_open == 0);
    CHECK(strcmp(t->jobs[9999].repr, "{'a': [1, 2.5, None]}") == 0);
    CHECK(pool_room(t->pool) > 20); /* read-ahead has grown */
    stop_pool();
}

static void case_threads(void)
{
    start(POOL_THREADS, 4);
    int pids[4];
    CHECK(pool_pids(t->pool, pids, 4) == 1 && pool_slots(t->pool) == 4);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args), echo = message("t.echo", "[1]");
    for (uint64_t i = 0; i < 3; i++)
        submit(i, hold);
    RUN_UNTIL(t->n_started == 3);
    for (uint64_t i = 3; i < 203; i++) { /* all by the fourth thread */
        submit(i, echo);
        RUN_UNTIL(t->jobs[i].end == DONE);
        CHECK(t->jobs[i].pid == pids[0]);
    }
    CHECK(t->n_done == 200);
    go();
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->n_done == 203);
    stop_pool();
}

static void case_solo(void)
{
    start(POOL_SOLO, 8);
    CHECK(pool_slots(t->pool) == 1);
    submit(0, message("t.big", "[3000000]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[0].kind == OUTCOME_SUCCESS);
    size_t size = 8u << 20; /* a message that arrives in pieces */
    char *args = malloc(size);
    CHECK(args);
    memset(args, 'y', size);
    memcpy(args, "[\"", 2);
    memcpy(args + size - 3, "\"]", 3);
    submit(1, message("t.echo", args));
    free(args);
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[1].kind == OUTCOME_SUCCESS && strncmp(t->jobs[1].repr, "'yyy", 4) == 0);
    stop_pool();
}

/* A crash costs the running job alone: what was finished before is reported, what was behind comes back. */
static void case_crash(void)
{
    open_pool((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1, .read_ahead = 40},
              plugin);
    RUN_UNTIL(t->ready);
    struct slice echo = message("t.echo", "[1]");
    submit(0, echo);
    RUN_UNTIL(t->n_done == 1); /* from now on, 40 may be sent ahead */
    CHECK(pool_room(t->pool) == 41);
    for (uint64_t i = 1; i <= 10; i++)
        submit(i, echo);
    submit(11, message("t.die", "[9]"));
    for (uint64_t i = 12; i <= 30; i++)
        submit(i, echo);
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->n_done == 11 && t->n_lost == 1 && t->n_recalled == 19);
    CHECK(t->jobs[11].end == LOST && strcmp(t->jobs[11].text, "signal 9 (SIGKILL)") == 0);
    CHECK(!t->jobs[11].oom && t->jobs[11].started);
    RUN_UNTIL(pool_room(t->pool) > 0); /* a new child */
    submit(31, message("t.leave", "[7]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[31].text, "exitcode 7") == 0);
    RUN_UNTIL(pool_room(t->pool) > 0);
    submit(32, message("t.die", "[14]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[32].text, "signal 14 (SIGALRM)") == 0);
    RUN_UNTIL(pool_room(t->pool) > 0);
    submit(33, echo);
    RUN_UNTIL(t->jobs[33].end == DONE);
    CHECK(!t->fatal);
    stop_pool();
}

/* Children are killed from outside while thousands of jobs pass: each job has one end, and no kill costs more than what
 * ran in that child. */
static void case_chaos(void)
{
    start(POOL_PREFORK, 3);
    struct slice raw = message("t.echo", "[1]");
    size_t next = 0, kills = 0;
    t->resubmit = true;
    while (t->n_done + t->n_lost < 15000) {
        for (size_t room = pool_room(t->pool); room > 0 && next < 15000; room--)
            submit(next++, raw);
        (void)uv_run(&t->loop, UV_RUN_ONCE);
        int pids[3];
        size_t n = pool_pids(t->pool, pids, 3);
        if (n > 0 && kills < 40 && t->n_done > (kills + 1) * 300) {
            (void)kill(pids[kills % n],
                       SIGKILL); /* a zombie at worst: the zygote reaps it, then we hear */
            kills++;
        }
    }
    CHECK(t->n_open == 0 && kills == 40 && t->n_lost <= kills && !t->fatal);
    for (size_t i = 0; i < 15000; i++)
        CHECK(t->jobs[i].end == DONE || t->jobs[i].end == LOST);
    stop_pool();
}

/* Jobs behind a long one move to the child that is free. */
static void case_recall(void)
{
    open_pool((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2, .read_ahead = 10},
              plugin);
    RUN_UNTIL(t->ready);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args), echo = message("t.echo", "[1]");
    submit(0, echo);
    submit(1, echo);
    RUN_UNTIL(t->n_open == 0);
    t->resubmit = true;
    submit(2, hold);
    for (uint64_t i = 3; i < 15; i++)
        submit(i, echo); /* half of them behind the long one */
    RUN_UNTIL(t->n_open == 1);
    CHECK(t->jobs[2].end == OPEN && t->n_done == 14 && t->n_recalled >= 1);
    for (uint64_t i = 15; i < 20; i++)
        submit(i, hold); /* both are busy: nothing moves on its own */
    t->resubmit = false;
    RUN_UNTIL(t->jobs[15].started);
    size_t before = t->n_recalled;
    pool_recall(t->pool);
    RUN_UNTIL(t->n_recalled == before + 4);
    go();
    RUN_UNTIL(t->n_open == 0);
    stop_pool();
}

static void case_soft_stop(void)
{
    start(POOL_PREFORK, 2);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args);
    submit(0, hold);
    submit(1, hold);
    RUN_UNTIL(t->n_started == 2);
    pool_soft_stop(t->pool, 1);
    pool_soft_stop(t->pool, 99);
    RUN_UNTIL(t->n_done == 1);
    CHECK(t->jobs[1].end == DONE && strcmp(t->jobs[1].repr, "'stopped'") == 0);
    submit(2, hold); /* the mark does not stay */
    RUN_UNTIL(t->n_started == 3);
    go();
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[0].repr, "'seen'") == 0 && strcmp(t->jobs[2].repr, "'seen'") == 0);
    stop_pool();
}

static void case_kill(void)
{
    start(POOL_PREFORK, 2);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args);
    submit(0, hold);
    submit(1, hold);
    RUN_UNTIL(t->n_started == 2);
    pool_kill(t->pool, 0, SIGKILL);
    pool_kill(t->pool, 1, SIGTERM);
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[0].text, "signal 9 (SIGKILL)") == 0);
    CHECK(strcmp(t->jobs[1].text, "signal 15 (SIGTERM)") == 0);
    RUN_UNTIL(pool_room(t->pool) == 2);
    submit(2, hold);
    RUN_UNTIL(t->jobs[2].started);
    pool_kill(t->pool, 2, SIGUSR1);
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[2].text, "signal 10 (SIGUSR1)") == 0);
    pool_kill(t->pool, 2, SIGKILL); /* nobody runs it any more: nothing happens */
    stop_pool();
}

/* Signals to the whole group touch neither zygote nor children. */
static void case_group_signals(void)
{
    start(POOL_PREFORK, 1);
    char args[128];
    path_args(args, sizeof args);
    submit(0, message("t.wait", args));
    RUN_UNTIL(t->n_started == 1);
    static const int group[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
    for (size_t i = 0; i < ARRAY_SIZE(group); i++)
        CHECK(kill(t->jobs[0].pid, group[i]) == 0);
    go();
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[0].end == DONE);
    stop_pool();
}

static void case_on_the_way(void)
{
    start(POOL_PREFORK, 1);
    submit(0, message("t.progress", "[]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[0].n_states == 1 && t->jobs[0].n_sends == 1 && t->jobs[0].n_applied == 1);
    CHECK(t->jobs[0].kind == OUTCOME_SUCCESS);
    stop_pool();
}

/* A stop lets running jobs end and gives back the rest. */
static void case_stop(void)
{
    open_pool((struct pool_options){.kind = POOL_PREFORK, .concurrency = 1, .read_ahead = 10},
              plugin);
    RUN_UNTIL(t->ready);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args);
    submit(0, message("t.echo", "[1]"));
    RUN_UNTIL(t->n_open == 0);
    for (uint64_t i = 1; i < 5; i++)
        submit(i, hold);
    RUN_UNTIL(t->jobs[1].started);
    pool_stop(t->pool, on_stopped, NULL);
    RUN_UNTIL(t->n_recalled == 3);
    CHECK(pool_room(t->pool) == 0 && !t->stopped);
    go();
    RUN_UNTIL(t->stopped);
    CHECK(t->jobs[1].end == DONE && t->n_lost == 0);
    close_all();
}

static void case_max_tasks(void)
{
    open_pool(
        (struct pool_options){.kind = POOL_PREFORK, .concurrency = 1, .max_tasks_per_child = 3},
        plugin);
    RUN_UNTIL(t->ready);
    struct slice pid = message("t.pid", "[]");
    for (uint64_t i = 0; i < 9; i++) {
        RUN_UNTIL(pool_room(t->pool) > 0);
        submit(i, pid);
        RUN_UNTIL(t->n_open == 0);
    }
    for (uint64_t i = 0; i < 9; i++)
        CHECK((t->jobs[i].pid == t->jobs[i / 3 * 3].pid) && t->jobs[i].end == DONE);
    CHECK(t->jobs[0].pid != t->jobs[3].pid && t->jobs[3].pid != t->jobs[6].pid);
    stop_pool();
}

static void case_hostile(void)
{
    start(POOL_PREFORK, 1);
    static const char *const garbage[] = {"", "{", "null", "{\"headers\": {\"task\": 1}}",
                                          "\xff\xfe"};
    for (uint64_t i = 0; i < ARRAY_SIZE(garbage); i++) {
        submit(i, slice_str(garbage[i]));
        RUN_UNTIL(t->n_open == 0);
        CHECK(t->jobs[i].kind == OUTCOME_FAILURE);
    }
    submit(9, message("no.such.task", "[]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(strcmp(t->jobs[9].repr, "NotRegistered('no.such.task')") == 0);
    stop_pool();
}

/* A child that no longer makes sense is killed; the others go on. */
static void case_garbage(void)
{
    start(POOL_PREFORK, 1);
    submit(0, message("t.garbage", "[]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[0].end == LOST && strcmp(t->jobs[0].text, "signal 9 (SIGKILL)") == 0);
    RUN_UNTIL(pool_room(t->pool) > 0);
    submit(1, message("t.echo", "[1]"));
    RUN_UNTIL(t->n_open == 0);
    CHECK(t->jobs[1].end == DONE && !t->fatal);
    stop_pool();
}

static void case_no_plugin(void)
{
    open_pool((struct pool_options){.kind = POOL_PREFORK, .concurrency = 2},
              "/nonexistent/tasks.so");
    RUN_UNTIL(t->fatal);
    CHECK(strstr(t->fatal_text, "/nonexistent/tasks.so") && strstr(t->fatal_text, "not found"));
    CHECK(t->fatal_code == 1 && !t->ready);
    stop_pool();
}

/* The end of the zygote ends its children; every job is accounted for. */
static void case_zygote_dies(void)
{
    start(POOL_PREFORK, 2);
    char args[128];
    path_args(args, sizeof args);
    struct slice hold = message("t.wait", args);
    submit(0, hold);
    submit(1, hold);
    RUN_UNTIL(t->n_started == 2);
    char path[64], text[256] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/stat", t->jobs[0].pid);
    FILE *f = fopen(path, "re");
    CHECK(f && fgets(text, sizeof text, f));
    (void)fclose(f);
    int zygote = 0;
    CHECK(sscanf(strrchr(text, ')'), ") %*c %d", &zygote) == 1 && zygote > 1);
    CHECK(kill(zygote, SIGKILL) == 0);
    RUN_UNTIL(t->fatal);
    CHECK(t->n_lost == 2);
    stop_pool();
}

/* The end of the master ends everybody, in the middle of a task. */
static void case_orphans(void)
{
    int report[2];
    CHECK(pipe2(report, O_CLOEXEC) == 0);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* orphans become ours: we see them end */
    pid_t master = fork();
    CHECK(master >= 0);
    if (master == 0) {
        start(POOL_PREFORK, 3);
        char args[128];
        path_args(args, sizeof args);
        for (uint64_t i = 0; i < 3; i++)
            submit(i, message("t.wait", args));
        RUN_UNTIL(t->n_started == 3);
        CHECK(write(report[1], t->dir, sizeof t->dir) == sizeof t->dir);
        (void)uv_run(&t->loop, UV_RUN_DEFAULT);
        _exit(1);
    }
    char dir[64];
    CHECK(read(report[0], dir, sizeof dir) == sizeof dir);
    CHECK(kill(master, SIGKILL) == 0);
    int n = 0, status;
    (void)alarm(DEADLINE_MS / 1000);
    while (waitpid(-1, &status, 0) > 0) { /* ECHILD: nobody is left */
        n++;
        CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    }
    (void)rmdir(dir);
    CHECK(n == 5 && errno == ECHILD); /* master, zygote, three children */
}

/* ---- program ---- */

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"many", case_many},
    {"threads", case_threads},
    {"solo", case_solo},
    {"crash", case_crash},
    {"chaos", case_chaos},
    {"recall", case_recall},
    {"soft_stop", case_soft_stop},
    {"kill", case_kill},
    {"group_signals", case_group_signals},
    {"on_the_way", case_on_the_way},
    {"stop", case_stop},
    {"max_tasks", case_max_tasks},
    {"hostile", case_hostile},
    {"garbage", case_garbage},
    {"no_plugin", case_no_plugin},
    {"zygote_dies", case_zygote_dies},
    {"orphans", case_orphans},
};

static int zygote(const char *path)
{
    struct err e = ERR_INIT;
    pool_zygote_init();
    struct task_registry *r = task_registry_new();
    int rc = r ? task_registry_load(r, path, &e) : -ENOMEM;
    pool_zygote_main(r, rc < 0 ? err_text(&e, rc) : NULL);
}

static void bench(size_t n, size_t concurrency)
{
    start(POOL_PREFORK, concurrency);
    struct slice raw = message("t.echo", "[1]");
    for (int round = 0; round < 3; round++) {
        int64_t from_ns = clock_mono_ns();
        t->n_done = 0;
        drive(n, raw);
        (void)printf("%.0f jobs/s\n", (double)n * 1e9 / (double)(clock_mono_ns() - from_ns));
    }
    int64_t from_ns = clock_mono_ns();
    for (int i = 0; i < 2000; i++) {
        t->n_done = 0;
        drive(1, raw);
    }
    (void)printf("%.1f us round trip\n", (double)(clock_mono_ns() - from_ns) / 2000 / 1000);
    stop_pool();
}

static int run_case(size_t i)
{
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        cases[i].run();
        exit(0); /* so that leaks are looked for */
    }
    int status = 1;
    return pid > 0 && waitpid(pid, &status, 0) == pid ? status : 1;
}

int main(int argc, char **argv)
{
    log_init(LOG_CRITICAL, "MainProcess", 2);
    if (argc == 3 && str_eq(argv[1], "zygote"))
        return zygote(argv[2]);
    if (argc < 2)
        return 2;
    plugin = argv[1];
    if (argc == 5 && str_eq(argv[2], "bench")) {
        bench((size_t)strtoul(argv[3], NULL, 10), (size_t)strtoul(argv[4], NULL, 10));
        return 0;
    }
    int failed = 0;
    if (argc == 2)
        (void)printf("1..%zu\n", ARRAY_SIZE(cases));
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (argc == 3 && !str_eq(argv[2], cases[i].name))
            continue;
        int status = run_case(i);
        failed += status != 0;
        (void)printf("%sok %zu - %s\n", status ? "not " : "", i + 1, cases[i].name);
    }
    return failed != 0;
}
