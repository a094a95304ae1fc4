/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* libcurl's lists of headers. */

#include "celeryc/base/util.h"

#include <curl/curl.h>
#include <errno.h>

static inline struct curl_slist *curl_list_free(struct curl_slist *l)
{
    curl_slist_free_all(l);
    return NULL;
}

DEFINE_CLEANUP(struct curl_slist, curl_list_free)

/* Copies "Name: value" to the end. 0, -ENOMEM. */
static inline int curl_list_add(struct curl_slist **l, const char *header)
{
    struct curl_slist *next = curl_slist_append(*l, header);

    if (!next)
        return -ENOMEM;
    *l = next;
    return 0;
}
