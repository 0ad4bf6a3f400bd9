# Sourced by demo and test: install_dpsd EXTRAS makes the virtual environment, $venv names it.
# DPSD_TORCH_INDEX names an index to take torch from, as https://download.pytorch.org/whl/cpu, whose
# wheels have no GPU libraries.

venv="${DPSD_VENV:-$PWD/.venv}"

install_dpsd() {
  local python="${PYTHON:-python3}" stamp
  if [ ! -x "$venv/bin/python" ]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "dpsd needs Python 3.11 or newer; $python is $("$python" --version 2>&1 || true)." \
        "Name another one with PYTHON=..." >&2
      return 2
    fi
    "$python" -m venv "$venv"
  fi
  stamp="$PWD $(cksum < pyproject.toml)"
  if [ "$stamp" != "$(cat "$venv/dpsd-installed$1" 2>/dev/null || true)" ]; then
    echo "installing into $venv (a few minutes: torch alone is gigabytes)"
    if [ -n "${DPSD_TORCH_INDEX:-}" ]; then
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --index-url "$DPSD_TORCH_INDEX" torch torchvision
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".$1"
    echo "$stamp" | tee "$venv/dpsd-installed" > "$venv/dpsd-installed$1"
  fi
}
