#!/bin/sh
# Installs the servers that the tests start, where it may; otherwise says exactly what is missing and fails.
set -eu

missing=
need() { # need PACKAGE PROGRAM...: any of the programs will do
    package=$1
    shift
    for each in "$@"; do
        if command -v "$each" >/dev/null 2>&1; then return; fi
    done
    missing="$missing $package"
}

PATH=$PATH:/usr/sbin:/sbin
need dcmtk /usr/bin/storescp /usr/local/bin/storescp
need orthanc Orthanc
need rabbitmq-server rabbitmq-server
need postgresql /usr/lib/postgresql/*/bin/initdb
need strace strace
need util-linux setpriv
need openssl openssl
need libgdcm-tools gdcmconv
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    # On a person's machine nothing is installed behind their back; a build machine is there for it.
    if [ "${CI:-}" = true ] && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root=no; fi
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null 2>&1; then
    {
        echo "The tests start real servers, and these Debian packages are missing:$missing"
        echo "Install them (as root: apt-get install$missing), or run only what needs no server: make test-unit"
    } >&2
    exit 1
fi

# The packages start their services on installation unless this file says no; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    # shellcheck disable=SC2064  # expanded now on purpose
    trap "$as_root rm -f $policy" EXIT
fi
echo "Installing Debian packages for the tests:$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086  # several words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
