#!/bin/bash
# Run a search on the nodes of a SLURM allocation. Ray starts on every node, the command on the first.
#
#   sbatch configs/slurm.sh tinyllava 30
#
# At the time limit SLURM sends SIGTERM, and the search stops within a step. The same command resumes it.
#SBATCH --job-name=mvsa-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=tune-%j.log
set -euo pipefail

model=${1:?which model, such as tinyllava}
trials=${2:?how many trials in all, such as 30}
workers=$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs on one node need different ports

. .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0

exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
	ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
	--num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" \
	-- python -m src.tune --model "$model" --trials "$trials" \
	--workers "$workers" --gpus-per-trial 1 --ray-address auto
