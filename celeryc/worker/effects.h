/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What canvas says must follow, made ready for the transport and the result backend: keys, times to live, notes. */

#include "celeryc/canvas/canvas.h"
#include "celeryc/transport/transport.h"

struct worker;

struct effects {
    struct result_chords chords; /* with the token under which this call claims chords */
    struct result_effects x;
    size_t n_push;
    struct transport_push *push;
};

/* Everything new lives in the arena; raw messages, records, members and saved results are borrowed. p: whoever it
 * follows from, for the notes. 0, -ENOMEM. */
int effects_make(struct worker *w, struct arena *a, const struct canvas_effects *from,
                 const struct canvas_parent *p, struct effects *ret) WARN_UNUSED;

/* For what is applied after the texts that from borrows are gone: copies them into the arena. */
int effects_keep(struct arena *a, struct effects *e) WARN_UNUSED;

struct transport_end effects_end(const struct effects *e); /* e may be NULL */

/* A note of celeryc:fire. Slices borrow the text or the arena. */
struct chord_note {
    struct slice nonce, group, parent, root;
    struct slice body; /* JSON */
    int priority;
};

/* 0, -ENOMEM, -EINVAL not a note that we can read. */
int chord_note_parse(struct arena *a, struct slice text, struct chord_note *ret_n) WARN_UNUSED;
/* How the notes begin that this worker may fire. */
void chord_note_start(struct buf *dst, const struct worker *w);
