#!/bin/sh
# Build the core with the address and undefined behaviour sanitizers, in a copy of the tree, and run
# its tests there.
#
#   tools/sanitize.sh PYTHON [pytest argument ...]
set -eu

python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
copy=build/sanitize
mkdir -p "$copy"
rm -rf "$copy/pyvmm" "$copy/tests"
cp -pR pyvmm tests pyproject.toml setup.py README.md LICENSE "$copy"
cd "$copy"
rm -f pyvmm/core/_core.*

# -O1, and not the checks that need minutes of gcc's time for the interpreter's loop.  -Werror goes:
# instrumented code looks to gcc as if variables were used uninitialised.
sed -i 's/"-O2"/"-O1", "-g1"/; s/"-Werror"/"-Wno-error"/' pyvmm/core/build.py
flags='-fsanitize=address,undefined -fno-sanitize-address-use-after-scope'
flags="$flags -fno-sanitize=null,alignment,object-size,pointer-overflow"
CFLAGS=$flags LDFLAGS=$flags "$python" setup.py --quiet build_ext --inplace >build.log 2>&1 || {
    cat build.log >&2
    exit 1
}

# Capstone asks dlopen() for what the address sanitizer refuses; what CPython never frees is its own.
run='import os, sys; os.RTLD_DEEPBIND = 0; import pytest; sys.exit(pytest.main(sys.argv[1:]))'
export PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
cc=${CC:-cc}
LD_PRELOAD="$($cc -print-file-name=libasan.so) $($cc -print-file-name=libubsan.so)" \
    exec "$python" -c "$run" -p no:cacheprovider "${@:-tests/core}"
