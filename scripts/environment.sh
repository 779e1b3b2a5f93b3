# Sourced by the scripts beside it: makes .venv in the checkout with what they need.
# A second call is fast; a change of what is installed or compiled, or of the checkout's place installs again.

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or later was found; install one (for example the packages python3.11 and python3.11-venv) and start again." >&2
    return 1
}

make_environment() { # name of the extra in setup.cfg
    local extra=$1 stamp=.venv/installed-$1 wanted python
    wanted="$PWD $(cat setup.cfg setup.py pyproject.toml pipeline/_kernels.c | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || return 1
        if ! [ -w . ]; then
            echo "Nothing can be written to $PWD, where .venv belongs; use a checkout of your own." >&2
            return 1
        fi
        echo "Making .venv with $python ..." >&2
        if ! "$python" -m venv --clear .venv; then
            echo "Python's venv module is incomplete here; install it (on Debian and Ubuntu: apt install python3-venv) and start again." >&2
            return 1
        fi
    fi
    echo "Installing the packages that setup.cfg names into .venv; this is done once and takes some minutes ..." >&2
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"; then
        echo "The packages could not be installed; see pip's message above (behind a proxy, set https_proxy) and start again." >&2
        return 1
    fi
    echo "$wanted" >"$stamp"
}
