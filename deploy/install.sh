#!/bin/sh
# Makes .venv with the command `kivuko`, out of uv.lock. Needs Python 3.11 or later and nothing else.
#
#   deploy/install.sh        what `kivuko up` needs
#   deploy/install.sh dev    the same, and what the tests need
#
# PYTHON names the interpreter. pip's own settings (index, certificate, proxy) are followed.
set -eu
cd "$(dirname "$0")/.."

wanted=${1:-embedded}
tools=build/tools
stamp=.venv/.installed

stop() {
    printf 'kivuko cannot be installed: %s\n' "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
for each in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if new_enough "$each"; then
        python=$(command -v "$each")
        break
    fi
done
[ -n "$python" ] || stop "it needs Python 3.11 or later, and ${PYTHON:-python3} is $(${PYTHON:-python3} --version 2>&1 || echo missing).
Install a newer one (on Debian 12 or Ubuntu 24.04: apt-get install python3 python3-venv), or name one: make install PYTHON=/path/to/python3.12"

"$python" -c 'import ensurepip, venv' 2>/dev/null || stop "$python has no module venv or ensurepip.
On Debian or Ubuntu: apt-get install python3-venv"

# Compiled once: every start is faster, also where Python may not write beside its sources.
compile_sources() {
    .venv/bin/python -m compileall -q contracts libs services
}

# Nothing to do when neither the lock nor the interpreter has changed. What the tests need includes everything else.
state="$(cat pyproject.toml uv.lock | cksum) $python"
if [ -x .venv/bin/kivuko ] && [ -f "$stamp" ]; then
    case "$(cat "$stamp")" in
        "$state dev" | "$state $wanted")
            compile_sources
            exit 0
            ;;
    esac
fi

mkdir -p build
if [ ! -x "$tools/bin/uv" ]; then
    echo "Installing the installer (uv) into $tools"
    "$python" -m venv --clear "$tools"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
fi
uv="$tools/bin/uv"

# uv does not read pip's settings, so they are handed over.
pip_setting() {
    "$tools/bin/python" -m pip config get "global.$1" 2>/dev/null || true
}
certificate=${PIP_CERT:-$(pip_setting cert)}
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_setting index-url)}}
if [ -n "$certificate" ] && [ -z "${SSL_CERT_FILE:-}" ]; then
    export SSL_CERT_FILE="$certificate"
fi
export UV_PYTHON_DOWNLOADS=never UV_PYTHON="$python" UV_PROJECT_ENVIRONMENT=.venv
export UV_COMPILE_BYTECODE=1
unset VIRTUAL_ENV

case "$wanted" in
    dev) groups="--all-groups" ;;
    embedded) groups="--no-default-groups --group embedded" ;;
    *) stop "no such set of dependencies: $wanted (embedded or dev)" ;;
esac

echo "Installing kivuko and its dependencies into .venv"
rm -f "$stamp"
# shellcheck disable=SC2086  # $groups is several words
if [ -z "$index" ]; then
    "$uv" sync --quiet --frozen $groups
else
    # The lock names the addresses of its files: another index is followed by name, version and hash instead.
    export UV_DEFAULT_INDEX="$index"
    "$uv" export --quiet --frozen --no-emit-project $groups --output-file build/requirements.txt
    [ -x .venv/bin/python ] || "$uv" venv --quiet .venv
    "$uv" pip sync --quiet --require-hashes --python .venv/bin/python build/requirements.txt
    "$uv" pip install --quiet --no-deps --python .venv/bin/python --editable .
fi
compile_sources
printf '%s %s' "$state" "$wanted" >"$stamp"
echo "Ready: .venv/bin/kivuko"
