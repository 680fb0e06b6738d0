#!/usr/bin/env bash
# Prints, as Markdown, what a commit changes in the metrics and params of another:
#
#   bash .github/scripts/compare.sh main [HEAD]
#
# outputs/ is not in git and there is no remote store, so the pipeline is run on both commits, in a clone that is
# removed at the end; it shares this folder's .venv. What DVC locked on the base is committed there, and its metrics are
# found through that commit in DVC's cache (so metrics must not be `cache: false`).
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"

base=$(git rev-parse --verify "$1^{commit}")
head=$(git rev-parse --verify "${2:-HEAD}^{commit}")
venv=$PWD/.venv
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT

repro() { # COMMIT: what it says goes to standard error, for standard output is the comment
  git checkout --quiet --force --detach "$1"
  # A study goes on where it was and a cache keeps what it has: each commit begins without. What MLflow knows stays,
  # because stages that did not change are taken from DVC's cache, and they name runs.
  rm -rf outputs
  make VENV="$venv" repro >&2
}

dvc() { "$venv/bin/python" -m dvc "$@"; }

section() { # TITLE COMMAND...: the table that the command prints, or that it has no rows
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

# The first line is by which the comment is found again.
echo "<!-- metrics and params against the base -->"
echo "## ${head:0:7} against ${base:0:7}"
echo
echo "On the sample, with random weights: what moves here is the machinery, not the quality of a model."

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
