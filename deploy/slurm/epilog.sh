#!/bin/sh
# Slurm Epilog: notes when a job's hold on its GPUs ended, in the file that prolog.sh (see there) made, and removes files
# of jobs that ended more than ten minutes ago. It never fails a node.
#
# A job without a file gets none: when it began is not known any more, and its end alone says nothing. Of an ended job
# end_ns is the first line, so that one short read tells.

trap 'exit 0' EXIT HUP INT PIPE TERM
PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
umask 022
dir=${TONNAGE_JOBS_DIR:-/run/tonnage/jobs}
keep_s=600
# Most lines of a job's file, and most files looked at.
lines_max=64
files_max=512

complain() {
    echo "tonnage epilog: $1" >&2
    logger -t tonnage-epilog -- "$1" 2>/dev/null
}

[ -d "$dir" ] || exit 0
id=${SLURM_JOB_ID:-}
case $id in
'' | *[!0-9]*)
    complain "SLURM_JOB_ID is '$id', not a number: not called by slurmd?"
    exit 0
    ;;
esac

end_ns=$(date +%s%N)
case $end_ns in '' | *[!0-9]*)
    complain "job $id: date does not give nanoseconds: the end is not noted"
    exit 0
    ;;
esac

end_boot_s=''
read -r end_boot_s _ </proc/uptime
case $end_boot_s in *[!0-9.]*) end_boot_s='' ;; esac

if [ -f "$dir/$id" ]; then
    text=''
    [ -z "$end_boot_s" ] || text="end_boot_s=$end_boot_s
"
    while [ "$lines_max" -gt 0 ] && IFS= read -r line; do
        lines_max=$((lines_max - 1))
        case $line in end_ns=* | end_boot_s=*) ;; *) text="$text$line
" ;; esac
    done <"$dir/$id"
    if printf 'end_ns=%s\n%s' "$end_ns" "$text" >"$dir/.$id"; then
        mv -fT "$dir/.$id" "$dir/$id" || complain "job $id: $dir/$id cannot be written: its end is not noted"
    else
        complain "job $id: $dir/.$id cannot be written: its end is not noted"
        rm -f "$dir/.$id" 2>/dev/null
    fi
fi

# Seconds, so that shells with 32-bit arithmetic keep up too.
now_s=${end_ns%?????????}
set --
for file in "$dir"/[0-9]*; do
    [ "$files_max" -gt 0 ] || break
    files_max=$((files_max - 1))
    line=''
    [ -f "$file" ] && read -r line <"$file"
    case $line in end_ns=*[!0-9]*) ;; end_ns=??????????*)
        ended_s=${line#end_ns=}
        ended_s=${ended_s%?????????}
        [ $((now_s - ended_s)) -le "$keep_s" ] || set -- "$@" "$file"
        ;;
    esac
done
[ $# = 0 ] || rm -f -- "$@" || complain "files of ended jobs in $dir cannot be removed"
exit 0
