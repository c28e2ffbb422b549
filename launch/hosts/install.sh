#!/usr/bin/env bash
# Prepares one host of a Cloud TPU slice: the environment in ~/mmjax/.venv, and buckets mounted at /gcs/BUCKET.
# The first bucket is that of the workdir. Run again, it does only what is missing.
#
#   bash install.sh BUCKET...
set -euo pipefail
cd "$(dirname "$0")/../.."

# The system's Python is older than mmjax needs; uv brings one, and the versions are those of requirements/run.txt.
if ! command -v "$HOME/.local/bin/uv" >/dev/null; then
  curl --fail --silent --show-error --location https://astral.sh/uv/install.sh | sh
fi
uv="$HOME/.local/bin/uv"
[ -x .venv/bin/python ] || "$uv" venv --quiet --python 3.12 .venv
"$uv" pip install --quiet --python .venv/bin/python --requirement requirements/run.txt 'jax[tpu]'
"$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .

if [ $# -gt 0 ] && ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release --codename --short) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # Another process may hold apt's lock for the first minutes of a machine.
  sudo apt-get --option DPkg::Lock::Timeout=300 --quiet --quiet update
  sudo apt-get --option DPkg::Lock::Timeout=300 --quiet --quiet install --yes gcsfuse
fi
for bucket in "$@"; do
  sudo mkdir -p "/gcs/$bucket"
  sudo chown "$USER" "/gcs/$bucket"
  if ! mountpoint --quiet "/gcs/$bucket"; then
    options=(--implicit-dirs)
    if [ "$bucket" = "$1" ]; then
      # Nothing is remembered: a checkpoint that one host has finished is there for all others at once.
      options+=(--metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0)
    fi
    gcsfuse "${options[@]}" "$bucket" "/gcs/$bucket"
  fi
done
