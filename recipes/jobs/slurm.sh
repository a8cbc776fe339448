#!/bin/bash
# sbatch recipes/jobs/slurm.sh RECIPE [--section.key value ...]   from the repository, on a disk that all nodes share.
# A job that is preempted, or sent again, goes on from its last checkpoint and loses the steps since then.
#SBATCH --job-name=depthup
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# DDP; for a model that one GPU does not hold: ENGINE=--config_file=recipes/accelerate/fsdp2.yaml sbatch ...
export ENGINE=${ENGINE:---multi_gpu}
export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One launcher on each node; the inner shell knows which node it is.
srun --kill-on-bad-exit=1 bash -c 'accelerate launch $ENGINE \
  --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
  --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
  --main_process_ip "$HEAD" --main_process_port 29500 \
  -m depthup.cli train "$@"' depthup "$@"
