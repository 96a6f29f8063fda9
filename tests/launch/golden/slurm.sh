#!/bin/bash
#SBATCH --job-name=first
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --partition=gpu
#SBATCH --account=vision
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
stopped=
trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
. env/bin/activate
srun --kill-on-bad-exit=1 python -m hyperseg_jax.train --config tiny --workdir /shared/runs/first '--config.a=b c' &
wait $!; status=$?
while kill -0 $! 2>/dev/null; do wait $!; status=$?; done
if [ -n "$stopped" ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
