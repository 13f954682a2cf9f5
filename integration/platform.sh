# Sourced by ./start and ./test: is this a Debian 12 on which we may install what is missing?
# FOREBAY_OS_RELEASE names another file than /etc/os-release, for the test of this file.

# Prints "debian-12" or what the system calls itself.
platform_name() {
    local file="${FOREBAY_OS_RELEASE:-/etc/os-release}"
    [ -r "$file" ] || { echo unknown; return; }
    # A subshell, so that the file's variables stay there.
    (. "$file" && echo "${ID:-unknown}-${VERSION_ID:-}")
}

# How to become root: nothing for root itself, "sudo" where that works without a question, else a failure.
platform_root() {
    if [ "$(id -u)" = 0 ]; then
        echo ""
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        echo sudo
    else
        return 1
    fi
}

# platform_need COMMAND:PACKAGE...: makes sure that each command is there. On Debian 12 the packages of those
# that are missing are installed; elsewhere, or without root, they are named and the script ends with 2.
platform_need() {
    local pair missing=() packages=()
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null 2>&1; then
            missing+=("${pair%%:*}")
            packages+=("${pair#*:}")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local name root
    name=$(platform_name)
    if [ "$name" != debian-12 ]; then
        echo "This is $name, not debian-12, so nothing is installed. Missing here: ${missing[*]}" >&2
        exit 2
    fi
    if ! root=$(platform_root); then
        echo "Neither root nor sudo without a password. Missing here: ${missing[*]}" >&2
        echo "Install them with: apt-get install ${packages[*]}" >&2
        exit 2
    fi
    echo "Installing ${packages[*]}"
    platform_install "$root" "${packages[@]}"
}

# The peers of the tests must not run as services: Debian starts what it installs unless told not to.
platform_install() {
    local root="$1" policy=/usr/sbin/policy-rc.d made=
    shift
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
        $root chmod 755 "$policy"
        made=1
    fi
    local status=0
    { $root apt-get update -q &&
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } || status=$?
    [ -z "$made" ] || $root rm -f "$policy"
    if [ "$status" != 0 ]; then
        echo "apt-get could not install: $*" >&2
        exit 2
    fi
}

# Rust is not installed for you: it is not in Debian 12, and how to get it is your choice.
platform_need_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "Missing here: cargo (Rust 1.95 or newer, see https://rustup.rs)" >&2
        exit 2
    fi
}
