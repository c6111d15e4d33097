# What the scripts share: `. scripts/lib.sh` from the repository's root, after `set -euo pipefail`.
# shellcheck shell=bash

# A script that another one calls counts on from that one's start.
export SCRIPT_STARTED_S=${SCRIPT_STARTED_S:-$(date +%s)}
SECONDS=$(($(date +%s) - SCRIPT_STARTED_S))

# say TEXT: one line of progress, with the seconds since the script started.
say() {
    if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
        printf '\033[1m[%3ds]\033[0m %s\n' "$SECONDS" "$*"
    else
        printf '[%3ds] %s\n' "$SECONDS" "$*"
    fi
}

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 3
}

# find_python: prints the path of a Python ≥ 3.11.
find_python() {
    local candidate path
    for candidate in python3.11 python3 python3.12 python3.13; do
        path=$(command -v "$candidate") || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            # The real one: a pyenv shim would depend on the folder it is started from.
            "$path" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "needs Python 3.11 or newer (python3.11 or python3 on PATH); on Debian: apt-get install python3 python3-venv"
}

# install_debian PACKAGE...: by apt-get, as root or through sudo.
install_debian() {
    command -v apt-get >/dev/null || die "please install: $*"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "please install as root: apt-get install $*"
        as_root=(sudo)
    fi
    say "apt-get install $*"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# ensure_venv FOLDER EXTRAS: a venv with this repository installed in place; done again only when setup.cfg has changed.
ensure_venv() {
    local venv=$1 extras=$2 python
    if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install_debian python3-venv
        say "creating $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    # A stamp for each set of extras: scripts/test and scripts/demo may share a venv.
    local stamp=$venv/installed-$extras wanted
    wanted="$PWD $(cat setup.cfg pyproject.toml | sha256sum)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! [ -x "$venv/bin/atmo-farm" ]; then
        say "installing atmo-farm[$extras] into $venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
        printf '%s\n' "$wanted" >"$stamp"
    fi
}
