#!/usr/bin/env bash
echo "error: scripts/launch_tpu_pod.sh is now scripts/launch/tpu_pod.sh" >&2
exit 2
