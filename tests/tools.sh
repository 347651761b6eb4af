# Sourced by tests/run and .ci/run: where the tools are, how they are installed, and how a stage is timed.
# What cannot be installed ends the run with a message; nothing here decides to skip anything.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TOP=$PWD
# One profile for everything, so that dependencies are built once.
PROFILE=testing
TARGET=${CARGO_TARGET_DIR:-$TOP/target}
# Built tools outlive `cargo clean` and clones: building them takes minutes.
TOOLS_CACHE=${XDG_CACHE_HOME:-${HOME:-$TARGET}/.cache}/s3-orchestrator/tools

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# stage NAME COMMAND...: runs it and prints its seconds.
stage() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || fail "$name, after $((SECONDS - start)) s"
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

# rustup's cargo looks for its toolchains under HOME; with another HOME they usually still stand beside its bin folder.
find_cargo() {
    local bin home
    command -v cargo >/dev/null || fail "no cargo on the PATH"
    cargo --version >/dev/null 2>&1 && return 0
    bin=$(dirname "$(command -v cargo)")
    for home in "$bin/../../.rustup" "$bin/../../rustup"; do
        if [ -d "$home/toolchains" ]; then
            RUSTUP_HOME=$(cd "$home" && pwd)
            export RUSTUP_HOME
            cargo --version >/dev/null 2>&1 && return 0
        fi
    done
    cargo --version || fail "cargo does not run: set RUSTUP_HOME, or put the toolchain's own bin folder on the PATH"
}

# debian_package COMMAND PACKAGE...: installs the packages unless the command succeeds.
debian_package() {
    local probe=$1 become=()
    shift
    eval "$probe" >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null || fail "'$probe' does not work and there is no apt-get to install $*"
    [ "$(id -u)" = 0 ] || become=(sudo -n)
    export DEBIAN_FRONTEND=noninteractive
    "${become[@]}" apt-get update -qq || true
    "${become[@]}" apt-get install -y -qq --no-install-recommends "$@" || fail "apt-get cannot install $*"
    eval "$probe" >/dev/null 2>&1 || fail "'$probe' does not work although $* is installed"
}

# cargo_tool NAME VERSION OPT_LEVEL [FLAGS...]: builds a tool from crates.io into target/tools/bin, through the cache.
cargo_tool() {
    local name=$1 version=$2 opt_level=$3 kept
    shift 3
    kept=$TOOLS_CACHE/$name-$version-o$opt_level-$(uname -m)
    if [ ! -x "$kept" ]; then
        CARGO_PROFILE_RELEASE_OPT_LEVEL=$opt_level CARGO_PROFILE_RELEASE_LTO=off \
            CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_TARGET_DIR=$TARGET/tools/build \
            cargo install "$name@$version" "$@" --locked --force --quiet --root "$TARGET/tools" || return 1
        mkdir -p "$TOOLS_CACHE"
        cp "$TARGET/tools/bin/$name" "$kept.$$"
        mv "$kept.$$" "$kept"
    fi
    mkdir -p "$TARGET/tools/bin"
    cmp -s "$kept" "$TARGET/tools/bin/$name" || cp -f "$kept" "$TARGET/tools/bin/$name"
}

# cargo_project FOLDER NAME: the same for a cargo project of our own that is no part of the workspace, rebuilt when it changes.
cargo_project() {
    local folder=$1 name=$2 kept
    kept=$TOOLS_CACHE/$name-$(cat "$folder"/Cargo.* "$folder"/src/*.rs | cksum | tr ' ' -)-$(uname -m)
    if [ ! -x "$kept" ]; then
        CARGO_TARGET_DIR=$TARGET/tools/build cargo build --quiet --locked --manifest-path "$folder/Cargo.toml" || return 1
        mkdir -p "$TOOLS_CACHE"
        cp "$TARGET/tools/build/debug/$name" "$kept.$$"
        mv "$kept.$$" "$kept"
    fi
    mkdir -p "$TARGET/tools/bin"
    cmp -s "$kept" "$TARGET/tools/bin/$name" || cp -f "$kept" "$TARGET/tools/bin/$name"
}

# npm_packages FOLDER: exactly the packages of its package-lock.json, in target/tools/js.
npm_packages() {
    local js=$TARGET/tools/js roots=/etc/ssl/certs/ca-certificates.crt
    # Node trusts its own list, and the machine's only if told; a mirror may be known to the machine alone.
    [ ! -r $roots ] || export NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-$roots}
    debian_package 'node --version && npm --version' nodejs npm
    cmp -s "$1/package-lock.json" "$js/installed" && return 0
    mkdir -p "$js"
    cp "$1/package.json" "$1/package-lock.json" "$js"
    npm ci --prefix "$js" --ignore-scripts --no-audit --no-fund --loglevel=error || return 1
    cp "$1/package-lock.json" "$js/installed"
}

# python_env REQUIREMENTS: a venv in target/venv with exactly these packages.
python_env() {
    local stamp=$TARGET/venv/requirements
    debian_package 'python3 -c "import venv, ensurepip"' python3 python3-venv
    cmp -s "$1" "$stamp" && return 0
    rm -rf "$TARGET/venv"
    python3 -m venv "$TARGET/venv"
    "$TARGET/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$1" || return 1
    "$TARGET/venv/bin/python" -m pip check || return 1
    cp "$1" "$stamp"
}
