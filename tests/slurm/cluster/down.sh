#!/usr/bin/env bash
# Stop the test cluster that up.sh started in WORKDIR.
#
#   usage: down.sh [--delete] WORKDIR
#
# Cancels the cluster's jobs, then ends the recorded processes by pid, nothing
# else. Logs, job state and the database stay, so up.sh can continue there;
# --delete removes the directory.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

delete=0
if [ "${1-}" = --delete ]; then
  delete=1
  shift
fi
[ $# -eq 1 ] || die "usage: down.sh [--delete] WORKDIR"
DIR=$(cd "$1" 2>/dev/null && pwd -P) || die "no directory $1"
if [ ! -d "$DIR/run" ] || [ ! -d "$DIR/etc" ]; then
  die "$DIR is not the directory of a test cluster"
fi
PATH=/usr/sbin:/sbin:$PATH
clean_slurm_env
export SLURM_CONF="$DIR/etc/slurm.conf"

no_step_daemons() { [ -z "$(step_daemons '*')" ]; }

# --- jobs ------------------------------------------------------------------------
if is_alive slurmctld; then
  # By array id (%F): the JobId of an array element is not accepted by 22.05.
  squeue -h -o %F 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null
  wait_for 5 "jobs to end" no_step_daemons || kill_steps '*'
fi

# --- daemons, clients before servers ---------------------------------------------
for f in "$DIR"/run/slurmd-*.pid; do
  [ -e "$f" ] && stop "$(basename "$f" .pid)"
done
kill_steps '*' # those of a node whose slurmd was gone already
stop slurmctld
stop slurmdbd
stop mariadbd 60
stop munged

# --- our line in /etc/hosts (in place: the file may be a bind mount) ---------------
if grep -qF "# attrain-slurm $DIR" /etc/hosts; then
  rest=$(grep -vxE "127\.0\.0\.1 [a-z0-9 ]+ # attrain-slurm ${DIR//./\\.}" /etc/hosts)
  printf '%s\n' "$rest" >/etc/hosts
fi

if [ "$delete" -eq 1 ]; then rm -rf -- "$DIR"; fi
say "stopped after $SECONDS s"
