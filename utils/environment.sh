# Sourced by the scripts, from the repository's folder: sets $python to an interpreter that has what the project needs.
#
# That is the active environment's where it has the versions of requirements.txt; else .venv's, which is made here once.
# For a script that sets search_only=1, those of requirements-device.txt will do. Nothing is ever installed into an
# environment that the user made. Runs on bash 3.2 (macOS) as well.

torchmeta="torchmeta==1.8.0" # installed with --no-deps: its metadata pins torch<1.10

# $1 is Python 3.10 to 3.12 and can make environments (Debian keeps ensurepip in a package of its own).
is_suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# $1 is Python 3.10 to 3.12 with the versions that the file $2 and the further arguments name. Reads metadata only:
# importing torch takes seconds.
has() {
    "$1" - "${@:2}" >/dev/null 2>&1 <<'END'
import operator
import re
import sys
from importlib.metadata import version
from pathlib import Path

COMPARED = {"==": operator.eq, ">=": operator.ge, "<": operator.lt}


def numbers(text):
    return [int(number) for number in re.match(r"\d+(\.\d+)*", text)[0].split(".")]  # of 2.11.0+cpu, 2.11.0a0+nv25


assert (3, 10) <= sys.version_info[:2] <= (3, 12)
lines = [line.strip() for line in Path(sys.argv[1]).read_text().splitlines()]
for line in [line for line in lines if line and not line.startswith("#")] + sys.argv[2:]:
    found = numbers(version(re.match(r"[\w-]+", line)[0]))
    assert all(COMPARED[how](found, numbers(wanted)) for how, wanted in re.findall(r"(==|>=|<)([\d.]+)", line))
END
}

has_everything() {
    has "$1" requirements.txt "$torchmeta"
}

# .venv can be used. The file .venv/unfinished stands in it while packages are being installed: an interrupted pip
# leaves metadata that look whole.
venv_is_ready() {
    [ ! -e .venv/unfinished ] && has_everything .venv/bin/python
}

make_venv() {
    if [ -e .venv/unfinished ] || ! .venv/bin/python -c '' 2>/dev/null; then
        local candidate interpreter=""
        for candidate in python3 python python3.12 python3.11 python3.10; do
            if is_suitable "$candidate"; then
                interpreter=$candidate
                break
            fi
        done
        if [ -z "$interpreter" ]; then
            echo "This needs Python 3.10, 3.11 or 3.12 on the PATH, with its venv module" \
                "(on Debian and Ubuntu: apt install python3-venv)." >&2
            return 1
        fi
        echo "Making .venv with $("$interpreter" --version) ..."
        rm -rf .venv
        mkdir .venv
        touch .venv/unfinished
        "$interpreter" -m venv .venv
    elif ! is_suitable .venv/bin/python; then
        echo "The folder .venv is of $(.venv/bin/python --version), this needs Python 3.10 to 3.12: remove it." >&2
        return 1
    fi
    echo "Installing requirements.txt and $torchmeta into .venv, once (minutes, up to 6 GB) ..."
    touch .venv/unfinished
    if ! .venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt ||
        ! .venv/bin/python -m pip install --disable-pip-version-check --no-deps "$torchmeta"; then
        echo "The installation did not end well (pip says why above); the next run starts it again." >&2
        return 1
    fi
    rm .venv/unfinished
}

# Two scripts started at once must not install into one folder: the second waits (where there is flock).
make_venv_alone() {
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "Waiting for another run that is installing into .venv ..."
        flock 9
    fi
    venv_is_ready || make_venv
}

python=""
for candidate in python3 python; do
    if has_everything "$candidate" || { [ -n "${search_only:-}" ] && has "$candidate" requirements-device.txt; }; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    python=.venv/bin/python
    venv_is_ready || make_venv_alone 9<utils/environment.sh
fi
echo "Python: $(command -v "$python")"
