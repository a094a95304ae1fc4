/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster made by initdb in a temporary folder. PostgreSQL refuses to run as root, so root becomes nobody for it. The
 * server is told to end when this program ends, whatever way it does. */

#include "pgserver.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_LIMIT_S 60
/* Tells the cluster's URL to the processes in which the tests run. */
#define URL_NAME "SCATTER_TEST_PG_URL"

static struct {
    pid_t pid;
    char dir[64], url[160];
} server;

static _Noreturn void die(const char *what)
{
    (void)fprintf(stderr, "test server: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void bin_dir(char *dst, size_t size)
{
    FILE *f = popen("pg_config --bindir", "re");

    if (!f || !fgets(dst, (int)size, f))
        die("pg_config");
    (void)pclose(f);
    dst[strcspn(dst, "\n")] = '\0';
}

static pid_t spawn(const char *dir, const char *const argv[])
{
    const struct passwd *nobody = getuid() == 0 ? getpwnam("nobody") : NULL;
    uid_t uid = nobody ? nobody->pw_uid : getuid();
    gid_t gid = nobody ? nobody->pw_gid : getgid();
    pid_t parent = getpid(), pid = fork();

    if (pid < 0)
        die("fork");
    if (pid > 0)
        return pid;
    if (nobody && (setgid(gid) || setuid(uid)))
        _exit(126);
    if (prctl(PR_SET_PDEATHSIG, SIGINT) || getppid() != parent || chdir(dir))
        _exit(125);
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
        _exit(124);
    (void)execv(argv[0], (char *const *)argv);
    _exit(127);
}

static void make_dir(void)
{
    const struct passwd *nobody = getuid() == 0 ? getpwnam("nobody") : NULL;

    (void)snprintf(server.dir, sizeof(server.dir), "/tmp/scatter-pg-XXXXXX");
    if (!mkdtemp(server.dir))
        die("mkdtemp");
    if (nobody && chown(server.dir, nobody->pw_uid, nobody->pw_gid))
        die("chown");
}

static void wait_ready(void)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    time_t end = time(NULL) + START_LIMIT_S;

    while (PQping(server.url) != PQPING_OK) {
        if (time(NULL) > end || waitpid(server.pid, NULL, WNOHANG) != 0)
            die("the server did not start, see its log");
        (void)nanosleep(&pause, NULL);
    }
}

void pgserver_start(void)
{
    char bin[256], initdb[300], postgres[300], socket_dir[128];
    int status;

    bin_dir(bin, sizeof(bin));
    (void)snprintf(initdb, sizeof(initdb), "%s/initdb", bin);
    (void)snprintf(postgres, sizeof(postgres), "%s/postgres", bin);
    make_dir();
    (void)snprintf(socket_dir, sizeof(socket_dir), "unix_socket_directories=%s", server.dir);
    (void)snprintf(server.url, sizeof(server.url), "postgresql:///postgres?host=%s&user=postgres",
                   server.dir);
    pid_t pid = spawn(server.dir,
                      (const char *const[]){initdb, "-D", "data", "-U", "postgres", "-A", "trust",
                                            "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", NULL});

    if (waitpid(pid, &status, 0) != pid || status != 0)
        die("initdb failed, see its log");
    server.pid =
        spawn(server.dir, (const char *const[]){postgres, "-D", "data", "-c", socket_dir, "-c",
                                                "listen_addresses=", "-c", "fsync=off", "-c",
                                                "max_connections=50", NULL});
    wait_ready();
    if (setenv(URL_NAME, server.url, 1))
        die("setenv");
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void pgserver_stop(void)
{
    if (server.pid > 0 && kill(server.pid, SIGINT) == 0)
        (void)waitpid(server.pid, NULL, 0);
    (void)nftw(server.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *pgserver_url(void)
{
    const char *url = getenv(URL_NAME);

    return url ? url : "";
}
