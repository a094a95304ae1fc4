/* SPDX-License-Identifier: Apache-2.0 */
/* CPU count inside containers: every control group from ours up to the root may set a quota; the smallest counts. */

#include "celeryc/worker/cpus.h"

#include "celeryc/base/buf.h"
#include "celeryc/base/num.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

double cpus_quota(const char *cpu_max)
{
    struct slice text = slice_str(cpu_max);
    while (text.len && (text.p[text.len - 1] == '\n' || text.p[text.len - 1] == ' '))
        text.len--;
    const char *gap = text.len ? memchr(text.p, ' ', text.len) : NULL;
    if (!gap)
        return 0;
    int64_t quota, period;
    if (num_parse_i64((struct slice){text.p, (size_t)(gap - text.p)}, &quota) ||
        num_parse_i64((struct slice){gap + 1, (size_t)(text.p + text.len - gap - 1)}, &period))
        return 0;
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The first line of a small file; empty when it cannot be read. */
static void read_line(const char *path, char *dst, size_t size)
{
    dst[0] = '\0';
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (!fgets(dst, (int)size, f))
        dst[0] = '\0';
    (void)fclose(f);
    dst[strcspn(dst, "\n")] = '\0';
}

static double smaller(double a, double b)
{
    if (a <= 0)
        return b;
    return b > 0 && b < a ? b : a;
}

/* group: this process's path inside the hierarchy, cut here one level at a time up to the root. */
static double walk(const char *mount, char *group, double (*quota_at)(const char *dir))
{
    double best = 0;
    for (;;) {
        char dir[PATH_MAX];
        int n = snprintf(dir, sizeof(dir), "%s%s", mount, group);
        if (n > 0 && (size_t)n < sizeof(dir))
            best = smaller(best, quota_at(dir));
        char *slash = strrchr(group, '/');
        if (!slash || !group[0])
            return best;
        *slash = '\0';
    }
}

static double quota_v2(const char *dir)
{
    char path[PATH_MAX + 32], line[128];
    (void)snprintf(path, sizeof(path), "%s/cpu.max", dir);
    read_line(path, line, sizeof(line));
    return cpus_quota(line);
}

static double quota_v1(const char *dir)
{
    char path[PATH_MAX + 32], quota[64], period[64], both[160];
    (void)snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
    read_line(path, quota, sizeof(quota));
    (void)snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
    read_line(path, period, sizeof(period));
    (void)snprintf(both, sizeof(both), "%s %s", quota, period);
    return cpus_quota(both);
}

static bool has_word(const char *list, size_t len, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= len; i++)
        if ((i == 0 || list[i - 1] == ',') && memcmp(list + i, word, n) == 0 &&
            (i + n == len || list[i + n] == ','))
            return true;
    return false;
}

/* Lines of /proc/self/cgroup: "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1). */
static double group_quota(void)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return 0;
    double best = 0;
    char line[PATH_MAX + 64];
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        controllers++;
        size_t len = (size_t)(group - controllers);
        group++;
        if (str_eq(group, "/"))
            group[0] = '\0';
        if (len == 0)
            best = smaller(best, walk("/sys/fs/cgroup", group, quota_v2));
        else if (has_word(controllers, len, "cpu"))
            best = smaller(best, walk("/sys/fs/cgroup/cpu", group, quota_v1));
    }
    (void)fclose(f);
    return best;
}

size_t cpus_available(void)
{
    size_t n = 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        n = (size_t)CPU_COUNT(&set);
    if (n == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 ? (size_t)online : 1;
    }
    double quota = group_quota();
    if (quota > 0 && quota < (double)n) {
        size_t whole = (size_t)quota;
        n = whole + ((double)whole < quota);
    }
    return n ? n : 1;
}
