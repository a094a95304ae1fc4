#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh BUILD-FOLDER: compiles what the images hold, with the options that are tested. Run in the top folder of the sources.
set -eu
[ -e "$1/build.ninja" ] || meson setup "$1" --prefix=/usr --libdir=lib -Ddebug=false -Dwerror=false -Dtests=false
ninja -C "$1" --quiet packaging/celeryc packaging/scatter-scale packaging/examples.so
