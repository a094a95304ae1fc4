#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# assemble.sh scaler|worker BUILD-FOLDER ROOT: makes the file system of an image in ROOT: one program, the shared
# libraries that ldd names for it, certificates, two users. No shell, no package manager. The container file and
# `make images` run the same script.
set -eu
image=$1 build=$2 root=$3

case $image in
scaler) programs=scatter-scale plugins= ;;
worker) programs=celeryc plugins=examples.so ;;
*) echo "assemble.sh: no image named $image" >&2; exit 64 ;;
esac

rm -rf "$root"
for folder in etc/ssl/certs usr/bin usr/lib/celeryc tmp run var dev proc; do
    mkdir -p "$root/$folder"
done
chmod 1777 "$root/tmp"
ln -s usr/bin "$root/bin"
ln -s ../run "$root/var/run"
[ "$image" != scaler ] || mkdir -p "$root/etc/scatter-scale"

for program in $programs; do install -s "$build/packaging/$program" "$root/usr/bin/$program"; done
for plugin in $plugins; do install -s -m 644 "$build/packaging/$plugin" "$root/usr/lib/celeryc/$plugin"; done

# Each library at the place where the loader looks for it. libgcc_s is opened by pthread_exit, not named by ldd.
for file in "$root"/usr/bin/* "$root"/usr/lib/celeryc/*; do
    [ ! -e "$file" ] || ldd "$file"
done | sed -n 's/^.* => \(\/[^ ]*\) (.*$/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) (.*$/\1/p' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

# Libraries are found by the loader's own rule: the folder of the machine's libraries.
cat >"$root/etc/passwd" <<END
root:x:0:0:root:/:/none
celeryc:x:10001:10001:celeryc:/tmp:/none
scaler:x:65532:65532:scaler:/tmp:/none
END
cat >"$root/etc/group" <<END
root:x:0:
celeryc:x:10001:
scaler:x:65532:
END
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
