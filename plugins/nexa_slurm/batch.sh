#!/bin/bash
# The job script of every Nexa run, started by Slurm on the job's first node, and again after a requeue.
# It is the same for all: whatever a recipe says arrives as arguments.
#
#   batch.sh PYTHON RUN_DIR ATTEMPT [--code FOLDER] [--module NAME]... [--command LINE]...

python=$1 run_dir=$2 attempt=$3
shift 3

# Exit codes are read by nexa_slurm.states, where no Python could write down what was wrong.
fail() {
    printf 'nexa: node %s: %s\n' "${SLURMD_NODENAME:-$(hostname)}" "$2" >&2
    exit "$1"
}

if [ "${1-}" = --code ]; then
    [ -d "$2" ] || fail 93 "the code in $2 is not visible here"
    export PYTHONPATH="$2${PYTHONPATH:+:$PYTHONPATH}"
    shift 2
fi
if [ "${1-}" = --module ] && ! type module >/dev/null 2>&1; then
    for file in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /usr/share/modules/init/bash /usr/share/lmod/lmod/init/bash; do
        if [ -r "$file" ]; then . "$file"; break; fi
    done
fi
while [ $# -ge 2 ]; do
    case $1 in
        --module) module load "$2" || fail 91 "module $2 can't be loaded" ;;
        --command) eval "$2" || fail 92 "a command of slurm.pre_commands failed with exit code $?: $2" ;;
    esac
    shift 2
done
[ -e "$run_dir" ] || fail 93 "the run folder $run_dir is not visible here"
command -v -- "$python" >/dev/null || fail 90 "there is no Python $python here"
exec "$python" -m nexa_slurm.job "$run_dir" "$attempt"
