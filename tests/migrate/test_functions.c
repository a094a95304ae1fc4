/* SPDX-License-Identifier: Apache-2.0 */
/* The bundled migrations record by record, and what a function may and may not do. */

#include "celeryc/migrate/runtime.h"
#include "new_york.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <time.h>

/* ---- helpers ---- */

static struct db_row compute(const struct scatter_migration *m, struct arena *a, const char *params,
                             const char *const *values)
{
    size_t n = migrate_columns(m->reads);
    struct slice *fields = arena_alloc_array(a, n + 1, sizeof(*fields));
    struct json_val p = {0};
    struct db_row row = {0};
    struct err e = ERR_INIT;

    fields[0] = SLICE_LIT("1");
    for (size_t i = 0; i < n; i++)
        fields[i + 1] = slice_str(values[i]);
    if (params)
        cr_assert_eq(json_scan(slice_str(params), &p, &e), 0);
    cr_assert_eq(migrate_compute(m, m->key, p, fields, a, &row), 0);
    return row;
}

/* ---- phones ---- */

static void check_phone(const char *old, const char *fresh)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const struct scatter_migration *m = migrate_find("phones.vn_renumber");
    struct db_row row = compute(m, a, NULL, &old);

    if (!fresh) {
        cr_assert_eq(row.outcome, DB_O_UNCHANGED, "%s", old ? old : "NULL");
        return;
    }
    cr_assert_eq(row.outcome, DB_O_CHANGED, "%s", old);
    cr_assert_str_eq(row.fresh[0].p, fresh, "%s became %s", old, row.fresh[0].p);
}

/* The table of the four operators, as the ministry published it. */
Test(phones, every_prefix)
{
    static const char *const table[][2] = {
        {"0162", "032"}, {"0163", "033"}, {"0164", "034"}, {"0165", "035"}, {"0166", "036"},
        {"0167", "037"}, {"0168", "038"}, {"0169", "039"}, {"0120", "070"}, {"0121", "079"},
        {"0122", "077"}, {"0126", "076"}, {"0128", "078"}, {"0123", "083"}, {"0124", "084"},
        {"0125", "085"}, {"0127", "081"}, {"0129", "082"}, {"0186", "056"}, {"0188", "058"},
        {"0199", "059"},
    };
    size_t changed = 0;

    for (int prefix = 100; prefix < 200; prefix++) {
        char old[16], fresh[16];
        const char *want = NULL;

        (void)snprintf(old, sizeof(old), "0%d9876543", prefix);
        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
            if (strncmp(old, table[i][0], 4) == 0) {
                (void)snprintf(fresh, sizeof(fresh), "%s9876543", table[i][1]);
                want = fresh;
                changed++;
            }
        }
        check_phone(old, want);
    }
    cr_assert_eq(changed, ARRAY_SIZE(table));
}

Test(phones, separators_stay)
{
    check_phone("0162 987 6543", "032 987 6543");
    check_phone("0162.987.6543", "032.987.6543");
    check_phone("+841629876543", "+84329876543");
    check_phone("+84 162 987 6543", "+84 32 987 6543");
    check_phone("+84.199.987.6543", "+84.59.987.6543");
    check_phone("01 62 9876543", "03 2 9876543");
    check_phone(" 0120 1234567 ", " 070 1234567 ");
    check_phone("0 1 6 2 9 8 7 6 5 4 3", "0 3 2  9 8 7 6 5 4 3");
}

Test(phones, everything_else_is_left)
{
    static const char *const others[] = {NULL,
                                         "",
                                         "0",
                                         "+",
                                         "+8",
                                         "+84",
                                         "0912345678",
                                         "0329876543",
                                         "01629876543 ext 5",
                                         "016298765432",
                                         "0162987654",
                                         "+84 0162 987 6543",
                                         "841629876543",
                                         "1629876543",
                                         "0162-987-6543",
                                         "0130 1234567",
                                         "not a number",
                                         "0\xd9\xa1"
                                         "629876543"};
    char long_text[400];

    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        check_phone(others[i], NULL);
    memset(long_text, ' ', sizeof(long_text));
    memcpy(long_text, "01629876543", 11);
    long_text[sizeof(long_text) - 1] = '\0';
    check_phone(long_text, NULL);
}

/* ---- flights ---- */

static struct db_row flight(struct arena *a, int year, int month, int day, int hmm,
                            const char *dep_time)
{
    char text[4][12];
    const char *values[6] = {text[0], text[1], text[2], text[3], dep_time, NULL};
    const int numbers[4] = {year, month, day, hmm};

    for (size_t i = 0; i < 4; i++)
        (void)snprintf(text[i], sizeof(text[i]), "%d", numbers[i]);
    return compute(migrate_find("flights.departure_utc"), a, NULL, values);
}

static bool before(int month, int day, int hour, const int at[3])
{
    return month * 10000 + day * 100 + hour < at[0] * 10000 + at[1] * 100 + at[2];
}

/* Every hour of 51 years, against the C library's own arithmetic and the offsets that zoneinfo gives. */
Test(flights, every_hour_of_the_table)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    CLEANUP(arena_free) struct arena *a = arena_new();

    for (size_t i = 0; i < ARRAY_SIZE(new_york); i++) {
        for (int month = 1; month <= 12; month++) {
            int year = new_york[i].year;
            int last = lengths[month - 1] + (month == 2 && year % 4 == 0);

            for (int day = 1; day <= last; day++) {
                for (int hour = 0; hour < 24; hour++) {
                    bool daylight = !before(month, day, hour, new_york[i].from) &&
                                    before(month, day, hour, new_york[i].to);
                    struct tm tm = {.tm_year = year - 1900,
                                    .tm_mon = month - 1,
                                    .tm_mday = day,
                                    .tm_hour = hour + (daylight ? 4 : 5),
                                    .tm_min = 7};
                    time_t t = timegm(&tm);
                    char want[32];

                    cr_assert_not_null(gmtime_r(&t, &tm));
                    (void)strftime(want, sizeof(want), "%Y-%m-%d %H:%M:%S", &tm);
                    struct db_row row = flight(a, year, month, day, hour * 100 + 7, "1");

                    if (row.outcome != DB_O_CHANGED || !slice_eq_str(row.fresh[0], want))
                        cr_assert_fail("%d-%d-%d %d h: %s, not %s", year, month, day, hour,
                                       row.fresh[0].p, want);
                    arena_reset(a);
                }
            }
        }
    }
}

Test(flights, skipped_and_refused)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_row row = flight(a, 2013, 1, 1, 515, NULL);

    cr_assert_eq(row.outcome, DB_O_SKIPPED);
    cr_assert_not_null(row.message);
    row = flight(a, 2013, 12, 31, 2400, "1");
    cr_assert_eq(row.outcome, DB_O_CHANGED);
    cr_assert_str_eq(row.fresh[0].p, "2014-01-01 05:00:00");
    static const int bad[][4] = {{2013, 13, 1, 0},   {2013, 0, 1, 0},    {2013, 2, 29, 0},
                                 {2013, 1, 1, 2401}, {2013, 1, 1, 1260}, {2013, 1, 1, -5},
                                 {1986, 1, 1, 0},    {0, 1, 1, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        row = flight(a, bad[i][0], bad[i][1], bad[i][2], bad[i][3], "1");
        cr_assert_eq(row.outcome, DB_O_QUARANTINED, "case %zu", i);
        cr_assert_str_eq(row.error_class, "ValueError");
    }
}

/* ---- what functions may do ---- */

static int misread(const struct scatter_record *r, struct scatter_change *c)
{
    (void)scatter_text(r, "secret");
    return scatter_set_text(c, "a", "x");
}

static int miswrite(const struct scatter_record *r, struct scatter_change *c)
{
    (void)r;
    (void)scatter_set_text(c, "secret", "x");
    return scatter_set_text(c, "a", "x");
}

static int odd_return(const struct scatter_record *r, struct scatter_change *c)
{
    (void)r;
    (void)scatter_set_text(c, "a", "x");
    return 7;
}

static int not_int(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t v;

    (void)c;
    return scatter_int(r, "a", &v) < 0 ? 0 : scatter_unchanged(c);
}

static int handled(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t v;

    if (scatter_int(r, "a", &v) < 0)
        return scatter_set_int(c, "a", -1);
    return scatter_set_null(c, "b");
}

static int same(const struct scatter_record *r, struct scatter_change *c)
{
    return scatter_set_text(c, "a", scatter_text(r, "a"));
}

static int params(const struct scatter_record *r, struct scatter_change *c)
{
    cr_assert_null(scatter_param(r, "none"));
    cr_assert_null(scatter_param(r, "nothing"));
    cr_assert_str_eq(scatter_param(r, "n"), "12");
    cr_assert_str_eq(scatter_key(r), "1");
    return scatter_set_text(c, "a", scatter_param(r, "text"));
}

static int fails(const struct scatter_record *r, struct scatter_change *c)
{
    (void)scatter_set_text(c, "a", "x");
    return scatter_fail(c, "TooLongError", "%s is too long", scatter_key(r));
}

static struct db_row call(scatter_record_fn fn, struct arena *a, const char *value)
{
    const struct scatter_migration m = {
        .name = "t", .record = fn, .table = "t", .key = "id", .reads = {"a"}, .writes = {"a", "b"}};

    return compute(&m, a, "{\"n\": 12, \"text\": \"caf\\u00e9\", \"nothing\": null}", &value);
}

Test(record, mistakes_fail_the_record)
{
    static const struct {
        scatter_record_fn fn;
        const char *class;
    } cases[] = {{misread, "KeyError"},
                 {miswrite, "KeyError"},
                 {odd_return, "RuntimeError"},
                 {not_int, "ValueError"},
                 {fails, "TooLongError"}};
    CLEANUP(arena_free) struct arena *a = arena_new();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct db_row row = call(cases[i].fn, a, "text");

        cr_assert_eq(row.outcome, DB_O_QUARANTINED, "case %zu", i);
        cr_assert_str_eq(row.error_class, cases[i].class);
    }
}

Test(record, sets_and_parameters)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_row row = call(handled, a, "text");

    cr_assert_eq(row.outcome, DB_O_CHANGED);
    cr_assert_str_eq(row.fresh[0].p, "-1");
    cr_assert_not_null(row.set);
    cr_assert(row.set[0] && !row.set[1]);
    row = call(handled, a, "5");
    cr_assert(!row.set[0] && row.set[1] && !row.fresh[1].p);
    row = call(params, a, "5");
    cr_assert_str_eq(row.fresh[0].p, "caf\xc3\xa9");
}

/* Setting what is there already is no change, NULL and "" are two values. */
Test(record, same_value_is_unchanged)
{
    CLEANUP(arena_free) struct arena *a = arena_new();

    cr_assert_eq(call(same, a, "x").outcome, DB_O_UNCHANGED);
    cr_assert_eq(call(same, a, "").outcome, DB_O_UNCHANGED);
    cr_assert_eq(call(same, a, NULL).outcome, DB_O_UNCHANGED);
}

/* ---- names of failures ---- */

Test(policy, retry_on)
{
    static const struct {
        const char *list, *class, *state;
        bool want;
    } cases[] = {
        {NULL, "X", "40001", false},
        {"", "X", "40001", false},
        {"40", "X", "40001", true},
        {"40", "X", "23505", false},
        {"23505", "UniqueViolation", "23505", true},
        {"23505", "X", "23503", false},
        {"08, 40,57014", "X", "57014", true},
        {"OperationalError", "DeadlockDetected", "40P01", true},
        {"psycopg.OperationalError", "DeadlockDetected", "40P01", true},
        {"OperationalError", "UniqueViolation", "23505", false},
        {"IntegrityError", "UniqueViolation", "23505", true},
        {"ConnectionError", "AdminShutdown", "57P01", true},
        {"ConnectionError", "ConnectionResetError", "", true},
        {"ConnectionResetError", "ConnectionError", "", false},
        {"UniqueViolation", "UniqueViolation", "23505", true},
        {"requests.exceptions.Timeout", "Timeout", "", true},
        {"ValueError", "TypeError", "", false},
        {"Exception", "AnyError", "", true},
        {"DatabaseError", "UniqueViolation", "23505", true},
        {"DatabaseError", "ValueError", "", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(failure_listed(cases[i].list, cases[i].class, cases[i].state), cases[i].want,
                     "%s and %s %s", cases[i].list, cases[i].class, cases[i].state);
}

Test(policy, answers)
{
    static const struct {
        const char *on_error, *retry_on, *class, *state;
        enum db_action want;
        int64_t max_attempts;
    } cases[] = {
        {NULL, NULL, "UniqueViolation", "23505", DB_ACT_QUARANTINE, 20},
        {NULL, NULL, "ValueError", "", DB_ACT_QUARANTINE, 20},
        {NULL, NULL, "NameError", "", DB_ACT_FAIL_PLAN, 20},
        {NULL, NULL, "UndefinedTable", "42P01", DB_ACT_FAIL_PLAN, 20},
        {NULL, NULL, "InvalidSchemaName", "3F000", DB_ACT_FAIL_PLAN, 20},
        {NULL, NULL, "InternalError", "XX000", DB_ACT_FAIL_BATCH, 20},
        {NULL, NULL, "TooManyConnections", "53300", DB_ACT_RETRY, 20},
        {NULL, "ValueError", "ValueError", "", DB_ACT_RETRY, 20},
        {"23505=skip, ValueError = retry:5", NULL, "UniqueViolation", "23505", DB_ACT_SKIP, 20},
        {"23505=skip,ValueError=retry:5", NULL, "ValueError", "", DB_ACT_RETRY, 5},
        {"23505=skip,23=fail-batch", NULL, "CheckViolation", "23514", DB_ACT_FAIL_BATCH, 20},
        {"23=fail-batch,23505=skip", NULL, "UniqueViolation", "23505", DB_ACT_FAIL_BATCH, 20},
        {"IntegrityError=skip", "23505", "UniqueViolation", "23505", DB_ACT_SKIP, 20},
        {"57014=quarantine", NULL, "QueryCanceled", "57014", DB_ACT_QUARANTINE, 20},
        {"OperationalError=skip", NULL, "ConnectionError", "08006", DB_ACT_RETRY, 20},
        {"OperationalError=fail-plan", NULL, "ConnectionError", "08006", DB_ACT_FAIL_PLAN, 20},
        {"Exception=fail-plan", NULL, "app.errors.Odd", "", DB_ACT_FAIL_PLAN, 20},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(buf_deinit) struct buf json = BUF_INIT;
        struct err e = ERR_INIT;

        if (cases[i].on_error)
            cr_assert_eq(policy_parse(cases[i].on_error, &json, &e), 0, "%s", e.text);
        const struct policy p = {.on_error = json.data, .retry_on = cases[i].retry_on};
        struct policy_answer a = policy_ask(&p, cases[i].class, cases[i].state);

        cr_assert_eq(a.action, cases[i].want, "case %zu: %s", i, db_action_name(a.action));
        cr_assert_eq(a.max_attempts, cases[i].max_attempts, "case %zu", i);
    }
}

Test(policy, mistakes_are_named)
{
    static const char *const wrong[] = {"23505",      "23505=",    "=skip",     "a b=skip",
                                        "X=leave",    "X=retry:0", "X=retry:x", "08=quarantine",
                                        "57P01=skip", "X=skip:2"};

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        CLEANUP(buf_deinit) struct buf json = BUF_INIT;
        struct err e = ERR_INIT;

        cr_assert_eq(policy_parse(wrong[i], &json, &e), -EINVAL, "%s", wrong[i]);
        cr_assert_not_null(strstr(e.text, "--on-error"));
    }
}

/* What stands in a database may be anything: it counts for nothing then. */
Test(policy, odd_json)
{
    static const char *const odd[] = {"", "[]", "{", "{\"23505\": 1}", "{\"23505\": \"leave\"}",
                                      "7"};

    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        const struct policy p = {.on_error = odd[i]};

        cr_assert_eq(policy_ask(&p, "UniqueViolation", "23505").action, DB_ACT_QUARANTINE);
    }
}
