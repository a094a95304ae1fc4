# SPDX-License-Identifier: Apache-2.0
"""Programs export the public API to plug-ins and nothing else: exports.py NM PROGRAM..."""

import subprocess
import sys

# What the linker and the C library themselves put there.
LINKER = {
    "_IO_stdin_used",
    "__bss_start",
    "__data_start",
    "_edata",
    "_end",
    "_start",
    "data_start",
    "main",
}
LINKER |= {
    "_init",
    "_fini",
    "__dso_handle",
    "__TMC_END__",
    "__bss_start__",
    "_bss_end__",
    "__bss_end__",
    "__end__",
}
NEEDED = {
    "celeryc_task_register",
    "celeryc_args",
    "celeryc_raise",
    "celeryc_raise_at",
    "celeryc_retry",
    "celeryc_send",
    "celeryc_request",
    "celeryc_signature",
    "celeryc_apply",
    "celeryc_replace",
}
# libceleryc.so has what programs use, and nothing of what only a worker can do.
LIBRARY_PREFIXES = ("celeryc_sig_", "celeryc_client_", "celeryc_result_")
LIBRARY = {
    "celeryc_signature",
    "celeryc_chain",
    "celeryc_group",
    "celeryc_chord",
    "celeryc_map",
    "celeryc_starmap",
    "celeryc_chunks",
}


def exported(nm: str, program: str) -> set[str]:
    out = subprocess.run(
        [nm, "-D", "--defined-only", program], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1].removesuffix("@@CELERYC_1") for line in out.splitlines()} - {
        "CELERYC_1"
    }
    return {
        name
        for name in names
        if "@" not in name and not name.startswith(("__asan", "__ubsan", "__odr"))
    }


def main() -> int:
    nm, *programs = sys.argv[1:]
    failed = False
    for program in programs:
        names = exported(nm, program)
        if ".so" in program:
            strange = {n for n in names if not n.startswith(LIBRARY_PREFIXES)} - LIBRARY
            missing = (LIBRARY | {"celeryc_client_apply", "celeryc_result_wait"}) - names
        else:
            strange = {n for n in names if not n.startswith(("celeryc_", "scatter_"))} - LINKER
            missing = NEEDED - names
        for what, which in (("exports", strange), ("does not export", missing)):
            if which:
                print(f"{program} {what}: {', '.join(sorted(which))}")
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
