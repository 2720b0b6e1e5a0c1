#!/usr/bin/env bash
echo "error: scripts/launch_slurm.sh is now scripts/launch/slurm.sh" >&2
exit 2
