/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A fuzz target: libFuzzer calls it, or replay.c with the files of a corpus. */

#include "celeryc/base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
