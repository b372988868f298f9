#!/usr/bin/env bash
# Runs on each TPU worker, from launch/tpu_setup.sh: a virtual environment, and a mount.
#
#   bash mt0_tpu/launch/worker_setup.sh [gs://BUCKET | SERVER:/SHARE]
#
# The exact versions of requirements.lock, then jax[tpu] and gcsfs beside them. Nothing is done
# that was done before for the same lock file. Run on Debian 12; UNVERIFIED on a TPU VM.
set -euo pipefail
mount=${1:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
command -v tmux >/dev/null || missing+=(tmux)
case $mount in
  gs://*)
    if ! command -v gcsfuse >/dev/null; then
      # Google's own package source, as its manual has it.
      key=/usr/share/keyrings/cloud.google.asc
      curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
      echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
      missing+=(gcsfuse)
    fi
    ;;
  *:/*) command -v mount.nfs >/dev/null || missing+=(nfs-common) ;;
esac
if [ ${#missing[@]} -gt 0 ]; then
  sudo apt-get update -qq
  # A fresh VM may still be installing its own updates.
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y \
    "${missing[@]}" >/dev/null
fi

case $mount in
  gs://*)
    bucket=${mount#gs://}
    bucket=${bucket%%/*}
    target=/gcs/$bucket
    sudo mkdir -p "$target" && sudo chown "$(id -un)" "$target"
    # Nothing cached: what one worker writes, the others must see. Folders are renamed at the end
    # of a checkpoint, which a bucket without a hierarchical namespace does file by file.
    mountpoint -q "$target" || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
      --rename-dir-limit=200000 "$bucket" "$target"
    ;;
  *:/*)
    target=/nfs/$(basename "$mount")
    sudo mkdir -p "$target"
    mountpoint -q "$target" || sudo mount -t nfs "$mount" "$target"
    ;;
esac

if [ "$(cat .venv/installed 2>/dev/null)" != "$(sha256sum requirements.lock setup.py)" ]; then
  # The images have Python 3.10 (Ubuntu 22.04); uv brings 3.11.
  python3 -m pip install --quiet --user uv
  [ -x .venv/bin/python ] || python3 -m uv venv --quiet --python 3.11 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
  # What the lock file does not hold (libtpu, gcsfs) must not move what it does.
  sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' requirements.lock >.venv/constraints.txt
  python3 -m uv pip install --quiet --python .venv/bin/python -c .venv/constraints.txt -e '.[tpu]'
  sha256sum requirements.lock setup.py >.venv/installed
fi
echo "mt0: $(hostname) is set up"
