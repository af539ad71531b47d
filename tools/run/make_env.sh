#!/bin/sh
# Make .venv from requirements-cpu.txt, or see in a moment that it is there (`make env`).
# The stamp is written last: what was interrupted, or has other pins, is made anew.
cd "$(dirname "$0")/../.." || exit
lock=requirements-cpu.txt python=.venv/bin/python
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1+cpu/p' requirements-cpu.in)
torch_index=https://download.pytorch.org/whl/cpu
stamp="$torch $(sha256sum < $lock)"
stop() { printf '\nSet-up stopped: %s\n' "$1" >&2; exit 1; }
ready() { # an upgrade of the system's Python leaves a .venv that finds nothing
  [ "$(cat .venv/course-stamp)" = "$stamp" ] && $python -c "
from importlib.util import find_spec; assert find_spec('torch') and find_spec('unsloth')"
} 2> /dev/null
ready && exit

command -v "${PYTHON:=python3}" > /dev/null || stop "there is no $PYTHON here."
"$PYTHON" - << 'END' || exit 1
import platform, sys, sysconfig
def need(fine, why): fine or sys.exit("\nSet-up stopped: " + why)
another = ": name another, as in `make course PYTHON=python3.12`."
version, (libc, release) = sys.version_info[:2], platform.libc_ver()
need((3, 11) <= version <= (3, 14),
     "the course needs Python 3.11 to 3.14 and this is %d.%d" % version + another)
need(not sysconfig.get_config_var("Py_GIL_DISABLED"),
     "this Python is free-threaded, and many packages are not made for it" + another)
need(sys.platform + platform.machine() + libc == "linuxx86_64glibc"
     and [int(part) for part in release.split(".")[:2]] >= [2, 28],
     "the packages are made for Linux (or WSL) on x86_64 with glibc 2.28 or newer, and "
     "this is " + platform.platform() + ".")
try: import ensurepip, venv
except ImportError: need(False, "this Python cannot make virtual environments: install "
                         "its venv module (Debian: `sudo apt install python3-venv`).")
END
command -v cc gcc clang > /dev/null || stop "there is no C compiler, which torch.compile \
needs: install one (Debian and Ubuntu: \`sudo apt install build-essential\`)."
free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1e6)}')
[ -d .venv ] || [ "$free" -ge 6 ] || stop "it needs 6 GB, and $free GB are free here."

exec 9< $lock # locked, and passed on: while a child lives, nobody installs beside it
flock -n 9 || { echo "Another set-up is at work here: waiting for it."; flock 9; }
ready && exit
trap 'stop "interrupted. The same command starts it again."' INT TERM HUP
echo "Making .venv, once: about 1 GB to download, then 3 GB on disk."
rm -f .venv/course-stamp
"$PYTHON" -m venv --clear .venv || stop "\`$PYTHON -m venv .venv\` failed."

echo "1/3 torch, the CPU build"
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX
pip="$python -m pip install --no-deps --no-compile"
again="could not be installed: see to the network and the disk, then run this again."
$pip "$torch" 2> /dev/null || $pip "$torch" --extra-index-url $torch_index ||
  stop "torch $again"
echo "2/3 the other packages, with uv"
index=$($python -m pip config list | sed -n "s/^[^.]*\.index-url='\(.*\)'/\1/p" | head -n 1)
: "${UV_DEFAULT_INDEX:=$index}" # pip's mirror, where one is set, is uv's too
sed -n '/^uv==/,/[^\\]$/p' $lock | $pip -q -r /dev/stdin || stop "uv $again"
$python -m uv pip install --python $python --no-deps --require-hashes -r $lock ||
  stop "a package $again"
echo "3/3 a first import of unsloth"
said=$(HF_HUB_OFFLINE=1 $python 2>&1 -c "
import torch
assert torch.version.cuda is None, f'torch {torch.__version__} is a CUDA build'
import unsloth") || stop "all is installed, but unsloth does not start. It said:
$(echo "$said" | tail -n 5)"
echo "$stamp" > .venv/course-stamp
echo "The environment is ready."
