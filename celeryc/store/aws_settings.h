/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The environment and the profile that the AWS tools share. */

#include "celeryc/store/aws_ini.h"

struct aws_settings {
    const char *profile;                  /* "default" when nothing names one */
    const char *named_by;                 /* the variable that names it, or NULL */
    char *config_path, *credentials_path; /* NULL: no home directory */
    struct aws_ini config, credentials;
};

/* A variable's value; NULL when unset or empty. */
const char *aws_env(const char *name);

/* Files that are not there are empty. 0; -EINVAL a file is damaged (its path and line in e); -E2BIG, -ENOMEM. */
int aws_settings_load(struct aws_settings *ret_s, struct err *e) WARN_UNUSED;
void aws_settings_deinit(struct aws_settings *s);
DEFINE_CLEANUP_VALUE(struct aws_settings, aws_settings_deinit)

bool aws_settings_has_profile(const struct aws_settings *s);
/* Of the profile; what the credentials file says goes first. NULL when absent. */
const char *aws_settings_get(const struct aws_settings *s, const char *key);
/* A region's name; "us-east-1" when nothing names one. 0, -EINVAL. */
int aws_settings_region(const struct aws_settings *s, const char **ret_region,
                        struct err *e) WARN_UNUSED;
bool aws_region_is_valid(const char *region);
/* The endpoint that was given for a service ("s3", "sts"), NULL when none was. */
const char *aws_settings_endpoint(const struct aws_settings *s, const char *service);
const char *aws_settings_ca_bundle(const struct aws_settings *s);
/* Amazon's own endpoint, appended: FIPS and dual stack as the settings say. */
void aws_settings_amazon(const struct aws_settings *s, const char *service, const char *region,
                         struct buf *dst);

/* A small file's bytes, with everything but its last line ends. 0; -errno; -E2BIG over limit. */
int aws_read_file(const char *path, size_t limit, struct buf *dst) WARN_UNUSED;
