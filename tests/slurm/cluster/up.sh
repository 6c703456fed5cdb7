#!/usr/bin/env bash
# Start a real two-node SLURM on this one machine, inside one directory, for the tests.
#
#   usage: up.sh [options] [WORKDIR]         (default: a fresh mktemp directory)
#
# Needs Debian 12 packages: slurmctld slurmd slurm-client munge, and for
# accounting slurmdbd mariadb-server. Run as root. The services that these
# packages install need not run. Nothing outside WORKDIR changes but one marked
# line in /etc/hosts.
#
# Standard output is only the line to put the cluster into the environment:
#   eval "$(./up.sh --fast WORKDIR)" && sinfo
# Progress goes to standard error. ./down.sh WORKDIR stops it again.
#
#   --fast                short times for tests; the same as --min-job-age 20
#                         --kill-wait 5 --requeue-delay 5 --slurmd-timeout 15
#   --min-job-age SEC     how long ended jobs stay visible to squeue  [300]
#   --kill-wait SEC       time between SIGTERM and SIGKILL             [30]
#   --requeue-delay SEC   wait before a requeued job may start, >= 5  [120]
#   --slurmd-timeout SEC  silence after which a node is DOWN          [300]
#   --grace SEC           GraceTime of partition main at preemption    [10]
#   --max-array N         MaxArraySize; indices end at N-1           [1001]
#   --max-jobs N          MaxJobCount                               [10000]
#   --enforce             AccountingStorageEnforce=limits,qos: sacctmgr's limits hold
#   --cpus N --mem MB --gpus N   per node                     [8, 4000, 4]
#   --conf LINE           one more line of slurm.conf; may be given again
#   --no-accounting       no mariadbd and slurmdbd; sacct is disabled
#   --private-munge       an own munged even if one is running
set -euo pipefail
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

min_job_age=300 kill_wait=30 requeue_delay=120 slurmd_timeout=300 grace=10
max_array=1001 max_jobs=10000 enforce=0 cpus=8 mem=4000 gpus=4 accounting=1 munge=auto DIR=
more=()

number() { [[ ${2-} =~ ^[0-9]{1,7}$ ]] || die "$1 needs a number"; }
while (($#)); do
  case $1 in
    --fast) min_job_age=20 kill_wait=5 requeue_delay=5 slurmd_timeout=15 ;;
    --no-accounting) accounting=0 ;;
    --enforce) enforce=1 ;;
    --private-munge) munge=private ;;
    --conf)
      more+=("${2?"--conf needs a line"}")
      shift
      ;;
    --min-job-age | --kill-wait | --requeue-delay | --slurmd-timeout | --grace | \
      --max-array | --max-jobs | --cpus | --mem | --gpus)
      number "$@"
      name=${1#--}
      printf -v "${name//-/_}" '%d' "$((10#$2))"
      shift
      ;;
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) die "unknown option $1" ;;
    *)
      [ -z "$DIR" ] || die "only one WORKDIR"
      DIR=$1
      ;;
  esac
  shift
done
((requeue_delay >= 5)) || die "--requeue-delay below 5 is refused by SLURM"
((gpus >= 1 && cpus >= 1 && mem >= 100)) || die "a node needs 1 GPU, 1 CPU, 100 MB"

# --- checks ------------------------------------------------------------------
[ "$(id -u)" -eq 0 ] || die "run as root"
PATH=/usr/sbin:/sbin:$PATH
need="slurmctld slurmd sinfo scontrol munge unmunge"
[ "$accounting" -eq 0 ] || need+=" slurmdbd sacctmgr mariadbd mariadb-install-db mariadb mariadb-admin"
for program in $need; do
  command -v "$program" >/dev/null || die "$program not found (see the package list in this script)"
done
clean_slurm_env

if [ -z "$DIR" ]; then DIR=$(mktemp -d /tmp/attrain-slurm.XXXXXX); fi
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd -P)
[[ $DIR =~ ^/[A-Za-z0-9._/-]+$ ]] || die "WORKDIR has characters SLURM would interpret: $DIR"
((${#DIR} <= 60)) || die "WORKDIR is too long for Unix socket names: $DIR"
chmod 755 "$DIR" # munge clients must be able to reach the socket
mkdir -p "$DIR"/{etc,run,log,state,spool,gpu,tmp}
for f in "$DIR"/run/*.pid; do
  name=$(basename "$f" .pid)
  if is_alive "$name"; then die "$name is already running in $DIR"; fi
done

# --- ports: the first block of five that nobody listens on --------------------
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
block_free() {
  local p
  for ((p = $1; p < $1 + 5; p++)); do
    if listening "$p"; then return 1; fi
  done
}
# A random start keeps clusters that are started at the same time apart. All
# blocks lie below 32768, where the system takes ports for clients.
for ((i = 0; i < 400; i++)); do
  port_base=$((27800 + (RANDOM % 400) * 10))
  if block_free "$port_base"; then break; fi
done
((i < 400)) || die "no free block of ports"

# --- undo a start that fails half way -------------------------------------------
started=0
cleanup() {
  local rc=$?
  [ "$started" -eq 1 ] && return
  say "start failed; last lines of the logs:"
  tail -n 5 "$DIR"/log/* >&2 2>/dev/null || true
  "$here/down.sh" "$DIR" || true
  exit "$((rc ? rc : 1))"
}
trap cleanup EXIT

# --- munge: use the one that runs, else start an own one -----------------------
authinfo="cred_expire=$requeue_delay"
socket= # of an own munged
if [ "$munge" = auto ] && munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  say "munge: using the running munged"
else
  socket="$DIR/munge/socket"
  mkdir -p "$DIR/munge"
  chmod 755 "$DIR/munge"
  if [ ! -s "$DIR/munge/key" ]; then
    (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge/key")
  fi
  launch munged munged --foreground --key-file="$DIR/munge/key" \
    --socket="$socket" --pid-file="$DIR/munge/pid" \
    --seed-file="$DIR/munge/seed" --log-file="$DIR/log/munged.log"
  munge_works() { munge -n -S "$socket" | unmunge -S "$socket"; }
  wait_for 10 munged munge_works
  authinfo+=",socket=$socket"
  say "munge: started an own munged"
fi

# --- configuration files ---------------------------------------------------------
host=$(uname -n)
host=${host%%.*}
version=$(slurmctld -V) # e.g. "slurm-wlm 22.05.8"
version=${version##* }
if ((10#${version%%.*} < 23)); then
  preempt_signal=SlurmctldParameters=preempt_send_user_signal
else
  preempt_signal=PreemptParameters=send_user_signal
fi
db_pass=
if [ "$accounting" -eq 1 ]; then
  db_pass=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  acct="AccountingStorageType=accounting_storage/slurmdbd"
  acct+="\nAccountingStorageHost=localhost"
  acct+="\nAccountingStoragePort=$((port_base + 1))"
  acct+="\nAccountingStorageTRES=gres/gpu"
  [ "$enforce" -eq 0 ] || acct+="\nAccountingStorageEnforce=limits,qos"
  # Towards slurmdbd the socket in AuthInfo is not used, but this one.
  acct+="${socket:+\nAccountingStoragePass=$socket}"
else
  acct="AccountingStorageType=accounting_storage/none"
fi
render() { # render NAME MODE
  local tmp="$DIR/etc/.$1.new"
  (
    umask 077
    sed -e "s|@DIR@|$DIR|g" -e "s|@HOST@|$host|g" \
      -e "s|@AUTHINFO@|$authinfo|g" \
      -e "s|@PREEMPT_SIGNAL@|$preempt_signal|g" -e "s|@ACCOUNTING@|$acct|g" \
      -e "s|@CTLD_PORT@|$port_base|g" -e "s|@DBD_PORT@|$((port_base + 1))|g" \
      -e "s|@DB_PORT@|$((port_base + 2))|g" -e "s|@DB_PASS@|$db_pass|g" \
      -e "s|@NODE_PORTS@|$((port_base + 3))-$((port_base + 4))|g" \
      -e "s|@MAX_ARRAY@|$max_array|g" -e "s|@MAX_JOBS@|$max_jobs|g" -e "s|@MIN_JOB_AGE@|$min_job_age|g" \
      -e "s|@KILL_WAIT@|$kill_wait|g" -e "s|@SLURMD_TIMEOUT@|$slurmd_timeout|g" \
      -e "s|@GRACE@|$grace|g" -e "s|@CPUS@|$cpus|g" -e "s|@MEM@|$mem|g" \
      -e "s|@GPUS@|$gpus|g" -e "s|@GPU_LAST@|$((gpus - 1))|g" \
      "$here/$1.in" >"$tmp"
    if [ "$1" = slurm.conf ] && ((${#more[@]})); then printf '%s\n' "${more[@]}" >>"$tmp"; fi
  )
  chmod "$2" "$tmp"
  mv -f "$tmp" "$DIR/etc/$1"
}
render slurm.conf 644
render gres.conf 644
[ "$accounting" -eq 0 ] || render slurmdbd.conf 600
# Fake GPUs are device nodes without a driver (major 240 is for local use). Where
# mknod is forbidden plain files do, but then CUDA_VISIBLE_DEVICES stays empty.
rm -f "$DIR"/gpu/gpu*
for ((i = 0; i < gpus; i++)); do
  mknod -m 600 "$DIR/gpu/gpu$i" c 240 "$i" 2>/dev/null || : >"$DIR/gpu/gpu$i"
done
export SLURM_CONF="$DIR/etc/slurm.conf"

# --- node names ----------------------------------------------------------------------
# Jobs resolve them (MASTER_ADDR is usually the first node's name).
nodes=(node1 node2)
printf '127.0.0.1 %s # attrain-slurm %s\n' "${nodes[*]}" "$DIR" >>/etc/hosts

# --- accounting ------------------------------------------------------------------------
if [ "$accounting" -eq 1 ]; then
  db_socket="$DIR/run/mariadb.sock"
  # A starting MariaDB removes all temporary tables that it finds in its tmpdir, those of others too.
  if [ ! -d "$DIR/db/mysql" ]; then
    mariadb-install-db --no-defaults --user=root --datadir="$DIR/db" --tmpdir="$DIR/tmp" \
      --auth-root-authentication-method=socket --skip-test-db \
      >"$DIR/log/mariadb-install-db.out" 2>&1
  fi
  launch mariadbd mariadbd --no-defaults --user=root --datadir="$DIR/db" --tmpdir="$DIR/tmp" \
    --socket="$db_socket" --port=$((port_base + 2)) --bind-address=127.0.0.1 \
    --pid-file="$DIR/run/own-mariadbd.pid" --skip-name-resolve \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
    --innodb-lock-wait-timeout=900
  wait_for 60 mariadbd mariadb-admin --no-defaults --socket="$db_socket" ping
  mariadb --no-defaults --socket="$db_socket" -e \
    "CREATE OR REPLACE USER slurm@127.0.0.1 IDENTIFIED BY '$db_pass';
     GRANT ALL ON slurm_acct.* TO slurm@127.0.0.1;"
  launch slurmdbd slurmdbd -D
  wait_for 60 slurmdbd sacctmgr -n -P list cluster
  # Already there at a second start in the same directory.
  sacctmgr -i add cluster attrain >"$DIR/log/sacctmgr.out" 2>&1 || true
  say "accounting: slurmdbd answers after $SECONDS s"
fi

# --- controller and nodes ----------------------------------------------------------------
start_slurmctld
for node in "${nodes[@]}"; do start_slurmd "$node"; done
all_idle() { [ "$(sinfo -h -N -p main -o %t | sort -u)" = idle ]; }
wait_for 60 "two idle nodes" all_idle

started=1
say "ready after $SECONDS s: partitions main (default) and high, nodes ${nodes[*]}"
say "stop it with: $here/down.sh $DIR"
echo "export SLURM_CONF=$DIR/etc/slurm.conf"
