#!/bin/sh
# Slurm Prolog: notes in a file which GPUs a job was given, and when. The agent reads it; see docs/operations.md.
#
#   slurm.conf: PrologFlags=Alloc
#               Prolog=/usr/local/lib/tonnage/prolog.sh
#               Epilog=/usr/local/lib/tonnage/epilog.sh
#
# Prolog= runs at a job's first step unless PrologFlags has Alloc (or Contain, which implies it). Where a Prolog is there
# already, name a pattern of files (Prolog=/etc/slurm/prolog.d/*), or call this one from it.
#
# It never fails a node: whatever goes wrong is told to stderr and syslog, and it exits with 0. A job without a GPU
# leaves no file. Written for dash; forks date and mv, and where gres.conf has shards or MPS grep and scontrol, since
# Slurm's environment does not say how many of them the job has.
#
# The folder is TONNAGE_JOBS_DIR, else /run/tonnage/jobs: root's, and nobody else may write there.

trap 'exit 0' EXIT HUP INT PIPE TERM
# Slurm starts hooks without a PATH.
PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/opt/slurm/bin
LC_ALL=C
export PATH LC_ALL
umask 022
dir=${TONNAGE_JOBS_DIR:-/run/tonnage/jobs}

complain() {
    echo "tonnage prolog: $1" >&2
    logger -t tonnage-prolog -- "$1" 2>/dev/null
}

# Sets `value` to $2 if it fits on a line of the file, else to nothing: a value must not be able to write lines.
fit() {
    value=$2
    case $value in *[[:cntrl:]]*) value='' ;; esac
    [ "${#value}" -le 256 ] || value=''
    [ "$value" = "$2" ] || complain "job $id: $1 is too long, or has control characters: left out"
}

id=${SLURM_JOB_ID:-}
case $id in
'' | *[!0-9]*)
    complain "SLURM_JOB_ID is '$id', not a number: not called by slurmd?"
    exit 0
    ;;
esac
gpus=${SLURM_JOB_GPUS:-}
[ -n "$gpus" ] || exit 0
case $gpus in *[!0-9,-]*)
    complain "job $id: SLURM_JOB_GPUS is '$gpus', not numbers with commas: the job is not noted"
    exit 0
    ;;
esac
[ "${#gpus}" -le 1024 ] || {
    complain "job $id: SLURM_JOB_GPUS is longer than 1024 bytes: the job is not noted"
    exit 0
}

start_ns=$(date +%s%N)
case $start_ns in '' | *[!0-9]*)
    complain "job $id: date does not give nanoseconds: the start is not noted"
    start_ns=''
    ;;
esac
boot_id=''
read -r boot_id </proc/sys/kernel/random/boot_id
# Seconds since boot, to hundredths: where the wall clock is set later this still tells the start.
start_boot_s=''
read -r start_boot_s _ </proc/uptime
case $start_boot_s in *[!0-9.]*) start_boot_s='' ;; esac

# Of shards and MPS: "Nodes=<list> ... GRES=shard:2(IDX:0) Nodes=..."; the agent picks its node's.
detail=''
conf=${SLURM_CONF:-/etc/slurm/slurm.conf}
if grep -qiE '^[^#]*(shard|mps)' "${conf%/*}/gres.conf" 2>/dev/null; then
    job=$(timeout 5 scontrol --oneliner --details show job "$id" 2>/dev/null)
    case $job in
    *' Nodes='*' MinCPUsNode='*)
        detail=Nodes=${job#* Nodes=}
        detail=${detail%% MinCPUsNode=*}
        case $detail in *[[:cntrl:]]*) detail='' ;; esac
        [ "${#detail}" -le 4096 ] || detail=''
        ;;
    esac
    [ -n "$detail" ] || complain "job $id: scontrol does not say which shards or MPS it has"
fi

fit user "${SLURM_JOB_USER:-}"; user=$value
fit account "${SLURM_JOB_ACCOUNT:-}"; account=$value
fit partition "${SLURM_JOB_PARTITION:-}"; partition=$value
fit node "${SLURMD_NODENAME:-}"; node=$value
fit array_job_id "${SLURM_ARRAY_JOB_ID:-}"; array_job_id=$value
fit array_task_id "${SLURM_ARRAY_TASK_ID:-}"; array_task_id=$value
fit het_job_id "${SLURM_HET_JOB_ID:-}"; het_job_id=$value
fit uid "${SLURM_JOB_UID:-}"; uid=$value
fit mps_percent "${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE:-}"; mps_percent=$value

[ -d "$dir" ] || mkdir -p "$dir" || complain "$dir cannot be made"
line() { [ -z "$2" ] || printf '%s=%s\n' "$1" "$2"; }
if {
    echo version=1 &&
        line job_id "$id" &&
        line boot_id "$boot_id" &&
        line start_ns "$start_ns" &&
        line start_boot_s "$start_boot_s" &&
        line uid "$uid" &&
        line user "$user" &&
        line account "$account" &&
        line partition "$partition" &&
        line node "$node" &&
        line gpus "$gpus" &&
        line detail "$detail" &&
        line mps_percent "$mps_percent" &&
        line array_job_id "$array_job_id" &&
        line array_task_id "$array_task_id" &&
        line het_job_id "$het_job_id"
} >"$dir/.$id"; then
    mv -fT "$dir/.$id" "$dir/$id" || complain "job $id: $dir/$id cannot be written: its time will be nobody's"
else
    complain "job $id: $dir/.$id cannot be written: its time will be nobody's"
    rm -f "$dir/.$id" 2>/dev/null
fi
exit 0
