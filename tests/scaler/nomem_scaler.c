/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation fails once: -ENOMEM goes up, nothing leaks, nothing is taken for what it is not. */

#include "../base/nomem.h"
#include "k8s/scaler/completion.h"
#include "k8s/scaler/measure.h"

#include <errno.h>

static const char config_text[] =
    "{\"redis\": {\"url_env\": \"R\", \"priority_steps\": [0, 3]}, \"kubernetes\": "
    "{\"namespace\": \"n\"}, \"targets\": [{\"deployment\": \"w\", \"queues\": [\"a\", \"b\"], "
    "\"policy\": \"drain\", \"drain_s\": 60}, {\"deployment\": \"v\", \"max\": 3}]}";
static const char state_text[] =
    "{\"v\": 1, \"wishes\": [[1, 2]], \"run_id\": \"r\", \"nodes\": {\"w@p\": 3, \"w@q\": 4}}";
static const char beat_text[] =
    "{\"body\": "
    "\"eyJ0eXBlIjogIndvcmtlci1oZWFydGJlYXQiLCAiaG9zdG5hbWUiOiAid0BwIiwgImFjdGl2ZSI6IDEsICJwcm9jZXN"
    "zZWQiOiA1fQ==\", \"properties\": {\"body_encoding\": \"base64\"}}";
static const char record_text[] =
    "[{\"body\": \"\", \"headers\": {\"eta\": \"2030-01-01T00:00:00\"}, \"properties\": {}}, \"\", "
    "\"a\"]";

static int read_config(void)
{
    struct config c = {0};
    int r = config_parse(slice_str(config_text), &c, NULL);

    config_deinit(&c);
    return r;
}

static int read_memory(void)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct memory m;
    int r = memory_parse(slice_str(state_text), &m, NULL);

    if (r)
        return r;
    memory_write(&text, &m);
    memory_deinit(&m);
    return buf_ok(&text);
}

static int read_records(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(load_lists_deinit) struct load_lists lists = {0};
    CLEANUP(beats_deinit) struct beats beats = {0};
    char *names[] = {(char[]){"a"}};
    const struct strv queues = {names, 1};
    const struct redis_reply none = {.kind = REDIS_R_ARRAY};
    struct load_keys k;
    enum load_due due = LOAD_NOT_OURS;
    int r = a ? beats_take(&beats, slice_str(beat_text)) : -ENOMEM;

    load_keys_default(&k);
    if (r == 0)
        r = load_lists_init(&lists, &k, &queues);
    if (r == 0)
        r = load_record_due(a, &lists, &k, slice_str(record_text), &none, 1, &due);
    ASSERT(r || (beats.n == 1 && beats.v[0].processed == 5));
    return r;
}

static int look(void)
{
    char pod[] = "p", node[] = "w@p";
    struct target t = {.heartbeats = true};
    struct kube_target deployment = {.replicas = 1};
    struct kube_pod v = {.name = pod, .ready = true};
    const struct kube_pods pods = {&v, 1};
    struct beat b = {.node = node};
    const struct beats beats = {&b, 1};
    const struct load load = {.run_id = "r"};
    const struct view view = {.target = &t,
                              .kube = &deployment,
                              .pods = &pods,
                              .load = &load,
                              .beats = &beats,
                              .now = 1000};
    struct measured m = {0};
    struct memory memory;
    int r;

    decide_rules_default(&t.rules);
    memory_init(&memory);
    r = measure(&view, &memory, &m);
    ASSERT(r || m.classes[0] == POD_BUSY);
    measured_deinit(&m);
    memory_deinit(&memory);
    return r;
}

static int write_man(void)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    completion_write(&text, "man");
    return buf_ok(&text);
}

int main(void)
{
    (void)nomem_sweep("configuration", read_config);
    (void)nomem_sweep("memory", read_memory);
    (void)nomem_sweep("records", read_records);
    (void)nomem_sweep("measuring", look);
    (void)nomem_sweep("writing", write_man);
    return 0;
}
