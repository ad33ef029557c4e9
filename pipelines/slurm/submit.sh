#!/usr/bin/env bash
# Plan a data set here, render it in a job array, merge it when the array has ended.
#
#   ./submit.sh OUT SHARDS [options of drrgen plan, such as --ct-dir CT --view PA]
#   DRRGEN_PROLOGUE=site.sh SBATCH_PARTITION=long SBATCH_ACCOUNT=p123 ./submit.sh ...
#
# The same command goes on with what is left.
set -euo pipefail

out=${1:?usage: submit.sh OUT SHARDS [options of drrgen plan]}
shards=${2:?usage: submit.sh OUT SHARDS [options of drrgen plan]}
shift 2
here=$(cd "$(dirname "$0")" && pwd)

# shellcheck source=/dev/null
if [[ -n ${DRRGEN_PROLOGUE:-} ]]; then source "$DRRGEN_PROLOGUE"; fi

drrgen plan --out "$out" "$@"
array=$(sbatch --parsable --array="0-$((shards - 1))" "$here/array.sbatch" "$out" "$shards")
merge=$(sbatch --parsable --dependency="afterany:${array%%;*}" "$here/merge.sbatch" "$out")
echo "array ${array%%;*}, merge ${merge%%;*}"
