/* SPDX-License-Identifier: Apache-2.0 */
/* Objects in an S3 bucket: whole GET, PUT and DELETE with retries.
 *
 * An attempt that failed in a way that may pass (s3_judge) is repeated after a pause of 0.1 s, 0.2 s ... 5 s, each
 * drawn at random from its upper half so that many workers do not come back at once, as long as the deadline allows.
 * All three requests may be repeated safely. What arrived of a failed GET is cut off before the next attempt. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/store/aws_http.h"
#include "celeryc/store/s3_priv.h"

#include <errno.h>
#include <time.h>

#define PAUSE_FIRST_MS 100
#define PAUSE_MAX_MS   5000
#define STALL_MAX_S    10

int s3_open(const char *rest, struct s3 **ret_s3, struct err *e)
{
    CLEANUP(s3_close) struct s3 *s = calloc(1, sizeof(*s));
    int code;

    if (!s)
        return -ENOMEM;
    code = s3_configure(s, rest, e);
    if (code)
        return code;
    aws_http_init();
    s->keeper = creds_keeper_shared();
    s->curl = curl_easy_init();
    if (!s->curl || !s->keeper)
        return -ENOMEM;
    *ret_s3 = STEAL(s);
    return 0;
}

struct s3 *s3_close(struct s3 *s)
{
    if (!s)
        return NULL;
    curl_easy_cleanup(s->curl);
    free(s->bucket);
    free(s->prefix);
    free(s->region);
    creds_deinit(&s->creds);
    aws_settings_deinit(&s->aws);
    free(s->endpoint);
    free(s->base);
    free(s);
    return NULL;
}

static int64_t pause_ms(unsigned attempt, int64_t server_says_ms)
{
    int64_t top = PAUSE_FIRST_MS << MIN(attempt, 6u);
    uint32_t r;

    top = MIN(top, PAUSE_MAX_MS);
    random_bytes(&r, sizeof(r));
    return MAX(top / 2 + r % (top / 2 + 1), server_says_ms);
}

static void sleep_ms(int64_t ms)
{
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000};

    (void)nanosleep(&t, NULL);
}

/* One attempt with credentials that are good now, and its verdict. */
static int try_once(struct s3 *s, const struct s3_request *q, int64_t left_ms, int64_t stall_s,
                    struct s3_answer *a, struct err *e)
{
    struct creds fresh = {0};
    int code = creds_get(s->keeper, MAX(left_ms, 1), &fresh, e);

    if (q->dst)
        q->dst->len = q->dst_start;
    if (code)
        return code;
    creds_deinit(&s->creds);
    s->creds = fresh;
    code = s3_attempt(s, q, left_ms, stall_s, a);
    return code ? code : s3_judge(s, q, a, e);
}

/* What can be mended without waiting, each once for a request: credentials that have expired before their time, a bucket
 * that is in another region. */
struct mending {
    bool renewed, moved;
};

static bool mend(struct s3 *s, struct mending *m, const struct s3_answer *a, int code,
                 struct err *e)
{
    if (code == STORE_E_DENIED && a->expired && !m->renewed) {
        m->renewed = true;
        return creds_reject(s->keeper, &s->creds);
    }
    if (code == -EINVAL && a->region[0] && !m->moved) {
        m->moved = true;
        return s3_move(s, a->region, e) == 0;
    }
    return false;
}

static int final(const struct err *last, int code, unsigned attempts, int64_t start_ns,
                 struct err *e)
{
    struct err copy = *last;

    if (code == STORE_E_TRANSIENT && attempts > 1)
        return err_set(e, code, "%s (%u attempts in %.1f s)", err_text(&copy, code), attempts,
                       (double)(clock_mono_ns() - start_ns) / 1e9);
    return err_set(e, code, "%s", err_text(&copy, code));
}

static int request(struct s3 *s, struct s3_request *q, int64_t deadline_ms, struct err *e)
{
    int64_t start_ns = clock_mono_ns(), end_ns = start_ns + deadline_ms * NS_PER_MS;
    int64_t stall_s = MAX(MIN(deadline_ms / 4000, STALL_MAX_S), 1);
    struct mending mending = {0};

    q->dst_start = q->dst ? q->dst->len : 0;
    for (unsigned attempt = 0;; attempt++) {
        struct err last = ERR_INIT;
        struct s3_answer a = {.error_body = BUF_INIT};
        int64_t left_ms = (end_ns - clock_mono_ns()) / NS_PER_MS, wait_ms;
        int code = try_once(s, q, left_ms, stall_s, &a, &last);

        buf_deinit(&a.error_body);
        if (code == 0)
            return 0;
        if (q->dst && !q->dst->failed)
            q->dst->len = q->dst_start;
        if (mend(s, &mending, &a, code, &last))
            continue;
        wait_ms = pause_ms(attempt, a.retry_after_ms);
        left_ms = (end_ns - clock_mono_ns()) / NS_PER_MS;
        if (code != STORE_E_TRANSIENT || wait_ms >= left_ms)
            return final(&last, code, attempt + 1, start_ns, e);
        sleep_ms(wait_ms);
    }
}

int s3_get(struct s3 *s, const char *name, int64_t deadline_ms, struct buf *dst, struct err *e)
{
    struct s3_request q = {.method = "GET", .name = name, .dst = dst};

    return request(s, &q, deadline_ms, e);
}

int s3_put(struct s3 *s, const char *name, struct slice bytes, const char *content_type,
           int64_t deadline_ms, struct err *e)
{
    struct s3_request q = {
        .method = "PUT", .name = name, .body = bytes, .content_type = content_type};

    return request(s, &q, deadline_ms, e);
}

int s3_delete(struct s3 *s, const char *name, int64_t deadline_ms, struct err *e)
{
    struct s3_request q = {.method = "DELETE", .name = name};
    struct err why = ERR_INIT;
    int code = request(s, &q, deadline_ms, &why);

    if (code == 0 || code == STORE_E_NOT_FOUND)
        return 0;
    return err_set(e, code, "%s", err_text(&why, code));
}
