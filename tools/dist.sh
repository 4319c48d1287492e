#!/bin/sh
# Build what is published, in build/dist: an sdist, wheels that say on which systems they run, one for
# this machine's processor and one for arm64, and the list of what a wheel needs (SBOM).
#
#   tools/dist.sh PYTHON
set -eu
python=$1
out=build/dist
share=share
tools=build/dist-tools

echo "dist: man pages and completions"
rm -rf "$share" "$out" build/lib* build/temp*
"$python" -m pyvmm.cli.common.manual "$share/man/man1"
mkdir -p "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
"$python" -m pyvmm completion bash >"$share/bash-completion/completions/pyvmm"
"$python" -m pyvmm completion zsh >"$share/zsh/site-functions/_pyvmm"
"$python" -m pyvmm completion fish >"$share/fish/vendor_completions.d/pyvmm.fish"

[ -x "$tools/bin/twine" ] || {
    echo "dist: installing tools into $tools"
    "$python" -m venv "$tools"
    "$tools/bin/pip" --quiet --disable-pip-version-check install "$("$python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dist"], sep="\n")
' >build/dist-requirements.txt; echo --requirement=build/dist-requirements.txt)"
}
PATH=$PWD/$tools/bin:$PATH

echo "dist: sdist and wheel"
pyproject-build --outdir "$out/raw" . >build/dist.log 2>&1 || { tail -n 30 build/dist.log >&2; exit 1; }
auditwheel repair --wheel-dir "$out" "$out"/raw/*.whl >>build/dist.log 2>&1 || {
    tail -n 5 build/dist.log >&2
    exit 1
}
mv "$out"/raw/*.tar.gz "$out"

echo "dist: wheel for arm64"
rm -rf "$out"/raw/*.whl build/lib* build/temp*
PYTHONPATH=. "$python" tools/aarch64/run.py wheel "$out/raw" >>build/dist.log 2>&1 || {
    tail -n 30 build/dist.log >&2
    exit 1
}
auditwheel repair --wheel-dir "$out" "$out"/raw/*.whl >>build/dist.log 2>&1 || {
    tail -n 5 build/dist.log >&2
    exit 1
}
rm -rf build/lib* build/temp*
rm -r "$out/raw"
twine check --strict "$out"/*.whl "$out"/*.tar.gz

echo "dist: SBOM"
"$python" -m venv --without-pip build/dist-env
pip --quiet --disable-pip-version-check --python build/dist-env/bin/python install "$out"/*_"$(uname -m)".whl
cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --mc-type application \
    -o "$out/pyvmm.cdx.json" build/dist-env/bin/python 2>/dev/null
rm -r build/dist-env
ls -l "$out"
