#!/usr/bin/env bash
# Stop and start the controller of the test cluster; the nodes and their jobs go on.
#
#   usage: controller.sh WORKDIR ACTION
#
#   stop    end slurmctld in order: it writes its state
#   kill    SIGKILL: what it has not yet written is lost
#   start   start slurmctld again, from its state
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

[ $# -eq 2 ] || die "usage: controller.sh WORKDIR stop|kill|start"
DIR=$(cd "$1" && pwd -P)
PATH=/usr/sbin:/sbin:$PATH
clean_slurm_env
export SLURM_CONF="$DIR/etc/slurm.conf"
[ -r "$SLURM_CONF" ] || die "$DIR is not the directory of a test cluster"

case $2 in
  stop) stop slurmctld ;;
  kill) stop slurmctld 5 KILL ;;
  start)
    ! is_alive slurmctld || die "slurmctld is running"
    start_slurmctld
    ;;
  *) die "unknown action $2" ;;
esac
