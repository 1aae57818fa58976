#!/usr/bin/env bash
# A stand-in for Google Colab in a folder: Debian's Python 3.13 in a chroot, with the packages that Colab brings as far as
# the course touches them (pins.txt), and a google.colab module, by which a notebook knows where it is. torch is Colab's
# and computes on the CPU. Needs root and debootstrap's archive; about five minutes and 7 GB.
#   build.sh DIR
set -euo pipefail
dir=$(realpath -m "$1"); here=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || { echo "build.sh needs root: it makes a chroot." >&2; exit 1; }
if [ ! -x "$dir/colab/bin/jupyter-nbconvert" ]; then
    command -v debootstrap >/dev/null || { apt-get update -qq; apt-get install -y -qq debootstrap >/dev/null; }
    archive=$(awk '/^URIs/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    [ -x "$dir/usr/bin/python3.13" ] || debootstrap --variant=minbase \
        --include=python3,python3-venv,python3-dev,gcc,g++,make,git,ca-certificates trixie "$dir" "$archive" >/dev/null
    mkdir -p "$dir/etc/ssl/certs"
    cp -r /etc/ssl/certs/. "$dir/etc/ssl/certs/"; cp /etc/resolv.conf /etc/hosts "$dir/etc/"
    grep -v '^#' "$here/pins.txt" > "$dir/pins.txt"
    env -u PIP_FIND_LINKS chroot "$dir" bash -ec '
        python3 -m venv /colab
        /colab/bin/pip install -q -U pip
        /colab/bin/pip install -q -r /pins.txt
        site=$(/colab/bin/python -c "import sysconfig; print(sysconfig.get_path(\"purelib\"))")
        mkdir -p "$site/google/colab"
        touch "$site/google/colab/__init__.py"
        /colab/bin/python -m ipykernel install --prefix /colab --name python3 >/dev/null'
fi
for mount in proc dev; do mountpoint -q "$dir/$mount" || mount --bind "/$mount" "$dir/$mount"; done
