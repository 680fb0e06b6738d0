#!/usr/bin/env bash
# Print the differences of metrics and params between two commits as Markdown:
#
#   .ci/compare.sh main [HEAD]
#
# outputs/ is not in git and there is no remote store. So the script runs the pipeline on both commits, in a temporary
# clone with this folder's .venv. It commits the base's dvc.lock there, by which DVC finds the base's metrics in its cache
# (so metrics must not be `cache: false`).
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"

base=$(git rev-parse --verify "$1^{commit}")
head=$(git rev-parse --verify "${2:-HEAD}^{commit}")
venv=$PWD/.venv
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

repro() { # COMMIT: print to standard error, because standard output is the comment
  git checkout --quiet --force --detach "$1"
  # Studies and feature caches would carry over, so each commit starts without them. MLflow's store stays, because DVC
  # takes unchanged stages from its cache, and their outputs name runs.
  rm -rf outputs
  make VENV="$venv" repro >&2
}

dvc() { "$venv/bin/python" -m dvc "$@"; }

section() { # TITLE COMMAND...: print the command's table, or "No change."
  local title=$1 table
  shift
  table=$("$@")
  [ "$(wc -l <<< "$table")" -gt 2 ] || table="No change."
  printf '\n### %s\n\n%s\n' "$title" "${table//${before:-none}/base}"
}

make setup >&2
git clone --quiet --no-checkout . "$clone"
cd "$clone"
git config user.name compare
git config user.email compare@localhost

# The workflow finds its earlier comment by this line.
echo "<!-- metrics and params against the base -->"
echo "## ${head:0:7} against ${base:0:7}"
echo
echo "On the sample, with random weights: differences show the pipeline, not the quality of a model."

if ! git cat-file -e "$base:dvc.yaml" 2> /dev/null; then
  repro "$head"
  printf '\nThe base has no pipeline to compare with.\n'
  section Metrics dvc metrics show --md
elif ! repro "$base"; then
  repro "$head"
  printf '\nThe pipeline of the base fails, so there is nothing to compare with.\n'
  section Metrics dvc metrics show --md
else
  git add --force dvc.lock
  git commit --quiet --allow-empty --message "The base, run"
  before=$(git rev-parse HEAD)
  repro "$head"
  section Metrics dvc metrics diff --md "$before"
  section Params dvc params diff --md "$before"
fi
