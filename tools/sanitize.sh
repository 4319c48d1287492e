#!/bin/sh
# Build the core with sanitizers, in a copy of the tree, and run tests there: "address" uses the
# address and undefined behaviour sanitizers with the core's tests, "thread" the thread sanitizer with
# the tests in which several threads use a machine.
#
#   tools/sanitize.sh address|thread PYTHON [pytest argument ...]
set -eu

kind=$1
python=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2
export PYTHONPATH=.
case $kind in
address)
    # Without the checks for which gcc needs minutes to compile the interpreter's loop.
    flags='-fsanitize=address,undefined -fno-sanitize-address-use-after-scope'
    flags="$flags -fno-sanitize=null,alignment,object-size,pointer-overflow"
    libraries='libasan.so libubsan.so'
    tests=tests/core
    # CPython deliberately never frees some memory.
    export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    ;;
thread)
    flags=-fsanitize=thread
    libraries=libtsan.so
    tests='tests/core/test_smp.py tests/core/test_punch.py tests/core/test_gic_timer.py tests/host
        tests/rmm/test_threads.py tests/rmm/test_locking.py tests/rmm/test_hostile_host.py'
    # CPython is not instrumented, but the sanitizer knows its locks.
    export TSAN_OPTIONS=ignore_noninstrumented_modules=1:history_size=4
    ;;
*)
    echo "sanitize: $kind is neither address nor thread" >&2
    exit 2
    ;;
esac

copy=build/sanitize/$kind
mkdir -p "$copy"
for each in pyvmm rmm monitor hes tests; do
    rm -rf "${copy:?}/$each"
done
cp -pR pyvmm rmm monitor hes tests pyproject.toml setup.py README.md LICENSE "$copy"
cd "$copy"
rm -f pyvmm/core/_core.*

# Without -Werror: gcc takes some variables of instrumented code for uninitialised.
sed -i 's/"-O2"/"-O1", "-g1"/; s/"-Werror"/"-Wno-error"/' pyvmm/core/build.py
CFLAGS=$flags LDFLAGS=$flags "$python" setup.py --quiet build_ext --inplace >build.log 2>&1 || {
    cat build.log >&2
    exit 1
}

# Capstone uses a dlopen() flag that the sanitizers refuse.  The thread sanitizer needs memory that
# randomised addresses could occupy.
run='import os, sys; os.RTLD_DEEPBIND = 0; import pytest; sys.exit(pytest.main(sys.argv[1:]))'
preload=
for library in $libraries; do
    preload="$preload $(${CC:-cc} -print-file-name="$library")"
done
[ $# -gt 0 ] || set -- $tests
exec setarch -R env LD_PRELOAD="$preload" "$python" -c "$run" -p no:cacheprovider "$@"
