#!/usr/bin/env bash
# Trains on this machine. The same line goes on where a stopped or killed run left off.
#
#   launch/local.sh CONFIG WORKDIR [--dry-run] [--config.x.y=value ...]
#
# Several devices: --config.train.preset=data. --dry-run prints the command and ends. PYTHON names the interpreter.
set -euo pipefail

if [[ $# -lt 2 || $1 == -* || $2 == -* ]]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
config=$1 workdir=$2 dry_run=false flags=()
shift 2
for flag in "$@"; do
  if [[ $flag == --dry-run ]]; then dry_run=true; else flags+=("$flag"); fi
done

command=("${PYTHON:-python}" -m hyperseg_jax.train --config "$config" --workdir "$workdir" ${flags[@]+"${flags[@]}"})
printf '%q ' "${command[@]}"
echo
if ! $dry_run; then exec "${command[@]}"; fi
