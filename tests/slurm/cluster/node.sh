#!/usr/bin/env bash
# Break and repair one node of the test cluster.
#
#   usage: node.sh WORKDIR ACTION NODE
#
#   lose    kill slurmd only: the node falls silent, its job processes live on
#           (what a network failure looks like to the controller)
#   crash   kill slurmd, its step daemons and the processes of its jobs
#   start   start slurmd again
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

[ $# -eq 3 ] || die "usage: node.sh WORKDIR lose|crash|start NODE"
DIR=$(cd "$1" && pwd -P)
node=$3
PATH=/usr/sbin:/sbin:$PATH
clean_slurm_env
export SLURM_CONF="$DIR/etc/slurm.conf"
[ -d "$DIR/spool/$node" ] || die "no node $node in $DIR"

case $2 in
  lose | crash)
    stop "slurmd-$node" 5 KILL
    [ "$2" = lose ] || kill_steps "$node"
    ;;
  start)
    ! is_alive "slurmd-$node" || die "slurmd on $node is running"
    start_slurmd "$node"
    ;;
  *) die "unknown action $2" ;;
esac
