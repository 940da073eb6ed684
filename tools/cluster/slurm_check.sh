#!/usr/bin/env bash
# Runs tools/cluster/train.slurm on a Slurm of one machine that it starts for itself (munged, slurmctld
# and slurmd, from Debian's slurmctld, slurmd, slurm-client and munge), with two ranks on the small
# model of the tests, and compares the losses with those of one process. Needs root, as slurmd does.
#
#   tools/cluster/slurm_check.sh [PROGRAM]    default build/release/tools/evolora
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

PROGRAM=$(realpath -m "${1:-build/release/tools/evolora}")
FOLDER=$(mktemp -d)
MODEL=tests/fixtures/stories260K
export SLURM_CONF=$FOLDER/slurm.conf

finish() {
  local job
  for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$FOLDER"
}
trap finish EXIT

write_configuration() {
  local host port=$((30000 + RANDOM % 20000))
  host=$(hostname -s)
  mkdir -p "$FOLDER/state" "$FOLDER/spool"
  chmod 755 "$FOLDER"
  head -c 1024 /dev/urandom >"$FOLDER/munge.key"
  chmod 600 "$FOLDER/munge.key"
  cat >"$SLURM_CONF" <<END
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
SlurmUser=$(id -un)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start_slurm() {
  munged --foreground --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" \
    --pid-file="$FOLDER/munge.pid" --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed" >/dev/null 2>&1 &
  sleep 1
  slurmctld -D >"$FOLDER/slurmctld.log" 2>&1 &
  slurmd -D >"$FOLDER/slurmd.log" 2>&1 &
  for _ in {1..60}; do
    if [[ $(sinfo --noheader --format=%t 2>/dev/null) == idle ]]; then return; fi
    sleep 1
  done
  tail -n 20 "$FOLDER"/*.log
  return 1
}

write_job() {
  "$PROGRAM" base add "$MODEL/stories260K.bin" --tokenizer "$MODEL/tok512.model" --name small --home "$FOLDER/home"
  python3 - >"$FOLDER/rows.jsonl" <<'END'
import json
for i in range(24):
    ids = [1] + [3 + (7 * i + 3 * k) % 500 for k in range(12 + i % 5)] + [2]
    print(json.dumps({"ids": ids, "labels": [-100] * 4 + ids[4:]}))
END
  echo '{"rank":8,"epochs":2,"rows_per_step":6,"replay_share":0,"seed":3}' >"$FOLDER/recipe.json"
}

job_arguments() {
  echo --home "$FOLDER/home" --json --base small --data "$FOLDER/rows.jsonl" --recipe "$FOLDER/recipe.json"
}

train_alone() {
  # shellcheck disable=SC2046
  "$PROGRAM" train $(job_arguments) --out "$FOLDER/alone" >"$FOLDER/alone.jsonl"
}

train_by_slurm() {
  # shellcheck disable=SC2046
  EVOLORA=$PROGRAM sbatch --wait --ntasks=2 --output="$FOLDER/ranks.jsonl" tools/cluster/train.slurm \
    $(job_arguments) --out "$FOLDER/ranks" || {
    cat "$FOLDER/ranks.jsonl"
    return 1
  }
}

compare() {
  python3 - "$FOLDER/alone.jsonl" "$FOLDER/ranks.jsonl" <<'END'
import json, sys
alone, ranks = ([json.loads(line) for line in open(path) if '"loss"' in line] for path in sys.argv[1:])
assert alone and len(alone) == len(ranks), (len(alone), len(ranks))
worst = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(alone, ranks))
print(f"{len(alone)} steps, losses differ by at most {worst:.1e} of their size")
assert worst <= 1e-6, worst
END
}

main() {
  [[ -x $PROGRAM ]] || die "no program at '$PROGRAM': build it first, with tools/test.sh or tools/quickstart.sh"
  for tool in munged slurmctld slurmd sbatch; do
    command -v "$tool" >/dev/null || die "no $tool: install Debian's slurmctld, slurmd, slurm-client and munge"
  done
  [[ $(id -u) -eq 0 ]] || die "slurmd needs root"
  write_configuration
  start_slurm || die "Slurm did not start"
  step "small base" write_job
  step "one process" train_alone
  step "two ranks of a Slurm job" train_by_slurm
  step "same losses" compare
  tail -n 1 "build/logs/$SCRIPT-same-losses.log"
}

main "$@"
